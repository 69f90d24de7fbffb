package testhost_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"nx/pkg/testhost"
)

// sshArgs are OpenSSH's arguments that log in to h and trust its host key alone.
func sshArgs(t *testing.T, h *testhost.Host) []string {
	t.Helper()
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte(h.Addr.String()+" "+h.HostKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"-F", "none", "-i", h.Target().IdentityFile, "-o", "UserKnownHostsFile=" + known,
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"}
}

func ssh(t *testing.T, h *testhost.Host, command string) string {
	t.Helper()
	out, err := exec.Command("ssh", append(sshArgs(t, h), "root@"+h.Addr.String(), command)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh %s %q: %v\n%s", h.Name, command, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestHostsOverSSH(t *testing.T) {
	hosts := testhost.Start(t, 3)
	for _, h := range hosts {
		if got := ssh(t, h, "hostname; echo $PATH; nix-store --verify && ls /nix/store/.links 2>&1 | wc -l"); !strings.HasPrefix(got, h.Name+"\n/run/current-system/sw/bin:/usr/bin:") {
			t.Errorf("%s says %q", h.Name, got)
		}
		if got := ssh(t, h, "echo $$; cat /proc/1/comm; ls /; id -un"); !strings.Contains(got, "sshd") || strings.Contains(got, "old") {
			t.Errorf("%s says %q", h.Name, got)
		}
	}
	// they see each other, and nothing else
	if _, err := hosts[0].Exec(t.Context(), "exec 3<>/dev/null; /bin/bash -c 'exec 3<>/dev/tcp/"+hosts[1].Addr.String()+"/22'"); err != nil {
		t.Error(err)
	}
	if got, err := hosts[0].Exec(t.Context(), "ip -o route | wc -l"); err != nil || strings.TrimSpace(got) != "1" {
		t.Errorf("routes: %q, %v", got, err)
	}
	if hosts[0].HostKey == hosts[1].HostKey {
		t.Error("two hosts have one host key")
	}
}

// A host that reboots activates what its system profile points to, has a new boot
// id, keeps its disk and host key, and loses /run.
func TestReboot(t *testing.T) {
	h := testhost.Start(t, 1)[0]
	system := "/nix/store/00000000000000000000000000000000-nixos-system-h1"
	tests := []struct {
		name, activate, want string
	}{
		{"activation that works", "echo activated >/run/mark", "activated"},
		{"activation that fails", "echo half >/run/mark; exit 3", "half"},
		{"activation that cuts the network, before", "ip link set eth0 down; echo cut >/run/mark; ip link set eth0 up", "cut"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			script := fmt.Sprintf("mkdir -p %[1]s && printf '#!/bin/sh\\n%%s\\n' '%[2]s' >%[1]s/activate && chmod +x %[1]s/activate && ln -sfn %[1]s /nix/var/nix/profiles/system && touch /run/before && cat /proc/sys/kernel/random/boot_id",
				system, tt.activate)
			before, err := h.Exec(t.Context(), script)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Reboot(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := ssh(t, h, "cat /run/mark; readlink /run/current-system; ls /run | grep before || true"); got != tt.want+"\n"+system {
				t.Errorf("after the reboot %q, want %q", got, tt.want+"\n"+system)
			}
			if after := ssh(t, h, "cat /proc/sys/kernel/random/boot_id"); after == strings.TrimSpace(before) {
				t.Errorf("boot id stays %s", after)
			}
		})
	}
}

func TestCutAndMend(t *testing.T) {
	hosts := testhost.Start(t, 2)
	if err := hosts[0].Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	// reached from inside, but not over the network, also after a reboot
	if err := hosts[0].Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := hosts[0].Exec(t.Context(), "hostname"); err != nil || got != "h1\n" {
		t.Errorf("inside: %q, %v", got, err)
	}
	if got := carrier(t, hosts[0]); got != "0" {
		t.Errorf("carrier of a cut host: %q, want 0", got)
	}
	if got := carrier(t, hosts[1]); got != "1" {
		t.Errorf("carrier of the other host: %q, want 1", got)
	}
	ssh(t, hosts[1], "true")
	if err := hosts[0].Mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	ssh(t, hosts[0], "true")
}

func carrier(t *testing.T, h *testhost.Host) string {
	t.Helper()
	out, err := h.Exec(t.Context(), "cat /sys/class/net/eth0/carrier")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// Starting, stopping and removing are safe to repeat, and after a stop nothing of
// the host is left but its disk.
func TestLifeCycle(t *testing.T) {
	lab := testhost.NewLab(t)
	ctx := t.Context()
	if _, err := lab.Host("web1"); !errors.Is(err, testhost.ErrNoHost) {
		t.Fatalf("Host before the first start: %v, want ErrNoHost", err)
	}
	first, err := lab.Start(ctx, "web1", testhost.Options{})
	if err != nil {
		t.Fatal(err)
	}
	pid := ssh(t, first, "echo kept >/root/kept; echo $PPID")
	again, err := lab.Start(ctx, "web1", testhost.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if pid == "" || again.HostKey != first.HostKey || again.Addr != first.Addr {
		t.Errorf("started twice:\n%+v\n%+v", first, again)
	}
	before := inside(t, first)
	// a second opening of the lab, as another process has it
	other := &testhost.Lab{Dir: lab.Dir, IdentityFile: lab.IdentityFile}
	found, err := other.Host("web1")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := found.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if on, err := first.Running(); on || err != nil {
		t.Errorf("after Stop: running %v, %v", on, err)
	}
	for _, p := range before {
		if err := syscall.Kill(p, 0); err != syscall.ESRCH && !zombie(p) {
			t.Errorf("process %d is left: %v", p, err)
		}
	}
	nets := links(t, first)
	if len(nets) != 0 {
		t.Errorf("interfaces are left: %q", nets)
	}
	if _, err := first.Exec(ctx, "true"); err == nil {
		t.Error("a command ran in a host that is off")
	}
	third, err := lab.Start(ctx, "web1", testhost.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := ssh(t, third, "cat /root/kept"); got != "kept" || third.HostKey != first.HostKey {
		t.Errorf("after stop and start: %q, host key %s, want %s", got, third.HostKey, first.HostKey)
	}
	for range 2 {
		if err := lab.RemoveHost(ctx, "web1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := lab.Host("web1"); !errors.Is(err, testhost.ErrNoHost) {
		t.Errorf("Host after RemoveHost: %v, want ErrNoHost", err)
	}
	for range 2 {
		if err := lab.Remove(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(lab.Dir); !os.IsNotExist(err) {
		t.Errorf("folder after Remove: %v", err)
	}
}

// inside returns the supervisor and every process in the host's pid namespace.
func inside(t *testing.T, h *testhost.Host) []int {
	t.Helper()
	dir := filepath.Dir(filepath.Dir(h.Disk("etc")))
	var pids []int
	for _, file := range []string{"pid", "pid1"} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Sscan(string(b), &pid); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pids[1]))
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if got, _ := os.Readlink(f); got == ns {
			var pid int
			fmt.Sscanf(f, "/proc/%d/", &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// zombie tells whether a process has ended and only waits for this one, its parent.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// links returns the names of the interfaces here that belong to h's lab.
func links(t *testing.T, h *testhost.Host) []string {
	t.Helper()
	ifcs, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	a := h.Addr.As4()
	bridge := fmt.Sprintf("nx%d", a[2])
	var names []string
	for _, i := range ifcs {
		if i.Name == bridge || strings.HasPrefix(i.Name, bridge+".") {
			names = append(names, i.Name)
		}
	}
	return names
}

// Whatever dies of a host's outer processes, the rest goes too, and Start brings the
// same host back.
func TestSupervisorKilled(t *testing.T) {
	lab := testhost.NewLab(t)
	h, err := lab.Start(t.Context(), "web1", testhost.Options{})
	if err != nil {
		t.Fatal(err)
	}
	pids := inside(t, h)
	gone := whenGone(t, pids[1])
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone()
	again, err := lab.Start(t.Context(), "web1", testhost.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if again.HostKey != h.HostKey || again.Addr != h.Addr {
		t.Errorf("started anew:\n%+v\n%+v", h, again)
	}
	ssh(t, again, "true")
}

// whenGone returns a function that waits until process pid has ended.
func whenGone(t *testing.T, pid int) func() {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		defer unix.Close(fd)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if err == nil {
				return
			}
			if !errors.Is(err, unix.EINTR) {
				t.Fatal(err)
			}
		}
	}
}

// TestMain is also the test process that TestTether kills.
func TestMain(m *testing.M) {
	if os.Getenv("NXTEST_TETHERED") != "" {
		tethered()
	}
	os.Exit(m.Run())
}

// tethered starts a host as a test does, says where it is, and hangs.
func tethered() {
	tb := &fatalTB{dir: os.Getenv("NXTEST_TETHERED")}
	opt := testhost.Options{Systemd: os.Getenv("NXTEST_TETHERED_SYSTEMD") != ""}
	h, err := testhost.NewLab(tb).Start(context.Background(), "h1", opt)
	if err != nil {
		panic(err)
	}
	fmt.Println(h.Disk("etc"))
	select {}
}

// cleanups are never run: they keep what they would close, the reaper's stdin, open.
var cleanups []func()

// fatalTB is a testing.TB for a process that has no test.
type fatalTB struct {
	testhost.TB
	dir string
}

func (f *fatalTB) Helper()                      {}
func (f *fatalTB) Cleanup(do func())            { cleanups = append(cleanups, do) }
func (f *fatalTB) TempDir() string              { return f.dir }
func (f *fatalTB) Fatalf(s string, args ...any) { panic(fmt.Sprintf(s, args...)) }
func (f *fatalTB) Skipf(s string, args ...any)  { panic(fmt.Sprintf(s, args...)) }

// A test process that is killed takes its hosts with it.
func TestTether(t *testing.T) {
	testhost.Need(t, "root")
	t.Run("sshd", func(t *testing.T) { tether(t) })
	t.Run("systemd", func(t *testing.T) {
		testhost.Need(t, "systemd")
		wantNoGroup(t, tether(t, "NXTEST_TETHERED_SYSTEMD=1"))
	})
}

func tether(t *testing.T, env ...string) *testhost.Host {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "NXTEST_TETHERED="+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var etc string
	if _, err := fmt.Fscanln(out, &etc); err != nil {
		t.Fatal(err)
	}
	lab := &testhost.Lab{Dir: filepath.Join(dir, "lab"), IdentityFile: filepath.Join(dir, "id_ed25519")}
	h, err := lab.Host("h1")
	if err != nil || h.Disk("etc") != etc {
		t.Fatalf("the host at %s is %+v, %v", etc, h, err)
	}
	pids := inside(t, h)
	gone := whenGone(t, pids[1])
	reaper := reapers(t, lab.Dir)
	if len(reaper) != 1 {
		t.Fatalf("reapers of %s: %d", lab.Dir, reaper)
	}
	reaped := whenGone(t, reaper[0])
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	gone()
	reaped()
	if _, err := os.Stat(lab.Dir); !os.IsNotExist(err) {
		t.Errorf("the lab is left: %v", err)
	}
	for _, name := range links(t, h) {
		if !strings.Contains(name, ".") { // a cable goes when the kernel has cleaned its namespace
			t.Errorf("the bridge %s is left", name)
		}
	}
	return h
}

// reapers returns the processes that have dir as an argument and reap.sh as name.
func reapers(t *testing.T, dir string) []int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range all {
		b, _ := os.ReadFile(f)
		if strings.Contains(string(b), "\x00reap.sh\x00"+dir+"\x00") {
			var pid int
			fmt.Sscanf(f, "/proc/%d/", &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// Many that start the same host at once get the same one.
func TestStartAtOnce(t *testing.T) {
	lab := testhost.NewLab(t)
	results := make(chan string)
	for range 4 {
		go func() {
			h, err := lab.Start(context.Background(), "web1", testhost.Options{})
			if err != nil {
				results <- err.Error()
				return
			}
			results <- h.Addr.String() + " " + h.HostKey
		}()
	}
	first := <-results
	for range 3 {
		if got := <-results; got != first {
			t.Errorf("one Start gave %q, another %q", first, got)
		}
	}
}

func TestOptions(t *testing.T) {
	testhost.Need(t, "root", "nix-new")
	lab := testhost.NewLab(t)
	h, err := lab.Start(t.Context(), "web1", testhost.Options{Nix: os.Getenv("NXTEST_NIX_NEW"), Shell: "/bin/dash"})
	if err != nil {
		t.Fatal(err)
	}
	want, err := exec.Command(filepath.Join(os.Getenv("NXTEST_NIX_NEW"), "bin", "nix-store"), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := ssh(t, h, "nix-store --version; readlink /proc/$$/exe"); got != string(want)+"/usr/bin/dash" {
		t.Errorf("the host has %q, want %q and dash", got, want)
	}
}

func TestStartRefuses(t *testing.T) {
	testhost.Need(t, "root")
	lab := &testhost.Lab{Dir: t.TempDir(), IdentityFile: filepath.Join(t.TempDir(), "key")}
	for _, name := range []string{"", ".lab.json", "-x", "../x", "a/b", "a b", strings.Repeat("x", 64)} {
		if h, err := lab.Start(t.Context(), name, testhost.Options{}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("host name %q is not", name)) {
			t.Errorf("Start(%q) = %v, %v, want an error with the name", name, h, err)
		}
	}
	_, err := lab.Start(t.Context(), "web1", testhost.Options{Nix: "/nonexistent"})
	var missing *testhost.MissingError
	if !errors.As(err, &missing) || missing.Package != "nix-bin" {
		t.Errorf("Start without Nix: %v, want a MissingError of nix-bin", err)
	}
}

// BenchmarkStart starts ten hosts at once that were never there, until each sshd
// answers. Their removal counts too.
func BenchmarkStart(b *testing.B) {
	testhost.Need(b, "root")
	for b.Loop() {
		dir := b.TempDir()
		lab := &testhost.Lab{Dir: filepath.Join(dir, "lab"), IdentityFile: filepath.Join(dir, "id_ed25519")}
		var g errgroup.Group
		for i := range 10 {
			g.Go(func() error {
				_, err := lab.Start(context.Background(), fmt.Sprint("h", i), testhost.Options{})
				return err
			})
		}
		if err := g.Wait(); err != nil {
			b.Error(err)
		}
		if err := lab.Remove(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
