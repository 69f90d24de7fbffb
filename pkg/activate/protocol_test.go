package activate_test

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"nx/pkg/activate"
	"nx/pkg/record"
	"nx/pkg/target"
	"nx/pkg/testhost"
)

//go:embed activate.sh
var script string

// TestMain sees to it that each step that the script announces was announced in a
// test: in one of this package, or in one on a host with systemd.
func TestMain(m *testing.M) {
	flag.Parse()
	parallel := false
	flag.Visit(func(f *flag.Flag) { parallel = parallel || f.Name == "test.parallel" })
	if !parallel {
		flag.Set("test.parallel", "8") // they wait for their hosts' clocks most of the time
	}
	status := m.Run()
	missing, _ := testhost.Missing("root")
	if some := flag.Lookup("test.run").Value.String() != "" || testing.Short(); status == 0 && !some && missing == nil {
		elsewhere := []string{
			"failed-unit", // TestSystemdFailures
			"unready",     // what cannot be noted is in no journal: TestNotesThatCannotBeWritten
		}
		for _, match := range regexp.MustCompile(`\b(?:step|note) ["']?([a-z-]+)`).FindAllStringSubmatch(script, -1) {
			if !words.seen[match[1]] && !slices.Contains(elsewhere, match[1]) {
				fmt.Printf("FAIL: no test announces the step %q\n", match[1])
				status = 1
			}
		}
	}
	os.Exit(status)
}

// A counter counts connections and what is run on them: opening the session and its
// answer are two round trips.
type counter struct {
	mu          sync.Mutex
	dials, runs int
}

type counted struct {
	activate.Conn
	c *counter
}

func (c *counter) dial(ctx context.Context, to target.Target) (activate.Conn, error) {
	c.mu.Lock()
	c.dials++
	c.mu.Unlock()
	conn, err := dial(ctx, to)
	return counted{conn, c}, err
}

func (c counted) Run(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	c.c.mu.Lock()
	c.c.runs++
	c.c.mu.Unlock()
	return c.Conn.Run(ctx, script, stdin, stdout, stderr)
}

// A host that is left alone costs one connection and two round trips on it; one that
// is changed another connection, which is the proof of its life.
func TestCost(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	reset(t, s.h, s.old)
	path := s.system("new", nil)
	for _, want := range []struct{ dials, runs int }{{2, 2}, {1, 1}} {
		var got counter
		if r := runWith(t, &activate.Activator{Action: activate.Switch, Dial: got.dial}, s.record(t, path, ample)); r.Failed() {
			t.Fatal(r.Message())
		}
		if got.dials != want.dials || got.runs != want.runs {
			t.Errorf("%d connections, %d scripts, want %d and %d", got.dials, got.runs, want.dials, want.runs)
		}
	}
}

// A host can boot its new system at once: the record says what came up.
func TestReboot(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	exec(t, s.h, "mkdir /var/k1 /var/k2; touch /var/k1/kernel /var/k2/kernel")
	for _, tt := range []struct {
		name   string
		action activate.Action
		reboot activate.Reboot
		files  map[string]string
		want   string // the record's activation without previous
		err    string
	}{
		{name: "always", action: activate.Switch, reboot: activate.RebootAlways, want: `{"action":"switch","result":"activated","rebooted":true,"generation":2`},
		{name: "boot", action: activate.Boot, reboot: activate.RebootAlways, want: `{"action":"boot","result":"activated","rebooted":true,"generation":2`},
		{name: "not needed", action: activate.Switch, reboot: activate.RebootIfNeeded, want: `{"action":"switch","result":"activated","generation":2`},
		{name: "needed", action: activate.Switch, reboot: activate.RebootIfNeeded, files: map[string]string{"kernel@": "/var/k2/kernel"},
			want: `{"action":"switch","result":"activated","rebooted":true,"generation":2`},
		{name: "nothing was switched", action: activate.Switch, reboot: activate.RebootIfNeeded, files: map[string]string{"test": "100"},
			want: `{"action":"switch","result":"activated","rebooted":true,"generation":2`},
		{name: "it does not reboot", action: activate.Boot, reboot: activate.RebootAlways, files: map[string]string{"noreboot": ""},
			want: `{"action":"boot","result":"failed","rebootNeeded":true,"generation":2`, err: "the host did not reboot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			reset(t, s.h, s.old)
			exec(t, s.h, "rm -rf /run/booted; mkdir /run/booted; ln -s /var/k1/kernel /run/booted/kernel; echo p > /run/booted/kernel-params; ln -sfn /run/booted /run/booted-system")
			files := map[string]string{"kernel@": "/var/k1/kernel", "kernel-params": "p"}
			maps.Copy(files, tt.files)
			path := s.system("new", files)
			if _, is := tt.files["noreboot"]; is {
				exec(t, s.h, "mkdir -p /run/bin; printf '#!/bin/sh\\nexit 1\\n' > /run/bin/reboot; chmod +x /run/bin/reboot; printf '#!/bin/sh\\nexit 0\\n' > /run/bin/sleep; chmod +x /run/bin/sleep;"+
					"for r in $(readlink -f /run/current-system)/sw/bin/reboot /usr/sbin/reboot; do [ ! -e $r ] || mount --bind /run/bin/reboot $r; done")
			}
			r := runWith(t, &activate.Activator{Action: tt.action, Reboot: tt.reboot, Dial: dial}, s.record(t, path, ample))
			noteJournals(t, s.h)
			if got, want := r.Get("activation").Raw, fmt.Sprintf(`%s,"previous":"%s"}`, tt.want, s.old); got != want || !strings.Contains(r.Message(), tt.err) {
				t.Errorf("activation\n got %s: %s\nwant %s", got, r.Message(), want)
			}
			if got := look(t, s.h, path); tt.err == "" && (got.running != "new" || got.profile != "new" || got.boot != "new" || got.left != "") {
				t.Errorf("state %+v", got)
			}
		})
	}
}

