package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"nx/pkg/provision"
	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/target"
)

// A deployment is a world and a state, which processes come and go in.
type deployment struct {
	t      *testing.T
	world  World
	traits Traits
	root   string
	hosts  hosts
}

func newDeployment(t *testing.T, world World) *deployment {
	return &deployment{t: t, world: world, traits: world.Traits(), root: t.TempDir()}
}

// A cut says which step of a process is cut, and how. The zero cut is none.
type cut struct {
	at   int
	kind cutKind
}

func (c cut) String() string { return fmt.Sprintf("%s step %d", c.kind, c.at) }

// process lets act run in a process of its own, of which nothing is left afterwards but
// what it remembered and what it made. It returns the line that the process had.
func (d *deployment) process(c cut, things []provision.Thing, act func(context.Context, *provision.Provisioner) error) (*Line, error) {
	d.t.Helper()
	ctx, stop := context.WithCancelCause(d.t.Context())
	defer stop(nil)
	file := filepath.Join(d.root, state.Path)
	var killed bool
	var left []byte // the state as the process leaves it when it is killed
	line := &Line{at: c.at, kind: c.kind, stop: stop, die: func() {
		killed = true
		var err error
		if left, err = os.ReadFile(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.t.Error(err)
		}
	}}
	s, err := state.Open(ctx, file, state.Options{Wait: func(h state.Holder) { d.t.Errorf("the state is locked: %s", h) }})
	if err != nil {
		d.t.Fatal(err)
	}
	p := &provision.Provisioner{
		State: s, Things: things, Dial: d.hosts.dialer(line), Root: d.root, Jobs: 8,
		Machines: map[string]provision.Maker{}, Resources: map[string]provision.Maker{},
	}
	for typ, m := range d.world.Others(line) {
		p.Resources[typ] = d.mortal(line, m)
	}
	if d.traits.machine() {
		p.Machines[d.traits.Provider] = d.mortal(line, d.world.Maker(line))
	} else {
		p.Resources[d.traits.Provider] = d.mortal(line, d.world.Maker(line))
	}
	err = act(ctx, p)
	if cerr := s.Close(); cerr != nil {
		d.t.Error(cerr)
	}
	switch {
	case killed && left != nil:
		if err := os.WriteFile(file, left, 0o600); err != nil {
			d.t.Fatal(err)
		}
	case killed:
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.t.Fatal(err)
		}
	}
	return line, err
}

// apply has a process bring the world to things. Its error is those of all things, one
// a line.
func (d *deployment) apply(c cut, things []provision.Thing, allow provision.Allow, recheck bool) (*Line, error) {
	d.t.Helper()
	return d.process(c, things, func(ctx context.Context, p *provision.Provisioner) error {
		p.Allow, p.Recheck = allow, recheck
		hosts, err := p.Wanted()
		if err != nil {
			return err
		}
		var r reports
		return errors.Join(p.Apply(ctx, hosts, true, r.take), r.err())
	})
}

// destroy has a process destroy all that is remembered, without a network.
func (d *deployment) destroy(c cut) (*Line, error) {
	d.t.Helper()
	return d.process(c, nil, func(ctx context.Context, p *provision.Provisioner) error {
		hosts, err := p.Made()
		if err != nil {
			return err
		}
		var r reports
		return errors.Join(p.Destroy(ctx, hosts, true, r.take), r.err())
	})
}

// check has a process ask how the machines are. It is for providers of machines.
func (d *deployment) check(things []provision.Thing) error {
	d.t.Helper()
	_, err := d.process(cut{}, things, func(ctx context.Context, p *provision.Provisioner) error {
		hosts, err := p.All()
		if err != nil {
			return err
		}
		var r reports
		return errors.Join(p.Check(ctx, hosts, true, r.take), r.err())
	})
	return err
}

// remembered is what the state has of the world's provider, by name.
func (d *deployment) remembered() map[string]state.Entry {
	d.t.Helper()
	s, err := state.Read(d.t.Context(), filepath.Join(d.root, state.Path), state.Options{})
	if err != nil {
		d.t.Fatal(err)
	}
	all := map[string]state.Entry{}
	for _, e := range s.All() {
		if e.Provider == d.traits.Provider {
			all[e.Name] = e
		}
	}
	return all
}

// reports are the records that a verb writes.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) take(rec *record.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec.Failed() {
		r.errs = append(r.errs, errors.New(rec.Get("error").Get("message").String()))
	}
}

