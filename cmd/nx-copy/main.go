// Nx-copy brings each host's closure to its target.
//
// It reads host records that carry storePath and writes them with copied added:
//
//	nx-build < drvs.jsonl | nx-copy --jobs 8 | nx-activate switch
package main

import (
	"context"

	"nx/pkg/cli"
	"nx/pkg/deliver"
	"nx/pkg/nixserve"
	"nx/pkg/record"
	"nx/pkg/remote"
	"nx/pkg/stream"
	"nx/pkg/target"
)

type commands struct {
	cli.Shared

	Closures closures `cmd:"" default:"withargs" help:"Bring each host's closure to its target."`
}

type closures struct {
	cli.Files
}

// Run is called by cli.Main after the flags are parsed.
func (c *closures) Run(ctx context.Context, p *cli.Process) error {
	s, err := p.Stream(record.Copy, c.Files.Files)
	if err != nil {
		return err
	}
	local := nixserve.Local()
	defer local.Close()
	dialer := remote.Dialer{Root: p.Root, Log: p.Log}
	courier := deliver.Courier{
		Local: local,
		Dial:  func(ctx context.Context, t target.Target) (deliver.Conn, error) { return dialer.Dial(ctx, t) },
		Open: func(ctx context.Context, serve deliver.Serve) (deliver.Store, error) {
			return nixserve.Open(ctx, nixserve.Run(serve))
		},
		Log: p.Log,
	}
	return stream.Each(ctx, s, p.Jobs, courier.Host)
}

func main() {
	cli.Main(cli.Tool{Name: "nx-copy", Help: "Bring each host's closure to its target.", Jobs: 8, Commands: &commands{}})
}
