package activate_test

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
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
	t       *testing.T
	lab     *testhost.Lab
	options testhost.Options
	h       *testhost.Host
	gate    gate
	old     store.Path
	ids     int
}

func newStand(t *testing.T) *stand {
	t.Helper()
	testhost.Need(t, "root", "nix")
	s := &stand{t: t, lab: testhost.NewLab(t), options: testhost.Options{Nix: standNix(t)}}
	h, err := s.lab.Start(context.Background(), "h1", s.options)
	check(t, err)
	s.h = h
	s.old = addSystem(t, h, "old", map[string]string{"sw/bin/sync": syncScript, "sw/bin/reboot": "#!/bin/sh\nkill 1\n"})
	exec(t, h, "mkfifo /tmp/stopped")
	return s
}

// standNix is the Nix of a test's host: half of the tests have the newer one, always
// the same half, unless NXTEST_STAND_NIX says that all have the "old" or the "new" one.
func standNix(t *testing.T) string {
	name := fnv.New32a()
	io.WriteString(name, t.Name())
	switch all := os.Getenv("NXTEST_STAND_NIX"); {
	case all == "new", all == "" && name.Sum32()%2 == 1:
		return os.Getenv("NXTEST_NIX_NEW")
	}
	return ""
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
		_, err := s.lab.Start(context.Background(), s.h.Name, s.options)
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
	{"good", nil, []string{"supervising", "running", "keys", "testing", "tested", "confirming", "contact", "settled", "committing", "profile", "boot", "done", "settled-keys", "end"}},
	{"bad", map[string]string{"test": "2", "say": "no"}, []string{"rolling-back", "rolled-back", "confirming 2", "contact 2"}},
	{"full", map[string]string{"boot": "1", "say": "full"}, []string{"boot", "back"}},
}

