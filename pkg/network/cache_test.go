package network

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"nx/pkg/inputs"
	"nx/pkg/nixcmd"
	"nx/pkg/testhost"
	"nx/pkg/trace"
)

// A bench is a folder with a network that is evaluated again and again, each time
// as another run of nx-eval does it.
type bench struct {
	*testing.T
	dir   string
	cache string
	log   bytes.Buffer
	facts Facts
	args  []string
	names []string // empty: all
	flake bool

	untraced bool
}

// newBench makes a folder of files.
func newBench(t *testing.T, files map[string]string) *bench {
	t.Helper()
	testhost.Need(t, "trace")
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, dir: dir, cache: t.TempDir()}
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// sh runs a script in the folder.
func (b *bench) sh(script string) string {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "sh", "-ec", script)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=x", "GIT_AUTHOR_EMAIL=x", "GIT_COMMITTER_NAME=x", "GIT_COMMITTER_EMAIL=x", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

func (b *bench) network(cache *Cache) (*Network, *counter) {
	nix := &counter{Nix: nixcmd.Nix{Trace: trace.Start}}
	if b.untraced {
		nix.Trace = nil
	}
	b.log.Reset()
	n := &Network{Files: []string{filepath.Join(b.dir, "network.nix")}, Name: "test", Args: b.args, Nix: nix, Cache: cache, Jobs: 1,
		Log: slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if b.flake {
		n.Files = []string{b.dir}
	}
	return n, nix
}

// text says what an evaluation gave, for comparison.
func text(systems map[string]System) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(systems)) {
		s := systems[name]
		fmt.Fprintln(&b, name, s.DrvPath, string(s.Target), s.Tags, string(s.Deployment), s.Err)
	}
	return b.String()
}

// eval evaluates with the cache, and returns what came out and how many
// evaluators ran.
func (b *bench) eval() (got string, processes int) {
	b.Helper()
	n, nix := b.network(&Cache{Dir: b.cache})
	return text(evaluate(b.T, n, b.facts, b.names...)), nix.processes
}

// plainly evaluates without the cache.
func (b *bench) plainly() string {
	b.Helper()
	log := b.log.String()
	n, _ := b.network(nil)
	got := text(evaluate(b.T, n, b.facts, b.names...))
	b.log.Reset()
	b.log.WriteString(log)
	return got
}

// settled lets the folder's times be the past, as if what is there had not just been written.
func (b *bench) settled() {
	b.Helper()
	b.sh("sleep 0.02")
}

// with puts a machine's configuration into a network.
func with(config string) map[string]string {
	return map[string]string{"network.nix": "{ a = { lib, pkgs, ... }: { boot.isContainer = true; " + config + " }; }"}
}

// and adds files.
func and(files map[string]string, more ...string) map[string]string {
	for i := 0; i < len(more); i += 2 {
		files[more[i]] = more[i+1]
	}
	return files
}

