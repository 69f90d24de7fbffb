package cmd_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tidwall/gjson"

	"nx/pkg/testhost"
)

// What befalls a host that runs systemd while nx-activate is at work on it, and how
// it gets out. Faults at each single step are the business of pkg/activate's tests.

// set changes deployment.activation in a file of records, or the target.
func (d *deployment) set(name, jq string) {
	d.t.Helper()
	if r := d.sh(fmt.Sprintf(`jq -c 'if .name then %s else . end' %[2]s.jsonl > set && mv set %[2]s.jsonl`, jq, name)); r.status != 0 {
		d.t.Fatalf("%+v", r)
	}
}

// at runs nx-activate and calls act, once, when it announces the event.
func (d *deployment) at(event string, act func(cmd *exec.Cmd), args ...string) (result, gjson.Result) {
	d.t.Helper()
	cmd := d.command(filepath.Join(bin, "nx-activate"), append([]string{"-v", "--log-format", "json"}, args...)...)
	var stdout, all bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	for s := bufio.NewScanner(stderr); s.Scan(); {
		all.Write(append(s.Bytes(), '\n'))
		var e struct{ Event string }
		if json.Unmarshal(s.Bytes(), &e) == nil && e.Event == event && act != nil {
			act(cmd)
			act = nil
		}
	}
	cmd.Wait()
	if act != nil {
		d.t.Errorf("%q was not announced", event)
	}
	return result{status(cmd.ProcessState), stdout.String(), all.String()}, hosts(d.t, stdout.String())["web1"]
}

// Half of the faults befall a machine with this machine's Nix, the others one with the
// newer; with NXTEST_FAULTS=all both suffer each.
func TestSystemdProtocol(t *testing.T) {
	t.Parallel()
	all := os.Getenv("NXTEST_FAULTS") == "all"
	newer, _ := testhost.Missing("nix-new")
	t.Run("Nix", func(t *testing.T) {
		t.Parallel()
		testSystemdProtocol(t, deploySystemd(t), func(i int) bool { return all || newer != nil || i%2 == 0 })
	})
	t.Run("newer Nix", func(t *testing.T) {
		t.Parallel()
		testSystemdProtocol(t, deployNewerNix(t), func(i int) bool { return all || i%2 == 1 })
	})
}

