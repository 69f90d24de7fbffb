package deliver_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"nx/pkg/closure"
	"nx/pkg/deliver"
	"nx/pkg/nixserve"
	"nx/pkg/record"
	"nx/pkg/remote"
	"nx/pkg/store"
	"nx/pkg/stream"
	"nx/pkg/target"
	"nx/pkg/testhost"
)

// localStore makes this process' nix-store work on a store of the test's own, and
// returns a system in it that refers to 50 small objects and one of 4 MiB.
func localStore(t testing.TB) store.Path {
	return localSystem(t, 50, 10, 4<<20)
}

// localSystem is localStore for a system that refers to n objects of some size and
// to one of another.
func localSystem(t testing.TB, n, size, big int) store.Path {
	t.Helper()
	localStoreDir(t)
	noise := make([]byte, big)
	rand.NewChaCha8([32]byte{}).Read(noise)
	file := filepath.Join(t.TempDir(), "big")
	check(t, os.WriteFile(file, noise, 0o644))
	added := nix(t, "nix-store", "--add", file)
	out := nix(t, "nix-instantiate", "--eval", "--read-write-mode", "-E", fmt.Sprintf(`
		let
		  text = n: builtins.concatStringsSep "" (builtins.genList (_: "${toString n}\n") %d);
		  leaf = n: builtins.toFile "leaf-${toString n}" (text n);
		  leaves = builtins.concatStringsSep "\n" (builtins.genList leaf %d);
		in builtins.toFile "nixos-system-web1" "${leaves}\n${builtins.storePath %s}"`, size/4, n, added))
	p, err := store.Parse(strings.Trim(out, `"`))
	check(t, err)
	return p
}

// localStoreDir gives this process' Nix an empty store.
func localStoreDir(t testing.TB) {
	t.Helper()
	testhost.Need(t, "nix")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("NIX_CONF_DIR", t.TempDir())
	t.Setenv("NIX_CONFIG", "substituters =\nbuild-users-group =\n")
	t.Setenv("NIX_REMOTE", t.TempDir())
}

func nix(t testing.TB, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// An event is what the stage logs.
type event struct {
	host, what string
	attrs      map[string]string
}

// events is a handler that calls itself with each.
type events func(event)

func (events) Enabled(context.Context, slog.Level) bool { return true }

func (e events) Handle(_ context.Context, r slog.Record) error {
	ev := event{what: r.Message, attrs: map[string]string{}}
	r.Attrs(func(a slog.Attr) bool { ev.attrs[a.Key] = a.Value.String(); return true })
	e(ev)
	return nil
}

func (e events) WithAttrs(attrs []slog.Attr) slog.Handler {
	return events(func(ev event) {
		for _, a := range attrs {
			if a.Key == "host" {
				ev.host = a.Value.String()
			}
		}
		e(ev)
	})
}

func (e events) WithGroup(string) slog.Handler { return e }

func courier(t testing.TB, on events) *deliver.Courier {
	local := nixserve.Local()
	t.Cleanup(func() {
		if err := local.Close(); err != nil {
			t.Error(err)
		}
	})
	// Silence on the line is noticed sooner than by default, to spare the tests' time.
	dialer := remote.Dialer{Config: os.DevNull, AliveInterval: time.Second, AliveCount: 5}
	depot := &closure.Depot{Source: local, SpoolSize: 256 << 20}
	t.Cleanup(func() { check(t, depot.Close()) })
	return &deliver.Courier{
		Depot:         depot,
		Dial:          func(ctx context.Context, t target.Target) (deliver.Conn, error) { return dialer.Dial(ctx, t) },
		Open:          func(ctx context.Context, serve deliver.Serve) deliver.Store { return nixserve.Open(ctx, serve) },
		AddCompressed: new(nixserve.Compressor).Add,
		Compress:      closure.Auto,
		Log:           slog.New(on),
	}
}

func hostRecord(t testing.TB, h *testhost.Host, path store.Path) *record.Record {
	t.Helper()
	r, err := record.NewHost(h.Name)
	check(t, err)
	to := h.Target()
	check(t, r.Set("target", map[string]any{"host": to.Host, "hostKeys": to.HostKeys, "identityFile": to.IdentityFile}))
	check(t, r.Set("storePath", path))
	return r
}

// run delivers to all hosts at once, as nx-copy does, and returns the records by name.
func run(ctx context.Context, t testing.TB, c *deliver.Courier, records ...*record.Record) (map[string]*record.Record, error) {
	t.Helper()
	var in, out bytes.Buffer
	for _, r := range records {
		fmt.Fprintf(&in, "%s\n", r.Bytes())
	}
	err := stream.Each(ctx, &stream.Stream{
		Tool:   "nx-copy",
		Stage:  record.Copy,
		Inputs: []stream.Input{{Name: stream.Stdin, Reader: &in}},
		Output: stream.Output{Writer: &out},
	}, 8, c.Host)
	byName := map[string]*record.Record{}
	for line := range bytes.Lines(out.Bytes()) {
		r, err := record.Parse(line)
		check(t, err)
		byName[r.Name()] = r
	}
	return byName, err
}

// inside runs a script in the host and returns what it prints.
func inside(t testing.TB, h *testhost.Host, script string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), script)
	check(t, err)
	return strings.TrimSpace(out)
}

