package activate_test

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nx/pkg/activate"
	"nx/pkg/record"
	"nx/pkg/remote"
	"nx/pkg/store"
	"nx/pkg/target"
	"nx/pkg/testhost"
)

//go:embed testdata/switch-to-configuration
var switchScript string

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// exec runs a script in the host, past its sshd.
func exec(t testing.TB, h *testhost.Host, script string) string {
	t.Helper()
	out, err := h.Exec(context.Background(), script)
	check(t, err)
	return out
}

// addSystem adds a system named nixos-system-NAME to the host's store; files are
// those that testdata/switch-to-configuration reads. NAME@ is a link to its text.
func addSystem(t testing.TB, h *testhost.Host, name string, files map[string]string) store.Path {
	t.Helper()
	script := "set -e; d=$(mktemp -d)/nixos-system-" + name + "; mkdir -p $d/bin $d/sw/bin $d/specialisation; cat > $d/bin/switch-to-configuration <<'EOF'\n" +
		switchScript + "EOF\nchmod +x $d/bin/switch-to-configuration; : > $d/say\n"
	for _, f := range slices.Sorted(maps.Keys(files)) {
		if link, ok := strings.CutSuffix(f, "@"); ok {
			script += fmt.Sprintf("ln -s %s $d/%s\n", files[f], link)
			continue
		}
		script += fmt.Sprintf("cat > $d/%s <<'EOF'\n%s\nEOF\n", f, files[f])
	}
	script += "find $d/sw/bin -type f -exec chmod +x {} +\n"
	p, err := store.Parse(strings.TrimSpace(exec(t, h, script+"nix-store --add $d")))
	check(t, err)
	exec(t, h, fmt.Sprintf("mkdir -p /nix/var/nix/gcroots/nx; ln -sfn %s %s", p, p.StagedRoot()))
	return p
}

// hosts is a stream of host records.
func hostRecord(t testing.TB, h *testhost.Host, path store.Path) *record.Record {
	t.Helper()
	r, err := record.NewHost(h.Name)
	check(t, err)
	to := h.Target()
	check(t, r.Set("target", map[string]any{"host": to.Host, "user": to.User, "hostKeys": to.HostKeys, "identityFile": to.IdentityFile}))
	check(t, r.Set("storePath", path))
	check(t, r.Set("deployment", map[string]any{"activation": map[string]any{"confirmTimeout": 60, "settleTime": 1, "switchTimeout": 60}}))
	return r
}

