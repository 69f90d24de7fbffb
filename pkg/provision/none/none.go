// Package none describes machines that exist already: it makes nothing, remembers
// nothing, and says what the network says of how they are reached.
package none

import (
	"cmp"
	"context"

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
func (p *Provider) Describe(m provision.Thing) (provision.Facts, error) {
	var o options
	if err := m.Decode(&o); err != nil {
		return provision.Facts{}, err
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
	return provision.Facts{Target: t}, nil
}

// Check finds out whether the host can be logged in to.
func (p *Provider) Check(ctx context.Context, m provision.Thing) (provision.Facts, error) {
	f, err := p.Describe(m)
	if err != nil {
		return f, err
	}
	if err := f.Target.Validate(); err != nil {
		return f, err
	}
	f.State = provision.Up
	if err := p.Probe(ctx, f.Target); err != nil {
		if ctx.Err() != nil {
			return provision.Facts{}, context.Cause(ctx)
		}
		f.State = provision.Unreachable
		return f, err
	}
	return f, nil
}
