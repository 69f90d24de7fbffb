package keys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"filippo.io/age"
)

// MaxSize is how many bytes a key may have.
const MaxSize = 1 << 20

// A Reader reads the contents of keys on the deploying machine. They stay in
// memory, and are in no message.
type Reader struct {
	Root string // relative files start here, and commands run here

	// Texts returns the contents of those keys of a host that are in the network, by
	// their IDs. nil: there is neither a network nor a bundle.
	Texts func(ctx context.Context, host string) (map[string]string, error)

	Identities []age.Identity // what decrypts age

	Log *slog.Logger // what commands say, line by line; nil discards it

	mu   sync.Mutex
	runs map[string]*execution // by their words
}

// Read returns the contents of a host's key. The error does not name the key; it may
// have a method Hint() string. A command that several keys name is run once; it and
// all that it started are ended with ctx.
func (r *Reader) Read(ctx context.Context, host string, k *Key) ([]byte, error) {
	contents, err := r.read(ctx, host, k)
	if err == nil && len(contents) > MaxSize {
		err = errTooLarge
	}
	if err != nil {
		return nil, err
	}
	return contents, nil
}

var errTooLarge = fmt.Errorf("it is larger than %d bytes", MaxSize)

func (r *Reader) read(ctx context.Context, host string, k *Key) ([]byte, error) {
	s := &k.Source
	switch {
	case s.Eval != "":
		return r.text(ctx, host, k.ID)
	case s.Decrypt == "sops" && s.File != "":
		file, err := filepath.Abs(r.file(s.File))
		if err != nil {
			return nil, err
		}
		return r.sops(ctx, host, nil, "--decrypt", file)
	}
	var contents []byte
	var err error
	if s.File != "" {
		if contents, err = readFile(r.file(s.File)); err != nil {
			return nil, fmt.Errorf("%s: %w", s.File, err)
		}
	} else if contents, err = r.once(ctx, host, s.Command); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Command[0], err)
	}
	switch s.Decrypt {
	case "age":
		if contents, err = decrypt(contents, r.Identities); err != nil {
			return nil, fmt.Errorf("decrypt: %w", err)
		}
	case "sops":
		return r.sops(ctx, host, contents, "--decrypt", "--input-type", "binary", "--output-type", "binary", "/dev/stdin")
	}
	return contents, nil
}

// file returns where a file of a record is.
func (r *Reader) file(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(r.Root, name)
}

// readFile reads a regular file that is not too large. The error does not name it.
func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a fifo would wait for its writer
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, bare(err)
	case !info.Mode().IsRegular():
		return nil, errors.New("it is no regular file")
	}
	// What age has encrypted is a little larger than what it was.
	contents, err := io.ReadAll(io.LimitReader(f, 2*MaxSize+1))
	if err == nil && len(contents) > 2*MaxSize {
		err = errTooLarge
	}
	return contents, bare(err)
}

// bare returns what is wrong without the name of the file that it is with.
func bare(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}

// text returns the contents of a key that the network has.
func (r *Reader) text(ctx context.Context, host, id string) ([]byte, error) {
	if r.Texts == nil {
		return nil, &hinted{errors.New("it is in the network, which is not named"),
			"name the network as for nx-eval, with -f FILE; or have nx-eval write what it has, with --keys-out FILE --age-recipient R, and read that with --keys FILE"}
	}
	texts, err := r.Texts(ctx, host)
	if err != nil {
		return nil, err
	}
	text, ok := texts[id]
	if !ok {
		return nil, &hinted{errors.New("neither the network nor the bundle has its contents"), "the record is of another network, or an older one: run nx-eval again"}
	}
	return []byte(text), nil
}

// sops runs sops, whose formats and keys are its own affair.
func (r *Reader) sops(ctx context.Context, host string, stdin []byte, args ...string) ([]byte, error) {
	argv := append([]string{"sops"}, args...)
	var out []byte
	var err error
	if stdin != nil {
		out, err = r.execute(ctx, host, argv, stdin)
	} else {
		out, err = r.once(ctx, host, argv)
	}
	if errors.Is(err, exec.ErrNotFound) {
		err = &hinted{err, "install sops, which decrypts it, where PATH finds it"}
	}
	if err != nil {
		err = fmt.Errorf("sops: %w", err)
	}
	return out, err
}

// An execution is one of a command, for all that want what it prints.
type execution struct {
	done    chan struct{}
	out     []byte
	err     error
	aborted bool // by the end of the context of the one who ran it
}

// once returns what argv prints, and runs it where nobody has.
func (r *Reader) once(ctx context.Context, host string, argv []string) ([]byte, error) {
	words := fmt.Sprintf("%q", argv)
	for {
		r.mu.Lock()
		running, ok := r.runs[words]
		if !ok {
			if r.runs == nil {
				r.runs = map[string]*execution{}
			}
			running = &execution{done: make(chan struct{})}
			r.runs[words] = running
		}
		r.mu.Unlock()
		if !ok {
			running.out, running.err = r.execute(ctx, host, argv, nil)
			if running.aborted = ctx.Err() != nil; running.aborted {
				r.mu.Lock()
				delete(r.runs, words)
				r.mu.Unlock()
			}
			close(running.done)
			return running.out, running.err
		}
		select {
		case <-running.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if !running.aborted {
			return running.out, running.err
		}
	}
}

// stopWait is how long a command may take to end once it is told to.
const stopWait = 2 * time.Second

// execute runs argv in the root folder and returns what it prints. What it says on
// standard error goes to the log, as the host's, and not into the error.
func (r *Reader) execute(ctx context.Context, host string, argv []string, stdin []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = r.Root
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	// A session of its own has no terminal: what asks there fails, rather than that
	// it is stopped as a process in the background.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopWait
	var out contents
	cmd.Stdout = &out
	said := lines{log: r.log().With("host", host)}
	cmd.Stderr = &said
	err := cmd.Run()
	said.end()
	if ctx.Err() != nil && cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what is left of its group
		return nil, context.Cause(ctx)
	}
	switch {
	case out.full:
		return nil, errTooLarge
	case errors.Is(err, exec.ErrNotFound):
		return nil, exec.ErrNotFound
	case err != nil:
		return nil, bare(err)
	}
	return out.bytes, nil
}

func (r *Reader) log() *slog.Logger {
	if r.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return r.Log
}

// contents takes what a command prints, if it is not too much.
type contents struct {
	bytes []byte
	full  bool
}

func (c *contents) Write(p []byte) (int, error) {
	if len(c.bytes)+len(p) > 2*MaxSize {
		c.full = true
		return 0, errTooLarge
	}
	c.bytes = append(c.bytes, p...)
	return len(p), nil
}

// lines logs what is written to it, line by line.
type lines struct {
	log  *slog.Logger
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.log.Info("output", "line", string(line))
		l.rest = rest
	}
}

func (l *lines) end() {
	if len(l.rest) > 0 {
		l.log.Info("output", "line", string(l.rest))
	}
}

// A hinted is an error that knows what to try.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }
func (e *hinted) Hint() string  { return e.hint }