func (r *reports) err() error {
	slices.SortFunc(r.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(r.errs...)
}

// mortal is a Maker whose calls, and what it remembers, are steps of a line.
func (d *deployment) mortal(l *Line, m provision.Maker) provision.Maker {
	mortal := maker{m, l, d}
	if _, ok := m.(provision.Local); ok {
		return &localMaker{mortal}
	}
	return &mortal
}

type localMaker struct{ maker }

// Local says that the things are here.
func (*localMaker) Local() {}

type maker struct {
	provision.Maker
	line *Line
	d    *deployment
}

func (m *maker) Create(ctx context.Context, w *provision.Work) (provision.Facts, error) {
	return m.facts(func() (provision.Facts, error) { return m.Maker.Create(ctx, m.work(w)) })
}

func (m *maker) Update(ctx context.Context, w *provision.Work, changes []provision.Difference) (provision.Facts, error) {
	return m.facts(func() (provision.Facts, error) { return m.Maker.Update(ctx, m.work(w), changes) })
}

func (m *maker) Destroy(ctx context.Context, k provision.Known) error {
	return m.step(func() error { return m.Maker.Destroy(ctx, k) })
}

// Complete is that of the maker, if it has one.
func (m *maker) Complete(t provision.Thing, all []provision.Thing) (provision.Thing, []provision.Thing, error) {
	if c, ok := m.Maker.(provision.Completer); ok {
		return c.Complete(t, all)
	}
	return t, nil, nil
}

func (m *maker) Start(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return m.switched(func(p provision.Powered) (provision.Facts, error) { return p.Start(ctx, k) })
}

func (m *maker) Stop(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return m.switched(func(p provision.Powered) (provision.Facts, error) { return p.Stop(ctx, k) })
}

func (m *maker) Reboot(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return m.switched(func(p provision.Powered) (provision.Facts, error) { return p.Reboot(ctx, k) })
}

func (m *maker) switched(do func(provision.Powered) (provision.Facts, error)) (provision.Facts, error) {
	p, ok := m.Maker.(provision.Powered)
	if !ok {
		return provision.Facts{}, errors.New("it has no switch")
	}
	return m.facts(func() (provision.Facts, error) { return do(p) })
}

func (m *maker) facts(do func() (provision.Facts, error)) (f provision.Facts, err error) {
	err = m.step(func() error {
		f, err = do()
		return err
	})
	return f, err
}

func (m *maker) step(do func() error) error {
	return m.line.step(false, func() error {
		err := do()
		if err != nil {
			m.d.oneLine("the maker", errors.New(err.Error())) // all of it, of whatever it is made
		}
		return err
	})
}

func (m *maker) work(w *provision.Work) *provision.Work {
	mine := *w
	mine.Remember = func(f provision.Facts) error {
		return m.line.step(false, func() error { return w.Remember(f) })
	}
	return &mine
}

// hosts are the machines as ssh sees them: each lets in who knows the host key that it
// presents, and does what the script says that gives it its own.
type hosts struct {
	mu  sync.Mutex
	own map[string]string // by address: the host key that it made
	use map[string]bool   // by address: it is in force
}

func (h *hosts) dialer(l *Line) provision.Dialer {
	return func(ctx context.Context, t target.Target) (provision.Conn, error) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.use[t.Host] && !slices.Contains(t.HostKeys, h.own[t.Host]) {
			return nil, fmt.Errorf("it presents %s, and known are %q", h.own[t.Host], t.HostKeys)
		}
		return &conn{h, l, t.Host}, nil
	}
}

type conn struct {
	hosts *hosts
	line  *Line
	host  string
}

func (c *conn) Close() error { return nil }

func (c *conn) Run(_ context.Context, script string, _ io.Reader, stdout, _ io.Writer) (status int, err error) {
	err = c.line.step(false, func() error {
		c.hosts.mu.Lock()
		defer c.hosts.mu.Unlock()
		if c.hosts.own == nil {
			c.hosts.own, c.hosts.use = map[string]string{}, map[string]bool{}
		}
		first, _, _ := strings.Cut(script, "\n")
		switch {
		case strings.HasPrefix(first, "set -- 'make' "):
			if c.hosts.own[c.host] == "" {
				private, err := provision.NewPrivateKey(c.host)
				if err != nil {
					return err
				}
				if c.hosts.own[c.host], err = provision.PublicKey(private); err != nil {
					return err
				}
			}
			_, err := fmt.Fprintf(stdout, `{"key":%q,"os":"debian","version":"12"}`, c.hosts.own[c.host])
			return err
		case strings.HasPrefix(first, "set -- 'use' "):
			c.hosts.use[c.host] = true
		default:
			return fmt.Errorf("a machine is asked for something else: %s", first)
		}
		return nil
	})
	return 0, err
}
