package eval

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/tidwall/gjson"

	"nx/pkg/record"
)

// Texts are the contents of keys that are in the network, for the hosts of a stream.
// They are evaluated for all hosts together, once the whole stream was read: what any
// record says may be in them. Nobody else has to wait for that.
type Texts struct {
	evaluator *Evaluator
	chooses   func(name string, tags []string) bool
	ctx       context.Context
	cancel    context.CancelFunc
	running   sync.WaitGroup

	mu    sync.Mutex
	hosts map[string]*hostTexts
}

// hostTexts are those of one host, from when told is closed.
type hostTexts struct {
	told  chan struct{}
	texts map[string]string
	err   error
}

// Texts returns the texts of the hosts of a stream that chooses chooses. Its Fact and
// End are for the stream's hooks. Close must be called.
func (e *Evaluator) Texts(ctx context.Context, chooses func(name string, tags []string) bool) *Texts {
	ctx, cancel := context.WithCancel(ctx)
	return &Texts{evaluator: e, chooses: chooses, ctx: ctx, cancel: cancel, hosts: map[string]*hostTexts{}}
}

// Fact takes what r knows of the world, and whether it is a host with such keys.
func (t *Texts) Fact(r *record.Record) {
	t.evaluator.Fact(r)
	if r.Kind() == record.KindHost && !r.Failed() && hasTexts(r) && t.chooses(r.Name(), r.Tags()) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.hosts[r.Name()] = &hostTexts{told: make(chan struct{})}
	}
}

// hasTexts tells whether the contents of a key of the host are in the network.
func hasTexts(r *record.Record) (has bool) {
	r.Get("deployment").Get("keys").ForEach(func(_, key gjson.Result) bool {
		has = key.Get("source").Get("eval").Exists()
		return !has
	})
	return has
}

// End begins the evaluation, unless err says that not all of the stream was read.
func (t *Texts) End(err error) {
	names := slices.Sorted(maps.Keys(t.hosts))
	tell := func(name string, texts map[string]string, err error) {
		h := t.hosts[name]
		h.texts, h.err = texts, err
		close(h.told)
	}
	t.running.Go(func() {
		if err == nil && len(names) > 0 {
			err = t.evaluator.Network.Texts(t.ctx, names, t.evaluator.facts, tell)
		}
		for _, name := range names {
			select {
			case <-t.hosts[name].told:
			default:
				tell(name, nil, err)
			}
		}
	})
}

// Of returns the texts of a host, by the names of its keys, as soon as they are known.
func (t *Texts) Of(ctx context.Context, host string) (map[string]string, error) {
	t.mu.Lock()
	h, ok := t.hosts[host]
	t.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("the record of %s has no key whose contents are in the network", host)
	}
	select {
	case <-h.told:
		return h.texts, h.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Close ends an evaluation that nobody waits for any more.
func (t *Texts) Close() {
	t.cancel()
	t.running.Wait()
}
