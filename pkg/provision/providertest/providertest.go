// Package providertest holds what every provider must do, whatever it makes: a suite of
// tests that each runs against a world of its own, real or faked.
//
// The suite plays the part of pkg/provision. It keeps what a provider has remembered,
// lets processes die at every question that they ask, and looks into the world for what
// became of it: that nothing is made twice, and nothing forgotten.
package providertest

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"nx/pkg/provision"
	"nx/pkg/state"
)

// A World is an account, or whatever else a provider makes things in. It begins empty.
type World interface {
	// Maker returns the provider as a new process has it. Whatever it asks of the
	// world it asks through p.
	Maker(p *Process) provision.Maker

	// Thing returns a thing that can be made, with all references resolved.
	Thing() provision.Thing

	// IDs returns the ids of the things that are there, as the provider calls them.
	IDs() []string

	// Lose destroys all things behind the provider's back.
	Lose()

	// Refuse has the world answer every request in some way from now on; "" is as usual.
	Refuse(Refusal)

	// Changes returns the thing with other properties: each is what it shall become
	// in one go. None must replace it.
	Changes() []provision.Thing

	// Drift changes one property of the things that are there behind the provider's
	// back, and returns its name and what it is now. The name is "" when there is none
	// that the provider could see.
	Drift() (property string, value any)

	// Secrets are texts that must be in no error and no fact.
	Secrets() []string
}

// A Refusal is how a world may answer.
type Refusal string

// The refusals. A world that cannot refuse in one of these ways says so by
// [testing.T.Skip].
const (
	Unauthorized Refusal = "unauthorised"
	Quota        Refusal = "quota" // of things
	RateLimit    Refusal = "rate limit"
	Slow         Refusal = "slow"
)

// A Process is one that asks a world, and may die of it.
type Process struct {
	mu    sync.Mutex
	asked int
	dieAt int  // the question that it dies of; 0 for none
	lost  bool // it dies of the answer
	dead  bool
}

var errDead = errors.New("the process is dead")

// Ask asks one question. A provider's world has every request made in do.
func (p *Process) Ask(do func() error) error {
	p.mu.Lock()
	p.asked++
	last := p.asked == p.dieAt
	p.dead = p.dead || last && !p.lost
	dead := p.dead
	p.mu.Unlock()
	if dead {
		return errDead
	}
	err := do()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead = p.dead || last; p.dead {
		return errDead
	}
	return err
}

func (p *Process) alive() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return errDead
	}
	return nil
}

// A memory is what pkg/provision remembers of one thing.
type memory struct {
	known provision.Known
	again bool
	key   provision.HostKey
}

// Run runs the suite. Each test gets a new world from open and runs as within has it:
// in a bubble of testing/synctest, say, or just so.
func Run(t *testing.T, within func(*testing.T, func(*testing.T)), open func(*testing.T) World) {
	for name, test := range map[string]func(*testing.T, World){
		"create":            create,
		"create twice":      createTwice,
		"killed creating":   killedCreating,
		"killed changing":   killedChanging,
		"killed destroying": killedDestroying,
		"forgotten":         forgotten,
		"destroy twice":     destroyTwice,
		"drift":             drift,
		"not found":         notFound,
		"unauthorised":      unauthorised,
		"quota":             quota,
		"rate limit":        rateLimit,
		"slow":              slow,
		"interrupted":       interrupted,
		"power":             power,
		"misspelt":          misspelt,
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) { test(t, open(t)) })
		})
	}
}

func newMemory(t *testing.T, w World, token string) *memory {
	t.Helper()
	thing := w.Thing()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &memory{
		known: provision.Known{Thing: thing, Token: "nx-" + token, Secret: func(string) (string, error) { return "", nil }},
		key: provision.HostKey{
			Private: string(pem.EncodeToMemory(block)), Public: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))),
		},
	}
}

// observe takes what a provider tells.
func (m *memory) observe(f provision.Facts) {
	if f.ID != "" {
		m.known.ID = f.ID
	}
	if f.State != "" {
		m.known.State = f.State
	}
	if f.Outputs != nil {
		m.known.Outputs = f.Outputs
	}
	properties := maps.Clone(m.known.Properties)
	for name, v := range f.Properties {
		if raw := canonical(v); raw == nil {
			delete(properties, name)
		} else {
			properties[name] = raw
		}
	}
	m.known.Properties = properties
}

// work is what the provider is asked for.
func (m *memory) work(t *testing.T, p *Process, maker provision.Maker) *provision.Work {
	t.Helper()
	want := properties(t, maker, m.known.Thing)
	if m.known.ID == "" {
		m.known.Properties = want
	}
	return &provision.Work{Known: m.known, Want: want, Again: m.again, HostKey: m.key, Remember: func(f provision.Facts) error {
		if err := p.alive(); err != nil {
			return err
		}
		m.observe(f)
		return nil
	}}
}

