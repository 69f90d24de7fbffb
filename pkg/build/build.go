// Package build is the stage that realises the hosts' derivations: each host's
// record gets its system's store path as soon as that is there.
//
// How a derivation is built is Nix'; this package decides which are built
// together, keeps what was built, and says what failed for which host.
package build

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"nx/pkg/record"
	"nx/pkg/store"
)

// A Realiser is the part of a Nix installation that this stage needs.
type Realiser interface {
	// Realise builds drvs with one scheduler and calls done once for each, as
	// soon as it is: with the output "out", or with why it failed. The returned
	// error is of the scheduler; those not done then were not built.
	Realise(ctx context.Context, drvs []store.Path, done func(drv, out store.Path, err error)) error
	// Closure returns the count of p's closure and the sum of its NAR sizes in bytes.
	Closure(ctx context.Context, p store.Path) (paths int, narSize int64, err error)
	// AddRoot makes link a symlink to p that keeps p's closure.
	AddRoot(ctx context.Context, link string, p store.Path) error
}

// A Builder is one run of the stage.
type Builder struct {
	Nix     Realiser
	RootDir string       // holds a link to each host's system, named like the host
	Jobs    int          // finished hosts looked at in parallel
	Log     *slog.Logger // nil discards
}

// gather is how long a batch waits for more hosts: a file's all come at once and
// belong under one scheduler, those of an evaluation come seconds apart.
const gather = 50 * time.Millisecond

// Run builds what is there, then what came meanwhile, and so on: one scheduler
// at a time, so that Nix' limits hold, and the first host need not wait for the last.
func (b *Builder) Run(ctx context.Context, in iter.Seq2[*record.Record, error], emit func(*record.Record)) error {
	if b.Log == nil {
		b.Log = slog.New(slog.DiscardHandler)
	}
	q := newQueue()
	var reading sync.WaitGroup
	reading.Go(func() { q.fill(in) })
	defer reading.Wait()
	for {
		hosts := q.take(ctx)
		if hosts == nil {
			return ctx.Err()
		}
		b.batch(ctx, hosts, emit)
	}
}

// batch realises the hosts' derivations and emits each host once.
func (b *Builder) batch(ctx context.Context, hosts []*record.Record, emit func(*record.Record)) {
	waiting := map[store.Path][]*record.Record{} // hosts may share a system
	var drvs []store.Path
	for _, r := range hosts {
		drv, err := r.DrvPath()
		if err != nil {
			r.Fail(record.Build, err)
			emit(r)
			continue
		}
		if waiting[drv] == nil {
			drvs = append(drvs, drv)
		}
		waiting[drv] = append(waiting[drv], r)
	}
	if len(drvs) == 0 {
		return
	}
	var finishing sync.WaitGroup
	slots := make(chan struct{}, max(b.Jobs, 1))
	finish := func(drv, out store.Path, err error) {
		for _, r := range waiting[drv] {
			slots <- struct{}{}
			finishing.Go(func() {
				defer func() { <-slots }()
				err := err
				if err == nil {
					// What is built is written, also when the tool is told to stop.
					err = b.keep(context.WithoutCancel(ctx), r, out)
				}
				if err != nil {
					r.Fail(record.Build, err)
				}
				emit(r)
			})
		}
		delete(waiting, drv)
	}
	if err := b.Nix.Realise(ctx, drvs, finish); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		for _, drv := range drvs {
			finish(drv, "", fmt.Errorf("build %s: %w", drv, err))
		}
	}
	finishing.Wait()
}

// keep makes out the host's garbage collector root and writes it into the record.
func (b *Builder) keep(ctx context.Context, r *record.Record, out store.Path) error {
	if err := b.Nix.AddRoot(ctx, filepath.Join(b.RootDir, r.Name()), out); err != nil {
		return err
	}
	paths, narSize, err := b.Nix.Closure(ctx, out)
	if err != nil {
		return err
	}
	b.Log.Info("built", "host", r.Name(), "path", string(out))
	if err := r.Set("storePath", out); err != nil {
		return err
	}
	return r.Set("closure", struct {
		Paths   int   `json:"paths"`
		NarSize int64 `json:"narSize"`
	}{paths, narSize})
}

// A queue holds the hosts that came while others are built.
type queue struct {
	mu    sync.Mutex
	hosts []*record.Record
	some  chan struct{} // closed with the first host after a take
	end   chan struct{} // closed with the input
}

func newQueue() *queue { return &queue{some: make(chan struct{}), end: make(chan struct{})} }

func (q *queue) fill(in iter.Seq2[*record.Record, error]) {
	defer close(q.end)
	for r, err := range in {
		q.mu.Lock()
		if err != nil {
			q.hosts = nil // the input was cut: nothing more is started
		} else if q.hosts = append(q.hosts, r); len(q.hosts) == 1 {
			close(q.some)
		}
		q.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take waits for hosts and returns all that are there, nil at the end.
func (q *queue) take(ctx context.Context) []*record.Record {
	q.mu.Lock()
	some := q.some
	q.mu.Unlock()
	select {
	case <-some:
		select {
		case <-q.end:
		case <-time.After(gather):
		case <-ctx.Done():
		}
	case <-q.end:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	hosts := q.hosts
	if len(hosts) > 0 {
		q.hosts, q.some = nil, make(chan struct{})
	}
	return hosts
}
