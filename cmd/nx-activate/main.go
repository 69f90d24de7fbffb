// Nx-activate makes the systems that are on their targets the running ones.
//
// It reads host records that carry storePath and writes them with activation
// added:
//
//	nx-build < drvs.jsonl | nx-copy | nx-activate switch
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"regexp"
	"strings"

	"nx/pkg/activate"
	"nx/pkg/cli"
	"nx/pkg/record"
	"nx/pkg/remote"
	"nx/pkg/stream"
	"nx/pkg/target"
)

type commands struct {
	cli.Shared

	AskSudoPassword  bool   `help:"Ask once, at the terminal, for the password of target.sudo."`
	SudoPasswordFile string `placeholder:"FILE" help:"Read that password from FILE, its first line."`

	Switch      switchTo    `cmd:"" help:"Run each host's system, now and after a boot; go back where it does not hold."`
	Boot        boot        `cmd:"" help:"Run each host's system after its next boot."`
	Test        test        `cmd:"" help:"Run each host's system until its next boot; go back where it does not hold."`
	DryActivate dryActivate `cmd:"" help:"Show what switch would do, and change nothing."`
	Check       check       `cmd:"" help:"Run each host's health checks, and change nothing."`
	Diff        diff        `cmd:"" help:"Show which packages switch would change on each host, and how much it grows."`
	Rollback    rollback    `cmd:"" help:"Run an earlier generation of each host, now and after a boot; stay where it does not hold."`
	Status      status      `cmd:"" help:"Show what each host runs, boots next and did before."`
	Generations generations `cmd:"" help:"Show each host's generations."`
	Log         logs        `cmd:"" help:"Print the log of each host's last deployment, or of another one."`
	Attach      attach      `cmd:"" help:"Follow each host's last deployment, or tell how it ended."`
	Watch       watch       `cmd:"" help:"Show the events that the tools of a deployment wrote with --log-format json --verbose: as one picture on a terminal, with a summary."`
	Module      module      `cmd:"" help:"Print the NixOS module of nx-switch, by which users who are not root activate signed systems."`
}

// deploys are the flags of what changes hosts.
type deploys struct {
	Wait        bool     `help:"Wait for another deployment of a host to end (default: an error)."`
	Keep        string   `name:"keep-generations" placeholder:"N|DAYSd" help:"Then delete older generations than the last N, or than so many days (default: all are kept)."`
	Canary      string   `placeholder:"N|P%" help:"Begin with so many hosts, and go on when they are well."`
	Batch       string   `placeholder:"N|P%" help:"Go on with so many hosts at a time."`
	OrderByTags []string `placeholder:"TAGS" help:"Hosts with the first of these tags come first."`
	MaxFailures *int     `placeholder:"N" help:"Touch no further host when more than N have failed (default: 0 with --canary, --batch and --rollback-all, else any number)."`
	RollbackAll bool     `help:"Then have those that were activated go back too."`
	Barrier     bool     `help:"Begin when all of the input is there and no host in it has failed."`
	SkipOffline bool     `help:"Leave out hosts that cannot be reached, before any is changed."`
}

// waves are the order in which the flags say that hosts are activated.
func (c *deploys) waves(a *activate.Activator, jobs int) (*activate.Waves, error) {
	w := &activate.Waves{Activator: a, Jobs: jobs, OrderByTags: c.OrderByTags, MaxFailures: c.MaxFailures,
		RollbackAll: c.RollbackAll, Barrier: c.Barrier, SkipOffline: c.SkipOffline}
	var err error
	if w.Canary, err = activate.ParseShare(c.Canary); err != nil {
		return nil, &cli.UsageError{Err: fmt.Errorf("--canary: %w", err)}
	}
	if w.Batch, err = activate.ParseShare(c.Batch); err != nil {
		return nil, &cli.UsageError{Err: fmt.Errorf("--batch: %w", err)}
	}
	if c.MaxFailures != nil && *c.MaxFailures < 0 {
		return nil, &cli.UsageError{Err: fmt.Errorf("--max-failures=%d: it must not be negative", *c.MaxFailures)}
	}
	return w, nil
}

// runs are the flags of what runs a system at once.
type runs struct {
	NoRollback     bool   `help:"Leave a host as it is when its new system does not hold."`
	Specialisation string `placeholder:"NAME" help:"Run this specialisation of each system."`
}

// reboots is the flag of what changes the boot default.
type reboots struct {
	Reboot cli.Optional `placeholder:"if-needed" help:"Reboot each host into its new system, or with --reboot=if-needed where a part of it takes effect only then."`
}

func (r *reboots) choice() (activate.Reboot, error) {
	switch {
	case !r.Reboot.Given:
		return activate.NoReboot, nil
	case r.Reboot.Value == "":
		return activate.RebootAlways, nil
	case r.Reboot.Value == string(activate.RebootIfNeeded), r.Reboot.Value == string(activate.RebootAlways):
		return activate.Reboot(r.Reboot.Value), nil
	}
	return "", &cli.UsageError{Err: fmt.Errorf("--reboot=%s: it is if-needed or always", r.Reboot.Value)}
}

