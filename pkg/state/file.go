package state

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// A local is a state in a file. Beside it are FILE.lock, which flock(2) is used on, and
// FILE.new while it is written.
type local struct {
	name  string
	path  string // name, or where it is a link to
	flock *flock.Flock
	held  os.FileInfo // the lock file while it is locked

	unsure string            // the sum of what was written last, if it may not survive a crash
	at     func(step string) // for tests: called before each step of put; may be nil
}

func newFile(name string) *local {
	path := name
	if real, err := filepath.EvalSymlinks(name); err == nil {
		path = real
	}
	return &local{name: name, path: path, flock: flock.New(path+".lock", flock.SetPermissions(0o600))}
}

func (f *local) String() string { return f.name }

func (f *local) get(context.Context) (object, error) {
	in, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		// What is behind it may be out of reach only now: all would be made again.
		if to, lerr := os.Readlink(f.path); lerr == nil {
			return object{}, &hinted{fmt.Errorf("it is a link to %s, and nothing is there", to), "mount what should be there; for a new state, remove the link or name the file with --state"}
		}
		return object{}, nil
	}
	if err != nil {
		return object{}, bare(err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return object{}, bare(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(in); err != nil {
		return object{}, bare(err)
	}
	o := object{data: b.Bytes(), version: sum(b.Bytes())}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		o.exposed = &hinted{fmt.Errorf("it has secrets in the clear, and its mode %04o lets others read them", mode),
			"run chmod 600 " + f.path + ", or have its secrets sealed with --age-recipient R"}
	}
	return o, nil
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// put writes a file beside the old one and renames it. The name of the new one is
// always the same, so that no secret stays in what killed processes left.
func (f *local) put(ctx context.Context, data []byte, version string, private bool) (string, error) {
	if info, err := os.Stat(f.flock.Path()); err != nil || !os.SameFile(info, f.held) {
		return "", &hinted{errLost, "somebody removed " + f.flock.Path() + ", which it stands for: leave that file where it is"}
	}
	now, err := f.get(ctx)
	if err != nil {
		return "", err
	}
	if now.version != version && (f.unsure == "" || now.version != f.unsure) {
		return "", lost(errChanged)
	}
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(f.path); err == nil && !private {
		mode = info.Mode().Perm()
	}
	f.unsure = sum(data)
	if err := f.replace(data, mode); err != nil {
		return "", err
	}
	if version == "" {
		// The folder may be new too.
		if err := syncDir(filepath.Dir(filepath.Dir(f.path))); err != nil && !errors.Is(err, fs.ErrPermission) {
			return "", err
		}
	}
	f.unsure = ""
	return sum(data), nil
}

func (f *local) replace(data []byte, mode fs.FileMode) error {
	step := func(name string) {
		if f.at != nil {
			f.at(name)
		}
	}
	beside := f.path + ".new"
	step("create")
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(beside) // when it was not renamed
	defer out.Close()
	step("write")
	half := len(data) / 2
	if _, err = out.Write(data[:half]); err == nil {
		step("write the rest")
		_, err = out.Write(data[half:])
	}
	if err == nil {
		err = out.Chmod(mode)
	}
	if err == nil {
		step("sync")
		err = out.Sync()
	}
	if err == nil {
		err = out.Close()
	}
	if err == nil {
		step("rename")
		err = os.Rename(beside, f.path)
	}
	if err != nil {
		return err
	}
	// The new name too must survive a crash.
	step("sync folder")
	if err := syncDir(filepath.Dir(f.path)); err != nil {
		return err
	}
	step("done")
	return nil
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func (f *local) lock(ctx context.Context, wait func(Holder)) error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	locked, err := f.flock.TryLock()
	if err == nil && !locked {
		wait(f.holder())
		if _, err = f.flock.TryLockContext(ctx, 50*time.Millisecond); ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		return err
	}
	// Who waits is told what the file says. What it says counts only while it is locked.
	if err = f.sign(); err == nil {
		f.held, err = f.flock.Stat()
	}
	if err != nil {
		return errors.Join(err, f.flock.Unlock())
	}
	return nil
}

// sign writes who has the lock into its file.
func (f *local) sign() error {
	b, err := json.Marshal(self())
	if err != nil {
		return err
	}
	return os.WriteFile(f.flock.Path(), append(b, '\n'), 0o600)
}

// holder returns who wrote into the lock file last.
func (f *local) holder() (h Holder) {
	b, err := os.ReadFile(f.flock.Path())
	if err != nil || json.Unmarshal(b, &h) != nil {
		return Holder{}
	}
	return h
}

func (f *local) unlock(context.Context) error {
	f.held = nil
	return f.flock.Unlock()
}

// force refuses: the kernel unlocks when the process that has it ends.
func (f *local) force(context.Context) (Holder, error) {
	if _, err := os.Stat(f.flock.Path()); errors.Is(err, fs.ErrNotExist) {
		return Holder{}, errUnlocked
	}
	locked, err := f.flock.TryLock()
	if err != nil {
		return Holder{}, err
	}
	if !locked {
		h := f.holder()
		return h, &hinted{fmt.Errorf("%s has it", h), "the lock of a file ends with the process that has it: end that"}
	}
	return Holder{}, errors.Join(errUnlocked, f.flock.Unlock())
}

// bare returns err without the file's name, which the caller says.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
