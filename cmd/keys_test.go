package cmd_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"
)

// A watch looks for a secret wherever it must not be, while others run and once they
// have ended.
type watch struct {
	secret []byte
	stop   chan struct{}
	done   sync.WaitGroup
	rounds int
	seen   map[string]bool
	saw    chan string // each sighting
}

// watchFor samples, until it is stopped, the arguments and environments of all
// processes and what is in dirs.
func watchFor(secret string, dirs ...string) *watch {
	w := &watch{secret: []byte(secret), stop: make(chan struct{}), seen: map[string]bool{}, saw: make(chan string, 1000)}
	w.done.Go(func() {
		for {
			files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, f := range files {
				w.look(f, "an argument of "+filepath.Dir(f))
				w.look(filepath.Join(filepath.Dir(f), "environ"), "the environment of "+filepath.Dir(f))
			}
			for _, dir := range dirs {
				w.walk(dir)
			}
			w.rounds++
			select {
			case <-w.stop:
				return
			default:
			}
		}
	})
	return w
}

func (w *watch) look(file, what string) {
	text, err := os.ReadFile(file)
	if err == nil && bytes.Contains(text, w.secret) {
		if !w.seen[what] {
			w.saw <- what + ": " + string(bytes.ReplaceAll(text[:min(len(text), 300)], []byte{0}, []byte{' '}))
		}
		w.seen[what] = true
	}
}

// walk looks at all files below dir.
func (w *watch) walk(dir string) {
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && !strings.Contains(path, "/disk/var/keys/") { // where they belong
			w.look(path, path)
		}
		return nil
	})
}

// end stops the samples.
func (w *watch) end() {
	close(w.stop)
	w.done.Wait()
}

// sightings are where the secret was seen.
func (w *watch) sightings() []string {
	close(w.saw)
	return slices.Sorted(func(yield func(string) bool) {
		for what := range w.saw {
			if !yield(what) {
				return
			}
		}
	})
}

