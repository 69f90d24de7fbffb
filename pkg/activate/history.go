package activate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"nx/pkg/record"
	"nx/pkg/store"
)

// A Status is what a host is like: the record's "status" of a report.
type Status struct {
	Running      store.Path `json:"running,omitempty"`
	Default      store.Path `json:"default,omitempty"` // what it boots next
	Booted       store.Path `json:"booted,omitempty"`
	Generation   int        `json:"generation,omitempty"`
	UpToDate     bool       `json:"upToDate"`         // it runs and boots the record's storePath
	BootUnsure   bool       `json:"bootUnsure"`       // the default was not set by nx: the boot loader may know another one
	RebootNeeded bool       `json:"rebootNeeded"`     // a part of what runs takes effect only after a boot
	InWork       string     `json:"inWork,omitempty"` // the deployment that is in work
	FailedUnits  []string   `json:"failedUnits"`      // now
	Deployments  []Past     `json:"deployments"`      // of the past, the last one last
}

// A Past is a deployment that a host remembers.
type Past struct {
	ID     string     `json:"id"`
	Time   time.Time  `json:"time"` // when it began, by the host's clock
	By     string     `json:"by"`
	Action Action     `json:"action"`
	System store.Path `json:"system"`
	Result string     `json:"result"` // "activated", "rolled-back", "failed", "unfinished"
}

// A Generation is one of a host's system profile.
type Generation struct {
	Number  int        `json:"generation"`
	Time    time.Time  `json:"time"`
	Current bool       `json:"current"`
	System  store.Path `json:"system"`
}

// ask runs a verb that only looks, and returns what it says.
func (a *Activator) ask(ctx context.Context, log *slog.Logger, r *record.Record, words ...string) (*deployment, error) {
	d, err := a.deployment(log, r, "")
	if err != nil {
		return nil, err
	}
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	status, err := d.hear(ctx, conn, words...)
	if err != nil {
		return nil, err
	}
	if status != 0 || d.facts.has("user") {
		d.action = Action(words[0])
		_, err := d.refused(status)
		return nil, err
	}
	return d, nil
}

// Status sets status on the record: what the host runs, boots next, and did before.
func (a *Activator) Status(ctx context.Context, r *record.Record) error {
	d, err := a.ask(ctx, a.logger(r), r, "status")
	if err != nil {
		return err
	}
	fs := d.facts
	s := Status{Running: store.Path(fs.value("running")), Default: store.Path(fs.value("default")), Booted: store.Path(fs.value("booted")),
		InWork: fs.value("in-work"), RebootNeeded: fs.has("reboot-needed"), BootUnsure: fs.value("recorded") != fs.value("default"),
		FailedUnits: fs.all("failed-unit"), Deployments: []Past{}}
	s.Generation, _ = strconv.Atoi(fs.value("generation"))
	if want, err := r.StorePath(); err == nil {
		s.UpToDate = s.Running == want && s.Default == want
	}
	if s.FailedUnits == nil {
		s.FailedUnits = []string{}
	}
	for _, line := range fs.all("past") {
		// ID RESULT TIME ACTION SYSTEM BY…
		if f := strings.SplitN(line, " ", 6); len(f) == 6 {
			s.Deployments = append(s.Deployments, Past{ID: f[0], Result: f[1], Time: seconds(f[2]), Action: Action(f[3]), System: store.Path(f[4]), By: f[5]})
		}
	}
	return r.Set("status", s)
}

func seconds(s string) time.Time {
	n, _ := strconv.ParseInt(s, 10, 64)
	return time.Unix(n, 0).UTC()
}

// Generations sets generations on the record: those of the host's system profile.
func (a *Activator) Generations(ctx context.Context, r *record.Record) error {
	list, err := a.generations(ctx, r)
	if err != nil {
		return err
	}
	return r.Set("generations", list)
}