func testSystemdProtocol(t *testing.T, d *deployment, suffers func(i int) bool) {
	// What ran knows how to open the network again.
	const mends = `system.activationScripts.net = "[ -e /run/stays ] || { ip link set eth0 up; systemctl start sshd; }";`
	d.copied("old", "{"+mends+"}")
	d.wantActivated("switch", "old", "activated")
	system := func() string {
		return d.on("web1", "(readlink -f /run/current-system /nix/var/nix/profiles/system; cat /var/lib/nx/default) | sort -u")
	}
	old := system()

	for i, tt := range []struct {
		name, configuration, settings string
		event                         string // when act is called
		act                           func(*exec.Cmd)
		result                        string // "" when its deployer was killed
		says                          string // in the error's message
		rebooted                      bool
		new                           bool // the new system is what it ends on
	}{
		{name: "the switch hangs", settings: "switchTimeout: 4",
			configuration: `systemd.services.hangs = { wantedBy = [ "multi-user.target" ]; serviceConfig.Type = "oneshot"; script = "sleep infinity"; };`,
			result:        "rolled-back", says: "switch-to-configuration took longer than 4 s"},
		{name: "the network is cut, and comes back", settings: "confirmTimeout: 4",
			configuration: `system.activationScripts.net = "ip link set eth0 down";`,
			result:        "rolled-back", says: "nobody reached the host over a new connection within 4 s"},
		{name: "only old connections are let in", settings: "confirmTimeout: 4",
			configuration: `system.activationScripts.net = "systemctl stop sshd";`,
			result:        "rolled-back", says: "nobody reached the host over a new connection within 4 s"},
		{name: "the network is cut and stays so", settings: "confirmTimeout: 4",
			configuration: `system.activationScripts.net = "ip link set eth0 down; touch /run/stays";`,
			result:        "rolled-back", says: "it rebooted into its boot default", rebooted: true},
		{name: "sshd does not come back", settings: "confirmTimeout: 4",
			configuration: `system.activationScripts.ssh = "touch /run/stays; systemctl stop sshd";`,
			result:        "rolled-back", says: "it rebooted into its boot default", rebooted: true},
		{name: "the supervisor is killed", configuration: `environment.etc.x.text = "1";`, settings: "confirmTimeout: 20", event: "testing",
			act: func(*exec.Cmd) {
				d.on("web1", "systemctl kill --kill-who=main -s KILL 'nx-activate-*.service'")
			},
			result: "rolled-back", says: "its supervisor was killed"},
		{name: "the host reboots", configuration: `environment.etc.x.text = "2";`, settings: "settleTime: 30", event: "contact",
			act: func(*exec.Cmd) {
				if err := d.host("web1").Reboot(t.Context()); err != nil {
					t.Error(err)
				}
			},
			result: "rolled-back", says: "the host rebooted before it was done", rebooted: true},
		{name: "the deployer is killed", configuration: `environment.etc.x.text = "3"; systemd.services.slow = { wantedBy = [ "multi-user.target" ]; serviceConfig.Type = "oneshot"; script = "sleep 2"; };`,
			settings: "confirmTimeout: 2", event: "testing", act: func(cmd *exec.Cmd) {
				cmd.Process.Kill()
				// not before the host has given up, twice
				journal := filepath.Join(d.host("web1").Disk("var"), "lib/nx/last/journal")
				booted := filepath.Join(filepath.Dir(d.host("web1").Disk("")), "booted")
				d.sh("was=$(stat -c %i%y " + booted + "); bash -c \"grep -qm1 '^rebooting' <(exec timeout 60 tail -F -n +1 " + journal + ")\"\n" +
					// a system that shuts down has no disk any more, and may let somebody in
					"timeout 60 sh -c 'until now=$(stat -c %i%y " + booted + " 2>/dev/null) && [ \"$now\" != \"$0\" ]; do :; done' \"$was\"")
			}, rebooted: true},
		{name: "the deployer is killed, and another one takes it over", configuration: `environment.etc.x.text = "4"; systemd.services.slow = { wantedBy = [ "multi-user.target" ]; serviceConfig.Type = "oneshot"; script = "sleep 2"; };`,
			settings: "confirmTimeout: 20", event: "testing", act: func(cmd *exec.Cmd) { cmd.Process.Kill() }, new: true},
		{name: "the deployer is interrupted twice, and another one follows", configuration: `environment.etc.x.text = "5"; systemd.services.slow = { wantedBy = [ "multi-user.target" ]; serviceConfig.Type = "oneshot"; script = "sleep 2"; };`,
			settings: "confirmTimeout: 20", event: "testing", act: func(cmd *exec.Cmd) {
				cmd.Process.Signal(syscall.SIGINT)
				cmd.Process.Signal(syscall.SIGTERM)
			}, new: true},
	} {
		if !suffers(i) {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			d := &deployment{t, d.dir}
			d.copied("new", "{"+tt.configuration+"}")
			d.set("new", ".deployment.activation += {"+tt.settings+"}")
			r, web1 := d.at(tt.event, tt.act, "switch", "new.jsonl")
			if tt.result == "" { // nobody is there any more; somebody asks
				if r.status < 128 {
					t.Errorf("status %d", r.status)
				}
				r, web1 = d.at("end", nil, "attach", "new.jsonl")
				tt.result, tt.says = "rolled-back", "nobody reached the host over a new connection within 2 s"
				if tt.new {
					tt.result, tt.says = "activated", ""
				}
			}
			if got := web1.Get("activation.result").Str; got != tt.result || !strings.Contains(web1.Get("error.message").Str, tt.says) ||
				!tt.new && web1.Get("activation.rebooted").Bool() != tt.rebooted {
				t.Fatalf("status %d, %s\n%s", r.status, web1.Raw, r.stderr)
			}
			d.on("web1", "systemctl is-system-running --wait || :")
			if got := system(); (got == old) == tt.new || strings.Contains(got, "\n") {
				t.Errorf("it is on %s; before that on %s", got, old)
			}
			if got := d.on("web1", "systemctl --failed --no-legend; systemctl list-units --plain --no-legend 'nx-*'; pgrep -f [s]witch-to-configuration; ls -d /nix/var/nix/gcroots/nx/2???????-??????-* /run/nx/2* /run/nx/pending 2>/dev/null; flock -n /run/nx/lock true || echo locked"); got != "" {
				t.Errorf("left: %s", got)
			}
		})
	}
	d.wantActivated("switch", "old", "activated")
}

