// Nx-eval evaluates a network and gives each host its system's derivation.
//
// It reads host records, whose addresses the network may use, and writes them
// with system, drvPath and deployment added:
//
//	nx-provision -f network.nix | nx-eval -f network.nix | nx-build
//	nx-eval -f network.nix --all
package main

import (
	"context"
	"errors"
	"path/filepath"

	"nx/pkg/cli"
	"nx/pkg/eval"
	"nx/pkg/network"
	"nx/pkg/nixcmd"
	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/stream"
)

type commands struct {
	cli.Shared

	Eval evaluate `cmd:"" default:"withargs" help:"Evaluate each host's system."`
}

type evaluate struct {
	cli.Network
	cli.Files
	All       bool     `help:"Evaluate every machine of the network and read no records."`
	MaxMemory cli.Size `placeholder:"SIZE" help:"End an evaluator that has taken more memory, such as 2G, after the host it crossed that with, and go on in a new one (default: what the machine has for each of -j)."`
	GCRootDir string   `name:"gc-root-dir" placeholder:"DIR" help:"Keep each host's derivation by a link in DIR (default: .nx/drvs under --root)."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *evaluate) Run(ctx context.Context, p *cli.Process) error {
	if err := c.Check(); err != nil {
		return err
	}
	if c.All && len(c.Files.Files) > 0 {
		return &cli.UsageError{Err: errors.New("--all reads no records"), HintMsg: "leave out either --all or the record files"}
	}
	remembered, err := state.Read(filepath.Join(p.Root, state.Path))
	if err != nil {
		return err
	}
	if err := network.Seal(filepath.Join(p.Root, ".nx")); err != nil {
		return err
	}
	nix := &nixcmd.Nix{Log: p.Log}
	n := &network.Network{Files: c.File, Format: c.Format, OverrideInputs: c.OverrideInput, Args: c.NixArgs(), Name: c.Name, UUID: remembered.UUID(),
		Jobs: p.Jobs, MaxMemory: int64(c.MaxMemory), Nix: nix, Log: p.Log}
	if c.GCRootDir == "" {
		c.GCRootDir = filepath.Join(p.Root, ".nx/drvs")
	}
	e := &eval.Evaluator{Network: n, Store: nix, Root: p.Root, RootDir: c.GCRootDir, Log: p.Log}

	s := p.Produce(record.Eval, nil)
	if c.All {
		s.Given, err = eval.All(ctx, n, p.Selects())
	} else {
		s, err = p.Stream(record.Eval, c.Files.Files)
	}
	if err != nil {
		return err
	}
	s.Facts = e.Fact
	return stream.Run(ctx, s, e.Run)
}

func main() {
	cli.Main(cli.Tool{Name: "nx-eval", Help: "Evaluate a network: give each host its system's derivation.",
		Jobs: network.DefaultJobs(), Commands: &commands{}})
}
