package build_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nx/pkg/build"
	"nx/pkg/closure"
	"nx/pkg/nixcmd"
	"nx/pkg/nixserve"
	"nx/pkg/record"
	"nx/pkg/remote"
	"nx/pkg/store"
	"nx/pkg/target"
	"nx/pkg/testhost"
)

// A journal keeps what is logged, as "h1: building drv=web.drv", store paths by name.
type journal struct {
	mu    sync.Mutex
	lines []string
	attrs string
	root  *journal
	on    func(line string)
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithGroup(string) slog.Handler            { return j }
func (j *journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journal{root: cmp.Or(j.root, j), attrs: attrs[0].Value.String() + ": "}
}

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	line := j.attrs + r.Message
	r.Attrs(func(a slog.Attr) bool {
		value := a.Value.String()
		if p, err := store.Parse(value); err == nil {
			value = p.Name()
		}
		line += " " + a.Key + "=" + value
		return true
	})
	root := cmp.Or(j.root, j)
	root.mu.Lock()
	defer root.mu.Unlock()
	root.lines = append(root.lines, line)
	if root.on != nil {
		root.on(line)
	}
	return nil
}

func (j *journal) has(prefix string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(j.lines, func(l string) bool { return strings.HasPrefix(l, prefix) })
}

func (j *journal) String() string { return strings.Join(j.lines, "\n") }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sh(t *testing.T, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// inside runs a script in the host and returns what it prints.
func inside(t *testing.T, h *testhost.Host, script string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), script)
	check(t, err)
	return strings.TrimSpace(out)
}

// derivations writes those of an expression into this machine's store; no test
// before has built them.
func derivations(t *testing.T, expression string) map[string]store.Path {
	t.Helper()
	testhost.Need(t, "nix")
	t.Setenv("NIX_CONFIG", "sandbox = false\nbuild-users-group =\nsubstituters =\nexperimental-features = nix-command")
	out := sh(t, "nix-instantiate", "--eval", "--strict", "--read-write-mode", "--json", "--argstr", "salt", t.TempDir(), "--expr", `
		{ salt }:
		let sh = name: script: derivation {
			inherit name salt;
			system = builtins.currentSystem; builder = "/bin/sh";
			args = [ "-c" "PATH=/bin:/usr/bin; ${script}" ];
		};
		in builtins.mapAttrs (_: d: d.drvPath) (`+expression+")")
	drvs := map[string]store.Path{}
	check(t, json.Unmarshal([]byte(out), &drvs))
	return drvs
}

// builder is the stage as nx-build has it, for hosts that build by themselves.
func builder(t *testing.T, j *journal) *build.Builder {
	local := nixserve.Local()
	depot := &closure.Depot{Source: local}
	t.Cleanup(func() {
		check(t, depot.Close())
		check(t, local.Close())
	})
	// Silence on the line is noticed sooner than by default, to spare the tests' time.
	dialer := remote.Dialer{Config: os.DevNull, AliveInterval: time.Second, AliveCount: 3}
	yes := true
	return &build.Builder{
		OnTarget: &yes,
		Targets: build.Targets{
			Depot: depot,
			Dial:  func(ctx context.Context, t target.Target) (build.Conn, error) { return dialer.Dial(ctx, t) },
			Open:  func(ctx context.Context, serve build.Serve) build.HostStore { return nixserve.Open(ctx, serve) },
			Nix: func(run build.Command, log *slog.Logger) build.HostRealiser {
				return &nixcmd.Nix{Run: run, Log: log}
			},
		},
		Jobs: 4,
		Log:  slog.New(j),
	}
}

func onHost(t *testing.T, h *testhost.Host, drv store.Path) *record.Record {
	t.Helper()
	r := host(t, h.Name, string(drv))
	to := h.Target()
	check(t, r.Set("target", map[string]any{"host": to.Host, "hostKeys": to.HostKeys, "identityFile": to.IdentityFile}))
	return r
}

// built runs the stage and returns the records by name.
func built(t *testing.T, b *build.Builder, hosts ...*record.Record) map[string]*record.Record {
	t.Helper()
	var mu sync.Mutex
	out := map[string]*record.Record{}
	check(t, b.Run(t.Context(), all(hosts...), func(r *record.Record) {
		mu.Lock()
		defer mu.Unlock()
		out[r.Name()] = r
	}))
	return out
}

