package deliver_test

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nx/pkg/store"
	"nx/pkg/testhost"
)

// BenchmarkCopy lets nx-copy and Nix' own tools copy the same closures to the same
// hosts, in turn, over a line without delay and over a long one. It reports the
// median seconds of each tool and, as "x", how many times as long as nx-copy's the
// best rival's are. What "ssh HOST cat" takes for the same bytes is what the line
// allows, and no rival. With NXTEST_NIX_NEW all is done with that Nix too, on both sides.
//
//	go test -run '^$' -bench Copy/WAN/.*nothing -benchtime 5x ./pkg/deliver
func BenchmarkCopy(b *testing.B) {
	testhost.Need(b, "root", "nix")
	bin := buildCopy(b)
	versions := map[string]string{"Nix 2.8": ""}
	if n := os.Getenv("NXTEST_NIX_NEW"); n != "" {
		versions["Nix 2.26"] = n
	}
	wan := testhost.Line{Delay: 25 * time.Millisecond, Rate: 100_000_000}
	for _, line := range []struct {
		name string
		testhost.Line
		hosts int
		rows  []row
	}{
		{"LAN", testhost.Line{}, 1, []row{
			{"4 of 25 MB", large, false, []string{"nix-copy-closure", "ssh", "ssh-ng"}},
			{"1000 of 10 kB", small, false, []string{"nix-copy-closure", "ssh", "ssh-ng"}},
			{"1000, nothing missing", small, true, []string{"nix-copy-closure", "ssh", "ssh-ng"}},
		}},
		{"WAN", wan, 1, []row{
			// The others take a round trip for each object, or two.
			{"1000 of 10 kB", small, false, []string{"ssh-ng"}},
			{"1000, nothing missing", small, true, []string{"nix-copy-closure", "ssh", "ssh-ng"}},
			{"4 of 25 MB", large, false, []string{"ssh-ng", "cat"}},
			{"100 MB of binaries", binaries, false, []string{"nix-copy-closure", "ssh-ng"}},
		}},
		{"fleet", testhost.Line{}, 20, []row{{"100 MB of binaries", binaries, false, []string{"ssh-ng"}}}},
	} {
		for _, version := range slices.Sorted(func(yield func(string) bool) {
			for v := range versions {
				if !yield(v) {
					return
				}
			}
		}) {
			for _, r := range line.rows {
				b.Run(line.name+"/"+version+"/"+r.name, func(b *testing.B) {
					r.run(b, bin, versions[version], line.Line, line.hosts)
				})
			}
		}
	}
	b.Run("200 hosts/1000, nothing missing", func(b *testing.B) { many(b, bin) })
}

// many has nx-copy look at hosts that have all: at one, and at 200, which are ssh
// servers in this process. It reports what a host costs then, the median of the CPU of
// nx-copy and its children, and the most memory that nx-copy had.
func many(b *testing.B, bin string) {
	path := small(b)
	var fleets []*fakeFleet
	for _, n := range []int{1, 200} {
		f := startFleet(b, n)
		for _, h := range f.hosts {
			h.valid[string(path)] = true
		}
		fleets = append(fleets, f)
	}
	cpu := map[int][]float64{}
	peak := 0
	for b.Loop() {
		for _, f := range fleets {
			n := len(f.hosts)
			c := f.copyTo(b, bin, path)
			cpu[n] = append(cpu[n], c.cpu.Seconds()*1000/float64(n))
			peak = max(peak, c.peak)
		}
	}
	for n, each := range cpu {
		b.ReportMetric(median(each), fmt.Sprintf("cpu-ms/host-of-%d", n))
	}
	b.ReportMetric(float64(peak)/1e6, "peak-MB")
	b.ReportMetric(0, "ns/op")
}

// A row is a closure, and what of it the hosts have.
type row struct {
	name    string
	closure func(b *testing.B) store.Path
	there   bool
	rivals  []string
}

