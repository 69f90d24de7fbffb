// Nx-build realises each host's derivation.
//
// It reads host records that carry drvPath and writes them with storePath and
// closure added:
//
//	nx-build < drvs.jsonl | nx-copy | nx-activate switch
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"nx/pkg/build"
	"nx/pkg/cli"
	"nx/pkg/closure"
	"nx/pkg/network"
	"nx/pkg/nixcmd"
	"nx/pkg/nixserve"
	"nx/pkg/record"
	"nx/pkg/remote"
	"nx/pkg/stream"
	"nx/pkg/target"
)

type commands struct {
	cli.Shared

	Build realise `cmd:"" default:"withargs" help:"Realise each host's derivation."`
}

type realise struct {
	cli.Files
	cli.Nix
	Store         string `placeholder:"STORE" help:"Build in another store than this machine's, as Nix names it; the tools behind find the systems there by NIX_REMOTE=STORE."`
	GCRootDir     string `name:"gc-root-dir" placeholder:"DIR" help:"Keep each host's system by a link in DIR (default: .nx/gcroots under --root)."`
	BuildOnTarget *bool  `negatable:"" help:"Have each host build its own system, fetching from its own caches, or none (default: what deployment.buildOnTarget says)."`
	PruneRoots    bool   `help:"Remove the links of hosts that are not in the input."`
	DryRun        bool   `help:"Say what would be built and fetched for each host, and do nothing of it."`
	JSON          bool   `help:"With --dry-run, write records instead of a table."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *realise) Run(ctx context.Context, p *cli.Process) error {
	switch {
	case c.JSON && !c.DryRun:
		return &cli.UsageError{Err: errors.New("--json: records are what it writes; it is for --dry-run")}
	case c.DryRun && c.PruneRoots:
		return &cli.UsageError{Err: errors.New("--dry-run and --prune-roots: they contradict each other")}
	case c.DryRun && !c.JSON:
		if err := p.Table(); err != nil {
			return err
		}
	}
	options, err := c.Nix.Options()
	if err != nil {
		return err
	}
	s, err := p.Stream(record.Build, c.Files.Files)
	if err != nil {
		return err
	}
	local := nixserve.Local()
	defer local.Close()
	depot := &closure.Depot{Source: local, Log: p.Log}
	defer depot.Close()
	dialer := remote.Dialer{Root: p.Root, Log: p.Log}
	b := &build.Builder{
		Nix: func(network []string) build.Realiser {
			return &nixcmd.Nix{Options: slices.Concat(network, options), Store: c.Store, Log: p.Log}
		},
		OnTarget: c.BuildOnTarget,
		Targets: build.Targets{
			Depot: depot,
			Dial:  func(ctx context.Context, t target.Target) (build.Conn, error) { return dialer.Dial(ctx, t) },
			Open:  func(ctx context.Context, serve build.Serve) build.HostStore { return nixserve.Open(ctx, serve) },
			Nix: func(run build.Command, log *slog.Logger) build.HostRealiser {
				return &nixcmd.Nix{Run: run, Log: log}
			},
		},
		Root:    p.Root,
		RootDir: c.GCRootDir,
		Jobs:    p.Jobs,
		Log:     p.Log,
	}
	if c.DryRun {
		if !c.JSON {
			s.Output.Take = func(hosts []*record.Record) error { return table(ctx, p.Stdout, b, hosts) }
		}
		return stream.Each(ctx, s, p.Jobs, b.Plan)
	}
	if c.GCRootDir == "" {
		if err := network.Seal(filepath.Join(p.Root, ".nx")); err != nil {
			return err
		}
		b.RootDir = filepath.Join(p.Root, ".nx/gcroots")
	}
	hosts := map[string]bool{}
	s.Facts = func(r *record.Record) {
		if r.Kind() == record.KindHost {
			hosts[r.Name()] = true
		}
	}
	err = stream.Run(ctx, s, b.Run)
	// Only a whole stream says which hosts there are.
	if failed := (*stream.HostsError)(nil); c.PruneRoots && (err == nil || errors.As(err, &failed)) {
		if err := b.Prune(hosts); err != nil {
			return err
		}
	}
	return err
}

// table writes what building the hosts would do, a line for each.
func table(ctx context.Context, out io.Writer, b *build.Builder, hosts []*record.Record) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tBUILD\tFETCH\tDOWNLOAD\tUNPACKED")
	line := func(name string, builds, fetches, download, unpacked int64) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", name, builds, fetches, cli.Size(download), cli.Size(unpacked))
	}
	planned := 0
	for _, r := range hosts {
		switch p := r.Get("plan"); {
		case r.Kind() != record.KindHost:
		case !p.Exists():
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\n", r.Name())
		case p.Get("onTarget").Bool():
			fmt.Fprintf(w, "%s\ton the target\t\t\t\n", r.Name())
		default:
			planned++
			line(r.Name(), p.Get("builds").Int(), p.Get("fetches").Int(), p.Get("downloadSize").Int(), p.Get("unpackedSize").Int())
		}
	}
	if planned > 1 {
		all, err := b.Total(ctx, hosts)
		if err != nil {
			return err
		}
		line("(all)", int64(len(all.Build)), int64(len(all.Fetch)), all.DownloadSize, all.UnpackedSize)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

func main() {
	cli.Main(cli.Tool{Name: "nx-build", Help: "Realise each host's derivation.", Jobs: 8, Commands: &commands{}})
}
