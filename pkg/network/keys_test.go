package network

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"nx/pkg/nixcmd"
)

// A machine whose keys are there or not, as its units and its activation have it.
func TestKeyUnits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "key's folder")
	file := write(t, fmt.Sprintf(`{
		web = {
			boot.isContainer = true;
			deployment.keys = {
				token = { text = "x"; destDir = "%[1]s"; name = "the token"; user = "web"; group = "web"; };
				late = { text = "x"; destDir = "%[1]s"; uploadAt = "post-activation"; };
			};
			systemd.services.web = { script = "true"; wants = [ "token-key.service" ]; after = [ "token-key.service" ]; };
		};
		without.boot.isContainer = true;
	}`, dir))
	const scripts = `with nodes.web.config; [
		systemd.services.token-key.preStart systemd.services.token-key.script
		(systemd.services.nx-keys.script) (system.activationScripts.nx-keys.text or "") # NixOS 20.09 shows only all scripts in one
		(lib.concatStringsSep " " (nodes.web.config.systemd.services.nx-keys.wantedBy ++ [ (if systemd.services ? late-key then "late" else "") ]))
		(toString [ (nodes.without.config.systemd.services ? nx-keys) (lib.hasInfix "chown --no-dereference" nodes.without.config.system.activationScripts.script)
			(lib.hasInfix "chown --no-dereference" system.activationScripts.script) ])
	]`
	everywhere(t, func(t *testing.T) {
		n := testNetwork(file)
		for name, s := range evaluate(t, n, Facts{}) {
			if s.Err != nil {
				t.Fatalf("%s: %v", name, s.Err)
			}
		}
		value, err := n.Query(t.Context(), scripts, Facts{})
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		if err := json.Unmarshal(value, &texts); err != nil {
			t.Fatal(err)
		}
		if texts[4] != "keys.target late" || texts[5] != "  1" {
			t.Errorf("nx-keys is wanted by %q; that a machine without keys has units, or hands over keys, and one with keys does: %q", texts[4], texts[5])
		}
		await, follow, all, activate := texts[0], texts[1], texts[2], texts[3]
		if strings.Count(all, "until") != 1 || !strings.Contains(all, await) {
			t.Errorf("what waits for all early keys does %q, for one %q", all, await)
		}

		// Its folder may not be there, and others' files come and go.
		waits := startKeyScript(t, await)
		for _, step := range []func(key string) error{
			func(key string) error { return nil },
			func(key string) error { return os.MkdirAll(dir, 0o700) },
			func(key string) error { return os.WriteFile(filepath.Join(dir, ".the token.nx-1"), []byte("1"), 0o600) },
			func(key string) error { return os.Rename(filepath.Join(dir, ".the token.nx-1"), key) },
		} {
			waits.missed()
			if err := step(filepath.Join(dir, "the token")); err != nil {
				t.Fatal(err)
			}
			waits.again()
		}
		waits.end()

		// A key that another one replaces is still there, until its name is gone, and
		// be it that the file has another.
		key, beside := filepath.Join(dir, "the token"), filepath.Join(dir, ".the token.nx-2")
		for _, leave := range []func() error{
			func() error { return os.Remove(key) },
			func() error { return os.Rename(key, beside) },
			func() error { return errors.Join(os.Link(key, beside), os.Remove(key)) },
		} {
			if err := os.WriteFile(key, []byte("1"), 0o600); err != nil {
				t.Fatal(err)
			}
			follows := startKeyScript(t, follow)
			follows.watching()
			if err := os.WriteFile(beside, []byte("22"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(beside, key); err != nil {
				t.Fatal(err)
			}
			follows.says("'[' -e ")
			follows.says("read -r _")
			if err := leave(); err != nil {
				t.Fatal(err)
			}
			follows.end()
			if err := os.RemoveAll(beside); err != nil {
				t.Fatal(err)
			}
		}

		// Whoever the key is for need not be there, nor the key.
		for range 2 {
			if out, err := exec.Command("bash", "-e", "-c", activate).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", activate, err, out)
			}
			if err := os.WriteFile(filepath.Join(dir, "the token"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	})
}

// A keyScript is one of a unit's, in which to sleep takes as long as the test says.
type keyScript struct {
	t      *testing.T
	cmd    *exec.Cmd
	sleeps *os.File // a sleep writes a line to it, and waits for one
	lines  *bufio.Reader
	said   *bufio.Reader
}

func startKeyScript(t *testing.T, text string) *keyScript {
	t.Helper()
	sleeps, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	theirs, wake, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "sleep"), []byte("#!/bin/sh\necho slept >&3\nread -r _ <&4\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := &keyScript{t: t, cmd: exec.Command("bash", "-e", "-x", "-c", text), sleeps: wake, lines: bufio.NewReader(sleeps)}
	s.cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "LC_ALL=C")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.cmd.ExtraFiles = []*os.File{ours, theirs}
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.said = bufio.NewReader(stderr)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// With what it leaves behind, as systemd does.
	t.Cleanup(func() { _ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) })
	ours.Close()
	theirs.Close()
	return s
}

// missed waits until the script has looked in vain.
func (s *keyScript) missed() {
	s.t.Helper()
	if _, err := s.lines.ReadString('\n'); err != nil {
		s.t.Fatalf("it does not look again: %v", err)
	}
}

// again lets it look again.
func (s *keyScript) again() { fmt.Fprintln(s.sleeps) }

// watching waits until a child of the script has asked the kernel for changes.
func (s *keyScript) watching() {
	s.t.Helper()
	for {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", s.cmd.Process.Pid))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, pid := range append(strings.Fields(string(children)), fmt.Sprint(s.cmd.Process.Pid)) {
			files, _ := filepath.Glob("/proc/" + pid + "/fd/*")
			for _, file := range files {
				if what, err := os.Readlink(file); err == nil && strings.Contains(what, "inotify") {
					return
				}
			}
		}
	}
}