// Every kind of input: nothing is evaluated while it is the same, and what it is
// now comes out once it is not.
func TestCache(t *testing.T) {
	type world = func(b *bench) // changes something
	sh := func(script string) world { return func(b *bench) { b.Helper(); b.sh(script) } }
	env := func(name, value string) world { return func(b *bench) { b.Helper(); b.Setenv(name, value) } }
	etc := func(expression string) map[string]string { return with(`environment.etc.x.text = ` + expression + `;`) }
	source := func(expression string) map[string]string {
		return with(`environment.etc.x.source = ` + expression + `;`)
	}
	for _, test := range []struct {
		name   string
		files  map[string]string
		before world
		edit   world
		same   bool   // the edit changes nothing that was read
		result bool   // the edit changes no outcome: it may be evaluated again or not
		moment string // why it is never remembered
		often  bool   // whether it is remembered is Nix' matter: some versions see it as a fetch
		late   bool   // what is built or fetched first is remembered the time after
	}{
		{name: "the network", files: etc(`"1"`), edit: sh(`sed -i s/1/2/ network.nix`)},
		{name: "a file in /dev/shm", files: etc(`import @SHM@/m.nix`), before: func(b *bench) {
			shm, err := os.MkdirTemp("/dev/shm", "nxtest-")
			if err != nil {
				b.Skipf("NEEDS /dev/shm: %v", err)
			}
			b.Cleanup(func() { _ = os.RemoveAll(shm) })
			b.sh(fmt.Sprintf(`echo '"1"' >%[1]s/m.nix; sed -i 's|@SHM@|%[1]s|' network.nix; ln -s %[1]s shm`, shm))
		}, edit: sh(`echo '"2"' >shm/m.nix`)},
		{name: "a link in /proc", files: and(etc(`builtins.readFile "/proc/self/root/@DIR@/f"`), "f", "1"), before: sh(`sed -i "s|/@DIR@|$PWD|" network.nix`), edit: sh(`echo 2 >f`),
			moment: `it reads /proc/`},
		{name: "a name that is no UTF-8", files: etc("if builtins.pathExists (./. + \"/\xff\") then \"y\" else \"n\""), edit: sh(`touch "$(printf '\377')"`)},
		{name: "a folder with such a name", files: and(source(`./d`), "d/\xff", "1"), edit: sh(`echo 2 >d/*`)},
		{name: "a link out of the store, something comes", files: etc(`if builtins.pathExists ("${builtins.path { path = ./l; name = "l"; }}/f") then "y" else "n"`),
			before: sh(`mkdir d; ln -s "$PWD/d" l`), edit: sh(`touch d/f`)},
		{name: "where the working directory is", files: and(etc(`import <m>`), "1/m", `"1"`, "2/m", `"2"`), before: func(b *bench) {
			b.sh(`ln -s 1 l`)
			b.Chdir(b.dir + "/l")
			b.args = []string{"-I", "m=./m"}
		}, edit: func(b *bench) { b.sh(`ln -sfn 2 l`); b.Chdir(b.dir + "/l") }},
		{name: "what Nix' configuration includes, with the size and time it had", files: and(etc(`import <m/m.nix>`), "1/m.nix", `"1"`, "2/m.nix", `"2"`), before: func(b *bench) {
			b.sh(`echo "include $PWD/more.conf" >user.conf; echo "nix-path = $NIX_PATH m=$PWD/1" >more.conf; touch -d 2001-01-01 more.conf`)
			b.Setenv("NIX_USER_CONF_FILES", b.dir+"/user.conf")
			if err := os.Unsetenv("NIX_PATH"); err != nil {
				b.Fatal(err)
			}
		}, edit: sh(`sed -i 's|/1$|/2|' more.conf; touch -d 2001-01-01 more.conf`)},
		{name: "a Nix of another name", files: etc(`"1"`), before: func(b *bench) {
			b.sh(`mkdir bin; cp "$(readlink -f "$(command -v nix-instantiate)")" bin/other
				printf '#!/usr/bin/env bash\nexec -a nix-instantiate %s/bin/other "$@"\n' "$PWD" >bin/nix-instantiate; chmod +x bin/nix-instantiate`)
			b.Setenv("PATH", b.dir+"/bin:"+os.Getenv("PATH"))
		}, edit: sh(`sed -i s/1/2/ network.nix`), moment: "none of the programs that ran for it is called nix"},
		{name: "its times", files: etc(`"1"`), edit: sh(`touch network.nix`), same: true},
		{name: "its like", files: etc(`"1"`), edit: sh(`cp network.nix x; mv x network.nix`), same: true},
		{name: "a file beside it", files: etc(`"1"`), edit: sh(`echo x >beside; mkdir .git`), same: true},
		{name: "an import", files: and(with(`imports = [ ./m.nix ];`), "m.nix", `{ environment.etc.x.text = "1"; }`), edit: sh(`sed -i s/1/2/ m.nix`)},
		{name: "an import without suffix", files: and(etc(`import ./m`), "m", `"1"`), edit: sh(`sed -i s/1/2/ m`)},
		{name: "an import of a folder", files: and(etc(`import ./m`), "m/default.nix", `"1"`), edit: sh(`sed -i s/1/2/ m/default.nix`)},
		{name: "an import through a link", files: and(etc(`import ./l/m.nix`), "m/m.nix", `"1"`, "n/m.nix", `"2"`), before: sh(`ln -s m l`), edit: sh(`ln -sfn n l`)},
		{name: "an import by an absolute name", files: and(etc(`import (builtins.toString ./m.nix)`), "m.nix", `"1"`), edit: sh(`sed -i s/1/2/ m.nix`)},
		{name: "scopedImport", files: and(etc(`builtins.scopedImport { y = "y"; } ./m.nix`), "m.nix", `y + "1"`), edit: sh(`sed -i s/1/2/ m.nix`)},
		{name: "readFile", files: and(etc(`builtins.readFile ./f`), "f", "1"), edit: sh(`echo 2 >f`)},
		{name: "readFile of a string", files: and(etc(`builtins.readFile (toString ./. + "/f")`), "f", "1"), edit: sh(`echo 2 >f`)},
		{name: "fromJSON", files: and(etc(`(builtins.fromJSON (builtins.readFile ./f)).x`), "f", `{"x":"1"}`), edit: sh(`sed -i s/1/2/ f`)},
		{name: "hashFile", files: and(etc(`builtins.hashFile "sha256" ./f`), "f", "1"), edit: sh(`echo 2 >f`)},
		{name: "readDir", files: and(etc(`toString (builtins.attrNames (builtins.readDir ./d))`), "d/1", ""), edit: sh(`touch d/2`)},
		{name: "readDir, the kind", files: and(etc(`toString (builtins.attrValues (builtins.readDir ./d))`), "d/1", ""), edit: sh(`rm d/1; mkdir d/1`)},
		{name: "readDir, what is in a file", files: and(etc(`toString (builtins.attrNames (builtins.readDir ./d))`), "d/1", ""), edit: sh(`echo x >d/1`), result: true},
		{name: "pathExists, it comes", files: etc(`if builtins.pathExists ./f then "y" else "n"`), edit: sh(`touch f`)},
		{name: "pathExists, its folder comes", files: etc(`if builtins.pathExists ./d/f then "y" else "n"`), edit: sh(`mkdir d; touch d/f`)},
		{name: "pathExists, it goes", files: and(etc(`if builtins.pathExists ./f then "y" else "n"`), "f", ""), edit: sh(`rm f`)},
		{name: "pathExists through a link", files: and(etc(`if builtins.pathExists ./l/f then "y" else "n"`), "m/f", ""), before: sh(`ln -s m l; mkdir n`), edit: sh(`ln -sfn n l`)},
		{name: "a path", files: and(source(`./f`), "f", "1"), edit: sh(`echo 2 >f`)},
		{name: "a path, executable", files: and(source(`./f`), "f", "1"), edit: sh(`chmod +x f`)},
		{name: "a path, for others to read", files: and(source(`./f`), "f", "1"), edit: sh(`chmod 644 f`), same: true},
		{name: "a path in a string", files: and(etc(`"${./f}"`), "f", "1"), edit: sh(`echo 2 >f`)},
		{name: "a folder", files: and(source(`./d`), "d/e/f", "1"), edit: sh(`echo 2 >d/e/f`)},
		{name: "a folder, a file comes", files: and(source(`./d`), "d/e/f", "1"), edit: sh(`touch d/e/g`)},
		{name: "a folder, a link", files: and(source(`./d`), "d/f", "1"), before: sh(`ln -s f d/l`), edit: sh(`ln -sf g d/l`)},
		{name: "builtins.path", files: and(source(`builtins.path { name = "x"; path = ./d; filter = f: _: baseNameOf f != "g"; }`), "d/f", "1", "d/g", "1"), edit: sh(`echo 2 >d/f`)},
		{name: "what builtins.path leaves out", files: and(source(`builtins.path { name = "x"; path = ./d; filter = f: _: baseNameOf f != "g"; }`), "d/f", "1", "d/g", "1"), edit: sh(`echo 2 >d/g`), result: true},
		{name: "filterSource", files: and(source(`builtins.filterSource (f: t: t != "directory" || baseNameOf f == "e") ./d`), "d/e/f", "1", "d/g/h", ""), edit: sh(`echo 2 >d/e/f`)},
		{name: "filterSource, a file comes", files: and(source(`builtins.filterSource (f: t: true) ./d`), "d/f", "1"), edit: sh(`touch d/g`)},
		{name: "NIX_PATH", files: and(etc(`import <m>`), "1.nix", `"1"`, "2.nix", `"2"`), before: func(b *bench) { b.Setenv("NIX_PATH", os.Getenv("NIX_PATH")+":m="+b.dir+"/1.nix") },
			edit: func(b *bench) { b.Setenv("NIX_PATH", strings.ReplaceAll(os.Getenv("NIX_PATH"), "1.nix", "2.nix")) }},
		{name: "what NIX_PATH finds", files: and(etc(`import <m>`), "p/2/m", `"2"`), before: func(b *bench) { b.Setenv("NIX_PATH", b.dir+"/p/1:"+b.dir+"/p/2:"+os.Getenv("NIX_PATH")) },
			edit: sh(`mkdir p/1; echo '"1"' >p/1/m`)},
		{name: "a channel", files: and(etc(`import <m>`), "p/1/m", `"1"`, "p/2/m", `"2"`), before: func(b *bench) { b.sh(`ln -s p/1 c`); b.Setenv("NIX_PATH", b.dir+"/c:"+os.Getenv("NIX_PATH")) },
			edit: sh(`ln -sfn p/2 c`)},
		{name: "-I", files: and(etc(`import <m>`), "1.nix", `"1"`, "2.nix", `"2"`), before: func(b *bench) { b.args = []string{"-I", "m=" + b.dir + "/1.nix"} },
			edit: func(b *bench) { b.args = []string{"-I", "m=" + b.dir + "/2.nix"} }},
		{name: "nixpkgs", files: etc(`"1"`), before: func(b *bench) {
			b.sh(`cp -r ` + strings.TrimPrefix(os.Getenv("NIX_PATH"), "nixpkgs=") + ` tree; chmod -R u+w tree`)
			b.Setenv("NIX_PATH", "nixpkgs="+b.dir+"/tree")
		}, edit: sh(`echo 99.99 >tree/.version`)},
		{name: "--argstr", files: map[string]string{"network.nix": `{ x }: { a = { boot.isContainer = true; environment.etc.x.text = x; }; }`},
			before: func(b *bench) { b.args = []string{"--argstr", "x", "1"} }, edit: func(b *bench) { b.args = []string{"--argstr", "x", "2"} }},
		{name: "what --arg reads", files: map[string]string{"network.nix": `{ x }: { a = { boot.isContainer = true; environment.etc.x.text = x; }; }`, "f": "1"},
			before: func(b *bench) { b.args = []string{"--arg", "x", "builtins.readFile " + b.dir + "/f"} }, edit: sh(`echo 2 >f`)},
		{name: "a variable of --arg", files: map[string]string{"network.nix": `{ x }: { a = { boot.isContainer = true; environment.etc.x.text = x; }; }`},
			before: func(b *bench) {
				b.Setenv("NXTEST_X", "1")
				b.args = []string{"--arg", "x", `builtins.getEnv "NXTEST_X"`}
			}, edit: env("NXTEST_X", "2")},
		{name: "getEnv", files: etc(`builtins.getEnv "NXTEST_X"`), before: env("NXTEST_X", "1"), edit: env("NXTEST_X", "2")},
		{name: "getEnv, set at all", files: etc(`builtins.getEnv "NXTEST_X"`), edit: env("NXTEST_X", "2")},
		{name: "getEnv in a string", files: etc(`''a ${"b ${__getEnv "NXTEST_X"}"}''`), before: env("NXTEST_X", "1"), edit: env("NXTEST_X", "2")},
		{name: "maybeEnv", files: etc(`(let maybeEnv = name: default: let value = builtins.getEnv name; in if value == "" then default else value; in maybeEnv "NXTEST_X" "0")`), before: env("NXTEST_X", "1"), edit: env("NXTEST_X", "2")},
		{name: "another variable", files: etc(`builtins.getEnv "NXTEST_X"`), edit: env("NXTEST_Y", "2"), same: true},
		{name: "getEnv of a computed name", files: etc(`builtins.getEnv ("NXTEST_" + "X")`), before: env("NXTEST_X", "1"), edit: env("NXTEST_X", "2"),
			moment: `network.nix has getEnv of a computed name, line 1`},
		{name: "getEnv by another name", files: etc(`(let e = builtins.getEnv; in e "NXTEST_X")`), before: env("NXTEST_X", "1"), edit: env("NXTEST_X", "2"),
			moment: `network.nix has getEnv of a computed name, line 1`},
		{name: "currentTime", files: etc(`toString (builtins.currentTime / 1000000000)`), edit: sh(`:`), result: true, moment: `network.nix has currentTime, line 1`},
		{name: "a device", files: etc(`builtins.substring 0 0 (builtins.readFile /proc/uptime)`), edit: sh(`:`), result: true, moment: `it reads /proc/uptime`},
		{name: "records", files: with(`deployment.targetEnv = "sandbox";`), before: func(b *bench) { b.facts = Facts{Machines: map[string]MachineFacts{"a": {PrivateIPv4: "10.0.0.1"}}} },
			edit: func(b *bench) { b.facts = Facts{Machines: map[string]MachineFacts{"a": {PrivateIPv4: "10.0.0.2"}}} }, result: true},
		{name: "Nix' configuration", files: etc(`"1"`), before: func(b *bench) { b.Setenv("NIX_USER_CONF_FILES", b.dir+"/user.conf"); b.sh("touch user.conf") },
			edit: sh(`echo "max-jobs = 3" >user.conf`), result: true},
		{name: "a derivation that is built first", files: and(etc(`import (builtins.toFile "m.nix" (builtins.readFile ./f))`), "f", `"1"`), edit: sh(`echo '"2"' >f`)},
		{name: "import from derivation", files: and(etc(`builtins.readFile (derivation { name = "x"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo $x >$out" ]; x = builtins.readFile ./f; })`), "f", `1`),
			edit: sh(`echo 2 >f`), late: true},
		{name: "fetchTarball with a hash", files: etc(`import (builtins.fetchTarball { url = "file://@DIR@/t.tar"; sha256 = "@HASH@"; })`), before: func(b *bench) {
			b.sh(`mkdir t; echo '"1"' >t/default.nix; tar cf t.tar t; sed -i "s|@DIR@|$PWD|;s|@HASH@|$(nix-hash --type sha256 --base32 t)|" network.nix`)
		}, edit: sh(`rm -r t t.tar`), same: true, late: true},
		{name: "fetchTarball without a hash", files: etc(`import (builtins.fetchTarball "file://@DIR@/t.tar")`), before: func(b *bench) {
			b.sh(`mkdir t; echo '"1"' >t/default.nix; tar cf t.tar t; sed -i "s|@DIR@|$PWD|" network.nix`)
			b.args = []string{"--option", "tarball-ttl", "0"}
		}, edit: sh(`echo '"2"' >t/default.nix; tar cf t.tar t`), moment: `network.nix has fetchTarball, line 1, without a hash`},
		{name: "fetchGit, as it is", files: and(etc(`import "${builtins.fetchGit ./g}/m.nix"`), "g/m.nix", `"1"`), before: sh(`git init -q g; git -C g add .; git -C g commit -qm 1`),
			edit: sh(`echo '"2"' >g/m.nix`), often: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T) {
				b := newBench(t, test.files)
				if test.before != nil {
					test.before(b)
				}
				b.settled()
				first, _ := b.eval()
				log := b.log.String()
				if plain := b.plainly(); first != plain {
					t.Errorf("with the cache\n%s\nand without\n%s", first, plain)
				}
				if test.late {
					b.eval()
				}
				again, processes := b.eval()
				if again != first {
					t.Errorf("first\n%s\nthen\n%s", first, again)
				}
				switch {
				case test.moment == "" && processes > 0 && !test.often:
					t.Errorf("%d evaluators, and nothing is different\n%s", processes, log)
				case test.moment != "" && (processes == 0 || !strings.Contains(log, test.moment)):
					t.Errorf("%d evaluators; want the reason %q in\n%s", processes, test.moment, log)
				}
				test.edit(b)
				b.settled()
				after, processes := b.eval()
				if plain := b.plainly(); after != plain {
					t.Errorf("after the edit\n%s\nand without the cache\n%s", after, plain)
				}
				switch {
				case test.same && processes > 0:
					t.Errorf("%d evaluators after an edit that changes nothing\n%s", processes, b.log.String())
				case !test.same && !test.result && after == first:
					t.Errorf("the edit changes nothing: %s", after)
				}
			})
		})
	}
}