// cache builds drv here, puts what comes out of it into a binary cache of the
// host's that the host's Nix substitutes from, and deletes it here. It returns
// the path and its contents.
func cache(t *testing.T, h *testhost.Host, drv store.Path) (path, contents string) {
	t.Helper()
	path = sh(t, "nix-store", "--realise", string(drv))
	text, err := os.ReadFile(path)
	check(t, err)
	sh(t, "nix", "copy", "--to", "file://"+h.Disk("var/cache"), path)
	sh(t, "nix-store", "--delete", path)
	conf, err := os.OpenFile(h.Disk("etc/nix/nix.conf"), os.O_WRONLY|os.O_APPEND, 0)
	check(t, err)
	_, err = io.WriteString(conf, "substituters = file:///var/cache\nrequire-sigs = false\n")
	check(t, err)
	check(t, conf.Close())
	return path, string(text)
}

// A host gets derivations only, fetches from its caches what these have, builds
// the rest, and keeps it; the record is as if it had been built here.
func TestOnTarget(t *testing.T) {
	for _, tt := range []struct {
		name string
		new  bool
	}{{"installed", false}, {"new", true}} {
		t.Run(tt.name, func(t *testing.T) {
			var opt testhost.Options
			if tt.new {
				testhost.Need(t, "nix-new")
				opt.Nix = os.Getenv("NXTEST_NIX_NEW")
			}
			drvs := derivations(t, `rec {
				cached = sh "cached" "od -N 100000 /dev/urandom > $out";
				web = sh "web" "echo said on the host; echo ${cached} ${sh "lib" "cp ${builtins.toFile "source" "text"} $out"} > $out";
			}`)
			h, err := testhost.NewLab(t).Start(t.Context(), "h1", opt)
			check(t, err)
			nixStore := filepath.Join(cmp.Or(opt.Nix, "/usr"), "bin", "nix-store")
			cached, contents := cache(t, h, drvs["cached"])

			j := &journal{}
			b := builder(t, j)
			for range 2 { // the second finds it there
				r := built(t, b, onHost(t, h, drvs["web"]))["h1"]
				if r.Failed() {
					t.Fatalf("%s\n%s", r.Bytes(), j)
				}
				out, err := r.StorePath()
				check(t, err)
				inside(t, h, nixStore+" --gc")
				if got := inside(t, h, "cat "+cached); got+"\n" != contents {
					t.Errorf("%s on the host is %.60q, not what the cache has", cached, got)
				}
				want := fmt.Sprintf(`{"paths":%s,"narSize":%s}`, inside(t, h, nixStore+" --query --requisites "+string(out)+" | wc -l"),
					inside(t, h, "s=0; for n in $("+nixStore+" --query --size $("+nixStore+" --query --requisites "+string(out)+")); do s=$((s+n)); done; echo $s"))
				if got := r.Get("closure").Raw; got != want || !strings.HasPrefix(want, `{"paths":3,`) {
					t.Errorf("closure %s, want %s", got, want)
				}
				if got := inside(t, h, "readlink "+out.StagedRoot()); got != string(out) {
					t.Errorf("the root is to %s, want %s", got, out)
				}
				if _, err := os.Stat(string(out)); err == nil {
					t.Errorf("%s is here", out)
				}
			}
			for _, want := range []string{"h1: copying derivations paths=", "h1: fetching path=cached from=file:///var/cache", "h1: building drv=lib.drv",
				"h1: building drv=web.drv", "h1: output drv=web.drv line=said on the host", "built host=h1 path=web"} {
				if !j.has(want) {
					t.Errorf("events lack %q", want)
				}
			}
			if j.has("h1: building drv=cached.drv") {
				t.Error("the host built what its cache has")
			}
			if t.Failed() {
				t.Logf("events:\n%s", j)
			}
		})
	}
}

