package activate_test

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nx/pkg/activate"
	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/target"
	"nx/pkg/testhost"
)

//go:embed testdata/sync
var syncScript string

// A gate is what stands between a deployer and its hosts.
type gate struct {
	mu    sync.Mutex
	shut  bool
	conns []activate.Conn
}

func (g *gate) dial(ctx context.Context, to target.Target) (activate.Conn, error) {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut {
		return nil, errors.New("the gate is shut")
	}
	conn, err := dial(ctx, to)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns = append(g.conns, conn)
	return conn, nil
}

// set opens the gate or shuts it; cut ends the connections that are there.
func (g *gate) set(shut, cut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	if cut {
		for _, c := range g.conns {
			c.Close()
		}
		g.conns = nil
	}
}

// A stand is a host whose supervisor stops where a test wants it to.
type stand struct {
	t    *testing.T
	lab  *testhost.Lab
	h    *testhost.Host
	gate gate
	old  store.Path
	ids  int
}

func newStand(t *testing.T) *stand {
	t.Helper()
	testhost.Need(t, "root", "nix")
	s := &stand{t: t, lab: testhost.NewLab(t)}
	h, err := s.lab.Start(context.Background(), "h1", testhost.Options{})
	check(t, err)
	s.h = h
	s.old = addSystem(t, h, "old", map[string]string{"sw/bin/sync": syncScript, "sw/bin/reboot": "#!/bin/sh\nkill 1\n"})
	exec(t, h, "mkfifo /tmp/stopped")
	return s
}

// system adds a new system, of which no two are the same.
func (s *stand) system(name string, files map[string]string) store.Path {
	s.t.Helper()
	s.ids++
	with := map[string]string{"id": fmt.Sprint(s.ids), "sw/bin/sync": syncScript, "sw/bin/reboot": "#!/bin/sh\nkill 1\n"}
	maps.Copy(with, files)
	return addSystem(s.t, s.h, name, with)
}

// For how many seconds the host waits for its deployer: one that comes, however slow
// this machine is, or one that does not.
const (
	ample = 120
	brief = 2
)

// record is the host's, with its confirmTimeout in seconds.
func (s *stand) record(t testing.TB, path store.Path, confirm int) *record.Record {
	t.Helper()
	r := hostRecord(t, s.h, path)
	check(t, r.Set("deployment", map[string]any{"activation": map[string]any{"confirmTimeout": confirm, "settleTime": 0, "switchTimeout": 60}}))
	return r
}

// stopAt has the supervisor stop at the next line of its journal that begins so.
func (s *stand) stopAt(step string) {
	exec(s.t, s.h, "rm -f /tmp/go /tmp/stop-at; mkfifo /tmp/go; echo "+step+" > /tmp/stop-at")
}

// stopped waits until it did.
func (s *stand) stopped(t testing.TB) {
	t.Helper()
	exec(t, s.h, "cat /tmp/stopped")
}

// goOn lets it go on, if it is still there. What follows may take the host along.
func (s *stand) goOn() {
	s.h.Exec(context.Background(), "exec 3<> /tmp/go; echo >&3; timeout 5 sh -c 'while pgrep -x sync; do sleep 0.01; done' > /dev/null")
}

// words are those of the journals that were read: what the tests have seen announced.
var words = struct {
	sync.Mutex
	seen map[string]bool
}{seen: map[string]bool{}}

func noteJournals(t testing.TB, h *testhost.Host) {
	t.Helper()
	words.Lock()
	defer words.Unlock()
	for line := range strings.Lines(exec(t, h, "cat /var/lib/nx/deployments/*/journal 2> /dev/null || :")) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		words.seen[word] = true
	}
}

// A fault is what befalls a deployment at a step, and what may come of it.
type fault struct {
	name string
	// strike is called while the supervisor stands at the step. It returns
	// whether the supervisor is to be told to go on, and what is to be done once the
	// deployment has ended for its deployer.
	strike func(t *testing.T, s *stand) (goOn bool, after func())
}

var faults = []fault{
	{"nothing", func(*testing.T, *stand) (bool, func()) { return true, nil }},
	{"connection cut and mended at once", func(_ *testing.T, s *stand) (bool, func()) {
		s.gate.set(false, true)
		return true, nil
	}},
	{"cable pulled and mended", func(t *testing.T, s *stand) (bool, func()) {
		check(t, s.h.Cut(context.Background()))
		check(t, s.h.Mend(context.Background()))
		return true, nil
	}},
	{"deployer gone", func(_ *testing.T, s *stand) (bool, func()) {
		s.gate.set(true, true)
		return true, func() { s.gate.set(false, false) }
	}},
	{"supervisor killed", func(t *testing.T, s *stand) (bool, func()) {
		exec(t, s.h, "pkill -9 -f '[a]ctivate.sh supervise'; pkill -9 -x sync || :")
		return false, nil
	}},
	{"host rebooted", func(t *testing.T, s *stand) (bool, func()) {
		check(t, s.h.Reboot(context.Background()))
		return false, nil
	}},
	{"power cut", func(t *testing.T, s *stand) (bool, func()) {
		check(t, s.h.Stop(context.Background()))
		_, err := s.lab.Start(context.Background(), s.h.Name, testhost.Options{})
		check(t, err)
		return false, nil
	}},
	{"second deployer", func(t *testing.T, s *stand) (bool, func()) {
		other := s.system("other", nil)
		second := runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, s.record(t, other, ample))
		if !strings.Contains(second.Message(), "another deployment is in work on the host: switch /nix/store/") || !strings.Contains(second.Message(), " by anna@laptop since 2") {
			t.Errorf("second deployer: %s", second.Bytes())
		}
		return true, nil
	}},
}

