package activate_test

import (
	"context"
	"fmt"
	osexec "os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nx/pkg/activate"
	"nx/pkg/store"
	"nx/pkg/testhost"
)

// BenchmarkActivate activates systems where nothing has to settle and, but for the fleet,
// the switch takes no time: what is left is what nx-activate costs, with all that its
// hosts do on the same machine; "cpu-ms/host" is its own part. "ssh" is what a shell
// line does on the same host, without a lock, a proof or a way back.
func BenchmarkActivate(b *testing.B) {
	for _, bb := range []struct {
		name  string
		hosts int
		line  testhost.Line
		run   string // what the switch does
	}{
		{"LAN", 1, testhost.Line{}, ":"},
		{"WAN", 1, testhost.Line{Delay: 25 * time.Millisecond, Rate: 100_000_000}, ":"},
		{"switch of 5 s", 1, testhost.Line{}, "sleep 5"},
		{"switch of 5 s, 50 hosts", 50, testhost.Line{}, "sleep 5"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			hosts := testhost.Start(b, bb.hosts)
			for _, h := range hosts {
				reset(b, h, addSystem(b, h, "old", nil))
				if bb.line != (testhost.Line{}) {
					check(b, h.Stretch(b.Context(), bb.line))
				}
			}
			nx := func(h *testhost.Host, path store.Path) error {
				r := hostRecord(b, h, path)
				check(b, r.Set("deployment", map[string]any{"activation": map[string]any{"confirmTimeout": ample, "settleTime": 0}}))
				a := activate.Activator{Action: activate.Switch, Dial: dial}
				return a.Host(context.Background(), r)
			}
			n := 0
			systems := func() []store.Path {
				n++
				paths := make([]store.Path, len(hosts))
				for i, h := range hosts {
					paths[i] = addSystem(b, h, "new", map[string]string{"id": fmt.Sprint(n), "run": bb.run})
				}
				return paths
			}
			all := func(paths []store.Path) {
				var wg sync.WaitGroup
				for i, h := range hosts {
					wg.Go(func() {
						if err := nx(h, paths[i]); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
			}
			var paths []store.Path
			b.Run("changed", func(b *testing.B) {
				cpu := time.Duration(0)
				for b.Loop() {
					b.StopTimer()
					paths = systems()
					b.StartTimer()
					before := cpuTime(b)
					all(paths)
					cpu += cpuTime(b) - before
				}
				b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N*len(hosts)), "cpu-ms/host")
			})
			b.Run("unchanged", func(b *testing.B) {
				for b.Loop() {
					all(paths)
				}
			})
			if bb.hosts > 1 {
				return // one behind the other takes so many times as long as one
			}
			b.Run("ssh", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					path := systems()[0]
					b.StartTimer()
					ssh(b, hosts[0], fmt.Sprintf("nix-env -p /nix/var/nix/profiles/system --set %s && %[1]s/bin/switch-to-configuration test && %[1]s/bin/switch-to-configuration boot", path))
				}
			})
		})
	}
}

// cpuTime is what this process has used, without its children and the hosts.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	check(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ssh runs a script by OpenSSH's client, as a shell loop does.
func ssh(tb testing.TB, h *testhost.Host, script string) {
	tb.Helper()
	to := h.Target()
	cmd := osexec.Command("ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i", to.IdentityFile, to.User+"@"+to.Host, script)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Errorf("%v: %s", err, strings.TrimSpace(string(out)))
	}
}
