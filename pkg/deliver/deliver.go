// Package deliver is the stage of nx-copy: it brings each host's system, with all
// it refers to, to the host's target, or, as a [Publisher], to a store that hosts
// fetch from. What follows is of the former.
//
// A host has one connection. On it the host's own Nix first says what is missing
// and locks all of the closure; then the missing objects are sent; and before the
// lock ends with that process, a second one makes a garbage collector root of the
// system, named [store.Path.StagedRoot], or [store.Path.StagedHomeRoot] for a user
// without sudo. That root is this stage's contract with nx-activate, which removes it
// once a profile keeps the system. The second process is there from the beginning, and
// root's makes the link at once, so that a host that has all costs two round trips
// behind the login: one opens the sessions, one asks. Others have nix-store make it, when
// the system is there: one more.
//
// Nothing has to be undone when a delivery breaks off: what the host acknowledged
// is valid there, and a new connection, or the next run, sends the rest.
package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"time"

	"nx/pkg/closure"
	"nx/pkg/keys"
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

	// RoundTrip returns how long something takes there and back, 0 when that is not known.
	RoundTrip() time.Duration

	Close() error
}

// A Store is the store of a host, as long as the process lives that serves it. Its
// methods are those of [closure.Sink].
type Store interface {
	QueryValidPaths(ctx context.Context, paths []store.Path, lock, substitute bool) closure.Answer
	AddToStoreNar(ctx context.Context, infos iter.Seq[store.Info], dump closure.Dump, added func(store.Info)) error
	Close() error
}

// A Serve starts the process that serves a store, with its standard streams, and
// returns when it has ended: nil when its exit status was 0.
type Serve = func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error

// A Courier brings systems to hosts. Depot, Dial, Open and AddCompressed must be set.
type Courier struct {
	// Depot has the systems.
	Depot *closure.Depot

	// Dial connects to a host.
	Dial func(context.Context, target.Target) (Conn, error)

	// Open starts serve, which runs "nix-store --serve --write" on a host, and
	// returns the store behind it, until it is closed or ctx ends.
	Open func(ctx context.Context, serve Serve) Store

	// AddCompressed starts serve, which runs the same behind a zstd decompressor,
	// and adds objects to it as [closure.Sink] says.
	AddCompressed func(ctx context.Context, serve Serve, infos iter.Seq[store.Info], dump closure.Dump, added func(store.Info)) error

	// Substitute says whether hosts first fetch from their own caches what those have;
	// nil leaves it to what the records' deployment says.
	Substitute *bool

	// Keys reads the contents of a host's key; nil leaves keys alone.
	Keys func(ctx context.Context, host *record.Record, k *keys.Key) ([]byte, error)

	// Idle, when set, calls wait, which waits for keys while the host of ctx has nothing
	// else to do: others may be in work meanwhile.
	Idle func(ctx context.Context, wait func())

	Compress closure.Compression     // None when empty
	Sign     func(store.Info) string // if not nil, objects go signed
	DryRun   bool                    // only say what is missing

	// TargetHost and TargetPort, unless zero, are where all hosts are reached,
	// whatever their targets say.
	TargetHost string
	TargetPort int

	// Timeout is how long nothing may move before a host is given up. As long, a
	// connection that is lost is opened again and again. 0 is [DefaultTimeout].
	Timeout time.Duration

	Log *slog.Logger // nil discards

	total total
}

// DefaultTimeout is for a host that waits for a lock, or reboots.
const DefaultTimeout = 10 * time.Minute

