package cmd_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"nx/pkg/testhost"
)

// On hosts that run systemd: the stand-in's switch-to-configuration acts on units as
// NixOS' does, and nx-activate judges what happens there.

// systemdNetwork has one machine, whose configuration is web1.nix, and whose Nix is
// that of a folder, "" for this machine's.
const systemdNetwork = `{
  defaults = { deployment.targetEnv = "sandbox"; deployment.sandbox = { systemd = true; nix = "%s"; }; boot.isContainer = true; };
  web1 = import ./web1.nix;
}
`

// eachNix runs a test on a machine with this machine's Nix, and on one with the newer.
func eachNix(t *testing.T, test func(*testing.T, *deployment)) {
	t.Helper()
	t.Run("Nix", func(t *testing.T) {
		t.Parallel()
		test(t, deploySystemd(t))
	})
	t.Run("newer Nix", func(t *testing.T) {
		t.Parallel()
		test(t, deployNewerNix(t))
	})
}

// deploySystemd starts the machine and waits until it has booted.
func deploySystemd(t *testing.T) *deployment {
	t.Helper()
	return deployNix(t, "")
}

func deployNewerNix(t *testing.T) *deployment {
	t.Helper()
	testhost.Need(t, "nix-new")
	nix := os.Getenv("NXTEST_NIX_NEW")
	d := deployNix(t, nix)
	if got := d.on("web1", "systemctl show --property ExecStart --value sshd"); !strings.Contains(got, ":"+nix+"/bin:/usr/") {
		t.Fatalf("its sshd is %s, without the PATH of %s", got, nix)
	}
	return d
}

func deployNix(t *testing.T, nix string) *deployment {
	t.Helper()
	testhost.Need(t, "systemd")
	d := deploy(t, map[string]string{"network.nix": fmt.Sprintf(systemdNetwork, nix), "web1.nix": "{ }"})
	if r := d.sh("nx-provision -q -f network.nix -o hosts.jsonl"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	d.wantBooted()
	return d
}

func (d *deployment) wantBooted() {
	d.t.Helper()
	if got := d.on("web1", "systemctl is-system-running --wait || systemctl --failed"); got != "running" {
		d.t.Fatalf("the host is %s", got)
	}
}

// copied brings the machine the systems that its configurations make, and leaves its
// record in NAME.jsonl.
func (d *deployment) copied(name, configuration string) {
	d.t.Helper()
	d.write("web1.nix", "{ lib, ... }: "+configuration)
	const settle = `jq -c 'if .name then .deployment.activation.settleTime = 1 else . end'`
	if r := d.sh("nx-eval -f network.nix hosts.jsonl | nx-build | " + settle + " | nx-copy -o " + name + ".jsonl"); r.status != 0 {
		d.t.Fatalf("%+v", r)
	}
}

// activate runs nx-activate on the machine alone. It returns the result, the record,
// and what the programs on the machine said, line by line.
func (d *deployment) activate(action, name string) (result, gjson.Result, []string) {
	d.t.Helper()
	r := d.sh("nx-activate " + action + " " + name + ".jsonl")
	var said []string
	for line := range strings.Lines(r.stderr) {
		if line, ok := strings.CutPrefix(line, "web1> "); ok {
			said = append(said, strings.TrimSuffix(line, "\n"))
		}
	}
	return r, hosts(d.t, r.stdout)["web1"], said
}

// wantActivated runs nx-activate, which succeeds, and wants these lines to be said
// among others, in this order.
func (d *deployment) wantActivated(action, name, want string, lines ...string) {
	d.t.Helper()
	r, web1, said := d.activate(action, name)
	if got := web1.Get("activation.result").Str; got != want || r.status != 0 {
		d.t.Fatalf("%s %s: %q, want %q: status %d, stderr:\n%s", action, name, got, want, r.status, r.stderr)
	}
	d.wantSaid(said, lines...)
}

func (d *deployment) wantSaid(said []string, lines ...string) {
	d.t.Helper()
	rest := lines
	for _, line := range said {
		if len(rest) > 0 && line == rest[0] {
			rest = rest[1:]
		}
	}
	if len(rest) > 0 {
		d.t.Errorf("the host said\n  %s\nwithout, or not in this order,\n  %s", strings.Join(said, "\n  "), strings.Join(rest, "\n  "))
	}
}

// pids are the main processes of units, "0" for one that does not run.
func (d *deployment) pids(units ...string) map[string]string {
	d.t.Helper()
	pids := map[string]string{}
	for _, unit := range units {
		pids[unit] = d.on("web1", "systemctl show -p MainPID --value "+unit)
	}
	return pids
}

// service is a service that notes its version in /run/NAME and then waits.
func service(name, version, more string) string {
	return fmt.Sprintf(`systemd.services.%[1]s = {
    wantedBy = [ "multi-user.target" ];
    serviceConfig.Type = "notify";
    serviceConfig.NotifyAccess = "all";
    script = "echo %[2]s > /run/%[1]s; systemd-notify --ready; exec sleep infinity";
    %[3]s
  };
`, name, version, more)
}

func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	eachNix(t, testSystemdUnits)
}