// A flake's inputs are its files, or those of its repository, and its lock file.
func TestCacheFlake(t *testing.T) {
	const flake = `{
		inputs.nixpkgs.url = "path:@NIXPKGS@";
		outputs = { self, nixpkgs }: {
			nixosConfigurations.a = nixpkgs.lib.nixosSystem {
				system = "x86_64-linux";
				modules = [ ./m.nix { boot.isContainer = true; environment.etc.rev.text = "${self.rev or "dirty"} ${self.lastModifiedDate}"; } ];
			};
		};
	}`
	for _, test := range []struct {
		name, before, edit string
		same, either       bool // either: may be seen as an input or not
	}{
		{name: "a folder", edit: `sed -i s/1/2/ m.nix`},
		{name: "a folder, touched", edit: `touch -d '+2 seconds' m.nix`},
		{name: "a repository", before: `git init -q; git add .; git commit -qm 1`, edit: `sed -i s/1/2/ m.nix`},
		{name: "a commit", before: `git init -q; git add .; git commit -qm 1`, edit: `git commit -qm 2 --allow-empty`},
		{name: "what the repository ignores", before: `echo '*.log' >.gitignore; git init -q; git add .; git commit -qm 1`, edit: `echo x >x.log`, either: true},
		{name: "its lock file", edit: `cp -r @NIXPKGS@ tree; chmod -R u+w tree; echo 99.99 >tree/.version; sed -i "s|@NIXPKGS@|$PWD/tree|" flake.nix; nix --extra-experimental-features "nix-command flakes" flake lock 2>&1`},
		{name: "no lock file", before: `rm flake.lock`, edit: `sed -i s/1/2/ m.nix`},
	} {
		t.Run(test.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T) {
				testCacheFlake(t, flake, test.before, test.edit, test.same, test.either, false)
			})
		})
		t.Run(test.name+", unseen", func(t *testing.T) {
			onBoth(t, func(t *testing.T) {
				testCacheFlake(t, flake, test.before, test.edit, test.same, test.either, true)
			})
		})
	}
}

