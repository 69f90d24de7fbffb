// Package none is the provider of machines that exist already: it makes nothing,
// remembers nothing, and says what the network says of how they are reached.
package none

import (
	"cmp"
	"context"
	"encoding/json"

	"nx/pkg/provision"
	"nx/pkg/target"
)

// A Provider describes machines with deployment.targetEnv = "none".
type Provider struct {
	// Probe connects to a host as later stages will, and disconnects.
	Probe func(ctx context.Context, t target.Target) error
}

// options are those of config.deployment that say how an existing host is reached.
type options struct {
	TargetHost string   `json:"targetHost"` // default: the machine's name
	TargetPort int      `json:"targetPort"`
	TargetUser string   `json:"targetUser"`
	Sudo       []string `json:"privilegeEscalationCommand"`
}

// Describe returns the machine's target.
func (p *Provider) Describe(m provision.Machine, _ json.RawMessage) (provision.Host, error) {
	var o options
	if err := m.Decode(&o); err != nil {
		return provision.Host{}, err
	}
	t := target.Target{Host: cmp.Or(o.TargetHost, m.Name), Port: o.TargetPort, User: o.TargetUser}
	// The defaults are left out: the user's ssh configuration may know better.
	if t.Port == target.DefaultPort {
		t.Port = 0
	}
	if t.User == target.DefaultUser {
		t.User = ""
	}
	if t.User != "" {
		t.Sudo = o.Sudo
	}
	return provision.Host{Target: t}, nil
}

// Ensure is Describe: the machine is there.
func (p *Provider) Ensure(_ context.Context, m provision.Machine, known json.RawMessage, _ func(any) error) (provision.Host, error) {
	return p.Describe(m, known)
}

// Check finds out whether the host can be logged in to.
func (p *Provider) Check(ctx context.Context, m provision.Machine, known json.RawMessage) (provision.Host, error) {
	h, err := p.Describe(m, known)
	if err != nil {
		return h, err
	}
	if err := h.Target.Validate(); err != nil {
		return h, err
	}
	h.State = provision.Up
	if err := p.Probe(ctx, h.Target); err != nil {
		if ctx.Err() != nil {
			return h, context.Cause(ctx)
		}
		h.State = provision.Unreachable
		return h, err
	}
	return h, nil
}

// Destroy does nothing: the machine is not ours.
func (p *Provider) Destroy(context.Context, string, json.RawMessage) error { return nil }
