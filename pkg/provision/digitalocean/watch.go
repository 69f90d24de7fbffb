package digitalocean

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/digitalocean/godo"
)

const (
	// lookEvery is how often it is looked whether what was asked for is done.
	lookEvery = 2 * time.Second

	// doneTime is how long creating or changing a droplet may take. Most take less
	// than a minute.
	doneTime = 10 * time.Minute

	// alone is how many droplets are looked at one by one, at one time.
	alone = 3
)

// A watch looks after droplets on behalf of all who wait for one: with one question
// for all, however many there are.
type watch struct {
	look func(ctx context.Context, ids []int) (map[int]*godo.Droplet, error) // of those that could be seen; nil for one that is gone

	mu      sync.Mutex
	waiting map[*waiter]bool
	stop    context.CancelFunc // ends the looking; nil when nobody looks
}

type waiter struct {
	id   int
	seen chan sight
}

// A sight is what was seen of a droplet at one time; without an error, nil says that it
// is gone.
type sight struct {
	droplet *godo.Droplet
	err     error
}

func (w *watch) add(id int) *waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting == nil {
		w.waiting = map[*waiter]bool{}
	}
	one := &waiter{id, make(chan sight, 1)}
	w.waiting[one] = true
	if w.stop == nil {
		var ctx context.Context
		ctx, w.stop = context.WithCancel(context.Background())
		go w.run(ctx)
	}
	return one
}

func (w *watch) remove(one *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting, one)
	if len(w.waiting) == 0 {
		w.stop()
		w.stop = nil
	}
}

// run looks until ctx ends.
func (w *watch) run(ctx context.Context) {
	for pause(ctx, lookEvery) == nil {
		w.mu.Lock()
		all := slices.Collect(maps.Keys(w.waiting))
		w.mu.Unlock()
		ids := map[int]bool{}
		for _, one := range all {
			ids[one.id] = true
		}
		seen, err := w.look(ctx, slices.Sorted(maps.Keys(ids)))
		for _, one := range all {
			d, ok := seen[one.id]
			if !ok && err == nil {
				continue
			}
			select {
			case one.seen <- sight{d, err}:
			default: // it has not come to look at the last one
			}
		}
	}
}

// look sees how droplets are. Of many that are missing from the list by tag, it leaves
// the most for another time: they are new, and will be on it.
func (c *client) look(ctx context.Context, ids []int) (map[int]*godo.Droplet, error) {
	seen := map[int]*godo.Droplet{}
	if len(ids) > alone && c.tag != "" {
		listed, err := c.tagged(ctx, c.tag)
		if err != nil {
			return nil, err
		}
		for _, d := range listed {
			seen[d.ID] = &d
		}
	}
	asked := 0
	for _, id := range ids {
		if _, ok := seen[id]; ok || asked == alone {
			continue
		}
		asked++
		d, err := c.get(ctx, id)
		if err != nil {
			return nil, err
		}
		seen[id] = d
	}
	return seen, nil
}

// pendingMessage is how the API refuses to do two things at once (godo, ErrDropletPendingEvent).
var pendingMessage = regexp.MustCompile(`(?i)pending event`)

var errGone = errors.New("it is gone")

// await waits until a droplet is as done says, and returns it. The action that is to
// bring it there may be 0, when it is not known.
func (c *client) await(ctx context.Context, id, action int, done func(*godo.Droplet) bool) (*godo.Droplet, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, doneTime, errLate)
	defer cancel()
	one := c.watch.add(id)
	defer c.watch.remove(one)
	status := "not known"
	for idle := 0; ; {
		select {
		case s := <-one.seen:
			switch {
			case s.err != nil:
				return nil, s.err
			case s.droplet == nil:
				return nil, fmt.Errorf("wait for droplet %d: %w", id, errGone)
			case done(s.droplet):
				return s.droplet, nil
			}
			status = s.droplet.Status
			if s.droplet.Locked || action == 0 {
				continue
			}
			// Nothing is in work, and it is not as it should be.
			if idle++; idle%5 == 2 {
				if err := c.failed(ctx, action); err != nil {
					return nil, err
				}
			}
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errLate) {
				return nil, fmt.Errorf("wait for droplet %d: it is not ready after %s: its status is %s", id, doneTime, status)
			}
			return nil, context.Cause(ctx)
		}
	}
}

var errLate = errors.New("late")

// failed is an error when an action ended in one.
func (c *client) failed(ctx context.Context, action int) error {
	a, _, err := c.api.Actions.Get(ctx, action)
	if err != nil {
		return c.explain(err, "read action %d", action)
	}
	if a.Status == "errored" {
		return fmt.Errorf("%s droplet %d: DigitalOcean could not do it: action %d has status errored", a.Type, a.ResourceID, action)
	}
	return nil
}

// finish waits until an action is completed.
func (c *client) finish(ctx context.Context, action int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, doneTime, fmt.Errorf("action %d is not completed after %s", action, doneTime))
	defer cancel()
	for {
		if err := pause(ctx, lookEvery); err != nil {
			return err
		}
		a, _, err := c.api.Actions.Get(ctx, action)
		if err != nil {
			return c.explain(err, "read action %d", action)
		}
		if a.Status == "completed" {
			return nil
		}
		if err := c.failed(ctx, action); err != nil {
			return err
		}
	}
}

// bring has something done to a droplet unless it is as want says, and returns it when
// it is. It asks again when it is not known whether it was understood, or when
// something else was in the way.
func (c *client) bring(ctx context.Context, d *godo.Droplet, verb string, want func(*godo.Droplet) bool, ask func(context.Context) (*godo.Action, *godo.Response, error)) (*godo.Droplet, error) {
	idle := func(d *godo.Droplet) bool { return !d.Locked }
	for attempt := 1; ; attempt++ {
		if d.Locked {
			var err error
			if d, err = c.await(ctx, d.ID, 0, idle); err != nil {
				return nil, err
			}
		}
		if want(d) {
			return d, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		action, _, err := ask(ctx)
		if err == nil {
			return c.await(ctx, d.ID, action.ID, func(d *godo.Droplet) bool { return idle(d) && want(d) })
		}
		busy := status(err) == http.StatusUnprocessableEntity && pendingMessage.MatchString(err.Error())
		if attempt == attempts || !unknown(err) && !busy {
			return nil, c.explain(err, "%s droplet %d", verb, d.ID)
		}
		if d, err = c.await(ctx, d.ID, 0, idle); err != nil {
			return nil, err
		}
	}
}
