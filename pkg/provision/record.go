package provision

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"nx/pkg/network"
	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/target"
)

// Things are the machines and resources that a network describes.
func Things(d *network.Description) []Thing {
	var all []Thing
	for _, m := range d.Machines {
		t := Thing{Ref: Ref{state.Machines, m.Name}, Tags: m.Tags, Config: m.Deployment, Err: m.Err}
		if t.Err == nil {
			t.Provider, t.Err = targetEnv(t)
		}
		all = append(all, t)
	}
	for _, r := range d.Resources {
		all = append(all, Thing{Ref: Ref{r.Type, r.Name}, Provider: r.Type, Config: r.Config, Err: r.Err})
	}
	return all
}

func targetEnv(t Thing) (string, error) {
	var d struct {
		TargetEnv string `json:"targetEnv"`
	}
	if err := t.Decode(&d); err != nil {
		return "", err
	}
	return cmp.Or(d.TargetEnv, None), nil
}

// fill writes what is known of a thing into its record.
func (p *Provisioner) fill(r *record.Record, t Thing) error {
	e, made := p.entry(t.Ref)
	switch {
	case t.Type != state.Machines:
		if !made || e.Intent == creating {
			return nil
		}
		outputs := e.Outputs
		if outputs == nil {
			outputs = json.RawMessage("{}")
		}
		return r.Set("outputs", outputs)
	case made:
		return p.fillMade(r, t, e)
	case t.Provider == None && t.Err == nil:
		facts, err := p.Existing.Describe(t)
		if err != nil {
			return err
		}
		return fillMachine(r, t.Provider, facts.Target, Facts{})
	}
	return nil
}

func (p *Provisioner) fillMade(r *record.Record, t Thing, e state.Entry) error {
	to, err := wayTo(t, e)
	if err != nil {
		return err
	}
	return fillMachine(r, e.Provider, to, Facts{ID: e.ID, State: State(e.State), Outputs: e.Outputs})
}

// fillMachine writes target and machine.
func fillMachine(r *record.Record, provider string, to target.Target, f Facts) error {
	if to.Host != "" {
		if err := to.Validate(); err != nil {
			return fmt.Errorf("describe target: %w", err)
		}
		if err := r.Set("target", asJSON(to)); err != nil {
			return err
		}
	}
	own, err := json.Marshal(struct {
		Provider string `json:"provider,omitempty"`
		ID       string `json:"id,omitempty"`
		State    State  `json:"state,omitempty"`
	}{provider, f.ID, f.State})
	if err != nil {
		return err
	}
	outputs, err := ordered(f.Outputs)
	if err != nil {
		return fmt.Errorf("describe machine: %w", err)
	}
	return r.Set("machine", json.RawMessage(join(own, outputs)))
}

// machineMembers are those of a record's machine that all providers may give, in the
// order in which they are written; a provider's own come behind them, sorted.
var machineMembers = []string{"publicIPv4", "publicIPv6", "privateIPv4", "privateIPv6", "region", "os", "stateVersion", "authorizedKeys"}

// ordered returns the members of outputs as JSON has them between its braces.
func ordered(outputs json.RawMessage) ([]byte, error) {
	all, err := object(outputs)
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range all {
		names = append(names, name)
	}
	rank := func(name string) int {
		if i := slices.Index(machineMembers, name); i >= 0 {
			return i
		}
		return len(machineMembers)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b)) })
	var members []string
	for _, name := range names {
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		members = append(members, string(key)+":"+string(all[name]))
	}
	return []byte(strings.Join(members, ",")), nil
}

// join returns the object own with more members.
func join(own, members []byte) []byte {
	if len(members) == 0 {
		return own
	}
	b := own[:len(own)-1]
	if len(b) > 1 {
		b = append(b, ',')
	}
	return append(append(b, members...), '}')
}

// place is a target as records and the state have it.
type place struct {
	Host         string   `json:"host"`
	Port         int      `json:"port,omitempty"`
	User         string   `json:"user,omitempty"`
	HostKeys     []string `json:"hostKeys,omitempty"`
	IdentityFile string   `json:"identityFile,omitempty"`
	Sudo         []string `json:"sudo,omitempty"`
	ProxyJump    string   `json:"proxyJump,omitempty"`
	Previous     *place   `json:"previous,omitempty"`
}

func asPlace(t target.Target) *place {
	p := &place{t.Host, t.Port, t.User, t.HostKeys, t.IdentityFile, t.Sudo, t.ProxyJump, nil}
	if t.Previous != nil {
		p.Previous = asPlace(*t.Previous)
	}
	return p
}

