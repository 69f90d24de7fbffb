package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"nx/pkg/testhost"
)

// onEachNix runs f with the Nix that is installed and with the newer one.
func onEachNix(t *testing.T, f func(t *testing.T)) {
	t.Run("nix", f)
	t.Run("nix-new", func(t *testing.T) {
		testhost.Need(t, "nix-new")
		t.Setenv("PATH", filepath.Join(os.Getenv("NXTEST_NIX_NEW"), "bin")+":"+os.Getenv("PATH"))
		f(t)
	})
}

// everywhere runs f with each nixpkgs as <nixpkgs>, and with the newer Nix.
func everywhere(t *testing.T, f func(t *testing.T)) {
	onEach(t, func(t *testing.T, _ string) { f(t) })
	t.Run("nix-new", func(t *testing.T) {
		testhost.Need(t, "nix-new")
		t.Setenv("NIX_PATH", "nixpkgs="+trees(t)["stand-in"])
		t.Setenv("PATH", filepath.Join(os.Getenv("NXTEST_NIX_NEW"), "bin")+":"+os.Getenv("PATH"))
		f(t)
	})
}

func TestFormIsSeen(t *testing.T) {
	module := `{ config, ... }: `
	tests := []struct {
		name, text, want string // a form
		wantErr          string
	}{
		{name: "machines", text: `{ a = { }; }`, want: "nixops"},
		{name: "no machine", text: `{ }`, want: "nixops"},
		{name: "network with NixOps' settings", text: `{ network.description = "x"; a = { }; }`, want: "nixops"},
		{name: "a machine called nodes", text: `{ network = { }; nodes = { }; }`, want: "nixops"},
		{name: "a function with a default", text: `{ pkgs ? 1 }: { a = { }; }`, want: "nixops"},
		{name: "network with a package set", text: `{ network.pkgs = import <nixpkgs> { }; a = { }; }`, want: "morph"},
		{name: "network with an order", text: `{ network.ordering.tags = [ ]; a = { }; }`, want: "morph"},
		{name: "meta", text: `{ meta.nixpkgs = <nixpkgs>; a = { }; }`, want: "colmena"},
		{name: "a function with meta", text: `{ ... }: { meta = { }; a = { }; }`, want: "colmena"},
		{name: "nodes", text: `{ nodes.a = { }; }`, want: "nixus"},
		{name: "a module with nodes", text: module + `{ nodes.a = { }; }`, want: "nixus"},
		{name: "a module whose attributes are not seen", text: `{ lib, ... }: lib.mkMerge [ { nodes.a = { }; } ]`, want: "nixus"},
		{name: "a derivation of nixus", text: `derivation { name = "x"; system = "x"; builder = "x"; } // { config.nodes = { }; }`, want: "nixus"},

		{name: "a configuration", text: module + `{ boot.isContainer = true; }`, wantErr: "network.nix is no network of NixOps, morph, colmena or nixus: it is a function of config"},
		{name: "a string", text: `"x"`, wantErr: "it is a string"},
		{name: "a list", text: `[ { } ]`, wantErr: "it is a list"},
		{name: "a derivation", text: `derivation { name = "x"; system = "x"; builder = "x"; }`, wantErr: "it is a derivation"},
		{name: "a flake", text: `{ outputs = { self }: { }; }`, wantErr: "it is a flake, which is named by its folder"},
	}
	t.Setenv("NIX_PATH", "nixpkgs="+trees(t)["stand-in"])
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			about, err := testNetwork(write(t, tt.text)).About(t.Context())
			switch {
			case tt.wantErr != "":
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error %v, want %q in it", err, tt.wantErr)
				}
			case err != nil:
				t.Error(err)
			case about.Form != tt.want:
				t.Errorf("form %q, want %q", about.Form, tt.want)
			}
		})
	}

	t.Run("forced", func(t *testing.T) {
		n := testNetwork(write(t, `{ network.description = "older"; a = { }; }`))
		n.Format = "colmena"
		if about, err := n.About(t.Context()); err != nil || about.Form != "colmena" || about.Description != "older" {
			t.Errorf("about %+v, error %v", about, err)
		}
	})
	t.Run("two hives", func(t *testing.T) {
		n := testNetwork("hive.nix", "hive.nix")
		if _, err := n.About(t.Context()); err == nil || !strings.Contains(err.Error(), "a network of colmena is one file, and 2 are named") {
			t.Errorf("error %v", err)
		}
	})
}

