// Package exec is the provider of machines and resources that any program makes:
// deployment.targetEnv = "exec" and resources.exec. For each operation it starts the
// program, gives it one line of JSON and reads lines of JSON. README.md is the protocol,
// for who writes such a program.
package exec

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

	"nx/pkg/provision"
	"nx/pkg/state"
)

// Env is the deployment.targetEnv of the machines, and the type of the resources.
const Env = "exec"

// A Provider starts programs.
type Provider struct {
	Root string // where they run: the tool's --root
	Jobs int    // how many at a time to read how things are; 0 is one
	Log  *slog.Logger

	through func(run func() error) error // what a test puts around each program
}

// Options that are no properties: what nx itself needs to know.
const (
	commandOption  = "command"   // what is started
	outputsOption  = "outputs"   // of a resource: the outputs that it will have, for who waits for them
	replaceOption  = "replaceOn" // the properties whose change replaces the thing
	rebootOption   = "rebootOn"  // those whose change reboots the machine
	optionsOfThing = "deployment." + Env
)

// options returns all options of a thing; none when only the state knows it.
func options(t provision.Thing) (all map[string]json.RawMessage, err error) {
	if t.Type == state.Machines {
		var d map[string]json.RawMessage
		if err := t.Decode(&d); err != nil {
			return nil, err
		}
		t.Config = d[Env]
	}
	if len(t.Config) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(t.Config, &all); err != nil {
		return nil, fmt.Errorf("read options: %s: %w", where(t), err)
	}
	return all, nil
}

func where(t provision.Thing) string {
	if t.Type == state.Machines {
		return optionsOfThing
	}
	return "resources." + t.Ref.String()
}

// Properties are all options but nx's own, and the command, which is remembered so that
// the thing can be destroyed without the network.
func (p *Provider) Properties(t provision.Thing) ([]provision.Property, error) {
	all, err := options(t)
	if err != nil || all == nil {
		return nil, err
	}
	command, err := words(all[commandOption])
	if err != nil {
		return nil, fmt.Errorf("read options: %s.command: %w", where(t), err)
	}
	effects := map[string]provision.Effect{}
	for option, effect := range map[string]provision.Effect{rebootOption: provision.Reboots, replaceOption: provision.Replaces} {
		if effect == provision.Reboots && t.Type != state.Machines && all[option] != nil {
			return nil, fmt.Errorf("read options: %s.%s: only a machine reboots", where(t), option)
		}
		names, err := list(all[option])
		if err != nil {
			return nil, fmt.Errorf("read options: %s.%s: %w", where(t), option, err)
		}
		for _, name := range names {
			if _, ok := all[name]; !ok || own(name) {
				return nil, fmt.Errorf("read options: %s.%s: it has no %q", where(t), option, name)
			}
			if effects[name] != provision.Replaces {
				effects[name] = effect
			}
		}
	}
	if _, err := list(all[outputsOption]); err != nil {
		return nil, fmt.Errorf("read options: %s.%s: %w", where(t), outputsOption, err)
	}
	properties := []provision.Property{{Name: commandOption, Value: command}}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !own(name) {
			properties = append(properties, provision.Property{Name: name, Value: all[name], Effect: cmp.Or(effects[name], provision.InPlace)})
		}
	}
	return properties, nil
}

func own(option string) bool {
	return slices.Contains([]string{commandOption, outputsOption, replaceOption, rebootOption}, option)
}

func list(raw json.RawMessage) (all []string, err error) {
	if len(raw) > 0 && json.Unmarshal(raw, &all) != nil {
		return nil, errors.New("it is no list of strings")
	}
	return all, nil
}

// words are the command's.
func words(raw json.RawMessage) ([]string, error) {
	all, err := list(raw)
	if err == nil && (len(all) == 0 || all[0] == "") {
		err = errors.New("it names no program")
	}
	return all, err
}

// Effect is asked for what the network does not have any longer: the program is to
// take it away where it stands.
func (p *Provider) Effect(string, json.RawMessage, json.RawMessage) provision.Effect {
	return provision.InPlace
}

// Create has the program make the thing.
func (p *Provider) Create(ctx context.Context, w *provision.Work) (provision.Facts, error) {
	r := p.request("create", w.Known, w.Want)
	r.Again = w.Again
	if w.HostKey.Private != "" {
		r.HostKey = &hostKey{Private: w.HostKey.Private, Public: w.HostKey.Public}
	}
	return p.ask(ctx, r, w.Known, w.Want, w.Remember)
}

// Update has the program change the thing. That another program is named needs none.
func (p *Provider) Update(ctx context.Context, w *provision.Work, changes []provision.Difference) (provision.Facts, error) {
	r := p.request("update", w.Known, w.Want)
	for _, d := range changes {
		if d.Name != commandOption {
			r.Changed = append(r.Changed, d.Name)
		}
	}
	if len(changes) > 0 && len(r.Changed) == 0 {
		return provision.Facts{}, nil
	}
	return p.ask(ctx, r, w.Known, w.Want, w.Remember)
}