func testSystemdUnits(t *testing.T, d *deployment) {
	d.copied("first", "{"+service("steady", "1", "")+service("changing", "1", "")+service("restarting", "1", "stopIfChanged = false;")+
		service("kept", "1", "restartIfChanged = false;")+service("leaving", "1", "")+"}")
	d.wantActivated("switch", "first", "activated",
		"the following new units were started: changing.service, kept.service, leaving.service, restarting.service, steady.service")
	units := []string{"steady", "changing", "restarting", "kept", "leaving", "arriving"}
	before := d.pids(units...)
	if before["steady"] == "0" || before["arriving"] != "0" {
		t.Fatalf("main processes: %v", before)
	}

	// What would be done is said, and nothing is.
	d.copied("second", "{"+service("steady", "1", "")+service("changing", "2", "")+service("restarting", "2", "stopIfChanged = false;")+
		service("kept", "2", "restartIfChanged = false;")+service("arriving", "2", "")+"}")
	const everything = `systemctl list-units --all --plain --no-legend 'steady*' 'changing*' 'restarting*' 'kept*' 'leaving*' 'arriving*' '*.target'
		find /etc /run/current-system /run/nixos /run/nx /var/lib/nx /nix/var/nix/profiles /nix/var/nix/gcroots /boot -printf '%p %i %m %s %T@ %l\n' | sort
		cat /run/steady /run/changing /run/restarting`
	untouched := d.on("web1", everything)
	d.wantActivated("dry-activate", "second", "dry",
		"would stop the following units: changing.service, leaving.service",
		"would NOT stop the following changed units: kept.service",
		"would activate the configuration...",
		"would restart the following units: restarting.service",
		"would start the following units: changing.service")
	if got := d.on("web1", everything); got != untouched {
		t.Errorf("after dry-activate the host has\n%s\nit had\n%s", got, untouched)
	}
	if got := d.pids(units...); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("after dry-activate the main processes are %v, they were %v", got, before)
	}

	d.wantActivated("switch", "second", "activated",
		"stopping the following units: changing.service, leaving.service",
		"NOT restarting the following changed units: kept.service",
		"activating the configuration...",
		"restarting the following units: restarting.service",
		"starting the following units: changing.service",
		"the following new units were started: arriving.service")
	after := d.pids(units...)
	for unit, want := range map[string]bool{"steady": true, "kept": true, "changing": false, "restarting": false} {
		if same := after[unit] == before[unit]; same != want || after[unit] == "0" {
			t.Errorf("%s: main process %s, was %s; want the same %v", unit, after[unit], before[unit], want)
		}
	}
	if after["leaving"] != "0" || after["arriving"] == "0" {
		t.Errorf("main processes: %v", after)
	}
	if got := d.on("web1", "cat /run/steady /run/changing /run/restarting /run/kept /run/arriving | xargs; systemctl show -p LoadState --value leaving"); got != "1 2 2 1 2\nnot-found" {
		t.Errorf("versions that run, and what is left: %s", got)
	}
	d.wantActivated("switch", "second", "unchanged")

	// The next boot's system is another one; until then all runs on.
	d.copied("third", "{"+service("steady", "3", "")+"}")
	d.wantActivated("boot", "third", "activated")
	if got := d.pids(units...); fmt.Sprint(got) != fmt.Sprint(after) {
		t.Errorf("after boot the main processes are %v, they were %v", got, after)
	}
	if err := d.host("web1").Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.wantBooted()
	if got := d.on("web1", "cat /run/steady; ls /run/changing 2>/dev/null; systemctl is-active steady changing || :"); got != "3\nactive\ninactive" {
		t.Errorf("after the reboot: %s", got)
	}
	d.wantActivated("switch", "third", "unchanged")
}

func TestSystemdFailures(t *testing.T) {
	t.Parallel()
	eachNix(t, testSystemdFailures)
}

