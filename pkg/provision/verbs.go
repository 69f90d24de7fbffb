package provision

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/target"
)

// Show says what is known of the host and asks nobody.
func (p *Provisioner) Show(_ context.Context, r *record.Record) error {
	ref := Ref{state.Machines, r.Name()}
	t, _ := p.thing(ref)
	if t.Err != nil && len(missing(t.Err)) == 0 {
		return t.Err
	}
	return p.fill(r, t)
}

// ShowResources returns records of the resources that were made and that wanted, if it
// is not nil, wants.
func (p *Provisioner) ShowResources(wanted func(Ref) bool) ([]*record.Record, error) {
	var all []*record.Record
	for _, ref := range p.MadeResources() {
		if wanted != nil && !wanted(ref) {
			continue
		}
		r, err := record.NewResource(ref.Type, ref.Name)
		if err == nil {
			err = p.fill(r, Thing{Ref: ref})
		}
		if err != nil {
			return all, fmt.Errorf("show %s: %w", ref, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// Check asks how the hosts are: their providers, few questions for many, and themselves,
// whether they let us in. A host that is not as it is remembered has an error that says
// so. With everything, resources are checked too. What was seen is remembered, so that
// plan and apply can mend it. It calls emit for each, from several goroutines.
func (p *Provisioner) Check(ctx context.Context, hosts []*record.Record, everything bool, emit func(*record.Record)) error {
	before := map[Ref]state.Entry{}
	var entries []state.Entry
	take := func(ref Ref) {
		if e, ok := p.entry(ref); ok {
			entries = append(entries, e)
			before[ref] = e
		}
	}
	for _, r := range hosts {
		take(Ref{state.Machines, r.Name()})
	}
	if everything {
		for _, ref := range p.MadeResources() {
			take(ref)
		}
	}
	failures, err := p.read(ctx, entries)
	if err != nil {
		return err
	}
	if everything {
		if err := p.checkResources(before, failures, emit); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(p.Jobs, 1))
	for _, r := range hosts {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ref := Ref{state.Machines, r.Name()}
			p.log().Info("checking", "host", r.Name())
			err := failures[ref]
			if err == nil {
				err = p.check(ctx, r, before)
			} else if e, ok := before[ref]; ok {
				e.State = "" // it is not known
				t, _ := p.thing(ref)
				if ferr := p.fillMade(r, t, e); ferr != nil {
					err = ferr
				}
			}
			if err != nil {
				r.Fail(record.Provision, err)
			}
			emit(r)
		})
	}
	wg.Wait()
	return nil
}

// checkResources is Check of the resources, whose providers have been asked.
func (p *Provisioner) checkResources(before map[Ref]state.Entry, failures map[Ref]error, emit func(*record.Record)) error {
	resources, err := p.ShowResources(nil)
	if err != nil {
		return err
	}
	for _, r := range resources {
		ref := Ref{r.Type(), r.Name()}
		e, _ := p.entry(ref)
		err := failures[ref]
		if err == nil && State(e.State) == Missing {
			err = &downError{"resource", Missing}
		}
		if err == nil {
			err = setDrift(r, before[ref], e)
		}
		if err != nil {
			r.Fail(record.Provision, err)
		}
		emit(r)
	}
	return nil
}

// setDrift writes what is not as it was remembered into a record, and returns it as an
// error.
func setDrift(r *record.Record, old, now state.Entry) error {
	drift, err := drifted(old, now)
	if err != nil || len(drift) == 0 {
		return err
	}
	if err := r.Set("drift", drift); err != nil {
		return err
	}
	return &driftError{drift}
}

// check is Check of one host, whose provider has been asked.
func (p *Provisioner) check(ctx context.Context, r *record.Record, before map[Ref]state.Entry) error {
	t, _ := p.thing(Ref{state.Machines, r.Name()})
	old, made := before[t.Ref]
	switch {
	case !made && t.Err != nil:
		return t.Err
	case !made && t.Provider == None:
		facts, err := p.Existing.Check(ctx, t)
		if facts.State == "" {
			return err
		}
		if ferr := fillMachine(r, t.Provider, facts.Target, Facts{State: facts.State}); ferr != nil {
			return ferr
		}
		return err
	case !made:
		if _, err := p.maker(t); err != nil {
			return err
		}
		if err := fillMachine(r, t.Provider, target.Target{}, Facts{State: Missing}); err != nil {
			return err
		}
		return &downError{"machine", Missing}
	}
	e, _ := p.entry(t.Ref)
	if err := p.fillMade(r, t, e); err != nil {
		return err
	}
	if old.Intent == creating {
		return fmt.Errorf("check: its creation was begun and not seen to end")
	}
	if State(e.State) != Up {
		return &downError{"machine", State(e.State)}
	}
	drift := setDrift(r, old, e) // it may be why the machine does not answer
	to, err := wayTo(t, e)
	if err != nil {
		return err
	}
	if p.Dial != nil {
		at, err := p.reach(ctx, to)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if ferr := fillMachine(r, e.Provider, to, Facts{ID: e.ID, State: Unreachable, Outputs: e.Outputs}); ferr != nil {
				return ferr
			}
			return err
		}
		if e, ok := p.entry(t.Ref); ok {
			if err := p.put(reached(e, at)); err != nil {
				return err
			}
		}
	}
	return drift
}

// reach connects to a target, or to where it was before, and returns where it was
// reached.
func (p *Provisioner) reach(ctx context.Context, t target.Target) (target.Target, error) {
	conn, err := p.Dial(ctx, t)
	if err != nil && t.Previous != nil {
		if conn, perr := p.Dial(ctx, *t.Previous); perr == nil {
			return *t.Previous, conn.Close()
		}
	}
	if err != nil {
		return t, err
	}
	return t, conn.Close()
}

// drifted are the properties, addresses and states that are not as they were
// remembered.
func drifted(old, now state.Entry) ([]Difference, error) {
	var all []Difference
	for _, of := range []struct{ was, is []byte }{{old.Properties, now.Properties}, {old.Outputs, now.Outputs}} {
		was, err := object(of.was)
		if err != nil {
			return nil, err
		}
		is, err := object(of.is)
		if err != nil {
			return nil, err
		}
		var names []string
		for name := range is {
			names = append(names, name)
		}
		for name := range was {
			if _, ok := is[name]; !ok {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			if from, to := canonical(was[name]), canonical(is[name]); string(from) != string(to) {
				all = append(all, Difference{Name: name, From: from, To: to})
			}
		}
	}
	return all, nil
}

// A driftError says what of a machine is not as it was made.
type driftError struct{ drift []Difference }

func (e *driftError) Error() string {
	var what []string
	for _, d := range e.drift {
		what = append(what, fmt.Sprintf("%s is %s and was %s", d.Name, Text(d.To), Text(d.From)))
	}
	return "check: " + strings.Join(what, ", ")
}

func (e *driftError) Hint() string {
	return "it is remembered now: nx-provision plan says what the network wants to be otherwise"
}

// Destroy has what was made for a host removed and forgets it.
func (p *Provisioner) Destroy(ctx context.Context, hosts []*record.Record, everything bool, emit func(*record.Record)) error {
	records := map[Ref]*record.Record{}
	var entries []state.Entry
	for _, r := range hosts {
		ref := Ref{state.Machines, r.Name()}
		records[ref] = r
		if e, ok := p.State.Get(ref.Type, ref.Name); ok {
			entries = append(entries, e)
			continue
		}
		if err := fillMachine(r, "", target.Target{}, Facts{State: Missing}); err != nil {
			return err
		}
		emit(r)
	}
	resources, left := 0, 0
	if everything {
		for _, e := range p.State.All() {
			if e.Type != state.Machines {
				entries = append(entries, e)
				resources++
			}
		}
	}
	p.destroyInOrder(ctx, entries, func(e state.Entry, err error) {
		r := records[refOf(e)]
		if r == nil {
			if err != nil {
				p.sayLeft(e, err)
				left++
			}
			return
		}
		if err == nil {
			err = fillMachine(r, e.Provider, target.Target{}, Facts{State: Missing})
		}
		if err != nil {
			r.Fail(record.Provision, err)
		}
		emit(r)
	})
	if left > 0 {
		return fmt.Errorf("destroy resources: %d of %d are still there", left, resources)
	}
	return nil
}

// A Power is what can be done with a machine that is there.
type Power string

// What can be done.
const (
	PowerOn  Power = "start"
	PowerOff Power = "stop"
	Restart  Power = "reboot"
)

// Switch starts, stops or reboots the host.
func (p *Provisioner) Switch(ctx context.Context, r *record.Record, what Power) error {
	ref := Ref{state.Machines, r.Name()}
	t, _ := p.thing(ref)
	e, made := p.entry(ref)
	if !made {
		return fmt.Errorf("%s machine: nx-provision has not made it", what)
	}
	t.Provider = e.Provider
	maker, err := p.maker(t)
	if err != nil {
		return err
	}
	powered, ok := maker.(Powered)
	switch {
	case !ok:
		return fmt.Errorf("%s machine: %s cannot do that", what, e.Provider)
	case e.Intent == creating || e.Intent == destroying:
		return &halfError{what, e}
	}
	do := map[Power]func(context.Context, Known) (Facts, error){PowerOn: powered.Start, PowerOff: powered.Stop, Restart: powered.Reboot}[what]
	end := p.step(ref, powerWords[what])
	facts, err := do(ctx, p.known(t, e))
	end(err)
	if err != nil {
		return fmt.Errorf("%s machine: %w", what, err)
	}
	if e, err = p.observe(e, facts); err != nil {
		return err
	}
	if err := p.put(e); err != nil {
		return err
	}
	return p.fillMade(r, t, e)
}

// A halfError is that of a machine whose creation or destruction was begun and not seen
// to end.
type halfError struct {
	what  Power
	entry state.Entry
}

func (e *halfError) Error() string {
	return fmt.Sprintf("%s machine: to %s it was begun and not seen to end", e.what, e.entry.Intent)
}

func (e *halfError) Hint() string {
	return fmt.Sprintf("run nx-provision again, or nx-provision destroy --on %s", e.entry.Name)
}

// Rename lets the machine or resource old be called by another name from now on. The
// network has to call it so, too; its provider is told by the next apply.
func (p *Provisioner) Rename(old, name string) error {
	ref, err := p.find(old)
	if err != nil {
		return fmt.Errorf("rename %s: %w", old, err)
	}
	to := Ref{ref.Type, name}
	if strings.HasPrefix(name, ref.Type+".") {
		to = parseRef(name)
	}
	if _, err := record.NewHost(to.Name); err != nil {
		return fmt.Errorf("rename %s: %w", old, err)
	}
	if _, ok := p.State.Get(to.Type, to.Name); ok {
		return fmt.Errorf("rename %s: %s is there already", old, to)
	}
	e, _ := p.State.Get(ref.Type, ref.Name)
	if _, ok := e.Secrets[PrivateKey]; ok {
		if err := p.renameIdentity(e, to.Name); err != nil {
			return fmt.Errorf("rename %s: %w", old, err)
		}
	}
	if err := p.State.Rename(ref.Type, ref.Name, to.Name); err != nil {
		return err
	}
	// What was made for it bears its name, as an account's ssh key does.
	for _, e := range p.State.All() {
		if e.Type != state.Machines && e.Name == ref.Name && slices.Contains(e.Needs, to.Type+"."+to.Name) {
			if err := p.State.Rename(e.Type, e.Name, to.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Forget removes a machine or resource from the state, and leaves it where it is.
func (p *Provisioner) Forget(name string) error {
	ref, err := p.find(name)
	if err != nil {
		return fmt.Errorf("forget %s: %w", name, err)
	}
	for _, e := range p.State.All() {
		if slices.Contains(e.Needs, ref.Type+"."+ref.Name) {
			return fmt.Errorf("forget %s: %w", name, &inUseError{refOf(e)})
		}
	}
	return p.delete(ref)
}

// find returns what is remembered under a name as [Ref.String] has it.
func (p *Provisioner) find(name string) (Ref, error) {
	for _, ref := range []Ref{{state.Machines, name}, parseRef(name)} {
		if _, ok := p.State.Get(ref.Type, ref.Name); ok {
			return ref, nil
		}
	}
	var known []string
	for _, e := range p.State.All() {
		known = append(known, refOf(e).String())
	}
	return Ref{}, fmt.Errorf("nothing of that name was made, and known are %q", known)
}

// Import remembers a machine or resource that is there already, as if it had been made
// here: what its provider calls id is name. Host keys, "ssh-ed25519 AAAA…", are those
// that the user knows it by.
func (p *Provisioner) Import(ctx context.Context, provider, id, name string, hostKeys []string) (*record.Record, error) {
	ref := Ref{state.Machines, name}
	if _, ok := p.Resources[provider]; ok {
		if _, machines := p.Machines[provider]; !machines || strings.HasPrefix(name, provider+".") {
			ref = parseRef(name)
			if ref.Type != provider {
				ref = Ref{provider, name}
			}
		}
	}
	t, _ := p.thing(ref)
	t.Provider = provider
	maker, err := p.maker(t)
	if err != nil {
		return nil, err
	}
	r, err := record.NewHost(ref.Name)
	if ref.Type != state.Machines {
		r, err = record.NewResource(ref.Type, ref.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", ref, err)
	}
	for _, e := range p.State.All() {
		if refOf(e) == ref || e.Type == ref.Type && e.Provider == provider && e.ID == id {
			return nil, fmt.Errorf("import %s %s: it is remembered already, as %s", provider, id, refOf(e))
		}
	}
	e := state.Entry{Type: ref.Type, Name: ref.Name, Provider: provider, ID: id, Tags: sorted(t.Tags), Needs: refNames(references(t.Config))}
	var facts Facts
	maker.Read(ctx, []Known{p.known(t, e)}, func(_ int, f Facts, rerr error) { facts, err = f, rerr })
	switch {
	case err != nil:
		return nil, fmt.Errorf("import %s: %w", ref, err)
	case facts.State == Missing:
		return nil, fmt.Errorf("import %s: %s has no %s", ref, provider, id)
	}
	if e, err = p.observe(e, facts); err != nil {
		return nil, err
	}
	if len(hostKeys) > 0 {
		if e, err = withHostKeys(e, hostKeys...); err != nil {
			return nil, fmt.Errorf("import %s: %w", ref, err)
		}
	}
	if err := p.put(e); err != nil {
		return nil, err
	}
	return r, p.fill(r, Thing{Ref: ref, Provider: provider, Config: t.Config})
}
