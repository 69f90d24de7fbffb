// Nx-provision makes, checks and destroys the machines of a network.
//
// It reads the network's provisioning part and its own state, and writes a
// record for each host:
//
//	nx-provision -f network.nix | nx-eval -f network.nix | nx-build
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"nx/pkg/cli"
	"nx/pkg/network"
	"nx/pkg/nixcmd"
	"nx/pkg/provision"
	"nx/pkg/provision/none"
	"nx/pkg/provision/sandbox"
	"nx/pkg/record"
	"nx/pkg/remote"
	"nx/pkg/state"
	"nx/pkg/stream"
	"nx/pkg/target"
)

type commands struct {
	cli.Shared
	cli.Network

	Apply   apply   `cmd:"" default:"withargs" help:"Make the machines that are not there, start those that do not run, and write all hosts."`
	Check   check   `cmd:"" help:"Ask how the machines are."`
	Show    show    `cmd:"" help:"Show what is known of the machines, without asking anybody."`
	Destroy destroy `cmd:"" help:"Destroy the machines that apply made."`
}

type apply struct{}

// Run is called by cli.Main after the flags are parsed.
func (apply) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	if err := flags.Network.Check(); err != nil {
		return err
	}
	st, err := openState(ctx, p)
	if err != nil {
		return err
	}
	defer st.Close()
	pr, err := provisioner(ctx, p, flags.Network, st)
	if err != nil {
		return err
	}
	for _, name := range pr.Obsolete() {
		p.Log.Warn("the network has it no longer, and it is still there", "host", name, "hint", "run nx-provision destroy --on "+name)
	}
	hosts, err := pr.Wanted()
	if err != nil {
		return err
	}
	return stream.Each(ctx, p.Produce(record.Provision, hosts), p.Jobs, pr.Apply)
}

// A report is a table for people, or records.
type report struct {
	JSON bool `help:"Write records instead of a table."`
}

type check struct{ report }

// Run is called by cli.Main after the flags are parsed.
func (c *check) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	return c.run(ctx, p, flags, (*provision.Provisioner).Check)
}

type show struct{ report }

// Run is called by cli.Main after the flags are parsed.
func (c *show) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	return c.run(ctx, p, flags, (*provision.Provisioner).Show)
}

// run reports of the machines in the state and, when it is named, in the network.
func (c *report) run(ctx context.Context, p *cli.Process, flags *commands, verb func(*provision.Provisioner, context.Context, *record.Record) error) error {
	if flags.Output != "" && !c.JSON {
		return &cli.UsageError{Err: errors.New("--output: it takes records, and this is a table"), HintMsg: "add --json"}
	}
	st, err := state.Read(ctx, statePath(p), state.Options{})
	if err != nil {
		return err
	}
	pr, err := provisioner(ctx, p, flags.Network, st)
	if err != nil {
		return err
	}
	hosts, err := pr.All()
	if err != nil {
		return err
	}
	s := p.Produce(record.Provision, hosts)
	if !c.JSON {
		s.Output.Take = func(hosts []*record.Record) error { return printTable(p.Stdout, hosts) }
	}
	return stream.Each(ctx, s, p.Jobs, func(ctx context.Context, r *record.Record) error { return verb(pr, ctx, r) })
}

type destroy struct {
	Yes bool `help:"Do not ask."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *destroy) Run(ctx context.Context, p *cli.Process) error {
	st, err := openState(ctx, p)
	if err != nil {
		return err
	}
	defer st.Close()
	pr, err := provisioner(ctx, p, cli.Network{}, st)
	if err != nil {
		return err
	}
	made, err := pr.Made()
	if err != nil {
		return err
	}
	s := p.Produce(record.Provision, made)
	chosen, err := s.On.Choose(made)
	if err != nil {
		return err
	}
	if len(chosen) > 0 && !c.Yes {
		if err := p.Confirm(fmt.Sprintf("destroy %s, with all that is on them?", strings.Join(chosen, ", ")), "--yes"); err != nil {
			return err
		}
	}
	return stream.Each(ctx, s, p.Jobs, pr.Destroy)
}

// provisioner knows the providers, the state and, when files are named, the
// network's machines, which it asks for with the state's uuid.
func provisioner(ctx context.Context, p *cli.Process, flags cli.Network, st *state.State) (*provision.Provisioner, error) {
	dialer := remote.Dialer{Root: p.Root, Log: p.Log}
	pr := &provision.Provisioner{
		State: st,
		Log:   p.Log,
		Providers: map[string]provision.Provider{
			"none": &none.Provider{Probe: func(ctx context.Context, t target.Target) error {
				conn, err := dialer.Dial(ctx, t)
				if err != nil {
					return err
				}
				return conn.Close()
			}},
			"sandbox": &sandbox.Provider{Root: p.Root, Log: p.Log},
		},
	}
	if len(flags.File) == 0 {
		return pr, nil
	}
	n := &network.Network{Files: flags.File, Format: flags.Format, OverrideInputs: flags.OverrideInput, Args: flags.NixArgs(), Name: flags.Name, UUID: st.UUID(),
		Nix: &nixcmd.Nix{Log: p.Log}, Log: p.Log}
	d, err := n.Describe(ctx, network.Facts{})
	if err != nil {
		return nil, err
	}
	st.SetName(d.Name)
	for _, m := range d.Machines {
		pr.Machines = append(pr.Machines, provision.Machine{Name: m.Name, Deployment: m.Deployment, Tags: m.Tags, Err: m.Err})
	}
	for _, r := range d.Resources {
		if r.Err != nil {
			return nil, fmt.Errorf("resource %s.%s: %w", r.Type, r.Name, r.Err)
		}
		p.Log.Warn(fmt.Sprintf("resource %s.%s is not made: there is no provider for its type", r.Type, r.Name))
	}
	return pr, nil
}

func statePath(p *cli.Process) string { return filepath.Join(p.Root, state.Path) }

func openState(ctx context.Context, p *cli.Process) (*state.State, error) {
	if err := network.Seal(filepath.Join(p.Root, ".nx")); err != nil {
		return nil, err
	}
	return state.Open(ctx, statePath(p), state.Options{Wait: func(h state.Holder) {
		p.Log.Warn("waiting for another nx-provision, which has the state: "+h.String(), "hint", "it is locked by "+statePath(p)+".lock")
	}})
}

// printTable writes what people want to know of hosts at a glance.
func printTable(out io.Writer, hosts []*record.Record) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tPROVIDER\tSTATE\tTARGET\tID")
	or := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	for _, r := range hosts {
		m := r.Get("machine")
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Name(), or(m.Get("provider").String()), or(m.Get("state").String()),
			or(r.Get("target").Get("host").String()), or(m.Get("id").String()))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

func main() {
	cli.Main(cli.Tool{Name: "nx-provision", Help: "Make, check and destroy the machines of a network.", Jobs: 8, Commands: &commands{}})
}