// With each pair of Nix versions the host gets the closure, whole and kept until
// the root is gone; a second run sends nothing.
func TestPairs(t *testing.T) {
	for _, tt := range []struct {
		name                string
		newLocal, newRemote bool
	}{
		{"installed to installed", false, false},
		{"installed to new", false, true},
		{"new to installed", true, false},
		{"new to new", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var opt testhost.Options
			if tt.newLocal || tt.newRemote {
				testhost.Need(t, "nix-new")
			}
			if tt.newLocal {
				t.Setenv("PATH", filepath.Join(os.Getenv("NXTEST_NIX_NEW"), "bin")+":"+os.Getenv("PATH"))
			}
			if tt.newRemote {
				opt.Nix = os.Getenv("NXTEST_NIX_NEW")
			}
			lab := testhost.NewLab(t)
			path := localStore(t)
			want := nix(t, "nix-store", "--query", "--requisites", string(path))
			h, err := lab.Start(t.Context(), "h1", opt)
			check(t, err)
			nixStore := filepath.Join(cmp.Or(opt.Nix, "/usr"), "bin", "nix-store")

			var copied []string
			c := courier(t, func(e event) {
				switch e.what {
				case "keeping": // no root yet, but what the serving process locked stays
					inside(t, h, nixStore+" --gc")
				case "copied":
					copied = append(copied, e.attrs["paths"])
				}
			})
			for range 2 {
				records, err := run(t.Context(), t, c, hostRecord(t, h, path))
				check(t, err)
				if got, want := records["h1"].Get("copied").Raw, `{"storePath":"`+string(path)+`"}`; got != want {
					t.Errorf("copied is %s, want %s", got, want)
				}
				// The serving process has gone: only the root keeps the closure.
				inside(t, h, nixStore+" --gc")
			}
			if want := []string{fmt.Sprint(strings.Count(want, "\n") + 1), "0"}; !slices.Equal(copied, want) {
				t.Errorf("sent %q objects, want %q", copied, want)
			}
			inside(t, h, nixStore+" --verify --check-contents")
			if got := inside(t, h, nixStore+" --query --requisites "+string(path)); got != want {
				t.Errorf("closure on the host\n got %s\nwant %s", got, want)
			}
			inside(t, h, "rm "+path.StagedRoot()+" && "+nixStore+" --gc")
			if got := inside(t, h, "ls /nix/store"); got != "" {
				t.Errorf("after its root was removed there is\n%s", got)
			}
		})
	}
}

// A host that cannot be reached hinders no other.
func TestBrokenHost(t *testing.T) {
	hosts := testhost.Start(t, 3)
	path := localStore(t)
	var in []*record.Record
	for _, h := range hosts {
		in = append(in, hostRecord(t, h, path))
	}
	check(t, in[1].Merge("target", record.Member{Key: "port", Value: 1}))
	out, err := run(t.Context(), t, courier(t, func(event) {}), in...)
	var failed *stream.HostsError
	if !errors.As(err, &failed) || len(failed.Failed.Errors) != 1 {
		t.Errorf("error %v", err)
	}
	for i, h := range hosts {
		r := out[h.Name]
		if broken := i == 1; r.Failed() != broken || r.Get("copied").Exists() == broken {
			t.Errorf("%s", r.Bytes())
		}
	}
	if got := out["h2"]; got.FailedStage() != record.Copy || !strings.Contains(got.Message(), "connection refused") {
		t.Errorf("%s", got.Bytes())
	}
}