// What breaks on a host is told as if it had broken here; other hosts go on.
func TestOnTargetFails(t *testing.T) {
	drvs := derivations(t, `{
		good = sh "good" "echo > $out";
		bad = sh "bad" "echo ${sh "library" "echo it does not compile; exit 3"} > $out";
		foreign = derivation { name = "foreign"; inherit salt; system = "vax-ultrix"; builder = "/bin/sh"; };
	}`)
	hosts := testhost.Start(t, 2)
	bad, foreign := onHost(t, hosts[0], drvs["bad"]), onHost(t, hosts[1], drvs["foreign"])
	good, err := record.Parse(bytes.Replace(onHost(t, hosts[1], drvs["good"]).Bytes(), []byte(`"h2"`), []byte(`"good"`), 1))
	check(t, err)
	silent, err := record.Parse(bytes.Replace(good.Bytes(), []byte(`"good"`), []byte(`"silent"`), 1))
	check(t, err)
	check(t, silent.Merge("target", record.Member{Key: "port", Value: 1}))
	j := &journal{}
	got := built(t, builder(t, j), bad, foreign, good, silent, host(t, "none", string(drvs["good"])))
	for name, want := range map[string]string{
		"h1":     `build ` + string(drvs["bad"]) + `: builder for '/nix/store/*-library.drv' failed with exit code 3 | it does not compile`,
		"h2":     `build ` + string(drvs["foreign"]) + `: a 'vax-ultrix' with features {} is required to build '` + string(drvs["foreign"]) + `', but I am a *`,
		"silent": `connect to * connection refused`,
		"none":   `the record has no "target"`,
	} {
		r := got[name]
		message := r.Message()
		if log := r.Get("error").Get("log").Str; log != "" {
			message += " | " + strings.TrimSpace(log)
		}
		if before, after, _ := strings.Cut(want, "*"); !strings.HasPrefix(message, before) || !strings.HasSuffix(message, after) {
			t.Errorf("%s: %s\nwant %s", name, message, want)
		}
	}
	if got["good"].Failed() {
		t.Errorf("%s", got["good"].Bytes())
	}
}

// A user whom the host's Nix trusts with nothing, and who may not write there, can
// have the host build: derivations are what they are by their contents. What was
// built is kept below the user's home.
func TestOnTargetUntrusted(t *testing.T) {
	drvs := derivations(t, `{ web = sh "web" "echo ${sh "lib" "cp ${builtins.toFile "source" "text"} $out"} > $out"; }`)
	lab := testhost.NewLab(t)
	h, err := lab.Start(t.Context(), "h1", testhost.Options{})
	check(t, err)
	key, err := os.ReadFile(lab.IdentityFile + ".pub")
	check(t, err)
	check(t, os.WriteFile(h.Disk("etc/ssh/authorized_keys.d/deploy"), key, 0o644))
	inside(t, h, `
		echo deploy:x:1000:1000::/home/deploy:/bin/sh >>/etc/passwd
		echo 'deploy:*:19000:0:99999:7:::' >>/etc/shadow
		echo deploy:x:1000: >>/etc/group
		mkdir -m 700 /home/deploy && chown deploy:deploy /home/deploy
		setsid nix-daemon >/dev/null 2>&1 </dev/null &
		until NIX_REMOTE=daemon nix-store --check-validity --print-invalid /nix/store/00000000000000000000000000000000-x; do :; done >/dev/null 2>&1`)
	r := onHost(t, h, drvs["web"])
	check(t, r.Merge("target", record.Member{Key: "user", Value: "deploy"}))
	j := &journal{}
	r = built(t, builder(t, j), r)["h1"]
	out, err := r.StorePath()
	if err != nil || r.Failed() {
		t.Fatalf("%s\n%s", r.Bytes(), j)
	}
	for _, want := range []string{"h1: building drv=lib.drv", "h1: building drv=web.drv"} {
		if !j.has(want) {
			t.Errorf("events lack %q, which the daemon told of:\n%s", want, j)
		}
	}
	inside(t, h, "nix-store --gc")
	if got := inside(t, h, "readlink /home/deploy/.local/state/nx/roots/"+out.Base()+"; cat "+string(out)+"; ls -A /nix/var/nix/gcroots"); !strings.HasPrefix(got, string(out)+"\n/nix/store/") || strings.Contains(got, "\nnx") {
		t.Errorf("the host has\n%s\nwant %s, kept by the user's link", got, out)
	}
	// Nothing is left to do for whoever may send nothing.
	local := nixserve.Local()
	defer local.Close()
	if _, err := local.QueryClosure(t.Context(), []store.Path{out}); err == nil {
		t.Errorf("%s is here", out)
	}
}

