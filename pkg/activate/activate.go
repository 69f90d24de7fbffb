// Package activate is the stage of nx-activate: it makes a system that is on its
// host the running one, the boot default, or both, and sees to it that the host
// ends on a system that works and can be reached. The script that does it on the
// host is activate.sh; README.md says in which order, who decides, and why.
package activate

import (
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"nx/pkg/keys"
	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/target"
)

// A Conn is a connection to a host.
type Conn interface {
	// Run runs a POSIX sh script on the host and returns its exit status; an
	// error means that it could not be run or that the connection broke. Any of
	// stdin, stdout and stderr may be nil.
	Run(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (status int, err error)
	Close() error
}

// An Action is what to do with a system: the word that its
// switch-to-configuration takes.
type Action string

// The actions.
const (
	Switch      Action = "switch"       // run it now and after a boot
	Boot        Action = "boot"         // run it after the next boot
	Test        Action = "test"         // run it until the next boot
	DryActivate Action = "dry-activate" // show what Switch would do, change nothing
	Checked     Action = "check"        // run the health checks, change nothing
	Rollback    Action = "rollback"     // Switch to an earlier generation
)

// A Result is how an activation ended.
type Result string

// The results, of which all but the first three come with an error.
const (
	Activated  Result = "activated"
	Unchanged  Result = "unchanged" // there was nothing to do
	Dry        Result = "dry"
	RolledBack Result = "rolled-back" // the host runs what it ran before, or has booted its default
	Failed     Result = "failed"      // the error says what the host was left with
	Unknown    Result = "unknown"     // the host cannot be asked
	Skipped    Result = "skipped"     // it was not touched: as was wished, or with an error that says why
)

// A Reboot is whether a host boots its new default at once.
type Reboot string

// The choices of [Activator.Reboot].
const (
	NoReboot       Reboot = ""
	RebootIfNeeded Reboot = "if-needed" // when a part of the system takes effect only then
	RebootAlways   Reboot = "always"
)

// An Activation is the record's "activation".
type Activation struct {
	Action       Action     `json:"action"`
	Result       Result     `json:"result"`
	Rebooted     bool       `json:"rebooted,omitempty"`     // the host rebooted meanwhile
	RebootNeeded bool       `json:"rebootNeeded,omitempty"` // a part of the system takes effect only after a boot
	Generation   int        `json:"generation,omitempty"`   // the profile's after Switch and Boot
	Previous     store.Path `json:"previous,omitempty"`     // what ran before; for Boot, what was the default
	FailedUnits  []string   `json:"failedUnits,omitempty"`
	Checks       []Check    `json:"checks,omitempty"` // the health checks, or those before that failed
}

// An Activator activates hosts. Dial and Action must be set.
type Activator struct {
	Action Action

	// Dial connects to a host, each time anew.
	Dial func(context.Context, target.Target) (Conn, error)

	// Local connects to this machine, for a host whose target is "localhost" and whose
	// deployment allows it. nil: it is reached by Dial as others are.
	Local func() Conn

	Reboot         Reboot
	Specialisation string // of the system, "" for none
	NoRollback     bool   // leave a system that does not hold as it is
	Wait           bool   // for another deployment of the host to end
	Keep           string // which generations, as nix-env --delete-generations has it: "+5", "30d"; "" for all
	By             string // who deploys, for others to know

	// Patience is how long a host that cannot be reached is tried again before its
	// result is unknown. 0 is as long as it takes to decide by itself and to reboot.
	Patience time.Duration

	// SudoPassword is told to target.sudo, when that is sudo(8), on its stdin; "" is for
	// hosts whose sudo asks for none.
	SudoPassword string

	Log *slog.Logger // nil discards
}

// Host activates one host and sets activation on its record, also when it
// fails. When ctx ends it follows the host to its end all the same: what a host
// has begun, it finishes anyway. It logs, with the host's name:
//
//	connecting  target
//	activating  action, path
//	output      line: what the programs on the host print
//	activated   result, generation
//
// and between them each step that the host announces by the word that it has in
// the journal, with its value.
func (a *Activator) Host(ctx context.Context, r *record.Record) error {
	log := a.logger(r)
	got, err := a.activate(ctx, log, r)
	return a.tell(log, r, a.Action, got, err)
}

func (a *Activator) activate(ctx context.Context, log *slog.Logger, r *record.Record) (Activation, error) {
	path, err := r.StorePath()
	if err != nil {
		return Activation{}, err
	}
	d, err := a.deployment(log, r, newID(time.Now()))
	if err != nil {
		return Activation{}, err
	}
	d.action, d.path = a.Action, path
	conn, err := d.connect(ctx)
	if err != nil {
		return Activation{}, err
	}
	defer conn.Close()
	log.Info("activating", "action", string(a.Action), "path", string(path))
	if a.Action != DryActivate {
		// The host does not stop for us; who stops listening does not know how it ended.
		ctx = context.WithoutCancel(ctx)
	}
	// What is asked and done before is for hosts that are to be changed.
	if len(d.before)+len(d.hooks["before"]) > 0 && a.Action != DryActivate {
		settled, err := d.settled(ctx, conn)
		if err != nil {
			return Activation{}, err
		}
		if !settled {
			if bad := d.check(ctx, conn, d.before); bad != "" {
				return Activation{Result: Failed, Checks: d.checks}, &failure{verb: verb(a.Action, path), cause: bad + "; nothing was changed"}
			}
			d.checks = nil
			if err := d.runHooks(ctx, "before", d.hooks["before"], ""); err != nil {
				return Activation{Result: Failed}, &failure{verb: verb(a.Action, path), cause: err.Error() + "; nothing was changed", err: err}
			}
		}
	}
	var m memory
	if a.Reboot != "" && d.keys && !d.keyless {
		if m, err = d.pack(ctx, conn); err != nil {
			return Activation{}, err
		}
	}
	got, err := d.run(ctx, conn)
	if err == nil && got.Rebooted {
		err = d.afresh(ctx, m)
	}
	got.Checks = d.checks
	return got, d.afterwards(ctx, got, err)
}

// afterwards runs the hooks that belong to a result, and returns the activation's
// error, or that of a hook of an activation that had none.
func (d *deployment) afterwards(ctx context.Context, got Activation, err error) error {
	when := map[Result]string{Activated: "after", RolledBack: "onRollback"}[got.Result]
	herr := d.runHooks(ctx, when, d.hooks[when], got.Result)
	switch {
	case herr == nil:
		return err
	case err == nil:
		return &failure{verb: verb(d.action, d.path), cause: herr.Error() + "; the host runs the new system", err: herr}
	}
	d.log.Warn(herr.Error())
	return err
}

// back has a host that was activated go back to what it ran, and returns why and how
// that ended, for its record.
func (a *Activator) back(r *record.Record, why error) error {
	log := a.logger(r)
	was := Activation{Action: a.Action, Result: RolledBack, Previous: store.Path(r.Get("activation").Get("previous").Str)}
	log.Info("going back", "path", string(was.Previous), "cause", why.Error())
	d, err := a.deployment(log, r, newID(time.Now()))
	if err == nil {
		err = d.back(was.Previous)
	}
	if err != nil {
		was.Result = Failed
		why = fmt.Errorf("%w; it could not go back to %s: %w", why, was.Previous, err)
	} else {
		why = fmt.Errorf("%w; it went back to %s", why, was.Previous)
	}
	return a.tell(log, r, a.Action, was, why)
}

// back activates a system that the host had before.
func (d *deployment) back(path store.Path) error {
	ctx := context.Background()
	d.action, d.path = d.a.Action, path
	d.health, d.keys = nil, false // they are the new system's
	conn, err := d.dial(ctx, d.to)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = d.run(ctx, conn)
	return err
}

// Check runs the host's health checks, changes nothing, and sets activation on its record.
func (a *Activator) Check(ctx context.Context, r *record.Record) error {
	log := a.logger(r)
	got, err := a.check(ctx, log, r)
	return a.tell(log, r, Checked, got, err)
}

func (a *Activator) check(ctx context.Context, log *slog.Logger, r *record.Record) (Activation, error) {
	d, err := a.deployment(log, r, "")
	if err != nil {
		return Activation{}, err
	}
	conn, err := d.connect(ctx)
	if err != nil {
		return Activation{}, err
	}
	defer conn.Close()
	bad := d.check(ctx, conn, d.health)
	got := Activation{Result: Unchanged, Checks: d.checks}
	if bad != "" {
		got.Result, err = Failed, errors.New(bad)
	}
	return got, err
}

// Attach follows the host's last deployment, whoever began it, and sets activation
// on its record as [Activator.Host] does. One that has lost its supervisor, as by
// a reboot, is brought to its end.
func (a *Activator) Attach(ctx context.Context, r *record.Record) error {
	log := a.logger(r)
	d, err := a.deployment(log, r, last)
	if err != nil {
		return a.tell(log, r, "", Activation{}, err)
	}
	got, err := d.attach(ctx)
	return a.tell(log, r, d.action, got, err)
}

func (a *Activator) logger(r *record.Record) *slog.Logger {
	log := a.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return log.With("host", r.Name())
}

// tell sets the record's activation.
func (a *Activator) tell(log *slog.Logger, r *record.Record, action Action, got Activation, err error) error {
	got.Action = action
	if err != nil {
		got.Result = cmp.Or(got.Result, Failed)
	}
	if serr := r.Set("activation", got); serr != nil {
		err = errors.Join(err, serr)
	}
	if err == nil {
		log.Info("activated", "result", string(got.Result), "generation", got.Generation)
	}
	return err
}

// newID names a deployment: by the time, to the millisecond, so that names sort, and
// by chance, so that those of several deployers differ.
func newID(now time.Time) string {
	b := make([]byte, 4)
	rand.Read(b)
	now = now.UTC()
	return fmt.Sprintf("%s-%03d%x", now.Format("20060102-150405"), now.Nanosecond()/1e6, b)
}

//go:embed activate.sh
var activateScript string

// script is what runs on a host.
var script = keys.Script + activateScript

//go:embed nx-switch.sh
var doorScript string

//go:embed nx-switch.nix
var module string

// Module returns the NixOS module that has nx-switch on a host, as one file.
func Module() string {
	quoted := strings.NewReplacer("''", "'''", "${", "''${")
	return strings.NewReplacer("@activate.sh@", quoted.Replace(script), "@nx-switch.sh@", quoted.Replace(doorScript)).Replace(module)
}

// packed is the script, compressed and without its comments: as it is it takes a long
// line two round trips more, and what TCP sends at first is 14 kB (RFC 6928).
var packed = sync.OnceValue(func() string {
	var b strings.Builder
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	for line := range strings.Lines(script) {
		if !strings.HasPrefix(strings.TrimLeft(line, "\t"), "#") {
			io.WriteString(w, line)
		}
	}
	w.Close()
	return b.String()
})

// start hands the script over: on stdin, so that it is no argument that sudo logs,
// and whole before any of it runs. It finds its text in the variable nx. Before it
// comes the line mark; what comes before that is a password that sudo did not ask for.
const (
	start = `while IFS= read -r nx && [ "$nx" != ` + mark + ` ]; do :; done; nx=$(gzip -dc) && eval "$nx"`
	mark  = "nx-activate-packed"
)
