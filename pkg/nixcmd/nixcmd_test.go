package nixcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nx/pkg/store"
)

// needNix skips the test where there is no Nix, unless NXTEST_REQUIRE demands
// one, and gives it settings that need neither network nor build users.
func needNix(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nix-store"); err != nil {
		if slices.Contains(strings.Split(os.Getenv("NXTEST_REQUIRE"), ","), "nix") {
			t.Fatalf("nix is required: %v", err)
		}
		t.Skipf("NEEDS nix: %v", err)
	}
	t.Setenv("NIX_CONFIG", "sandbox = false\nbuild-users-group =\nsubstituters =\n"+os.Getenv("NIX_CONFIG"))
}

// onEachNix runs the test with the installed Nix and, where there is one, the newer.
func onEachNix(t *testing.T, test func(t *testing.T)) {
	needNix(t)
	t.Run("installed", test)
	t.Run("new", func(t *testing.T) {
		dir := os.Getenv("NXTEST_NIX_NEW")
		if dir == "" {
			if slices.Contains(strings.Split(os.Getenv("NXTEST_REQUIRE"), ","), "nix-new") {
				t.Fatal("nix-new is required: NXTEST_NIX_NEW is not set")
			}
			t.Skip("SKIPPED, needs nix-new: NXTEST_NIX_NEW is not set")
		}
		t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
		test(t)
	})
}

// instantiate writes the derivations of an expression; salt makes them new.
func instantiate(t *testing.T, expression string) map[string]store.Path {
	t.Helper()
	salt := fmt.Sprintf("%s-%d-%s", t.Name(), os.Getpid(), filepath.Base(t.TempDir()))
	out, err := exec.Command("nix-instantiate", "--eval", "--strict", "--read-write-mode", "--json", "--argstr", "salt", salt, "--expr", `
		{ salt }:
		let drv = name: script: needs: derivation {
			inherit name needs salt;
			system = builtins.currentSystem; builder = "/bin/sh";
			args = [ "-c" "PATH=/bin:/usr/bin; ${script}" ];
		};
		in builtins.mapAttrs (_: d: d.drvPath) (`+expression+")").Output()
	if err != nil {
		t.Fatalf("instantiate: %v", err)
	}
	drvs := map[string]store.Path{}
	for _, pair := range strings.Split(strings.Trim(strings.TrimSpace(string(out)), "{}"), ",") {
		name, path, _ := strings.Cut(strings.ReplaceAll(pair, `"`, ""), ":")
		drvs[name] = store.Path(path)
	}
	return drvs
}

const wantForeignHint = `have this machine emulate it (boot.binfmt.emulatedSystems = [ "vax-ultrix" ]; on NixOS), name a machine that builds for it (--builders, or /etc/nix/machines), or let the host build (--build-on-target)`

func TestRealise(t *testing.T) { onEachNix(t, testRealise) }

func testRealise(t *testing.T) {
	drvs := instantiate(t, `rec {
		shared = drv "shared" "echo shared > $out" [ ];
		broken = drv "broken" "echo about to break; exit 3" [ ];
		web = drv "web" "echo web > $out" [ shared ];
		mail = drv "mail" "echo mail > $out" [ shared ];
		db = drv "db" "echo db > $out" [ (drv "between" "echo x > $out" [ broken ]) ];
		self = drv "self" "echo my own fault; exit 1" [ ];
		foreign = derivation { name = "foreign"; system = "vax-ultrix"; builder = "/bin/sh"; };
		dev = derivation { name = "dev"; inherit salt; system = builtins.currentSystem; builder = "/bin/sh"; outputs = [ "lib" "out" ];
			args = [ "-c" "echo lib > $lib; echo out > $out" ]; };
	}`)
	gone := store.Path("/nix/store/00000000000000000000000000000000-gone.drv")
	wanted := []store.Path{drvs["web"], drvs["db"], drvs["self"], drvs["foreign"], drvs["dev"], gone}

	n := &Nix{}
	// Built before: its output is there from the start.
	if _, err := n.output(t.Context(), "nix-store", "--realise", string(drvs["mail"])); err != nil {
		t.Fatal(err)
	}
	wanted = append(wanted, drvs["mail"])

	tests := map[store.Path]struct {
		wantErr, wantLog, wantHint string
	}{
		drvs["web"]:     {},
		drvs["mail"]:    {},
		drvs["dev"]:     {},
		drvs["db"]:      {wantErr: "build " + string(drvs["db"]) + ": ", wantLog: "about to break\n"},
		drvs["self"]:    {wantErr: "exit code 1", wantLog: "my own fault\n"},
		drvs["foreign"]: {wantErr: "foreign.drv is for vax-ultrix, this machine is ", wantHint: wantForeignHint},
		gone:            {wantErr: "the derivation is not in the store", wantHint: "run nx-eval again, on this machine"},
	}
	seen := map[store.Path]bool{}
	err := n.Realise(t.Context(), wanted, func(drv, out store.Path, err error) {
		tt, ok := tests[drv]
		if !ok || seen[drv] {
			t.Errorf("done(%s) came twice or was not asked for", drv)
		}
		seen[drv] = true
		if tt.wantErr == "" {
			if err != nil {
				t.Errorf("%s: %v", drv, err)
			} else if text, err := os.ReadFile(string(out)); err != nil || len(text) == 0 {
				t.Errorf("%s: output %s: %q, %v", drv, out, text, err)
			}
			return
		}
		if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
			t.Errorf("%s: error %v, want %q in it", drv, err, tt.wantErr)
		}
		var logged interface{ Log() string }
		if errors.As(err, &logged) && logged.Log() != tt.wantLog {
			t.Errorf("%s: log %q, want %q", drv, logged.Log(), tt.wantLog)
		}
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) && hinted.Hint() != tt.wantHint {
			t.Errorf("%s: hint %q, want %q", drv, hinted.Hint(), tt.wantHint)
		}
		if drv == drvs["db"] && !strings.Contains(err.Error(), string(drvs["broken"])) {
			t.Errorf("%v, want %s named as what broke", err, drvs["broken"])
		}
	})
	if err != nil {
		t.Errorf("Realise: %v", err)
	}
	if len(seen) != len(tests) {
		t.Errorf("%d of %d derivations done", len(seen), len(tests))
	}
}