// When nx-build is told to stop, so is the build on the host: it does not go on for
// nobody, and the next run does not wait for it.
func TestOnTargetInterrupted(t *testing.T) {
	drvs := derivations(t, `{ slow = sh "slow" "echo begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo > $out"; }`)
	h := testhost.Start(t, 1)[0]
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	j := &journal{on: func(line string) {
		if line == "h1: output drv=slow.drv line=begun" {
			cancel(errors.New("interrupted by SIGINT"))
		}
	}}
	r := onHost(t, h, drvs["slow"])
	if err := builder(t, j).Run(ctx, all(r), func(*record.Record) {}); err != nil {
		t.Errorf("error %v: its input had ended", err)
	}
	if !strings.HasPrefix(r.Message(), "interrupted by SIGINT: build "+string(drvs["slow"])) {
		t.Errorf("%s", r.Bytes())
	}
	// Neither Nix nor what it built with is left.
	inside(t, h, `while grep -qsaE '^nix-store|/tmp/[g]o ' /proc/[0-9]*/cmdline; do :; done`)
	inside(t, h, "touch /tmp/go")
	if r := built(t, builder(t, &journal{}), onHost(t, h, drvs["slow"]))["h1"]; r.Failed() {
		t.Errorf("%s", r.Bytes())
	}
}

// When the line breaks, the host fails, and the other goes on. What was built there
// meanwhile is found by the next run.
func TestOnTargetCutOff(t *testing.T) {
	drvs := derivations(t, `{
		slow = sh "slow" "echo begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo > $out";
		good = sh "good" "echo > $out";
	}`)
	hosts := testhost.Start(t, 2)
	cut := hosts[0]
	j := &journal{on: func(line string) {
		if line == "h1: output drv=slow.drv line=begun" {
			if err := cut.Cut(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}}
	got := built(t, builder(t, j), onHost(t, cut, drvs["slow"]), onHost(t, hosts[1], drvs["good"]))
	if r := got["h1"]; !r.Failed() || !strings.Contains(r.Message(), "connection broke") || got["h2"].Failed() {
		t.Errorf("%s\n%s", r.Bytes(), got["h2"].Bytes())
	}
	inside(t, cut, "touch /tmp/go")
	check(t, cut.Mend(t.Context()))
	for { // the kernel may still be about to conclude that there is no such neighbour
		c, err := net.Dial("tcp", cut.Addr.String()+":22")
		if err == nil {
			c.Close()
			break
		} else if !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Fatal(err)
		}
	}
	if r := built(t, builder(t, &journal{}), onHost(t, cut, drvs["slow"]))["h1"]; r.Failed() {
		t.Errorf("%s", r.Bytes())
	}
}

// The target as it was reached before is tried when it is not reached as it is now.
func TestOnTargetPrevious(t *testing.T) {
	drvs := derivations(t, `{ web = sh "web" "echo > $out"; }`)
	h := testhost.Start(t, 1)[0]
	r := onHost(t, h, drvs["web"])
	previous := json.RawMessage(r.Get("target").Raw)
	check(t, r.Merge("target", record.Member{Key: "port", Value: 1}, record.Member{Key: "previous", Value: previous}))
	if r := built(t, builder(t, &journal{}), r)["h1"]; r.Failed() {
		t.Errorf("%s", r.Bytes())
	}
}

// An input that is cut while a host builds: that host is finished, and those that
// wait for their turn are not begun.
func TestOnTargetCut(t *testing.T) {
	dialed := make(chan string, 9)
	dial := make(chan error)
	cut := make(chan struct{})
	yes := true
	b := &build.Builder{OnTarget: &yes, Jobs: 1, Targets: build.Targets{
		Dial: func(_ context.Context, to target.Target) (build.Conn, error) {
			dialed <- to.Host
			return nil, <-dial
		},
	}}
	reach := func(name string) *record.Record {
		r := host(t, name, hash+"a.drv")
		check(t, r.Set("target", map[string]any{"host": name}))
		return r
	}
	go func() {
		<-cut
		dial <- errors.New("gone")
	}()
	var out []string
	err := b.Run(t.Context(), func(yield func(*record.Record, error) bool) {
		yield(reach("a"), nil)
		<-dialed
		yield(reach("b"), nil)
		yield(nil, errors.New("cut"))
		close(cut)
	}, func(r *record.Record) { out = append(out, r.Name()+": "+r.Message()) })
	if err != nil || !slices.Equal(out, []string{"a: gone"}) {
		t.Errorf("%q came out, error %v, want a alone, which was in work", out, err)
	}
}
