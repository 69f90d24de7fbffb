// Nx-activate makes the systems that are on their targets the running ones.
//
// It reads host records that carry storePath and writes them with activation
// added:
//
//	nx-build < drvs.jsonl | nx-copy | nx-activate switch
package main

import (
	"context"

	"nx/pkg/activate"
	"nx/pkg/cli"
	"nx/pkg/record"
	"nx/pkg/remote"
	"nx/pkg/stream"
	"nx/pkg/target"
)

type commands struct {
	cli.Shared

	Switch      switchTo    `cmd:"" help:"Run each host's system, now and after a boot."`
	Boot        boot        `cmd:"" help:"Run each host's system after its next boot."`
	Test        test        `cmd:"" help:"Run each host's system until its next boot."`
	DryActivate dryActivate `cmd:"" help:"Show what switch would do, and change nothing."`
}

type (
	switchTo    struct{ cli.Files }
	boot        struct{ cli.Files }
	test        struct{ cli.Files }
	dryActivate struct{ cli.Files }
)

// Run is called by cli.Main after the flags are parsed.
func (c *switchTo) Run(ctx context.Context, p *cli.Process) error {
	return run(ctx, p, activate.Switch, c.Files)
}

// Run is called by cli.Main after the flags are parsed.
func (c *boot) Run(ctx context.Context, p *cli.Process) error {
	return run(ctx, p, activate.Boot, c.Files)
}

// Run is called by cli.Main after the flags are parsed.
func (c *test) Run(ctx context.Context, p *cli.Process) error {
	return run(ctx, p, activate.Test, c.Files)
}

// Run is called by cli.Main after the flags are parsed.
func (c *dryActivate) Run(ctx context.Context, p *cli.Process) error {
	return run(ctx, p, activate.DryActivate, c.Files)
}

func run(ctx context.Context, p *cli.Process, action activate.Action, files cli.Files) error {
	s, err := p.Stream(record.Activate, files.Files)
	if err != nil {
		return err
	}
	dialer := remote.Dialer{Root: p.Root, Log: p.Log}
	a := activate.Activator{
		Action: action,
		Dial:   func(ctx context.Context, t target.Target) (activate.Conn, error) { return dialer.Dial(ctx, t) },
		Log:    p.Log,
	}
	return stream.Each(ctx, s, p.Jobs, a.Host)
}

func main() {
	cli.Main(cli.Tool{Name: "nx-activate", Help: "Make the systems that are on their targets the running ones.",
		Jobs: 16, Commands: &commands{}})
}