// A deployer that is killed, at whichever step, leaves a host that the next one brings to
// an end: it runs one system, which its boot default agrees with, and can be switched.
func TestDeployerKilled(t *testing.T) {
	t.Parallel()
	d := deploy(t, map[string]string{
		"network.nix": `{ web1 = { deployment.targetEnv = "sandbox"; boot.isContainer = true; imports = [ ./web1.nix ]; }; }`,
		"web1.nix":    "{ }",
	})
	if r := d.sh("nx-provision -q -f network.nix -o hosts.jsonl"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	copied := func(text string) {
		t.Helper()
		d.write("web1.nix", `{ environment.etc.x.text = "`+text+`"; }`)
		if r := d.sh("nx-eval -q -f network.nix hosts.jsonl | nx-build -q | nx-copy -q -o new.jsonl"); r.status != 0 {
			t.Fatalf("%+v", r)
		}
	}
	systems := func() string {
		return d.on("web1", "(readlink -f /run/current-system /nix/var/nix/profiles/system; cat /var/lib/nx/default) | sort -u")
	}

	// The steps, as they are announced of one that is left alone.
	copied("first")
	d.at("end", nil, "switch", "new.jsonl")
	copied("second")
	whole, web1 := d.at("end", nil, "switch", "new.jsonl")
	if web1.Get("activation.result").Str != "activated" {
		t.Fatalf("%+v", whole)
	}
	var steps []string
	for line := range strings.Lines(whole.stderr) {
		e := gjson.Parse(line)
		if step := e.Get("event").Str; e.Get("host").Str == "web1" && step != "output" && !slices.Contains(steps, step) {
			steps = append(steps, step)
		}
	}
	for _, want := range []string{"activating", "testing", "confirming", "contact", "settled", "committing", "end"} {
		if !slices.Contains(steps, want) {
			t.Fatalf("%q is no step of %q", want, steps)
		}
	}
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			d := &deployment{t, d.dir}
			copied("killed at " + step)
			// At the last steps it may have ended before.
			r, web1 := d.at(step, func(cmd *exec.Cmd) { cmd.Process.Kill() }, "switch", "new.jsonl")
			if r.status < 128 && web1.Get("activation.result").Str != "activated" {
				t.Errorf("status %d", r.status)
			}
			d.sh("nx-activate -q attach new.jsonl")
			if got := systems(); strings.Contains(got, "\n") {
				t.Errorf("it is on %s", got)
			}
			r = d.sh("nx-activate -q switch new.jsonl")
			if got := hosts(t, r.stdout)["web1"].Get("activation.result").Str; got != "activated" && got != "unchanged" {
				t.Errorf("the next run: %q\n%s", got, r.stderr)
			}
			if got := d.on("web1", "cat /run/current-system/etc/x; ls -d /nix/var/nix/gcroots/nx/2???????-??????-* /run/nx/2* /run/nx/pending 2>/dev/null; flock -w 30 /run/nx/lock true || echo locked"); got != "killed at "+step {
				t.Errorf("it has %s", got)
			}
		})
	}
}

// A machine deploys to itself without ssh, if it may.
func TestLocalHost(t *testing.T) {
	t.Parallel()
	d := deploy(t, map[string]string{"network.nix": `{ web1 = { deployment.targetEnv = "sandbox"; boot.isContainer = true; }; }`})
	if r := d.sh("nx-provision -q -f network.nix | nx-eval -q -f network.nix | nx-build -q | nx-copy -q -o copied.jsonl"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	h := d.host("web1")
	d.sh("cp " + filepath.Join(bin, "nx-activate") + " " + h.Disk("root"))
	for _, tt := range []struct{ allowed, want string }{{"false", "failed"}, {"true", "activated"}, {"true", "unchanged"}} {
		record := d.sh(`jq -c 'select(.name) | .target = {host: "localhost", port: 1} | .deployment.allowLocalDeployment = ` + tt.allowed + `' copied.jsonl`).stdout
		cmd, err := h.Command(t.Context(), "/root/nx-activate", "switch")
		if err != nil {
			t.Fatal(err)
		}
		r := run(t, cmd, strings.NewReader(record))
		web1 := hosts(t, r.stdout)["web1"]
		if got := web1.Get("activation.result").Str; got != tt.want {
			t.Errorf("allowed %s: %s, want %s\n%s\n%s", tt.allowed, got, tt.want, web1.Raw, r.stderr)
		}
		if tt.want == "activated" {
			d.wantRunning(web1)
		}
	}
}
