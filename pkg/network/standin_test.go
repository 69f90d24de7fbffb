package network_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"nx/pkg/testhost"
)

const (
	standInDir = "../../testdata/nixpkgs"
	corpusDir  = "../../testdata/corpus"
	// corpusRelease is the release that the committed answers were recorded from.
	corpusRelease = "26.11"
)

// nix is the environment of every Nix command here: root without build users, no
// substituter, no sandbox.
func nixEnv() []string {
	return append(os.Environ(), "NIX_CONFIG=sandbox = false\nbuild-users-group =\nsubstituters =\nexperimental-features = nix-command flakes")
}

// eval evaluates expr against the dummy store, which holds nothing and needs no
// rights, to JSON, or returns what Nix printed as the error.
func eval(expr string) ([]byte, error) {
	cmd := exec.Command("nix-instantiate", "--store", "dummy://", "--eval", "--strict", "--json", "--expr", expr)
	cmd.Env = nixEnv()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// call is the Nix expression that calls a corpus file with what its head asks for,
// out of the nixpkgs tree.
func call(nixpkgs, file string) string {
	return fmt.Sprintf(`
		let
		  case = import %s;
		  all = {
		    lib = import %[2]s/lib;
		    eval = modules: import %[2]s/nixos/lib/eval-config.nix { system = "x86_64-linux"; inherit modules; };
		  };
		in case (builtins.intersectAttrs (builtins.functionArgs case) all)`, file, nixpkgs)
}

// answers evaluates a corpus file with a nixpkgs tree, case by case.
func answers(t *testing.T, nixpkgs, file string) map[string]any {
	t.Helper()
	cases := make(map[string]any)
	if filepath.Base(file) != "messages.nix" {
		decode(t, mustEval(t, call(nixpkgs, file)), &cases)
		return cases
	}
	var names []string
	decode(t, mustEval(t, "builtins.attrNames ("+call(nixpkgs, file)+")"), &names)
	for _, name := range names {
		value, err := eval("(" + call(nixpkgs, file) + ")." + name)
		if err == nil {
			t.Errorf("%s in %s evaluates to %s with %s", name, file, value, nixpkgs)
			continue
		}
		cases[name] = message(err.Error())
	}
	return cases
}

var (
	lastError = regexp.MustCompile(`(?s)^.*(?:^|\n)[^\n]*\berror:(?: |\n)`)
	afterText = regexp.MustCompile(`(?s)(\n\s+at [/«].*|\n\(use '--show-trace'.*)$`)
	margin    = regexp.MustCompile(`\n {7}`)
	lineEnds  = regexp.MustCompile(`[ \t]+\n`)
)

// message is the text of the innermost error in what Nix printed: without traces,
// positions and the margin that Nix puts before every line but the first.
func message(stderr string) string {
	text := afterText.ReplaceAllString(lastError.ReplaceAllString(stderr, ""), "")
	text = lineEnds.ReplaceAllString(margin.ReplaceAllString(text, "\n"), "\n")
	return strings.TrimSpace(text)
}

func mustEval(t *testing.T, expr string) []byte {
	t.Helper()
	out, err := eval(expr)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func decode(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("decode %.200s: %v", data, err)
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// realNixpkgs returns the tree that NXTEST_NIXPKGS names, its symlinks resolved, and
// its release.
func realNixpkgs(t *testing.T) (tree, release string) {
	t.Helper()
	testhost.Need(t, "nixpkgs")
	tree, err := filepath.EvalSymlinks(os.Getenv("NXTEST_NIXPKGS"))
	if err != nil {
		t.Fatal(err)
	}
	decode(t, mustEval(t, "(import "+tree+"/lib).trivial.release"), &release)
	return tree, release
}

// differences compares two sets of answers and returns how many are equal.
func differences(t *testing.T, got, want map[string]any) (equal int) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[name]; !ok {
			t.Errorf("%s: no answer", name)
		} else if !reflect.DeepEqual(g, want[name]) {
			t.Errorf("%s:\n got %v\nwant %v", name, g, want[name])
		} else {
			equal++
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: an answer that nobody recorded", name)
		}
	}
	return equal
}

func corpusFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(absolute(t, corpusDir), "*.nix"))
	if err != nil {
		t.Fatal(err)
	}
	newer, err := filepath.Glob(filepath.Join(absolute(t, corpusDir), corpusRelease, "*.nix"))
	if err != nil {
		t.Fatal(err)
	}
	return append(files, newer...)
}