// A way is what a deployment goes through when nothing befalls it, step by step.
type way struct {
	name  string
	files map[string]string // of the new system
	steps []string
}

var ways = []way{
	{"good", nil, []string{"supervising", "running", "testing", "tested", "confirming", "contact", "settled", "committing", "profile", "boot", "done", "end"}},
	{"bad", map[string]string{"test": "2", "say": "no"}, []string{"rolling-back", "rolled-back", "confirming 2", "contact 2"}},
	{"full", map[string]string{"boot": "1", "say": "full"}, []string{"boot", "back"}},
}

// Whatever happens at whichever step, the host ends on one system, its boot default
// agrees, the record says which, and the next run deploys.
func TestFaults(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t)
			for _, w := range ways {
				for _, step := range w.steps {
					t.Run(w.name+", "+step, func(t *testing.T) { s.suffer(t, f, w.files, step) })
				}
			}
		})
	}
}

// The same with faults, ways and steps by chance: NXTEST_CHAOS rounds, from the seed
// NXTEST_SEED.
func TestChaos(t *testing.T) {
	t.Parallel()
	number := func(variable string, other uint64) uint64 {
		text := os.Getenv(variable)
		if text == "" {
			return other
		}
		n, err := strconv.ParseUint(text, 10, 64)
		check(t, err)
		return n
	}
	seed := number("NXTEST_SEED", rand.Uint64())
	t.Logf("NXTEST_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := newStand(t)
	for round := range number("NXTEST_CHAOS", 4) {
		f, w := faults[r.IntN(len(faults))], ways[r.IntN(len(ways))]
		step := w.steps[r.IntN(len(w.steps))]
		t.Run(fmt.Sprintf("%d: %s at %s, %s", round, f.name, w.name, step), func(t *testing.T) { s.suffer(t, f, w.files, step) })
	}
}

func (s *stand) suffer(t *testing.T, f fault, files map[string]string, step string) {
	s.t = t
	reset(t, s.h, s.old)
	path := s.system("new", files)
	s.stopAt(step)
	a := activate.Activator{Action: activate.Switch, Dial: s.gate.dial, By: "anna@laptop"}
	confirm := ample
	if f.name == "deployer gone" {
		a.Patience, confirm = time.Nanosecond, brief
	}
	r := s.record(t, path, confirm)
	done := make(chan error)
	go func() { done <- a.Host(context.Background(), r) }()
	s.stopped(t)
	goOn, after := f.strike(t, s)
	if goOn {
		s.goOn()
	}
	err := <-done
	if after != nil {
		after()
		if got := r.Get("activation").Get("result").String(); got != "unknown" && step != "end" {
			t.Errorf("without its deployer: %s", r.Bytes())
		}
		// somebody else asks how it ended
		r = s.record(t, path, confirm)
		err = (&activate.Activator{Dial: dial, Patience: time.Minute}).Attach(context.Background(), r)
	}
	noteJournals(t, s.h)
	result := r.Get("activation").Get("result").String()
	t.Logf("%s: %s: %v", result, r.Get("activation").Raw, err)
	got := look(t, s.h, path)
	want := state{running: "old", profile: "old", boot: "old", generations: 1, calls: got.calls, root: true}
	switch result {
	case "activated":
		want.running, want.profile, want.boot, want.generations, want.root = "new", "new", "new", 2, false
	case "rolled-back":
	case "failed":
		if !strings.Contains(err.Error(), "not begun, and nothing was changed") {
			t.Errorf("error %v", err)
		}
	default:
		t.Errorf("result %q: %v", result, err)
	}
	if got != want {
		t.Errorf("%s: state\n got %+v\nwant %+v\njournal:\n%s", result, got, want, exec(t, s.h, "cat /var/lib/nx/last/journal"))
	}
	if (err == nil) != (result == "activated") || files != nil && result != "rolled-back" {
		t.Errorf("%s: %v", result, err)
	}
	if f.name == "nothing" && files == nil && result != "activated" {
		t.Errorf("without a fault: %s", result)
	}
	next := s.system("next", nil)
	if r := runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, s.record(t, next, ample)); r.Failed() {
		t.Errorf("the next run: %s", r.Bytes())
	}
	if got := look(t, s.h, next); got.running != "next" || got.profile != "next" || got.boot != "next" || got.left != "" {
		t.Errorf("after the next run: %+v", got)
	}
}

// A host that nobody reaches over a new connection goes back, and reboots when
// it is not reached then either; the old connection, which still lives, is no proof.
func TestNewConnectionsOnly(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	reset(t, s.h, s.old)
	path := s.system("new", nil)
	s.stopAt("testing")
	a := activate.Activator{Action: activate.Switch, Dial: s.gate.dial, Patience: time.Minute}
	r := s.record(t, path, 1)
	done := make(chan error)
	go func() { done <- a.Host(context.Background(), r) }()
	s.stopped(t)
	s.gate.set(true, false)
	exec(t, s.h, "echo rebooting > /tmp/stop-at")
	s.goOn()
	s.stopped(t)
	s.gate.set(false, false)
	s.goOn()
	err := <-done
	if got := r.Get("activation"); got.Get("result").String() != "rolled-back" || !got.Get("rebooted").Bool() || err == nil ||
		!strings.Contains(err.Error(), "nobody reached the host over a new connection within 1 s; it rebooted into its boot default: the host runs "+string(s.old)) {
		t.Errorf("%s: %v", got.Raw, err)
	}
	noteJournals(t, s.h)
}