// What is in a key is on its host where it belongs, and nowhere else, on neither
// side; a host that goes back has the keys that it had.
func TestKeys(t *testing.T) {
	t.Parallel()
	poison := "poison" + rand.Text()
	d := deploy(t, map[string]string{"network.nix": `{ pkgs ? import <nixpkgs> { }, refuse ? false }:
{
  network.description = "keys";
  defaults = { deployment.targetEnv = "sandbox"; boot.isContainer = true; services.openssh.enable = true; };
  web = { config, lib, nodes, ... }: {
    deployment.tags = [ "first" ];
    deployment.keys = {
      text = { text = "` + poison + ` text of ${nodes.db.config.networking.privateIPv4}"; permissions = "0440"; };
      file = { keyFile = ./secrets/file; destDir = "/var/keys"; };
      sealed = { keyFile = ./secrets/sealed; decrypt = "age"; destDir = "/var/keys"; };
      command = { keyCommand = [ "sh" "secrets/print" ]; destDir = "/var/keys"; };
      late = { text = "` + poison + ` late"; destDir = "/var/keys"; uploadAt = "post-activation"; };
    };
    system.activationScripts.refuse = lib.mkIf refuse "echo refused; exit 1";
  };
  db.deployment.keys.token = { text = "` + poison + ` " + (if refuse then "other" else "token"); destDir = "/var/keys"; };
}
`})
	secrets := filepath.Join(d.dir, "secrets")
	temp, logs := filepath.Join(d.dir, "tmp"), filepath.Join(d.dir, "logs")
	for _, dir := range []string{secrets, temp, logs} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	d.write("secrets/file", poison+" file")
	d.write("secrets/print", "cat secrets/content")
	d.write("secrets/content", poison+" command")
	for _, name := range []string{"identity", "other"} {
		if out, err := exec.CommandContext(context.Background(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(d.dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	d.write("secrets/sealed", seal(t, d.sh("cat identity.pub").stdout, poison+" sealed"))
	before := d.sh("ls /nix/store").stdout

	// deployed runs the pipe, keeping all that goes through it, and returns what went
	// out and where the secret was seen.
	deployed := func(evaluation, more string) (result, []string) {
		w := watchFor(poison, temp, logs, filepath.Join(d.dir, ".nx"))
		r := d.sh(fmt.Sprintf(`export TMPDIR=$PWD/tmp
nx-provision -v --log-format json -f network.nix 2>logs/provision | tee logs/hosts.jsonl |
nx-eval -v --log-format json -f network.nix %s 2>logs/eval | tee logs/drvs.jsonl |
nx-build -v --log-format json 2>logs/build >logs/built.jsonl
nx-copy -v --log-format json %s logs/built.jsonl 2>logs/copy | tee logs/copied.jsonl |
nx-activate -v --log-format json switch 2>logs/activate`, evaluation, more))
		w.end()
		if w.rounds < 10 {
			t.Errorf("it was looked for %d times only", w.rounds)
		}
		for _, path := range strings.Fields(d.sh("ls /nix/store").stdout) {
			if !strings.Contains(before, path) {
				w.walk("/nix/store/" + path)
			}
		}
		w.walk(d.host("web").Disk(""))
		if got := d.on("web", "grep -rlF "+poison+" /run /tmp /dev/shm /var --exclude-dir=keys || :"); got != "" {
			w.saw <- "on the host: " + got
		}
		if r.status != 0 {
			t.Log(d.sh("grep -h '\"level\":\"\\(warn\\|error\\)' logs/*").stdout)
		}
		return r, w.sightings()
	}
	there := func() string {
		return d.on("web", `for f in /run/keys/text /var/keys/*; do echo "$f $(stat -c '%a %U' $f) $(sed 's/poison[A-Z0-9]*//' $f)"; done; ls -A /run/keys`)
	}

	r, seen := deployed("", "-f network.nix --age-identity identity")
	got := wantResults(t, r, map[string]string{"db": "activated", "web": "activated"})
	for _, what := range seen {
		t.Errorf("the secret is in %s", what)
	}
	address := got["db"].Get("machine.privateIPv4").Str
	want := "/run/keys/text 440 root  text of " + address + "\n/var/keys/command 600 root  command\n/var/keys/file 600 root  file\n/var/keys/late 600 root  late\n/var/keys/sealed 600 root  sealed\ntext"
	if got := there(); got != want {
		t.Errorf("keys:\n%s\nwant\n%s", got, want)
	}
	if got := got["web"].Get("copied.keys").Raw; got != `["command","file","late","sealed","text"]` {
		t.Errorf("copied.keys %s", got)
	}

	// A host that goes back has the keys that it had, and so has one that was not
	// reached by then, and one that was only asked what it would do.
	d.write("secrets/file", poison+" other")
	const failed = `jq -c 'if .name == "web" then .error = { stage: "copy", message: "no" } else . end' | `
	for _, tt := range []struct{ activate, web, db string }{
		{"nx-activate dry-activate", "dry", "dry"},
		{"nx-activate switch --canary 1 --order-by-tags first", "rolled-back", "skipped"},
		{failed + "nx-activate switch --barrier", "", "skipped"},
	} {
		r := d.sh("nx-eval -f network.nix --arg refuse true logs/hosts.jsonl | nx-build | nx-copy -f network.nix --age-identity identity --arg refuse true | " + tt.activate)
		got := hosts(t, r.stdout)
		if web, db := got["web"].Get("activation.result").Str, got["db"].Get("activation.result").Str; web != tt.web || db != tt.db {
			t.Errorf("%s: %+v", tt.activate, r)
		}
		if got := there(); got != want {
			t.Errorf("after %s, keys:\n%s\nwant\n%s", tt.activate, got, want)
		}
		if got := d.on("db", "ls -A /var/keys; sed s/poison[A-Z0-9]*// /var/keys/token"); got != "token\n token" {
			t.Errorf("after %s, db's key: %s", tt.activate, got)
		}
	}

	// CI deploys without Nix files, by a bundle.
	d.on("web", "rm /run/keys/text")
	r, seen = deployed(`--keys-out logs/bundle --age-recipient "$(cat identity.pub)"`, "--keys logs/bundle --age-identity identity")
	wantResults(t, r, map[string]string{"db": "unchanged", "web": "activated"})
	for _, what := range seen {
		t.Errorf("with a bundle, the secret is in %s", what)
	}
	if got, want := there(), strings.Replace(want, " file\n", " other\n", 1); got != want {
		t.Errorf("with a bundle, keys:\n%s\nwant\n%s", got, want)
	}
	for args, want := range map[string]string{
		"--keys logs/bundle --age-identity other": "read bundle of keys",
		"":            "hint:",
		"--no-keys":   "",
		"-f gone.nix": "gone.nix",
	} {
		r := d.sh("nx-copy " + args + " logs/built.jsonl")
		if (r.status == 0) != (want == "") || !strings.Contains(r.stderr, want) {
			t.Errorf("nx-copy %s: %+v", args, r)
		}
	}

	// At once, as after a reboot.
	if err := d.host("web").Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := d.sh("nx-copy keys -f network.nix --age-identity identity logs/copied.jsonl"); r.status != 0 {
		t.Errorf("nx-copy keys: %+v", r)
	}
	if got, want := there(), strings.Replace(want, " file\n", " other\n", 1); got != want {
		t.Errorf("at once, keys:\n%s\nwant\n%s", got, want)
	}
}

// seal encrypts text for an ssh public key, as age does.
func seal(t *testing.T, public, text string) string {
	t.Helper()
	to, err := agessh.ParseRecipient(strings.TrimSpace(public))
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, to)
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return sealed.String()
}

// The search finds what is there to be found.
func TestWatch(t *testing.T) {
	t.Parallel()
	poison, dir := "poison"+rand.Text(), t.TempDir()
	w := watchFor(poison, dir)
	sleep := exec.CommandContext(t.Context(), "/bin/sh", "-c", "read -r line; : "+poison)
	sleep.Env = []string{"SECRET=" + poison}
	stdin, err := sleep.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log"), []byte("x"+poison), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		<-w.saw
	}
	stdin.Close()
	sleep.Wait()
	w.end()
	if more := w.sightings(); len(more) > 0 {
		t.Errorf("seen too: %q", more)
	}
}

// Networks with keys as other tools' users write them bring them to a host, with
// systemd or without.
func TestKeyNetworks(t *testing.T) {
	t.Parallel()
	t.Run("namespace", func(t *testing.T) {
		t.Parallel()
		d := deploy(t, map[string]string{"network.nix": `{ web1 = { deployment.targetEnv = "sandbox"; boot.isContainer = true; services.openssh.enable = true; }; }`})
		if r := d.sh("nx-provision -q -f network.nix -o hosts.jsonl"); r.status != 0 {
			t.Fatalf("%+v", r)
		}
		d.bringKeys()
	})
	t.Run("systemd", func(t *testing.T) {
		t.Parallel()
		deploySystemd(t).bringKeys()
	})
}

func (d *deployment) bringKeys() {
	if r := d.sh("mkdir secrets; echo of a file > secrets/api-key"); r.status != 0 {
		d.t.Fatalf("%+v", r)
	}
	for _, tt := range []struct{ network, text, machine, file, want string }{
		{"shop.nix", `{
  db = { ... }: { boot.isContainer = true; };
  web = { nodes, ... }: {
    boot.isContainer = true;
    environment.etc."shop/database".text = "${nodes.db.config.networking.privateIPv4}:5432";
    deployment.keys.database-password = { text = "not in any store"; user = "root"; permissions = "0400"; };
  };
}`, "web", "/run/keys/database-password", "400 root root not in any store"},
		{"morph.nix", `let pkgs = import <nixpkgs> { };
in {
  network = { inherit pkgs; };
  "web01.example.org" = { ... }: {
    networking.hostName = "web01";
    deployment.secrets."api-key" = { source = "./secrets/api-key"; destination = "/var/lib/made/api-key"; owner.user = "root"; permissions = "0400"; };
    boot.isContainer = true;
  };
}`, "web01.example.org", "/var/lib/made/api-key", "400 root root of a file"},
		{"hive.nix", `{
  meta.nixpkgs = import <nixpkgs> { };
  alpha = { name, ... }: {
    boot.isContainer = true;
    deployment.targetHost = "alpha.example.org";
    deployment.keys."token".keyCommand = [ "printf" "%s" "secret" ];
  };
}`, "alpha", "/run/keys/token", "600 root root secret"},
	} {
		d.write(tt.network, tt.text)
		// The machine is the host; the other one's address is a fact.
		if r := d.sh(`jq -c 'select(.name) | (.name = "` + tt.machine + `"), { nx: 1, name: "db", machine }' hosts.jsonl |
			nx-eval -q --on '` + tt.machine + `' -f ` + tt.network + ` |
			jq -c 'if .name then .deployment.activation.ignoreFailedUnits = true else . end' | # colmena's need inotifywait, which is not there
			nx-build -q | nx-copy -q -f ` + tt.network + ` | nx-activate -q switch`); r.status != 0 {
			d.t.Errorf("%s: %+v", tt.network, r)
			continue
		}
		if got := d.on("web1", "stat -c '%a %U %G' "+tt.file+"; cat "+tt.file); strings.Join(strings.Fields(got), " ") != tt.want {
			d.t.Errorf("%s: %s", tt.network, got)
		}
	}
}