// dial waits for a host however slow this machine is. One that lost its power refuses
// what the old connection sends as soon as it is up again.
func dial(ctx context.Context, to target.Target) (activate.Conn, error) {
	d := remote.Dialer{Config: os.DevNull, Timeout: 2 * time.Minute, AliveInterval: time.Second, AliveCount: 120}
	c, err := d.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// run activates path on h.
func run(t testing.TB, h *testhost.Host, action activate.Action, path store.Path) *record.Record {
	t.Helper()
	a := activate.Activator{Action: action, Dial: dial}
	return runWith(t, &a, hostRecord(t, h, path))
}

func runWith(t testing.TB, a *activate.Activator, r *record.Record) *record.Record {
	t.Helper()
	if err := a.Host(context.Background(), r); err != nil {
		r.Fail(record.Activate, err)
	}
	return r
}

// state is what counts on a host, with systems by their names.
type state struct {
	running, profile, boot string
	generations            int
	calls                  string // what switch-to-configuration was called for since the last look
	left                   string // markers that an activation did not finish
	root                   bool   // the staged root is there
}

func look(t testing.TB, h *testhost.Host, p store.Path) state {
	t.Helper()
	f := strings.Split(exec(t, h, `
name() { n=$(readlink -f "$1"); [ -e "$1" ] && echo "${n##*-}" || echo; }
name /run/current-system
name /nix/var/nix/profiles/system
n=$(cat /boot/default 2> /dev/null); echo "${n##*-}"
ls /nix/var/nix/profiles | grep -c 'system-.*-link'
paste -sd, /var/log/calls 2> /dev/null || echo; rm -f /var/log/calls
(ls -d /run/nx/pending /var/lib/nx/*.new /nix/var/nix/gcroots/nx/2???????-??????-* 2> /dev/null || :) | sed 's,.*/,,' | paste -sd,
[ -L `+p.StagedRoot()+` ] && echo root || echo
`), "\n")
	s := state{running: f[0], profile: f[1], boot: f[2], calls: f[4], left: f[5], root: f[6] == "root"}
	fmt.Sscan(f[3], &s.generations)
	return s
}

// reset makes the system old the running one, the only generation and the default.
func reset(t testing.TB, h *testhost.Host, old store.Path) {
	t.Helper()
	exec(t, h, fmt.Sprintf(`set -e
rm -rf /nix/var/nix/profiles/system* /run/nx /var/lib/nx /var/log/calls /tmp/go
mkdir -m 700 /var/lib/nx
echo %[1]s > /var/lib/nx/default
nix-env -p /nix/var/nix/profiles/system --set %[1]s
ln -sfn %[1]s /run/current-system
echo %[1]s > /boot/default`, old))
}

func hint(r *record.Record) string {
	var h interface{ Hint() string }
	if errors.As(r.Cause(), &h) {
		return h.Hint()
	}
	return ""
}

func startHost(t testing.TB) *testhost.Host {
	t.Helper()
	testhost.Need(t, "root", "nix")
	return testhost.Start(t, 1)[0]
}

// Every exit status of every action leaves the host as the record says.
func TestActions(t *testing.T) {
	t.Parallel()
	t.Run("Nix", func(t *testing.T) { testActions(t, startHost(t)) })
	t.Run("newer Nix", func(t *testing.T) {
		testhost.Need(t, "root", "nix-new")
		h, err := testhost.NewLab(t).Start(context.Background(), "h1", testhost.Options{Nix: os.Getenv("NXTEST_NIX_NEW")})
		check(t, err)
		testActions(t, h)
	})
}

func testActions(t *testing.T, h *testhost.Host) {
	old := addSystem(t, h, "old", nil)
	units := map[string]string{"say": "starting\nwarning: the following units failed: a.service, b.timer\nx a.service - A", "test": "4"}
	asBefore := state{running: "old", profile: "old", boot: "old", generations: 1, root: true}
	with := func(s state, f func(*state)) state { f(&s); return s }
	for i, tt := range []struct {
		name   string
		action activate.Action
		files  map[string]string
		want   string // the record's activation without previous
		err    string // text of the error; "" for none
		hint   string
		state  state
	}{
		{name: "switch", action: activate.Switch,
			want:  `{"action":"switch","result":"activated","generation":2`,
			state: state{running: "new", profile: "new", boot: "new", generations: 2, calls: "test new,boot new"}},
		{name: "boot", action: activate.Boot,
			want:  `{"action":"boot","result":"activated","rebootNeeded":true,"generation":2`,
			state: state{running: "old", profile: "new", boot: "new", generations: 2, calls: "boot new"}},
		{name: "test", action: activate.Test,
			want:  `{"action":"test","result":"activated"`,
			state: with(asBefore, func(s *state) { s.running, s.calls = "new", "test new" })},
		{name: "dry-activate", action: activate.DryActivate, files: map[string]string{"say": "would activate"},
			want: `{"action":"dry-activate","result":"dry"`, state: asBefore},
		{name: "dry-activate fails", action: activate.DryActivate, files: map[string]string{"dry-activate": "1", "say": "cannot"},
			want: `{"action":"dry-activate","result":"failed"`, err: "it was refused, and nothing was changed: cannot", state: asBefore},
		{name: "switch, units failed", action: activate.Switch, files: units,
			want: `{"action":"switch","result":"rolled-back","generation":1`, err: "units failed; the host runs " + string(old) + " again",
			hint: "when the cause is gone", state: with(asBefore, func(s *state) { s.calls = "test new,test old" })},
		{name: "test, units failed", action: activate.Test, files: units,
			want: `{"action":"test","result":"rolled-back"`, err: "units failed",
			state: with(asBefore, func(s *state) { s.calls = "test new,test old" })},
		{name: "switch refused", action: activate.Switch, files: map[string]string{"test": "1", "say": "Pre-switch checks failed"},
			want: `{"action":"switch","result":"failed","generation":1`, err: "nothing was changed: Pre-switch checks failed",
			state: with(asBefore, func(s *state) { s.calls = "test new" })},
		{name: "switch ends after units were stopped", action: activate.Switch, files: map[string]string{"test": "1", "units": "a.service", "say": "Error: Failed to process dbus messages while waiting for jobs"},
			want: `{"action":"switch","result":"rolled-back","generation":1`, err: "switch-to-configuration: exit status 1: Error: Failed to process dbus messages",
			state: with(asBefore, func(s *state) { s.calls = "test new,test old" })},
		{name: "activation script fails", action: activate.Switch, files: map[string]string{"test": "2", "say": "snippet x failed (1)\nFailed to run activate script"},
			want: `{"action":"switch","result":"rolled-back","generation":1`, err: "its activation script failed: snippet x failed (1); the host runs " + string(old) + " again",
			state: with(asBefore, func(s *state) { s.calls = "test new,test old" })},
		{name: "systemd cannot reload", action: activate.Switch, files: map[string]string{"test": "3"},
			want: `{"action":"switch","result":"rolled-back","generation":1`, err: "systemd could not reload",
			state: with(asBefore, func(s *state) { s.calls = "test new,test old" })},
		{name: "needs a reboot", action: activate.Switch, files: map[string]string{"test": "100"},
			want: `{"action":"switch","result":"failed","rebootNeeded":true,"generation":1`, err: "nothing was switched", hint: "nx-activate boot",
			state: with(asBefore, func(s *state) { s.calls = "test new" })},
		{name: "another status", action: activate.Switch, files: map[string]string{"test": "11", "say": "no such thing"},
			want: `{"action":"switch","result":"rolled-back","generation":1`, err: "switch-to-configuration: exit status 11: no such thing",
			state: with(asBefore, func(s *state) { s.calls = "test new,test old" })},
		{name: "killed", action: activate.Switch, files: map[string]string{"test": "9"},
			want: `{"action":"switch","result":"rolled-back","generation":1`, err: "switch-to-configuration was ended by signal 9",
			state: with(asBefore, func(s *state) { s.calls = "test new,test old" })},
		{name: "boot loader fails", action: activate.Switch, files: map[string]string{"boot": "1", "say": "no space left"},
			want:  `{"action":"switch","result":"rolled-back","generation":1`,
			err:   "install the boot loader: exit status 1: no space left; the host runs " + string(old) + " again",
			hint:  "is there room left",
			state: with(asBefore, func(s *state) { s.calls = "test new,boot new,boot old,test old" })},
		{name: "boot loader fails at boot", action: activate.Boot, files: map[string]string{"boot": "1", "say": "no space left"},
			want:  `{"action":"boot","result":"failed","rebootNeeded":true,"generation":1`,
			err:   "install the boot loader: exit status 1: no space left; profile and boot default are as before",
			state: with(asBefore, func(s *state) { s.calls = "boot new,boot old" })},
		{name: "boot loader forges facts", action: activate.Boot, files: map[string]string{"boot": "1", "say": `full\nboot 0\nback 1`},
			want:  `{"action":"boot","result":"failed","rebootNeeded":true,"generation":1`,
			err:   `install the boot loader: exit status 1: full\nboot 0\nback 1; profile and boot default are as before`,
			state: with(asBefore, func(s *state) { s.calls = "boot new,boot old" })},
		{name: "a daemon stays", action: activate.Switch, files: map[string]string{"daemon": ""},
			want:  `{"action":"switch","result":"activated","generation":2`,
			state: state{running: "new", profile: "new", boot: "new", generations: 2, calls: "test new,boot new"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reset(t, h, old)
			files := map[string]string{"id": fmt.Sprint(i)} // else equal systems would be one path
			maps.Copy(files, tt.files)
			path := addSystem(t, h, "new", files)
			r := run(t, h, tt.action, path)
			noteJournals(t, h)
			want := tt.want + fmt.Sprintf(`,"previous":"%s"}`, old)
			if got := r.Get("activation").Raw; got != want {
				t.Errorf("activation\n got %s\nwant %s", got, want)
			}
			prefix := fmt.Sprintf("%s %s: ", tt.action, path)
			if got := r.Message(); (got == "") != (tt.err == "") || got != "" && !strings.HasPrefix(got, prefix) || !strings.Contains(got, tt.err) {
				t.Errorf("error %q\nwant %s… %q", got, prefix, tt.err)
			}
			if tt.err != "" && r.FailedStage() != record.Activate {
				t.Errorf("stage %q", r.FailedStage())
			}
			if got := r.Get("error").Get("log").String(); tt.err != "" && !strings.Contains(got, strings.TrimSpace(tt.files["say"])) {
				t.Errorf("log %q\nwant %q", got, tt.files["say"])
			}
			if got := hint(r); !strings.Contains(got, tt.hint) {
				t.Errorf("hint %q\nwant %q", got, tt.hint)
			}
			if got := look(t, h, path); got != tt.state {
				t.Errorf("state\n got %+v\nwant %+v", got, tt.state)
			}
		})
	}
}

// A host that has never had a system gets its first, or goes back to none.
func TestFirstSystem(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
		state state
	}{
		{name: "boot loader fails", files: map[string]string{"boot": "1"},
			want:  `{"action":"switch","result":"failed"}`,
			state: state{running: "new", calls: "test new,boot new", root: true}},
		{name: "switch",
			want:  `{"action":"switch","result":"activated","generation":1}`,
			state: state{running: "new", profile: "new", boot: "new", generations: 1, calls: "test new,boot new"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			exec(t, h, "rm -rf /nix/var/nix/profiles/system* /run/nx /var/lib/nx /var/log/calls /run/current-system /boot/default")
			path := addSystem(t, h, "new", tt.files)
			r := run(t, h, activate.Switch, path)
			if got := r.Get("activation").Raw; got != tt.want {
				t.Errorf("activation\n got %s: %s\nwant %s", got, r.Message(), tt.want)
			}
			if got := look(t, h, path); got != tt.state {
				t.Errorf("state\n got %+v\nwant %+v", got, tt.state)
			}
		})
	}
}

