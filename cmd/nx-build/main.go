// Nx-build realises each host's derivation.
//
// It reads host records that carry drvPath and writes them with storePath and
// closure added:
//
//	nx-build < drvs.jsonl | nx-copy | nx-activate switch
package main

import (
	"context"
	"path/filepath"

	"nx/pkg/build"
	"nx/pkg/cli"
	"nx/pkg/network"
	"nx/pkg/nixcmd"
	"nx/pkg/record"
	"nx/pkg/stream"
)

type commands struct {
	cli.Shared

	Build realise `cmd:"" default:"withargs" help:"Realise each host's derivation."`
}

type realise struct {
	cli.Files
	GCRootDir string `name:"gc-root-dir" placeholder:"DIR" help:"Keep each host's system by a link in DIR (default: .nx/gcroots under --root)."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *realise) Run(ctx context.Context, p *cli.Process) error {
	s, err := p.Stream(record.Build, c.Files.Files)
	if err != nil {
		return err
	}
	if c.GCRootDir == "" {
		if err := network.Seal(filepath.Join(p.Root, ".nx")); err != nil {
			return err
		}
		c.GCRootDir = filepath.Join(p.Root, ".nx/gcroots")
	}
	b := &build.Builder{Nix: &nixcmd.Nix{Log: p.Log}, RootDir: c.GCRootDir, Jobs: p.Jobs, Log: p.Log}
	return stream.Run(ctx, s, b.Run)
}

func main() {
	cli.Main(cli.Tool{Name: "nx-build", Help: "Realise each host's derivation.", Jobs: 8, Commands: &commands{}})
}