// says waits for a line of its standard error that has text.
func (s *keyScript) says(text string) {
	s.t.Helper()
	for {
		line, err := s.said.ReadString('\n')
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			s.t.Fatalf("it ends without saying %q: %v", text, err)
		}
	}
}

// end waits until it ends well.
func (s *keyScript) end() {
	s.t.Helper()
	said, _ := io.ReadAll(s.said)
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("%v: %s", err, said)
	}
}

// texts asks for the texts of the named machines' keys.
func texts(t *testing.T, n *Network, facts Facts, names ...string) (map[string]map[string]string, map[string]error) {
	t.Helper()
	var mu sync.Mutex
	got, errs := map[string]map[string]string{}, map[string]error{}
	if err := n.Texts(t.Context(), names, facts, func(name string, texts map[string]string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if got[name] = texts; err != nil {
			errs[name] = err
			delete(got, name)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return got, errs
}

// Every form gives the texts that its keys have, and those alone.
func TestTexts(t *testing.T) {
	const machine = `{ boot.isContainer = true; deployment.keys = {
		a.text = "first\nline é \"$\\";
		b.keyCommand = [ "not" "run" ];
		c = { text = ""; uploadAt = "post-activation"; };
		"d e".text = "MORE";
	}; }`
	want := map[string]string{"a": "first\nline é \"$\\", "c": "", "d e": "MORE"}
	everywhere(t, func(t *testing.T) {
		for form, text := range map[string]string{
			"nixops":  `{ web = { nodes, ... }: ` + strings.Replace(machine, `"MORE"`, `nodes.db.config.networking.privateIPv4`, 1) + `; db.boot.isContainer = true; }`,
			"colmena": `{ meta.nixpkgs = <nixpkgs>; web = ` + machine + `; }`,
			"morph": `{ network.pkgs = import <nixpkgs> { }; web = { boot.isContainer = true;
				deployment.secrets.a = { source = "a"; destination = "/run/a"; }; }; }`,
			"nixus": `{ nodes.web = { host = "web"; nixpkgs = <nixpkgs>; configuration.boot.isContainer = true; }; }`,
		} {
			t.Run(form, func(t *testing.T) {
				n := testNetwork(write(t, text))
				n.Format = form
				facts := Facts{Machines: map[string]MachineFacts{"db": {PrivateIPv4: "10.1.2.3"}}}
				got, errs := texts(t, n, facts, "web", "none")
				want := maps.Clone(want)
				switch form {
				case "nixops":
					want["d e"] = "10.1.2.3"
				case "morph", "nixus":
					want = map[string]string{}
				}
				if !maps.Equal(got["web"], want) || errs["web"] != nil {
					t.Errorf("texts %q (%v), want %q", got["web"], errs["web"], want)
				}
				if err := errs["none"]; err == nil || !strings.Contains(err.Error(), `the network has no machine "none"`) {
					t.Errorf("error %v for a machine that is not there", err)
				}
			})
		}
	})
}

func TestTextsOfFlake(t *testing.T) {
	onEachFlakeNix(t, func(t *testing.T, nixpkgs string) {
		var log bytes.Buffer
		n := testNetwork(writeFlake(t, nixpkgs, `{ nixosConfigurations.web = nixpkgs.lib.nixosSystem { system = "x86_64-linux"; modules = [ ({ lib, ... }: {
			config.boot.isContainer = true;
			options.deployment = lib.mkOption { type = lib.types.attrsOf lib.types.unspecified; };
			config.deployment.keys = { a = { text = "x"; keyFile = null; keyCommand = null; destDir = "/run"; }; other.text = "y"; };
		}) ]; }; }`))
		n.Log = slog.New(slog.NewTextHandler(&log, nil))
		got, errs := texts(t, n, Facts{}, "web")
		if !maps.Equal(got["web"], map[string]string{"a": "x"}) || !strings.Contains(log.String(), "in the Nix store, for all to read") {
			t.Errorf("texts %q, error %v, said %s", got["web"], errs["web"], log.String())
		}
	})
}

// A witness is Nix that looks at all that there is to see while it answers.
type witness struct {
	nixcmd.Nix
	look func(args []string)
}

func (w *witness) Instantiate(ctx context.Context, args, env []string, line func(string, int), saw func(string, int, int)) (unseen, err error) {
	return w.Nix.Instantiate(ctx, args, env, func(l string, pid int) {
		if strings.Contains(l, "@nx-") {
			w.look(append(args, env...))
		}
		line(l, pid)
	}, saw)
}

// What keys are is in no file, argument or message, neither while it is told nor
// thereafter, however a machine fails.
func TestTextsStayInMemory(t *testing.T) {
	const poison = "po1s0n" // the network's file has it in two parts
	file := write(t, `let secret = "po1s" + "0n"; in {
		defaults.boot.isContainer = true;
		a.deployment.keys.k.text = secret;
		b.deployment.keys.k = { text = secret; user = "nobody"; };
		thrown.deployment.keys.k.text = secret + throw "out of order";
		added.deployment.keys.k.text = secret + 1;
		coerced.deployment.keys.k.text = toString { x = secret; };
		number = { deployment.keys.k.text = [ secret ]; };
		after = { deployment.keys = { k.text = secret; l.text = throw "no more"; }; };
	}`)
	everywhere(t, func(t *testing.T) {
		tmp, cache, store, home := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
		t.Setenv("TMPDIR", tmp)
		t.Setenv("HOME", home)
		t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
		t.Chdir(home)
		var mu sync.Mutex
		var seen bytes.Buffer // messages, arguments and errors
		say := func(text ...any) { mu.Lock(); defer mu.Unlock(); fmt.Fprintln(&seen, text...) }
		found := func() (places []string) {
			for name, dir := range map[string]string{"temporary folder": tmp, "cache": cache, "store": store, "home": home} {
				err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
					if err != nil || !d.Type().IsRegular() {
						return nil // it went away
					}
					if text, err := os.ReadFile(name); err == nil && bytes.Contains(text, []byte(poison)) || strings.Contains(name, poison) {
						places = append(places, name)
					}
					return nil
				})
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if strings.Contains(seen.String(), poison) {
				places = append(places, seen.String())
			}
			return places
		}
		answers := 0
		n := testNetwork(file)
		n.Cache = &Cache{Dir: cache}
		n.ShowTrace = true
		n.Log = slog.New(slog.NewJSONHandler(writerFunc(func(p []byte) { say(string(p)) }), &slog.HandlerOptions{Level: slog.LevelDebug}))
		n.Args = []string{"--option", "store", store}
		n.Nix = &witness{look: func(args []string) {
			answers++
			say(args)
			if places := found(); len(places) > 0 {
				t.Errorf("while it is told, the text is in %q", places)
			}
		}}
		n.Jobs = 1
		names := []string{"a", "b", "thrown", "added", "coerced", "number", "after"}
		for name, s := range evaluate(t, n, Facts{}, names...) {
			say(name, s.Err, string(s.Deployment), string(s.DrvPath))
		}
		got, errs := texts(t, n, Facts{}, names...)
		for _, name := range names[:2] {
			if got[name]["k"] != poison {
				t.Errorf("the text of %s is %q, error %v", name, got[name]["k"], errs[name])
			}
		}
		for _, name := range names[2:] {
			var logged interface{ Log() string }
			if !errors.As(errs[name], &logged) {
				t.Errorf("%s: error %v, want one with a log", name, errs[name])
				continue
			}
			say(name, errs[name], logged.Log())
		}
		if answers < 4 {
			t.Errorf("looked %d times, want for each answer", answers)
		}
		if places := found(); len(places) > 0 {
			t.Errorf("the text is in %q", places)
		}

		// It would be found.
		for _, dir := range []string{tmp, cache, store, home} {
			if err := os.WriteFile(filepath.Join(dir, "planted"), []byte("x"+poison), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		say("x" + poison)
		if places := found(); len(places) != 5 {
			t.Errorf("of what was planted in 5 places, found %q", places)
		}
	})
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}
