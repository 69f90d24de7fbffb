package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"nx/pkg/provision"
	"nx/pkg/provision/conformance"
	"nx/pkg/state"
	"nx/pkg/target"
)

// A cloud is in memory: the least that a provider can ask.
type cloud struct {
	mu       sync.Mutex
	machines map[string]*machine // by ID
	made     int
	fault    conformance.Fault
	broken   string
}

type machine struct {
	token      string
	properties map[string]json.RawMessage
	on         bool
}

func TestCloud(t *testing.T) {
	conformance.Run(t, func(*testing.T) conformance.World {
		return &world{&cloud{machines: map[string]*machine{}, broken: os.Getenv(breakVariable)}}
	})
}

// breakVariable names what the provider does wrong.
const breakVariable = "NXTEST_BREAK"

// The suite finds what a provider does wrong.
func TestFinds(t *testing.T) {
	if os.Getenv(breakVariable) != "" {
		t.Skip("it is TestCloud that is run with a broken provider")
	}
	for broken, finds := range map[string]string{
		"makes it again":           "create, cut/killed after step 2",
		"does not look for tokens": "create and destroy, cut/killed after step 2",
		"takes a no for none":      "unauthorised",
		"does not wait":            "rate limit",
		"does not change":          "update",
		"changes what is gone":     "update of what is gone",
		"says it in two lines":     "quota",
		"keeps a refused creation": "quota",
		"believes what it made":    "changed behind our back",
		"says what it would make":  "create, cut, and wanted otherwise/killed after step 2",
	} {
		t.Run(broken, func(t *testing.T) {
			t.Parallel()
			finds = strings.ReplaceAll(finds, " ", "_")
			part, _, _ := strings.Cut(finds, "/")
			cmd := exec.Command(os.Args[0], "-test.run=^TestCloud$/^"+part+"$")
			cmd.Env = append(os.Environ(), breakVariable+"="+broken)
			out, err := cmd.CombinedOutput()
			if want := "--- FAIL: TestCloud/" + finds + " ("; err == nil || !strings.Contains(string(out), want) {
				t.Errorf("the suite says (%v)\n%s\nwant %q", err, out, want)
			}
		})
	}
}

type world struct{ cloud *cloud }

func (*world) Traits() conformance.Traits {
	return conformance.Traits{Type: state.Machines, Provider: "cloud"}
}

func (w *world) Maker(l *conformance.Line) provision.Maker { return &maker{w.cloud, l} }

func (*world) Others(*conformance.Line) map[string]provision.Maker { return nil }

func (*world) Things(v conformance.Variant, names ...string) []provision.Thing {
	options := map[conformance.Variant]string{
		conformance.First:    `{"size":"small","region":"here"}`,
		conformance.Changed:  `{"size":"big","region":"here"}`,
		conformance.Replaced: `{"size":"small","region":"there"}`,
		conformance.Misspelt: `{"siez":"small"}`,
	}[v]
	var all []provision.Thing
	for _, name := range names {
		all = append(all, provision.Thing{Ref: provision.Ref{Type: state.Machines, Name: name}, Provider: "cloud",
			Config: json.RawMessage(`{"targetEnv":"cloud","cloud":` + options + `}`)})
	}
	return all
}

func (w *world) Count() int { return len(w.cloud.machines) }

func (w *world) Misbehave(f conformance.Fault) (string, bool) {
	w.cloud.fault = f
	return map[conformance.Fault]string{
		conformance.Unauthorised: "401 who are you",
		conformance.Quota:        "422 no more than 0 machines",
	}[f], true
}

func (w *world) Remove(id string) bool {
	delete(w.cloud.machines, id)
	return true
}

func (w *world) Tamper(id string) (string, bool) {
	w.cloud.machines[id].properties["size"] = json.RawMessage(`"huge"`)
	return "size", true
}

// ask has one question asked, after as long as it takes.
func (m *maker) ask(ctx context.Context, question func(*cloud) error) error {
	for {
		err := m.line.Ask(func() error {
			if m.cloud.fault == conformance.Slow {
				<-time.After(time.Minute) // of a bubble
			}
			m.cloud.mu.Lock()
			defer m.cloud.mu.Unlock()
			switch m.cloud.fault {
			case conformance.Unauthorised:
				if m.cloud.broken == "takes a no for none" {
					return errNone
				}
				return fmt.Errorf("401 who are you%w", quietly{provision.ErrNotMade})
			case conformance.RateLimit:
				m.cloud.fault = ""
				return errTooMany
			}
			return question(m.cloud)
		})
		if !errors.Is(err, errTooMany) {
			return err
		}
		if m.cloud.broken == "does not wait" {
			continue
		}
		if err := pause(ctx, conformance.RetryAfter); err != nil {
			return err
		}
	}
}

var (
	errTooMany = errors.New("429 too many requests")
	errNone    = errors.New("404 there is none")
)

type quietly struct{ error }

func (quietly) Error() string   { return "" }
func (q quietly) Unwrap() error { return q.error }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A maker is the provider of the cloud.
type maker struct {
	cloud *cloud
	line  *conformance.Line
}