// What a network asks for and does not get is said, once for all questions.
func TestNetworkWarnings(t *testing.T) {
	tests := []struct {
		text string
		want []string
	}{
		{`{ network = { storage.legacy = { }; lock.noop = { }; description = "x"; }; }`,
			[]string{"network.storage does nothing here: what nx remembers is in .nx/", "network.lock does nothing here: what nx remembers is in .nx/"}},
		{`{ network = { pkgs = import <nixpkgs> { }; buildShell = { }; }; }`, []string{"network.buildShell does nothing here"}},
		{`{ meta.allowApplyAll = false; }`, []string{"meta.allowApplyAll does nothing here: choose hosts by --on"}},
		{`{ nodes = { }; }`, nil},
		{`derivation { name = "x"; system = "x"; builder = "x"; } // { config = { nodes = { }; network.facts = true; }; }`,
			[]string{"network.facts does nothing here: nixus itself made the network"}},
	}
	t.Setenv("NIX_PATH", "nixpkgs="+trees(t)["stand-in"])
	for _, tt := range tests {
		var log bytes.Buffer
		n := testNetwork(write(t, tt.text))
		n.Log = slog.New(slog.NewJSONHandler(&log, nil))
		for range 2 {
			if _, err := n.Describe(t.Context(), Facts{}); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, line := range gjson.Get("["+strings.ReplaceAll(strings.TrimSpace(log.String()), "\n", ",")+"]", "#.msg").Array() {
			got = append(got, line.Str)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s\n got %q\nwant %q", tt.text, got, tt.want)
		}
	}
}

// What the tools' networks say comes out as records have it, without secrets.
func TestForms(t *testing.T) {
	tests := []struct {
		file string
		asks string            // a query
		says string            // its value
		want map[string]System // without DrvPath and Platform
	}{
		{"morph.nix", `nodes."web02.example.org".config.environment.etc.other.text`, `"web01"`, map[string]System{
			"web01.example.org": {
				Tags:   []string{"web", "first"},
				Target: []byte(`{"host":"web01.example.org","port":2222,"sudo":["sudo","-n","--"],"user":"admin"}`),
				Deployment: []byte(`{"buildOnly":false,"healthChecks":{` +
					`"cmd":[{"cmd":["true","HELLO/bin/hello"],"description":"is alive","period":2,"timeout":5}],` +
					`"http":[{"description":"answers","headers":{"Authorization":{"option":"deployment.healthChecks.http.0.headers.Authorization"}},` +
					`"insecureSSL":false,"path":"/health","period":2,"port":8080,"scheme":"http","timeout":5}]},` +
					`"keys":{"api-key":{"action":["systemctl","reload","httpd"],"destDir":"/var/lib","group":"root","mkDirs":true,` +
					`"name":"api-key","permissions":"0400","source":{"file":"HERE/./secrets/api-key"},"uploadAt":"post-activation","user":"nobody"}},` +
					`"nixConfig":{"builders-use-substitutes":"true"},"ordering":{"tags":["first"]},` +
					`"preDeployChecks":{"cmd":[{"cmd":["false"],"description":"is there","period":1,"timeout":60}],"http":[]},"substituteOnDestination":false}`),
			},
			"web02.example.org": {
				Target: []byte(`{"host":"web02.example.org","sudo":["sudo","-n","--"]}`),
				Deployment: []byte(`{"buildOnly":true,"healthChecks":{"cmd":[],"http":[]},"keys":{},"nixConfig":{"builders-use-substitutes":"true"},` +
					`"ordering":{"tags":["first"]},"preDeployChecks":{"cmd":[],"http":[]},"substituteOnDestination":true}`),
			},
		}},
		{"hive.nix", `lib.mapAttrs (_: node: node.config.networking.hostName) nodes`, `{"alpha":"alpha","beta":"beta","gamma":"gamma"}`, map[string]System{
			"alpha": {
				Tags:   []string{"web"},
				Target: []byte(`{"host":"alpha.example.org","port":2222,"sudo":["sudo","-H","--"],"user":"root"}`),
				Deployment: []byte(`{"allowLocalDeployment":false,"buildOnTarget":true,"keys":{` +
					`"late":{"destDir":"/var/keys","group":"root","name":"late.key","permissions":"0600","source":{"eval":"deployment.keys.late.text"},"uploadAt":"post-activation","user":"nobody"},` +
					`"token":{"destDir":"/run/keys","group":"root","name":"token","permissions":"0600","source":{"command":["printf","%s","from the command"]},"uploadAt":"pre-activation","user":"root"}},` +
					`"replaceUnknownProfiles":true}`),
			},
			"beta": {
				Tags:       []string{"db"},
				Target:     []byte(`{"host":"beta","sudo":["sudo","-H","--"],"user":"admin"}`),
				Deployment: []byte(`{"allowLocalDeployment":false,"buildOnTarget":false,"keys":{},"replaceUnknownProfiles":false}`),
			},
			"gamma": {
				Target:     []byte(`{"sudo":["sudo","-H","--"]}`),
				Deployment: []byte(`{"allowLocalDeployment":true,"buildOnTarget":false,"keys":{},"replaceUnknownProfiles":true}`),
			},
		}},
		{"nixus.nix", `[ nodes.node2.host nodes.node2.config.environment.etc.others.text resources ]`, `["admin@node2.example.org","node1 node2 unused board",{}]`, map[string]System{
			"node1": {
				Target:     []byte(`{"host":"node1.example.org","sudo":["doas"],"user":"root"}`),
				Deployment: []byte(`{"hasFastConnection":false,"ignoreFailingSystemdUnits":false,"keys":{},"successTimeout":20,"switchTimeout":60}`),
			},
			"node2": {
				Target: []byte(`{"host":"node2.example.org","sudo":["doas"],"user":"admin"}`),
				Deployment: []byte(`{"hasFastConnection":true,"ignoreFailingSystemdUnits":true,"keys":{"token":{` +
					`"destDir":"/var/lib/nixus-secrets/active/per-group/wheel","group":"wheel","name":"token","permissions":"0040","source":{"file":"HERE/nixus.nix"},"uploadAt":"pre-activation","user":"root"}},` +
					`"successTimeout":30,"switchTimeout":60}`),
			},
		}},
	}
	onEachNix(t, func(t *testing.T) {
		t.Setenv("NIX_PATH", "nixpkgs="+trees(t)["stand-in"])
		here, err := filepath.Abs("testdata/networks")
		if err != nil {
			t.Fatal(err)
		}
		hello := strings.TrimSuffix(strings.Trim(evalString(t, `"${(import <nixpkgs> { }).hello}"`), `"`), "/")
		for _, tt := range tests {
			t.Run(tt.file, func(t *testing.T) {
				n := testNetwork(tt.file)
				d, err := n.Describe(t.Context(), Facts{})
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range d.Machines {
					want := tt.want[m.Name]
					if m.Err != nil || !slices.Equal(m.Tags, want.Tags) || !bytes.Equal(m.Target, want.Target) || !bytes.Contains(m.Deployment, []byte(`"targetEnv":"none"`)) {
						t.Errorf("%s: described as %s %s with tags %q (%v), want %s %q", m.Name, m.Target, m.Deployment, m.Tags, m.Err, want.Target, want.Tags)
					}
				}
				if value, err := n.Query(t.Context(), tt.asks, Facts{}); err != nil || string(value) != tt.says {
					t.Errorf("query %s\n got %s, error %v\nwant %s", tt.asks, value, err, tt.says)
				}
				got := evaluate(t, n, Facts{})
				if g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(tt.want)); !slices.Equal(g, w) {
					t.Errorf("machines %q, want %q", g, w)
				}
				for name, want := range tt.want {
					s := got[name]
					if s.Err != nil {
						t.Errorf("%s: %v", name, s.Err)
						continue
					}
					deployment := []byte(strings.NewReplacer("HELLO", hello, "HERE", here).Replace(string(want.Deployment)))
					if !bytes.Equal(s.Target, want.Target) || !slices.Equal(s.Tags, want.Tags) || !bytes.Equal(s.Deployment, deployment) {
						t.Errorf("%s:\n got %s %q %s\nwant %s %q %s", name, s.Target, s.Tags, s.Deployment, want.Target, want.Tags, deployment)
					}
					if _, err := os.Stat(string(s.DrvPath)); err != nil {
						t.Errorf("%s: the derivation is not in the store: %v", name, err)
					}
				}
			})
		}
	})
}

