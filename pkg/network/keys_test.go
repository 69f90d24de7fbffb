package network

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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

		// A key that another one replaces is still there.
		follows := startKeyScript(t, follow)
		follows.watching()
		fresh := filepath.Join(dir, ".the token.nx-2")
		if err := os.WriteFile(fresh, []byte("22"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(fresh, filepath.Join(dir, "the token")); err != nil {
			t.Fatal(err)
		}
		follows.says("has been replaced")
		if err := os.Remove(filepath.Join(dir, "the token")); err != nil {
			t.Fatal(err)
		}
		follows.end()

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
	s := &keyScript{t: t, cmd: exec.Command("bash", "-e", "-c", text), sleeps: wake, lines: bufio.NewReader(sleeps)}
	s.cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "LC_ALL=C")
	s.cmd.ExtraFiles = []*os.File{ours, theirs}
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.said = bufio.NewReader(stderr)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
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