// A boot is needed for what only a boot can change, where something was booted.
func TestRebootNeeded(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	// As in NixOS, a system has links to its kernel and initrd.
	exec(t, h, "mkdir /var/k1 /var/k2; touch /var/k1/kernel /var/k2/kernel")
	booted := addSystem(t, h, "booted", map[string]string{"kernel-params": "p1", "kernel@": "/var/k1/kernel"})
	for _, tt := range []struct {
		name   string
		booted string
		files  map[string]string
		want   bool
	}{
		{name: "a container", booted: "/run/nothing", files: map[string]string{"kernel-params": "p2", "kernel@": "/var/k2/kernel"}},
		{name: "nothing of it", booted: string(booted), files: map[string]string{"kernel-params": "p1", "kernel@": "/var/k1/kernel"}},
		{name: "the parameters", booted: string(booted), files: map[string]string{"kernel-params": "p2", "kernel@": "/var/k1/kernel"}, want: true},
		{name: "the kernel", booted: string(booted), files: map[string]string{"kernel-params": "p1", "kernel@": "/var/k2/kernel"}, want: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reset(t, h, booted)
			exec(t, h, "ln -sfn "+tt.booted+" /run/booted-system")
			r := run(t, h, activate.Switch, addSystem(t, h, "new", tt.files))
			noteJournals(t, h)
			if got := r.Get("activation").Get("rebootNeeded").Bool(); got != tt.want || r.Failed() {
				t.Errorf("got %v, %s, want %v", got, r.Message(), tt.want)
			}
		})
	}
}