func testCacheFlake(t *testing.T, flake, before, edit string, same, either, untraced bool) {
	fill := strings.NewReplacer("@NIXPKGS@", strings.TrimPrefix(os.Getenv("NIX_PATH"), "nixpkgs="))
	b := newBench(t, map[string]string{"flake.nix": fill.Replace(flake), "m.nix": `{ environment.etc.x.text = "1"; }`})
	b.flake, b.untraced = true, untraced
	b.sh(`nix --extra-experimental-features "nix-command flakes" flake lock 2>&1`)
	b.sh(before)
	b.settled()
	first, _ := b.eval()
	if strings.Contains(before, "git") {
		b.eval() // the first time a commit is unpacked
	}
	again, processes := b.eval()
	if plain := b.plainly(); first != plain || again != first {
		t.Errorf("first\n%s\nthen\n%s\nand without the cache\n%s", first, again, plain)
	}
	if processes > 0 {
		t.Errorf("%d evaluators, and nothing is different\n%s", processes, b.log.String())
	}
	b.sh(fill.Replace(edit))
	b.settled()
	after, processes := b.eval()
	if plain := b.plainly(); after != plain {
		t.Errorf("after the edit\n%s\nand without the cache\n%s", after, plain)
	}
	if same && processes > 0 || !same && !either && after == first {
		t.Errorf("%d evaluators, first\n%s\nafter the edit\n%s\n%s", processes, first, after, b.log.String())
	}
}

