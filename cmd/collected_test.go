package cmd_test

import (
	"testing"
)

// Whoever collects garbage on a host between nx-copy and nx-activate takes nothing of
// the system, and nothing is kept for its sake behind that; for root, and for a user
// with sudo.
func TestCollectedBetween(t *testing.T) {
	t.Parallel()
	d := deploy(t, map[string]string{"network.nix": `{
  network.description = "two that are collected between the tools";
  defaults = { name, ... }: {
    deployment.targetEnv = "sandbox";
    boot.isContainer = true;
    environment.etc."collected".text = name;
  };
  root = { };
  joe = { };
}
`})
	for _, step := range []string{
		"nx-provision -f network.nix -o hosts.jsonl",
		`nx-eval -f network.nix hosts.jsonl | jq -c 'if .name == "joe" then .target += {user: "joe", sudo: ["sudo", "-n"]} else . end' | nx-build -o built.jsonl`,
	} {
		if r := d.sh(step); r.status != 0 || r.stdout != "" {
			t.Fatalf("%s: %+v", step, r)
		}
	}
	if d.on("joe", "command -v sudo || true") == "" {
		t.Skip("SKIPPED, needs sudo")
	}
	d.on("joe", `
		echo 'joe:x:1000:1000::/home/joe:/bin/sh' >>/etc/passwd
		echo 'joe:*:19000:0:99999:7:::' >>/etc/shadow
		mkdir -p /home/joe /etc/pam.d
		cp -r /root/.ssh /home/joe
		chown -R 1000:1000 /home/joe
		printf 'account required pam_permit.so\nsession required pam_permit.so\n' >/etc/pam.d/sudo
		echo 'joe ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers
		chmod 440 /etc/sudoers`)
	if r := d.sh("nx-copy -o copied.jsonl built.jsonl"); r.status != 0 {
		t.Fatalf("nx-copy: %+v", r)
	}
	for _, name := range []string{"root", "joe"} {
		d.on(name, "nix-store --gc")
	}
	got := wantResults(t, d.sh("nx-activate switch copied.jsonl"), map[string]string{"root": "activated", "joe": "activated"})
	for _, r := range got {
		d.wantRunning(r)
	}
}
