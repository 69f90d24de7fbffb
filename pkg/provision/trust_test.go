package provision_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"nx/pkg/provision"
	"nx/pkg/record"
	"nx/pkg/remote"
	"nx/pkg/state"
	"nx/pkg/target"
	"nx/pkg/testhost"
)

// A booter makes machines that are given their host key, as a cloud's are.
type booter struct {
	lab     *testhost.Lab
	systemd bool // runs the machines' sshd
}

func (b *booter) Properties(provision.Thing) ([]provision.Property, error) { return nil, nil }

func (b *booter) Effect(string, json.RawMessage, json.RawMessage) provision.Effect {
	return provision.InPlace
}

func (b *booter) Create(ctx context.Context, w *provision.Work) (provision.Facts, error) {
	h, err := b.lab.Start(ctx, w.Name, testhost.Options{Systemd: b.systemd})
	if err != nil {
		return provision.Facts{}, err
	}
	if err := errors.Join(os.WriteFile(h.Disk("etc/ssh/ssh_host_ed25519_key"), []byte(w.HostKey.Private), 0o600),
		os.WriteFile(h.Disk("etc/ssh/ssh_host_ed25519_key.pub"), []byte(w.HostKey.Public+"\n"), 0o644),
		os.WriteFile(h.Disk("etc/os-release"), []byte("ID=nixos\nVERSION_ID=\"26.11\"\n"), 0o644), h.Reboot(ctx)); err != nil {
		return provision.Facts{}, err
	}
	return provision.Facts{ID: w.Name, State: provision.Up, Injected: true,
		Target: target.Target{Host: h.Addr.String(), IdentityFile: b.lab.IdentityFile}}, nil
}

func (b *booter) Update(context.Context, *provision.Work, []provision.Difference) (provision.Facts, error) {
	return provision.Facts{}, nil
}

func (b *booter) Read(_ context.Context, known []provision.Known, tell func(int, provision.Facts, error)) {
	for i := range known {
		tell(i, provision.Facts{State: provision.Up}, nil)
	}
}

func (b *booter) Destroy(ctx context.Context, k provision.Known) error {
	return b.lab.RemoveHost(ctx, k.Name)
}

// A way is a dialer that ends its process at one of the steps it takes: dials, and
// scripts, before they run and when they have.
type way struct {
	dialer remote.Dialer
	steps  []string
	end    int // the step; -1: none
	kill   context.CancelCauseFunc
}

var errKilled = errors.New("killed")

func (w *way) step(what string) error {
	if w.end == len(w.steps) {
		w.kill(errKilled)
	}
	w.steps = append(w.steps, what)
	if w.end >= 0 && len(w.steps) > w.end {
		return errKilled
	}
	return nil
}

func (w *way) dial(ctx context.Context, t target.Target) (provision.Conn, error) {
	if err := w.step("dial"); err != nil {
		return nil, err
	}
	conn, err := w.dialer.Dial(ctx, t)
	if err != nil {
		return nil, err
	}
	return &wayConn{w, conn}, nil
}

type wayConn struct {
	way *way
	*remote.Conn
}

func (c *wayConn) Run(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	if err := c.way.step("run"); err != nil {
		return 0, err
	}
	status, err := c.Conn.Run(ctx, script, stdin, stdout, stderr)
	if err == nil {
		err = c.way.step("ran")
	}
	return status, err
}

// A machine that was given its host key gets one of its own, whenever nx-provision is
// killed meanwhile, and is trusted and reached at each moment.
func TestTrust(t *testing.T) {
	testhost.Need(t, "root")
	steps := []string{"dial", "run", "ran", "run", "ran", "dial"}
	type trial struct {
		name    string
		end     int
		systemd bool
	}
	trials := []trial{{"alive", -1, false}, {"alive_with_systemd", -1, true}}
	for end, step := range steps {
		trials = append(trials, trial{fmt.Sprintf("killed_at_%d_%s", end, step), end, false})
	}
	// The key is in force, and whether sshd has heard of it is not known.
	trials = append(trials, trial{"killed_at_4_ran_with_systemd", 4, true})
	for _, tt := range trials {
		end := tt.end
		t.Run(tt.name, func(t *testing.T) {
			if tt.systemd {
				testhost.Need(t, "systemd")
			}
			t.Parallel()
			root := t.TempDir()
			lab := &testhost.Lab{Dir: filepath.Join(root, "hosts"), IdentityFile: filepath.Join(root, "id")}
			testhost.Reap(t, lab)
			apply := func(end int) (*record.Record, []string) {
				ctx, kill := context.WithCancelCause(t.Context())
				w := &way{end: end, kill: kill}
				p := deployment(t, root, machine("web1", `{"targetEnv":"cloud"}`))
				defer p.State.Close()
				p.Machines["cloud"] = &booter{lab, tt.systemd}
				p.Dial = w.dial
				hosts := must[[]*record.Record](t)(p.Wanted())
				if err := p.Apply(ctx, hosts, true, func(*record.Record) {}); err != nil {
					t.Fatal(err)
				}
				return hosts[0], w.steps
			}
			remembered := func() state.Entry {
				s, err := state.Read(t.Context(), filepath.Join(root, state.Path), state.Options{})
				if err != nil {
					t.Fatal(err)
				}
				e, _ := s.Get(state.Machines, "web1")
				return e
			}
			reach := func(raw json.RawMessage) error {
				r, err := record.Parse([]byte(`{"nx":1,"name":"web1","target":` + string(raw) + `}`))
				if err != nil {
					t.Fatal(err)
				}
				to, err := r.Target()
				if err != nil {
					t.Fatalf("%s: %v", raw, err)
				}
				// A server that takes another key in force listens anew.
				for {
					conn, err := (&remote.Dialer{}).Dial(t.Context(), to)
					if err == nil {
						conn.Close()
					}
					if !errors.Is(err, syscall.ECONNREFUSED) {
						return err
					}
				}
			}
			r, taken := apply(end)
			if end < 0 {
				// A server that takes another key in force listens anew: it may take two dials.
				if got := slices.Compact(taken); !slices.Equal(got, steps) {
					t.Errorf("steps are %q, want %q", got, steps)
				}
			} else {
				if !r.Failed() || !strings.Contains(r.Message(), "killed") {
					t.Fatalf("the killed run writes %s", r.Bytes())
				}
				if err := reach(remembered().Target); err != nil {
					t.Errorf("after the kill: %v", err)
				}
				r, _ = apply(-1)
			}
			if r.Failed() {
				t.Fatalf("%s", r.Bytes())
			}
			e := remembered()
			if err := reach(e.Target); err != nil {
				t.Error(err)
			}
			if len(e.Secrets) != 0 || e.Intent != "" {
				t.Errorf("the state has secrets %v, intent %q", e.Secrets, e.Intent)
			}
			if n := len(r.Get("target").Get("hostKeys").Array()); n != 1 {
				t.Errorf("%d host keys are trusted: %s", n, r.Bytes())
			}
			if m := r.Get("machine"); m.Get("os").String() != "nixos" || m.Get("stateVersion").String() != "26.11" {
				t.Errorf("the machine is %s", m.Raw)
			}
			h, err := lab.Host("web1")
			if err != nil {
				t.Fatal(err)
			}
			for _, left := range []string{"etc/ssh/ssh_host_ed25519_key.nx", "etc/ssh/ssh_host_ed25519_key.nx.pub"} {
				if _, err := os.Stat(h.Disk(left)); err == nil {
					t.Errorf("%s is left", left)
				}
			}
		})
	}
}