// A derivation for a platform that nobody here builds for would end nix-store at
// once: it is not tried, and the others are built all the same.
func TestRealiseBesidesForeign(t *testing.T) { onEachNix(t, testRealiseBesidesForeign) }

func testRealiseBesidesForeign(t *testing.T) {
	drvs := instantiate(t, `let foreign = name: derivation { inherit name salt; system = "vax-ultrix"; builder = "/bin/sh"; }; in {
		foreign1 = foreign "foreign1";
		foreign2 = foreign "foreign2";
		web1 = drv "web1" "echo web1 > $out" [ ];
		web2 = drv "web2" "echo web2 > $out" [ (drv "lib" "echo lib > $out" [ ]) ];
		db = drv "db" "echo my own fault; exit 1" [ ];
	}`)
	got := map[store.Path]error{}
	err := (&Nix{}).Realise(t.Context(), slices.Collect(maps.Values(drvs)), func(drv, _ store.Path, err error) { got[drv] = err })
	if err != nil {
		t.Fatalf("Realise: %v", err)
	}
	for name, want := range map[string]string{"foreign1": "is for vax-ultrix", "foreign2": "is for vax-ultrix", "web1": "", "web2": "", "db": "exit code 1"} {
		err, done := got[drvs[name]]
		if !done || (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: done %v, error %v, want %q", name, done, err, want)
		}
	}
}

// Each output is told of while others are still built: here one build waits
// for the test to have seen the other.
func TestRealiseAsBuilt(t *testing.T) { onEachNix(t, testRealiseAsBuilt) }

func testRealiseAsBuilt(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "seen")
	if out, err := exec.Command("mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v: %s", err, out)
	}
	drvs := instantiate(t, `{
		first = drv "first" "echo 1 > $out" [ ];
		last = drv "last" "cat `+fifo+` > $out" [ ];
	}`)
	var order []string
	n := &Nix{Options: []string{"--max-jobs", "2"}}
	err := n.Realise(t.Context(), []store.Path{drvs["last"], drvs["first"]}, func(drv, _ store.Path, err error) {
		if err != nil {
			t.Error(err)
		}
		if drv == drvs["first"] {
			if err := os.WriteFile(fifo, []byte("go on\n"), 0); err != nil {
				t.Error(err)
			}
		}
		order = append(order, drv.Name())
	})
	if want := []string{"first.drv", "last.drv"}; err != nil || !slices.Equal(order, want) {
		t.Errorf("order %q, error %v, want %q", order, err, want)
	}
}

func TestRealiseCancelled(t *testing.T) { onEachNix(t, testRealiseCancelled) }