func (r row) run(b *testing.B, bin, newNix string, line testhost.Line, n int) {
	if newNix != "" {
		b.Setenv("PATH", filepath.Join(newNix, "bin")+":"+os.Getenv("PATH"))
	}
	nixStore := filepath.Join(cmp.Or(newNix, "/usr"), "bin", "nix-store")
	lab := testhost.NewLab(b)
	path := r.closure(b)
	var hosts []*testhost.Host
	var records, known bytes.Buffer
	for i := range n {
		h, err := lab.Start(b.Context(), fmt.Sprintf("h%d", i+1), testhost.Options{Nix: newNix})
		check(b, err)
		if line.Delay > 0 {
			check(b, h.Stretch(b.Context(), line))
		}
		hosts = append(hosts, h)
		fmt.Fprintf(&records, "%s\n", hostRecord(b, h, path).Bytes())
		fmt.Fprintf(&known, "%s %s\n", h.Addr, h.HostKey)
	}
	knownHosts := filepath.Join(b.TempDir(), "known_hosts")
	check(b, os.WriteFile(knownHosts, known.Bytes(), 0o600))
	b.Setenv("NIX_SSHOPTS", fmt.Sprintf("-F none -i %s -o UserKnownHostsFile=%s -o StrictHostKeyChecking=yes", lab.IdentityFile, knownHosts))

	// copying returns the CPU that this side's processes took, which other load on
	// this machine does not change as it changes the time.
	bytesToCat := noise(0, 100_000_000)
	copying := func(tool string) time.Duration {
		var wg sync.WaitGroup
		var cpu atomic.Int64
		start := func(stdin io.Reader, argv ...string) {
			wg.Go(func() {
				cmd := exec.Command(argv[0], argv[1:]...)
				cmd.Stdin = stdin
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Errorf("%q: %v\n%s", argv, err, out)
				}
				cpu.Add(int64(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()))
			})
		}
		if tool == "nx-copy" {
			start(bytes.NewReader(records.Bytes()), bin, "-q", "-j", fmt.Sprint(n))
		} else {
			for _, h := range hosts {
				switch to := "root@" + h.Addr.String(); tool {
				case "cat":
					start(bytes.NewReader(bytesToCat), slices.Concat([]string{"ssh"}, strings.Fields(os.Getenv("NIX_SSHOPTS")), []string{to, "cat >/dev/null"})...)
				case "nix-copy-closure":
					start(nil, tool, "--to", to, string(path))
				default:
					start(nil, "nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs", "--to", tool+"://"+to, string(path))
				}
			}
		}
		wg.Wait()
		return time.Duration(cpu.Load())
	}
	empty := func() {
		for _, h := range hosts {
			inside(b, h, "rm -f "+path.StagedRoot()+"; "+nixStore+" --gc")
		}
	}
	tools := append([]string{"nx-copy"}, r.rivals...)
	if r.there {
		copying("nx-copy")
	}
	seconds, cpu := map[string][]float64{}, map[string][]float64{}
	for b.Loop() {
		for _, tool := range tools {
			start := time.Now()
			cpu[tool] = append(cpu[tool], copying(tool).Seconds())
			seconds[tool] = append(seconds[tool], time.Since(start).Seconds())
			if !r.there {
				empty()
			}
		}
	}
	best := math.Inf(1)
	for _, tool := range tools {
		b.ReportMetric(median(seconds[tool]), tool+"-s")
		b.ReportMetric(median(cpu[tool]), tool+"-cpu-s")
		if tool != "nx-copy" && tool != "cat" {
			best = min(best, median(seconds[tool]))
		}
	}
	b.ReportMetric(best/median(seconds["nx-copy"]), "x")
	b.ReportMetric(0, "ns/op")
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

func small(b *testing.B) store.Path {
	return system(b, 1000, func(i int) []byte { return noise(i, 10_000) })
}

func large(b *testing.B) store.Path {
	return system(b, 4, func(i int) []byte { return noise(i, 25_000_000) })
}

func noise(seed, n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(data)
	return data
}

// binaries are four times 25 MB of this machine's libraries.
func binaries(b *testing.B) store.Path {
	var all []byte
	check(b, filepath.WalkDir("/usr/lib/x86_64-linux-gnu", func(file string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || len(all) >= 100_000_000 {
			return err
		}
		data, err := os.ReadFile(file)
		if len(data) < 8<<20 {
			all = append(all, data...)
		}
		return err
	}))
	if len(all) < 100_000_000 {
		b.Skip("SKIPPED, needs 100 MB of libraries")
	}
	return system(b, 4, func(i int) []byte { return all[i*25_000_000:][:25_000_000] })
}

// system makes a local store with a system that refers to n objects.
func system(b testing.TB, n int, data func(int) []byte) store.Path {
	b.Helper()
	localStoreDir(b)
	dir := b.TempDir()
	for i := range n {
		check(b, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), data(i), 0o644))
	}
	out := nix(b, "nix-instantiate", "--eval", "--read-write-mode", "-E", fmt.Sprintf(`
		let object = n: builtins.path { path = "%s/${toString n}"; name = "object-${toString n}"; };
		in builtins.toFile "nixos-system-web1" (builtins.concatStringsSep "\n" (builtins.genList object %d))`, dir, n))
	p, err := store.Parse(strings.Trim(out, `"`))
	check(b, err)
	return p
}
