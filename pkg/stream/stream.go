// Package stream carries records through one tool: it reads lines, frames them
// with begin and end, hands the hosts to act on to a stage, and writes every
// record exactly once, through one goroutine.
//
// It knows which records a stage sees and when a stream is whole. What a stage
// does to a host is the stage's; flags, signals and exit status are pkg/cli's.
package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"

	"nx/pkg/record"
)

// A Stream is one tool's way from its input to its output.
type Stream struct {
	Tool   string       // "nx-build", the writer that begin names
	Stage  record.Stage // whose fields are removed before the stage acts, and whose errors are set
	Inputs []Input      // read one after the other
	Given  []*record.Record
	On     Selection
	Output Output
	Log    *slog.Logger

	// Facts, when set, sees every record of the input, chosen or not, failed or
	// not, before the stage's input ends.
	Facts func(*record.Record)

	// End, when set, is called once: when Facts has seen every record, or with what
	// ended reading too early.
	End func(error)
}

// What a stream announces of each chosen host: that it was read, and, once the
// stage is done with it, that it was written.
const (
	EventRead    = "read"
	EventWritten = "written"
)

// A HostsError says that the stream is whole but hosts in it have errors, set
// here or earlier.
type HostsError struct {
	Hosts  int               // host records written
	Failed *multierror.Error // each of its errors is a *HostError
}

func isResource(err error) bool {
	h := (*HostError)(nil)
	return errors.As(err, &h) && h.Resource
}

// A HostError is why one host, or resource, has an error.
type HostError struct {
	Name     string // "web1", or "sshKeyPairs.admin"
	Resource bool
	Stage    record.Stage
	Message  string
}

func (e *HostError) Error() string { return fmt.Sprintf("%s: %s", e.Name, e.Message) }

// HostsFailed is in the message of each [*HostsError] that is about hosts.
const HostsFailed = " hosts failed: "

// Error counts the hosts that failed and names them with their stages.
func (e *HostsError) Error() string {
	var names []string
	for _, err := range e.Failed.Errors {
		if h := (*HostError)(nil); errors.As(err, &h) {
			names = append(names, fmt.Sprintf("%s (%s)", h.Name, cmp.Or(h.Stage, "unknown stage")))
		}
	}
	if slices.ContainsFunc(e.Failed.Errors, isResource) {
		return fmt.Sprintf("%d failed: %s", len(names), strings.Join(names, ", "))
	}
	return fmt.Sprintf("%d of %d", len(names), e.Hosts) + HostsFailed + strings.Join(names, ", ")
}

func (e *HostsError) Unwrap() error { return e.Failed }

// A StageFunc acts on the hosts of in and calls emit once for each, in any
// order and from any goroutine. One host's failure is set on its record; the
// returned error is for the tool as a whole. An error from in means that nothing
// more may be started; hosts in work are finished and emitted.
type StageFunc func(ctx context.Context, in iter.Seq2[*record.Record, error], emit func(*record.Record)) error

// Each is [Run] for a stage that treats each host by itself, at most jobs at a
// time. An error of f is set on the host's record.
func Each(ctx context.Context, s *Stream, jobs int, f func(context.Context, *record.Record) error) error {
	return Run(ctx, s, func(ctx context.Context, in iter.Seq2[*record.Record, error], emit func(*record.Record)) error {
		var wg sync.WaitGroup
		defer wg.Wait()
		// The slot is taken before the next record is: what was taken is started at once.
		slots := make(chan struct{}, max(jobs, 1))
		slots <- struct{}{}
		taken := true
		defer func() {
			if taken { // for a record that never came: a host that was idle may wait for it
				<-slots
			}
		}()
		ctx = context.WithValue(ctx, slotsKey{}, slots)
		for r, err := range in {
			if err != nil {
				return nil // Run has it
			}
			wg.Go(func() {
				defer func() { <-slots }()
				if err := f(ctx, r); err != nil {
					r.Fail(s.Stage, interrupted(ctx, err))
				}
				emit(r)
			})
			taken = false
			select {
			case slots <- struct{}{}:
				taken = true
			case <-ctx.Done():
				return nil
			}
		}
		return nil
	})
}

// slotsKey is under what the context of a host in [Each] has the slots.
type slotsKey struct{}

// Idle calls wait for a host that f of [Each] works on, and that has nothing to do
// until it returns: another host may be in work meanwhile.
func Idle(ctx context.Context, wait func()) {
	slots, ok := ctx.Value(slotsKey{}).(chan struct{})
	if !ok {
		wait()
		return
	}
	<-slots
	wait()
	slots <- struct{}{} // whatever became of ctx: it is given back when f returns
}