// The stand-in answers every case of the corpus as the real nixpkgs did when the
// answers were recorded.
func TestStandInAnswersAsRecorded(t *testing.T) {
	testhost.Need(t, "nix")
	standIn := absolute(t, standInDir)
	for _, file := range corpusFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".nix"), func(t *testing.T) {
			recorded, err := os.ReadFile(strings.TrimSuffix(file, "nix") + "json")
			if err != nil {
				t.Fatal(err)
			}
			want := make(map[string]any)
			decode(t, recorded, &want)
			differences(t, answers(t, standIn, file), want)
		})
	}
}

// The stand-in answers every case of the corpus as the nixpkgs that NXTEST_NIXPKGS
// names, whose answers NXTEST_UPDATE=1 records.
func TestStandInAnswersAsNixpkgs(t *testing.T) {
	testhost.Need(t, "nix")
	nixpkgs, release := realNixpkgs(t)
	standIn := absolute(t, standInDir)
	total, equal := 0, 0
	for _, file := range corpusFiles(t) {
		if filepath.Base(filepath.Dir(file)) == corpusRelease && release < corpusRelease {
			continue
		}
		name, err := filepath.Rel(absolute(t, corpusDir), file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			want := answers(t, nixpkgs, file)
			if os.Getenv("NXTEST_UPDATE") == "1" {
				if release < corpusRelease {
					t.Fatalf("record from nixpkgs %s: want %s or newer", release, corpusRelease)
				}
				record(t, strings.TrimSuffix(file, "nix")+"json", want)
			}
			total += len(want)
			equal += differences(t, answers(t, standIn, file), want)
		})
	}
	t.Logf("nixpkgs %s: %d of %d cases equal", release, equal, total)
}

