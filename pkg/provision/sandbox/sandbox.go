// Package sandbox is the provider of machines that run on this one, to try a network
// before renting any: deployment.targetEnv = "sandbox". README.md says what they are
// and are not. The hosts themselves are pkg/testhost's.
package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"nx/pkg/provision"
	"nx/pkg/target"
	"nx/pkg/testhost"
)

// Below a tool's --root.
const (
	hostsDir     = ".nx/sandbox"    // the hosts' disks
	identityFile = ".nx/id_ed25519" // the deployment's client key
)

// A Provider runs the sandbox hosts of one deployment.
type Provider struct {
	Root string // the tool's --root
}

// options are deployment.sandbox.
type options struct {
	Nix     string `json:"nix"`     // as [testhost.Options.Nix]
	Systemd bool   `json:"systemd"` // as [testhost.Options.Systemd]
}

func (o options) testhost() testhost.Options { return testhost.Options{Nix: o.Nix, Systemd: o.Systemd} }

func (p *Provider) lab() *testhost.Lab {
	return &testhost.Lab{Dir: filepath.Join(p.Root, hostsDir), IdentityFile: filepath.Join(p.Root, identityFile)}
}

// Local says that hosts run here.
func (p *Provider) Local() {}

// Properties returns the options. What this computer lacks to run the host is an error,
// so that a network tried without root leaves nothing.
func (p *Provider) Properties(t provision.Thing) ([]provision.Property, error) {
	var o options
	if err := t.DecodeStrict("sandbox", &o); err != nil {
		return nil, err
	}
	if err := testhost.Supported(o.testhost()); err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", t.Name, err)
	}
	return []provision.Property{{Name: "nix", Value: o.Nix}, {Name: "systemd", Value: o.Systemd}}, nil
}

// Effect says that options count when a host starts.
func (p *Provider) Effect(string, json.RawMessage, json.RawMessage) provision.Effect {
	return provision.Reboots
}

// Create makes the host unless it is there, and starts it unless it runs. The host's
// folder has the machine's name, so one that was being made is found by it; it keeps that
// when the machine is renamed, as its ID.
func (p *Provider) Create(ctx context.Context, w *provision.Work) (provision.Facts, error) {
	if !w.Again && w.ID == "" {
		// One that is another's by now, since that was renamed, or of a state that was lost.
		switch _, err := p.lab().Host(w.Name); {
		case err == nil:
			return provision.Facts{}, &takenError{w.Name}
		case !errors.Is(err, testhost.ErrNoHost):
			return provision.Facts{}, fmt.Errorf("start sandbox %s: %w: %w", w.Name, err, provision.ErrNotMade)
		}
	}
	return p.run(ctx, hostOf(w.Known), w.Want)
}

// hostOf is the name of a machine's host: the machine's own when that was made.
func hostOf(k provision.Known) string { return cmp.Or(k.ID, k.Name) }

// A takenError is that of a host which is there and is not remembered as this machine's.
type takenError struct{ name string }

func (e *takenError) Error() string {
	return fmt.Sprintf("start sandbox %s: a host of that name is in %s already: %v", e.name, hostsDir, provision.ErrNotMade)
}

// Hint says how it can be had or avoided.
func (e *takenError) Hint() string {
	return fmt.Sprintf("if no other machine has it: nx-provision import sandbox %s %[1]s", e.name)
}

func (e *takenError) Unwrap() error { return provision.ErrNotMade }

// Update starts the host anew, with other options.
func (p *Provider) Update(ctx context.Context, w *provision.Work, _ []provision.Difference) (provision.Facts, error) {
	if _, err := p.Stop(ctx, w.Known); err != nil {
		return provision.Facts{}, err
	}
	return p.run(ctx, hostOf(w.Known), w.Want)
}

// Start starts the host.
func (p *Provider) Start(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return p.run(ctx, hostOf(k), k.Properties)
}

// Stop switches the host off.
func (p *Provider) Stop(ctx context.Context, k provision.Known) (provision.Facts, error) {
	h, err := p.lab().Host(hostOf(k))
	if err == nil {
		err = h.Stop(ctx)
	}
	if err != nil {
		return provision.Facts{}, fmt.Errorf("stop sandbox %s: %w", k.Name, err)
	}
	return provision.Facts{State: provision.Stopped}, nil
}

// Reboot reboots the host.
func (p *Provider) Reboot(ctx context.Context, k provision.Known) (provision.Facts, error) {
	h, err := p.lab().Host(hostOf(k))
	if err == nil {
		err = h.Reboot(ctx)
	}
	if err != nil {
		return provision.Facts{}, fmt.Errorf("reboot sandbox %s: %w", k.Name, err)
	}
	return provision.Facts{State: provision.Up}, nil
}

func (p *Provider) run(ctx context.Context, name string, properties map[string]json.RawMessage) (provision.Facts, error) {
	var o options
	b, err := json.Marshal(properties)
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		return provision.Facts{}, fmt.Errorf("start sandbox %s: %w", name, err)
	}
	h, err := p.lab().Start(ctx, name, o.testhost())
	if err != nil {
		return provision.Facts{}, fmt.Errorf("start sandbox %s: %w", name, err)
	}
	return p.facts(h, provision.Up)
}

// Read looks whether hosts run.
func (p *Provider) Read(_ context.Context, known []provision.Known, tell func(int, provision.Facts, error)) {
	for i, k := range known {
		f, err := p.read(hostOf(k))
		if err != nil {
			err = fmt.Errorf("check sandbox %s: %w", k.Name, err)
		}
		tell(i, f, err)
	}
}

func (p *Provider) read(name string) (provision.Facts, error) {
	h, err := p.lab().Host(name)
	if errors.Is(err, testhost.ErrNoHost) {
		return provision.Facts{State: provision.Missing}, nil
	}
	if err != nil {
		return provision.Facts{}, err
	}
	on, err := h.Running()
	if err != nil {
		return provision.Facts{}, err
	}
	if !on {
		return p.facts(h, provision.Stopped)
	}
	return p.facts(h, provision.Up)
}

// Destroy stops the host and removes its disk.
func (p *Provider) Destroy(ctx context.Context, k provision.Known) error {
	if err := p.lab().RemoveHost(ctx, hostOf(k)); err != nil {
		return fmt.Errorf("destroy sandbox %s: %w", k.Name, err)
	}
	return nil
}

// facts say how the host is reached. Its one address is both its public and its
// private one, so that a network may refer to either.
func (p *Provider) facts(h *testhost.Host, s provision.State) (provision.Facts, error) {
	rootKey, err := testhost.EnsureKey(p.lab().IdentityFile, "nx")
	if err != nil {
		return provision.Facts{}, err
	}
	outputs, err := json.Marshal(map[string]any{
		"publicIPv4":     h.Addr.String(),
		"privateIPv4":    h.Addr.String(),
		"authorizedKeys": []string{rootKey},
	})
	return provision.Facts{
		ID:      h.Name,
		State:   s,
		Outputs: outputs,
		Target:  target.Target{Host: h.Addr.String(), HostKeys: []string{h.HostKey}, IdentityFile: identityFile},
	}, err
}
