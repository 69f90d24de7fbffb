// Package deliver is the stage of nx-copy: it brings each host's system, with all
// it refers to, to the host's target.
//
// A host has one connection. On it the host's own Nix first says what is missing
// and locks all of the closure; then the missing objects are sent; and before the
// lock ends with that process, a second one makes a garbage collector root of the
// system, named [store.Path.StagedRoot]. That root is this stage's contract with
// nx-activate, which removes it once a profile keeps the system.
//
// Nothing has to be undone when a delivery breaks off: what the host acknowledged
// is valid there, and the next run sends the rest.
package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"nx/pkg/closure"
	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/target"
)

// A Conn is a connection to a host.
type Conn interface {
	// Run runs a POSIX sh script on the host and returns its exit status; an
	// error means that it could not be run or that the connection broke. Any of
	// stdin, stdout and stderr may be nil. It returns when the script has ended,
	// even if nobody ends stdin. Several scripts may run at once.
	Run(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (status int, err error)
	Close() error
}

// A Store is the store of a host, as long as the process lives that serves it.
type Store interface {
	closure.Sink
	Close() error
}

// A Serve starts the process that serves a store, with its standard streams, and
// returns when it has ended: nil when its exit status was 0.
type Serve = func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error

// A Courier brings systems to hosts. Local, Dial and Open must be set.
type Courier struct {
	// Local is the store where the systems are. It is asked for several hosts at once.
	Local closure.Source

	// Dial connects to a host.
	Dial func(context.Context, target.Target) (Conn, error)

	// Open starts serve, which runs "nix-store --serve --write" on a host, and
	// returns the store behind it, until it is closed or ctx ends.
	Open func(ctx context.Context, serve Serve) (Store, error)

	Log *slog.Logger // nil discards
}

// Host brings the record's storePath to its target and sets copied. It logs, with
// the host's name:
//
//	connecting       target
//	copying closure  paths, missing and bytes: objects in the closure, those to send, their NARs' size;
//	                 not where the host built the system and this machine does not have it
//	copied path      (debug) path; sent and missing count objects: it is valid there now
//	keeping          root
//	copied           paths and bytes that were sent this time
//
// and warns when nothing moves in between.
func (c *Courier) Host(ctx context.Context, r *record.Record) error {
	path, err := r.StorePath()
	if err != nil {
		return err
	}
	t, err := r.Target()
	if err != nil {
		return err
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("host", r.Name())

	log.Info("connecting", "target", t.Host)
	conn, err := c.Dial(ctx, t)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := c.deliver(ctx, log, conn, t, path); err != nil {
		return err
	}
	return r.Set("copied", struct {
		StorePath store.Path `json:"storePath"`
	}{path})
}

func (c *Courier) deliver(ctx context.Context, log *slog.Logger, conn Conn, t target.Target, path store.Path) error {
	serve, err := target.Quote(t.As("nix-store", "--serve", "--write")...)
	if err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	// The host's Nix waits for a lock without a word.
	stall := time.AfterFunc(patience, func() {
		log.Warn(fmt.Sprintf("nothing moved for %v", patience), "hint",
			"a lock of Nix on the host may be held by a garbage collection or another copy, even one whose deployer is gone: "+
				"look for nix-store there; ClientAliveInterval in its sshd_config ends such copies")
	})
	defer stall.Stop() // after the store is closed: nothing moves then
	moved := func() { stall.Reset(patience) }
	remote, err := c.Open(ctx, func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
		return run(ctx, conn, serve, &movingReader{stdin, moved}, stdout, stderr)
	})
	if err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	// How the process ends has no meaning: what it acknowledged is there.
	defer remote.Close()

	var sent closure.Progress
	there, err := c.onlyThere(ctx, remote, path)
	if err == nil && !there {
		sent, err = closure.Copy(ctx, c.Local, remote, path, func(p store.Path, so closure.Progress) {
			moved()
			if p == "" {
				log.Info("copying closure", "paths", so.Paths, "missing", so.Missing, "bytes", so.MissingSize)
				return
			}
			log.Debug("copied path", "path", p, "sent", so.Sent, "missing", so.Missing)
		})
	}
	if err != nil {
		return &copyError{path, err}
	}
	log.Info("keeping", "root", path.StagedRoot())
	if err := keep(ctx, conn, t, path); err != nil {
		return fmt.Errorf("keep %s by %s: %w", path, path.StagedRoot(), err)
	}
	log.Info("copied", "paths", sent.Sent, "bytes", sent.SentSize)
	return nil
}

// onlyThere tells whether the host has the system and this machine has not, as when
// the host built it; then it is locked there. A valid path has all it refers to.
func (c *Courier) onlyThere(ctx context.Context, remote Store, path store.Path) (bool, error) {
	here, err := c.Local.QueryPathInfos(ctx, []store.Path{path})
	if err != nil || len(here) > 0 {
		return false, err
	}
	there, err := remote.QueryValidPaths(ctx, []store.Path{path}, true, false)
	return len(there) > 0, err
}

// patience is how long nothing may move before somebody who waits is told why.
const patience = 30 * time.Second

// A movingReader calls moved whenever something was read.
type movingReader struct {
	io.Reader
	moved func()
}

func (r *movingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.moved()
	}
	return n, err
}

