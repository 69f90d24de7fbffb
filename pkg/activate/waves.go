package activate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tidwall/gjson"

	"nx/pkg/record"
)

// A Share is some of the hosts: so many, or per cent of them, rounded up.
type Share struct {
	n       int
	percent bool
}

// ParseShare reads "3" or "10%"; "" is none.
func ParseShare(s string) (Share, error) {
	digits, percent := strings.CutSuffix(s, "%")
	if s == "" {
		return Share{}, nil
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || percent && n > 100 {
		return Share{}, fmt.Errorf("%q is neither a number of hosts nor a percentage of them", s)
	}
	return Share{n, percent}, nil
}

func (s Share) of(hosts int) int {
	if s.percent {
		return int(math.Ceil(float64(hosts) * float64(s.n) / 100))
	}
	return s.n
}

// Waves are in which order an [Activator] comes to its hosts, and what stops it.
// Its zero value takes each host as it comes, Jobs at a time, and stops for
// nothing; only a host that deployment.activation.after has behind another one waits
// until all of the input is known.
type Waves struct {
	Activator *Activator
	Jobs      int // hosts at a time

	Canary      Share    // the first wave; the zero Share for none
	Batch       Share    // each further wave; the zero Share for all the rest
	OrderByTags []string // hosts with the first of these tags come first
	Barrier     bool     // no host before the input's end, none if one has failed before
	SkipOffline bool     // a host that cannot be reached is skipped, before any is changed

	// MaxFailures is how many hosts may fail before no further one is touched; nil
	// is none with waves and any number without.
	MaxFailures *int
	RollbackAll bool // then those that were activated go back too

	mu              sync.Mutex
	failed          map[string]bool // by name: hosts with an error, of this stage or of one before
	errors, skipped int             // hosts that failed here, and that were skipped for it
	done            []*record.Record
	over            map[string]chan struct{} // closed when that host is through
}

// See takes note of a record of the input, before the stage sees it.
func (w *Waves) See(r *record.Record) {
	if r.Kind() == record.KindHost && r.Failed() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.fail(r.Name())
	}
}

func (w *Waves) fail(name string) {
	if w.failed == nil {
		w.failed = map[string]bool{}
	}
	w.failed[name] = true
}

// planned tells whether all hosts must be known before the first is touched.
func (w *Waves) planned() bool {
	return w.Canary.n > 0 || w.Batch.n > 0 || len(w.OrderByTags) > 0 || w.Barrier || w.SkipOffline || w.MaxFailures != nil || w.RollbackAll
}

// Run activates the hosts of in and emits each once.
func (w *Waves) Run(ctx context.Context, in iter.Seq2[*record.Record, error], emit func(*record.Record)) error {
	slots := make(chan struct{}, max(w.Jobs, 1))
	var held []*record.Record
	var started sync.WaitGroup
	defer started.Wait()
	for r, err := range in {
		if err != nil {
			return nil // whoever reads has it
		}
		if w.planned() || len(after(r)) > 0 {
			held = append(held, r)
			continue
		}
		select {
		case slots <- struct{}{}:
			started.Go(func() {
				defer func() { <-slots }()
				w.activate(ctx, r)
				emit(r)
			})
		case <-ctx.Done():
			return nil
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	started.Wait()
	return w.plan(ctx, held, slots, emit)
}

// after are the hosts that must be through before r is touched.
func after(r *record.Record) (names []string) {
	r.Get("deployment").Get("activation.after").ForEach(func(_, name gjson.Result) bool {
		if name.Type == gjson.String { // the others are hooks
			names = append(names, name.Str)
		}
		return true
	})
	return names
}

// plan goes through the hosts wave by wave.
func (w *Waves) plan(ctx context.Context, hosts []*record.Record, slots chan struct{}, emit func(*record.Record)) error {
	hosts, circular := w.order(hosts)
	for _, r := range circular {
		w.skip(r, fmt.Errorf("activate after %s: they wait for each other", strings.Join(after(r), ", ")))
		emit(r)
	}
	if w.SkipOffline {
		hosts = w.online(ctx, hosts, slots, emit)
	}
	w.over = map[string]chan struct{}{}
	for _, r := range hosts {
		w.over[r.Name()] = make(chan struct{})
	}
	total, rest := len(hosts), hosts
	for n := 0; len(rest) > 0; n++ {
		size := len(rest)
		switch {
		case n == 0 && w.Canary.n > 0:
			size = w.Canary.of(total)
		case w.Batch.n > 0:
			size = w.Batch.of(total)
		}
		wave := rest[:min(size, len(rest))]
		rest = rest[len(wave):]
		w.wave(ctx, wave, slots)
	}
	if w.RollbackAll && w.stopped() != nil {
		w.rollback(slots)
	}
	for _, r := range hosts {
		emit(r)
	}
	return nil
}

// order sorts hosts by tags and names, each behind those that it comes after.
func (w *Waves) order(hosts []*record.Record) (ordered, circular []*record.Record) {
	rank := func(r *record.Record) int {
		for i, tag := range w.OrderByTags {
			if slices.Contains(r.Tags(), tag) {
				return i
			}
		}
		return len(w.OrderByTags)
	}
	rest := slices.SortedFunc(slices.Values(hosts), func(a, b *record.Record) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.Name(), b.Name()))
	})
	for len(rest) > 0 {
		waiting := map[string]bool{}
		for _, r := range rest {
			waiting[r.Name()] = true
		}
		i := slices.IndexFunc(rest, func(r *record.Record) bool {
			return !slices.ContainsFunc(after(r), func(name string) bool { return waiting[name] })
		})
		if i < 0 {
			return ordered, rest
		}
		ordered = append(ordered, rest[i])
		rest = slices.Delete(rest, i, i+1)
	}
	return ordered, nil
}