// What is as it should be is left alone; what only looks like it is not.
func TestUnchanged(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	old, path := addSystem(t, h, "old", nil), addSystem(t, h, "new", nil)
	const all = "switch boot test dry-activate"
	for _, tt := range []struct {
		name      string
		before    string // run in the host
		unchanged string // the actions that find nothing to do
	}{
		{name: "old system", unchanged: ""},
		{name: "new system", before: "ln -sfn $new /run/current-system; nix-env -p /nix/var/nix/profiles/system --set $new; echo $new > /var/lib/nx/default", unchanged: all},
		{name: "only running", before: "ln -sfn $new /run/current-system", unchanged: "test"},
		{name: "only the default", before: "nix-env -p /nix/var/nix/profiles/system --set $new; echo $new > /var/lib/nx/default", unchanged: "boot"},
		{name: "switch broken off", before: "ln -sfn $new /run/current-system; nix-env -p /nix/var/nix/profiles/system --set $new; echo $new > /var/lib/nx/default; mkdir /run/nx; ln -s $new /run/nx/pending",
			unchanged: "boot"},
		{name: "a deployment broken off", before: "ln -sfn $new /run/current-system; nix-env -p /nix/var/nix/profiles/system --set $new; echo $new > /var/lib/nx/default; cd /var/lib/nx; mkdir -p deployments/x; ln -s deployments/x last; echo testing > last/journal",
			unchanged: ""},
		{name: "set by somebody else", before: "ln -sfn $new /run/current-system; nix-env -p /nix/var/nix/profiles/system --set $new",
			unchanged: "test"},
	} {
		for _, action := range []activate.Action{activate.Switch, activate.Boot, activate.Test, activate.DryActivate} {
			t.Run(tt.name+", "+string(action), func(t *testing.T) {
				reset(t, h, old)
				exec(t, h, fmt.Sprintf("new=%s; ln -sfn $new %s; %s", path, path.StagedRoot(), tt.before))
				r := run(t, h, action, path)
				if r.Failed() {
					t.Fatal(r.Message())
				}
				want := slices.Contains(strings.Fields(tt.unchanged), string(action))
				if got := r.Get("activation").Get("result").String() == "unchanged"; got != want {
					t.Errorf("activation %s, want unchanged: %v", r.Get("activation").Raw, want)
				}
				s := look(t, h, path)
				if called := s.calls != ""; called == (want || action == activate.DryActivate) {
					t.Errorf("switch-to-configuration was called for %q", s.calls)
				}
				if !want && action != activate.DryActivate {
					if s.left != "" && action == activate.Switch {
						t.Errorf("left %q", s.left)
					}
					if again := run(t, h, action, path); again.Get("activation").Get("result").String() != "unchanged" {
						t.Errorf("the second time: %s", again.Bytes())
					}
				}
				// The root goes when the profile keeps the system, and only then.
				if s = look(t, h, path); s.root == (s.profile == "new") && action != activate.DryActivate {
					t.Errorf("root %v, profile %q", s.root, s.profile)
				}
			})
		}
	}
}

