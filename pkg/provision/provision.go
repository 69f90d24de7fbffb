// Package provision turns the machines of a network into hosts: it has each made,
// found, checked or destroyed by its provider and writes its record.
//
// A provider is what deployment.targetEnv names; each has a folder here and one
// interface, [Provider]. What a machine is and where, only its provider knows; what
// was made and must not be forgotten is kept in pkg/state.
package provision

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/target"
)

// A Machine is what the network says of one.
type Machine struct {
	Name       string
	Deployment json.RawMessage // config.deployment; empty when only the state knows the machine
	Tags       []string
	Err        error // why the network could not say it
}

// A Host is a machine as its provider knows it.
type Host struct {
	Target target.Target // zero when the machine is missing
	ID     string        // the provider's name for it
	State  State         // "" when nobody asked

	PublicIPv4, PublicIPv6, PrivateIPv4 string // "" when it has none or it is not known

	// AuthorizedKeys are the public halves, "ssh-ed25519 AAAA…", of keys that
	// were generated for root to log in with.
	AuthorizedKeys []string
}

// A State is whether a machine is there and reachable.
type State string

// The states of machines.
const (
	Up          State = "up"
	Stopped     State = "stopped"
	Unreachable State = "unreachable" // it is there, but does not answer
	Missing     State = "missing"
)

// A Provider makes the machines of one deployment.targetEnv. Its methods are called
// concurrently, for one machine by one at a time.
//
// known is what [Provider.Ensure] remembered last of this machine, nil when nothing
// was ever remembered. A provider that makes nothing remembers nothing.
type Provider interface {
	// Ensure brings the machine into being, running and as m says, and returns it.
	// It calls remember before it asks for anything that would otherwise be lost
	// when the process dies while asking, and again when more is known; the facts
	// are an object and hold no secret and no absolute path. Called again after
	// whatever ended it, with what it remembered last, it finds what it made: it
	// never makes a second one.
	Ensure(ctx context.Context, m Machine, known json.RawMessage, remember func(facts any) error) (Host, error)

	// Check asks how the machine is and changes nothing. A machine that is not
	// there is [Missing], not an error; an error beside a state says why it is so.
	Check(ctx context.Context, m Machine, known json.RawMessage) (Host, error)

	// Describe returns what can be said of the machine without asking anybody.
	Describe(m Machine, known json.RawMessage) (Host, error)

	// Destroy removes what Ensure made. What is not there is destroyed already.
	Destroy(ctx context.Context, name string, known json.RawMessage) error
}

// A Memory keeps what was made. [state.State] is the one; reading verbs take one
// that was only read.
type Memory interface {
	Get(typ, name string) (state.Entry, bool)
	Entries(typ string) []state.Entry
	Put(e state.Entry) error
	Delete(typ, name string) error
}

// DefaultProvider is who a machine belongs to whose network does not say.
const DefaultProvider = "none"

// A Provisioner acts on the machines of one deployment. Its verbs, [Provisioner.Apply],
// Check, Show and Destroy, each act on one host and fill in its record; which hosts
// that are, [Provisioner.Wanted], Made and All say.
type Provisioner struct {
	Machines  []Machine // the network's; none when there is no network file
	State     Memory
	Providers map[string]Provider // by deployment.targetEnv
	Log       *slog.Logger        // may be nil
}