// Host brings the record's storePath to its target and sets copied; with DryRun it
// sets plan to what that would take, and does nothing of it. It logs, with
// the host's name:
//
//	connecting       target
//	substituting     paths: objects that the host looks for in its own caches
//	copying closure  paths, missing and bytes: objects in the closure, unless the host has all,
//	                 those to send, their NARs' size;
//	                 not where the host built or fetched the system and this machine does not have it
//	sending          (debug) doneBytes of allBytes of the NARs, rate: bytes of them in a second, left: seconds
//	copied path      (debug) path; sent and missing count objects: it is valid there now
//	staging keys     keys: how many, where there are any
//	keeping          root
//	copied           paths, bytes and wire: what was sent this time, NARs and what they took on the line
//
// and warns when nothing moves in between, and when a lost connection is opened again.
// Without a host's name, sending says the same of all hosts together, as a detail
// and now and then for everybody.
// With DryRun it ends with "would copy" in place of "copying closure".
func (c *Courier) Host(ctx context.Context, r *record.Record) error {
	path, err := r.StorePath()
	if err != nil {
		return err
	}
	t, err := c.at(r)
	if err != nil {
		return err
	}
	declared, known, err := declared(r)
	if err != nil {
		return err
	}
	log := c.logger()
	d := &delivery{Courier: c, log: log.With("host", r.Name()), all: log, target: t, path: path,
		options: closure.Options{Substitute: c.substitutes(r), Compress: c.Compress, Sign: c.Sign, DryRun: c.DryRun}}
	known = known && c.Keys != nil && !c.DryRun
	if known && len(declared) > 0 {
		d.keys = sync.OnceValues(func() ([]keys.Contents, error) { return c.contents(ctx, r, declared) })
		go d.keys() // a command may take its time
	}
	if err := d.deliver(ctx); err != nil {
		return err
	}
	if c.DryRun {
		return r.Set("plan", struct {
			Missing     int    `json:"missing"`
			MissingSize uint64 `json:"missingSize"`
		}{d.lacks.Missing, d.lacks.MissingSize})
	}
	copied := struct {
		StorePath store.Path `json:"storePath"`
		Keys      *[]string  `json:"keys,omitempty"` // those that are staged; absent when the host's are left alone
	}{StorePath: path}
	if known {
		names := make([]string, len(declared))
		for i, k := range declared {
			names[i] = k.ID
		}
		copied.Keys = &names
	}
	return r.Set("copied", copied)
}

// at is where the host is reached.
func (c *Courier) at(r *record.Record) (target.Target, error) {
	t, err := r.Target()
	if err != nil {
		return t, err
	}
	if c.TargetHost != "" {
		t.Host, t.Previous = c.TargetHost, nil
	}
	if c.TargetPort != 0 {
		t.Port, t.Previous = c.TargetPort, nil
	}
	return t, nil
}

func (c *Courier) logger() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// substitutes tells whether the host is to fetch from its caches what they have.
// NixOps has its machines do so unless hasFastConnection is set; morph's
// substituteOnDestination says it itself.
func (c *Courier) substitutes(r *record.Record) bool {
	if c.Substitute != nil {
		return *c.Substitute
	}
	deployment := r.Get("deployment")
	fast := deployment.Get("hasFastConnection")
	if s := deployment.Get("substituteOnDestination"); s.Exists() {
		return s.Bool() && !fast.Bool()
	}
	return fast.Exists() && !fast.Bool()
}

// A copyError is why a closure did not arrive.
type copyError struct {
	path  store.Path
	login string // who copies
	err   error
}

func (e *copyError) Error() string { return fmt.Sprintf("copy %s: %v", e.path, e.err) }

func (e *copyError) Unwrap() error { return e.err }

// Hint returns what to try, or "".
func (e *copyError) Hint() string {
	message := e.err.Error()
	var room *closure.RoomError
	switch {
	case errors.As(e.err, &room):
		return "make room on the host, as with nix-collect-garbage -d"
	// Nix' words when it is asked for the closure of what it does not have.
	case strings.HasSuffix(message, fmt.Sprintf("path '%s' is not valid", e.path)):
		return "it is not in this machine's store, or no longer: run nx-build again, here"
	// Nix 2.8 and before, and later.
	case strings.Contains(message, "lacks a valid signature"), strings.Contains(message, "lacks a signature by a trusted key"):
		return fmt.Sprintf("the host's Nix does not trust user %q: sign with --sign-key, whose public key must be in the host's trusted-public-keys; or set target.sudo, or name the user in its trusted-users", e.login)
	case e.login != target.DefaultUser && strings.Contains(message, "Permission denied"):
		return fmt.Sprintf("user %q may not write the host's store: set target.sudo, such as [\"sudo\"]", e.login)
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
