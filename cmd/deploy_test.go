package cmd_test

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Ctrl-C at a terminal reaches all programs of nx-deploy: what is in work comes to an
// end, the summary says what became of it, and the status is the signal's.
func TestDeployInterrupted(t *testing.T) {
	t.Parallel()
	d := deploy(t, map[string]string{"network.nix": shop, "web.nix": web("morning")})
	cmd := d.command(filepath.Join(bin, "nx-deploy"), "-f", "network.nix")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	interrupted := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said = append(said, lines.Text())
		if !interrupted && strings.Contains(lines.Text(), ": testing") {
			interrupted = true
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd.Wait()
	all := strings.Join(said, "\n")
	if got := status(cmd.ProcessState); got != 130 || !interrupted {
		t.Errorf("status %d, interrupted %v", got, interrupted)
	}
	for _, want := range []string{"nx-activate: error: interrupted by SIGINT\n", "\nnx-deploy: 3 hosts in ", " activated", "\nnx-deploy: log: "} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() {
		t.Log(all)
	}
	// Whoever was in work holds, and the next run does the rest.
	if r := d.sh("nx-deploy -q -f network.nix"); r.status != 0 || r.stderr != "" {
		t.Errorf("again: %+v", r)
	}
}

// What the README says of deploying is what happens: its commands run, one after the
// other, where its network is.
func TestREADMEDeploying(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Deploying\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if !ok {
		t.Fatal("the README does not tell of deploying")
	}
	d := deploy(t, map[string]string{"network.nix": shop, "web.nix": web("morning"), "motd": "hello\n"})
	n := 0
	for i, block := range strings.Split(section, "```") {
		code, ok := strings.CutPrefix(block, "sh\n")
		if i%2 == 0 || !ok {
			continue
		}
		for line := range strings.Lines(code) {
			n++
			if r := d.sh(line); r.status != 0 {
				t.Errorf("%s: %+v", line, r)
			}
		}
	}
	if n < 10 {
		t.Errorf("%d commands", n)
	}
}