// A supervisor that is so late that nobody waits for it any more begins nothing, and
// what its deployer says is what became of it.
func TestLateSupervisor(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	old := s.system("old", map[string]string{
		"sw/bin/setsid": "#!/bin/sh\n[ ! -p /tmp/late ] || read -r _ < /tmp/late\nexec /usr/bin/setsid \"$@\"",
		"sw/bin/sleep":  "#!/bin/sh\nif [ -p /tmp/late ]; then echo 99999999.0 > /run/uptime; else exec /usr/bin/sleep \"$@\"; fi", // it takes long
	})
	reset(t, s.h, old)
	path := s.system("new", nil)
	exec(t, s.h, "cp /proc/uptime /run/uptime; mount --bind /run/uptime /proc/uptime; mkfifo /tmp/late")
	r := runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, s.record(t, path, brief))
	exec(t, s.h, "echo > /tmp/late; rm /tmp/late; timeout 60 sh -c \"until grep -q '^end$' /var/lib/nx/deployments/*/journal; do sleep 0.01; done\"; umount /proc/uptime")
	if got := r.Get("activation").Get("result").Str; got != "failed" || !strings.Contains(r.Message(), "the host did not begin it, and nothing was changed") {
		t.Errorf("%s", r.Bytes())
	}
	if got := look(t, s.h, path); got.running != "old" || got.profile != "old" || got.boot != "old" || got.calls != "" || got.left != "" {
		t.Errorf("%+v", got)
	}
}

// A specialisation of the system runs, and the system is the default.
func TestSpecialisation(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	reset(t, s.h, s.old)
	special := s.system("special", nil)
	path := s.system("new", map[string]string{"specialisation/x@": string(special)})
	a := activate.Activator{Action: activate.Switch, Specialisation: "x", Dial: dial}
	if r := runWith(t, &a, s.record(t, path, ample)); r.Failed() {
		t.Fatal(r.Message())
	}
	if got := look(t, s.h, path); got.running != "special" || got.profile != "new" || got.boot != "new" || got.calls != "test special,boot new" {
		t.Errorf("state %+v", got)
	}
	if r := runWith(t, &a, s.record(t, path, ample)); r.Get("activation").Get("result").String() != "unchanged" {
		t.Errorf("the second time: %s", r.Bytes())
	}
	a.Specialisation = "y"
	if r := runWith(t, &a, s.record(t, path, ample)); !strings.HasSuffix(r.Message(), "the system has no such specialisation") {
		t.Errorf("got %s", r.Bytes())
	}
}