type (
	switchTo struct {
		deploys
		runs
		reboots
		cli.Files
	}
	boot struct {
		deploys
		reboots
		cli.Files
	}
	test struct {
		deploys
		runs
		cli.Files
	}
	dryActivate struct{ cli.Files }
	check       struct{ cli.Files }
	rollback    struct {
		To         int  `placeholder:"GENERATION" help:"Go back to this generation (default: the one before the present one)."`
		Wait       bool `help:"Wait for another deployment of a host to end (default: an error)."`
		NoRollback bool `help:"Leave a host as it is when the generation does not hold."`
		cli.Files
	}
	diff struct {
		report
		Markdown bool `help:"Write the table in Markdown."`
		cli.Files
	}
	status struct {
		report
		cli.Files
	}
	generations struct {
		report
		cli.Files
	}
	logs struct {
		Deployment string `placeholder:"ID" help:"Of this deployment, as status --json names it (default: the last one)."`
		cli.Files
	}
	attach struct{ cli.Files }
	watch  struct {
		Events string `arg:"" name:"file" help:"The file of events."`
		Follow bool   `help:"Go on until stdin ends, while the tools write."`
	}
	module struct{}
)

// Run is called by cli.Main after the flags are parsed.
func (c *switchTo) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	reboot, err := c.choice()
	if err != nil {
		return err
	}
	return c.run(ctx, p, flags, activate.Activator{Action: activate.Switch, NoRollback: c.NoRollback,
		Specialisation: c.Specialisation, Reboot: reboot}, c.Files.Files)
}

// Run is called by cli.Main after the flags are parsed.
func (c *boot) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	reboot, err := c.choice()
	if err != nil {
		return err
	}
	return c.run(ctx, p, flags, activate.Activator{Action: activate.Boot, Reboot: reboot}, c.Files.Files)
}

// Run is called by cli.Main after the flags are parsed.
func (c *test) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	return c.run(ctx, p, flags, activate.Activator{Action: activate.Test, NoRollback: c.NoRollback,
		Specialisation: c.Specialisation}, c.Files.Files)
}

// Run is called by cli.Main after the flags are parsed.
func (c *dryActivate) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	a, err := flags.plug(p, activate.Activator{Action: activate.DryActivate})
	if err != nil {
		return err
	}
	return each(ctx, p, a.Host, c.Files.Files)
}

// Run is called by cli.Main after the flags are parsed.
func (c *check) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	a, err := flags.plug(p, activate.Activator{})
	if err != nil {
		return err
	}
	return each(ctx, p, a.Check, c.Files.Files)
}

// Run is called by cli.Main after the flags are parsed.
func (c *attach) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	a, err := flags.plug(p, activate.Activator{})
	if err != nil {
		return err
	}
	return each(ctx, p, a.Attach, c.Files.Files)
}

// Run is called by cli.Main after the flags are parsed.
func (c *watch) Run(ctx context.Context, p *cli.Process) error {
	return p.Watch(ctx, c.Events, c.Follow)
}

// Run is called by cli.Main after the flags are parsed.
func (c *module) Run(p *cli.Process) error {
	if _, err := io.WriteString(p.Stdout, activate.Module()); err != nil {
		return fmt.Errorf("write module: %w", err)
	}
	return nil
}

// each has a stage's function act on each host.
func each(ctx context.Context, p *cli.Process, f func(context.Context, *record.Record) error, files []string) error {
	s, err := p.Stream(record.Activate, files)
	if err != nil {
		return err
	}
	return stream.Each(ctx, s, p.Jobs, f)
}

// run activates hosts in waves.
func (c *deploys) run(ctx context.Context, p *cli.Process, flags *commands, a activate.Activator, files []string) error {
	a, err := flags.plug(p, a)
	if err != nil {
		return err
	}
	a.Wait = c.Wait
	if c.Keep != "" {
		number := regexp.MustCompile(`^([1-9][0-9]{0,5})(d?)$`).FindStringSubmatch(c.Keep)
		if number == nil {
			return &cli.UsageError{Err: fmt.Errorf("--keep-generations=%s: it is a number of generations, or of days as in 30d", c.Keep)}
		}
		// as nix-env --delete-generations has them
		if a.Keep = c.Keep; number[2] == "" {
			a.Keep = "+" + c.Keep
		}
	}
	w, err := c.waves(&a, p.Jobs)
	if err != nil {
		return err
	}
	s, err := p.Stream(record.Activate, files)
	if err != nil {
		return err
	}
	s.Facts = w.See
	return stream.Run(ctx, s, w.Run)
}

// plug gives the stage its connections.
func (c *commands) plug(p *cli.Process, a activate.Activator) (activate.Activator, error) {
	switch {
	case c.SudoPasswordFile != "":
		b, err := os.ReadFile(c.SudoPasswordFile)
		if err != nil {
			return a, fmt.Errorf("read password of sudo: %w", err)
		}
		a.SudoPassword, _, _ = strings.Cut(string(b), "\n")
	case c.AskSudoPassword:
		var err error
		if a.SudoPassword, err = p.Password("password of sudo on the hosts", "--sudo-password-file FILE"); err != nil {
			return a, err
		}
	}

	dialer := remote.Dialer{Root: p.Root, Log: p.Log}
	a.Dial = func(ctx context.Context, t target.Target) (activate.Conn, error) { return dialer.Dial(ctx, t) }
	a.Local = func() activate.Conn { return local{} }
	a.By, a.Log = whoami(), p.Log
	return a, nil
}

// whoami names who deploys to those who find a deployment in work.
func whoami() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

func main() {
	cli.Main(cli.Tool{Name: "nx-activate", Help: "Make the systems that are on their targets the running ones.",
		Jobs: 16, Commands: &commands{}})
}