// dry-activate changes nothing at all on the host.
func TestDryActivateChangesNothing(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	reset(t, h, addSystem(t, h, "old", nil))
	path := addSystem(t, h, "new", map[string]string{"say": "would restart the following units: a.service"})
	const all = `cd /; find boot etc home nix root run tmp var -printf '%p %y %m %s %l %T@\n' 2> /dev/null |
		grep -v -e '^nix/var/nix/db d' -e '^var/log/boot.log ' | sort`
	// Left out: sshd's log, and the folder in which Nix' database makes and removes
	// its lock files whenever it is asked something.
	run(t, h, activate.DryActivate, path) // what a first login makes is not ours
	before := exec(t, h, all)
	var log lines
	a := activate.Activator{Action: activate.DryActivate, Dial: dial, Log: log.logger()}
	r := runWith(t, &a, hostRecord(t, h, path))
	if after := exec(t, h, all); after != before {
		t.Errorf("files changed:\n%s", diff(before, after))
	}
	if got := r.Get("activation").Get("result").String(); got != "dry" {
		t.Errorf("result %q", got)
	}
	if want := `line="would restart the following units: a.service"`; !strings.Contains(log.String(), want) {
		t.Errorf("log %s\nwant %s", log.String(), want)
	}
}

func diff(a, b string) string {
	in := func(lines, other string, sign string) (out string) {
		for line := range strings.Lines(lines) {
			if !strings.Contains(other, line) {
				out += sign + line
			}
		}
		return out
	}
	return in(a, b, "-") + in(b, a, "+")
}

