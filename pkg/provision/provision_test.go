package provision_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"nx/pkg/provision"
	"nx/pkg/provision/none"
	"nx/pkg/provision/sandbox"
	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/target"
	"nx/pkg/testhost"
)

// deployment is a provisioner of one folder, as nx-provision makes it.
func deployment(t *testing.T, root string, machines ...provision.Machine) *provision.Provisioner {
	t.Helper()
	s, err := state.Open(t.Context(), filepath.Join(root, state.Path), state.Options{Wait: func(state.Holder) { t.Error("the state is locked") }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &provision.Provisioner{
		Machines: machines,
		State:    s,
		Providers: map[string]provision.Provider{
			"none":    &none.Provider{Probe: func(context.Context, target.Target) error { return nil }},
			"sandbox": &sandbox.Provider{Root: root},
		},
	}
}

func machine(name, deployment string, tags ...string) provision.Machine {
	return provision.Machine{Name: name, Deployment: json.RawMessage(deployment), Tags: tags}
}

// run lets verb act on hosts as pkg/stream does and returns the records, one a line.
func run(t *testing.T, hosts []*record.Record, verb func(context.Context, *record.Record) error) string {
	t.Helper()
	var lines strings.Builder
	for _, r := range hosts {
		if !r.Failed() {
			if err := verb(t.Context(), r); err != nil {
				r.Fail(record.Provision, err)
			}
		}
		lines.Write(append(r.Bytes(), '\n'))
	}
	return lines.String()
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
		provision.Machine{Name: "broken", Err: errors.New("evaluate deployment: attribute 'x' missing")},
	)
	got := run(t, must[[]*record.Record](t)(p.Wanted()), p.Apply)
	want := `{"nx":1,"kind":"host","name":"web1","tags":["a","web"],"target":{"host":"web1.example.org"},"machine":{"provider":"none"}}
{"nx":1,"kind":"host","name":"web2","target":{"host":"web2","port":2222,"user":"deploy","sudo":["doas"]},"machine":{"provider":"none"}}
{"nx":1,"kind":"host","name":"evil","error":{"stage":"provision","message":"describe target: target.host \"-oProxyCommand=evil\" must not be empty or start with '-'"}}
{"nx":1,"kind":"host","name":"far","error":{"stage":"provision","message":"find provider: deployment.targetEnv is \"moon\", and known are [\"none\" \"sandbox\"]"}}
{"nx":1,"kind":"host","name":"broken","error":{"stage":"provision","message":"evaluate deployment: attribute 'x' missing"}}
`
	if got != want {
		t.Errorf("apply writes\n%s\nwant\n%s", got, want)
	}
	if s := must[*state.State](t)(state.Read(t.Context(), filepath.Join(root, state.Path), state.Options{})); s.UUID() != "" {
		t.Errorf("hosts that exist already were remembered: %v", s.Entries(state.Machines))
	}
	p.Machines = p.Machines[:1]
	want = `{"nx":1,"kind":"host","name":"web1","tags":["a","web"],"target":{"host":"web1.example.org"},"machine":{"provider":"none","state":"up"}}` + "\n"
	if got := run(t, must[[]*record.Record](t)(p.All()), p.Check); got != want {
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
		{Type: state.Machines, Name: "gone", Provider: "sandbox", Tags: []string{"old"}, Outputs: json.RawMessage(`{"address":"10.231.4.2","hostKey":"ssh-ed25519 AAAA"}`)},
		{Type: state.Machines, Name: "half", Provider: "sandbox", Outputs: json.RawMessage(`{}`)},
		{Type: state.Machines, Name: "lost", Provider: "ec2"},
		{Type: state.Machines, Name: "web1", Provider: "sandbox", Outputs: json.RawMessage(`{}`)},
	} {
		if err := p.State.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(p.Obsolete(), " "); got != "gone half lost" {
		t.Errorf("Obsolete() = %q, want gone half lost", got)
	}
	const (
		moved   = `{"nx":1,"kind":"host","name":"web1","error":{"stage":"provision","message":"find provider of web1: it was made by sandbox, and deployment.targetEnv is now \"none\""}}` + "\n"
		unknown = `{"nx":1,"kind":"host","name":"lost","error":{"stage":"provision","message":"find provider: deployment.targetEnv is \"ec2\", and known are [\"none\" \"sandbox\"]"}}` + "\n"
	)
	got := run(t, must[[]*record.Record](t)(p.Wanted()), p.Apply)
	want := moved + `{"nx":1,"kind":"host","name":"web2","target":{"host":"web2"},"machine":{"provider":"none"}}` + "\n"
	if got != want {
		t.Errorf("apply writes\n%s\nwant\n%s", got, want)
	}
	got = run(t, must[[]*record.Record](t)(p.All()), p.Show)
	want += `{"nx":1,"kind":"host","name":"gone","tags":["old"],"target":{"host":"10.231.4.2","hostKeys":["ssh-ed25519 AAAA"],"identityFile":".nx/id_ed25519"},"machine":{"provider":"sandbox","id":"gone","publicIPv4":"10.231.4.2","privateIPv4":"10.231.4.2"}}
{"nx":1,"kind":"host","name":"half","machine":{"provider":"sandbox"}}
` + unknown
	if got != want {
		t.Errorf("show writes\n%s\nwant\n%s", got, want)
	}
	p.Machines = nil // destroy works without the network
	got = run(t, must[[]*record.Record](t)(p.Made()), p.Destroy)
	want = `{"nx":1,"kind":"host","name":"gone","tags":["old"],"machine":{"provider":"sandbox","state":"missing"}}
{"nx":1,"kind":"host","name":"half","machine":{"provider":"sandbox","state":"missing"}}
` + unknown + `{"nx":1,"kind":"host","name":"web1","machine":{"provider":"sandbox","state":"missing"}}
`
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
	got := run(t, must[[]*record.Record](t)(p.Wanted()), p.Apply)
	if !strings.Contains(got, "remember machines web1: the state was not opened to be changed") {
		t.Errorf("apply writes %s", got)
	}
	lab := testhost.Lab{Dir: filepath.Join(root, ".nx/sandbox")}
	if _, err := lab.Host("web1"); !errors.Is(err, testhost.ErrNoHost) {
		t.Errorf("the host was made nonetheless: %v", err)
	}
}
