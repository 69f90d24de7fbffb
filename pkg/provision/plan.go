package provision

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"nx/pkg/record"
	"nx/pkg/state"
)

// A Step is one line of a plan: what would be done with a thing, or why that cannot be
// said.
type Step struct {
	Change
	Err error // the network could not say what it wants, or its provider how it is
}

// Plan returns what [Provisioner.Apply] would do with the machines that chosen
// chooses and what they need, in the order of their names, and with everything also
// with the rest. It asks only those providers whose things are here, and changes
// nothing. What depends on something that is not made yet has no properties, and why.
func (p *Provisioner) Plan(ctx context.Context, chosen func(name string) bool, everything bool) ([]Step, error) {
	g := p.newGraph(func(t Thing) bool {
		return t.Type == state.Machines && chosen(t.Name) || everything && p.makes(t)
	})
	if err := g.refresh(ctx); err != nil {
		return nil, err
	}
	var steps []Step
	for _, ref := range slices.SortedFunc(maps.Keys(g.nodes), compareRefs) {
		if n := g.nodes[ref]; n.err != nil {
			steps = append(steps, Step{Change: Change{Ref: ref}, Err: n.err})
		} else {
			steps = append(steps, p.plan(n.thing))
		}
	}
	if slices.ContainsFunc(steps, func(s Step) bool { return s.Action == Create }) {
		for i, s := range steps {
			if s.Err != nil && evaluated(s.Err) {
				steps[i].Err = &earlyError{s.Err}
			}
		}
	}
	if everything {
		for _, t := range p.Things {
			if _, needed := g.nodes[t.Ref]; t.Type != state.Machines && !p.makes(t) && !needed {
				steps = append(steps, Step{Change: Change{Ref: t.Ref, Why: unmade(t)}})
			}
		}
		for _, e := range p.obsolete(g) {
			steps = append(steps, Step{Change: Change{Ref: refOf(e), Action: Destroy, Needs: killObsolete, Why: "the network has it no longer"}})
		}
	}
	return steps, nil
}

// An earlyError is that of options which may be fine when more is made.
type earlyError struct{ error }

func (e *earlyError) Unwrap() error { return e.error }

func (e *earlyError) Hint() string {
	var own interface{ Hint() string }
	if errors.As(e.error, &own) && own.Hint() != "" {
		return own.Hint()
	}
	return "an address that is not known yet is null: if that is why, apply makes what has it first, and then this"
}

// plan is what would be done with one thing.
func (p *Provisioner) plan(t Thing) Step {
	e, made := p.entry(t.Ref)
	if refs := missing(t.Err); len(refs) > 0 {
		return Step{Change: Change{Ref: t.Ref, Why: fmt.Sprintf("known when %s is made", refs[0])}}
	}
	if t.Err != nil {
		return Step{Change: Change{Ref: t.Ref}, Err: t.Err}
	}
	if t.Type == state.Machines && t.Provider == None {
		s := Step{Change: Change{Ref: t.Ref}}
		if made {
			s.Err = &movedError{t.Name, e.Provider, t.Provider}
		}
		return s
	}
	maker, err := p.maker(t)
	if err == nil && made && e.Provider != t.Provider {
		err = &movedError{t.Name, e.Provider, t.Provider}
	}
	if err != nil {
		return Step{Change: Change{Ref: t.Ref}, Err: err}
	}
	t.Config = resolve(t.Config, p.made)
	c, err := change(maker, t, e, made)
	return Step{c, err}
}

// Record writes a step into the record of its thing: change has action, properties,
// why and needs, and is absent when nothing would be done.
func (p *Provisioner) Record(s Step) (*record.Record, error) {
	var r *record.Record
	var err error
	t, _ := p.thing(s.Ref)
	if s.Type == state.Machines {
		r, err = newHost(s.Name, t.Tags)
	} else {
		r, err = record.NewResource(s.Type, s.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("name %s: %w", s.Ref, err)
	}
	if s.Err == nil {
		s.Err = p.fill(r, t)
	}
	if s.Err != nil {
		r.Fail(record.Provision, s.Err)
	}
	if s.Action == Nothing && s.Why == "" {
		return r, nil
	}
	return r, r.Set("change", struct {
		Action     Action       `json:"action,omitempty"`
		Properties []Difference `json:"properties,omitempty"`
		Why        string       `json:"why,omitempty"`
		Needs      string       `json:"needs,omitempty"`
	}{s.Action, s.Properties, s.Why, s.Needs})
}