// onBoth runs f with each Nix that there is.
func onBoth(t *testing.T, f func(t *testing.T)) {
	trees := trees(t)
	t.Run("nix", func(t *testing.T) {
		t.Setenv("NIX_PATH", "nixpkgs="+trees["stand-in"])
		f(t)
	})
	if nix := os.Getenv("NXTEST_NIX_NEW"); nix != "" {
		t.Run("nix-new", func(t *testing.T) {
			t.Setenv("PATH", filepath.Join(nix, "bin")+":"+os.Getenv("PATH"))
			t.Setenv("NIX_PATH", "nixpkgs="+trees["stand-in"])
			f(t)
		})
	}
}

// Hosts that had been evaluated before a file was read do not depend on it.
func TestCacheByHost(t *testing.T) {
	onBoth(t, func(t *testing.T) {
		b := newBench(t, map[string]string{
			"network.nix": `{ defaults.boot.isContainer = true; a = { }; b = import ./b.nix; c = import ./c.nix; }`,
			"b.nix":       `{ }`, "c.nix": `{ }`,
		})
		b.settled()
		b.eval()
		known := func() (names []string) {
			n, _ := b.network(&Cache{Dir: b.cache})
			for name, s := range evaluate(t, n, b.facts) {
				if s.Known {
					names = append(names, name)
				}
			}
			slices.Sort(names)
			return names
		}
		b.sh(`echo '{ environment.etc.x.text = "1"; }' >c.nix`)
		b.settled()
		if got := known(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("c.nix is another, and %q are known", got)
		}
		if !strings.Contains(b.log.String(), "changed since it was evaluated") || !strings.Contains(b.log.String(), "/c.nix") {
			t.Errorf("nothing says why c is evaluated:\n%s", b.log.String())
		}
		if got := known(); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("nothing is another, and %q are known", got)
		}
		// Some of them, too, and what is known of the others stays.
		b.sh(`echo '{ environment.etc.x.text = "2"; }' >c.nix`)
		b.settled()
		b.names = []string{"c"}
		b.eval()
		b.names = nil
		if _, processes := b.eval(); processes > 0 {
			t.Errorf("%d evaluators, and each host is known", processes)
		}
	})
}