// How machines are activated may be said in every form: where that is nx's own, and
// where it is not set, there is nothing of it.
func TestActivationOptions(t *testing.T) {
	const set = `activation = { confirmTimeout = 30; after = [ "b" { cmd = [ "true" ]; } ]; };`
	const checks = `healthChecks.unit = [ { unit = "x.service"; } ];`
	const said, checked = `{"after":["b",{"cmd":["true"],"on":"deployer","timeout":60}],"confirmTimeout":30}`, `{"unit":[{"unit":"x.service"}]}`
	t.Setenv("NIX_PATH", "nixpkgs="+trees(t)["stand-in"])
	for _, tt := range []struct{ form, text, checked string }{
		{"nixops", `{ a = { boot.isContainer = true; deployment = {` + set + checks + `}; }; b.boot.isContainer = true; }`, checked},
		{"morph", `{ network.pkgs = import <nixpkgs> { }; a = { boot.isContainer = true; deployment = {` + set + `}; }; b = { boot.isContainer = true; }; }`, `{"cmd":[],"http":[]}`},
		{"colmena", `{ meta.nixpkgs = <nixpkgs>; a = { boot.isContainer = true; deployment = {` + set + checks + `}; }; b = { boot.isContainer = true; }; }`, checked},
		{"nixus", `{ defaults = { nixpkgs = <nixpkgs>; host = "x"; configuration.boot.isContainer = true; }; nodes.a = {` + set + checks + `}; nodes.b = { }; }`, checked},
	} {
		t.Run(tt.form, func(t *testing.T) {
			got := evaluate(t, testNetwork(write(t, tt.text)), Facts{})
			if err := errors.Join(got["a"].Err, got["b"].Err); err != nil {
				t.Fatal(err)
			}
			a, b := gjson.ParseBytes(got["a"].Deployment), gjson.ParseBytes(got["b"].Deployment)
			if a.Get("activation").Raw != said || a.Get("healthChecks").Raw != tt.checked {
				t.Errorf("a: %s", a.Raw)
			}
			if b.Get("activation").Exists() || tt.form != "morph" && b.Get("healthChecks").Exists() {
				t.Errorf("b: %s", b.Raw)
			}
		})
	}
}