func testRealiseCancelled(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "never")
	if out, err := exec.Command("mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v: %s", err, out)
	}
	drvs := instantiate(t, `{ stuck = drv "stuck" "echo begun; cat `+fifo+` > $out" [ ]; }`)
	ctx, cancel := context.WithCancel(t.Context())
	n := &Nix{Log: onOutput(func(line string) {
		if line == "begun" {
			cancel()
		}
	})}
	err := n.Realise(ctx, []store.Path{drvs["stuck"]}, func(drv, _ store.Path, err error) {
		t.Errorf("done(%s, %v), want nothing done", drv, err)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

func TestAddRootAndClosure(t *testing.T) { onEachNix(t, testAddRootAndClosure) }

func testAddRootAndClosure(t *testing.T) {
	drvs := instantiate(t, `rec {
		leaf = drv "leaf" "echo leaf > $out" [ ];
		top = drv "top" "echo $needs > $out" [ leaf ];
	}`)
	n := &Nix{}
	dir := t.TempDir()
	var out store.Path
	if err := n.Realise(t.Context(), []store.Path{drvs["top"]}, func(_, o store.Path, err error) {
		if out = o; err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "below", "web1")
	// The second replaces the first.
	for _, p := range []store.Path{drvs["leaf"], out} {
		if err := n.AddRoot(t.Context(), link, p); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(link); err != nil || got != string(p) {
			t.Errorf("link points to %s, %v, want %s", got, err, p)
		}
		roots, err := n.output(t.Context(), "nix-store", "--query", "--roots", string(p))
		if err != nil || !bytes.Contains(roots, []byte(link)) {
			t.Errorf("roots of %s are %q, %v, want %s among them", p, roots, err, link)
		}
		if !rooted(link, p) {
			t.Errorf("%s is not found to be a root", link)
		}
	}
	// A copy of a link is none.
	if err := os.Symlink(string(out), link+"2"); err != nil {
		t.Fatal(err)
	}
	if rooted(link+"2", out) || rooted(link, drvs["top"]) || rooted(link+"3", out) {
		t.Error("what is no root of a path is found to be one")
	}
	paths, size, err := n.Closure(t.Context(), out)
	if err != nil || paths != 2 || size <= 0 {
		t.Errorf("Closure: %d paths, %d bytes, %v, want 2 paths", paths, size, err)
	}
	if _, _, err := n.Closure(t.Context(), "/nix/store/00000000000000000000000000000000-gone"); err == nil {
		t.Error("Closure of a path that is not there: no error")
	}
}

func TestSumPathInfo(t *testing.T) {
	tests := []struct {
		name    string
		out     string
		paths   int
		size    int64
		wantErr string
	}{
		{name: "a list, Nix 2.8", out: `[{"path":"/nix/store/a","narSize":10},{"path":"/nix/store/b","narSize":32}]`, paths: 2, size: 42},
		{name: "an object, Nix 2.26", out: `{"/nix/store/a":{"narSize":10},"/nix/store/b":{"narSize":32}}`, paths: 2, size: 42},
		{name: "an invalid path, Nix 2.26", out: `{"/nix/store/a":null}`, wantErr: "without narSize"},
		{name: "an invalid path, Nix 2.8", out: `[{"path":"/nix/store/a","valid":false}]`, wantErr: "without narSize"},
		{name: "no JSON", out: "warning: what", wantErr: "no JSON"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			paths, size, err := sumPathInfo([]byte(tt.out))
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error %v, want %q in it", err, tt.wantErr)
				}
			} else if err != nil || paths != tt.paths || size != tt.size {
				t.Errorf("sumPathInfo(%s)\n got %d, %d, %v\nwant %d, %d", tt.out, paths, size, err, tt.paths, tt.size)
			}
		})
	}
}

func TestReason(t *testing.T) {
	tests := []struct{ msg, want string }{
		{"builder for '/nix/store/x.drv' failed with exit code 3", "builder for '/nix/store/x.drv' failed with exit code 3"},
		{"builder for '/nix/store/x.drv' failed with exit code 3;\n       last 2 log lines:\n       > a", "builder for '/nix/store/x.drv' failed with exit code 3"},
		{"Cannot build '/nix/store/x.drv'.\n       Reason: builder failed with exit code 3.\n       Output paths:", "Cannot build '/nix/store/x.drv': builder failed with exit code 3"},
	}
	for _, tt := range tests {
		if got := reason(tt.msg); got != tt.want {
			t.Errorf("reason(%q)\n got %q\nwant %q", tt.msg, got, tt.want)
		}
	}
}

func TestLineWriter(t *testing.T) {
	var got []string
	w := &lineWriter{line: func(s string) { got = append(got, s) }}
	for _, s := range []string{"a", "b\n\nc", "", "\nd"} {
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Errorf("Write(%q) = %d, %v", s, n, err)
		}
	}
	w.close()
	if want := []string{"ab", "", "c", "d"}; !slices.Equal(got, want) {
		t.Errorf("lines %q, want %q", got, want)
	}
}
