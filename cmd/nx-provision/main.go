// Nx-provision makes the machines and resources of a network match it.
//
// It reads the network's provisioning part and its own state, and writes a record for
// each host and each resource:
//
//	nx-provision -f network.nix | nx-eval -f network.nix | nx-build
package main

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"nx/pkg/cli"
	"nx/pkg/keys"
	"nx/pkg/network"
	"nx/pkg/nixcmd"
	"nx/pkg/provision"
	"nx/pkg/provision/command"
	"nx/pkg/provision/digitalocean"
	"nx/pkg/provision/exec"
	"nx/pkg/provision/keypair"
	"nx/pkg/provision/none"
	"nx/pkg/provision/sandbox"
	"nx/pkg/record"
	"nx/pkg/remote"
	"nx/pkg/state"
	"nx/pkg/stream"
	"nx/pkg/target"
	"nx/pkg/trace"
)

type commands struct {
	cli.Shared
	cli.Network
	secrets

	Apply   apply   `cmd:"" default:"withargs" help:"Make what is not there, change what is otherwise, start what is stopped, and write all hosts and resources."`
	Plan    plan    `cmd:"" help:"Say what apply would do, and do nothing."`
	Check   check   `cmd:"" help:"Ask how the machines are, and say what is not as it was made."`
	Show    show    `cmd:"" help:"Show what is known of machines and resources, without asking anybody."`
	Start   start   `cmd:"" help:"Switch machines on."`
	Stop    stop    `cmd:"" help:"Switch machines off."`
	Reboot  reboot  `cmd:"" help:"Reboot machines."`
	Destroy destroy `cmd:"" help:"Destroy what apply made."`

	SSHConfig  sshConfig  `cmd:"" name:"ssh-config" help:"Print the machines for ssh_config(5), with their host keys."`
	Identities identities `cmd:"" help:"Write the private halves of the key pairs into .nx/id, as on another computer."`
	Import     importing  `cmd:"" help:"Remember a machine or resource that is there already, as if apply had made it."`
	Rename     rename     `cmd:"" help:"Remember a machine or resource by another name."`
	Forget     forget     `cmd:"" help:"Forget a machine or resource and leave it where it is."`
	Unlock     unlock     `cmd:"" help:"Take the lock of a state in a bucket from somebody who is gone."`
}

// secrets say how the state keeps them.
type secrets struct {
	AgeRecipient []string `env:"NX_AGE_RECIPIENTS" placeholder:"R" help:"Whom the state's secrets are encrypted for: a recipient of age, an ssh public key, or a file of such. Repeatable."`
	AgeIdentity  []string `type:"path" sep:"none" env:"NX_AGE_IDENTITY" placeholder:"FILE" help:"Decrypt the state's secrets with the identities of age, or the ssh private key, in FILE. Repeatable."`
}

// allow is what may happen to things that are there.
type allow struct {
	AllowRecreate bool `help:"Let machines and resources be destroyed and made anew where the network wants what cannot be changed, or where they are missing."`
	AllowReboot   bool `help:"Let machines be rebooted where a change takes that."`
	KillObsolete  bool `short:"k" help:"Destroy what was made and the network has no longer."`
}

type apply struct {
	allow
	Check bool `help:"Ask how all things are before, as check does."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *apply) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	if err := flags.Network.Check(); err != nil {
		return err
	}
	pr, done, err := provisioner(ctx, p, flags, true)
	if err != nil {
		return err
	}
	defer done()
	pr.Allow = provision.Allow{Recreate: c.AllowRecreate, Reboot: c.AllowReboot, KillObsolete: c.KillObsolete}
	pr.Recheck = c.Check
	hosts, err := pr.Wanted()
	if err != nil {
		return err
	}
	return stream.Run(ctx, p.Produce(record.Provision, hosts), func(ctx context.Context, in iter.Seq2[*record.Record, error], emit func(*record.Record)) error {
		hosts, err := all(in)
		if err != nil {
			return err
		}
		return pr.Apply(ctx, hosts, !p.Selects(), emit)
	})
}

type destroy struct {
	Yes bool `help:"Do not ask."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *destroy) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	pr, done, err := provisioner(ctx, p, flags, true)
	if err != nil {
		return err
	}
	defer done()
	made, err := pr.Made()
	if err != nil {
		return err
	}
	s := p.Produce(record.Provision, made)
	doomed, err := s.On.Choose(made)
	if err != nil {
		return err
	}
	if !p.Selects() {
		for _, ref := range pr.MadeResources() {
			doomed = append(doomed, ref.String())
		}
	}
	if len(doomed) > 0 && !c.Yes {
		if err := p.Confirm(fmt.Sprintf("destroy %s, with all that is on them?", strings.Join(doomed, ", ")), "--yes"); err != nil {
			return err
		}
	}
	return stream.Run(ctx, s, func(ctx context.Context, in iter.Seq2[*record.Record, error], emit func(*record.Record)) error {
		hosts, err := all(in)
		if err != nil {
			return err
		}
		return pr.Destroy(ctx, hosts, !p.Selects(), emit)
	})
}