// create has a process make the thing.
func (m *memory) create(t *testing.T, w World, p *Process) error {
	t.Helper()
	maker := w.Maker(p)
	work := m.work(t, p, maker)
	m.again = true
	f, err := maker.Create(t.Context(), work)
	if err == nil {
		err = p.alive()
	}
	if err == nil {
		m.observe(f)
	}
	hush(t, w, f, err)
	return err
}

// change has a process bring the thing to what the network wants.
func (m *memory) change(t *testing.T, w World, p *Process) error {
	t.Helper()
	maker := w.Maker(p)
	work := m.work(t, p, maker)
	f, err := maker.Update(t.Context(), work, m.differences(t, maker))
	if err == nil {
		err = p.alive()
	}
	if err == nil {
		m.observe(f)
	}
	hush(t, w, f, err)
	return err
}

func (m *memory) differences(t *testing.T, maker provision.Maker) []provision.Difference {
	t.Helper()
	list, err := maker.Properties(m.known.Thing)
	if err != nil {
		t.Fatal(err)
	}
	var all []provision.Difference
	for _, p := range list {
		from, to := canonical(json.RawMessage(m.known.Properties[p.Name])), canonical(p.Value)
		if string(from) == string(to) || p.Default && from != nil {
			continue
		}
		d := provision.Difference{Name: p.Name, From: from, To: to, Effect: maker.Effect(p.Name, from, to)}
		if d.Effect == provision.Replaces {
			t.Errorf("property %s: from %s to %s replaces it", d.Name, from, to)
		}
		all = append(all, d)
	}
	return all
}

// read asks how the thing is.
func (m *memory) read(t *testing.T, w World, p *Process) provision.Facts {
	t.Helper()
	var facts provision.Facts
	told := 0
	w.Maker(p).Read(t.Context(), []provision.Known{m.known}, func(i int, f provision.Facts, err error) {
		if told++; err != nil || i != 0 {
			t.Errorf("read: thing %d: %v", i, err)
		}
		hush(t, w, f, err)
		facts = f
	})
	if told != 1 {
		t.Errorf("read: told %d times", told)
	}
	return facts
}

func (m *memory) destroy(t *testing.T, w World, p *Process) error {
	t.Helper()
	err := w.Maker(p).Destroy(t.Context(), m.known)
	hush(t, w, provision.Facts{}, err)
	if err == nil {
		err = p.alive()
	}
	return err
}

// hush fails the test when a secret is told, and when an error is not one line.
func hush(t *testing.T, w World, f provision.Facts, err error) {
	t.Helper()
	told := fmt.Sprintf("%s %v %v %v", f.Outputs, f.Properties, f.Target, err)
	for _, secret := range w.Secrets() {
		if strings.Contains(told, secret) {
			t.Errorf("secret %q is told: %s", secret, told)
		}
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("error has more than one line: %q", err)
	}
}

// there fails the test unless the world has n things, and returns their ids.
func there(t *testing.T, w World, n int) []string {
	t.Helper()
	ids := w.IDs()
	if len(ids) != n {
		t.Fatalf("there are %q, want %d", ids, n)
	}
	return ids
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, w World) {
	m := newMemory(t, w, "one")
	maker := w.Maker(&Process{})
	work := m.work(t, &Process{}, maker)
	f, err := maker.Create(t.Context(), work)
	must(t, err)
	hush(t, w, f, err)
	if ids := there(t, w, 1); f.ID != ids[0] {
		t.Errorf("id: got %q, want %q", f.ID, ids[0])
	}
	if m.known.Type == state.Machines && m.known.ID != f.ID { // what takes its time
		t.Errorf("remembered meanwhile: got %q, want %q", m.known.ID, f.ID)
	}
	if f.State != provision.Up {
		t.Errorf("state: got %q, want %q", f.State, provision.Up)
	}
	if m.known.Type == state.Machines && f.Target.Host == "" {
		t.Error("it has no target")
	}
	var outputs map[string]any
	if err := json.Unmarshal(f.Outputs, &outputs); err != nil {
		t.Errorf("outputs %s: %v", f.Outputs, err)
	}
	m.observe(f)
	if d := m.differences(t, maker); len(d) != 0 {
		t.Errorf("made otherwise than it was wanted: %+v", d)
	}
	m.observe(m.read(t, w, &Process{}))
	if d := m.differences(t, maker); len(d) != 0 || m.known.State != provision.Up {
		t.Errorf("seen otherwise than it was made: %s %+v", m.known.State, d)
	}
}

