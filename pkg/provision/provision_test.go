package provision_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"nx/pkg/network"
	"nx/pkg/provision"
	"nx/pkg/provision/keypair"
	"nx/pkg/provision/none"
	"nx/pkg/provision/sandbox"
	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/target"
	"nx/pkg/testhost"
)

// deployment is a provisioner of one folder, as nx-provision makes it.
func deployment(t *testing.T, root string, things ...provision.Thing) *provision.Provisioner {
	t.Helper()
	s, err := state.Open(t.Context(), filepath.Join(root, state.Path), state.Options{Wait: func(h state.Holder) { t.Errorf("the state is locked: %s", h) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &provision.Provisioner{
		Things:    things,
		State:     s,
		Machines:  map[string]provision.Maker{"sandbox": &sandbox.Provider{Root: root}},
		Resources: map[string]provision.Maker{keypair.Type: keypair.Provider{}},
		Existing:  &none.Provider{Probe: func(context.Context, target.Target) error { return nil }},
		Root:      root,
		Jobs:      8,
	}
}

// machine is what a network says of one.
func machine(name, deployment string, tags ...string) provision.Thing {
	d := &network.Description{Machines: []network.Machine{{Name: name, Deployment: json.RawMessage(deployment), Tags: tags}}}
	return provision.Things(d)[0]
}

// A verb acts on hosts together.
type verb func(ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error

// all is a verb with the argument everything.
func all(f func(context.Context, []*record.Record, bool, func(*record.Record)) error) verb {
	return func(ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error {
		return f(ctx, hosts, true, emit)
	}
}

// each is a verb that acts on each host by itself.
func each(f func(context.Context, *record.Record) error) verb {
	return func(ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error {
		for _, r := range hosts {
			if err := f(ctx, r); err != nil {
				r.Fail(record.Provision, err)
			}
			emit(r)
		}
		return nil
	}
}

// run lets v act on hosts and returns the records, one a line, sorted.
func run(t *testing.T, hosts []*record.Record, v verb) string {
	t.Helper()
	var mu sync.Mutex
	var lines []string
	if err := v(t.Context(), hosts, func(r *record.Record) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, string(r.Bytes())+"\n")
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestExistingHosts(t *testing.T) {
	root := t.TempDir()
	p := deployment(t, root,
		machine("web1", `{"targetEnv":"none","targetHost":"web1.example.org"}`, "web", "a", "web"),
		machine("web2", `{"targetPort":2222,"targetUser":"deploy","privilegeEscalationCommand":["doas"]}`),
		machine("evil", `{"targetHost":"-oProxyCommand=evil"}`),
		machine("far", `{"targetEnv":"moon"}`),
		provision.Thing{Ref: provision.Ref{Type: state.Machines, Name: "broken"}, Err: errors.New("evaluate deployment: attribute 'x' missing")},
	)
	got := run(t, must[[]*record.Record](t)(p.Wanted()), all(p.Apply))
	want := `{"nx":1,"kind":"host","name":"broken","error":{"stage":"provision","message":"evaluate deployment: attribute 'x' missing"}}
{"nx":1,"kind":"host","name":"evil","error":{"stage":"provision","message":"describe target: target.host \"-oProxyCommand=evil\" must not be empty or start with '-'"}}
{"nx":1,"kind":"host","name":"far","error":{"stage":"provision","message":"find provider: deployment.targetEnv is \"moon\", and known are [\"none\" \"sandbox\"]"}}
{"nx":1,"kind":"host","name":"web1","tags":["a","web"],"target":{"host":"web1.example.org"},"machine":{"provider":"none"}}
{"nx":1,"kind":"host","name":"web2","target":{"host":"web2","port":2222,"user":"deploy","sudo":["doas"]},"machine":{"provider":"none"}}
`
	if got != want {
		t.Errorf("apply writes\n%s\nwant\n%s", got, want)
	}
	if s := must[*state.State](t)(state.Read(t.Context(), filepath.Join(root, state.Path), state.Options{})); s.UUID() != "" {
		t.Errorf("hosts that exist already were remembered: %v", s.Entries(state.Machines))
	}
	p.Things = p.Things[:1]
	want = `{"nx":1,"kind":"host","name":"web1","tags":["a","web"],"target":{"host":"web1.example.org"},"machine":{"provider":"none","state":"up"}}` + "\n"
	if got := run(t, must[[]*record.Record](t)(p.All()), all(p.Check)); got != want {
		t.Errorf("check writes\n%s\nwant\n%s", got, want)
	}
	if hosts := must[[]*record.Record](t)(p.Made()); len(hosts) != 0 {
		t.Errorf("destroy would act on %d hosts, want none", len(hosts))
	}
}

// A machine of the state is handled by who made it, whatever the network has become.
func TestStateAndNetworkDiffer(t *testing.T) {
	p := deployment(t, t.TempDir(), machine("web1", `{"targetEnv":"none"}`), machine("web2", `{}`))
	for _, e := range []state.Entry{
		{Type: state.Machines, Name: "gone", Provider: "sandbox", Tags: []string{"old"}, ID: "gone",
			Target: json.RawMessage(`{"host":"10.231.4.2","hostKeys":["ssh-ed25519 AAAA"]}`), Outputs: json.RawMessage(`{"publicIPv4":"10.231.4.2"}`)},
		{Type: state.Machines, Name: "half", Provider: "sandbox", Intent: "create"},
		{Type: state.Machines, Name: "lost", Provider: "ec2"},
		{Type: state.Machines, Name: "web1", Provider: "sandbox"},
	} {
		if err := p.State.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	const (
		moved   = `,"error":{"stage":"provision","message":"find provider of web1: it was made by sandbox, and deployment.targetEnv is now \"none\""}}` + "\n"
		unknown = `,"error":{"stage":"provision","message":"find provider: deployment.targetEnv is \"ec2\", and known are [\"none\" \"sandbox\"]"}}` + "\n"
		web1    = `{"nx":1,"kind":"host","name":"web1","machine":{"provider":"sandbox","state":"missing"`
		web2    = `{"nx":1,"kind":"host","name":"web2","target":{"host":"web2"},"machine":{"provider":"none"}}` + "\n"
	)
	got := run(t, must[[]*record.Record](t)(p.Wanted()), all(p.Apply))
	want := web1 + `}` + moved + web2
	if got != want {
		t.Errorf("apply writes\n%s\nwant\n%s", got, want)
	}
	got = run(t, must[[]*record.Record](t)(p.All()), each(p.Show))
	want = `{"nx":1,"kind":"host","name":"gone","tags":["old"],"target":{"host":"10.231.4.2","hostKeys":["ssh-ed25519 AAAA"]},"machine":{"provider":"sandbox","id":"gone","publicIPv4":"10.231.4.2"}}
{"nx":1,"kind":"host","name":"half","machine":{"provider":"sandbox"}}
{"nx":1,"kind":"host","name":"lost","machine":{"provider":"ec2"}}
` + web1 + "}}\n" + web2
	if got != want {
		t.Errorf("show writes\n%s\nwant\n%s", got, want)
	}
	p.Things = nil // destroy works without the network
	got = run(t, must[[]*record.Record](t)(p.Made()), all(p.Destroy))
	want = `{"nx":1,"kind":"host","name":"gone","tags":["old"],"machine":{"provider":"sandbox","state":"missing"}}
{"nx":1,"kind":"host","name":"half","machine":{"provider":"sandbox","state":"missing"}}
{"nx":1,"kind":"host","name":"lost"` + unknown + web1 + "}}\n"
	if got != want {
		t.Errorf("destroy writes\n%s\nwant\n%s", got, want)
	}
	if hosts := must[[]*record.Record](t)(p.Made()); len(hosts) != 1 || hosts[0].Name() != "lost" {
		t.Errorf("after destroy the state has %d machines, want the one that nobody could destroy", len(hosts))
	}
}

// What cannot be remembered is not made.
func TestMemoryFails(t *testing.T) {
	testhost.Need(t, "root")
	root := t.TempDir()
	p := deployment(t, root, machine("web1", `{"targetEnv":"sandbox"}`))
	s, err := state.Read(t.Context(), filepath.Join(root, state.Path), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p.State = s // may not be changed
	err = p.Apply(t.Context(), must[[]*record.Record](t)(p.Wanted()), true, func(*record.Record) {})
	if err == nil || !strings.Contains(err.Error(), "the state was not opened to be changed") {
		t.Errorf("apply: %v", err)
	}
	lab := testhost.Lab{Dir: filepath.Join(root, ".nx/sandbox")}
	if _, err := lab.Host("web1"); !errors.Is(err, testhost.ErrNoHost) {
		t.Errorf("the host was made nonetheless: %v", err)
	}
}