func (a *Activator) generations(ctx context.Context, r *record.Record) ([]Generation, error) {
	d, err := a.ask(ctx, a.logger(r), r, "generations")
	if err != nil {
		return nil, err
	}
	list := []Generation{}
	for _, line := range d.facts.all("generation-is") {
		// NUMBER TIME current|past SYSTEM
		f := strings.Fields(line)
		if len(f) != 4 {
			continue // its system was collected
		}
		n, err := strconv.Atoi(f[0])
		if err != nil {
			return nil, fmt.Errorf("read generations: %q is no number", f[0])
		}
		list = append(list, Generation{Number: n, Time: seconds(f[1]), Current: f[2] == "current", System: store.Path(f[3])})
	}
	slices.SortFunc(list, func(a, b Generation) int { return a.Number - b.Number })
	return list, nil
}

// RollBack makes an earlier generation of the host's profile the running one and the
// boot default, under the same protocol: generation to, or for 0 the one before the
// present one. It sets activation on the record.
func (a *Activator) RollBack(to int) func(context.Context, *record.Record) error {
	return func(ctx context.Context, r *record.Record) error {
		log := a.logger(r)
		got, err := a.rollBack(ctx, log, r, to)
		return a.tell(log, r, Rollback, got, err)
	}
}

func (a *Activator) rollBack(ctx context.Context, log *slog.Logger, r *record.Record, to int) (Activation, error) {
	list, err := a.generations(ctx, r)
	if err != nil {
		return Activation{}, err
	}
	var names []string
	goal := -1
	for i, g := range list {
		names = append(names, strconv.Itoa(g.Number))
		if to != 0 && g.Number == to || to == 0 && i+1 < len(list) && list[i+1].Current {
			goal = i
		}
	}
	if goal < 0 {
		err := fmt.Errorf("roll back: the host has no generation before the present one; it has %s", strings.Join(names, ", "))
		if to != 0 {
			err = fmt.Errorf("roll back to generation %d: the host has %s", to, strings.Join(names, ", "))
		}
		return Activation{}, err
	}
	d, err := a.deployment(log, r, newID(time.Now()))
	if err != nil {
		return Activation{}, err
	}
	d.action, d.path, d.generation = Switch, list[goal].System, list[goal].Number
	d.health = nil // they are the record's system's
	conn, err := d.connect(ctx)
	if err != nil {
		return Activation{}, err
	}
	defer conn.Close()
	log.Info("activating", "action", string(Rollback), "path", string(d.path))
	return d.run(context.WithoutCancel(ctx), conn)
}

// PrintLog writes the log of one of the host's deployments, "" for the last one, to
// out, each line behind the host's name.
func (a *Activator) PrintLog(id string, out io.Writer) func(context.Context, *record.Record) error {
	return func(ctx context.Context, r *record.Record) error {
		id := cmp.Or(id, last)
		if id != path.Base(id) || id == "." || id == ".." {
			return fmt.Errorf("read log of deployment %q: this is no deployment", id)
		}
		d, err := a.deployment(a.logger(r), r, id)
		if err != nil {
			return err
		}
		conn, err := d.connect(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		var text lines
		status, err := d.call(ctx, conn, &text, d.said, "log", id)
		d.said.end(true)
		switch {
		case err != nil:
			return err
		case status != 0:
			_, err := d.refused(status)
			return err
		case len(text) == 0:
			return errors.New("read log: the host has none of that deployment")
		}
		var all strings.Builder
		for line := range strings.Lines(string(text)) {
			all.WriteString(r.Name() + "> " + record.Printable(line))
		}
		_, err = io.WriteString(out, all.String())
		return err
	}
}

// lines are the last ones of a text, of at most maxFacts bytes.
type lines []byte

func (l *lines) Write(p []byte) (int, error) {
	*l = append(*l, p...)
	*l = (*l)[max(0, len(*l)-maxFacts):]
	return len(p), nil
}