// needNewer skips a test of what NixOS has from 22.05 on.
func needNewer(t *testing.T, what string) {
	t.Helper()
	if evalString(t, `(import <nixpkgs/lib>).version < "22.05"`) == "true" {
		t.Skipf("SKIPPED, %s needs NixOS 22.05", what)
	}
}

// evalString gives an expression's value as Nix prints it.
func evalString(t *testing.T, expression string) string {
	t.Helper()
	out, err := exec.Command("nix-instantiate", "--eval", "--expr", expression).Output()
	if err != nil {
		t.Fatalf("nix-instantiate --eval --expr %s: %v", expression, err)
	}
	return strings.TrimSpace(string(out))
}

// A machine's derivation is what the tool itself makes of it: its modules and its
// way to evaluate them, here written out for what the networks use.
func TestFormDerivations(t *testing.T) {
	here, err := filepath.Abs("testdata/networks")
	if err != nil {
		t.Fatal(err)
	}
	const prelude = `
		let
			lib = import <nixpkgs/lib>;
			eval = import <nixpkgs/nixos/lib/eval-config.nix>;
			system = builtins.currentSystem;
			undeclared = { options.deployment = lib.mkOption { type = lib.types.attrsOf lib.types.unspecified; default = { }; }; };
			net = import (%s + "/%s");
		in `
	tests := []struct{ file, name, expression string }{
		{"morph.nix", "web02.example.org", `(eval {
			inherit system;
			specialArgs = { greeting = "hello"; };
			modules = [ net."web02.example.org" net.defaults undeclared
				({ pkgs, ... }: {
					nixpkgs.pkgs = net.network.pkgs;
					system.extraDependencies = [ (pkgs.writeText "healthcheck-commands.txt" "") ];
					_module.args = { name = "web02.example.org"; nodes = { "web01.example.org".config.networking.hostName = "web01"; "web02.example.org" = { }; }; };
				}) ];
		}).config.system.build.toplevel`},
		{"hive.nix", "beta", `(eval {
			inherit system;
			specialArgs = { name = "beta"; greeting = "goodbye"; nodes = { alpha.config.networking.hostName = "alpha"; beta = { }; gamma = { }; }; };
			modules = [ undeclared net.defaults ] ++ net.beta;
		}).config.system.build.toplevel`},
		{"hive.nix", "gamma", `(eval {
			inherit system;
			specialArgs = { name = "gamma"; greeting = "hello"; nodes = { alpha = { }; beta = { }; gamma = { }; }; };
			modules = [ { nixpkgs.config.allowUnfree = true; } undeclared net.defaults net.gamma ];
		}).config.system.build.toplevel`},
		// A configuration has its place below the module above it.
		{"nixus.nix", "node1", `(lib.evalModules { modules = [ {
			options.nodes = lib.mkOption { type = lib.types.attrsOf (lib.types.submodule {
				options.configuration = lib.mkOption { type = (eval {
					inherit system;
					modules = [ { systemd.services.sshd.stopIfChanged = lib.mkForce true; } ];
				}).type; };
			}); };
			config.nodes.node1.configuration = ` + here + `/board-configuration.nix;
		} ]; }).config.nodes.node1.configuration.system.build.toplevel`},
	}
	everywhere(t, func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if tt.file == "nixus.nix" {
					needNewer(t, "the type of configurations")
				}
				want := instantiate(t, fmt.Sprintf(prelude, here, tt.file)+tt.expression)
				if s := evaluate(t, testNetwork(tt.file), factsOf(tt.name, "other"), tt.name)[tt.name]; s.Err != nil || s.DrvPath != want {
					t.Errorf("%s is %s (%v), nix-instantiate gives %s", tt.name, s.DrvPath, s.Err, want)
				}
			})
		}
	})
}