type options struct{ Size, Region string }

func (m *maker) Properties(t provision.Thing) ([]provision.Property, error) {
	var o options
	if err := t.DecodeStrict("cloud", &o); err != nil {
		return nil, err
	}
	return []provision.Property{{Name: "size", Value: o.Size}, {Name: "region", Value: o.Region}}, nil
}

func (m *maker) Effect(property string, _, _ json.RawMessage) provision.Effect {
	if property == "region" {
		return provision.Replaces
	}
	return provision.Reboots
}

func (m *maker) Create(ctx context.Context, w *provision.Work) (provision.Facts, error) {
	id := w.ID
	for try := 0; w.Again && id == "" && m.cloud.broken != "makes it again" && try < provision.TryAgain; try++ {
		var err error
		if id, err = m.find(ctx, w.Token); err != nil {
			return provision.Facts{}, err
		}
		if id == "" {
			if err := pause(ctx, provision.TryAgainAfter); err != nil {
				return provision.Facts{}, err
			}
		}
	}
	if id == "" {
		if err := m.ask(ctx, func(c *cloud) error {
			if c.fault == conformance.Quota {
				switch c.broken {
				case "says it in two lines":
					return fmt.Errorf("422 no more than 0 machines\n%w", provision.ErrNotMade)
				case "keeps a refused creation":
					return errors.New("422 no more than 0 machines")
				}
				return fmt.Errorf("422 no more than 0 machines%w", quietly{provision.ErrNotMade})
			}
			c.made++
			id = fmt.Sprint(c.made)
			c.machines[id] = &machine{token: w.Token, properties: w.Want, on: true}
			return nil
		}); err != nil {
			return provision.Facts{}, err
		}
	}
	if err := w.Remember(provision.Facts{ID: id}); err != nil {
		return provision.Facts{}, err
	}
	f, err := m.read(ctx, id)
	f.Injected = true
	if m.cloud.broken == "says what it would make" {
		f.Properties = nil
	}
	return f, err
}

func (m *maker) find(ctx context.Context, token string) (id string, err error) {
	err = m.ask(ctx, func(c *cloud) error {
		for i, h := range c.machines {
			if h.token == token {
				id = i
			}
		}
		return nil
	})
	return id, err
}

func (m *maker) read(ctx context.Context, id string) (f provision.Facts, err error) {
	err = m.ask(ctx, func(c *cloud) error {
		h, ok := c.machines[id]
		if !ok {
			f = provision.Facts{State: provision.Missing}
			return nil
		}
		f = provision.Facts{ID: id, State: provision.Stopped, Target: target.Target{Host: "192.0.2." + id}, Properties: map[string]any{}}
		if h.on {
			f.State = provision.Up
		}
		for name, v := range h.properties {
			f.Properties[name] = v
		}
		f.Outputs, err = json.Marshal(map[string]string{"publicIPv4": "192.0.2." + id})
		return err
	})
	return f, err
}

func (m *maker) Update(ctx context.Context, w *provision.Work, changes []provision.Difference) (provision.Facts, error) {
	if err := m.change(ctx, w.ID, func(h *machine) {
		if m.cloud.broken != "does not change" {
			h.properties = w.Want
		}
	}); err != nil {
		return provision.Facts{}, err
	}
	return m.read(ctx, w.ID)
}

func (m *maker) change(ctx context.Context, id string, do func(*machine)) error {
	return m.ask(ctx, func(c *cloud) error {
		h, ok := c.machines[id]
		switch {
		case !ok && c.broken == "changes what is gone":
			return nil
		case !ok:
			return errNone
		}
		do(h)
		return nil
	})
}

func (m *maker) Read(ctx context.Context, known []provision.Known, tell func(int, provision.Facts, error)) {
	for i, k := range known {
		f, err := m.read(ctx, k.ID)
		if errors.Is(err, errNone) {
			f, err = provision.Facts{State: provision.Missing}, nil
		}
		if m.cloud.broken == "believes what it made" {
			f.Properties = nil
		}
		tell(i, f, err)
	}
}

func (m *maker) Destroy(ctx context.Context, k provision.Known) error {
	id := k.ID
	if id == "" && m.cloud.broken == "does not look for tokens" {
		return nil
	}
	if id == "" {
		var err error
		if id, err = m.find(ctx, k.Token); err != nil || id == "" {
			return err
		}
	}
	return m.ask(ctx, func(c *cloud) error {
		delete(c.machines, id)
		return nil
	})
}

func (m *maker) Start(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return m.power(ctx, k.ID, true)
}

func (m *maker) Stop(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return m.power(ctx, k.ID, false)
}

func (m *maker) Reboot(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return m.power(ctx, k.ID, true)
}

func (m *maker) power(ctx context.Context, id string, on bool) (provision.Facts, error) {
	if err := m.change(ctx, id, func(h *machine) { h.on = on }); err != nil {
		return provision.Facts{}, err
	}
	return m.read(ctx, id)
}
