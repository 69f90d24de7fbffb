// Package provision makes the machines and resources of a network match it: each is
// made, changed, found, checked or destroyed by its provider, and written as a record.
//
// A provider is what a machine's deployment.targetEnv or a resource's type names; each
// has a folder here and one interface, [Maker]. It asks its cloud and knows nothing
// else. What is to be done, in what order, and what must not be forgotten meanwhile,
// is decided here; it is kept in pkg/state. README.md tells the whole way of a machine.
package provision

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"nx/pkg/network"
	"nx/pkg/record"
	"nx/pkg/state"
)

// None is the deployment.targetEnv of machines that are there already, and of those
// whose network does not say.
const None = "none"

// A Provisioner acts on the machines and resources of one deployment.
type Provisioner struct {
	State     *state.State
	Machines  map[string]Maker // by deployment.targetEnv
	Resources map[string]Maker // by type
	Existing  Existing         // what has the deployment.targetEnv None

	Things []Thing // the network's; none when no network is read

	// Describe asks the network again. It may be nil.
	Describe func(ctx context.Context, facts network.Facts) ([]Thing, error)

	Dial Dialer // to machines that were made
	Root string // the tool's --root

	Allow   Allow
	Recheck bool // ask how all things are, not only those whose change was interrupted
	Jobs    int  // things at a time
	Log     *slog.Logger

	mu   sync.Mutex
	seen map[Ref]state.Entry // what was seen since, of a state that is not to be changed
}

// Wanted returns a record for each machine of the network: what apply acts on.
func (p *Provisioner) Wanted() ([]*record.Record, error) {
	var hosts []*record.Record
	for _, t := range p.Things {
		if t.Type != state.Machines {
			continue
		}
		r, err := newHost(t.Name, t.Tags)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, r)
	}
	return hosts, nil
}

// Made returns a record for each machine of the state: what destroy acts on.
func (p *Provisioner) Made() ([]*record.Record, error) {
	var hosts []*record.Record
	for _, e := range p.State.Entries(state.Machines) {
		r, err := newHost(e.Name, e.Tags)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, r)
	}
	return hosts, nil
}

// All returns a record for each machine of the network or the state: what check and
// show act on.
func (p *Provisioner) All() ([]*record.Record, error) {
	wanted, err := p.Wanted()
	if err != nil {
		return nil, err
	}
	made, err := p.Made()
	if err != nil {
		return nil, err
	}
	for _, r := range made {
		if _, ok := p.thing(Ref{state.Machines, r.Name()}); !ok {
			wanted = append(wanted, r)
		}
	}
	return wanted, nil
}

// MadeResources returns the resources of the state.
func (p *Provisioner) MadeResources() []Ref {
	var all []Ref
	for _, e := range p.State.All() {
		if e.Type != state.Machines {
			all = append(all, refOf(e))
		}
	}
	return all
}