// A remembered derivation may be gone from the store.
func TestCacheChecksStore(t *testing.T) {
	onBoth(t, func(t *testing.T) {
		b := newBench(t, with(fmt.Sprintf("environment.etc.x.text = %q;", t.TempDir())))
		b.settled()
		first, _ := b.eval()
		drv := regexp.MustCompile(`/nix/store/\S+\.drv`).FindString(first)
		b.sh("nix-store --delete " + drv)
		again, processes := b.eval()
		if again != first || processes == 0 {
			t.Errorf("%d evaluators, first\n%s\nthen\n%s", processes, first, again)
		}
		if _, err := os.Stat(drv); err != nil {
			t.Errorf("the derivation is not there again: %v", err)
		}
	})
}

// What another wrote into the cache, or half of it, is no answer.
func TestCacheSurvives(t *testing.T) {
	onBoth(t, func(t *testing.T) {
		b := newBench(t, with(""))
		b.settled()
		first, _ := b.eval()
		pages, err := filepath.Glob(b.cache + "/*.json")
		if err != nil || len(pages) == 0 {
			t.Fatalf("no page: %v", err)
		}
		page := slices.MaxFunc(pages, func(x, y string) int { return len(read(t, x)) - len(read(t, y)) })
		whole := read(t, page)
		for _, garbage := range []string{"", "{}", whole[:len(whole)/2], "null", `{"Version":99}`, strings.Replace(whole, `"Ranges":[[0`, `"Ranges":[[-1`, 1),
			strings.Replace(whole, `"UpTo":`, `"UpTo":9`, 1), strings.Replace(whole, `"States":["`, `"States":["x","`, 1)} {
			if err := os.WriteFile(page, []byte(garbage), 0o600); err != nil {
				t.Fatal(err)
			}
			if again, _ := b.eval(); again != first {
				t.Errorf("with a page of %.20q\n%s\nwant\n%s", garbage, again, first)
			}
		}
		if info, err := os.Stat(page); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the page is %v, %v", info.Mode(), err)
		}
	})
}