// keep makes the system's root on the host. nix-store makes the folders above it,
// and takes a root below /nix/var/nix/gcroots without --indirect in all versions.
func keep(ctx context.Context, conn Conn, t target.Target, path store.Path) error {
	script, err := target.Quote(t.As("nix-store", "--realise", string(path), "--add-root", path.StagedRoot())...)
	if err != nil {
		return err
	}
	var stderr tail
	if err := run(ctx, conn, script, nil, nil, &stderr); err != nil {
		e := &keepError{err: err, log: string(stderr)}
		if t.Login() != target.DefaultUser && len(t.Sudo) == 0 {
			e.hint = fmt.Sprintf("user %q may lack the right: set target.sudo, such as [\"sudo\"]", t.Login())
		}
		return e
	}
	return nil
}

// A tail keeps the last record.MaxLog bytes that are written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-record.MaxLog):]
	return len(p), nil
}

// run runs a command line on the host; an exit status other than 0 is an error.
func run(ctx context.Context, conn Conn, line string, stdin io.Reader, stdout, stderr io.Writer) error {
	status, err := conn.Run(ctx, "exec "+line, stdin, stdout, stderr)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d", status)
	}
	return err
}

// A copyError is why a closure did not arrive.
type copyError struct {
	path store.Path
	err  error
}

func (e *copyError) Error() string { return fmt.Sprintf("copy %s: %v", e.path, e.err) }

func (e *copyError) Unwrap() error { return e.err }

// Hint returns what to try, or "".
func (e *copyError) Hint() string {
	// Nix' words when it is asked for the closure of what it does not have.
	if strings.HasSuffix(e.err.Error(), fmt.Sprintf("path '%s' is not valid", e.path)) {
		return "it is not in this machine's store, or no longer: run nx-build again, here"
	}
	// What lies under it may know more.
	var hinted interface{ Hint() string }
	if errors.As(e.err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

// A keepError is what nix-store said when it made no root.
type keepError struct {
	err  error
	log  string
	hint string
}

func (e *keepError) Error() string {
	last := ""
	for line := range strings.Lines(e.log) {
		if line = strings.TrimSpace(line); line != "" {
			last = strings.TrimPrefix(line, "error: ")
		}
	}
	if last == "" {
		return e.err.Error()
	}
	return e.err.Error() + ": " + last
}

func (e *keepError) Unwrap() error { return e.err }

// Log returns nix-store's stderr.
func (e *keepError) Log() string { return e.log }

// Hint returns what to try, or "".
func (e *keepError) Hint() string { return e.hint }
