package nixserve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"nx/pkg/store"
)

// A Store is the Nix store of this machine, for reading. Its methods may be
// called from many goroutines at once: each call has a server of its own, and
// servers that are free are used again.
type Store struct {
	run Run
	dir string // where its objects are; "" when that is not known

	mu   sync.Mutex
	free []*Client
}

// Local returns the store that "nix-store --serve" serves on this machine. It is
// found in PATH, and asked for the store that the environment chooses, when a
// method is called first.
func Local() *Store {
	return &Store{run: Command("nix-store", "--serve"), dir: localDir(os.Getenv("NIX_REMOTE"))}
}

// localDir returns the folder that has the objects of a store, as NIX_REMOTE names
// it, when that can be told: /nix/store, or the one below another root.
func localDir(remote string) string {
	switch {
	case filepath.IsAbs(remote):
		return filepath.Join(remote, store.Dir)
	case remote == "", remote == "auto", remote == "daemon", remote == "local":
		return store.Dir
	}
	return ""
}

// Command returns a Run that starts a child process. The child is no member of
// this process' group: what a terminal interrupts is nx, which then lets hosts in
// work come to an end. It ends with its input, so also when nx is killed.
func Command(name string, args ...string) Run {
	return func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 5 * time.Second
		cmd.Stdout, cmd.Stderr = stdout, stderr
		// Not cmd.Stdin: Wait would wait for its reader, not for the child.
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start: %w", err)
		}
		go func() {
			io.Copy(in, stdin)
			in.Close()
		}()
		return cmd.Wait()
	}
}

// QueryClosure is [Client.QueryClosure].
func (s *Store) QueryClosure(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	var closure []store.Path
	err := s.use(ctx, func(c *Client) (err error) {
		closure, err = c.QueryClosure(ctx, paths)
		return err
	})
	return closure, err
}

// QueryPathInfos is [Client.QueryPathInfos].
func (s *Store) QueryPathInfos(ctx context.Context, paths []store.Path) ([]store.Info, error) {
	var infos []store.Info
	err := s.use(ctx, func(c *Client) (err error) {
		infos, err = c.QueryPathInfos(ctx, paths)
		return err
	})
	return infos, err
}

// DumpStorePath writes the NAR of a valid path to w. An object that is where it
// should be is read there, which spares a process and a pipe; else a server is
// asked, as by [Client.DumpStorePath].
func (s *Store) DumpStorePath(ctx context.Context, path store.Path, w io.Writer) error {
	if s.dir != "" {
		object := filepath.Join(s.dir, path.Base())
		if _, err := os.Lstat(object); err == nil {
			return wrap(DumpNAR(w, object), "dump %s", path)
		}
	}
	return s.use(ctx, func(c *Client) error { return c.DumpStorePath(ctx, path, w) })
}

// Close ends the servers that are free. No method may be in use.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, c := range s.free {
		errs = append(errs, c.Close())
	}
	s.free = nil
	return errors.Join(errs...)
}

// use calls f with a free server, or a new one. A free one may have died since it
// was used last, as it does when the Nix daemon is restarted: when it ends before
// the first byte of its answer, f is called once more, with a new one.
func (s *Store) use(ctx context.Context, f func(*Client) error) error {
	if c := s.take(); c != nil {
		before := c.stdout.n
		err := s.with(c, f)
		if err == nil || c.stdout.n != before || ctx.Err() != nil {
			return err
		}
	}
	// The server outlives the call that needed it first; calls bring their own ctx.
	return s.with(Open(context.WithoutCancel(ctx), s.run), f)
}

// with calls f with a server and keeps it if f returns nil.
func (s *Store) with(c *Client, f func(*Client) error) error {
	if err := f(c); err != nil || c.broken != nil {
		c.Close()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, c)
	return nil
}

// take returns a free server, or nil when there is none.
func (s *Store) take() *Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.free) - 1
	if last < 0 {
		return nil
	}
	c := s.free[last]
	s.free = s.free[:last]
	return c
}