// mend plugs the host's cable in and waits until it is reached.
func mend(t *testing.T, h *testhost.Host) {
	check(t, h.Mend(t.Context()))
	// The kernel may still be about to conclude from the time before that there is
	// no such neighbour.
	for {
		if c, err := net.Dial("tcp", h.Addr.String()+":22"); err == nil {
			c.Close()
			return
		} else if !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Fatal(err)
		}
	}
}

const lost = "the connection is lost, and opened again: "

// A connection that is lost is opened again, and the copy goes on where it was.
func TestLostConnection(t *testing.T) {
	for _, tt := range []struct {
		name    string
		breakIt func(t *testing.T, h *testhost.Host)
		mend    func(t *testing.T, h *testhost.Host) // when it was noticed
	}{
		{"the host reboots", func(t *testing.T, h *testhost.Host) { check(t, h.Reboot(t.Context())) },
			func(*testing.T, *testhost.Host) {}},
		{"the cable is pulled", func(t *testing.T, h *testhost.Host) { check(t, h.Cut(t.Context())) }, mend},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := testhost.Start(t, 1)[0]
			path := localStore(t)
			all := strings.Count(nix(t, "nix-store", "--query", "--requisites", string(path)), "\n") + 1
			acked, losses := 0, 0
			var missing []int
			c := courier(t, func(e event) {
				switch {
				case e.what == "copied path":
					if acked++; acked == 3 {
						tt.breakIt(t, h)
					}
				case e.what == "copying closure":
					n, err := strconv.Atoi(e.attrs["missing"])
					check(t, err)
					missing = append(missing, n)
				case strings.HasPrefix(e.what, lost):
					losses++
					tt.mend(t, h)
				}
			})
			out, err := run(t.Context(), t, c, hostRecord(t, h, path))
			if err != nil || !out["h1"].Get("copied").Exists() {
				t.Fatalf("error %v, record %s", err, out["h1"].Bytes())
			}
			// What was acknowledged may be less than what had arrived.
			if losses == 0 || len(missing) != 2 || missing[0] != all || missing[1] > all-3 {
				t.Errorf("%d losses, of %d objects were missing %d", losses, all, missing)
			}
			inside(t, h, "nix-store --verify --check-contents")
		})
	}
}

// Whatever breaks a copy off for good, what was acknowledged is there, and the
// next run sends the rest.
func TestBrokenOff(t *testing.T) {
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		breakIt func(t *testing.T, h *testhost.Host, cancel func())
		mend    func(t *testing.T, h *testhost.Host)
		wantErr string
	}{
		{"nx-copy is interrupted", 0, func(_ *testing.T, _ *testhost.Host, cancel func()) { cancel() },
			func(*testing.T, *testhost.Host) {}, "context canceled"},
		{"nothing moves", 2 * time.Second, func(t *testing.T, h *testhost.Host, _ func()) { check(t, h.Cut(t.Context())) }, mend,
			"nothing moved for 2s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := testhost.Start(t, 1)[0]
			path := localStore(t)
			all := strings.Count(nix(t, "nix-store", "--query", "--requisites", string(path)), "\n") + 1
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			acked := 0
			c := courier(t, func(e event) {
				if e.what == "copied path" {
					if acked++; acked == 3 {
						tt.breakIt(t, h, cancel)
					}
				}
			})
			c.Timeout = tt.timeout
			out, err := run(ctx, t, c, hostRecord(t, h, path))
			if err == nil || acked < 3 || !strings.Contains(out["h1"].Message(), tt.wantErr) {
				t.Fatalf("first run: error %v, %d acknowledged, record %s", err, acked, out["h1"].Bytes())
			}
			tt.mend(t, h)

			missing := ""
			c = courier(t, func(e event) {
				if e.what == "copying closure" {
					missing = e.attrs["missing"]
				}
			})
			out, err = run(t.Context(), t, c, hostRecord(t, h, path))
			if err != nil || !out["h1"].Get("copied").Exists() {
				t.Fatalf("second run: error %v, record %s", err, out["h1"].Bytes())
			}
			if n, err := strconv.Atoi(missing); err != nil || n > all-acked {
				t.Errorf("%s of %d missing after %d were acknowledged", missing, all, acked)
			}
			inside(t, h, "nix-store --verify --check-contents")
		})
	}
}