// Apply brings the machines of hosts, and what they need, to what the network wants:
// in parallel along what they refer to, and again when something is learned that the
// network looks at, until nothing is. With everything, it makes what no machine needs,
// too, and takes care of what the network has no longer. It calls emit for each of
// hosts, and for each resource.
func (p *Provisioner) Apply(ctx context.Context, hosts []*record.Record, everything bool, emit func(*record.Record)) error {
	if !p.State.Writable() {
		return errors.New("apply: the state was not opened to be changed")
	}
	records := map[Ref]*record.Record{}
	for _, r := range hosts {
		records[Ref{state.Machines, r.Name()}] = r
	}
	g := p.newGraph(func(t Thing) bool {
		return records[t.Ref] != nil || everything && p.makes(t)
	})
	for _, t := range p.Things {
		if _, needed := g.nodes[t.Ref]; everything && t.Type != state.Machines && !p.makes(t) && !needed {
			p.log().Warn("it is not made: "+unmade(t), "host", t.Ref.String())
		}
	}
	var invalid error
	write := func(n *node) {
		r := records[n.thing.Ref]
		if r == nil {
			var err error
			if r, err = record.NewResource(n.thing.Type, n.thing.Name); err != nil {
				invalid = fmt.Errorf("name resource %s: %w", n.thing.Ref, err)
				return
			}
		}
		err := n.err
		if ferr := p.fill(r, n.thing); err == nil {
			err = ferr
		}
		if err != nil {
			r.Fail(record.Provision, err)
		}
		emit(r)
	}
	// What failed is said at once; what is done may change when more is known.
	g.failed = write
	if err := g.refresh(ctx); err != nil {
		return err
	}
	g.work(ctx, p.ensure)
	for _, ref := range slices.SortedFunc(maps.Keys(g.nodes), compareRefs) {
		if n := g.nodes[ref]; n.state != failed {
			write(n)
		}
	}
	if invalid != nil {
		return invalid
	}
	if !everything {
		// What was not chosen is still there for the network to refer to.
		resources, err := p.ShowResources(func(ref Ref) bool { _, ok := g.nodes[ref]; return !ok })
		for _, r := range resources {
			emit(r)
		}
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	return p.tidy(ctx, g)
}

// tidy destroys what the network has no longer, or says that it is there.
func (p *Provisioner) tidy(ctx context.Context, g *graph) error {
	obsolete := p.obsolete(g)
	if p.Allow.KillObsolete {
		return p.DestroyAll(ctx, obsolete)
	}
	for _, e := range obsolete {
		ref := refOf(e)
		hint := "nx-provision --kill-obsolete destroys all that the network has no longer"
		if ref.Type == state.Machines {
			hint = "run nx-provision destroy --on " + e.Name
		}
		p.log().Warn("the network has it no longer, and it is still there", "host", ref.String(), "hint", hint)
	}
	return nil
}

// obsolete are the entries of things that were made and that the network of g has no
// longer.
func (p *Provisioner) obsolete(g *graph) []state.Entry {
	var all []state.Entry
	for _, e := range p.State.All() {
		if _, ok := g.all[refOf(e)]; !ok {
			all = append(all, e)
		}
	}
	return all
}

// ensure brings one thing to what the network wants.
func (p *Provisioner) ensure(ctx context.Context, t Thing) (err error) {
	if t.Type == state.Machines && t.Provider == None {
		if e, made := p.entry(t.Ref); made {
			return &movedError{t.Name, e.Provider, t.Provider}
		}
		return nil
	}
	maker, err := p.maker(t)
	if err != nil {
		return err
	}
	e, made := p.entry(t.Ref)
	if made && e.Provider != t.Provider {
		return &movedError{t.Name, e.Provider, t.Provider}
	}
	c, err := change(maker, t, e, made)
	if err != nil {
		return err
	}
	if !p.Allow.has(c.Needs) {
		return &refusedError{c}
	}
	if c.Action != Nothing {
		end := p.step(t.Ref, actionWords[c.Action])
		defer func() { end(err) }()
	}
	begun := c.Action == Create && e.Intent == creating || c.Action == Update && e.Intent == updating
	switch c.Action {
	case Replace:
		if err := p.destroy(ctx, maker, t, e); err != nil {
			return err
		}
		e, err = p.create(ctx, maker, t, state.Entry{})
	case Create:
		e, err = p.create(ctx, maker, t, e)
	case Update:
		e, err = p.update(ctx, maker, t, e, c)
	case Start:
		e, err = p.start(ctx, maker, t, e)
	}
	if err != nil {
		return err
	}
	if begun {
		return p.ensure(ctx, t) // what was found may be as another network wanted it
	}
	if t.Type == state.Machines {
		if e, err = p.trust(ctx, t, e); err != nil {
			return err
		}
	}
	if err := p.writeIdentity(e); err != nil {
		p.log().Warn(err.Error(), "host", t.Ref.String(), "hint", "the tools that log in with it need it: nx-provision identities writes it")
	}
	e.Tags, e.Needs = sorted(t.Tags), refNames(references(t.Config))
	return p.put(e)
}

// create has t made. An entry says that it was begun before.
func (p *Provisioner) create(ctx context.Context, maker Maker, t Thing, e state.Entry) (state.Entry, error) {
	wanted, err := maker.Properties(t)
	if err != nil {
		return e, err
	}
	again := e.Intent == creating
	want := values(wanted)
	if !again {
		e = state.Entry{Type: t.Type, Name: t.Name, Provider: t.Provider, Intent: creating, Token: newToken(),
			Tags: sorted(t.Tags), Needs: refNames(references(t.Config))}
		if t.Type == state.Machines {
			private, err := NewPrivateKey(t.Name)
			if err != nil {
				return e, err
			}
			e.Secrets = map[string]state.Secret{injectedKey: state.NewSecret(private)}
		}
	}
	if e.Properties, err = asProperties(want); err != nil {
		return e, fmt.Errorf("remember %s: %w", t.Ref, err)
	}
	if err := p.put(e); err != nil {
		return e, err
	}
	w := &Work{Known: p.known(t, e), Want: want, Again: again, Remember: func(f Facts) error {
		next, err := p.observe(e, f)
		if err != nil {
			return err
		}
		e = next
		return p.put(e)
	}}
	if secret, ok := e.Secrets[injectedKey]; ok {
		if w.HostKey, err = p.hostKey(secret); err != nil {
			return e, err
		}
	}
	facts, err := maker.Create(ctx, w)
	if err != nil {
		return e, p.notCreated(ctx, t, e, again, err)
	}
	// What the provider saw goes before what was wanted: a run before this one may have
	// asked for something else.
	if e, err = p.observe(e, facts); err != nil {
		return e, err
	}
	if t.Type == state.Machines && facts.Injected {
		if e, err = withHostKeys(e, w.HostKey.Public); err != nil {
			return e, err
		}
	} else {
		e.Secrets = maps.Clone(e.Secrets)
		delete(e.Secrets, injectedKey)
	}
	e.Intent = ""
	return e, p.put(e)
}

// notCreated says what is there after a creation that failed, and forgets what is not.
func (p *Provisioner) notCreated(ctx context.Context, t Thing, e state.Entry, again bool, err error) error {
	if isNotMade(err) && !again && e.ID == "" {
		if derr := p.delete(t.Ref); derr != nil {
			return fmt.Errorf("%w; and %w", err, derr)
		}
		return err
	}
	return &unfinishedError{t.Ref, e.ID, err, ctx.Err() != nil}
}

// update brings the properties of c to what the network wants.
func (p *Provisioner) update(ctx context.Context, maker Maker, t Thing, e state.Entry, c Change) (state.Entry, error) {
	wanted, err := maker.Properties(t)
	if err != nil {
		return e, err
	}
	want := values(wanted)
	e.Intent = updating
	if err := p.put(e); err != nil {
		return e, err
	}
	w := &Work{Known: p.known(t, e), Want: want, Remember: func(f Facts) error {
		next, err := p.observe(e, f)
		if err != nil {
			return err
		}
		e = next
		return p.put(e)
	}}
	facts, err := maker.Update(ctx, w, c.Properties)
	if err != nil {
		return e, err
	}
	if e, err = p.observe(e, facts); err != nil {
		return e, err
	}
	for _, d := range c.Properties {
		if e.Properties, err = setProperty(e.Properties, d.Name, d.To); err != nil {
			return e, err
		}
	}
	e.Intent = ""
	return e, p.put(e)
}

func (p *Provisioner) start(ctx context.Context, maker Maker, t Thing, e state.Entry) (state.Entry, error) {
	powered, ok := maker.(Powered)
	if !ok {
		return e, fmt.Errorf("start machine: %s cannot do that", t.Provider)
	}
	facts, err := powered.Start(ctx, p.known(t, e))
	if err != nil {
		return e, err
	}
	if e, err = p.observe(e, facts); err != nil {
		return e, err
	}
	return e, p.put(e)
}

// destroy has what was made removed and forgets it.
func (p *Provisioner) destroy(ctx context.Context, maker Maker, t Thing, e state.Entry) error {
	e.Intent = destroying
	if err := p.put(e); err != nil {
		return err
	}
	if err := maker.Destroy(ctx, p.known(t, e)); err != nil {
		if ctx.Err() != nil {
			return &interruptedError{t.Ref, err}
		}
		return err
	}
	if err := p.removeIdentity(e); err != nil {
		return err
	}
	return p.delete(t.Ref)
}

// DestroyAll has what entries tell of destroyed, in parallel, what needs others before
// these. Errors are said and counted.
func (p *Provisioner) DestroyAll(ctx context.Context, entries []state.Entry) error {
	left := 0
	p.destroyInOrder(ctx, entries, func(e state.Entry, err error) {
		if err != nil {
			p.sayLeft(e, err)
			left++
		}
	})
	if left > 0 {
		return fmt.Errorf("destroy what the network has no longer: %d of %d are still there", left, len(entries))
	}
	return nil
}

// sayLeft says why something that has no record was not destroyed.
func (p *Provisioner) sayLeft(e state.Entry, err error) {
	attrs := []any{"host", refOf(e).String()}
	var hint interface{ Hint() string }
	if errors.As(err, &hint) && hint.Hint() != "" {
		attrs = append(attrs, "hint", hint.Hint())
	}
	p.log().Error(record.OneLine(err.Error()), attrs...)
}

// destroyInOrder destroys entries, each behind those that need it, and calls ended for
// each when it is gone or cannot go.
func (p *Provisioner) destroyInOrder(ctx context.Context, entries []state.Entry, ended func(state.Entry, error)) {
	g := &graph{p: p, nodes: map[Ref]*node{}, destroys: true}
	byRef := map[Ref]state.Entry{}
	for _, e := range entries {
		ref := refOf(e)
		byRef[ref] = e
		t, _ := p.thing(ref)
		g.nodes[ref] = &node{thing: Thing{Ref: ref, Provider: e.Provider, Tags: e.Tags, Config: t.Config}}
	}
	for _, e := range p.State.All() {
		for _, name := range e.Needs {
			if n := g.nodes[parseRef(name)]; n != nil {
				n.needs = append(n.needs, refOf(e))
			}
		}
	}
	// What stays is in the way of what it needs.
	for _, n := range g.nodes {
		for _, user := range n.needs {
			if _, going := byRef[user]; !going {
				n.thing.Err = &inUseError{user}
			}
		}
	}
	g.failed = func(n *node) { ended(byRef[n.thing.Ref], n.err) }
	g.done = g.failed
	g.work(ctx, func(ctx context.Context, t Thing) error {
		maker, err := p.maker(t)
		if err != nil {
			return err
		}
		end := p.step(t.Ref, actionWords[Destroy])
		err = p.destroy(ctx, maker, t, byRef[t.Ref])
		end(err)
		return err
	})
}

// refresh asks how those things are that are watched, and takes what it is told. What
// nobody can say of one ends that one.
func (g *graph) refresh(ctx context.Context) error {
	failures, err := g.p.read(ctx, g.watched())
	if err != nil {
		return err
	}
	for _, ref := range slices.SortedFunc(maps.Keys(failures), compareRefs) {
		g.end(g.nodes[ref], fmt.Errorf("read %s: %w", ref, failures[ref]))
	}
	return nil
}

// read asks how things are, one question for all of a provider where it can, and
// remembers what it is told. It returns why that of some is not known.
func (p *Provisioner) read(ctx context.Context, entries []state.Entry) (failures map[Ref]error, err error) {
	byMaker := map[Maker][]Known{}
	failures = map[Ref]error{}
	for _, e := range entries {
		t, _ := p.thing(refOf(e))
		t.Provider = e.Provider
		maker, err := p.maker(t)
		switch {
		case err != nil:
			failures[t.Ref] = err
		case e.Intent != creating:
			byMaker[maker] = append(byMaker[maker], p.known(t, e))
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for maker, known := range byMaker {
		wg.Go(func() {
			maker.Read(ctx, known, func(i int, f Facts, err error) {
				e, _ := p.entry(known[i].Ref)
				if err == nil {
					e, err = p.observe(e, f)
				}
				if err == nil {
					err = p.put(e)
				}
				if err != nil {
					mu.Lock()
					failures[known[i].Ref] = err
					mu.Unlock()
				}
			})
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return failures, nil
}

// watched are the entries to be read before anything is decided: those of things here,
// those whose change was interrupted, and with Recheck all.
func (g *graph) watched() []state.Entry {
	var all []state.Entry
	for ref := range g.nodes {
		e, made := g.p.entry(ref)
		if !made {
			continue
		}
		maker, _ := g.p.maker(Thing{Ref: ref, Provider: e.Provider})
		_, local := maker.(Local)
		if local || e.Intent == updating || g.p.Recheck {
			all = append(all, e)
		}
	}
	return all
}

// complete adds to t what its maker says that it lacks.
func (p *Provisioner) complete(t Thing, all []Thing) (Thing, []Thing, error) {
	maker, _ := p.maker(t)
	c, ok := maker.(Completer)
	if !ok || t.Err != nil {
		return t, nil, nil
	}
	return c.Complete(t, all)
}

// made returns what references to a thing are replaced by.
func (p *Provisioner) made(ref Ref) (string, json.RawMessage) {
	e, _ := p.entry(ref)
	return e.ID, e.Outputs
}

// Facts are what is known of the world, for the network.
func (p *Provisioner) Facts() network.Facts {
	facts := network.Facts{Machines: map[string]network.MachineFacts{}, Resources: map[string]map[string]json.RawMessage{}}
	for _, e := range p.State.All() {
		e, _ := p.entry(refOf(e))
		if e.Intent == creating || e.Intent == destroying {
			continue
		}
		if e.Type != state.Machines {
			if facts.Resources[e.Type] == nil {
				facts.Resources[e.Type] = map[string]json.RawMessage{}
			}
			facts.Resources[e.Type][e.Name] = e.Outputs
			continue
		}
		facts.Machines[e.Name] = machineFacts(e)
	}
	return facts
}

func machineFacts(e state.Entry) network.MachineFacts {
	var f network.MachineFacts
	// Members that are of another form are not for the network.
	_ = json.Unmarshal(e.Outputs, &f)
	to, err := readTarget(e.Target)
	if err == nil {
		f.TargetHost, f.HostKeys = to.Host, to.HostKeys
	}
	f.Provider = e.Provider
	return f
}

// known is what is remembered of t.
func (p *Provisioner) known(t Thing, e state.Entry) Known {
	properties, _ := object(e.Properties)
	return Known{Thing: t, ID: e.ID, Token: e.Token, State: State(e.State), Properties: properties, Outputs: e.Outputs,
		Secret: func(name string) (string, error) { return p.State.Reveal(e.Secrets[name]) }}
}

// observe returns the entry with what was seen.
func (p *Provisioner) observe(e state.Entry, f Facts) (state.Entry, error) {
	var err error
	e.ID = cmp.Or(f.ID, e.ID)
	e.State = cmp.Or(string(f.State), e.State)
	if e.Outputs, err = merge(e.Outputs, f.Outputs); err != nil {
		return e, fmt.Errorf("remember %s: outputs: %w", refOf(e), err)
	}
	for name, v := range f.Properties {
		if e.Properties, err = setProperty(e.Properties, name, canonical(v)); err != nil {
			return e, fmt.Errorf("remember %s: property %s: %w", refOf(e), name, err)
		}
	}
	if len(f.Secrets) > 0 {
		secrets := maps.Clone(e.Secrets)
		if secrets == nil {
			secrets = map[string]state.Secret{}
		}
		for name, text := range f.Secrets {
			secrets[name] = state.NewSecret(text)
		}
		e.Secrets = secrets
	}
	if f.Target.Host != "" {
		if e.Target, err = newTarget(e.Target, f.Target); err != nil {
			return e, fmt.Errorf("remember %s: %w", refOf(e), err)
		}
	}
	return e, nil
}

// thing returns what the network wants of ref.
func (p *Provisioner) thing(ref Ref) (Thing, bool) {
	i := slices.IndexFunc(p.Things, func(t Thing) bool { return t.Ref == ref })
	if i < 0 {
		return Thing{Ref: ref}, false
	}
	return p.Things[i], true
}

// makes tells whether t is a resource of a type that something makes. Of the others a
// network may have many, for all that they are not made: what refers to one fails.
func (p *Provisioner) makes(t Thing) bool {
	_, ok := p.Resources[t.Provider]
	return ok && t.Type != state.Machines
}

// unmade says why a resource is not made.
func unmade(t Thing) string { return "nothing makes resources." + t.Type }

func (p *Provisioner) maker(t Thing) (Maker, error) {
	makers := p.Resources
	if t.Type == state.Machines {
		makers = p.Machines
	}
	if m, ok := makers[t.Provider]; ok {
		return m, nil
	}
	if t.Type != state.Machines {
		return nil, fmt.Errorf("find provider: %s, and known are %q", unmade(t), slices.Sorted(maps.Keys(makers)))
	}
	known := append(slices.Collect(maps.Keys(makers)), None)
	slices.Sort(known)
	return nil, fmt.Errorf("find provider: deployment.targetEnv is %q, and known are %q", t.Provider, known)
}

// entry is what is remembered of ref, or was seen since.
func (p *Provisioner) entry(ref Ref) (state.Entry, bool) {
	p.mu.Lock()
	e, ok := p.seen[ref]
	p.mu.Unlock()
	if ok {
		return e, true
	}
	return p.State.Get(ref.Type, ref.Name)
}

// put remembers e: in a state that is only read, until the end of the process.
func (p *Provisioner) put(e state.Entry) error {
	if p.State.Writable() {
		return p.State.Put(e)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[Ref]state.Entry{}
	}
	p.seen[refOf(e)] = e
	return nil
}

func (p *Provisioner) delete(ref Ref) error { return p.State.Delete(ref.Type, ref.Name) }

// words are what an action is called while it is done, and when it was.
type words struct{ doing, did string }

var (
	actionWords = map[Action]words{Create: {"creating", "created"}, Update: {"changing", "changed"}, Replace: {"replacing", "replaced"},
		Start: {"starting", "started"}, Destroy: {"destroying", "destroyed"}}
	powerWords = map[Power]words{PowerOn: {"starting", "started"}, PowerOff: {"stopping", "stopped"}, Restart: {"rebooting", "rebooted"}}
)

// watching is the level of what is for who watches, below all that is written down.
const watching = slog.LevelDebug - 4

// step announces what is done with a thing, and each second how long that has taken,
// until what it returns is called.
func (p *Provisioner) step(ref Ref, w words) (end func(error)) {
	doing, did := w.doing, w.did
	log := p.log().With("host", ref.String())
	log.Info(doing)
	began := time.Now()
	ended := make(chan struct{})
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				log.Log(context.Background(), watching, doing, "elapsed", int(time.Since(began).Seconds()))
			case <-ended:
				return
			}
		}
	}()
	return func(err error) {
		close(ended)
		level := slog.LevelInfo
		if err != nil {
			level, did = slog.LevelDebug, "stopped "+doing // its record says why
		}
		log.Log(context.Background(), level, did, "took", time.Since(began).Round(time.Second))
	}
}

func (p *Provisioner) log() *slog.Logger {
	if p.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Log
}

func newHost(name string, tags []string) (*record.Record, error) {
	r, err := record.NewHost(name)
	if err != nil {
		return nil, fmt.Errorf("name machine %q: %w", name, err)
	}
	return r, r.AddTags(tags...)
}

func sorted(tags []string) []string { return slices.Compact(slices.Sorted(slices.Values(tags))) }