// Wanted returns a record for each machine of the network: what apply acts on. A
// machine that the network could not describe has its error already.
func (p *Provisioner) Wanted() ([]*record.Record, error) {
	var hosts []*record.Record
	for _, m := range p.Machines {
		r, err := newHost(m.Name, m.Tags)
		if err != nil {
			return nil, err
		}
		if m.Err != nil {
			r.Fail(record.Provision, m.Err)
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
		if _, ok := p.machine(r.Name()); !ok {
			wanted = append(wanted, r)
		}
	}
	return wanted, nil
}

// Obsolete returns the names of the machines that were made and that the network has
// no longer. Only destroy removes them.
func (p *Provisioner) Obsolete() []string {
	var names []string
	for _, e := range p.State.Entries(state.Machines) {
		if _, ok := p.machine(e.Name); !ok {
			names = append(names, e.Name)
		}
	}
	return names
}

// Apply has the host made or found, and running.
func (p *Provisioner) Apply(ctx context.Context, r *record.Record) error {
	m, provider, entry, err := p.look(r.Name())
	if err != nil {
		return err
	}
	p.log().Info("applying", "host", m.Name, "provider", entry.Provider)
	remember := func(facts any) error {
		raw, err := json.Marshal(facts)
		if err != nil {
			return fmt.Errorf("remember machine %s: %w", m.Name, err)
		}
		entry.Outputs, entry.Tags = raw, sorted(m.Tags)
		return p.State.Put(entry)
	}
	host, err := provider.Ensure(ctx, m, entry.Outputs, remember)
	if err != nil {
		return err
	}
	if err := fill(r, entry.Provider, host); err != nil {
		return err
	}
	p.log().Info("applied", "host", m.Name, "target", host.Target.Host)
	return nil
}

// Check asks the host's provider how it is. A host that is not up has its state in
// the record, and an error.
func (p *Provisioner) Check(ctx context.Context, r *record.Record) error {
	m, provider, entry, err := p.look(r.Name())
	if err != nil {
		return err
	}
	p.log().Info("checking", "host", m.Name, "provider", entry.Provider)
	host, err := provider.Check(ctx, m, entry.Outputs)
	if host.State == "" {
		return err
	}
	if ferr := fill(r, entry.Provider, host); ferr != nil {
		return ferr
	}
	if err == nil && host.State != Up {
		err = &downError{host.State}
	}
	return err
}

// A downError says that a machine is not up.
type downError struct{ state State }

func (e *downError) Error() string { return "check machine: it is " + string(e.state) }

func (e *downError) Hint() string { return "nx-provision apply makes and starts machines" }

// Show says what is known of the host and asks nobody.
func (p *Provisioner) Show(_ context.Context, r *record.Record) error {
	m, provider, entry, err := p.look(r.Name())
	if err != nil {
		return err
	}
	host, err := provider.Describe(m, entry.Outputs)
	if err != nil {
		return err
	}
	return fill(r, entry.Provider, host)
}

// Destroy has what was made removed and forgets it.
func (p *Provisioner) Destroy(ctx context.Context, r *record.Record) error {
	entry, ok := p.State.Get(state.Machines, r.Name())
	if ok {
		provider, err := p.provider(entry.Provider)
		if err != nil {
			return err
		}
		p.log().Info("destroying", "host", entry.Name, "provider", entry.Provider)
		if err := provider.Destroy(ctx, entry.Name, entry.Outputs); err != nil {
			return err
		}
		if err := p.State.Delete(state.Machines, entry.Name); err != nil {
			return err
		}
		p.log().Info("destroyed", "host", entry.Name)
	}
	return fill(r, entry.Provider, Host{State: Missing})
}

// look finds what network and state say of a machine, and who provides it. The entry
// is the state's, or the beginning of one.
func (p *Provisioner) look(name string) (Machine, Provider, state.Entry, error) {
	m, wanted := p.machine(name)
	entry, made := p.State.Get(state.Machines, name)
	if !wanted {
		m = Machine{Name: name, Tags: entry.Tags}
	}
	env := entry.Provider
	if wanted {
		var err error
		if env, err = targetEnv(m); err != nil {
			return m, nil, entry, err
		}
	}
	switch {
	case !made:
		entry = state.Entry{Type: state.Machines, Name: name, Provider: env}
	case env != entry.Provider:
		return m, nil, entry, &movedError{name, entry.Provider, env}
	}
	provider, err := p.provider(env)
	return m, provider, entry, err
}

func (p *Provisioner) machine(name string) (Machine, bool) {
	i := slices.IndexFunc(p.Machines, func(m Machine) bool { return m.Name == name })
	if i < 0 {
		return Machine{}, false
	}
	return p.Machines[i], true
}

func (p *Provisioner) provider(env string) (Provider, error) {
	if provider, ok := p.Providers[env]; ok {
		return provider, nil
	}
	return nil, fmt.Errorf("find provider: deployment.targetEnv is %q, and known are %q",
		env, slices.Sorted(maps.Keys(p.Providers)))
}

func (p *Provisioner) log() *slog.Logger {
	if p.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Log
}

// A movedError says that the network names another provider than the machine has.
type movedError struct{ name, from, to string }

func (e *movedError) Error() string {
	return fmt.Sprintf("find provider of %s: it was made by %s, and deployment.targetEnv is now %q", e.name, e.from, e.to)
}

func (e *movedError) Hint() string {
	return "if it may go, run nx-provision destroy --on " + e.name + " first"
}

func targetEnv(m Machine) (string, error) {
	var d struct {
		TargetEnv string `json:"targetEnv"`
	}
	if err := m.Decode(&d); err != nil {
		return "", err
	}
	return cmp.Or(d.TargetEnv, DefaultProvider), nil
}

// Decode reads the machine's deployment options into v as [json.Unmarshal] does. A
// machine that only the state knows leaves v as it is.
func (m Machine) Decode(v any) error {
	if len(m.Deployment) == 0 {
		return nil
	}
	err := json.Unmarshal(m.Deployment, v)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Errorf("read options: deployment.%s is a %s", wrong.Field, wrong.Value)
	}
	if err != nil {
		return fmt.Errorf("read options: deployment: %w", err)
	}
	return nil
}

