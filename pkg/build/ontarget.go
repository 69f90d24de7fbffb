package build

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync"

	"github.com/tidwall/gjson"

	"nx/pkg/closure"
	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/target"
)

// A Conn is a connection to a host.
type Conn interface {
	// Run runs a POSIX sh script on the host and returns its exit status; an
	// error means that it could not be run or that the connection broke. Any of
	// stdin, stdout and stderr may be nil. Several scripts may run at once.
	Run(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (status int, err error)
	Close() error
}

// A HostStore is the store of a host, as long as the process lives that serves it.
type HostStore interface {
	// QueryValidPaths and AddToStoreNar are those of [closure.Sink]. What was asked
	// about with lock is not collected until the store is closed.
	QueryValidPaths(ctx context.Context, paths []store.Path, lock, substitute bool) closure.Answer
	AddToStoreNar(ctx context.Context, infos iter.Seq[store.Info], dump closure.Dump, added func(store.Info)) error
	// QueryClosure returns paths and all they refer to.
	QueryClosure(ctx context.Context, paths []store.Path) ([]store.Path, error)
	// QueryPathInfos returns what is recorded of those of paths that are valid.
	QueryPathInfos(ctx context.Context, paths []store.Path) ([]store.Info, error)
	Close() error
}

// A sink is a host's store as derivations go there: small files, sent as they are.
type sink struct{ HostStore }

// Place is that of [closure.Sink]: nothing is known of it.
func (sink) Place(context.Context) (closure.Place, error) { return closure.Place{}, nil }

// AddCompressed is that of [closure.Sink].
func (sink) AddCompressed(context.Context, iter.Seq[store.Info], closure.Dump, func(store.Info)) error {
	return errors.ErrUnsupported // not where the place has no zstd
}

// A HostRealiser is Nix on a host.
type HostRealiser interface {
	// RealiseRooted builds drv, which is in both stores, or fetches what it would
	// give, and returns its output "out". Link names the garbage collector root
	// that the same command makes of it.
	RealiseRooted(ctx context.Context, drv store.Path, link func(out store.Path) string) (out store.Path, err error)
}

// A Serve starts the process that serves a store, with its standard streams, and
// returns when it has ended: nil when its exit status was 0.
type Serve = func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error

// A Command runs a command on a host and returns when it has ended: nil when its
// exit status was 0.
type Command = func(ctx context.Context, argv []string, stdout, stderr io.Writer) error

// Targets are hosts that build their own systems. All fields must be set.
type Targets struct {
	// Depot has this machine's store, where the derivations are.
	Depot *closure.Depot
	// Dial connects to a host.
	Dial func(context.Context, target.Target) (Conn, error)
	// Open starts serve, which runs "nix-store --serve --write" on a host, and
	// returns the store behind it, until it is closed or ctx ends.
	Open func(ctx context.Context, serve Serve) HostStore
	// Nix returns the Nix whose commands run runs.
	Nix func(run Command, log *slog.Logger) HostRealiser
}

// onTarget tells whether the host is to build its own system.
func (b *Builder) onTarget(r *record.Record) bool {
	if b.OnTarget != nil {
		return *b.OnTarget
	}
	return r.Get("deployment").Get("buildOnTarget").Type == gjson.True
}

// targets builds hosts' systems on the hosts, as many at a time as jobs says.
type targets struct {
	b     *Builder
	slots chan struct{}
	work  sync.WaitGroup
}

// start begins with r when there is a slot, and emits it when it is done. When
// the input turns out to be cut before, it is dropped.
func (t *targets) start(ctx context.Context, r *record.Record, cut <-chan struct{}, emit func(*record.Record)) {
	t.work.Go(func() {
		select {
		case t.slots <- struct{}{}:
			defer func() { <-t.slots }()
		case <-cut:
		case <-ctx.Done():
		}
		select {
		case <-cut:
			return
		default:
		}
		if err := t.b.there(ctx, r); err != nil {
			if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
				err = fmt.Errorf("%w: %w", cause, err)
			}
			r.Fail(record.Build, err)
		}
		emit(r)
	})
}

// watched is run on a host for each of Nix' commands there.
//
//go:embed watched.sh
var watched string

// there has the host build its system: its derivation goes there with all it
// needs, and the host's Nix fetches from the host's caches what they have and
// builds the rest. The protocol by which the derivation goes could build it as
// well, but without the caches. It logs, with the host's name:
//
//	connecting           target
//	copying derivations  paths, missing and bytes: files in the derivation's closure, those to send, their NARs' size
//
// and what Nix says on the host as it does here.
func (b *Builder) there(ctx context.Context, r *record.Record) error {
	drv, err := r.DrvPath()
	if err != nil {
		return err
	}
	t, err := r.Target()
	if err != nil {
		return err
	}
	log := b.Log.With("host", r.Name())
	conn, t, err := target.Reach(ctx, log, t, b.Targets.Dial)
	if err != nil {
		return err
	}
	defer conn.Close()
	run := func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		line, err := target.Quote(t.As(argv...)...)
		if err != nil {
			return err
		}
		status, err := conn.Run(ctx, "exec "+line, stdin, stdout, stderr)
		if err == nil && status != 0 {
			err = fmt.Errorf("exit status %d", status)
		}
		return err
	}
	// What it was asked about is not collected while this process lives.
	remote := b.Targets.Open(ctx, func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
		return run(ctx, []string{"nix-store", "--serve", "--write"}, stdin, stdout, stderr)
	})
	defer remote.Close()
	_, err = b.Targets.Depot.Copy(ctx, sink{remote}, drv, closure.Options{}, func(p closure.Progress) {
		if p.Step == closure.Copying {
			log.Info("copying derivations", "paths", p.Paths, "missing", p.Missing, "bytes", p.MissingSize)
		}
	})
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", drv, t.Host, err)
	}
	nix := b.Targets.Nix(func(ctx context.Context, argv []string, stdout, stderr io.Writer) error {
		open, end := io.Pipe()
		defer end.Close()
		return run(ctx, append([]string{"/bin/sh", "-c", watched, "nx-build"}, argv...), open, stdout, stderr)
	}, log)
	out, err := nix.RealiseRooted(ctx, drv, func(out store.Path) string { return root(t, out) })
	if err != nil {
		return err
	}
	paths, narSize, err := size(ctx, remote, out)
	if err != nil {
		return fmt.Errorf("size closure of %s on %s: %w", out, t.Host, err)
	}
	return b.built(r, out, paths, narSize)
}

// root names the garbage collector root on the host that keeps the system until
// nx-copy has made its own, which is the same for who may write there.
func root(t target.Target, out store.Path) string {
	if t.Login() == target.DefaultUser || len(t.Sudo) > 0 {
		return out.StagedRoot()
	}
	return out.StagedHomeRoot() // where the session begins
}

// size returns the count of p's closure and the sum of its NAR sizes in bytes.
func size(ctx context.Context, s HostStore, p store.Path) (paths int, narSize int64, err error) {
	all, err := s.QueryClosure(ctx, []store.Path{p})
	if err != nil {
		return 0, 0, err
	}
	infos, err := s.QueryPathInfos(ctx, all)
	for _, info := range infos {
		narSize += int64(info.NarSize)
	}
	return len(infos), narSize, err
}
