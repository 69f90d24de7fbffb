// Package activate is the stage of nx-activate: it makes a system that is on its
// host the running one, the boot default, or both, over one connection. The
// script that does it on the host is activate.sh; README.md says in which order
// and why.
package activate

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

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
)

// A Result is how an activation ended.
type Result string

// The results, of which all but the first three come with an error.
const (
	Activated Result = "activated"
	Unchanged Result = "unchanged" // there was nothing to do
	Dry       Result = "dry"
	Failed    Result = "failed"  // the error says what the host was left with
	Unknown   Result = "unknown" // the connection was lost, or the script died
)

// An Activation is the record's "activation".
type Activation struct {
	Action       Action     `json:"action"`
	Result       Result     `json:"result"`
	RebootNeeded bool       `json:"rebootNeeded,omitempty"` // a part of the system takes effect only after a boot
	Generation   int        `json:"generation,omitempty"`   // the profile's after Switch and Boot
	Previous     store.Path `json:"previous,omitempty"`     // what ran before; for Boot, what was the default
	FailedUnits  []string   `json:"failedUnits,omitempty"`
}

// An Activator activates hosts. Dial and Action must be set.
type Activator struct {
	Action Action

	// Dial connects to a host.
	Dial func(context.Context, target.Target) (Conn, error)

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
func (a *Activator) Host(ctx context.Context, r *record.Record) error {
	log := a.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("host", r.Name())
	got, err := a.activate(ctx, log, r)
	got.Action = a.Action
	if err != nil && got.Result == "" {
		got.Result = Failed
	}
	if serr := r.Set("activation", got); serr != nil {
		err = errors.Join(err, serr)
	}
	if err == nil {
		log.Info("activated", "result", string(got.Result), "generation", got.Generation)
	}
	return err
}

func (a *Activator) activate(ctx context.Context, log *slog.Logger, r *record.Record) (Activation, error) {
	path, err := r.StorePath()
	if err != nil {
		return Activation{}, err
	}
	t, err := r.Target()
	if err != nil {
		return Activation{}, err
	}
	log.Info("connecting", "target", t.Host)
	conn, err := a.Dial(ctx, t)
	if err != nil {
		return Activation{}, err
	}
	defer conn.Close()
	log.Info("activating", "action", string(a.Action), "path", string(path))
	if a.Action != DryActivate {
		// The host does not stop for us; who stops listening does not know how it ended.
		ctx = context.WithoutCancel(ctx)
	}
	return activate(ctx, log, conn, t, a.Action, path)
}

//go:embed activate.sh
var script string

// start hands the script over: on stdin, so that it is no argument that sudo
// logs, and whole before any of it runs. It finds its text in the variable nx.
const start = `nx=$(cat) && eval "$nx"`

func activate(ctx context.Context, log *slog.Logger, conn Conn, t target.Target, action Action, path store.Path) (Activation, error) {
	line, err := target.Quote(t.As("/bin/sh", "-c", start, "nx-activate", string(action), string(path), path.StagedRoot())...)
	if err != nil {
		return Activation{}, err
	}
	said := &output{log: log}
	var told stdout
	status, err := conn.Run(ctx, "exec "+line, strings.NewReader(script), &told, said)
	said.end()
	facts := parse(string(told.text))
	switch {
	case err != nil && action == DryActivate:
		return Activation{}, &failure{verb: verb(action, path), cause: err.Error(), log: said.tail(), err: err}
	case err != nil:
		// Even when no word came from it: the word may be what was lost.
		what := "nobody knows whether it began"
		if facts.has("begin") {
			what = "nobody knows how it ended"
		}
		return Activation{Result: Unknown, Previous: facts.previous(action)}, &failure{
			verb: verb(action, path), log: said.tail(), err: err,
			cause: fmt.Sprintf("%s: %v", what, err),
			hint:  "what the host began it finishes by itself, unless it rebooted; its log is /run/nx/log there. Run nx-activate again to find out",
		}
	case status != 0 || !facts.has("running"):
		return refused(t, action, path, status, facts, said)
	}
	return judge(action, path, facts, said)
}

func verb(action Action, path store.Path) string { return fmt.Sprintf("%s %s", action, path) }

// refused says why the script did not get as far as looking at the system.
func refused(t target.Target, action Action, path store.Path, status int, facts facts, said *output) (Activation, error) {
	f := &failure{verb: verb(action, path), log: said.tail()}
	switch {
	case facts.has("user"):
		f.cause = fmt.Sprintf("the host runs us as user %s, and this needs root", facts.value("user"))
		f.hint = `set target.sudo, such as ["sudo"]`
	case facts.has("absent"):
		f.cause = fmt.Sprintf("it is not on %s", t.Host)
		f.hint = "nx-copy brings it there; it stands before nx-activate in the pipe"
	default:
		f.cause = fmt.Sprintf("exit status %d", status)
		if last := said.last(); last != "" {
			f.cause += ": " + last
		}
		if t.Login() != target.DefaultUser {
			f.hint = fmt.Sprintf("may user %s run /bin/sh as root there without a password? target.sudo is %q", t.Login(), t.Sudo)
		}
	}
	return Activation{Result: Failed}, f
}
