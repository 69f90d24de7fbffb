package build

import (
	"context"
	"iter"
	"sync"
	"time"

	"nx/pkg/record"
)

// gather is how long a batch waits for more hosts: a file's all come at once and
// belong under one scheduler, those of an evaluation come seconds apart.
const gather = 50 * time.Millisecond

// A queue holds the hosts that came while others are built.
type queue struct {
	mu    sync.Mutex
	hosts []*record.Record
	some  chan struct{} // closed with the first host after a take
	end   chan struct{} // closed with the input
	cut   chan struct{} // closed when the input was cut: nothing more is started
}

func newQueue() *queue {
	return &queue{some: make(chan struct{}), end: make(chan struct{}), cut: make(chan struct{})}
}

func (q *queue) fill(in iter.Seq2[*record.Record, error]) {
	defer close(q.end)
	for r, err := range in {
		q.mu.Lock()
		if err != nil {
			q.hosts = nil
			close(q.cut)
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
