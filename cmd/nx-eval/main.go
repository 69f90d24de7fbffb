// Nx-eval evaluates a network and gives each host its system's derivation.
//
// It reads host records, whose addresses the network may use, and writes them
// with system, drvPath and deployment added:
//
//	nx-provision -f network.nix | nx-eval -f network.nix | nx-build
//	nx-eval -f network.nix --all
//	nx-eval list -f network.nix
//	nx-eval query -f network.nix nodes.web.config.services.openssh.enable
//	nx-provision -f network.nix | nx-eval query -f network.nix nodes.web.config.networking.extraHosts -
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"nx/pkg/cli"
	"nx/pkg/eval"
	"nx/pkg/keys"
	"nx/pkg/network"
	"nx/pkg/nixcmd"
	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/stream"
	"nx/pkg/trace"
)

type commands struct {
	cli.Shared
	cli.Network
	MaxMemory cli.Size `placeholder:"SIZE" help:"End an evaluator that has taken more memory, such as 2G, after the host it crossed that with, and go on in a new one (default: what the machine has for each of -j)."`
	NoCache   bool     `help:"Evaluate everything, and remember nothing. Otherwise what was evaluated is not evaluated again while all that it read is the same."`
	ShowTrace bool     `help:"Show the whole of Nix' trace with an error, which its record has, not only the steps in files of the network."`

	Eval  evaluate `cmd:"" default:"withargs" help:"Evaluate each host's system."`
	List  list     `cmd:"" help:"Show the network's hosts, their tags and targets, without evaluating their systems."`
	Query query    `cmd:"" help:"Print the value of a Nix expression about the network, as JSON."`
}

// network is the network that the flags describe, and Nix.
func (c *commands) network(ctx context.Context, p *cli.Process) (*network.Network, *nixcmd.Nix, error) {
	if err := c.Network.Check(); err != nil {
		return nil, nil, err
	}
	remembered, err := state.Read(ctx, c.StateAt(p.Root, state.Path), state.Options{})
	if err != nil {
		return nil, nil, err
	}
	if err := network.Seal(filepath.Join(p.Root, ".nx")); err != nil {
		return nil, nil, err
	}
	private, err := filepath.EvalSymlinks(filepath.Join(p.Root, ".nx"))
	if err == nil {
		private, err = filepath.Abs(private)
	}
	if err != nil {
		return nil, nil, err
	}
	nix := &nixcmd.Nix{Log: p.Log}
	if err := trace.Supported(); err == nil {
		nix.Trace = trace.Start
	} else {
		p.Log.Debug("evaluations are not traced", "reason", err)
	}
	n := &network.Network{Files: c.File, Format: c.Format, OverrideInputs: c.OverrideInput, Args: c.NixArgs(), Name: c.Name, UUID: remembered.UUID(),
		Jobs: p.Jobs, MaxMemory: int64(c.MaxMemory), ShowTrace: c.ShowTrace, Private: private, Nix: nix, Log: p.Log}
	if !c.NoCache {
		n.Cache = &network.Cache{Dir: filepath.Join(p.Root, ".nx/eval")}
	}
	return n, nix, nil
}

