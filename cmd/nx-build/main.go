// Nx-build realises each host's derivation.
//
// It reads host records that carry drvPath and writes them with storePath and
// closure added:
//
//	nx-build < drvs.jsonl | nx-copy | nx-activate switch
package main

import (
	"context"

	"nx/pkg/cli"
	"nx/pkg/record"
	"nx/pkg/stream"
)

type commands struct {
	cli.Shared

	Build build `cmd:"" default:"withargs" help:"Realise each host's derivation."`
}

type build struct {
	cli.Files
}

// Run is called by cli.Main after the flags are parsed.
func (c *build) Run(ctx context.Context, p *cli.Process) error {
	s, err := p.Stream(record.Build, c.Files.Files)
	if err != nil {
		return err
	}
	return stream.Each(ctx, s, p.Jobs, func(context.Context, *record.Record) error { return nil })
}

func main() {
	cli.Main(cli.Tool{Name: "nx-build", Help: "Realise each host's derivation.", Jobs: 8, Commands: &commands{}})
}