// DecodeStrict reads the options deployment.env of one provider into v. An option
// that v does not have is an error: most likely it is misspelt.
func (m Machine) DecodeStrict(env string, v any) error {
	var all map[string]json.RawMessage
	if err := m.Decode(&all); err != nil {
		return err
	}
	if len(all[env]) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(all[env]))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("read options: deployment.%s: %w", env, err)
	}
	return nil
}

func newHost(name string, tags []string) (*record.Record, error) {
	r, err := record.NewHost(name)
	if err != nil {
		return nil, fmt.Errorf("name machine %q: %w", name, err)
	}
	return r, r.AddTags(tags...)
}

func sorted(tags []string) []string { return slices.Compact(slices.Sorted(slices.Values(tags))) }

// fill writes what is known of a host into its record.
func fill(r *record.Record, provider string, h Host) error {
	if h.Target.Host != "" {
		if err := h.Target.Validate(); err != nil {
			return fmt.Errorf("describe target: %w", err)
		}
		t := struct {
			Host         string   `json:"host"`
			Port         int      `json:"port,omitempty"`
			User         string   `json:"user,omitempty"`
			HostKeys     []string `json:"hostKeys,omitempty"`
			IdentityFile string   `json:"identityFile,omitempty"`
			Sudo         []string `json:"sudo,omitempty"`
		}{h.Target.Host, h.Target.Port, h.Target.User, h.Target.HostKeys, h.Target.IdentityFile, h.Target.Sudo}
		if err := r.Set("target", t); err != nil {
			return err
		}
	}
	return r.Set("machine", struct {
		Provider       string   `json:"provider,omitempty"`
		ID             string   `json:"id,omitempty"`
		State          State    `json:"state,omitempty"`
		PublicIPv4     string   `json:"publicIPv4,omitempty"`
		PublicIPv6     string   `json:"publicIPv6,omitempty"`
		PrivateIPv4    string   `json:"privateIPv4,omitempty"`
		AuthorizedKeys []string `json:"authorizedKeys,omitempty"`
	}{provider, h.ID, h.State, h.PublicIPv4, h.PublicIPv6, h.PrivateIPv4, h.AuthorizedKeys})
}
