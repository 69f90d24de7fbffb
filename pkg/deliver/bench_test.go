package deliver_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"nx/pkg/testhost"
)

// BenchmarkDeliver copies a closure to a host without latency, all of it or
// nothing, and lets Nix' own nix-copy-closure do the same beside it.
func BenchmarkDeliver(b *testing.B) {
	for _, size := range []struct {
		name         string
		n, size, big int
	}{
		{"1000 of 10 kB", 1000, 10_000, 1},
		{"one of 100 MB", 1, 4, 100_000_000},
	} {
		b.Run(size.name, func(b *testing.B) {
			lab := testhost.NewLab(b)
			h, err := lab.Start(b.Context(), "h1", testhost.Options{})
			check(b, err)
			path := localSystem(b, size.n, size.size, size.big)
			record := hostRecord(b, h, path)
			c := courier(b, func(event) {})
			known := filepath.Join(b.TempDir(), "known_hosts")
			check(b, os.WriteFile(known, []byte(h.Addr.String()+" "+h.HostKey+"\n"), 0o600))
			b.Setenv("NIX_SSHOPTS", fmt.Sprintf("-F none -i %s -o UserKnownHostsFile=%s -o StrictHostKeyChecking=yes", h.Target().IdentityFile, known))

			for _, tool := range []struct {
				name string
				copy func() error
			}{
				{"nx", func() error { return c.Host(b.Context(), record) }},
				{"nix-copy-closure", func() error {
					out, err := exec.Command("nix-copy-closure", "--to", "root@"+h.Addr.String(), string(path)).CombinedOutput()
					if err != nil {
						return fmt.Errorf("%w: %s", err, out)
					}
					return nil
				}},
			} {
				b.Run(tool.name+"/all", func(b *testing.B) {
					for b.Loop() {
						check(b, tool.copy())
						b.StopTimer()
						inside(b, h, "rm -f "+path.StagedRoot()+"; nix-store --gc")
						b.StartTimer()
					}
				})
				check(b, tool.copy())
				b.Run(tool.name+"/nothing", func(b *testing.B) {
					for b.Loop() {
						check(b, tool.copy())
					}
				})
				inside(b, h, "rm -f "+path.StagedRoot()+"; nix-store --gc")
			}
		})
	}
}