// lines collects what a logger is told, as text.
type lines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// at is a handler that calls itself with each line of output.
type at func(line string)

func (at) Enabled(context.Context, slog.Level) bool { return true }
func (f at) WithAttrs([]slog.Attr) slog.Handler     { return f }
func (f at) WithGroup(string) slog.Handler          { return f }
func (f at) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if r.Message == "output" && a.Key == "line" {
			f(a.Value.String())
		}
		return true
	})
	return nil
}

// A deployer that is told to stop follows the host to its end.
func TestCanceled(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	reset(t, h, addSystem(t, h, "old", nil))
	path := addSystem(t, h, "new", map[string]string{"pause": ""})
	ctx, cancel := context.WithCancel(context.Background())
	a := activate.Activator{Action: activate.Switch, Dial: dial, Log: slog.New(at(func(line string) {
		if line == "waiting" {
			cancel()
			go h.Exec(context.Background(), "echo > /tmp/go")
		}
	}))}
	r := hostRecord(t, h, path)
	if err := a.Host(ctx, r); err != nil || r.Get("activation").Get("result").String() != "activated" {
		t.Errorf("%v: %s", err, r.Bytes())
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	old := addSystem(t, h, "old", nil)
	reset(t, h, old)
	absent := store.Path("/nix/store/00000000000000000000000000000000-nixos-system-h1")
	for _, tt := range []struct {
		name      string
		member    string
		value     any
		err, hint string
	}{
		{name: "system that is not there", err: "it is not on " + h.Addr.String(), hint: "nx-copy"},
		{name: "no path", member: "storePath", value: "junk", err: "storePath"},
		{name: "host that is down", member: "target", value: map[string]any{"host": "127.0.0.1", "port": 1}, err: "connection refused"},
		{name: "host that is down where it was, too", member: "target",
			value: map[string]any{"host": "127.0.0.1", "port": 1, "previous": map[string]any{"host": "127.0.0.1", "port": 2}},
			err:   "127.0.0.1:1: connect: connection refused; and as it was reached before: connect to root@127.0.0.1:2: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := hostRecord(t, h, absent)
			if tt.member != "" {
				check(t, r.Set(tt.member, tt.value))
			}
			r = runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, r)
			if got := r.Message(); !strings.Contains(got, tt.err) || r.FailedStage() != record.Activate || r.Get("activation").Raw != `{"action":"switch","result":"failed"}` {
				t.Errorf("got %s\nwant %q", r.Bytes(), tt.err)
			}
			if got := hint(r); !strings.Contains(got, tt.hint) {
				t.Errorf("hint %q, want %q", got, tt.hint)
			}
		})
	}
}

// An endless is a connection to a host that says one word over and over.
type endless struct{ word string }

func (endless) Close() error { return nil }

func (c endless) Run(_ context.Context, _ string, _ io.Reader, stdout, _ io.Writer) (int, error) {
	for range 1 << 20 {
		if _, err := io.WriteString(stdout, c.word); err != nil {
			return 0, fmt.Errorf("write its output: %w", err)
		}
	}
	return 0, nil
}

// What a host says does not fill this machine's memory.
func TestEndlessFacts(t *testing.T) {
	a := activate.Activator{Action: activate.Switch, Dial: func(context.Context, target.Target) (activate.Conn, error) {
		return endless{"begin\n"}, nil
	}}
	r, err := record.Parse([]byte(`{"nx":1,"name":"web1","target":{"host":"h"},"storePath":"/nix/store/00000000000000000000000000000000-x"}`))
	check(t, err)
	r = runWith(t, &a, r)
	const want = "nobody knows how it ended: write its output: more than 1048576 bytes of facts"
	if got := r.Message(); !strings.HasSuffix(got, want) || r.Get("activation").Get("result").String() != "unknown" {
		t.Errorf("got %s\nwant %q", r.Bytes(), want)
	}
}