// A node's configuration is told the node's name, also by a nixpkgs whose module
// system would say "configuration".
func TestNixusName(t *testing.T) {
	file := write(t, `{ nodes.a = { host = "a"; nixpkgs = <nixpkgs>; configuration = { name, ... }: { boot.isContainer = true; networking.hostName = name + "1"; }; }; }`)
	onEach(t, func(t *testing.T, _ string) {
		if s := evaluate(t, testNetwork(file), Facts{})["a"]; s.Err != nil || !strings.Contains(string(s.DrvPath), "-nixos-system-a1-") {
			t.Errorf("%s, error %v", s.DrvPath, s.Err)
		}
	})
}

// Derivations are those of the tools' own Nix files, where NXTEST_PEERS names a
// folder that has their repositories as morph, colmena and nixus.
func TestFormDerivationsOfPeers(t *testing.T) {
	peers := os.Getenv("NXTEST_PEERS")
	if peers == "" {
		t.Skip("SKIPPED, NXTEST_PEERS names no folder with morph, colmena and nixus")
	}
	here, err := filepath.Abs("testdata/networks")
	if err != nil {
		t.Fatal(err)
	}
	nixus := peers + `/nixus { nixpkgs = <nixpkgs>; deploySystem = builtins.currentSystem; }`
	// The script that moves nixus' secrets into place is nixus' alone.
	bare := write(t, `{ ... }: { imports = [ `+here+`/nixus.nix ];
		defaults = { lib, ... }: { configuration.system.activationScripts.activate-secrets = lib.mkForce ""; }; }`)
	made := write(t, "import "+nixus+" "+here+"/nixus.nix")
	// They read files that ask nx for facts, too.
	asking := map[string]string{}
	for form, text := range map[string]string{
		"morph":   `{ network = { pkgs = import <nixpkgs> { }; facts = true; }; a.boot.isContainer = true; }`,
		"colmena": `{ meta = { nixpkgs = <nixpkgs>; _module.check = false; facts = true; }; a.boot.isContainer = true; }`,
		"nixus": `{ lib, ... }: { options.network.facts = lib.mkOption { type = lib.types.bool; default = true; };
			config.nodes.a = { host = "a"; nixpkgs = <nixpkgs>; configuration = { boot.isContainer = true; system.activationScripts.activate-secrets = lib.mkForce ""; }; }; }`,
	} {
		asking[form] = write(t, text)
	}
	morph := func(file string) string {
		return `mapAttrs (_: n: n.config.system.build.toplevel.drvPath) (import ` + peers + `/morph/data/eval-machines.nix { networkExpr = ` + file + `; }).nodes`
	}
	colmena := func(file string) string {
		return `mapAttrs (_: t: t.drvPath) (import ` + peers + `/colmena/src/nix/hive/eval.nix { rawHive = import ` + file + `; }).toplevel`
	}
	nixusNodes := func(made string) string {
		return `mapAttrs (_: n: n.configuration.system.build.toplevel.drvPath) (removeAttrs (` + made + `).config.nodes [ "unused" ])`
	}
	tests := []struct{ name, file, expression string }{
		{"morph", here + "/morph.nix", morph(here + "/morph.nix")},
		{"colmena", here + "/hive.nix", colmena(here + "/hive.nix")},
		{"nixus", bare, nixusNodes("import " + nixus + " " + bare)},
		{"made by nixus", made, nixusNodes("import " + made)},
		{"morph, asking", asking["morph"], morph(asking["morph"])},
		{"colmena, asking", asking["colmena"], colmena(asking["colmena"])},
		{"nixus, asking", asking["nixus"], nixusNodes("import " + nixus + " " + asking["nixus"])},
	}
	everywhere(t, func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				n := testNetwork(tt.file)
				form, _, asks := strings.Cut(tt.name, ", ")
				if form == "morph" {
					needNewer(t, "morph itself")
				}
				if form == "nixus" {
					n.Format = "nixus"
				}
				cmd := exec.Command("nix-instantiate", "--eval", "--strict", "--read-write-mode", "--json", "--expr", "with builtins; "+tt.expression)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%v: %s", err, stderr.Bytes())
				}
				want := map[string]string{}
				if err := json.Unmarshal(out, &want); err != nil {
					t.Fatal(err)
				}
				facts := Facts{}
				if !asks {
					facts = factsOf(slices.Sorted(maps.Keys(want))...)
				}
				for name, s := range evaluate(t, n, facts) {
					if s.Err != nil || string(s.DrvPath) != want[name] {
						t.Errorf("%s is %s (%v), want %s", name, s.DrvPath, s.Err, want[name])
					}
					delete(want, name)
				}
				if len(want) > 0 {
					t.Errorf("not evaluated: %v", want)
				}
			})
		}
	})
}

