// Nx-copy brings each host's closure to its target.
//
// It reads host records that carry storePath and writes them with copied added:
//
//	nx-build < drvs.jsonl | nx-copy --jobs 8 | nx-activate switch
//
// With --to it brings the closures to a store that the targets may fetch from, and
// the records go on to another nx-copy:
//
//	nx-build < drvs.jsonl | nx-copy --to s3://cache | nx-copy | nx-activate switch
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"nx/pkg/cli"
	"nx/pkg/closure"
	"nx/pkg/deliver"
	"nx/pkg/nixcmd"
	"nx/pkg/nixserve"
	"nx/pkg/record"
	"nx/pkg/remote"
	"nx/pkg/store"
	"nx/pkg/stream"
	"nx/pkg/target"
)

type commands struct {
	cli.Shared
	cli.Network
	keySources

	Closures closures    `cmd:"" default:"withargs" help:"Bring each host's closure to its target, and stage its keys there."`
	Now      installKeys `cmd:"" name:"keys" help:"Install each host's keys on its target at once, without an activation: after a reboot, say."`
}

// place says where targets are reached.
type place struct {
	TargetHost string `placeholder:"HOST" help:"Reach the targets there, whatever their records say."`
	TargetPort int    `placeholder:"PORT" help:"Reach the targets at this port, whatever their records say."`
}

type closures struct {
	cli.Files
	place

	To         string              `placeholder:"STORE" help:"Send the closures to a store that Nix knows, such as s3://BUCKET or file:///srv/cache, what they share once, in place of the targets. The records stay as they are."`
	Compress   closure.Compression `enum:"auto,zstd,none" default:"auto" placeholder:"HOW" help:"Send zstd to targets that have it: auto, until it turns out that the line is faster than compression, zstd, always, or none (default ${default})."`
	Substitute *bool               `negatable:"" help:"Have each target fetch from its own caches what they have, or none (default: what deployment.substituteOnDestination and hasFastConnection say)."`
	SignKey    string              `type:"path" placeholder:"FILE" help:"Sign what is sent with the secret key in FILE, as made by nix-store --generate-binary-cache-key, for targets that trust its public key but not the user, or that fetch it from STORE."`
	SpoolSize  cli.Size            `default:"2G" placeholder:"SIZE" help:"What is read for several targets is kept for the slower ones in a file of at most SIZE, in TMPDIR or /var/tmp (default ${default})."`
	Timeout    time.Duration       `default:"10m" placeholder:"TIME" help:"Give a target up when nothing has moved for TIME (default ${default})."`
	DryRun     bool                `help:"Say what each target lacks, and send nothing."`
	JSON       bool                `help:"With --dry-run, write records instead of a table."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *closures) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	sign, err := c.signer()
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return &cli.UsageError{Err: err}
	}
	if c.DryRun && !c.JSON {
		if err := p.Table(); err != nil {
			return err
		}
	}
	s, err := p.Stream(record.Copy, c.Files.Files)
	if err != nil {
		return err
	}
	if c.To != "" {
		there := &nixcmd.Destination{Nix: &nixcmd.Nix{Options: flags.NixOptions(), Log: p.Log}, Store: c.To, SignKey: c.SignKey}
		publisher := deliver.Publisher{Send: there.Send, To: c.To, Log: p.Log}
		return stream.Batches(ctx, s, publisher.Hosts)
	}
	local := nixserve.Local()
	defer local.Close()
	depot := &closure.Depot{Source: local, SpoolSize: int64(c.SpoolSize), Log: p.Log}
	defer depot.Close()
	courier := deliver.Courier{
		Depot:         depot,
		Dial:          dial(p),
		Open:          func(ctx context.Context, serve deliver.Serve) deliver.Store { return nixserve.Open(ctx, serve) },
		AddCompressed: new(nixserve.Compressor).Add,
		Compress:      c.Compress,
		Substitute:    c.Substitute,
		Sign:          sign,
		DryRun:        c.DryRun,
		TargetHost:    c.TargetHost,
		TargetPort:    c.TargetPort,
		Timeout:       c.Timeout,
		Idle:          stream.Idle,
		Log:           p.Log,
	}
	var done func()
	courier.Keys, done, err = flags.reader(ctx, p, s)
	defer done()
	if err != nil {
		return err
	}
	if c.DryRun && !c.JSON {
		s.Output.Take = func(hosts []*record.Record) error { return table(p.Stdout, hosts) }
	}
	var hosts atomic.Int64
	free := debug.SetMemoryLimit(-1) == math.MaxInt64 // nobody has said anything of it
	return stream.Each(ctx, s, p.Jobs, func(ctx context.Context, r *record.Record) error {
		if n := hosts.Add(1); free {
			debug.SetMemoryLimit(memory + n*memoryEach)
		}
		return courier.Host(ctx, r)
	})
}

// From so many bytes on, and so many for each host, garbage is collected at once, where
// it would wait until it has doubled what is in use. With the program itself, which is
// not counted, that makes 64 MB and 4 MB a host.
const (
	memory     = 48 << 20
	memoryEach = 15 << 18
)

// dial returns what connects to targets.
func dial(p *cli.Process) func(context.Context, target.Target) (deliver.Conn, error) {
	dialer := remote.Dialer{Root: p.Root, Log: p.Log}
	return func(ctx context.Context, t target.Target) (deliver.Conn, error) { return dialer.Dial(ctx, t) }
}

type installKeys struct {
	cli.Files
	place

	Prune bool `help:"Remove the keys that nx brought there before and that are not declared any more."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *installKeys) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	if flags.NoKeys {
		return &cli.UsageError{Err: errors.New("--no-keys and the verb keys: they contradict each other")}
	}
	s, err := p.Stream(record.Copy, c.Files.Files)
	if err != nil {
		return err
	}
	courier := deliver.Courier{Dial: dial(p), TargetHost: c.TargetHost, TargetPort: c.TargetPort, Idle: stream.Idle, Log: p.Log}
	var done func()
	courier.Keys, done, err = flags.reader(ctx, p, s)
	defer done()
	if err != nil {
		return err
	}
	return stream.Each(ctx, s, p.Jobs, func(ctx context.Context, r *record.Record) error { return courier.InstallKeys(ctx, r, c.Prune) })
}