// Pages go by age, and only for their bytes.
func TestPrune(t *testing.T) {
	dir := t.TempDir()
	for i := range 30 {
		name := filepath.Join(dir, fmt.Sprintf("%02d.json", i))
		at := time.Unix(int64(i), 0)
		if err := errors.Join(os.WriteFile(name, []byte("1234"), 0o600), os.Chtimes(name, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		bytes int64
		want  []string
	}{{120, []string{"00.json", "29.json"}}, {118, []string{"01.json", "29.json"}}, {7, []string{"29.json", "29.json"}}} {
		if err := prune(dir, test.bytes); err != nil {
			t.Fatal(err)
		}
		pages, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := []string{pages[0].Name(), pages[len(pages)-1].Name()}; !slices.Equal(got, test.want) {
			t.Errorf("with %d bytes from %s to %s, want %s", test.bytes, got[0], got[1], test.want)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A file that is written while it is evaluated: which of the two was read is not known.
func TestCacheDoubts(t *testing.T) {
	onBoth(t, func(t *testing.T) {
		b := newBench(t, and(with(`environment.etc.x.text = builtins.readFile ./f;`), "f", "1"))
		b.settled()
		n, nix := b.network(&Cache{Dir: b.cache})
		nix.Trace = func(cmd *exec.Cmd, saw func(string, int, int)) (func() error, error) {
			return trace.Start(cmd, func(path string, flags, thread int) {
				saw(path, flags, thread)
				if path == filepath.Join(b.dir, "f") && flags >= 0 {
					if err := os.WriteFile(path, []byte("2"), 0o600); err != nil {
						t.Error(err)
					}
				}
			})
		}
		evaluate(t, n, b.facts, "a")
		if !strings.Contains(b.log.String(), "changed while it was read") {
			t.Errorf("no doubt in\n%s", b.log.String())
		}
		if _, processes := b.eval(); processes == 0 {
			t.Error("an answer of doubt is remembered")
		}
	})
}

// Errors are not remembered, nor is it seen what is read where that cannot be.
func TestCacheForgets(t *testing.T) {
	onBoth(t, func(t *testing.T) {
		b := newBench(t, map[string]string{"network.nix": `{ defaults.boot.isContainer = true; a = { }; b = throw "never"; }`})
		b.settled()
		b.eval()
		again, processes := b.eval()
		if processes != 1 || !strings.Contains(again, "never") {
			t.Errorf("%d evaluators for a host with an error\n%s", processes, again)
		}
		n, nix := b.network(&Cache{Dir: b.TempDir()})
		nix.Trace = func(*exec.Cmd, func(string, int, int)) (func() error, error) { return nil, trace.ErrUnsupported }
		if got := text(evaluate(t, n, b.facts)); got != again || !strings.Contains(b.log.String(), trace.ErrUnsupported.Error()) {
			t.Errorf("untraced\n%s\nwant\n%s\nand why it is not remembered in\n%s", got, again, b.log.String())
		}
		if _, err := n.Cache.Inputs(); err == nil {
			t.Error("what was read untraced is said to be known")
		}
	})
}

// Whoever opens something of a private folder is not clean; nor is who was not seen.
func TestClean(t *testing.T) {
	onBoth(t, func(t *testing.T) {
		b := newBench(t, map[string]string{
			"network.nix": `{ defaults.boot.isContainer = true; a.environment.etc.x.text = toString (builtins.pathExists ./p/f); b = { };
				c.environment.etc.x.source = ./p/f; d = { }; }`,
			"p/f": "1",
		})
		for _, test := range []struct {
			cache *Cache
			want  []string
		}{{&Cache{}, []string{"a", "b"}}, {nil, nil}} {
			n, _ := b.network(test.cache)
			n.Private = filepath.Join(b.dir, "p")
			var clean []string
			for name, s := range evaluate(t, n, Facts{}) {
				if s.Clean {
					clean = append(clean, name)
				}
			}
			if slices.Sort(clean); !slices.Equal(clean, test.want) {
				t.Errorf("%q are clean, want %q", clean, test.want)
			}
		}
	})
}

// What was read, for make.
func TestInputs(t *testing.T) {
	onBoth(t, func(t *testing.T) {
		b := newBench(t, and(with(`imports = [ ./m.nix ]; environment.etc = { f.text = builtins.readFile ./f; d.source = ./d; };
			environment.variables.X = if builtins.pathExists ./none then "1" else "2";`), "m.nix", "{ }", "f", "", "d/e", "", "beside", ""))
		b.settled()
		for _, run := range []string{"evaluated", "remembered"} {
			cache := &Cache{Dir: b.cache}
			n, nix := b.network(cache)
			evaluate(t, n, b.facts)
			if run == "remembered" && nix.processes > 0 {
				t.Errorf("%d evaluators", nix.processes)
			}
			read, err := cache.Inputs()
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []inputs.Input{{Path: "network.nix"}, {Path: "m.nix"}, {Path: "f"}, {Path: "d", List: true}, {Path: "d/e"}, {Path: "none"}} {
				want.Path = filepath.Join(b.dir, want.Path)
				if !slices.Contains(read, want) {
					t.Errorf("%s: %v is not among %v", run, want, read)
				}
			}
			for _, in := range read {
				if strings.Contains(in.Path, "/lib/") && strings.Contains(in.Path, ".so") || strings.HasPrefix(in.Path, "/nix/") && in.Path != "/nix/store" && in.Path != "/nix" && !strings.HasPrefix(in.Path, stateDir) ||
					strings.Contains(in.Path, "nx-eval-") || filepath.Base(in.Path) == "beside" || strings.HasPrefix(in.Path, "/proc") {
					t.Errorf("%s: %v is an input", run, in)
				}
			}
		}
	})
}

// The cache against evaluations without: random trees, random edits.
func TestCacheIsExact(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	onBoth(t, func(t *testing.T) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		const machine = `{ boot.isContainer = true; environment.etc.x.text = builtins.toJSON (let
			look = p: if !builtins.pathExists p then "none" else let k = (builtins.readDir (dirOf p)).${baseNameOf p}; in
				if k == "directory" then builtins.mapAttrs (n: _: look (p + "/${n}")) (builtins.readDir p)
				else if k == "regular" then builtins.hashString "sha256" (builtins.readFile p) else "${k} ${if builtins.pathExists (p + "/.") then "there" else "not"}";
			in [ ARG ]); }`
		// What the machines read: the same file by several ways, and what may not be there.
		arguments := []string{`(look ./t)`, `(look ./t/a)`, `"${./t/b}"`, `(builtins.readFile ./t/a/f)`, `(if builtins.pathExists ./t/c then import ./t/c else 0)`,
			`(builtins.attrNames (builtins.readDir ./t))`, `"${builtins.path { path = ./t; name = "t"; filter = p: k: k != "symlink"; }}"`, `(builtins.getEnv "NXTEST_R")`, `(look ./t/l)`}
		files := map[string]string{"t/a/f": "1", "t/b": "2", "t/c/default.nix": "3"}
		var network strings.Builder
		for _, name := range []string{"a", "b", "c", "d"} {
			random.Shuffle(len(arguments), func(i, j int) { arguments[i], arguments[j] = arguments[j], arguments[i] })
			fmt.Fprintf(&network, "%s = import ./%[1]s.nix;\n", name)
			files[name+".nix"] = strings.Replace(machine, "ARG", strings.Join(arguments[:1+random.IntN(3)], " "), 1)
		}
		files["network.nix"] = "{\n" + network.String() + "}"
		b := newBench(t, files)
		names := []string{"t/a", "t/a/f", "t/a/g", "t/b", "t/c", "t/c/default.nix", "t/d", "t/l", "t/a/d/e", "beside"}
		edits := []string{"echo %d >%s", "rm -rf %[2]s", "mkdir -p %[2]s", "ln -sfn ../t/a %[2]s", "touch %[2]s", "chmod +x %[2]s", "echo %d >%s.new; mv %[2]s.new %[2]s", "echo %d >>%s",
			"test ! -e %[2]s || cp -a %[2]s %[2]s.%[1]d", "touch -d 2001-01-01 %[2]s"}
		evaluators, all := 0, 0
		for range rounds {
			for range random.IntN(3) {
				edit := fmt.Sprintf(edits[random.IntN(len(edits))], random.IntN(4), names[random.IntN(len(names))])
				t.Log(edit)
				b.sh("( " + edit + " ) 2>/dev/null || true")
			}
			if random.IntN(4) == 0 {
				b.Setenv("NXTEST_R", fmt.Sprint(random.IntN(3)))
			}
			b.settled()
			got, processes := b.eval()
			if want := b.plainly(); got != want {
				t.Fatalf("with the cache\n%s\nand without\n%s", got, want)
			}
			evaluators += processes
			all += 2
		}
		t.Logf("%d evaluators for %d questions", evaluators, all)
	})
}