func (p *place) target() target.Target {
	t := target.Target{Host: p.Host, Port: p.Port, User: p.User, HostKeys: p.HostKeys, IdentityFile: p.IdentityFile, Sudo: p.Sudo, ProxyJump: p.ProxyJump}
	if p.Previous != nil {
		previous := p.Previous.target()
		t.Previous = &previous
	}
	return t
}

func asJSON(t target.Target) json.RawMessage {
	b, err := json.Marshal(asPlace(t))
	if err != nil {
		panic(err) // strings and numbers only
	}
	return b
}

func readTarget(raw json.RawMessage) (target.Target, error) {
	if len(raw) == 0 {
		return target.Target{}, errors.New("where it is reached is not known")
	}
	var p place
	if err := json.Unmarshal(raw, &p); err != nil {
		return target.Target{}, fmt.Errorf("read the state's target: %w", err)
	}
	return p.target(), nil
}

// newTarget is where a machine is as its provider says, with the host keys that are
// known of it where the provider knows none.
func newTarget(old json.RawMessage, t target.Target) (json.RawMessage, error) {
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("describe target: %w", err)
	}
	if before, err := readTarget(old); err == nil {
		if len(t.HostKeys) == 0 {
			t.HostKeys = before.HostKeys
		}
		t.IdentityFile = cmp.Or(t.IdentityFile, before.IdentityFile)
	}
	return asJSON(t), nil
}

func withHostKeys(e state.Entry, keys ...string) (state.Entry, error) {
	t, err := readTarget(e.Target)
	if err != nil {
		return e, err
	}
	t.HostKeys = keys
	e.Target = asJSON(t)
	return e, t.Validate()
}

// wayTo is how a machine that was made is reached: as its provider says, at the port
// and as the user that the network says; or, when that is new, as it was reached last.
func wayTo(t Thing, e state.Entry) (target.Target, error) {
	if len(e.Target) == 0 {
		return target.Target{}, nil
	}
	to, err := readTarget(e.Target)
	if err != nil {
		return to, err
	}
	var o struct {
		TargetPort int      `json:"targetPort"`
		TargetUser string   `json:"targetUser"`
		Sudo       []string `json:"privilegeEscalationCommand"`
	}
	if err := t.Decode(&o); err != nil {
		return to, err
	}
	if o.TargetPort != 0 && o.TargetPort != target.DefaultPort {
		to.Port = o.TargetPort
	}
	if o.TargetUser != "" && o.TargetUser != target.DefaultUser {
		to.User, to.Sudo = o.TargetUser, o.Sudo
	}
	if last, err := readTarget(e.Reached); err == nil && !samePlace(last, to) {
		last.HostKeys, last.IdentityFile = to.HostKeys, to.IdentityFile
		to.Previous = &last
	}
	return to, nil
}

func samePlace(a, b target.Target) bool {
	return a.Host == b.Host && cmp.Or(a.Port, target.DefaultPort) == cmp.Or(b.Port, target.DefaultPort) &&
		cmp.Or(a.User, target.DefaultUser) == cmp.Or(b.User, target.DefaultUser)
}

// reached returns the entry with where the machine was reached.
func reached(e state.Entry, t target.Target) state.Entry {
	e.Reached = asJSON(target.Target{Host: t.Host, Port: t.Port, User: t.User, Sudo: t.Sudo})
	return e
}

func refOf(e state.Entry) Ref { return Ref{e.Type, e.Name} }

// refNames are refs as the state has them: "machines.web1", "sshKeyPairs.ssh-key".
func refNames(refs []Ref) []string {
	var names []string
	for _, r := range refs {
		names = append(names, r.Type+"."+r.Name)
	}
	return names
}

func parseRef(s string) Ref {
	typ, name, _ := strings.Cut(s, ".")
	return Ref{typ, name}
}

func setProperty(properties json.RawMessage, name string, value json.RawMessage) (json.RawMessage, error) {
	all, err := object(properties)
	if err != nil {
		return nil, err
	}
	if value == nil {
		delete(all, name)
	} else {
		all[name] = value
	}
	return asProperties(all)
}

// asProperties are as the state has them.
func asProperties(all map[string]json.RawMessage) (json.RawMessage, error) {
	if len(all) == 0 {
		return nil, nil
	}
	return json.Marshal(all)
}
