// Package sandbox is the provider of machines that run on this one, to try a network
// before renting any: deployment.targetEnv = "sandbox". README.md says what they are
// and are not. The hosts themselves are pkg/testhost's.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
	Root string       // the tool's --root
	Log  *slog.Logger // may be nil
}

// options are deployment.sandbox.
type options struct {
	Nix     string `json:"nix"`     // as [testhost.Options.Nix]
	Systemd bool   `json:"systemd"` // as [testhost.Options.Systemd]
}

// facts are what the state keeps of a host. They are empty from before it is made
// until it has answered.
type facts struct {
	Address string `json:"address,omitempty"` // IPv4, as of the last start
	HostKey string `json:"hostKey,omitempty"` // "ssh-ed25519 AAAA…"
	RootKey string `json:"rootKey,omitempty"` // public, "ssh-ed25519 AAAA… nx", of IdentityFile
}

func (p *Provider) lab() *testhost.Lab {
	return &testhost.Lab{Dir: filepath.Join(p.Root, hostsDir), IdentityFile: filepath.Join(p.Root, identityFile)}
}

// Ensure makes the host unless it is there, and starts it unless it runs. The host's
// folder has the machine's name, so one that was being made is found by it.
func (p *Provider) Ensure(ctx context.Context, m provision.Machine, known json.RawMessage, remember func(any) error) (provision.Host, error) {
	var o options
	if err := m.DecodeStrict("sandbox", &o); err != nil {
		return provision.Host{}, err
	}
	f, err := parse(known)
	if err != nil {
		return provision.Host{}, err
	}
	// Before anything is remembered: a network tried without root leaves nothing.
	opt := testhost.Options{Nix: o.Nix, Systemd: o.Systemd}
	if err := testhost.Supported(opt); err != nil {
		return provision.Host{}, fmt.Errorf("start sandbox %s: %w", m.Name, err)
	}
	if known == nil {
		if err := remember(f); err != nil {
			return provision.Host{}, err
		}
	}
	h, err := p.lab().Start(ctx, m.Name, opt)
	if err != nil {
		return provision.Host{}, fmt.Errorf("start sandbox %s: %w", m.Name, err)
	}
	rootKey, err := testhost.EnsureKey(p.lab().IdentityFile, "nx")
	if err != nil {
		return provision.Host{}, fmt.Errorf("start sandbox %s: %w", m.Name, err)
	}
	if f.HostKey != "" && f.HostKey != h.HostKey && p.Log != nil {
		p.Log.Warn("its disk was gone and is made anew, with another host key", "host", m.Name)
	}
	f = facts{Address: h.Addr.String(), HostKey: h.HostKey, RootKey: rootKey}
	if err := remember(f); err != nil {
		return provision.Host{}, err
	}
	return f.host(m.Name, provision.Up), nil
}

// Check looks whether the host runs.
func (p *Provider) Check(_ context.Context, m provision.Machine, known json.RawMessage) (provision.Host, error) {
	f, err := parse(known)
	if err != nil {
		return provision.Host{}, err
	}
	h, err := p.lab().Host(m.Name)
	if errors.Is(err, testhost.ErrNoHost) {
		return provision.Host{State: provision.Missing}, nil
	}
	if err != nil {
		return provision.Host{}, fmt.Errorf("check sandbox %s: %w", m.Name, err)
	}
	on, err := h.Running()
	if err != nil {
		return provision.Host{}, fmt.Errorf("check sandbox %s: %w", m.Name, err)
	}
	f.Address, f.HostKey = h.Addr.String(), h.HostKey
	if !on {
		return f.host(m.Name, provision.Stopped), nil
	}
	return f.host(m.Name, provision.Up), nil
}

// Describe says where the host was when it was started last.
func (p *Provider) Describe(m provision.Machine, known json.RawMessage) (provision.Host, error) {
	f, err := parse(known)
	if err != nil || f.Address == "" {
		return provision.Host{}, err
	}
	return f.host(m.Name, ""), nil
}

// Destroy stops the host and removes its disk.
func (p *Provider) Destroy(ctx context.Context, name string, _ json.RawMessage) error {
	if err := p.lab().RemoveHost(ctx, name); err != nil {
		return fmt.Errorf("destroy sandbox %s: %w", name, err)
	}
	return nil
}

func parse(known json.RawMessage) (f facts, err error) {
	if known == nil {
		return f, nil
	}
	if err := json.Unmarshal(known, &f); err != nil {
		return f, fmt.Errorf("read the state's facts %s: %w", known, err)
	}
	return f, nil
}

// host says how the host is reached. Its one address is both its public and its
// private one, so that a network may refer to either.
func (f facts) host(name string, s provision.State) provision.Host {
	h := provision.Host{
		Target:      target.Target{Host: f.Address, HostKeys: []string{f.HostKey}, IdentityFile: identityFile},
		ID:          name,
		State:       s,
		PublicIPv4:  f.Address,
		PrivateIPv4: f.Address,
	}
	if f.RootKey != "" {
		h.AuthorizedKeys = []string{f.RootKey}
	}
	return h
}
