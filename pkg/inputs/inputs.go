// Package inputs knows what a program has read of the file system, and whether
// any of it is different now: the state of a path is its contents, not its times.
// It knows neither the program nor what its files mean.
package inputs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An Input is one path that was read.
type Input struct {
	Path string // absolute; with symbolic links as the program named them
	List bool   // which entries a folder has, rather than that it is one
}

// Absent is the State of a path where there is nothing.
const Absent = "absent"

// State returns what the program can have read there, as text without spaces at
// its ends: what is the same has the same state. A file's is its contents and
// whether it can be executed, a folder's that it is one or which entries of which
// kind it has, a link's where it leads to and the state of what is there.
func (in Input) State() (string, error) {
	info, err := os.Lstat(in.Path)
	if err != nil {
		return missing(err)
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		return in.stateOf(info)
	}
	to, err := os.Readlink(in.Path)
	if err != nil {
		return missing(err)
	}
	state := Absent
	if info, err = os.Stat(in.Path); err == nil {
		state, err = in.stateOf(info)
	} else {
		state, err = missing(err)
	}
	return fmt.Sprintf("link %q %s", to, state), err
}

// missing returns the state of a path that cannot be looked at: that is what the
// program has seen too.
func missing(err error) (string, error) {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return Absent, nil
	case errors.Is(err, fs.ErrPermission):
		return "forbidden", nil
	case errors.Is(err, syscall.ELOOP):
		return "loop", nil
	}
	return "", fmt.Errorf("look at input: %w", err)
}

// stateOf is State for what is no link.
func (in Input) stateOf(info fs.FileInfo) (string, error) {
	switch {
	case info.Mode().IsRegular():
		hash, err := contents(in.Path)
		if err != nil {
			return missing(err)
		}
		if info.Mode()&0o100 != 0 {
			return "executable " + hash, nil
		}
		return "file " + hash, nil
	case info.IsDir() && in.List:
		entries, err := os.ReadDir(in.Path)
		if err != nil {
			return missing(err)
		}
		h := sha256.New()
		for _, e := range entries { // sorted
			fmt.Fprintf(h, "%q %o\n", e.Name(), e.Type())
		}
		return "entries " + hex.EncodeToString(h.Sum(nil)), nil
	case info.IsDir():
		return "folder", nil
	}
	return "special " + info.Mode().Type().String(), nil
}

func contents(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := f.Read(buf[:])
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		} else if err != nil {
			return "", fmt.Errorf("read input: %w", err)
		}
	}
}

// buffers are for files' contents: there are thousands, most of them small.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// A Stamp tells cheaply whether a path's state can have changed between two
// moments: it has not where the stamps are equal and the first is Settled.
type Stamp struct {
	link, file identity
}

// An identity is of what a name stands for. Contents cannot change with
// none of it, if time has passed since the last change.
type identity struct {
	Dev, Ino uint64
	Mode     fs.FileMode
	Size     int64
	changed  time.Time
}

// Stamp returns the path's stamp as it is now.
func (in Input) Stamp() Stamp {
	info, err := os.Lstat(in.Path)
	if err != nil {
		return Stamp{}
	}
	s := Stamp{link: in.identify(info)}
	if info.Mode()&fs.ModeSymlink != 0 {
		if info, err := os.Stat(in.Path); err == nil {
			s.file = in.identify(info)
		}
	}
	return s
}

func (in Input) identify(info fs.FileInfo) identity {
	if info.IsDir() && !in.List {
		return identity{Mode: fs.ModeDir} // it is one, whichever
	}
	id := identity{Mode: info.Mode(), Size: info.Size(), changed: changed(info)}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.Dev, id.Ino = uint64(st.Dev), st.Ino
	}
	return id
}

// IsDir tells whether a folder was there, perhaps behind a link.
func (s Stamp) IsDir() bool { return s.link.Mode.IsDir() || s.file.Mode.IsDir() }

// IsSpecial tells whether what was there is neither file nor folder nor link to
// one: what is read of it is not a state.
func (s Stamp) IsSpecial() bool {
	const special = fs.ModeDevice | fs.ModeNamedPipe | fs.ModeSocket | fs.ModeCharDevice | fs.ModeIrregular
	return (s.link.Mode|s.file.Mode)&special != 0
}

// How coarse times are: the kernel's clock for them ticks every 10 ms at 100 Hz;
// file systems that have no fractions of a second have every one (ext3) or every
// second one (vfat).
const (
	granularity       = 10 * time.Millisecond
	coarseGranularity = 2 * time.Second
)

// Settled tells whether a change after the moment at would show in the stamp:
// what was changed at nearly that moment can be changed again with no other time.
func (s Stamp) Settled(at time.Time) bool {
	for _, id := range []identity{s.link, s.file} {
		grain := granularity
		if id.changed.Nanosecond() == 0 {
			grain = coarseGranularity
		}
		if !id.changed.IsZero() && at.Sub(id.changed) <= grain {
			return false
		}
	}
	return true
}

// Digest returns a short text that is the same for the same text.
func Digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Below tells whether path is dir or in it.
func Below(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	return ok && (rest == "" || rest[0] == '/')
}