// A nixpkgs comes as Nix resolves it, in every form, for each machine where the
// form has that; where it comes from makes no difference to what it gives.
func TestNixpkgsSources(t *testing.T) {
	const machine = `{ boot.isContainer = true; networking.hostName = "here"; }`
	networks := map[string]string{
		"nixops":                `{ network.nixpkgs = SOURCE; here = MACHINE; }`,
		"nixops, imported":      `{ network.nixpkgs = import SOURCE { }; here = MACHINE; }`,
		"morph":                 `{ network.pkgs = import SOURCE { }; here = MACHINE; }`,
		"colmena":               `{ meta.nixpkgs = SOURCE; here = MACHINE; }`,
		"colmena, of a machine": `{ meta.nixpkgs = <nixpkgs>; meta.nodeNixpkgs.here = SOURCE; here = MACHINE; }`,
		"nixus":                 `{ nodes.here = { host = "here"; nixpkgs = SOURCE; configuration = MACHINE; }; }`,
	}
	onEachNix(t, func(t *testing.T) {
		standIn := trees(t)["stand-in"]
		dir := t.TempDir()
		copied := filepath.Join(dir, "nixpkgs")
		if err := os.CopyFS(copied, os.DirFS(standIn)); err != nil {
			t.Fatal(err)
		}
		// What is fetched says so by its version.
		if err := os.WriteFile(filepath.Join(copied, ".version"), []byte("27.05"), 0o600); err != nil {
			t.Fatal(err)
		}
		command(t, copied, "git", "init", "-q", "-b", "main")
		command(t, copied, "git", "add", "-A")
		command(t, copied, "git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-q", "-m", "first")
		rev := command(t, copied, "git", "rev-parse", "HEAD")
		command(t, copied, "git", "archive", "--prefix=nixpkgs/", "-o", filepath.Join(dir, "nixpkgs.tar.gz"), "HEAD")
		store := command(t, dir, "nix-store", "--add", copied)
		fetched := command(t, dir, "nix-prefetch-url", "--unpack", "file://"+dir+"/nixpkgs.tar.gz")
		tarball := `{ url = "file://` + dir + `/nixpkgs.tar.gz"; sha256 = "` + fetched + `"; }`
		// As niv's and npins' generated files: sets that stand for where they are.
		if err := os.WriteFile(filepath.Join(dir, "sources.nix"),
			[]byte(`{ nixpkgs = { version = 3; outPath = builtins.fetchTarball `+tarball+`; }; }`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(copied, filepath.Join(dir, "channel")); err != nil {
			t.Fatal(err)
		}
		t.Setenv("NIX_PATH", "nixpkgs="+standIn+":"+dir+":pinned="+copied)
		sources := map[string]string{
			"path":         copied,
			"NIX_PATH":     "<pinned>",
			"channel":      "<channel>",
			"fetchTarball": `(builtins.fetchTarball ` + tarball + `)`,
			"fetchGit":     `(builtins.fetchGit { url = "file://` + copied + `"; rev = "` + rev + `"; ref = "main"; })`,
			"sources":      "(import " + dir + "/sources.nix).nixpkgs",
			"store":        "(builtins.storePath " + store + ")",
		}
		for form, network := range networks {
			var want string
			for _, source := range slices.Sorted(maps.Keys(sources)) {
				if form == "nixops, imported" && source == "channel" {
					continue // a link that is imported is a path of its own
				}
				text := strings.NewReplacer("SOURCE", sources[source], "MACHINE", machine).Replace(network)
				s := evaluate(t, testNetwork(write(t, text)), Facts{})["here"]
				if s.Err != nil || !strings.Contains(string(s.DrvPath), "-nixos-system-here-27.05") {
					t.Errorf("%s from %s: %s, error %v", form, source, s.DrvPath, s.Err)
					continue
				}
				if want == "" {
					want = string(s.DrvPath)
				} else if string(s.DrvPath) != want {
					t.Errorf("%s from %s is %s, elsewhere %s", form, source, s.DrvPath, want)
				}
			}
		}
	})
}