// Whatever happens at whichever step, the host ends on one system, its boot default
// agrees, the record says which, and the next run deploys. Each step suffers two of the
// faults, all of them in turn; with NXTEST_FAULTS=all each suffers each.
func TestFaults(t *testing.T) {
	t.Parallel()
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t)
			n := i
			for _, w := range ways {
				for _, step := range w.steps {
					if n++; n%4 != 0 && os.Getenv("NXTEST_FAULTS") != "all" {
						continue
					}
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
	oldKeys(t, s.h)
	path := s.system("new", files)
	s.stopAt(step)
	a := activate.Activator{Action: activate.Switch, Dial: s.gate.dial, By: "anna@laptop"}
	confirm := ample
	if f.name == "deployer gone" {
		a.Patience, confirm = time.Nanosecond, brief
	}
	r := s.record(t, path, confirm)
	stage(t, s.h, r, path, newKeys...)
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
	wantKeys := keysBefore
	switch result {
	case "activated":
		wantKeys = keysAfter
		if err != nil && strings.Contains(err.Error(), "install keys: what nx-copy staged is gone; the host runs the new system") {
			wantKeys, err = keysLess, nil // it rebooted before those that come last
		}
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
	if got := keysOf(t, s.h); got != wantKeys {
		t.Errorf("%s: keys\n got %s\nwant %s\njournal:\n%s", result, got, wantKeys, exec(t, s.h, "cat /var/lib/nx/last/journal"))
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

// Where the way back fails too, the host reboots into its boot default, which is what
// ran before; and says so when it cannot.
func TestRollbackFails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		files    map[string]string // of the old system
		result   string
		says     string
		rebooted bool
	}{
		{name: "its activation script", files: map[string]string{"test": "2"}, result: "rolled-back", says: "its activation script failed: new; it rebooted into its boot default", rebooted: true},
		{name: "tmpfiles, as always", files: map[string]string{"test": "3"}, result: "rolled-back", says: "its activation script failed: new; the host runs /nix/store/"},
		{name: "it hangs", files: map[string]string{"pause": ""}, result: "rolled-back", says: "its activation script failed: new; it rebooted into its boot default", rebooted: true},
		{name: "it is gone", files: map[string]string{"run": "sleep 1"}, result: "rolled-back", says: "it rebooted into its boot default", rebooted: true},
		{name: "the reboot", files: map[string]string{"test": "2", "sw/bin/reboot": "#!/bin/sh\nexit 1", "sw/bin/sleep": "#!/bin/sh"},
			result: "failed", says: "its activation script failed: new; the way back failed too, and the host did not reboot: the host runs /nix/store/"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStand(t)
			old := s.system("old", tt.files)
			reset(t, s.h, old)
			new := map[string]string{"test": "2", "say": "new"}
			if tt.name == "it is gone" {
				new["run"] = "mount -t tmpfs none " + string(old) + "/bin" // until the boot
			}
			path := s.system("new", new)
			r := s.record(t, path, ample)
			check(t, r.Merge("deployment", record.Member{Key: "activation", Value: map[string]any{"confirmTimeout": ample, "settleTime": 0, "switchTimeout": 4}}))
			r = runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, r)
			noteJournals(t, s.h)
			got := r.Get("activation")
			if got.Get("result").Str != tt.result || got.Get("rebooted").Bool() != tt.rebooted || !strings.Contains(r.Message(), tt.says) {
				t.Errorf("%s", r.Bytes())
			}
			if got := look(t, s.h, path); got.running != "old" || got.profile != "old" || got.boot != "old" || got.generations != 1 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// While somebody else's switch-to-configuration has NixOS' lock, nothing is begun; and
// what was begun waits for it, and does not reboot the host.
func TestSwitchLock(t *testing.T) {
	t.Parallel()
	const lock = "/run/nixos/switch-to-configuration.lock"
	for _, tt := range []struct {
		name, step string
		files      map[string]string // of the new system
		result     string
		says       string
		calls      string
	}{
		{name: "the switch", step: "testing", result: "failed", says: "another switch-to-configuration has the lock, and nothing was changed"},
		{name: "the boot loader", step: "committing", result: "activated", calls: "test new,boot new"},
		{name: "the way back", step: "rolling-back", files: map[string]string{"test": "2", "say": "no"}, result: "rolled-back",
			says: "its activation script failed: no; the host runs /nix/store/", calls: "test new,test old"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStand(t)
			old := s.system("old", map[string]string{"lock": ""})
			reset(t, s.h, old)
			files := map[string]string{"lock": ""}
			maps.Copy(files, tt.files)
			path := s.system("new", files)
			s.stopAt(tt.step)
			done := make(chan *record.Record)
			go func() {
				done <- runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, s.record(t, path, ample))
			}()
			s.stopped(t)
			exec(t, s.h, "mkdir -p /run/nixos; mkfifo /tmp/held /tmp/free; flock "+lock+" sh -c 'echo > /tmp/held; read -r _ < /tmp/free' > /dev/null 2>&1 & read -r _ < /tmp/held")
			s.goOn()
			exec(t, s.h, "timeout 60 sh -c \"until grep -q '^Could not acquire lock' /var/lib/nx/last/log; do sleep 0.01; done\"; echo > /tmp/free")
			r := <-done
			noteJournals(t, s.h)
			got := look(t, s.h, path)
			if result := r.Get("activation"); result.Get("result").Str != tt.result || result.Get("rebooted").Bool() || !strings.Contains(r.Message(), tt.says) {
				t.Errorf("%s", r.Bytes())
			}
			if on := map[bool]string{true: "new", false: "old"}[tt.result == "activated"]; got.running != on || got.profile != on || got.boot != on || got.calls != tt.calls || got.left != "" {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A host whose /boot has no room for the new system's kernel goes back, and its boot
// loader has the old one.
func TestBootFull(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	old := s.system("old", map[string]string{"image": "small"})
	path := s.system("new", map[string]string{"image": strings.Repeat("x", 100000)})
	for _, action := range []activate.Action{activate.Switch, activate.Boot} {
		reset(t, s.h, old)
		exec(t, s.h, fmt.Sprintf("mount -t tmpfs -o size=64k none /boot; echo small > /boot/%s; echo %s > /boot/default", old.Base(), old))
		r := runWith(t, &activate.Activator{Action: action, Dial: dial}, s.record(t, path, ample))
		want := map[activate.Action]string{activate.Switch: "rolled-back", activate.Boot: "failed"}[action]
		if r.Get("activation").Get("result").Str != want || !strings.Contains(r.Message(), "No space left on device") || !strings.Contains(hint(r), "is there room left on /boot") {
			t.Errorf("%s, hint %q", r.Bytes(), hint(r))
		}
		got := look(t, s.h, path)
		got.calls = ""
		if want := (state{running: "old", profile: "old", boot: "old", generations: 1, root: true}); got != want {
			t.Errorf("%s: state\n got %+v\nwant %+v", action, got, want)
		}
		exec(t, s.h, "umount /boot")
	}
}

// What time the host's clock tells, and how it jumps, ends no waiting too early or too
// late.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	for _, tt := range []struct {
		name, by string
		confirm  int
		result   string
	}{
		{name: "forward", by: "+ 100000000", confirm: ample, result: "activated"},
		{name: "back", by: "- 100000000", confirm: brief, result: "rolled-back"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			old := s.system("old", map[string]string{"sw/bin/date": `#!/bin/sh
now=$(($(cat /tmp/now 2> /dev/null || /usr/bin/date +%s) ` + tt.by + `))
echo $now > /tmp/now
exec /usr/bin/date -d @$now "$@"`})
			reset(t, s.h, old)
			path := s.system("new", nil)
			r := s.record(t, path, tt.confirm)
			a := activate.Activator{Action: activate.Switch, Dial: s.gate.dial}
			if tt.confirm == brief {
				s.stopAt("testing")
				done := make(chan *record.Record)
				go func() { done <- runWith(t, &a, r) }()
				s.stopped(t)
				s.gate.set(true, false) // nobody comes
				exec(t, s.h, "echo rolled-back > /tmp/stop-at")
				s.goOn()
				s.stopped(t)
				s.gate.set(false, false)
				s.goOn()
				r = <-done
			} else {
				r = runWith(t, &a, r)
			}
			noteJournals(t, s.h)
			if got := r.Get("activation").Get("result").Str; got != tt.result {
				t.Errorf("%s", r.Bytes())
			}
			if got := look(t, s.h, path); got.left != "" || got.running != got.profile || got.running != got.boot {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Whatever a crash has left of the last deployment, the next one deploys.
func TestStaleJournals(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	reset(t, s.h, s.old)
	a := activate.Activator{Action: activate.Switch, Dial: dial}
	path := s.system("new", nil)
	if r := runWith(t, &a, s.record(t, path, ample)); r.Failed() {
		t.Fatal(r.Message())
	}
	for _, tt := range []struct{ name, left string }{
		{"a link to nothing", "rm -rf last/"},
		{"no journal", "rm last/journal"},
		{"an empty one", ": > last/journal"},
		{"one that ends within a line", "sed -i '/^testing/,$d' last/journal; printf 'testi' >> last/journal"},
		{"one of zeroes", "head -c 100 /dev/zero > last/journal"},
		{"one without its request", "sed -i /^end/d last/journal; rm last/request"},
		{"one without its program", "sed -i /^end/d last/journal; rm last/activate.sh"},
		{"one of another boot", "sed -i -e '/^committing/,$d' -e 's/^supervising .*/supervising 1/' last/journal"},
		{"one that was killed before it committed", "sed -i '/^committing/,$d' last/journal"},
		{"one that was killed as it committed", "sed -i '/^profile/,$d' last/journal"},
		{"a lock that nobody holds", "echo x > /run/nx/lock"},
		{"a system that was being run", "ln -s /nix/store/x /run/nx/pending"},
		{"no default", "rm default"},
		{"a default that is cut off", ": > default"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			exec(t, s.h, "cd /var/lib/nx && "+tt.left)
			next := s.system("new", nil)
			for _, path := range []store.Path{path, next} {
				r := runWith(t, &a, s.record(t, path, ample))
				noteJournals(t, s.h)
				if got := look(t, s.h, path); r.Failed() || got.left != "" || got.running != got.boot || got.running != got.profile || !strings.HasSuffix(string(path), got.running) {
					t.Errorf("%s\n%+v", r.Bytes(), got)
				}
			}
			path = next
		})
	}
}