// Somebody else than root activates by sudo, and is told when it is not set.
func TestSudo(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	if strings.TrimSpace(exec(t, h, "command -v sudo || :")) == "" {
		t.Skip("SKIPPED: needs sudo")
	}
	reset(t, h, addSystem(t, h, "old", nil))
	path := addSystem(t, h, "new", nil)
	exec(t, h, `set -e
echo 'bob:x:1000:1000::/home/bob:/bin/bash' >> /etc/passwd
echo 'bob:*:20000::::::' >> /etc/shadow
echo 'bob:x:1000:' >> /etc/group
mkdir -p /home/bob && cp -r /root/.ssh /home/bob/ && chown -R 1000:1000 /home/bob
mkdir -p /etc/pam.d && echo 'account required pam_permit.so
session required pam_permit.so' > /etc/pam.d/sudo
echo 'Defaults use_pty
root ALL=(ALL) ALL
bob ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers
chmod 440 /etc/sudoers`)
	as := func(sudo ...string) *record.Record {
		r := hostRecord(t, h, path)
		check(t, r.Merge("target", record.Member{Key: "user", Value: "bob"}))
		if sudo != nil {
			check(t, r.Merge("target", record.Member{Key: "sudo", Value: sudo}))
		}
		return runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, r)
	}
	r := as()
	if want := "the host runs us as user bob, and this needs root"; !strings.Contains(r.Message(), want) || !strings.Contains(hint(r), "target.sudo") {
		t.Errorf("got %q, hint %q\nwant %q", r.Message(), hint(r), want)
	}
	r = as("sudo", "-n", "-u", "nobody", "--")
	if want := "as user nobody"; !strings.Contains(r.Message(), want) {
		t.Errorf("got %q\nwant %q", r.Message(), want)
	}
	r = as("nx-no-such-sudo")
	if want := "exit status 127: "; !strings.Contains(r.Message(), want) || !strings.Contains(hint(r), "may user bob run /bin/sh as root") {
		t.Errorf("got %q, hint %q\nwant %q", r.Message(), hint(r), want)
	}
	// as nx-copy leaves it for bob without sudo
	kept := "/home/bob/.local/state/nx/roots/" + path.Base()
	exec(t, h, fmt.Sprintf("mkdir -p %s; nix-store --realise %s --indirect --add-root %s; chown -R bob: /home/bob", filepath.Dir(kept), path, kept))
	if r = as("sudo", "-n", "-H", "--"); r.Failed() {
		t.Fatalf("%s: %s", r.Message(), r.Get("error").Get("log"))
	}
	want := state{running: "new", profile: "new", boot: "new", generations: 2, calls: "test new,boot new"}
	if got := look(t, h, path); got != want {
		t.Errorf("state\n got %+v\nwant %+v", got, want)
	}
	if got := exec(t, h, "ls "+filepath.Dir(kept)); got != "" {
		t.Errorf("bob's root is left: %s", got)
	}

	// With a password, whether sudo asks for it or not, for checks too.
	const hash = "$6$nx$tKv/m9.yhcNmrbdctC0TbB.ska12w6ebrBvq2mAfbsrDnK/wjDnhUBeXoTzjz3Vfdg4wRI1ZazkLGwHLGXtds/" // openssl passwd -6 -salt nx '#!x y'
	exec(t, h, `set -e
echo 'auth required pam_unix.so
account required pam_permit.so
session required pam_permit.so' > /etc/pam.d/sudo
sed -i 's,^bob:[^:]*,bob:`+hash+`,; s,^root:[^:]*,root:*,' /etc/shadow`)
	for _, rule := range []string{"ALL", "NOPASSWD: ALL"} {
		exec(t, h, "sed -i 's/^bob .*/bob ALL=(ALL) "+rule+"/' /etc/sudoers; rm -rf /run/sudo")
		reset(t, h, path)
		r := hostRecord(t, h, addSystem(t, h, "new2", map[string]string{"id": rule}))
		check(t, r.Merge("target", record.Member{Key: "user", Value: "bob"}, record.Member{Key: "sudo", Value: []string{"sudo", "-H", "--"}}))
		check(t, r.Set("deployment", json.RawMessage(`{"healthChecks":{"cmd":[{"cmd":["sh","-c","test $(id -u) = 0 && ! read -r x"],"retries":0}]}}`)))
		if r := runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial, SudoPassword: "#!x y"}, r); r.Failed() {
			t.Errorf("%s: %s", rule, r.Bytes())
		}
		if got := exec(t, h, "grep -r '#!x' /var/lib/nx /run/nx || :"); got != "" {
			t.Errorf("%s: the password is in %s", rule, got)
		}
	}
	exec(t, h, "sed -i 's/^bob .*/bob ALL=(ALL) ALL/' /etc/sudoers; rm -rf /run/sudo")
	r = hostRecord(t, h, addSystem(t, h, "new3", nil))
	check(t, r.Merge("target", record.Member{Key: "user", Value: "bob"}, record.Member{Key: "sudo", Value: []string{"sudo", "-H", "--"}}))
	if r := runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial, SudoPassword: "wrong"}, r); !strings.Contains(r.Message(), "exit status 1: sudo: ") {
		t.Errorf("a wrong password: %s", r.Bytes())
	}
}