type start struct{}

// Run is called by cli.Main after the flags are parsed.
func (start) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	return power(ctx, p, flags, provision.PowerOn)
}

type stop struct{}

// Run is called by cli.Main after the flags are parsed.
func (stop) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	return power(ctx, p, flags, provision.PowerOff)
}

type reboot struct{}

// Run is called by cli.Main after the flags are parsed.
func (reboot) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	return power(ctx, p, flags, provision.Restart)
}

func power(ctx context.Context, p *cli.Process, flags *commands, what provision.Power) error {
	pr, done, err := provisioner(ctx, p, flags, true)
	if err != nil {
		return err
	}
	defer done()
	made, err := pr.Made()
	if err != nil {
		return err
	}
	return stream.Each(ctx, p.Produce(record.Provision, made), p.Jobs, func(ctx context.Context, r *record.Record) error {
		return pr.Switch(ctx, r, what)
	})
}

type identities struct{}

// Run is called by cli.Main after the flags are parsed.
func (identities) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	pr, done, err := provisioner(ctx, p, flags, false)
	if err != nil {
		return err
	}
	defer done()
	files, err := pr.Identities()
	for _, f := range files {
		fmt.Fprintln(p.Stdout, f)
	}
	return err
}

type importing struct {
	Provider string   `arg:"" help:"Who has it: a machine's deployment.targetEnv, such as digitalOcean, or a resource's type."`
	ID       string   `arg:"" name:"id" help:"What its provider calls it."`
	New      string   `arg:"" name:"name" help:"What the network calls it."`
	HostKey  []string `sep:"none" placeholder:"KEY" help:"A machine's ssh host key, as in 'ssh-ed25519 AAAA…'. Repeatable; without it known_hosts decides."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *importing) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	pr, done, err := provisioner(ctx, p, flags, true)
	if err != nil {
		return err
	}
	defer done()
	r, err := pr.Import(ctx, c.Provider, c.ID, c.New, c.HostKey)
	if err != nil {
		return err
	}
	return stream.Each(ctx, p.Produce(record.Provision, []*record.Record{r}), 1, func(_ context.Context, r *record.Record) error {
		return pr.Show(ctx, r)
	})
}

type rename struct {
	Old string `arg:"" help:"What it is called: a machine's name, or TYPE.NAME of a resource."`
	New string `arg:"" help:"What it is to be called."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *rename) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	pr, done, err := provisioner(ctx, p, flags, true)
	if err != nil {
		return err
	}
	defer done()
	return pr.Rename(c.Old, c.New)
}

type forget struct {
	What string `arg:"" name:"name" help:"A machine's name, or TYPE.NAME of a resource."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *forget) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	pr, done, err := provisioner(ctx, p, flags, true)
	if err != nil {
		return err
	}
	defer done()
	return pr.Forget(c.What)
}

type unlock struct {
	Force bool `required:"" help:"Say that whoever has the lock is gone."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *unlock) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	holder, err := state.Unlock(ctx, flags.StateAt(p.Root, state.Path))
	if err != nil {
		return err
	}
	fmt.Fprintf(p.Stdout, "the lock was that of %s\n", holder)
	return nil
}