// interrupted puts the reason in front of an error that came of giving up.
func interrupted(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// gather is how long a batch waits for more hosts: a file's all come at once, those
// of a build seconds apart.
const gather = 50 * time.Millisecond

// Batches is [Run] for a stage that treats hosts together: f gets all that are there,
// then all that came meanwhile, and so on, and calls emit once for each, before it
// returns.
func Batches(ctx context.Context, s *Stream, f func(ctx context.Context, hosts []*record.Record, emit func(*record.Record))) error {
	return s.run(ctx, func(ctx context.Context, q *queue, emit func(*record.Record)) error {
		for {
			first, err := q.next(ctx)
			if first == nil || err != nil {
				return nil // run knows of the input's error
			}
			select {
			case <-q.end:
			case <-time.After(gather):
			case <-ctx.Done():
			}
			hosts := append([]*record.Record{first}, q.rest()...)
			for _, r := range hosts {
				r.Reset(s.Stage)
			}
			f(ctx, hosts, emit)
		}
	})
}

// Run reads the stream, lets stage act on the chosen hosts that have no error,
// and passes all else on. It returns nil when every host succeeded, a
// [*HostsError] when the stream is whole but hosts failed, and any other error
// when the stream is not whole: then no end is written and an output file is
// left as it was.
func Run(ctx context.Context, s *Stream, stage StageFunc) error {
	return s.run(ctx, func(ctx context.Context, q *queue, emit func(*record.Record)) error {
		return stage(ctx, q.records(ctx, s.Stage), emit)
	})
}

// run is Run for a stage that takes hosts from the queue.
func (s *Stream) run(ctx context.Context, stage func(ctx context.Context, q *queue, emit func(*record.Record)) error) error {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	inputs, err := s.load()
	if err != nil {
		return err
	}
	sink, err := s.Output.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := startWriter(s, sink, cancel)
	q := newQueue()
	go func() {
		err := s.feed(inputs, q, w)
		if s.End != nil {
			s.End(err)
		}
		q.close(err)
	}()

	stageErr := stage(ctx, q, func(r *record.Record) {
		q.done(r)
		w.write(r)
	})
	// What the stage left unread is still read: records that only pass are
	// written, and a cut is noticed.
	readErr := q.drain(ctx)
	hosts, writeErr := w.finish()
	switch {
	case writeErr != nil:
		err = writeErr
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case readErr != nil:
		err = readErr
	case stageErr != nil:
		err = stageErr
	default:
		err = q.lost()
	}
	if err != nil {
		return err
	}
	if err := sink.commit(hosts); err != nil {
		return err
	}
	s.Log.Info("done", "hosts", hosts.hosts)
	return nil
}

// feed reads all inputs, in order, and sends each record where it belongs. The
// error is what ended reading too early.
func (s *Stream) feed(inputs []source, q *queue, w *writer) error {
	seen := identities{}
	matched := s.On.count()
	// A selector that matches nothing is an error, so with selectors nothing
	// starts before all names are known.
	var held []*record.Record
	take := func(r *record.Record, at string) error {
		if err := seen.add(r, at); err != nil {
			return err
		}
		if s.Facts != nil {
			s.Facts(r)
		}
		chosen := r.Kind() == record.KindHost && matched.chooses(r.Name(), r.Tags())
		if chosen {
			s.Log.Debug(EventRead, "host", r.Name())
		}
		switch {
		case r.Kind() != record.KindHost:
			w.write(r)
		case !chosen:
		case r.Failed():
			w.write(r)
		case s.On.Empty():
			q.push(r)
		default:
			held = append(held, r)
		}
		return nil
	}
	for _, in := range inputs {
		if err := in(take); err != nil {
			return err
		}
	}
	if err := matched.unused(); err != nil {
		return err
	}
	for _, r := range held {
		q.push(r)
	}
	return nil
}

// A queue holds the hosts that wait for the stage. It is not bounded: reading
// ahead is how a cut is noticed before the next host is started.
type queue struct {
	mu      sync.Mutex
	waiting []*record.Record
	working map[record.ID]bool
	closed  bool
	err     error
	wake    chan struct{} // buffered 1: something changed
	end     chan struct{} // closed with the queue
}

func newQueue() *queue {
	return &queue{working: map[record.ID]bool{}, wake: make(chan struct{}, 1), end: make(chan struct{})}
}

func (q *queue) push(r *record.Record) {
	q.mu.Lock()
	q.waiting = append(q.waiting, r)
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) close(err error) {
	q.mu.Lock()
	q.closed, q.err = true, err
	if err != nil {
		q.waiting = nil
	}
	q.mu.Unlock()
	close(q.end)
	q.signal()
}

// next returns the next host, nil at the end of the input.
func (q *queue) next(ctx context.Context) (*record.Record, error) {
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		q.mu.Lock()
		switch {
		case q.err != nil:
			q.mu.Unlock()
			return nil, q.err
		case len(q.waiting) > 0:
			r := q.waiting[0]
			q.waiting = q.waiting[1:]
			q.working[r.ID()] = true
			q.mu.Unlock()
			return r, nil
		case q.closed:
			q.mu.Unlock()
			return nil, nil
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
		}
	}
}

// rest returns all hosts that wait.
func (q *queue) rest() []*record.Record {
	q.mu.Lock()
	defer q.mu.Unlock()
	hosts := q.waiting
	q.waiting = nil
	for _, r := range hosts {
		q.working[r.ID()] = true
	}
	return hosts
}

func (q *queue) records(ctx context.Context, s record.Stage) iter.Seq2[*record.Record, error] {
	return func(yield func(*record.Record, error) bool) {
		for {
			r, err := q.next(ctx)
			if r != nil {
				r.Reset(s)
			}
			if r == nil && err == nil || !yield(r, err) || err != nil {
				return
			}
		}
	}
}

func (q *queue) done(r *record.Record) {
	q.mu.Lock()
	delete(q.working, r.ID())
	q.mu.Unlock()
}

// drain waits until the input has been read whole and returns what ended it
// too early.
func (q *queue) drain(ctx context.Context) error {
	select {
	case <-q.end:
		return q.err
	case <-ctx.Done():
		return nil
	}
}

// lost returns an error when a stage neither took nor emitted all its hosts.
func (q *queue) lost() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id := range q.working {
		return fmt.Errorf("%s got lost in the stage: this is a bug", id)
	}
	if len(q.waiting) > 0 {
		return fmt.Errorf("%s was not taken by the stage: this is a bug", q.waiting[0].ID())
	}
	return nil
}
