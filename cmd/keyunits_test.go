package cmd_test

import "testing"

// Services wait for their keys, as with NixOps: by the unit of one, which stays while
// the key is there, whoever replaces it, or by the target behind all.
func TestSystemdKeyUnits(t *testing.T) {
	t.Parallel()
	eachNix(t, testSystemdKeyUnits)
}

func testSystemdKeyUnits(t *testing.T, d *deployment) {
	d.write("token", "first")
	d.copied("keyed", `{
		deployment.keys = {
			token = { keyFile = ./token; user = "svc"; group = "svc"; permissions = "0440"; restartUnits = [ "bound.service" ]; };
			other.keyFile = ./token;
			late = { keyFile = ./token; uploadAt = "post-activation"; };
		};
		users.users.svc = { isSystemUser = true; group = "svc"; };
		users.groups.svc = { };
`+service("bound", "$(cat /run/keys/token)", `after = [ "token-key.service" ]; bindsTo = [ "token-key.service" ];`)+
		service("behind", "1", `after = [ "keys.target" ]; requires = [ "keys.target" ];`)+"}")
	d.wantActivated("switch", "keyed", "activated",
		"the following new units were started: behind.service, bound.service, keys.target, nx-keys.service, token-key.service")
	const states = "cat /run/bound; systemctl is-active token-key other-key late-key bound behind keys.target | xargs; stat -c %U:%G:%a /run/keys/token"
	if got, want := d.on("web1", states), "first\nactive inactive inactive active active active\nsvc:svc:440"; got != want {
		t.Errorf("after the switch: %s, want %s", got, want)
	}

	// Another key in its place is no other unit.
	before := d.pids("token-key", "bound")
	d.on("web1", "umask 077; echo second > /run/keys/.token.nx-x; mv /run/keys/.token.nx-x /run/keys/token\n"+
		"while ls -l /proc/$(pgrep -f '[t]ail --follow.* /run/keys/token')/fd | grep -q deleted; do :; done")
	after := d.pids("token-key", "bound")
	if before["token-key"] == "0" || after["token-key"] != before["token-key"] || after["bound"] != before["bound"] {
		t.Errorf("the main processes are %v, were %v", after, before)
	}

	// One that is gone is missed, and waited for.
	got := d.on("web1", `mv /run/keys/token /run/keys/.token.nx-x
		while systemctl -q is-active bound; do :; done
		systemctl is-active bound || :
		systemctl start bound &
		mv /run/keys/.token.nx-x /run/keys/token
		wait $!
		`+states)
	if want := "inactive\nsecond\nactive inactive inactive active active active\nroot:root:600"; got != want {
		t.Errorf("as the key came back: %s, want %s", got, want)
	}

	// A reboot takes them all, and the services wait until they are sent.
	if err := d.host("web1").Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := d.on("web1", "systemctl is-active bound behind keys.target | xargs; ls /run/keys 2>/dev/null || :"), "inactive inactive inactive"; got != want {
		t.Errorf("after the reboot: %s, want %s", got, want)
	}
	if r := d.sh("nx-copy keys keyed.jsonl"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	d.wantBooted()
	if got, want := d.on("web1", states), "first\nactive inactive inactive active active active\nsvc:svc:440"; got != want {
		t.Errorf("with keys again: %s, want %s", got, want)
	}

	// A key that is another one restarts those that it names, when they run.
	before = d.pids("bound", "behind")
	d.write("token", "third")
	if r := d.sh("nx-copy -q -o keyed.jsonl keyed.jsonl && nx-activate -q switch keyed.jsonl"); r.status != 0 || hosts(t, r.stdout)["web1"].Get("activation.result").Str != "activated" {
		t.Errorf("%+v", r)
	}
	after = d.pids("bound", "behind")
	if got := d.on("web1", "cat /run/bound"); got != "third" || after["bound"] == before["bound"] || after["behind"] != before["behind"] {
		t.Errorf("bound has %q; the main processes are %v, were %v", got, after, before)
	}
}