// check returns what is wrong with the flags.
func (c *closures) check() error {
	switch {
	case c.JSON && !c.DryRun:
		return errors.New("--json: records are what it writes; it is for --dry-run")
	case c.To != "" && (c.DryRun || c.TargetHost != "" || c.TargetPort != 0):
		return errors.New("--to and --dry-run, --target-host, --target-port: they contradict each other")
	case c.Timeout <= 0:
		return fmt.Errorf("--timeout=%v: it must be more than nothing", c.Timeout)
	}
	return nil
}

// table writes what the targets lack, a line for each.
func table(out io.Writer, hosts []*record.Record) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tMISSING\tSIZE")
	planned, missing, size := 0, int64(0), int64(0)
	for _, r := range hosts {
		switch p := r.Get("plan"); {
		case r.Kind() != record.KindHost:
		case r.Failed():
			fmt.Fprintf(w, "%s\t-\t-\n", r.Name())
		default:
			planned++
			missing += p.Get("missing").Int()
			size += p.Get("missingSize").Int()
			fmt.Fprintf(w, "%s\t%d\t%s\n", r.Name(), p.Get("missing").Int(), cli.Size(p.Get("missingSize").Int()))
		}
	}
	if planned > 1 {
		fmt.Fprintf(w, "(all)\t%d\t%s\n", missing, cli.Size(size))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// signer returns what signs with --sign-key, nil without it.
func (c *closures) signer() (func(store.Info) string, error) {
	if c.SignKey == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.SignKey)
	if err != nil {
		return nil, fmt.Errorf("--sign-key: %w", err)
	}
	key, err := store.ParseSecretKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("--sign-key %s: %w", c.SignKey, err)
	}
	return key.Sign, nil
}

func main() {
	cli.Main(cli.Tool{Name: "nx-copy", Help: "Bring each host's closure to its target.", Jobs: 8, Commands: &commands{}})
}