type evaluate struct {
	cli.Files
	All       bool   `help:"Evaluate every machine of the network and read no records."`
	Depfile   string `placeholder:"FILE" help:"Write a rule for make to FILE: what -o FILE depends on is what the evaluation read."`
	DepTarget string `name:"depfile-target" placeholder:"TARGET" help:"The rule's target (default: that of -o)."`
	GCRootDir string `name:"gc-root-dir" placeholder:"DIR" help:"Keep each host's derivation by a link in DIR (default: .nx/drvs under --root)."`

	KeysOut      string   `placeholder:"FILE" help:"Write the texts of keys that are in the network to FILE, encrypted by age for nx-copy --keys FILE, once all hosts are evaluated."`
	AgeRecipient []string `env:"NX_AGE_RECIPIENTS" placeholder:"R" help:"Whom --keys-out encrypts for: a recipient of age, an ssh public key, or a file of such. Repeatable."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *evaluate) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	n, nix, err := flags.network(ctx, p)
	if err != nil {
		return err
	}
	if c.All && len(c.Files.Files) > 0 {
		return &cli.UsageError{Err: errors.New("--all reads no records"), HintMsg: "leave out either --all or the record files"}
	}
	rule, err := c.rule(flags.Output, flags.IfChanged, n)
	if err != nil {
		return err
	}
	if c.GCRootDir == "" {
		c.GCRootDir = filepath.Join(p.Root, ".nx/drvs")
	}
	e := &eval.Evaluator{Network: n, Store: nix, Root: p.Root, RootDir: c.GCRootDir, Log: p.Log}

	s := p.Produce(record.Eval, nil)
	if c.All {
		s.Given, err = eval.All(ctx, n, p.Selects())
		if p.Selects() {
			e.Chooses = p.Chooses
		}
	} else {
		s, err = p.Stream(record.Eval, c.Files.Files)
	}
	if err != nil {
		return err
	}
	known := map[string]bool{}
	s.Facts = func(r *record.Record) {
		e.Fact(r)
		known[r.Name()] = known[r.Name()] || r.Kind() == record.KindHost
	}
	if e.Keep, err = c.keep(); err != nil {
		return err
	}
	err = stream.Run(ctx, s, e.Run)
	// Only a whole stream says which hosts there are.
	if failed := (*stream.HostsError)(nil); flags.OutDir != "" && (err == nil || errors.As(err, &failed)) {
		about, err := n.About(ctx)
		if err != nil {
			return err
		}
		for _, name := range about.Machines {
			known[name] = true
		}
		if err := stream.Prune(flags.OutDir, known); err != nil {
			return err
		}
	}
	return rule(err)
}

// keep returns what writes the bundle of keys, nil if none is asked for.
func (c *evaluate) keep() (func(map[string]map[string]string) error, error) {
	if c.KeysOut == "" {
		return nil, nil
	}
	recipients, err := keys.ParseRecipients(c.AgeRecipient)
	if err == nil && len(recipients) == 0 {
		err = errors.New("--keys-out without anybody who may read it")
	}
	if err != nil {
		return nil, &cli.UsageError{Err: err, HintMsg: "name a recipient of age, an ssh public key or a file of such with --age-recipient R"}
	}
	return func(texts map[string]map[string]string) error { return keys.Bundle(texts).Write(c.KeysOut, recipients) }, nil
}

// rule returns what to call with the outcome of an evaluation of n: it writes the
// rule for make if one is asked for and all hosts were evaluated. Output is
// -o; kept says that it may not be touched without need.
func (c *evaluate) rule(output string, kept bool, n *network.Network) (func(error) error, error) {
	switch {
	case c.Depfile == "" && c.DepTarget == "":
		return func(err error) error { return err }, nil
	case c.Depfile == "":
		return nil, &cli.UsageError{Err: errors.New("--depfile-target without a file for the rule"), HintMsg: "name it with --depfile FILE"}
	case c.DepTarget == "":
		if c.DepTarget = output; c.DepTarget == "" {
			return nil, &cli.UsageError{Err: errors.New("--depfile without a target"), HintMsg: "write records to a file with -o FILE, or name the target with --depfile-target"}
		}
	}
	if n.Cache == nil {
		n.Cache = &network.Cache{}
	}
	return func(err error) error {
		if err != nil {
			return err
		}
		read, err := n.Cache.Inputs()
		if err != nil {
			return err
		}
		if err := eval.WriteRule(c.Depfile, c.DepTarget, read); err != nil || c.DepTarget != output || kept {
			return err
		}
		// To rename files into a folder changes its time, and it may be one that was
		// read: the target has to be the newest.
		return os.Chtimes(output, time.Time{}, time.Now())
	}, nil
}

type list struct {
	JSON bool `help:"Write records instead of a table."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *list) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	n, _, err := flags.network(ctx, p)
	if err != nil {
		return err
	}
	hosts, err := eval.List(ctx, n)
	if err != nil {
		return err
	}
	s := p.Produce(record.Eval, hosts)
	if !c.JSON {
		s.Output.Take = func(hosts []*record.Record) error { return printTable(p.Stdout, hosts) }
	}
	return stream.Each(ctx, s, p.Jobs, func(context.Context, *record.Record) error { return nil })
}

// printTable writes what people choose hosts by.
func printTable(out io.Writer, hosts []*record.Record) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tTAGS\tTARGET")
	for _, r := range hosts {
		tags, reached := strings.Join(r.Tags(), ","), "-"
		if tags == "" {
			tags = "-"
		}
		if t, err := r.Target(); err == nil {
			reached = t.Login() + "@" + t.Host
			if t.Port != 0 { // chosen, not left to the ssh configuration
				reached = t.Login() + "@" + net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.Name(), tags, reached)
	}
	return w.Flush()
}

type query struct {
	Expression string   `arg:"" help:"What may name nodes, resources and lib, as nodes.web.config.services.openssh.enable, or a function of a set of them."`
	Files      []string `arg:"" optional:"" name:"file" help:"Files of records, whose addresses the network may use; - is stdin. None are read unless named."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *query) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	n, _, err := flags.network(ctx, p)
	if err != nil {
		return err
	}
	e := &eval.Evaluator{Network: n}
	if len(c.Files) > 0 {
		s, err := p.Stream(record.Eval, c.Files)
		if err != nil {
			return err
		}
		if err := s.Read(ctx, e.Fact); err != nil {
			return err
		}
	}
	value, err := e.Query(ctx, c.Expression)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.Stdout, "%s\n", value)
	return err
}

func main() {
	cli.Main(cli.Tool{Name: "nx-eval", Help: "Evaluate a network: give each host its system's derivation.",
		Jobs: network.DefaultJobs(), Commands: &commands{}})
}
