package testhost_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"nx/pkg/testhost"
)

func startSystemd(t *testing.T) (*testhost.Lab, *testhost.Host) {
	t.Helper()
	testhost.Need(t, "systemd")
	lab := testhost.NewLab(t)
	h, err := lab.Start(t.Context(), "web1", testhost.Options{Systemd: true})
	if err != nil {
		t.Fatal(err)
	}
	return lab, h
}

// wantBooted waits until the host has booted to the end, and every unit is well.
func wantBooted(t *testing.T, h *testhost.Host) {
	t.Helper()
	if got := ssh(t, h, "systemctl is-system-running --wait; systemctl --failed --no-legend --plain"); got != "running" {
		t.Fatalf("the system is %s", got)
	}
}

// group returns the folder of h's control group.
func group(t *testing.T, h *testhost.Host) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			a := h.Addr.As4()
			return filepath.Join(f[1], fmt.Sprintf("nx%d.%d", a[2], a[3]))
		}
	}
	t.Fatal("no cgroup2 is mounted")
	return ""
}

func wantNoGroup(t *testing.T, h *testhost.Host) {
	t.Helper()
	if _, err := os.Stat(group(t, h)); !os.IsNotExist(err) {
		t.Errorf("the control group is left: %v", err)
	}
}

func TestSystemd(t *testing.T) {
	_, h := startSystemd(t)
	wantBooted(t, h)
	for _, tt := range []struct{ name, script, want string }{
		{"systemd is pid 1", "cat /proc/1/comm", "systemd"},
		{"sshd is a unit", `ps -o comm= -p "$(systemctl show -p MainPID --value sshd)"`, "sshd"},
		{"its restart ends no session", "before=$$; systemctl restart sshd && echo $((before - $$))", "0"},
		{"D-Bus answers", "busctl get-property org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager SystemState", `s "running"`},
		{"logind answers", "loginctl list-seats --no-legend", "seat0"},
		{"the journal keeps what is said", "systemd-cat -t told echo well && journalctl --sync && journalctl -q -o cat -t told", "well"},
		{"a service has a control group", "systemd-run -q --unit=mine --pipe --wait tail -n 1 /proc/self/cgroup", "0::/system.slice/mine.service"},
		{"the kernel's settings are out of reach", "cat /proc/sys/kernel/panic >/proc/sys/kernel/panic", "bash: line 1: /proc/sys/kernel/panic: Read-only file system"},
		{"its network's are not", "sysctl -q -w net.ipv4.ip_forward=1 && cat /proc/sys/net/ipv4/ip_forward", "1"},
		{"no service of this machine runs", "systemctl list-units --plain --no-legend --type=service --state=running | cut -d. -f1 | xargs",
			"dbus sshd systemd-journald systemd-logind"},
	} {
		if got := ssh(t, h, tt.script+" || :"); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// The ways in which a machine with systemd goes down and comes up.
func TestSystemdReboot(t *testing.T) {
	lab, h := startSystemd(t)
	system := "/nix/store/00000000000000000000000000000000-nixos-system-web1"
	script := fmt.Sprintf("mkdir -p %[1]s && printf '#!/bin/sh\\necho activated >/run/mark\\n' >%[1]s/activate && chmod +x %[1]s/activate && ln -sfn %[1]s /nix/var/nix/profiles/system", system)
	if _, err := h.Exec(t.Context(), script); err != nil {
		t.Fatal(err)
	}
	boots := map[string]bool{}
	for _, down := range []struct {
		name string
		do   func() error
	}{
		{"nothing", func() error { return nil }},
		{"Reboot", func() error { return h.Reboot(t.Context()) }},
		{"systemctl reboot", func() error {
			gone := whenGone(t, inside(t, h)[1])
			_, err := h.Exec(t.Context(), "systemctl reboot")
			gone()
			return err
		}},
		{"systemctl poweroff", func() error {
			gone := whenGone(t, inside(t, h)[0])
			_, err := h.Exec(t.Context(), "systemctl poweroff")
			gone()
			if on, err := h.Running(); on || err != nil {
				t.Errorf("powered off, running %v, %v", on, err)
			}
			return err
		}},
		{"Stop", func() error {
			err := h.Stop(t.Context())
			wantNoGroup(t, h)
			return err
		}},
		{"the supervisor's end", func() error {
			pids := inside(t, h)
			gone := whenGone(t, pids[1])
			err := syscall.Kill(pids[0], syscall.SIGKILL)
			gone()
			return err
		}},
	} {
		if err := down.do(); err != nil {
			t.Fatalf("%s: %v", down.name, err)
		}
		if _, err := lab.Start(t.Context(), h.Name, testhost.Options{Systemd: true}); err != nil {
			t.Fatalf("after %s: %v", down.name, err)
		}
		wantBooted(t, h)
		boots[ssh(t, h, "cat /proc/sys/kernel/random/boot_id")] = true
		if got := ssh(t, h, "cat /run/mark; readlink /run/current-system || :"); down.name != "nothing" && got != "activated\n"+system {
			t.Errorf("after %s: %q", down.name, got)
		}
	}
	if len(boots) != 6 {
		t.Errorf("%d boot ids: %v", len(boots), boots)
	}
	// It is the option of a start, not of the disk.
	if err := h.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.Start(t.Context(), h.Name, testhost.Options{}); err != nil {
		t.Fatal(err)
	}
	if got := ssh(t, h, "cat /proc/1/comm"); got != "sshd" {
		t.Errorf("pid 1 is %s, want sshd", got)
	}
	if err := lab.RemoveHost(t.Context(), h.Name); err != nil {
		t.Fatal(err)
	}
	wantNoGroup(t, h)
}