func createTwice(t *testing.T, w World) {
	m := newMemory(t, w, "one")
	must(t, m.create(t, w, &Process{}))
	id := m.known.ID
	must(t, m.create(t, w, &Process{}))
	m.known.ID = "" // the process died before it could remember
	must(t, m.create(t, w, &Process{}))
	if ids := there(t, w, 1); m.known.ID != id || ids[0] != id {
		t.Errorf("got %q, want %q", m.known.ID, id)
	}
}

// deaths calls life with processes that die of each of their questions, and of each
// answer, until one lives through it.
func deaths(t *testing.T, life func(name string, p *Process) (done bool)) {
	for _, lost := range []bool{false, true} {
		for n := 1; ; n++ {
			if n > 1000 {
				t.Fatal("it asks without an end")
			}
			name := fmt.Sprintf("question %d", n)
			if lost {
				name = fmt.Sprintf("answer %d", n)
			}
			if life(name, &Process{dieAt: n, lost: lost}) {
				break
			}
		}
	}
}

func killedCreating(t *testing.T, w World) {
	deaths(t, func(name string, p *Process) bool {
		m := newMemory(t, w, strings.ReplaceAll(name, " ", "-"))
		err := m.create(t, w, p)
		if err != nil && !errors.Is(err, errDead) {
			t.Errorf("killed at %s: %v", name, err)
		}
		done := err == nil
		if ids := w.IDs(); len(ids) > 1 {
			t.Errorf("killed at %s: there are %q", name, ids)
		}
		if err := m.create(t, w, &Process{}); err != nil {
			t.Errorf("after a death at %s: %v", name, err)
		}
		if ids := w.IDs(); len(ids) != 1 || ids[0] != m.known.ID {
			t.Errorf("after a death at %s: there are %q, and %q is remembered", name, ids, m.known.ID)
		}
		must(t, m.destroy(t, w, &Process{}))
		there(t, w, 0)
		return done
	})
}

func killedChanging(t *testing.T, w World) {
	changes := w.Changes()
	if len(changes) == 0 {
		t.Skip("nothing can be changed")
	}
	for i, changed := range changes {
		deaths(t, func(name string, p *Process) bool {
			m := newMemory(t, w, fmt.Sprintf("%d-%s", i, strings.ReplaceAll(name, " ", "-")))
			must(t, m.create(t, w, &Process{}))
			m.known.Thing = changed
			done := m.change(t, w, p) == nil
			m.observe(m.read(t, w, &Process{}))
			if err := m.change(t, w, &Process{}); err != nil {
				t.Errorf("change %d after a death at %s: %v", i, name, err)
			}
			m.observe(m.read(t, w, &Process{}))
			if d := m.differences(t, w.Maker(&Process{})); len(d) != 0 || m.known.State != provision.Up {
				t.Errorf("change %d after a death at %s: it is %s, differences %+v", i, name, m.known.State, d)
			}
			there(t, w, 1)
			must(t, m.destroy(t, w, &Process{}))
			return done
		})
	}
}

func killedDestroying(t *testing.T, w World) {
	deaths(t, func(name string, p *Process) bool {
		m := newMemory(t, w, strings.ReplaceAll(name, " ", "-"))
		must(t, m.create(t, w, &Process{}))
		done := m.destroy(t, w, p) == nil
		if err := m.destroy(t, w, &Process{}); err != nil {
			t.Errorf("after a death at %s: %v", name, err)
		}
		there(t, w, 0)
		return done
	})
}

// forgotten destroys what was made by a process that died before it could remember.
func forgotten(t *testing.T, w World) {
	m := newMemory(t, w, "one")
	must(t, m.create(t, w, &Process{}))
	m.known.ID = ""
	must(t, m.destroy(t, w, &Process{}))
	there(t, w, 0)
}

func destroyTwice(t *testing.T, w World) {
	m := newMemory(t, w, "one")
	must(t, m.create(t, w, &Process{}))
	must(t, m.destroy(t, w, &Process{}))
	must(t, m.destroy(t, w, &Process{}))
	there(t, w, 0)
}

func drift(t *testing.T, w World) {
	m := newMemory(t, w, "one")
	must(t, m.create(t, w, &Process{}))
	name, value := w.Drift()
	if name == "" {
		t.Skip("nothing can be seen")
	}
	f := m.read(t, w, &Process{})
	if got, want := canonical(f.Properties[name]), canonical(value); string(got) != string(want) {
		t.Errorf("property %s: got %s, want %s", name, got, want)
	}
}

func notFound(t *testing.T, w World) {
	m := newMemory(t, w, "one")
	must(t, m.create(t, w, &Process{}))
	w.Lose()
	if f := m.read(t, w, &Process{}); f.State != provision.Missing {
		t.Errorf("state: got %q, want %q", f.State, provision.Missing)
	}
	must(t, m.destroy(t, w, &Process{}))
}

