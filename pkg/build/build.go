// Package build is the stage that realises the hosts' derivations: each host's
// record gets its system's store path as soon as that is there.
//
// How a derivation is built is Nix', here or on the host that needs it; this package
// decides which are built where and together, keeps what was built, and says what
// failed for which host.
//
// Hosts that are there together, and whose networks say the same of Nix, go under one
// scheduler, so that what several need is built once. Hosts that come meanwhile are the
// next batch. A link named like the host keeps its system from being collected until
// the next one replaces it, or [Builder.Prune] removes it.
//
// A host that builds its own system gets the derivation, with all it needs, by the
// protocol of "nix-store --serve", and keeps it from being collected as long as that
// lasts. "nix-store --realise" in a second session of the same connection then builds
// it, so that the host's caches count, and makes the root that keeps it until nx-copy
// has come: [store.Path.StagedRoot], or [store.Path.StagedHomeRoot] for a user who may
// not write there. Derivations and files are what they are by their contents: the host need not
// trust who sends them.
package build

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"nx/pkg/record"
	"nx/pkg/store"
)

// A Realiser is the part of a Nix installation that this stage needs.
type Realiser interface {
	// Realise builds drvs with one scheduler and calls done once for each, as
	// soon as it is: with the output "out", or with why it failed. The returned
	// error is of the scheduler; those not done then were not built.
	Realise(ctx context.Context, drvs []store.Path, done func(drv, out store.Path, err error)) error
	// Missing tells what Realise would do, without doing it. What nothing here can
	// build is an error.
	Missing(ctx context.Context, drvs []store.Path) (store.Missing, error)
	// Closure returns the count of p's closure and the sum of its NAR sizes in bytes.
	Closure(ctx context.Context, p store.Path) (paths int, narSize int64, err error)
	// AddRoot makes link a symlink to p that keeps p's closure.
	AddRoot(ctx context.Context, link string, p store.Path) error
}

// A Builder is one run of the stage.
type Builder struct {
	// Nix returns this machine's Nix with options as its commands take them:
	// "--option", "builders", "@/etc/nix/machines". They are those of a network's
	// files; what the user says on the command line goes before them.
	Nix func(options []string) Realiser
	// Targets are those hosts that build their systems themselves: all or none as
	// OnTarget says, or, when it is nil, those whose network says so.
	Targets  Targets
	OnTarget *bool

	Root    string       // where relative paths of records start
	RootDir string       // holds a link to each host's system, named like the host
	Jobs    int          // finished hosts looked at in parallel, and hosts that build in parallel
	Log     *slog.Logger // nil discards
}

// Run builds what is there, then what came meanwhile, and so on: one scheduler
// at a time, so that Nix' limits hold, and the first host need not wait for the last.
// Hosts that build by themselves do so beside it.
func (b *Builder) Run(ctx context.Context, in iter.Seq2[*record.Record, error], emit func(*record.Record)) error {
	if b.Log == nil {
		b.Log = slog.New(slog.DiscardHandler)
	}
	q := newQueue()
	var reading sync.WaitGroup
	reading.Go(func() { q.fill(in) })
	defer reading.Wait()
	there := &targets{b: b, slots: make(chan struct{}, max(b.Jobs, 1))}
	defer there.work.Wait()
	for {
		hosts := q.take(ctx)
		if hosts == nil {
			return ctx.Err()
		}
		hosts = slices.DeleteFunc(hosts, func(r *record.Record) bool {
			if b.onTarget(r) {
				there.start(ctx, r, q.cut, emit)
				return true
			}
			return false
		})
		for _, group := range b.groups(hosts, emit) {
			b.batch(ctx, group, emit)
		}
	}
}

// A group is what goes under one scheduler.
type group struct {
	options []string
	drvs    []store.Path
	waiting map[store.Path][]*record.Record // hosts may share a system
}

// groups sorts hosts by the options that their networks have for Nix, which are
// mostly the same for all, and emits those that have no derivation.
func (b *Builder) groups(hosts []*record.Record, emit func(*record.Record)) []*group {
	var all []*group
	byOptions := map[string]*group{}
	for _, r := range hosts {
		drv, err := r.DrvPath()
		var options []string
		if err == nil {
			options, err = b.options(r)
		}
		if err != nil {
			r.Fail(record.Build, err)
			emit(r)
			continue
		}
		key := strings.Join(options, "\x00")
		g := byOptions[key]
		if g == nil {
			g = &group{options: options, waiting: map[store.Path][]*record.Record{}}
			byOptions[key] = g
			all = append(all, g)
		}
		if g.waiting[drv] == nil {
			g.drvs = append(g.drvs, drv)
		}
		g.waiting[drv] = append(g.waiting[drv], r)
	}
	return all
}

// batch realises a group's derivations and emits each of its hosts once.
func (b *Builder) batch(ctx context.Context, g *group, emit func(*record.Record)) {
	nix := b.Nix(g.options)
	var finishing sync.WaitGroup
	slots := make(chan struct{}, max(b.Jobs, 1))
	finish := func(drv, out store.Path, err error) {
		for _, r := range g.waiting[drv] {
			slots <- struct{}{}
			finishing.Go(func() {
				defer func() { <-slots }()
				err := err
				if err == nil {
					// What is built is written, also when the tool is told to stop.
					err = b.keep(context.WithoutCancel(ctx), nix, r, out)
				}
				if err != nil {
					r.Fail(record.Build, err)
				}
				emit(r)
			})
		}
		delete(g.waiting, drv)
	}
	if err := nix.Realise(ctx, g.drvs, finish); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		for _, drv := range g.drvs {
			finish(drv, "", fmt.Errorf("build %s: %w", drv, err))
		}
	}
	finishing.Wait()
}

// keep makes out the host's garbage collector root and writes it into the record.
func (b *Builder) keep(ctx context.Context, nix Realiser, r *record.Record, out store.Path) error {
	if err := nix.AddRoot(ctx, filepath.Join(b.RootDir, r.Name()), out); err != nil {
		return err
	}
	paths, narSize, err := nix.Closure(ctx, out)
	if err != nil {
		return err
	}
	return b.built(r, out, paths, narSize)
}

// built writes what was built into the record.
func (b *Builder) built(r *record.Record, out store.Path, paths int, narSize int64) error {
	b.Log.Info("built", "host", r.Name(), "path", string(out))
	if err := r.Set("storePath", out); err != nil {
		return err
	}
	return r.Set("closure", struct {
		Paths   int   `json:"paths"`
		NarSize int64 `json:"narSize"`
	}{paths, narSize})
}
