package nixcmd

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"nx/pkg/store"
)

func TestParseMissing(t *testing.T) {
	const a, b = "/nix/store/00000000000000000000000000000000-a", "/nix/store/00000000000000000000000000000000-b"
	tests := []struct {
		name, said string
		want       store.Missing
	}{
		{"nothing", "", store.Missing{}},
		{"one of each, Nix 2.8 and 2.26", "this derivation will be built:\n  " + a + ".drv\nthis path will be fetched (0.50 MiB download, 1.25 MiB unpacked):\n  " + b,
			store.Missing{Build: []store.Path{a + ".drv"}, Fetch: []store.Path{b}, DownloadSize: 1 << 19, UnpackedSize: 5 << 18}},
		{"several", "warning: no such cache\nthese 2 derivations will be built:\n  " + a + ".drv\n  " + b + ".drv\nthese 2 paths will be fetched (1536.00 MiB download, 3072.00 MiB unpacked):\n  " + a + "\n  " + b,
			store.Missing{Build: []store.Path{a + ".drv", b + ".drv"}, Fetch: []store.Path{a, b}, DownloadSize: 3 << 29, UnpackedSize: 3 << 30}},
		{"another unit", "these 1 paths will be fetched (2.0 KiB download, 1.5 GiB unpacked):\n  " + a, store.Missing{Fetch: []store.Path{a}, DownloadSize: 2048, UnpackedSize: 3 << 29}},
		{"no sizes", "these paths will be fetched:\n  " + a, store.Missing{Fetch: []store.Path{a}}},
		{"what nobody has", "don't know how to build these paths:\n  " + a, store.Missing{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := parseMissing(strings.Split(tt.said, "\n")); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// FuzzParseMissing: nothing that Nix could say makes the reader panic or count below zero.
func FuzzParseMissing(f *testing.F) {
	f.Add("these 2 paths will be fetched (1536.00 MiB download, 3072.00 MiB unpacked):\n  /nix/store/00000000000000000000000000000000-a")
	f.Fuzz(func(t *testing.T, said string) {
		if m := parseMissing(strings.Split(said, "\n")); m.DownloadSize < 0 || m.UnpackedSize < 0 {
			t.Errorf("parseMissing(%q) = %+v", said, m)
		}
	})
}

func TestBuilderPlatforms(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return name
	}
	file := write("machines", "# ours\nssh://arm aarch64-linux,armv7l-linux /key 4 # the board\n\nbig\n")
	loop := write("loop", "@"+filepath.Join(dir, "loop")+"\nx riscv64-linux\n")
	tests := []struct {
		builders string
		want     []string
	}{
		{"", nil},
		{"ssh://mac x86_64-darwin ; ssh://bsd x86_64-freebsd", []string{"x86_64-darwin", "x86_64-freebsd"}},
		{"one\ntwo - key 3", []string{"own"}},
		{"@" + file, []string{"aarch64-linux", "armv7l-linux", "own"}},
		{"@" + file + ";one i686-linux", []string{"aarch64-linux", "armv7l-linux", "i686-linux", "own"}},
		{"@/no/such/file", nil},
		{"@" + loop, []string{"riscv64-linux"}},
	}
	for _, tt := range tests {
		if got := builderPlatforms(tt.builders, "own", 0); !slices.Equal(got, tt.want) {
			t.Errorf("builderPlatforms(%q) = %q, want %q", tt.builders, got, tt.want)
		}
	}
}

func TestCapacity(t *testing.T) {
	onEachNix(t, func(t *testing.T) {
		n := &Nix{Options: []string{"--option", "builders", "arm aarch64-linux", "--option", "extra-platforms", "pdp-11"}}
		c, err := n.capacity(t.Context())
		if err != nil || c.unknown {
			t.Fatalf("capacity %+v, error %v", c, err)
		}
		for platform, want := range map[string]bool{c.local[0]: true, "pdp-11": true, "aarch64-linux": true, "builtin": true, "vax-ultrix": false} {
			if c.builds(platform) != want {
				t.Errorf("builds for %s: %v, want %v", platform, !want, want)
			}
		}
		n.Options = []string{"--option", "store", "ssh-ng://elsewhere"}
		if c, err := n.capacity(t.Context()); err != nil || !c.builds("vax-ultrix") {
			t.Errorf("capacity of a store elsewhere is %+v, %v, want it unknown", c, err)
		}
	})
}

// What would be built and fetched is told without doing it, and then done; both
// versions of Nix count the same.
func TestMissing(t *testing.T) {
	onEachNix(t, func(t *testing.T) {
		cache := "file://" + t.TempDir()
		drvs := instantiate(t, `rec {
				cached = drv "cached" "od -N 300000 /dev/urandom > $out" [ ];
				web = drv "web" "echo $needs > $out" [ cached (drv "lib" "echo lib > $out" [ ]) ];
			}`)
		n := &Nix{}
		realise := func(name string) (out store.Path) {
			t.Helper()
			if err := n.Realise(t.Context(), []store.Path{drvs[name]}, func(_, o store.Path, err error) {
				if out = o; err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			return out
		}
		// What a cache has was built once, and is gone from here.
		cached := realise("cached")
		before, err := os.ReadFile(string(cached))
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"nix", "--extra-experimental-features", "nix-command", "copy", "--to", cache, string(cached)}, {"nix-store", "--delete", string(cached)}} {
			if _, err := n.output(t.Context(), args[0], args[1:]...); err != nil {
				t.Fatal(err)
			}
		}
		n.Options = []string{"--option", "substituters", cache, "--option", "require-sigs", "false"}
		m, err := n.Missing(t.Context(), []store.Path{drvs["web"]})
		if err != nil || len(m.Build) != 2 || fmt.Sprint(m.Fetch) != fmt.Sprint([]store.Path{cached}) || m.DownloadSize == 0 || m.UnpackedSize <= m.DownloadSize {
			t.Fatalf("missing %+v, error %v, want lib and web to build and %s to fetch", m, err, cached)
		}
		if _, err := os.Stat(string(cached)); err == nil {
			t.Error("asking fetched it")
		}
		var events []string
		n.Log = logged(&events)
		realise("web")
		if after, err := os.ReadFile(string(cached)); err != nil || string(after) != string(before) {
			t.Errorf("what the cache has was not fetched: %v", err)
		}
		for _, want := range []string{fmt.Sprintf("realising builds=2 fetches=1 download=%d", m.DownloadSize), "fetching done=1 all=1 running=0", "building done=2 all=2 running=0"} {
			if !slices.Contains(events, want) {
				t.Errorf("events lack %q:\n%s", want, strings.Join(events, "\n"))
			}
		}
		if m, err := n.Missing(t.Context(), []store.Path{drvs["web"]}); err != nil || len(m.Build)+len(m.Fetch) != 0 {
			t.Errorf("missing %+v, error %v, want nothing", m, err)
		}
	})
}