// Read asks a program for each thing.
func (p *Provider) Read(ctx context.Context, known []provision.Known, tell func(int, provision.Facts, error)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(p.Jobs, 1))
	for i, k := range known {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f, err := p.do(ctx, "read", k)
			tell(i, f, err)
		})
	}
	wg.Wait()
}

// Destroy has the program remove the thing.
func (p *Provider) Destroy(ctx context.Context, k provision.Known) error {
	_, err := p.do(ctx, "destroy", k)
	return err
}

// Start has the program switch the machine on.
func (p *Provider) Start(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return p.do(ctx, "start", k)
}

// Stop has the program switch the machine off.
func (p *Provider) Stop(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return p.do(ctx, "stop", k)
}

// Reboot has the program reboot the machine.
func (p *Provider) Reboot(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return p.do(ctx, "reboot", k)
}

func (p *Provider) do(ctx context.Context, op string, k provision.Known) (provision.Facts, error) {
	return p.ask(ctx, p.request(op, k, k.Properties), k, k.Properties, nil)
}

func (p *Provider) request(op string, k provision.Known, properties map[string]json.RawMessage) request {
	r := request{NX: 1, Op: op, Kind: "resource", Name: k.Name, Token: k.Token, ID: k.ID, Outputs: k.Outputs, Properties: map[string]json.RawMessage{}}
	if k.Type == state.Machines {
		r.Kind = host
	}
	for name, v := range properties {
		if name != commandOption {
			r.Properties[name] = v
		}
	}
	return r
}

// ask starts the program that the network names, or that made the thing, and returns
// the facts of its result. Remember is nil for what makes nothing.
func (p *Provider) ask(ctx context.Context, r request, k provision.Known, properties map[string]json.RawMessage, remember func(provision.Facts) error) (provision.Facts, error) {
	var f provision.Facts
	all, err := options(k.Thing)
	if err != nil {
		return f, err
	}
	command := all[commandOption]
	if len(command) == 0 {
		command = properties[commandOption]
	}
	argv, err := words(command)
	if err != nil {
		return f, &refused{error: fmt.Errorf("%s %s: its command is not known", r.Op, k.Ref), hint: "name the network with -f: it says the command"}
	}
	// What the program says of properties that nobody asked it for is its own affair.
	wanted := func(name string) bool {
		_, made := properties[name]
		_, named := all[name]
		return (made || named) && !own(name)
	}
	var last *answer
	run := func() error {
		said := func(a *answer) error {
			switch {
			case a.Message != nil:
				p.log(k.Ref).Info(oneLine(*a.Message))
				return nil
			case a.Remember != nil:
				if remember == nil {
					return fmt.Errorf("it says to remember something, and was asked to %s", r.Op)
				}
				early, err := a.Remember.facts(r.Kind, wanted)
				if err == nil {
					err = sameID(cmp.Or(f.ID, r.ID), early.ID)
				}
				if err != nil {
					return err
				}
				f.ID = cmp.Or(early.ID, f.ID)
				return remember(early)
			case last != nil:
				return errors.New("it says more than one result")
			}
			last = a
			return nil
		}
		return p.start(ctx, argv, r, k.Ref, said, &last)
	}
	if p.through != nil {
		err = p.through(run)
	} else {
		err = run()
	}
	if err == nil {
		id := f.ID
		if f, err = last.result(r, wanted); err == nil {
			if err = sameID(cmp.Or(id, r.ID), f.ID); err == nil {
				f.ID = cmp.Or(f.ID, id)
				err = complete(r, f)
			}
		}
	}
	if err != nil {
		return provision.Facts{}, fmt.Errorf("run %s %s: %w", argv[0], r.Op, err)
	}
	if r.Op == "read" {
		if f.Properties == nil {
			f.Properties = map[string]any{}
		}
		f.Properties[commandOption] = argv
	}
	return f, nil
}

// sameID refuses another id than is known; "" is not known, or not said.
func sameID(known, said string) error {
	if known != "" && said != "" && known != said {
		return fmt.Errorf("it says the id %q, and it is %q", said, known)
	}
	return nil
}

// complete says what a result lacks.
func complete(r request, f provision.Facts) error {
	switch {
	case r.Op != "create" && r.Op != "update":
		return nil
	case f.ID == "" && r.ID == "":
		return errors.New("it says no id")
	case f.State == provision.Missing:
		return errors.New("it says that what it made is missing")
	case r.Op == "create" && r.Kind == host && f.Target.Host == "":
		return errors.New("it says no target.host: where ssh reaches the machine")
	}
	return nil
}

// log is for what is about one machine or resource.
func (p *Provider) log(ref provision.Ref) *slog.Logger {
	l := p.Log
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return l.With("host", ref.String())
}
