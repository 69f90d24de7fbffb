package cmd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"nx/pkg/testhost"
)

// realSwitch has the system's switch-to-configuration be nixpkgs' own, its placeholders
// filled in with what Debian has. A switch compares the targets below /etc alone,
// where NixOS has all of them, and starts what the changed ones want.
const realSwitch = `{
  systemd.targets.multi-user.unitConfig = { Requires = "basic.target"; After = "basic.target"; AllowIsolate = true; };
  system.systemBuilderCommands = ''
    sed -e "s,@out@,$out,g; s,@installBootLoader@,$installBootLoader,g" \
      -e 's,@perl@,/usr/bin/perl,g; s,@systemd@,/usr,g; s,@coreutils@,/usr,g; s,@utillinux@,/usr,g' \
      -e 's,@su@,/usr/bin/su,g; s,@shell@,/bin/sh,g; s,@localeArchive@,,g' \
      ${./switch-to-configuration.pl} > $out/bin/switch-to-configuration
  '';
}`

// Nixpkgs' own switch-to-configuration, that of 20.09 in Perl, says and returns what
// nx-activate takes it to, on a host with systemd: which the stand-in's imitates.
func TestRealSwitchToConfiguration(t *testing.T) {
	t.Parallel()
	testhost.Need(t, "systemd", "nixpkgs")
	const program = "nixos/modules/system/activation/switch-to-configuration.pl"
	text, err := os.ReadFile(filepath.Join(os.Getenv("NXTEST_NIXPKGS"), program))
	if err != nil {
		t.Skipf("SKIPPED, needs a nixpkgs whose switch-to-configuration is in Perl: %v", err)
	}
	if out, err := exec.Command("perl", "-MFile::Slurp", "-MNet::DBus", "-e", "1").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, needs libfile-slurp-perl and libnet-dbus-perl: %v: %s", err, out)
	}
	d := deploySystemd(t)
	d.write("real.nix", realSwitch)
	d.write("switch-to-configuration.pl", string(text))
	with := func(units string) string { return "{ imports = [ ./real.nix ];\n" + units + "}" }

	first := service("steady", "1", "") + service("changing", "1", "") + service("restarting", "1", "stopIfChanged = false;") +
		service("kept", "1", "restartIfChanged = false;") + service("leaving", "1", "")
	// Of Debian's rules for tmpfiles, leave out those that ask for users this host lacks.
	d.on("web1", `mkdir -p /etc/tmpfiles.d
for f in /usr/lib/tmpfiles.d/*.conf; do
	systemd-tmpfiles --create --remove --exclude-prefix=/dev $f 2> /dev/null || ln -s /dev/null /etc/tmpfiles.d/${f##*/}
done`)
	// It needs a system that runs; and what runs must have the targets already.
	d.copied("before", `{ systemd.targets.multi-user.unitConfig = { Requires = "basic.target"; After = "basic.target"; AllowIsolate = true; }; }`)
	d.wantActivated("switch", "before", "activated")
	d.copied("first", with(first))
	d.wantActivated("switch", "first", "activated", "activating the configuration...",
		"the following new units were started: changing.service, kept.service, leaving.service, restarting.service, steady.service, systemd-update-utmp-runlevel.service") // the target's own
	units := []string{"steady", "changing", "restarting", "kept", "leaving", "arriving"}
	before := d.pids(units...)

	second := service("steady", "1", "") + service("changing", "2", "") + service("restarting", "2", "stopIfChanged = false;") +
		service("kept", "2", "restartIfChanged = false;") + service("arriving", "2", "")
	d.copied("second", with(second))
	d.wantActivated("dry-activate", "second", "dry",
		"would stop the following units: changing.service, leaving.service",
		"would NOT stop the following changed units: kept.service",
		"would restart the following units: restarting.service",
		"would start the following units: changing.service")
	if got := d.pids(units...); got["changing"] != before["changing"] || got["leaving"] == "0" || got["arriving"] != "0" {
		t.Errorf("after dry-activate the main processes are %v, they were %v", got, before)
	}
	d.wantActivated("switch", "second", "activated",
		"stopping the following units: changing.service, leaving.service",
		"NOT restarting the following changed units: kept.service",
		"activating the configuration...",
		"setting up tmpfiles",
		"restarting the following units: restarting.service",
		"starting the following units: changing.service",
		"the following new units were started: arriving.service, systemd-update-utmp-runlevel.service")
	after := d.pids(units...)
	for unit, same := range map[string]bool{"steady": true, "kept": true, "changing": false, "restarting": false} {
		if (after[unit] == before[unit]) != same || after[unit] == "0" {
			t.Errorf("%s: main process %s, was %s; want the same %v", unit, after[unit], before[unit], same)
		}
	}
	d.wantActivated("switch", "second", "unchanged")

	running := func() string {
		return d.on("web1", "(readlink -f /run/current-system /nix/var/nix/profiles/system; cat /var/lib/nx/default) | sort -u; systemctl --failed --no-legend; systemctl is-active steady changing restarting kept arriving")
	}
	was := running()
	for _, tt := range []struct {
		name, units, action  string
		result, says, failed string
	}{
		{name: "a unit fails", units: `systemd.services.bad = { wantedBy = [ "multi-user.target" ]; serviceConfig.ExecStart = "/bin/false"; };`,
			result: "rolled-back", says: "units failed: bad.service", failed: `["bad.service"]`},
		{name: "a unit is to be restarted", units: `systemd.services.later = { wantedBy = [ "multi-user.target" ]; serviceConfig = { ExecStart = "/bin/false"; Restart = "always"; RestartSec = 3600; }; };`,
			result: "rolled-back", says: "units failed: later.service", failed: `["later.service"]`},
		{name: "the activation script fails", units: `system.activationScripts.bad = "false";`,
			result: "rolled-back", says: "its activation script failed"},
		{name: "tmpfiles fails", units: `systemd.tmpfiles.rules = [ "nonsense /run/nonsense" ];`,
			result: "rolled-back", says: "systemd could not reload its units, or tmpfiles failed"},
		{name: "it needs a reboot", units: `system.systemBuilderCommands = "echo other > $out/init-interface-version";`,
			result: "failed", says: "its init is incompatible with the running one: it needs a reboot, and nothing was switched"},
		{name: "the boot loader fails", action: "boot", units: `system.build.installBootLoader = lib.mkForce "/bin/false";`,
			result: "failed", says: "install the boot loader: exit status 1"},
		{name: "and after a switch", units: `system.build.installBootLoader = lib.mkForce "/bin/false";`,
			result: "rolled-back", says: "install the boot loader: exit status 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &deployment{t, d.dir}
			if tt.action == "" {
				tt.action = "switch"
			}
			d.copied("bad", with(second+tt.units))
			r, web1, _ := d.activate(tt.action, "bad")
			if got := web1.Get("activation.result").Str; got != tt.result || !strings.Contains(web1.Get("error.message").Str, tt.says) || web1.Get("activation.failedUnits").Raw != tt.failed {
				t.Errorf("status %d: %s\n%s", r.status, web1.Raw, r.stderr)
			}
			if got := running(); got != was {
				t.Errorf("it is on\n%s\nwant\n%s", got, was)
			}
		})
	}
}
