package cmd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"nx/pkg/testhost"
)

// A user who may only start nx-switch as root activates what a listed key has signed,
// and nothing else; and becomes root by no word of it.
func TestNxSwitch(t *testing.T) {
	t.Parallel()
	testhost.Need(t, "root", "nix")
	if _, err := exec.LookPath("sudo"); err != nil {
		t.Skip("SKIPPED, needs sudo")
	}
	d := deploy(t, map[string]string{"web1.nix": "{ }", "keys.nix": "{ }"})
	keys := map[string]string{}
	for _, name := range []string{"deploy-1", "other-1"} {
		if r := d.sh("nix-store --generate-binary-cache-key " + name + " " + name + ".secret " + name + ".public"); r.status != 0 {
			t.Fatalf("%+v", r)
		}
		public, err := os.ReadFile(filepath.Join(d.dir, name+".public"))
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = strings.TrimSpace(string(public))
	}
	if r := d.sh("nx-activate module > nx-switch.nix"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	d.write("network.nix", `{ web1 = {
		imports = [ ./nx-switch.nix ./web1.nix ./keys.nix ];
		nx.switch = { users = [ "deploy" ]; keys = [ "`+keys["deploy-1"]+`" ]; };
		users.users.deploy.isNormalUser = true;
		deployment.targetEnv = "sandbox"; boot.isContainer = true;
	}; }`)
	if r := d.sh("nx-provision -q -f network.nix -o hosts.jsonl && nx-eval -q -f network.nix hosts.jsonl | nx-build -q | nx-copy -q | nx-activate -q switch"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	// The stand-in's options make no sudoers and no daemon.
	d.on("web1", `set -e
mkdir -p /etc/pam.d
printf '%s\n' 'account required pam_permit.so' 'session required pam_permit.so' > /etc/pam.d/sudo
printf '%s\n' 'Defaults env_reset' 'deploy ALL=(root) NOPASSWD:NOSETENV: /run/current-system/sw/bin/nx-switch' > /etc/sudoers
chmod 440 /etc/sudoers
cp -r /root/.ssh /home/deploy/ && chown -R deploy: /home/deploy
echo 'extra-trusted-public-keys = `+keys["deploy-1"]+` `+keys["other-1"]+`' >> /etc/nix/nix.conf
setsid nix-daemon > /dev/null 2>&1 < /dev/null &
while ! [ -S /nix/var/nix/daemon-socket/socket ]; do :; done`)

	// make leaves a record of web1 with another system in NAME.jsonl, and returns that.
	n := 0
	as := `jq -c 'if .name then .target.user = "deploy" else . end'`
	make := func(name, copy string) string {
		t.Helper()
		n++
		d.write("web1.nix", fmt.Sprintf(`{ environment.etc.n.text = "%d"; }`, n))
		if r := d.sh("nx-eval -q -f network.nix hosts.jsonl | nx-build -q | " + copy + " | " + as + " > " + name + ".jsonl"); r.status != 0 {
			t.Fatalf("%s: %+v", name, r)
		}
		return strings.TrimSpace(d.sh("jq -r 'select(.name).storePath' " + name + ".jsonl").stdout)
	}
	running := func() string { return d.on("web1", "readlink -f /run/current-system") }
	user := func(script string) string {
		return d.on("web1", "cd /tmp; setpriv --reuid=deploy --regid=users --clear-groups env HOME=/home/deploy /bin/sh -c "+quote(script)+" 2>&1 || :")
	}
	sign := func(path string) {
		d.on("web1", "cat > /root/secret <<'EOF'\n"+d.sh("cat deploy-1.secret").stdout+"\nEOF\nnix store sign --key-file /root/secret "+path)
	}

	before := running()
	for _, tt := range []struct {
		name string
		copy string
		make func(path string) string // another one in its place
		says string
	}{
		{name: "unsigned", copy: "nx-copy -q", says: "it is signed by no key of nx.switch.keys"},
		{name: "signed by another key that the host trusts", copy: as + " | nx-copy -q --sign-key other-1.secret", says: "it is signed by no key of nx.switch.keys"},
		{name: "named by its content", copy: "nx-copy -q", says: "it is signed by no key of nx.switch.keys",
			make: func(string) string {
				return user("mkdir -p evil/nixos-system-web1/bin && cd evil && printf '#!/bin/sh\ntouch /etc/pwned' > nixos-system-web1/bin/switch-to-configuration && chmod +x nixos-system-web1/bin/* && NIX_REMOTE=daemon nix-store --add nixos-system-web1")
			}},
		{name: "built by the host", copy: "nx-copy -q", says: "it is signed by no key of nx.switch.keys",
			make: func(string) string {
				return d.on("web1", `nix-build --no-out-link -E 'derivation { name = "nixos-system-web1"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "/bin/mkdir -p $out/bin; echo > $out/bin/switch-to-configuration" ]; }' 2> /dev/null`)
			}},
		{name: "a link to somewhere", copy: "nx-copy -q", says: "it is no system",
			make: func(string) string {
				path := d.on("web1", `nix-build --no-out-link -E 'derivation { name = "nixos-system-web1"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "/bin/ln -s /tmp/evil/nixos-system-web1 $out" ]; }' 2> /dev/null`)
				sign(path)
				return path
			}},
		{name: "gone", copy: "nx-copy -q", says: "it is not on ",
			make: func(string) string { return "/nix/store/00000000000000000000000000000000-nixos-system-web1" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &deployment{t, d.dir}
			path := make("bad", tt.copy)
			if tt.make != nil {
				path = tt.make(path)
			}
			for _, action := range []string{"switch", "boot", "test", "dry-activate"} {
				r := d.sh(`jq -c 'if .name then .storePath = "` + path + `" else . end' bad.jsonl | nx-activate ` + action)
				web1 := hosts(t, r.stdout)["web1"]
				if m := web1.Get("error.message").Str; r.status != 1 || web1.Get("activation.result").Str != "failed" || !strings.Contains(m, tt.says) {
					t.Errorf("%s: %s\n%s", action, web1.Raw, r.stderr)
				}
			}
			if got := running(); got != before {
				t.Errorf("it runs %s", got)
			}
			if got := d.on("web1", "ls /etc/pwned /nix/var/nix/gcroots/nx 2> /dev/null || :"); strings.Contains(got, "pwned") || strings.Contains(got, filepath.Base(path)) {
				t.Errorf("left: %s", got)
			}
		})
	}

	const nxSwitch = "sudo -n /run/current-system/sw/bin/nx-switch"
	path := make("good", as+" | nx-copy -q --sign-key deploy-1.secret")
	start := nxSwitch + " 1 start 20260101-000000-0a action=switch system=" + path
	for _, tt := range []struct{ name, script, says string }{
		{"an older deployer", nxSwitch + " 0 status", "protocol 1"},
		{"no words", nxSwitch, "protocol 1"},
		{"the supervisor itself", nxSwitch + " 1 supervise x", "refused"},
		{"another function", nxSwitch + " 1 limited 1 touch /etc/pwned", "refused"},
		{"a program", nxSwitch + " 1 touch /etc/pwned", "refused"},
		{"a second line", start + " \"$(printf 'by=x\nsystem=/tmp/evil/nixos-system-web1')\"", "refused"},
		{"an empty word before others", start + " '' system=/tmp/evil/nixos-system-web1", "refused"},
		{"another system after it", start + " system=/tmp/evil/nixos-system-web1", "refused"},
		{"a path through it", start + "/../../../tmp/evil/nixos-system-web1", "refused"},
		{"a specialisation elsewhere", start + " special=../../../../tmp/evil/nixos-system-web1", "refused"},
		{"what is calculated with", start + " 'switch=a[$(touch /etc/pwned)]'", "refused"},
		{"an option of nix-env", start + " keep=old", "refused"},
		{"a generation that is none", start + " to=--help", "refused"},
		{"a word that is none", start + " nx=x", "refused"},
		{"an identity elsewhere", nxSwitch + " 1 start ../../../etc/x action=switch system=" + path, "refused"},
		{"a log elsewhere", nxSwitch + " 1 log ../../../etc", "refused"},
		{"a contact elsewhere", nxSwitch + " 1 contact 20260101-000000-0a ../../../etc/pwned", "refused"},
		{"lines that are none", nxSwitch + " 1 attach 20260101-000000-0a 1 '1 /etc/shadow'", "refused"},
		{"closures of an option", nxSwitch + " 1 closures --option", "refused"},
		{"a variable", "sudo -n NIX_CONFIG=x " + strings.TrimPrefix(nxSwitch, "sudo -n ") + " 1 status", "sudo: "},
		{"another program", "sudo -n /bin/sh -c id", "sudo: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := user(tt.script); !strings.HasPrefix(got, tt.says) {
				t.Errorf("%s\n%s", tt.script, got)
			}
			if got := running() + d.on("web1", "ls -d /etc/pwned /etc/x /var/lib/nx/deployments/20260101-* 2> /dev/null || :"); got != before {
				t.Errorf("it runs %s", got)
			}
		})
	}
	// Nothing of the environment counts: not even when sudo lets it through.
	if got := d.on("web1", `mkdir /tmp/bin; printf '#!/bin/sh\ntouch /etc/pwned' > /tmp/bin/nix; chmod +x /tmp/bin/nix; cp /tmp/bin/nix /tmp/bin/mkdir; cp /tmp/bin/nix /tmp/bin/env
cd /tmp/bin; env 'BASH_FUNC_exec%%=() { touch /etc/pwned; }' 'BASH_FUNC_cd%%=() { touch /etc/pwned; }' BASH_ENV=/tmp/bin/nix ENV=/tmp/bin/nix NIX_CONFIG='trusted-public-keys = x' PATH=/tmp/bin:$PATH \
	/run/current-system/sw/bin/nx-switch 1 start 20260101-000000-0a action=dry-activate system=`+path+` > /dev/null 2>&1; ls /etc/pwned 2> /dev/null || :`); got != "" {
		t.Errorf("left: %s", got)
	}

	// What is signed is activated, and the host was reached by the new system's door.
	r := d.sh("nx-activate -v switch good.jsonl")
	web1 := hosts(t, r.stdout)["web1"]
	if web1.Get("activation.result").Str != "activated" || r.status != 0 {
		t.Fatalf("%s\n%s", web1.Raw, r.stderr)
	}
	d.wantRunning(web1)
	if got := d.on("web1", "ls /home/deploy/.local/state/nx/roots"); strings.Contains(got, filepath.Base(path)) {
		t.Errorf("the user's root is left: %s", got)
	}
	for verb, want := range map[string]string{"status": "yes", "generations": "yes", "log": "activating the configuration", "diff": "all"} {
		if r := d.sh("nx-activate " + verb + " good.jsonl"); r.status != 0 || !strings.Contains(r.stdout, want) {
			t.Errorf("%s: %+v", verb, r)
		}
	}
	// Keys come by it too, as the system declares them.
	d.write("keys.nix", `{ deployment.keys.token = { text = "secret"; user = "deploy"; permissions = "0400"; destDir = "/var/keys"; }; }`)
	exec := func(script string) result {
		return d.sh("nx-copy -q -f network.nix --sign-key deploy-1.secret " + script)
	}
	path = make("keyed", as)
	if r := exec("keyed.jsonl | nx-activate -q switch"); r.status != 0 || hosts(t, r.stdout)["web1"].Get("copied.keys").Raw != `["token"]` {
		t.Errorf("with keys: %+v", r)
	}
	if got := d.on("web1", "stat -c '%U %a' /var/keys/token; cat /var/keys/token; ls -A /run/nx/keys"); got != "deploy 400\nsecret" {
		t.Errorf("the key: %s", got)
	}
	d.on("web1", "rm /var/keys/token")
	if r := d.sh("nx-copy keys -q -f network.nix keyed.jsonl"); r.status != 0 || d.on("web1", "cat /var/keys/token") != "secret" {
		t.Errorf("at once: %+v", r)
	}
	const declared = `.deployment.keys.token`
	for name, tt := range map[string]struct{ change, says string }{
		"another place":  {declared + `.destDir = "/etc"`, "the system does not declare /etc/token like this"},
		"another owner":  {declared + `.user = "root"`, "the system does not declare /var/keys/token like this"},
		"another mode":   {declared + `.permissions = "0666"`, "the system does not declare /var/keys/token like this"},
		"a command":      {declared + `.action = ["touch", "/etc/pwned"]`, "the system does not declare /var/keys/token like this"},
		"another system": {`.storePath = "` + before + `"`, "it is signed by no key of nx.switch.keys"},
	} {
		r := d.sh("jq -c 'if .name then " + tt.change + " else . end' keyed.jsonl | nx-copy keys -f network.nix")
		if r.status != 1 || !strings.Contains(hosts(t, r.stdout)["web1"].Get("error.message").Str, tt.says) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for _, script := range []string{
		nxSwitch + " 1 keys_at_once x no", nxSwitch + " 1 keys_pack x", nxSwitch + " 1 keys_receive ../../../etc", nxSwitch + " 1 stage /etc",
		start + " keys=../../../etc", nxSwitch + " 1 start 20260101-000000-0b action=switch system=" + path + " keys=none",
		`printf 'salt\n/etc/shadow\n\n' | ` + nxSwitch + " 1 stage " + path + " | grep -v ^-$ ; echo refused",
		`printf 'salt\n\n5\t-\t../../../../etc/pwned\tnew\tearly\tdeploy\troot\t0400\tyes\tx\t-\t/var/keys/token\nhello\nend\n' | ` + nxSwitch + " 1 stage " + path + "; echo refused",
	} {
		if got := user(script); !strings.HasPrefix(got, "refused") {
			t.Errorf("%s: %s", script, got)
		}
	}
	if got := d.on("web1", "ls -d /etc/pwned /etc/token 2> /dev/null; stat -c '%U %a' /var/keys/token; cat /var/keys/token; ls -A /run/nx/keys"); got != "deploy 400\nsecret" {
		t.Errorf("the key: %s", got)
	}
	// One step back is to a system that nobody signed.
	if r := d.sh("nx-activate rollback --to 1 good.jsonl"); r.status != 1 || !strings.Contains(r.stdout, "nx.switch.keys") {
		t.Errorf("rollback: %+v", r)
	}
}

// quote is a word for the shell.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