func record(t *testing.T, file string, cases map[string]any) {
	t.Helper()
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(cases); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The stand-in has no function, type, package or option that the real nixpkgs lacks:
// what evaluates with it must not fail for want of a name on the real one.
func TestStandInHasOnlyRealNames(t *testing.T) {
	testhost.Need(t, "nix")
	nixpkgs, release := realNixpkgs(t)
	if release < corpusRelease {
		t.Skipf("SKIPPED, nixpkgs is %s: the stand-in has names of %s", release, corpusRelease)
	}
	expr := fmt.Sprintf(`
		let
		  trees = map (path: {
		    lib = import (path + "/lib");
		    pkgs = import path { localSystem = "x86_64-linux"; config = { }; overlays = [ ]; };
		    options = (import (path + "/nixos/lib/eval-config.nix") { system = "x86_64-linux"; modules = [ ]; }).options;
		  }) [ %s %s ];
		  own = builtins.head trees;
		  real = builtins.elemAt trees 1;
		  lacks = set: other: builtins.filter (name: !(other ? ${name})) (builtins.attrNames set);
		  sections = builtins.filter (name: builtins.isAttrs own.lib.${name} && !(own.lib.${name} ? _type))
		    [ "attrsets" "asserts" "fixedPoints" "generators" "lists" "meta" "modules" "options" "strings" "systems" "trivial" "types" "versions" ];
		in {
		  lib = lacks own.lib real.lib;
		  sections = builtins.concatMap (s: map (name: s + "." + name) (lacks own.lib.${s} (real.lib.${s} or { }))) sections;
		  pkgs = lacks own.pkgs real.pkgs;
		  options = map (o: own.lib.showOption o.loc)
		    (builtins.filter (o: !(own.lib.hasAttrByPath o.loc real.options)) (own.lib.collect own.lib.isOption own.options));
		}`, absolute(t, standInDir), nixpkgs)
	var names map[string][]string
	decode(t, mustEval(t, expr), &names)
	for kind, invented := range names {
		if len(invented) > 0 {
			t.Errorf("%s that nixpkgs %s lacks: %q", kind, release, invented)
		}
	}
}

// A privateHost is a place to build systems of the stand-in and to switch to them:
// commands see directories of its own as /nix, /etc, /run, /var, /boot, /root and
// /home, and the rest of this machine as it is. It has no running systemd.
type privateHost struct{ dir string }

func newPrivateHost(t *testing.T) privateHost {
	t.Helper()
	testhost.Need(t, "root", "nix")
	h := privateHost{dir: t.TempDir()}
	files := map[string]string{
		"etc/NIXOS":      "",
		"etc/os-release": "ID=debian\n",
		"etc/passwd":     "root:x:0:0:root:/root:/bin/sh\n",
		"etc/group":      "root:x:0:\n",
		"etc/shadow":     "root:*:1::::::\n",
	}
	for _, dir := range []string{"nix", "etc", "run", "var", "boot", "root", "home"} {
		if err := os.Mkdir(filepath.Join(h.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// run runs a shell script on the host and returns its status and its two outputs.
func (h privateHost) run(t *testing.T, script string) (status int, stdout, stderr string) {
	t.Helper()
	const inside = `
		for d in nix etc run var boot root home; do mkdir -p "/$d"; mount --bind "$1/$d" "/$d"; done
		exec /bin/sh -c "$2"`
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec", inside, "sh", h.dir, script)
	cmd.Env = nixEnv()
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	if e := cmd.Run(); e != nil && cmd.ProcessState == nil {
		t.Fatal(e)
	}
	return cmd.ProcessState.ExitCode(), out.String(), err.String()
}

// must is run for what has to succeed.
func (h privateHost) must(t *testing.T, script string) string {
	t.Helper()
	status, stdout, stderr := h.run(t, script)
	if status != 0 {
		t.Fatalf("%s: status %d: %s%s", script, status, stdout, stderr)
	}
	return strings.TrimSpace(stdout)
}

// build builds the toplevels of the modules, by host name.
func (h privateHost) build(t *testing.T, nixpkgs string, modules map[string]string) map[string]string {
	t.Helper()
	var expr strings.Builder
	for name, module := range modules {
		fmt.Fprintf(&expr, `%s = (eval-config { modules = [ { boot.isContainer = true; networking.hostName = "%[1]s"; } (%s) ]; }).config.system.build.toplevel; `, name, module)
	}
	file := filepath.Join(h.dir, "systems.nix")
	text := fmt.Sprintf("let eval-config = import %s/nixos/lib/eval-config.nix; in { %s }", nixpkgs, expr.String())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	systems := make(map[string]string)
	for _, path := range strings.Fields(h.must(t, "nix-build --no-out-link "+file)) {
		_, name, _ := strings.Cut(path, "-nixos-system-")
		name, _, _ = strings.Cut(name, "-")
		systems[name] = path
	}
	return systems
}

// Everything about switching that needs no systemd: files, accounts, the boot
// default, every exit status, and the lock.
func TestStandInSwitches(t *testing.T) {
	h := newPrivateHost(t)
	systems := h.build(t, absolute(t, standInDir), map[string]string{
		"one": `{ lib, ... }: {
			environment.etc."app/config".text = "first\n";
			environment.etc.secretive = { text = "copied\n"; mode = "0400"; };
			users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA root@deployer" ];
			users.users.deploy = { isNormalUser = true; extraGroups = [ "wheel" ]; };
			services.openssh.enable = true;
			system.activationScripts.last = lib.stringAfter [ "etc" ] "cat /etc/app/config > /var/seen";
			system.activationScripts.dry = { supportsDryActivation = true; text = "echo \"dry is $NIXOS_ACTION\""; };
		}`,
		"two":        `{ environment.etc."app/other".text = "second\n"; }`,
		"failing":    `{ system.activationScripts.bad = "false"; environment.etc.there.text = "x"; }`,
		"unloadable": `{ lib, ... }: { system.build.installBootLoader = lib.mkForce "/bin/false"; }`,
		"refused":    `{ system.preSwitchChecks.never = "echo not now; exit 5"; }`,
	})
	const stc = "/bin/switch-to-configuration "
	// What there is on the host, down to times of change; mount(8) keeps /run/mount.
	const state = `find /etc /run /var /boot /root /home /nix/var -path /run/mount -prune -o -newer /etc/NIXOS -printf '%p %i %C@\n' | sort | sha256sum`

	steps := []struct {
		name   string
		script string // with $one, $two, … for the systems
		status int
		stderr string // substring
		show   string // run afterwards,
		want   string // prints this
	}{
		{name: "no action", script: "$one" + stc, status: 1, stderr: "[check|switch|boot|test|dry-activate]"},
		{name: "unknown action", script: "$one" + stc + "swich", status: 1, stderr: "Usage: "},
		{name: "dry-activate", script: "before=$(" + state + "); $one" + stc + `dry-activate > /dev/null && [ "$before" = "$(` + state + `)" ]`,
			stderr: "would activate the configuration...", show: "ls /boot /run/current-system 2>/dev/null; ls -A /etc", want: "/boot:\nNIXOS\ngroup\nos-release\npasswd\nshadow"},
		{name: "dry script", script: "$one" + stc + "dry-activate | grep -x 'dry is dry-activate'"},
		{name: "check", script: "$one" + stc + "check", show: "ls /boot", want: ""},
		{name: "not NixOS", script: "mv /etc/NIXOS /etc/no; $one" + stc + "switch; s=$?; mv /etc/no /etc/NIXOS; exit $s", status: 2, stderr: "This is not a NixOS installation!"},
		{name: "switch", script: "$one" + stc + "switch", stderr: "activating the configuration...\n",
			show: "readlink /run/current-system; cat /boot/default", want: "$one\n$one"},
		{name: "files are linked", show: "cat /etc/app/config; readlink /etc/app/config; readlink /etc/static", want: "first\n/etc/static/app/config\n$(readlink $one/etc)"},
		{name: "files are copied", show: "stat -c '%F %a' /etc/secretive; cat /etc/secretive", want: "regular file 400\ncopied"},
		{name: "keys", show: "stat -c %a /etc/ssh/authorized_keys.d/root; cat /etc/ssh/authorized_keys.d/root", want: "444\nssh-ed25519 AAAA root@deployer"},
		{name: "accounts", show: "grep deploy /etc/passwd /etc/group; stat -c '%U %a' /home/deploy", want: "/etc/passwd:deploy:x:1000:100::/home/deploy:/bin/bash\n/etc/group:wheel:x:998:deploy\ndeploy 700"},
		{name: "order of scripts", show: "cat /var/seen", want: "first"},
		{name: "again", script: "$one" + stc + "switch", show: "cat /etc/passwd | wc -l", want: "2"},
		{name: "test", script: "$two" + stc + "test", stderr: "removing obsolete symlink ‘/etc/app/config’...",
			show: "readlink /run/current-system; cat /boot/default; ls /etc/app /etc/secretive", want: "$two\n$one\n/etc/app:\nother"},
		{name: "boot", script: "$two" + stc + "boot; ls -l /run/current-system", show: "readlink /run/current-system; cat /boot/default", want: "$two\n$two"},
		{name: "failing activation script", script: "$failing" + stc + "switch", status: 2, stderr: "Failed to run activate script",
			show: "readlink /run/current-system; cat /boot/default /etc/there", want: "$failing\n$failing\nx"},
		{name: "back", script: "$one" + stc + "switch", show: "readlink /run/current-system; cat /etc/app/config", want: "$one\nfirst"},
		{name: "boot loader fails", script: "$unloadable" + stc + "switch", status: 1, stderr: "Failed to install bootloader",
			show: "readlink /run/current-system; cat /boot/default", want: "$one\n$one"},
		{name: "boot loader is not needed", script: "$unloadable" + stc + "test", show: "readlink /run/current-system", want: "$unloadable"},
		{name: "check refuses", script: "$refused" + stc + "switch", status: 1, stderr: "Pre-switch checks failed", show: "cat /boot/default", want: "$one"},
		{name: "check alone refuses", script: "$refused" + stc + "check", status: 1, stderr: "Pre-switch check 'never' failed"},
		{name: "check is skipped", script: "NIXOS_NO_CHECK=1 $refused" + stc + "test", show: "readlink /run/current-system", want: "$refused"},
		{name: "locked", script: "flock /run/nixos/switch-to-configuration.lock $one" + stc + "switch", status: 11, stderr: "Could not acquire lock", show: "readlink /run/current-system", want: "$refused"},
		{name: "locked for dry-activate", script: "flock /run/nixos/switch-to-configuration.lock $one" + stc + "dry-activate", status: 11, stderr: "Could not acquire lock"},
		{name: "other interface", script: "mkdir /run/old; echo systemd 1 > /run/old/init-interface-version; ln -sfn /run/old /run/current-system; $one" + stc + "switch", status: 100,
			stderr: "won't take effect until you reboot the system.\n\n", show: "readlink /run/current-system; cat /boot/default", want: "/run/old\n$one"},
		{name: "init", script: "$two/init", show: "readlink /run/booted-system /run/current-system", want: "$two\n$two"},
	}
	var names strings.Builder
	for name, path := range systems {
		fmt.Fprintf(&names, "%s=%s\n", name, path)
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			status, stdout, stderr := h.run(t, names.String()+step.script)
			if status != step.status || !strings.Contains(stderr, step.stderr) {
				t.Errorf("status %d, want %d, with %q in: %s%s", status, step.status, step.stderr, stdout, stderr)
			}
			_, got, _ := h.run(t, names.String()+step.show)
			if want := h.must(t, names.String()+`printf %s "`+step.want+`"`); strings.TrimSpace(got) != want {
				t.Errorf("%s\n got %q\nwant %q", step.show, got, want)
			}
		})
	}
}

// The output has what tools look for in a NixOS system; a machine that is no
// container has its kernel and a boot specification besides.
func TestStandInToplevel(t *testing.T) {
	h := newPrivateHost(t)
	systems := h.build(t, absolute(t, standInDir), map[string]string{
		"container": `{ pkgs, ... }: { environment.systemPackages = [ pkgs.hello ]; }`,
		"machine":   `{ lib, ... }: { boot.isContainer = lib.mkForce false; boot.loader.grub.device = "nodev"; boot.kernelParams = [ "quiet" ]; fileSystems."/" = { device = "/dev/vda"; fsType = "ext4"; }; }`,
	})
	for host, want := range map[string]string{
		"container": "activate bin dry-activate etc extra-dependencies init init-interface-version nixos-version pre-switch-checks sw system systemd",
		"machine":   "activate bin boot.json dry-activate etc extra-dependencies init init-interface-version initrd kernel kernel-modules kernel-params nixos-version pre-switch-checks sw system systemd",
	} {
		if got := h.must(t, "cd "+systems[host]+" && LC_ALL=C && echo *"); got != want {
			t.Errorf("%s has\n got %s\nwant %s", host, got, want)
		}
	}
	for file, want := range map[string]string{"nixos-version": corpusRelease + ".stand-in", "system": "x86_64-linux", "init-interface-version": "systemd 2"} {
		if got := h.must(t, "cat "+systems["machine"]+"/"+file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	if got := h.must(t, systems["container"]+"/sw/bin/hello"); got != "Hello, world!" {
		t.Errorf("hello says %q", got)
	}
	if got := h.must(t, "PATH="+systems["container"]+"/sw/bin:$PATH nix-store --version"); !strings.HasPrefix(got, "nix-store (Nix) ") {
		t.Errorf("nix-store says %q", got)
	}
	var boot struct {
		V1 struct {
			Toplevel, Init, Kernel, Initrd, System, Label string
			KernelParams                                  []string
		} `json:"org.nixos.bootspec.v1"`
	}
	decode(t, []byte(h.must(t, "cat "+systems["machine"]+"/boot.json")), &boot)
	if v1 := boot.V1; v1.Toplevel != systems["machine"] || v1.Init != v1.Toplevel+"/init" || v1.System != "x86_64-linux" ||
		!slices.Equal(v1.KernelParams, []string{"quiet", "loglevel=4"}) {
		t.Errorf("boot.json has %+v", v1)
	}
	h.must(t, "test -f "+boot.V1.Kernel+" && test -f "+boot.V1.Initrd)
}