// On a disk that is full from some step on, the host goes back all the same, and
// says so: the journal has room of its own.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"", "testing", "tested", "settled", "rolling-back"} {
		t.Run("from "+step, func(t *testing.T) {
			s := newStand(t)
			reset(t, s.h, s.old)
			files := map[string]string{}
			if step == "rolling-back" {
				files["test"] = "2"
			}
			path := s.system("new", files)
			exec(t, s.h, "mount -t tmpfs -o size=128k none /var/lib/nx; echo "+string(s.old)+" > /var/lib/nx/default")
			const fill = "cat /dev/zero > /var/lib/nx/fill 2> /dev/null || :"
			done := make(chan *record.Record)
			start := func() {
				go func() {
					done <- runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, s.record(t, path, ample))
				}()
			}
			if step == "" {
				exec(t, s.h, fill)
				start()
			} else {
				s.stopAt(step)
				start()
				s.stopped(t)
				exec(t, s.h, fill)
				s.goOn()
			}
			r := <-done
			noteJournals(t, s.h)
			got := look(t, s.h, path)
			result := r.Get("activation").Get("result").String()
			want := map[string]string{"": "failed", "rolling-back": "rolled-back"}[step]
			if want == "" { // the reserve lasts for what is left to say
				want = "activated"
			}
			if on := map[string]string{"activated": "new"}[want]; result != want || on == "new" && (got.running != "new" || got.boot != "new") || on == "" && (got.running != "old" || got.boot != "old") {
				t.Errorf("%s: %s, %+v\n%s", result, r.Message(), got, exec(t, s.h, "cat /var/lib/nx/last/journal /var/lib/nx/last/log || :"))
			}
		})
	}
}

// Who finds the same system in work follows it, and proves it too; who waits for
// another one comes after it.
func TestTwoDeployers(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	for _, tt := range []struct {
		name  string
		same  bool
		calls string
	}{
		{"the same system", true, "test new,boot new"},
		{"another system", false, "test new,boot new,test other,boot other"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			reset(t, s.h, s.old)
			path := s.system("new", nil)
			second := path
			if !tt.same {
				second = s.system("other", nil)
			}
			s.stopAt("testing")
			done := make(chan *record.Record)
			go func() {
				done <- runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, s.record(t, path, ample))
			}()
			s.stopped(t)
			waits := slog.New(events(func(message string) {
				if message == "waiting for another deployment" {
					s.goOn()
				}
			}))
			r := runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial, Wait: !tt.same, Log: waits}, s.record(t, second, ample))
			if first := <-done; first.Failed() || r.Failed() {
				t.Errorf("first %s\nsecond %s", first.Bytes(), r.Bytes())
			}
			if got := look(t, s.h, second).calls; got != tt.calls {
				t.Errorf("calls %q", got)
			}
		})
	}
}

// A host without its rollback is left as it is.
func TestNoRollback(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	reset(t, s.h, s.old)
	path := s.system("new", map[string]string{"test": "2", "say": "no"})
	r := runWith(t, &activate.Activator{Action: activate.Switch, NoRollback: true, Dial: dial}, s.record(t, path, ample))
	noteJournals(t, s.h)
	if got := look(t, s.h, path); r.Get("activation").Get("result").String() != "failed" || !strings.Contains(r.Message(), "its activation script failed: no; nothing was rolled back") ||
		got.running != "new" || got.profile != "old" || got.boot != "old" || got.calls != "test new" {
		t.Errorf("%s\n%+v", r.Bytes(), got)
	}
	// The next one does it again, since it is not whole.
	if r := runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, s.record(t, path, ample)); r.Get("activation").Get("result").String() != "rolled-back" && !r.Failed() {
		t.Errorf("the next run: %s", r.Bytes())
	}
}

// A host that moves with its new system is reached where it was, and must be
// reached where it will be.
func TestMove(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	reset(t, s.h, s.old)
	at := func(path string, confirm int, ports ...int) *record.Record {
		r := s.record(t, s.system("new", map[string]string{"run": path}), confirm)
		to := s.h.Target()
		target := func(port int) map[string]any {
			return map[string]any{"host": to.Host, "port": port, "hostKeys": to.HostKeys, "identityFile": to.IdentityFile}
		}
		m := target(ports[0])
		m["previous"] = target(ports[1])
		check(t, r.Set("target", m))
		return r
	}
	const moves = "/usr/sbin/sshd -f /etc/ssh/sshd_config -p 2222"
	if r := runWith(t, &activate.Activator{Action: activate.Test, Dial: dial}, at(moves, ample, 2222, 22)); r.Failed() {
		t.Errorf("%s", r.Bytes())
	}
	reset(t, s.h, s.old)
	r := runWith(t, &activate.Activator{Action: activate.Test, Dial: dial}, at(":", brief, 2223, 22))
	if got := r.Get("activation").Get("result").String(); got != "rolled-back" || !strings.Contains(r.Message(), "nobody reached the host over a new connection within 2 s") {
		t.Errorf("%s", r.Bytes())
	}
}

// events is a handler that calls itself with each message.
type events func(message string)

func (events) Enabled(context.Context, slog.Level) bool { return true }
func (f events) WithAttrs([]slog.Attr) slog.Handler     { return f }
func (f events) WithGroup(string) slog.Handler          { return f }
func (f events) Handle(_ context.Context, r slog.Record) error {
	f(r.Message)
	return nil
}