// all returns what a stream has.
func all(in iter.Seq2[*record.Record, error]) (hosts []*record.Record, err error) {
	for r, err := range in {
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, r)
	}
	return hosts, nil
}

// provisioner knows the providers, the state, locked if it is to change, and, when
// files are named, what the network wants. Done lets others have the state.
func provisioner(ctx context.Context, p *cli.Process, flags *commands, change bool) (pr *provision.Provisioner, done func(), err error) {
	sealer, err := keys.NewSealer(flags.AgeRecipient, flags.AgeIdentity)
	if err != nil {
		return nil, nil, &cli.UsageError{Err: fmt.Errorf("--age-recipient: %w", err)}
	}
	if change || len(flags.File) > 0 {
		if err := network.Seal(filepath.Join(p.Root, ".nx")); err != nil {
			return nil, nil, err
		}
	}
	at := flags.StateAt(p.Root, state.Path)
	options := state.Options{Sealer: sealer, Wait: func(h state.Holder) {
		var more []any
		if strings.HasPrefix(at, "s3:") {
			more = []any{"hint", "if that process is gone: nx-provision unlock --force"}
		}
		p.Log.Warn("waiting for another nx-provision, which has the state: "+h.String(), more...)
	}}
	open := state.Read
	if change {
		open = state.Open
	}
	st, err := open(ctx, at, options)
	if err != nil {
		return nil, nil, err
	}
	dialer := remote.Dialer{Root: p.Root, Log: p.Log}
	droplets := &digitalocean.Provider{
		Token: os.Getenv(digitalocean.TokenVariable), Deployment: st.UUID(), API: os.Getenv(digitalocean.APIVariable), Log: p.Log,
	}
	programs := &exec.Provider{Root: p.Root, Jobs: p.Jobs, Log: p.Log}
	pr = &provision.Provisioner{
		State: st,
		Machines: map[string]provision.Maker{
			"digitalOcean": droplets,
			"droplet":      droplets,
			exec.Env:       programs,
			"sandbox":      &sandbox.Provider{Root: p.Root},
		},
		Resources: map[string]provision.Maker{
			digitalocean.KeyType: droplets.Keys(),
			keypair.Type:         keypair.Provider{},
			command.Type:         &command.Provider{Root: p.Root},
			exec.Env:             programs,
		},
		Existing: &none.Provider{Probe: func(ctx context.Context, t target.Target) error {
			conn, err := dialer.Dial(ctx, t)
			if err != nil {
				return err
			}
			return conn.Close()
		}},
		Dial: func(ctx context.Context, t target.Target) (provision.Conn, error) { return dialer.Dial(ctx, t) },
		Root: p.Root,
		Jobs: p.Jobs,
		Log:  p.Log,
	}
	done = func() {
		if err := st.Close(); err != nil {
			p.Log.Warn(err.Error())
		}
	}
	if len(flags.File) == 0 {
		return pr, done, nil
	}
	nix := &nixcmd.Nix{Log: p.Log}
	if trace.Supported() == nil {
		nix.Trace = trace.Start
	}
	n := &network.Network{Files: flags.File, Format: flags.Format, OverrideInputs: flags.OverrideInput, Args: flags.NixArgs(), Name: flags.Name, UUID: st.UUID(),
		Nix: nix, Cache: &network.Cache{Dir: filepath.Join(p.Root, ".nx/eval")}, Log: p.Log}
	pr.Describe = func(ctx context.Context, facts network.Facts) ([]provision.Thing, error) {
		d, err := n.Describe(ctx, facts)
		if err != nil {
			return nil, err
		}
		st.SetName(d.Name)
		return provision.Things(d), nil
	}
	if pr.Things, err = pr.Describe(ctx, pr.Facts()); err != nil {
		done()
		return nil, nil, err
	}
	return pr, done, nil
}

// tableOrRecords refuses a file for what is a table.
func tableOrRecords(p *cli.Process, json bool) error {
	if json {
		return nil
	}
	return p.Table()
}

func main() {
	cli.Main(cli.Tool{Name: "nx-provision", Help: "Make, check and destroy the machines and resources of a network.", Jobs: 64, Commands: &commands{}})
}
