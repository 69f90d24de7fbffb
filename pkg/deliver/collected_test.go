package deliver_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/testhost"
)

// next returns a system in this process' store that refers to another one, and to
// some objects of its own.
func next(t *testing.T, before store.Path) store.Path {
	t.Helper()
	out := nix(t, "nix-instantiate", "--eval", "--read-write-mode", "-E", fmt.Sprintf(`
		let leaf = n: builtins.toFile "new-${toString n}" "new ${toString n}";
		in builtins.toFile "nixos-system-next" "${builtins.storePath %s} ${toString (builtins.genList leaf 5)}"`, before))
	p, err := store.Parse(strings.Trim(out, `"`))
	check(t, err)
	return p
}

// Whoever collects garbage on a host while it is copied to, or behind that, what was
// found there stays, what arrived stays, until the root is removed.
func TestCollectedMeanwhile(t *testing.T) {
	for _, tt := range []struct {
		name, user string
		sudo       []string
		newNix     bool
	}{
		{"root", "root", nil, false},
		{"root, newer Nix", "root", nil, true},
		{"a user with sudo", "joe", []string{"sudo", "-n"}, false},
		{"a user without", "joe", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var opt testhost.Options
			bin := ""
			if tt.newNix {
				testhost.Need(t, "nix-new")
				opt.Nix = os.Getenv("NXTEST_NIX_NEW")
				bin = opt.Nix + "/bin/"
			}
			h, err := testhost.NewLab(t).Start(t.Context(), "h1", opt)
			check(t, err)
			first := localStore(t)
			second := next(t, first)
			gc := []string{bin + "nix-store --gc"}
			root := filepath.Dir(first.StagedRoot())
			if tt.user != "root" {
				addUser(t, h, tt.user, "")
				gc = append(gc, "HOME=/home/joe setpriv --reuid=1000 --regid=1000 --clear-groups nix-store --gc")
				root = filepath.Join("/home/joe", filepath.Dir(first.StagedHomeRoot()))
			}
			if tt.sudo != nil {
				allowSudo(t, h, tt.user)
				root = filepath.Dir(first.StagedRoot())
			}
			to := func(path store.Path) *record.Record {
				r := hostRecord(t, h, path)
				check(t, r.Merge("target", record.Member{Key: "user", Value: tt.user}))
				if tt.sudo != nil {
					check(t, r.Merge("target", record.Member{Key: "sudo", Value: tt.sudo}))
				}
				return r
			}
			// Nothing on the host keeps the first system when the second is copied.
			check(t, courier(t, func(event) {}).Host(t.Context(), to(first)))
			inside(t, h, "rm "+root+"/"+first.Base())

			var at []string
			c := courier(t, func(e event) {
				switch e.what {
				case "copying closure", "copied path", "keeping":
					if !slices.Contains(at, e.what) {
						at = append(at, e.what)
						for _, collect := range gc {
							inside(t, h, collect)
						}
					}
				}
			})
			check(t, c.Host(t.Context(), to(second)))
			if want := []string{"copying closure", "copied path", "keeping"}; !slices.Equal(at, want) {
				t.Errorf("collected at %q, want %q", at, want)
			}
			whole := func() {
				t.Helper()
				for _, collect := range gc {
					inside(t, h, collect)
				}
				inside(t, h, bin+"nix-store --verify --check-contents")
				got := strings.Fields(inside(t, h, bin+"nix-store --query --requisites "+string(second)))
				if want := requisites(t, second); !slices.Equal(got, want) {
					t.Errorf("closure on the host\n got %s\nwant %s", got, want)
				}
			}
			whole()
			check(t, h.Reboot(t.Context()))
			kept := inside(t, h, bin+"nix-store --gc >/dev/null && "+bin+"nix-store --check-validity "+string(second)+" && ls "+root)
			if want := second.Base(); kept != want {
				t.Errorf("roots after a reboot %q, want %q", kept, want)
			}
			inside(t, h, "rm "+root+"/"+second.Base()+" && "+bin+"nix-store --gc")
			if got := inside(t, h, "ls /nix/store | grep -v '^\\.links$' || true"); got != "" {
				t.Errorf("after its root was removed there is\n%s", got)
			}
		})
	}
}

// allowSudo lets a user of a host be root.
func allowSudo(t *testing.T, h *testhost.Host, name string) {
	t.Helper()
	if inside(t, h, "command -v sudo || true") == "" {
		t.Skip("SKIPPED, needs sudo")
	}
	inside(t, h, fmt.Sprintf(`mkdir -p /etc/pam.d
		printf 'account required pam_permit.so\nsession required pam_permit.so\n' >/etc/pam.d/sudo
		echo '%s ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers
		chmod 440 /etc/sudoers`, name))
}