// online tries to reach all hosts and skips those that it cannot.
func (w *Waves) online(ctx context.Context, hosts []*record.Record, slots chan struct{}, emit func(*record.Record)) (online []*record.Record) {
	reached := make([]bool, len(hosts))
	var all sync.WaitGroup
	for i, r := range hosts {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			reached[i] = w.Activator.reach(ctx, r)
		})
	}
	all.Wait()
	for i, r := range hosts {
		if reached[i] {
			online = append(online, r)
			continue
		}
		w.Activator.logger(r).Warn("skipped: it cannot be reached")
		w.skip(r, nil)
		emit(r)
	}
	return online
}

// reach tells whether the host can be reached. What is wrong with its record is
// for its activation to say.
func (a *Activator) reach(ctx context.Context, r *record.Record) bool {
	d, err := a.deployment(slog.New(slog.DiscardHandler), r, "")
	if err != nil {
		return true
	}
	conn, err := d.connect(ctx)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// wave activates hosts at once, as far as they may, and else in their order; those that
// come after others of the wave as soon as they can.
func (w *Waves) wave(ctx context.Context, hosts []*record.Record, slots chan struct{}) {
	var all sync.WaitGroup
	for _, r := range hosts {
		first := after(r)
		if len(first) == 0 {
			slots <- struct{}{}
		}
		all.Go(func() {
			defer close(w.over[r.Name()])
			for _, name := range first {
				if over, known := w.over[name]; known {
					<-over
				}
			}
			if len(first) > 0 {
				slots <- struct{}{}
			}
			defer func() { <-slots }()
			switch err := w.stops(r); {
			case ctx.Err() != nil:
				w.skip(r, context.Cause(ctx))
			case err != nil:
				w.skip(r, err)
			default:
				w.activate(ctx, r)
			}
		})
	}
	all.Wait()
}

// stopped is why no further host is to be touched, or nil.
func (w *Waves) stopped() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := len(w.failed) - w.errors - w.skipped
	limit := -1
	switch {
	case w.MaxFailures != nil:
		limit = *w.MaxFailures
	case w.Canary.n > 0 || w.Batch.n > 0 || w.RollbackAll:
		limit = 0
	}
	switch {
	case w.Barrier && before > 0:
		return fmt.Errorf("held by --barrier: hosts that failed before: %d", before)
	case limit >= 0 && w.errors > limit:
		return fmt.Errorf("hosts that failed: %d, and --max-failures is %d", w.errors, limit)
	}
	return nil
}

// stops is why this host is not to be touched, or nil.
func (w *Waves) stops(r *record.Record) error {
	if err := w.stopped(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range after(r) {
		if w.failed[name] {
			return fmt.Errorf("it comes after %s, which failed", name)
		}
	}
	return nil
}

func (w *Waves) activate(ctx context.Context, r *record.Record) {
	err := w.Activator.Host(ctx, r)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		r.Fail(record.Activate, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.fail(r.Name())
		w.errors++
	} else if Result(r.Get("activation").Get("result").Str) == Activated {
		w.done = append(w.done, r)
	}
}

// skip sets the result of a host that was not touched; an error is why it should have been.
func (w *Waves) skip(r *record.Record, err error) {
	if serr := r.Set("activation", Activation{Action: w.Activator.Action, Result: Skipped}); serr != nil {
		err = errors.Join(err, serr)
	}
	if err != nil {
		r.Fail(record.Activate, fmt.Errorf("skipped: %w", err))
		// those that come after it are skipped too
		w.mu.Lock()
		defer w.mu.Unlock()
		w.fail(r.Name())
		w.skipped++
	}
}

// rollback has those hosts that were activated go back to what they ran, at once.
func (w *Waves) rollback(slots chan struct{}) {
	var all sync.WaitGroup
	for _, r := range w.done {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			r.Fail(record.Activate, w.Activator.back(r, w.stopped()))
		})
	}
	all.Wait()
}