// What could not be noted for a later run is not begun: a boot default that a
// power cut left in between would be taken for settled.
func TestNotesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	old := addSystem(t, h, "old", nil)
	path := addSystem(t, h, "new", nil)
	for _, tt := range []struct {
		name, readOnly string
		err            string // in the message
	}{
		{name: "what is gone after a boot", readOnly: "/run/nx", err: "Read-only file system"},
		{name: "what stays", readOnly: "/var/lib/nx", err: "Read-only file system"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reset(t, h, old)
			exec(t, h, "mkdir -p "+tt.readOnly+" && mount -t tmpfs -o ro none "+tt.readOnly)
			r := run(t, h, activate.Switch, path)
			exec(t, h, "umount "+tt.readOnly)
			if r.Get("activation").Get("result").String() != "failed" || !strings.Contains(r.Message(), tt.err) || !strings.HasSuffix(r.Message(), "; nothing was changed") {
				t.Errorf("got %s\nwant %q", r.Bytes(), tt.err)
			}
			want := state{running: "old", profile: "old", boot: "old", generations: 1, root: true}
			if got := look(t, h, path); got != want {
				t.Errorf("state\n got %+v\nwant %+v", got, want)
			}
		})
	}
}

// Roots of systems that were copied go when the profile keeps the system, those that
// nobody activated after a day; and nothing else that is named like them does.
func TestReleasesRoots(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	reset(t, h, addSystem(t, h, "old", nil))
	path, other := addSystem(t, h, "new", nil), addSystem(t, h, "other", nil)
	exec(t, h, fmt.Sprintf(`set -e
cd /nix/var/nix/gcroots/nx && ln -s /nix/store/x yesterdays && touch -h -d '2 days ago' yesterdays && ln -s /nix/store/y todays
new=%s other=%s
for user in bob eve; do
	mkdir -p /home/$user/.local/state/nx/roots
	cd /home/$user/.local/state/nx/roots
	for path in $new $other; do nix-store --realise $path --indirect --add-root $PWD/${path##*/} > /dev/null; done
done
touch -h -d '2 days ago' /home/bob/.local/state/nx/roots/${other##*/}
# what only looks like a root of nx, by a name that its owner chose
mkdir -p /etc/nx/roots && cd /etc/nx/roots && ln -s /etc/passwd passwd && touch -h -d '2 days ago' passwd && echo text > file
ln -s $PWD/passwd /nix/var/nix/gcroots/auto/1
ln -s $PWD/file /nix/var/nix/gcroots/auto/2
ln -s /home/gone/nx/roots/x /nix/var/nix/gcroots/auto/3`, path, other))
	if r := run(t, h, activate.Switch, path); r.Failed() {
		t.Fatal(r.Message())
	}
	got := exec(t, h, "cd /nix/var/nix/gcroots/nx && ls -d *days; cd /home && ls -d */.local/state/nx/roots/*; ls /etc/nx/roots")
	if want := "todays\neve/.local/state/nx/roots/" + other.Base() + "\nfile\npasswd\n"; got != want {
		t.Errorf("roots left\n%swant\n%s", got, want)
	}
}