func unauthorised(t *testing.T, w World) { refused(t, w, Unauthorized) }

func quota(t *testing.T, w World) { refused(t, w, Quota) }

// refused holds that a creation which is refused is known to have had no effect.
func refused(t *testing.T, w World, r Refusal) {
	t.Helper()
	w.Refuse(r)
	m := newMemory(t, w, "one")
	err := m.create(t, w, &Process{})
	if !errors.Is(err, provision.ErrNotMade) {
		t.Errorf("got error %v, want one that says that nothing was made", err)
	}
	there(t, w, 0)
	w.Refuse("")
	m.again = false
	must(t, m.create(t, w, &Process{}))
	there(t, w, 1)
}

func rateLimit(t *testing.T, w World) { endured(t, w, RateLimit) }

func slow(t *testing.T, w World) { endured(t, w, Slow) }

// endured holds that what only takes its time is waited for.
func endured(t *testing.T, w World, r Refusal) {
	t.Helper()
	w.Refuse(r)
	m := newMemory(t, w, "one")
	must(t, m.create(t, w, &Process{}))
	there(t, w, 1)
	must(t, m.destroy(t, w, &Process{}))
	there(t, w, 0)
}

// interrupted holds that a creation whose context ends is gone on with.
func interrupted(t *testing.T, w World) {
	m := newMemory(t, w, "one")
	p := &Process{}
	maker := w.Maker(p)
	ctx, cancel := context.WithCancelCause(t.Context())
	work := m.work(t, p, maker)
	remember := work.Remember
	reason := errors.New("interrupted")
	work.Remember = func(f provision.Facts) error {
		err := remember(f)
		cancel(reason) // as soon as there is something to lose
		return err
	}
	m.again = true
	f, err := maker.Create(ctx, work)
	hush(t, w, f, err)
	if err != nil && !errors.Is(err, reason) {
		t.Errorf("interrupted: got error %v", err)
	}
	must(t, m.create(t, w, &Process{}))
	if ids := there(t, w, 1); ids[0] != m.known.ID {
		t.Errorf("got %q, want %q", m.known.ID, ids[0])
	}
}

func power(t *testing.T, w World) {
	m := newMemory(t, w, "one")
	must(t, m.create(t, w, &Process{}))
	powered, ok := w.Maker(&Process{}).(provision.Powered)
	if !ok {
		t.Skip("it cannot be switched")
	}
	for _, step := range []struct {
		name string
		do   func(context.Context, provision.Known) (provision.Facts, error)
		want provision.State
	}{
		{"stop", powered.Stop, provision.Stopped},
		{"stop again", powered.Stop, provision.Stopped},
		{"start", powered.Start, provision.Up},
		{"start again", powered.Start, provision.Up},
		{"reboot", powered.Reboot, provision.Up},
	} {
		f, err := step.do(t.Context(), m.known)
		if err != nil || f.State != step.want {
			t.Errorf("%s: got %q, %v, want %q", step.name, f.State, err, step.want)
		}
		m.observe(f)
		if f := m.read(t, w, &Process{}); f.State != step.want {
			t.Errorf("%s: seen %q, want %q", step.name, f.State, step.want)
		}
	}
}

// misspelt holds that an option which the provider does not know is an error.
func misspelt(t *testing.T, w World) {
	thing := w.Thing()
	var config map[string]json.RawMessage
	must(t, json.Unmarshal(thing.Config, &config))
	own := config
	if thing.Type == state.Machines {
		own = map[string]json.RawMessage{}
		must(t, json.Unmarshal(config[thing.Provider], &own))
	}
	own["misspelt"] = json.RawMessage("1")
	if thing.Type == state.Machines {
		var err error
		config[thing.Provider], err = json.Marshal(own)
		must(t, err)
	}
	var err error
	thing.Config, err = json.Marshal(config)
	must(t, err)
	if _, err := w.Maker(&Process{}).Properties(thing); err == nil || !strings.Contains(err.Error(), "misspelt") {
		t.Errorf("got error %v, want one that names the option", err)
	}
}

// properties are what the network wants, as pkg/provision has it.
func properties(t *testing.T, maker provision.Maker, thing provision.Thing) map[string]json.RawMessage {
	t.Helper()
	list, err := maker.Properties(thing)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]json.RawMessage{}
	for _, p := range list {
		if raw := canonical(p.Value); raw != nil {
			all[p.Name] = raw
		}
	}
	return all
}

// canonical is a value as JSON, nil when it is like none.
func canonical(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil || slices.Contains([]string{"null", `""`, "0", "false", "[]", "{}"}, string(raw)) {
		return nil
	}
	return raw
}
