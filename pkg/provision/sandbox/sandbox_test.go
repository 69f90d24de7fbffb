package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"nx/pkg/provision"
	"nx/pkg/provision/sandbox"
	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/testhost"
)

// provisioner is that of a deployment in root with one sandbox machine, web1.
func provisioner(root string) (*provision.Provisioner, error) {
	s, err := state.Open(context.Background(), filepath.Join(root, state.Path), state.Options{})
	if err != nil {
		return nil, err
	}
	return &provision.Provisioner{
		Things:   []provision.Thing{web1(`{}`)},
		State:    s,
		Machines: map[string]provision.Maker{"sandbox": &sandbox.Provider{Root: root}},
		Root:     root,
		Allow:    provision.Allow{Recreate: true},
	}, nil
}

func web1(options string) provision.Thing {
	return provision.Thing{Ref: provision.Ref{Type: state.Machines, Name: "web1"}, Provider: "sandbox", Config: json.RawMessage(`{"targetEnv":"sandbox","sandbox":` + options + `}`)}
}

// A verb acts on web1.
type verb func(p *provision.Provisioner, ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error

func apply(p *provision.Provisioner, ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error {
	return p.Apply(ctx, hosts, false, emit)
}

func check(p *provision.Provisioner, ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error {
	return p.Check(ctx, hosts, false, emit)
}

func show(p *provision.Provisioner, ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error {
	emit(hosts[0])
	return p.Show(ctx, hosts[0])
}

func destroy(p *provision.Provisioner, ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error {
	emit(hosts[0])
	return p.Destroy(ctx, hosts, false, func(*record.Record) {})
}

// run lets verb act on web1 in a process of its own's state, and returns the record.
func run(t *testing.T, root string, v verb) string {
	t.Helper()
	p, err := provisioner(root)
	if err != nil {
		t.Fatal(err)
	}
	defer p.State.Close()
	r, err := record.NewHost("web1")
	if err != nil {
		t.Fatal(err)
	}
	if err := v(p, t.Context(), []*record.Record{r}, func(*record.Record) {}); err != nil {
		t.Fatal(err)
	}
	return string(r.Bytes())
}

// newRoot is an empty folder to provision from; what runs in it ends with the test.
func newRoot(t *testing.T) string {
	t.Helper()
	testhost.Need(t, "root")
	root := t.TempDir()
	testhost.Reap(t, lab(root))
	return root
}

func lab(root string) *testhost.Lab {
	return &testhost.Lab{Dir: filepath.Join(root, ".nx/sandbox"), IdentityFile: filepath.Join(root, ".nx/id_ed25519")}
}

// login runs a command on the record's host with OpenSSH, from the folder that the
// record's paths are relative to.
func login(t *testing.T, root, line, command string) string {
	t.Helper()
	r, err := record.Parse([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	to, err := r.Target()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte(to.Host+" "+to.HostKeys[0]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ssh", "-F", "none", "-i", to.IdentityFile, "-o", "UserKnownHostsFile="+known,
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", to.Login()+"@"+to.Host, command)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ssh %s: %v\n%s", to.Host, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestLifeCycle(t *testing.T) {
	root := newRoot(t)
	const missing = `{"nx":1,"kind":"host","name":"web1","machine":{"provider":"sandbox","state":"missing"},` +
		`"error":{"stage":"provision","message":"check machine: it is missing"}}`
	if got := run(t, root, check); got != missing {
		t.Errorf("check before apply writes\n%s\nwant\n%s", got, missing)
	}
	first := run(t, root, apply)
	if got := login(t, root, first, "hostname; nix-store --version >/dev/null; echo kept >/root/kept"); got != "web1" {
		t.Errorf("the host says %q", got)
	}
	public, err := os.ReadFile(filepath.Join(root, ".nx/id_ed25519.pub"))
	if want := `"authorizedKeys":["` + strings.TrimSpace(string(public)) + `"]`; err != nil || !strings.Contains(first, want) {
		t.Errorf("apply writes\n%s\nwant %s in it (%v)", first, want, err)
	}
	for name, v := range map[string]verb{"apply": apply, "check": check} {
		if got := run(t, root, v); got != first {
			t.Errorf("%s of a running host writes\n%s\nwant\n%s", name, got, first)
		}
	}
	h, err := lab(root).Host("web1")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	stopped := strings.TrimSuffix(strings.Replace(first, `"up"`, `"stopped"`, 1), "}") + `,"error":{"stage":"provision","message":"check machine: it is stopped"}}`
	if got, want := run(t, root, check), stopped; got != want {
		t.Errorf("check of a stopped host writes\n%s\nwant\n%s", got, want)
	}
	if got, want := run(t, root, show), strings.Replace(first, `"up"`, `"stopped"`, 1); got != want {
		t.Errorf("show writes\n%s\nwant\n%s", got, want)
	}
	again := run(t, root, apply)
	if got := login(t, root, again, "cat /root/kept"); got != "kept" {
		t.Errorf("after apply the stopped host has %q", got)
	}
	for range 2 {
		if got := run(t, root, destroy); !strings.Contains(got, `"state":"missing"`) {
			t.Errorf("destroy writes\n%s\nwant\n%s", got, missing)
		}
	}
	if _, err := lab(root).Host("web1"); !errors.Is(err, testhost.ErrNoHost) {
		t.Errorf("after destroy: %v", err)
	}
}

// A machine that is renamed keeps its host, and another one of its old name gets none
// that is not its own. A name may have what hostname(1) refuses.
func TestRenamed(t *testing.T) {
	root := newRoot(t)
	first := run(t, root, apply)
	p, err := provisioner(root)
	if err != nil {
		t.Fatal(err)
	}
	defer p.State.Close()
	if err := p.Rename("web1", "web_2"); err != nil {
		t.Fatal(err)
	}
	web2 := web1(`{}`)
	web2.Name = "web_2"
	p.Things = []provision.Thing{web2, web1(`{}`)}
	on := func(verb func(context.Context, []*record.Record, bool, func(*record.Record)) error) string {
		t.Helper()
		var said []string
		hosts, err := p.All()
		if err == nil {
			err = verb(t.Context(), hosts, true, func(r *record.Record) { said = append(said, string(r.Bytes())) })
		}
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(said)
		return strings.Join(said, "\n")
	}
	renamed := strings.Replace(first, `"name":"web1"`, `"name":"web_2"`, 1)
	for name, got := range map[string]string{"apply": on(p.Apply), "check": on(p.Check)} {
		if !strings.Contains(got, renamed) {
			t.Errorf("%s writes\n%s\nwant\n%s", name, got, renamed)
		}
		if want := `{"nx":1,"kind":"host","name":"web1","error":{"stage":"provision","message":"start sandbox web1: a host of that name is in .nx/sandbox already: nothing was made"`; name == "apply" && !strings.Contains(got, want) {
			t.Errorf("%s writes\n%s\nwant\n%s", name, got, want)
		}
	}
	r, err := record.NewHost("web_2")
	if err != nil {
		t.Fatal(err)
	}
	for _, power := range []provision.Power{provision.PowerOff, provision.PowerOn, provision.Restart} {
		if err := p.Switch(t.Context(), r, power); err != nil {
			t.Errorf("%s: %v", power, err)
		}
	}
	if on(p.Destroy); supervisors(t, root) != 0 {
		t.Error("the host runs, and its machine was destroyed")
	}
	p.Things = []provision.Thing{web2}
	if got := login(t, root, on(p.Apply), "hostname"); got != "web_2" {
		t.Errorf("the host says %q", got)
	}
	on(p.Destroy)
}

// Of what is written down nothing is absolute: the folder may be moved, and a host
// that runs goes on.
func TestFolderMoves(t *testing.T) {
	parent := newRoot(t)
	before, after := filepath.Join(parent, "before"), filepath.Join(parent, "after")
	testhost.Reap(t, lab(after))
	first := run(t, before, apply)
	if err := os.Rename(before, after); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(after, state.Path))
	if err != nil || strings.Contains(string(b), parent) {
		t.Errorf("the state has an absolute path, or none: %v\n%s", err, b)
	}
	if got := run(t, after, apply); got != first {
		t.Errorf("apply in the moved folder writes\n%s\nwant\n%s", got, first)
	}
	login(t, after, first, "true")
}

func TestRefuses(t *testing.T) {
	testhost.Need(t, "root")
	tests := []struct {
		name, options, wantErr string
	}{
		{"unknown option", `{"memory":1024}`, `read options: deployment.sandbox: json: unknown field "memory"`},
		{"no options", `3`, "read options: deployment.sandbox: json: cannot unmarshal number"},
		{"no Nix there", `{"nix":"/nonexistent"}`, "start sandbox web1: /nonexistent/bin/nix-store is missing: it is in Debian's package nix-bin"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &sandbox.Provider{Root: t.TempDir()}
			_, err := p.Properties(web1(tt.options))
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("Properties with %s: %v, want %q", tt.options, err, tt.wantErr)
			}
		})
	}
}

// TestMain is also the process that TestKilled kills.
func TestMain(m *testing.M) {
	if root := os.Getenv("NXTEST_APPLY"); root != "" {
		applyAndExit(root)
	}
	os.Exit(m.Run())
}

func applyAndExit(root string) {
	p, err := provisioner(root)
	if err != nil {
		panic(err)
	}
	r, err := record.NewHost("web1")
	if err != nil {
		panic(err)
	}
	if err := apply(p, context.Background(), []*record.Record{r}, func(*record.Record) {}); err != nil || r.Failed() {
		panic(fmt.Sprint(err, r.Message()))
	}
	fmt.Println(string(r.Bytes()))
	os.Exit(0)
}

// Killed at any moment and run again, apply ends with one host: the one whose disk
// was there, if it was.
func TestKilled(t *testing.T) {
	for _, file := range []string{
		".nx/state.json.lock",           // before anything is remembered
		".nx/state.json",                // the intent is remembered
		".nx/id_ed25519",                // the client key is there
		".nx/sandbox/web1/running",      // the host's folder is there
		".nx/sandbox/web1/disk.new/etc", // its disk is half made
		".nx/sandbox/web1/disk",         // its disk is whole
		".nx/sandbox/web1/supervise.sh", // its supervisor is about to be started
		".nx/sandbox/.lab.json",         // the network is made
		".nx/sandbox/web1/pid",          // its supervisor runs, and may not have its cable
		".nx/sandbox/web1/pid1",         // it boots
		".nx/sandbox/web1/booted",       // it has booted
		".nx/sandbox/web1/disk/root/.ssh/authorized_keys",
	} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			root := newRoot(t)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "NXTEST_APPLY="+root)
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			for there := false; !there && len(ended) == 0; runtime.Gosched() {
				_, err := os.Stat(filepath.Join(root, file))
				there = err == nil
			}
			if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatal(err)
			}
			if err := <-ended; err == nil {
				t.Logf("apply was done before it was killed at %s", file)
			}
			key, _ := os.ReadFile(filepath.Join(root, ".nx/sandbox/web1/disk/etc/ssh/ssh_host_ed25519_key.pub"))
			uuid := ""
			if s, err := state.Read(t.Context(), filepath.Join(root, state.Path), state.Options{}); err != nil {
				t.Errorf("the state is damaged: %v", err)
			} else {
				uuid = s.UUID()
				if _, known := s.Get(state.Machines, "web1"); !known && len(key) > 0 {
					t.Error("a host was made that the state does not know")
				}
			}

			line := run(t, root, apply)
			login(t, root, line, "true")
			if len(key) > 0 && !strings.Contains(line, strings.TrimSpace(string(key))) {
				t.Errorf("the host is another one: %s, its key was %s", line, key)
			}
			if s, err := state.Read(t.Context(), filepath.Join(root, state.Path), state.Options{}); err != nil || uuid != "" && s.UUID() != uuid {
				t.Errorf("the deployment is another one: %s, was %s (%v)", s.UUID(), uuid, err)
			}
			if n := supervisors(t, root); n != 1 {
				t.Errorf("%d supervisors run, want 1", n)
			}
			if n := bridges(t, root); n != 1 {
				t.Errorf("%d bridges are there, want 1", n)
			}
			if got := run(t, root, destroy); !strings.Contains(got, `"state":"missing"`) {
				t.Errorf("destroy writes %s", got)
			}
			if n := supervisors(t, root); n != 0 {
				t.Errorf("%d supervisors run after destroy", n)
			}
			if n := bridges(t, root); n != 0 {
				t.Errorf("%d bridges are left after destroy", n)
			}
		})
	}
}

// bridges counts the bridges here of the lab whose .lab.json is in root.
func bridges(t *testing.T, root string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, ".nx/sandbox/.lab.json"))
	if err != nil {
		t.Fatal(err)
	}
	var lab struct{ ID string }
	if err := json.Unmarshal(b, &lab); err != nil || lab.ID == "" {
		t.Fatalf("%s: %v", b, err)
	}
	out, err := exec.Command("ip", "link", "show", "type", "bridge").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(out), lab.ID)
}

// supervisors counts the processes that keep hosts of root running.
func supervisors(t *testing.T, root string) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		b, _ := os.ReadFile(f)
		if strings.HasPrefix(string(b), "/bin/sh\x00"+root+"/.nx/sandbox/web1/supervise.sh\x00") {
			n++
		}
	}
	return n
}
