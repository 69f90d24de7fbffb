package cmd_test

import (
	"fmt"
	"strings"
	"testing"
)

// A deployment that moves sshd from port 22 to 2222 is copied and activated by the old
// port, holds by the new one, and is found there from then on.
func TestMovedPort(t *testing.T) {
	t.Parallel()
	d := deploySystemd(t)
	sshd := func(port int) string {
		return fmt.Sprintf(`{ systemd.services.sshd = {
    wantedBy = [ "multi-user.target" ];
    serviceConfig = { Type = "notify"; ExecStart = "/usr/sbin/sshd -D -f /etc/ssh/sshd_config -p %d"; KillMode = "process"; Restart = "always"; };
    stopIfChanged = false;
  }; }`, port)
	}
	d.copied("before", sshd(22))
	d.wantActivated("switch", "before", "activated")
	d.write("web1.nix", "{ ... }: "+sshd(2222))
	for _, step := range []string{
		`nx-eval -f network.nix hosts.jsonl | jq -c 'if .name then .target |= . + {port: 2222, previous: .} else . end' | nx-build -o built.jsonl`,
		"nx-copy -o moved.jsonl built.jsonl",
	} {
		if r := d.sh(step); r.status != 0 {
			t.Fatalf("%s: %+v", step, r)
		}
	}
	d.wantActivated("switch", "moved", "activated")
	if r := d.sh("nx-copy -o again.jsonl built.jsonl"); r.status != 0 || strings.Contains(r.stderr, "previous") {
		t.Errorf("nx-copy after it has moved: %+v", r)
	}
	d.wantActivated("switch", "again", "unchanged")
	if r := d.sh("nx-copy --target-port 22 built.jsonl"); r.status != 1 || !strings.Contains(r.stderr, "connection refused") {
		t.Errorf("nx-copy by the old port: %+v", r)
	}
}