func testSystemdFailures(t *testing.T, d *deployment) {
	good := service("good", "1", "")
	d.copied("good", "{"+good+"}")
	d.wantActivated("switch", "good", "activated")
	bad := func(name, more string) string {
		return "systemd.services." + name + ` = { wantedBy = [ "multi-user.target" ]; serviceConfig.ExecStart = "/bin/false"; ` + more + " };\n"
	}

	// The host goes back to what ran. A service that systemd means to start again
	// later has failed too, and one that crashes after a moment, again and again.
	running := func() string {
		return d.on("web1", "(readlink -f /run/current-system /nix/var/nix/profiles/system; cat /var/lib/nx/default) | sort -u; systemctl --failed --no-legend; cat /run/good")
	}
	before := running()
	for _, tt := range []struct{ name, units, failed string }{
		{"one", bad("one", ""), `["one.service"]`},
		{"one", bad("one", ""), `["one.service"]`}, // it is no better the second time
		{"two", bad("one", "") + bad("two", `serviceConfig.Restart = "always"; serviceConfig.RestartSec = 3600;`), `["one.service","two.service"]`},
		{"crash", `systemd.services.crash = { wantedBy = [ "multi-user.target" ]; script = "sleep 0.7; exit 1"; serviceConfig.Restart = "always"; serviceConfig.RestartSec = "50ms"; unitConfig.StartLimitIntervalSec = 0; };` + "\n",
			`["crash.service"]`},
	} {
		d.copied(tt.name, "{"+good+tt.units+"}")
		if tt.name == "crash" {
			d.sh("sed -i 's/\"settleTime\":1/\"settleTime\":4/' crash.jsonl")
		}
		r, web1, _ := d.activate("switch", tt.name)
		list := strings.NewReplacer(`["`, "", `"]`, "", `","`, " ").Replace(tt.failed)
		if got := web1.Get("activation.failedUnits").Raw; r.status != 1 || got != tt.failed ||
			web1.Get("activation.result").Str != "rolled-back" || web1.Get("error.stage").Str != "activate" ||
			!strings.Contains(web1.Get("error.message").Str, ": units failed: "+list+"; the host runs /nix/store/") {
			t.Errorf("%s: status %d, %s\n%s", tt.name, r.status, web1.Raw, r.stderr)
		}
		if got := running(); got != before {
			t.Errorf("%s: it is on\n%s\nwant\n%s", tt.name, got, before)
		}
	}

	// Units that may fail do not count.
	d.copied("allowed", "{"+good+bad("one", "")+"}")
	d.sh(`jq -c 'if .name then .deployment.activation.ignoreFailedUnits = ["one.service"] else . end' allowed.jsonl > ignoring.jsonl`)
	d.wantActivated("switch", "ignoring", "activated")

	// Nor does one that had failed before, though the switch complains of it.
	d.copied("still", "{"+good+bad("one", `description = "no better";`)+"}")
	d.wantActivated("switch", "still", "activated", "warning: the following units failed: one.service")
	d.wantActivated("switch", "good", "activated")
	if got := d.on("web1", "systemctl is-system-running; systemctl --failed --no-legend; cat /run/good"); got != "running\n1" {
		t.Errorf("mended, the host is %s", got)
	}

	// Where systemd's work is half done it goes back too.
	before, pid := running(), d.pids("good")
	d.copied("rules", "{"+good+`systemd.tmpfiles.rules = [ "nonsense /run/nonsense" ]; }`)
	r, web1, _ := d.activate("switch", "rules")
	if m := web1.Get("error.message").Str; r.status != 1 || web1.Get("activation.result").Str != "rolled-back" ||
		web1.Get("activation.failedUnits").Exists() || web1.Get("error.stage").Str != "activate" || !strings.Contains(m, "tmpfiles failed") {
		t.Errorf("bad rules: status %d, %s", r.status, web1.Raw)
	}
	if got := running(); got != before {
		t.Errorf("it is on\n%s\nwant\n%s", got, before)
	}
	if got := d.pids("good"); fmt.Sprint(got) != fmt.Sprint(pid) {
		t.Errorf("main processes %v, were %v", got, pid)
	}
}

// The deployment's own connection outlives the sshd that it came by.
func TestSystemdRestartsSSHD(t *testing.T) {
	t.Parallel()
	eachNix(t, testSystemdRestartsSSHD)
}

func testSystemdRestartsSSHD(t *testing.T, d *deployment) {
	sshd := func(version, more string) string {
		return `{ systemd.services.sshd = {
    description = "OpenSSH server, version ` + version + `";
    wantedBy = [ "multi-user.target" ];
    serviceConfig = { Type = "notify"; ExecStart = "/usr/sbin/sshd -D -f /etc/ssh/sshd_config"; KillMode = "process"; Restart = "always"; };
    ` + more + `
  }; }`
	}
	pid := d.pids("sshd")["sshd"]
	for _, tt := range []struct {
		name, more string
		said       []string
	}{
		{"taken", "stopIfChanged = false;", nil}, // it was the host's: left alone
		{"restarted", "stopIfChanged = false;", []string{"restarting the following units: sshd.service"}},
		{"stopped", "", []string{"stopping the following units: sshd.service", "activating the configuration...", "starting the following units: sshd.service"}},
	} {
		d.copied(tt.name, sshd(tt.name, tt.more))
		d.wantActivated("switch", tt.name, "activated", tt.said...)
		now := d.pids("sshd")["sshd"]
		if restarted := now != pid; now == "0" || restarted != (tt.said != nil) {
			t.Errorf("%s: sshd is %s, was %s", tt.name, now, pid)
		}
		if got := d.on("web1", "systemctl show -p Description --value sshd"); got != "OpenSSH server, version "+tt.name {
			t.Errorf("%s: %s", tt.name, got)
		}
		pid = now
	}
	if err := d.host("web1").Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.wantActivated("switch", "stopped", "unchanged")
}
