package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"nx/pkg/nixcmd"
	"nx/pkg/store"
)

// trees are the nixpkgs to evaluate with: the stand-in, and the real one that
// NXTEST_NIXPKGS names.
func trees(t *testing.T) map[string]string {
	t.Helper()
	required := strings.Split(os.Getenv("NXTEST_REQUIRE"), ",")
	if _, err := exec.LookPath("nix-instantiate"); err != nil {
		if slices.Contains(required, "nix") {
			t.Fatalf("nix is required: %v", err)
		}
		t.Skipf("NEEDS nix: %v", err)
	}
	t.Setenv("NIX_CONFIG", "sandbox = false\nbuild-users-group =\nsubstituters =\n"+os.Getenv("NIX_CONFIG"))
	standIn, err := filepath.Abs("../../testdata/nixpkgs")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"stand-in": standIn}
	if real := os.Getenv("NXTEST_NIXPKGS"); real != "" {
		all["real"] = real
	} else if slices.Contains(required, "nixpkgs") {
		t.Fatal("nixpkgs is required: NXTEST_NIXPKGS is not set")
	}
	return all
}

// onEach runs f with each nixpkgs as <nixpkgs>.
func onEach(t *testing.T, f func(t *testing.T, nixpkgs string)) {
	for name, tree := range trees(t) {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NIX_PATH", "nixpkgs="+tree)
			f(t, tree)
		})
	}
}

func testNetwork(files ...string) *Network {
	n := &Network{Nix: &nixcmd.Nix{}, Name: "test"}
	for _, f := range files {
		if !filepath.IsAbs(f) && !strings.Contains(f, ":") {
			f = filepath.Join("testdata/networks", f)
		}
		n.Files = append(n.Files, f)
	}
	return n
}

// write makes a network file of text.
func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "network.nix")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// evaluate returns the systems by name; no names mean all.
func evaluate(t *testing.T, n *Network, facts Facts, names ...string) map[string]System {
	t.Helper()
	if len(names) == 0 {
		about, err := n.About(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		names = about.Machines
	}
	var mu sync.Mutex
	systems := map[string]System{}
	err := n.Evaluate(t.Context(), names, facts, func(s System) {
		mu.Lock()
		defer mu.Unlock()
		if _, twice := systems[s.Name]; twice {
			t.Errorf("%s came twice", s.Name)
		}
		systems[s.Name] = s
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(systems) != len(names) {
		t.Errorf("%d systems for %d names", len(systems), len(names))
	}
	return systems
}

// instantiate gives the path of a derivation as plain Nix makes it.
func instantiate(t *testing.T, expression string) store.Path {
	t.Helper()
	cmd := exec.Command("nix-instantiate", "--expr", expression)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("nix-instantiate: %v: %s", err, stderr.String())
	}
	return store.Path(strings.TrimSpace(string(out)))
}

func TestEvaluate(t *testing.T) {
	private := Facts{Machines: map[string]MachineFacts{"db": {PrivateIPv4: "10.9.8.7"}}}
	admin := write(t, `{ web.services.httpd.adminAddr = "shop@example.org"; }`)
	tests := []struct {
		name  string
		files []string
		facts Facts
		want  map[string]System // without DrvPath
	}{
		{
			name: "another architecture", files: []string{"raspberry.nix"},
			want: map[string]System{"board": {Platform: "aarch64-linux", Target: []byte(`{"host":"192.168.1.20","sudo":["sudo","-H","--"],"user":"root"}`)}},
		},
		{
			name: "a logical and a physical file", files: []string{"shop.nix", "shop-none.nix"},
			want: map[string]System{
				"db": {Target: []byte(`{"host":"192.0.2.10","sudo":["sudo","-H","--"],"user":"root"}`)},
				"web": {Target: []byte(`{"host":"192.0.2.11","port":2222,"sudo":["sudo","-H","--"],"user":"admin"}`), Tags: []string{"public"},
					Deployment: []byte(`{"alwaysActivate":true,"hasFastConnection":false,"keys":{"database-password":{"destDir":"/run/keys","group":"root","name":"database-password","permissions":"0400","source":{"eval":"deployment.keys.database-password.text"},"uploadAt":"pre-activation","user":"root"}}}`)},
			},
		},
		{
			name: "addresses from the records, VirtualBox", files: []string{"shop.nix", "shop-virtualbox.nix", admin}, facts: private,
			want: map[string]System{"db": {}, "web": {Target: []byte(`{"host":"web","sudo":["sudo","-H","--"],"user":"root"}`)}},
		},
		{
			name: "addresses from the records, EC2", files: []string{"shop.nix", "shop-ec2.nix", admin}, facts: private,
			want: map[string]System{"db": {}, "web": {}},
		},
		{name: "a droplet", files: []string{"droplet.nix"}, want: map[string]System{"machine-1": {}}},
		{name: "a bucket's name", files: []string{"buckets.nix"}, want: map[string]System{"vault": {}}},
	}
	onEach(t, func(t *testing.T, _ string) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				got := evaluate(t, testNetwork(tt.files...), tt.facts)
				if g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(tt.want)); !slices.Equal(g, w) {
					t.Errorf("machines %q, want %q", g, w)
				}
				for name, want := range tt.want {
					s := got[name]
					if s.Err != nil {
						t.Errorf("%s: %v", name, s.Err)
						continue
					}
					if want.Platform == "" {
						want.Platform = "x86_64-linux"
					}
					if s.Platform != want.Platform || want.Target != nil && !bytes.Equal(s.Target, want.Target) || !slices.Equal(s.Tags, want.Tags) ||
						want.Deployment != nil && !bytes.Equal(s.Deployment, want.Deployment) {
						t.Errorf("%s:\n got %s %s %q %s\nwant %s %s %q %s", name, s.Platform, s.Target, s.Tags, s.Deployment,
							want.Platform, want.Target, want.Tags, want.Deployment)
					}
					if bytes.Contains(s.Deployment, []byte("not in any store")) {
						t.Errorf("%s: the deployment shows a key's contents: %s", name, s.Deployment)
					}
					if _, err := os.Stat(string(s.DrvPath)); err != nil {
						t.Errorf("%s: the derivation is not in the store: %v", name, err)
					}
				}
			})
		}
	})
}

// What the records know reaches the machine itself and those that look at it.
func TestFacts(t *testing.T) {
	file := write(t, `{
		resources.s3Buckets.b = { };
		resources.elasticIPs.ip = { };
		a = { boot.isContainer = true; };
		b = { nodes, resources, ... }: {
			boot.isContainer = true;
			environment.etc.facts.text = with nodes.a.config; builtins.toJSON [
				networking.publicIPv4 networking.privateIPv4 deployment.targetHost
				resources.s3Buckets.b.name resources.elasticIPs.ip.address
			];
		};
	}`)
	same := write(t, `{
		a = { boot.isContainer = true; };
		b = {
			boot.isContainer = true;
			environment.etc.facts.text = builtins.toJSON [ "203.0.113.1" "10.0.0.1" "gate" "taken" "203.0.113.9" ];
		};
	}`)
	onEach(t, func(t *testing.T, _ string) {
		facts := Facts{
			Machines: map[string]MachineFacts{"a": {PublicIPv4: "203.0.113.1", PrivateIPv4: "10.0.0.1", TargetHost: "gate"}},
			Resources: map[string]map[string]json.RawMessage{
				"s3Buckets":  {"b": json.RawMessage(`{"name":"taken"}`)},
				"elasticIPs": {"ip": json.RawMessage(`{"address":"203.0.113.9"}`)},
			},
		}
		got := evaluate(t, testNetwork(file), facts, "b")["b"]
		want := evaluate(t, testNetwork(same), Facts{}, "b")["b"]
		if got.Err != nil || want.Err != nil || got.DrvPath != want.DrvPath {
			t.Errorf("with facts %s (%v), written out %s (%v)", got.DrvPath, got.Err, want.DrvPath, want.Err)
		}
		missing := evaluate(t, testNetwork(file), Facts{}, "b")["b"]
		if missing.Err == nil || !strings.Contains(missing.Err.Error(), "privateIPv4") {
			t.Errorf("without facts: %v, want an error that names what is missing", missing.Err)
		}
	})
}

// A machine without facts is what nix-instantiate makes of its modules, with
// our options declared, or without any of ours.
func TestDerivationIsPlain(t *testing.T) {
	onEach(t, func(t *testing.T, _ string) {
		here, err := filepath.Abs(".")
		if err != nil {
			t.Fatal(err)
		}
		plain := func(name, modules, specialArgs string) store.Path {
			return instantiate(t, fmt.Sprintf(`
				let
					net = file: import (%[1]s/testdata/networks + "/${file}");
					lib = import <nixpkgs/lib>;
					undeclared = { options.deployment = lib.mkOption { type = lib.types.attrsOf lib.types.unspecified; default = { }; };
						options.networking.privateIPv4 = lib.mkOption { type = lib.types.str; }; };
					machine = modules: (import <nixpkgs/nixos/lib/eval-config.nix> {
						modules = modules ++ [ { networking.hostName = lib.mkOverride 900 "%[2]s"; } ];
						specialArgs = %[4]s;
					}).config.system.build.toplevel;
				in machine (%[3]s)`, here, name, modules, specialArgs))
		}
		got := evaluate(t, testNetwork("raspberry.nix"), Facts{})
		maps.Copy(got, evaluate(t, testNetwork("shop.nix", "shop-none.nix"), Facts{}))
		db := `[ (net "shop.nix").db (net "shop-none.nix").db (net "shop.nix").defaults `
		web := `[ (net "shop.nix").web (net "shop-none.nix").web (net "shop.nix").defaults `
		nodes := `{ nodes.db.config.networking.privateIPv4 = "10.0.0.10"; }`
		ours := here + "/nix/deployment.nix ]"
		tests := []struct{ name, modules, specialArgs string }{
			{"board", `[ (net "raspberry.nix").board ` + ours, "{ }"},
			{"board", `[ (net "raspberry.nix").board undeclared ]`, "{ }"},
			{"db", db + ours, "{ }"},
			{"db", db + "undeclared ]", "{ }"},
			{"web", web + ours, nodes}, // with units for its key, which are nothing without ours
		}
		for _, tt := range tests {
			want := plain(tt.name, tt.modules, tt.specialArgs)
			if s := got[tt.name]; s.Err != nil || s.DrvPath != want {
				t.Errorf("%s is %s (%v), nix-instantiate of %s gives %s", tt.name, s.DrvPath, s.Err, tt.modules, want)
			}
		}
	})
}

// Where the binary keeps its Nix files enters no derivation, nor does the way
// that nixpkgs is reached, also where the manual has the options of all modules.
func TestDerivationHasNoPlace(t *testing.T) {
	onEach(t, func(t *testing.T, nixpkgs string) {
		all := ""
		if nixpkgs == os.Getenv("NXTEST_NIXPKGS") {
			all = "documentation.nixos.includeAllModules = true;"
		}
		machine := `host = { boot.isContainer = true; ` + all + ` };`
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(nixpkgs, link); err != nil {
			t.Fatal(err)
		}
		var first System
		for i, file := range []string{
			write(t, `{ `+machine+` }`),
			write(t, `{ network.nixpkgs = `+link+`; `+machine+` }`),
			write(t, `{ network.nixpkgs = import <nixpkgs> { config = { }; overlays = [ ]; }; `+machine+` }`),
		} {
			t.Setenv("TMPDIR", t.TempDir())
			s := evaluate(t, testNetwork(file), Facts{})["host"]
			if s.Err != nil {
				t.Fatal(s.Err)
			}
			if i == 0 {
				first = s
			} else if s.DrvPath != first.DrvPath {
				t.Errorf("%s: %s, want %s", file, s.DrvPath, first.DrvPath)
			}
		}
	})
}

// Whatever ends the evaluator is the error of one machine, in Nix' words.
func TestEvaluateBroken(t *testing.T) {
	tests := []struct {
		machine string
		message string // in it
		at      string // the file in the message or its place; empty where Nix tells none
	}{
		{"abort", "given up", "broken.nix"},
		{"assertion", "this never holds", ""},
		{"attribute", "attribute 'nothing' missing", "broken.nix:8:"},
		{"crash", "stack overflow", ""},
		{"file", "there-is-none.nix", "there-is-none.nix"},
		{"option", "services.nothingKnown", "broken.nix"},
		{"recursion", "infinite recursion", "broken.nix:12:"},
		{"syntax", "syntax error", "syntax-error:2:"},
		{"throw", "not like this nor like that", "broken.nix"},
		{"type", "cannot add a string to an integer", "broken.nix:15:"},
		{"value", "networking.hostName", "broken.nix"},
		{"gone", `the network has no machine "gone"`, ""},
	}
	onEach(t, func(t *testing.T, _ string) {
		names := []string{"a-sound", "z-sound"}
		for _, tt := range tests {
			names = append(names, tt.machine)
		}
		slices.Sort(names)
		got := evaluate(t, testNetwork("broken.nix"), Facts{}, names...)
		for _, sound := range []string{"a-sound", "z-sound"} {
			if s := got[sound]; s.Err != nil {
				t.Errorf("%s: %v", sound, s.Err)
			}
		}
		for _, tt := range tests {
			err := got[tt.machine].Err
			if err == nil {
				t.Errorf("%s: no error", tt.machine)
				continue
			}
			said := err.Error()
			if !strings.HasPrefix(said, "evaluate configuration: ") || strings.Contains(said, "\n") ||
				!strings.Contains(said, tt.message) || !strings.Contains(said, tt.at) {
				t.Errorf("%s: %q\nwant %q and %q in it", tt.machine, said, tt.message, tt.at)
			}
			var e *EvalError
			if errors.As(err, &e) && !strings.HasPrefix(e.Log(), "error: ") {
				t.Errorf("%s: log %q, want Nix' message", tt.machine, e.Log())
			}
		}
	})
}

// What all machines share is the network's error, not each machine's.
// However a machine with a key fails, the key's text is in no message and no log.
func TestErrorsHaveNoKeys(t *testing.T) {
	const secret = "hunter-number-2"
	n := testNetwork(write(t, `{
		defaults.boot.isContainer = true;
		line = {
			deployment.keys.db.text = "`+secret+`";
			environment.etc.x.text = toString (1 + "a");
			deployment.keys.db2.text = "`+secret+`";
		};
		string = { deployment.keys.db = "`+secret+`"; };
		keys = { deployment.keys = "`+secret+`"; };
		twice = { config, ... }: {
			imports = [ { deployment.keys.db.text = "`+secret+`"; } ];
			deployment.keys.db.text = "other";
			environment.etc.x.text = config.deployment.keys.db.text;
		};
		misspelt = { deployment.keys.db.txt = "`+secret+`"; };
		coerced = { environment.etc.x.text = "${{ a = "`+secret+`"; }}"; };
		called = { environment.etc.x.text = "`+secret+`" 1; };
		asserted = { environment.etc.x.text = assert "`+secret+`" == "b"; "a"; };
		json = { environment.etc.x.text = builtins.fromJSON "{\"a\": `+secret+`}"; };
		toml = { environment.etc.x.text = builtins.fromTOML "a = `+secret+`"; };
	}`))
	onEach(t, func(t *testing.T, _ string) {
		for name, s := range evaluate(t, n, Facts{}) {
			var logged interface{ Log() string }
			if !errors.As(s.Err, &logged) {
				t.Errorf("%s: error %v, want one with a log", name, s.Err)
				continue
			}
			if all := s.Err.Error() + logged.Log(); strings.Contains(all, secret) {
				t.Errorf("%s: the key is in\n%s", name, all)
			}
		}
	})
}

func TestNetworkBroken(t *testing.T) {
	tests := []struct {
		name, text, want string
	}{
		{"syntax", "{\n  a = {;\n}\n", "network.nix:2:"},
		{"no set", `"what"`, ""},
		{"a name that is none", `{ "-oProxyCommand" = { }; }`, `machine: the name "-oProxyCommand" has '-'`},
		{"an argument is missing", `{ size }: { a = { }; }`, "'size'"},
		{"a required file is missing", `{ require = [ ./gone.nix ]; }`, "gone.nix"},
	}
	t.Setenv("NIX_PATH", "nixpkgs="+trees(t)["stand-in"])
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, tt.text)
			_, err := testNetwork(file).About(t.Context())
			if err == nil || !strings.HasPrefix(err.Error(), "read network "+file+": ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
	if _, err := testNetwork("/there/is/none.nix").About(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want %v", err, os.ErrNotExist)
	}
}

func TestFormsOfNetworks(t *testing.T) {
	onEach(t, func(t *testing.T, _ string) {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"default.nix": `{ host, other ? "unset" }: {
				network = { description = "called"; storage.legacy = { }; lock.noop = { }; };
				require = [ ./more.nix ];
				defaults = { deployment.tags = [ "all" ]; };
				a = { name, uuid, deploymentName, lib, pkgs, ... }: {
					deployment.targetHost = host;
					deployment.tags = [ name uuid deploymentName other ];
				};
			}`,
			"more.nix": `{ network.enableRollback = true; require = [ ./default.nix ]; b = ./b.nix; a.deployment.tags = [ "more" ]; }`,
			"b.nix":    `{ config, ... }: { deployment.targetPort = 23; networking.hostName = "bee"; }`,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n := testNetwork(dir)
		n.Name, n.UUID = "", "2fbf2d4e-0000-0000-0000-000000000000"
		n.Args = []string{"--argstr", "host", `"; abort "not data`, "--arg", "unused", "1"}
		d, err := n.Describe(t.Context(), Facts{})
		if err != nil {
			t.Fatal(err)
		}
		if d.Description != "called" || !d.EnableRollback || d.Name != filepath.Base(dir) || d.UUID != n.UUID || len(d.Machines) != 2 {
			t.Fatalf("description %+v", d)
		}
		a, b := d.Machines[0], d.Machines[1]
		var got struct {
			TargetHost string
			TargetPort int
		}
		if err := errors.Join(a.Err, b.Err, json.Unmarshal(a.Deployment, &got)); err != nil || got.TargetHost != `"; abort "not data` || got.TargetPort != 22 {
			t.Errorf("a: %s, error %v", a.Deployment, err)
		}
		if err := json.Unmarshal(b.Deployment, &got); err != nil || got.TargetHost != "b" || got.TargetPort != 23 {
			t.Errorf("b: %s, error %v", b.Deployment, err)
		}
		if want := []string{"a", n.UUID, d.Name, "unset", "more", "all"}; !slices.Equal(slices.Sorted(slices.Values(a.Tags)), slices.Sorted(slices.Values(want))) {
			t.Errorf("a: tags %q, want %q", a.Tags, want)
		}
	})
}

// Describe asks lightly and, where a machine looks at more of NixOS than that
// knows, in full. Both say the same as the evaluation.
func TestDescribe(t *testing.T) {
	file := write(t, `{
		resources.sshKeyPairs.key = { };
		resources.ec2KeyPairs.pair = { lib, ... }: { region = lib.mkDefault "eu-west-1"; };
		resources.ec2KeyPairs.deep = { nodes, ... }: { ssh = nodes.deep.config.services.openssh.enable; };
		resources.broken.one = throw "no such thing";
		simple = { resources, ... }: {
			boot.isContainer = true;
			deployment = {
				targetEnv = "ec2";
				ec2 = { keyPair = resources.ec2KeyPairs.pair; privateKey = ./key; };
				keys.secret.text = "hush";
				keys.other.keyFile = ./key;
			};
		};
		deep = { config, pkgs, lib, ... }: {
			boot.isContainer = true;
			services.openssh = { enable = true; ports = [ 2022 ]; };
			deployment.tags = lib.optional config.services.openssh.enable "ssh" ++ [ pkgs.stdenv.hostPlatform.system ];
		};
		wrong = { deployment.targetPort = "many"; };
	}`)
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "key"), []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	onEach(t, func(t *testing.T, _ string) {
		n := testNetwork(file)
		d, err := n.Describe(t.Context(), Facts{})
		if err != nil {
			t.Fatal(err)
		}
		machines := map[string]Machine{}
		for _, m := range d.Machines {
			machines[m.Name] = m
		}
		const common = `"privilegeEscalationCommand":["sudo","-H","--"]`
		if got, want := string(machines["simple"].Deployment), `{"ec2":{"keyPair":{"resource":{"name":"pair","type":"ec2KeyPairs"}},"privateKey":"`+
			filepath.Dir(file)+`/key"},`+common+`,"targetEnv":"ec2","targetHost":"simple","targetPort":22,"targetUser":"root"}`; got != want {
			t.Errorf("simple (%v)\n got %s\nwant %s", machines["simple"].Err, got, want)
		}
		if m := machines["deep"]; m.Err != nil || !strings.Contains(string(m.Deployment), `"targetPort":2022`) || !slices.Equal(m.Tags, []string{"ssh", "x86_64-linux"}) {
			t.Errorf("deep: %s, %q, %v", m.Deployment, m.Tags, m.Err)
		}
		if m := machines["wrong"]; m.Err == nil || !strings.Contains(m.Err.Error(), "targetPort") {
			t.Errorf("wrong: error %v", m.Err)
		}
		systems := evaluate(t, n, Facts{}, "simple", "deep")
		for name, s := range systems {
			if s.Err != nil || !slices.Equal(s.Tags, machines[name].Tags) {
				t.Errorf("%s: evaluated with tags %q (%v), described with %q", name, s.Tags, s.Err, machines[name].Tags)
			}
			if bytes.Contains(s.Deployment, []byte("hush")) {
				t.Errorf("%s shows a secret: %s", name, s.Deployment)
			}
		}
		want := []string{
			`broken.one  error`,
			`ec2KeyPairs.deep {"name":"charon-` + d.UUID + `-deep","ssh":true} fine`,
			`ec2KeyPairs.pair {"name":"charon-` + d.UUID + `-pair","region":"eu-west-1"} fine`,
			`sshKeyPairs.key {"name":"nixops-` + d.UUID + `-key"} fine`,
		}
		var got []string
		for _, r := range d.Resources {
			how := "fine"
			if r.Err != nil {
				how = "error"
			}
			got = append(got, fmt.Sprintf("%s.%s %s %s", r.Type, r.Name, r.Config, how))
		}
		if !slices.Equal(got, want) {
			t.Errorf("resources\n got %q\nwant %q", got, want)
		}
	})
}

// What is accepted but would leave a machine without its disks is said.
func TestUnsupportedOptions(t *testing.T) {
	file := write(t, `{
		defaults.boot.isContainer = true;
		luks.deployment.autoLuks.data.device = "/dev/sdb";
		links.deployment.encryptedLinksTo = [ "luks" ];
		sound.deployment = { owners = [ "me@example.org" ]; alwaysActivate = false; };
	}`)
	onEach(t, func(t *testing.T, _ string) {
		got := evaluate(t, testNetwork(file), Facts{})
		for name, want := range map[string]string{"luks": "deployment.autoLuks is not supported", "links": "deployment.encryptedLinksTo is not supported"} {
			if err := got[name].Err; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %q in it", name, err, want)
			}
		}
		if s := got["sound"]; s.Err != nil || !bytes.Contains(s.Deployment, []byte(`"alwaysActivate":false`)) {
			t.Errorf("sound: %s, %v", s.Deployment, s.Err)
		}
	})
}

func TestSeal(t *testing.T) {
	onEach(t, func(t *testing.T, _ string) {
		file := write(t, `{
			whole = { boot.isContainer = true; environment.etc.src.source = ./.; };
			clean = { boot.isContainer = true; environment.etc.src.source =
				builtins.filterSource (path: _: baseNameOf path != ".nx") ./.; };
		}`)
		for range 2 { // sealed already is fine
			if err := Seal(filepath.Join(filepath.Dir(file), ".nx")); err != nil {
				t.Fatal(err)
			}
		}
		got := evaluate(t, testNetwork(file), Facts{})
		var hinted interface{ Hint() string }
		if err := got["whole"].Err; !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "src = ./.") {
			t.Errorf("whole: error %v, want one with a hint", err)
		}
		if err := got["clean"].Err; err != nil {
			t.Errorf("clean: %v", err)
		}
	})
}

// A script is an evaluator that answers without Nix: with "NAME crash" it ends
// at that machine, and it says which items each process was asked for.
type script struct {
	crash map[string]bool
	about string
	told  func(name string) // before the next answer is given

	mu        sync.Mutex
	processes [][]string
}

func (s *script) EvalFlake(context.Context, []string, []string, func(string, int), func(string, int, int)) (unseen, err error) {
	return nil, errors.New("no flake is evaluated here")
}

func (s *script) FlakeMetadata(context.Context, []string, func(string), func(string, int, int)) (out []byte, unseen, err error) {
	return nil, nil, errors.New("there is no flake here")
}

func (s *script) Traces() bool { return false }

func (s *script) Identity() (string, error) { return "script", nil }

func (s *script) Invalid(context.Context, ...store.Path) ([]store.Path, error) { return nil, nil }

func (s *script) Instantiate(ctx context.Context, args, _ []string, line func(string, int), _ func(string, int, int)) (unseen, err error) {
	say := func(l string) { line(l, os.Getpid()) }
	b, err := os.ReadFile(args[slices.Index(args, "nxRequest")+1])
	if err != nil {
		return nil, err
	}
	var q request
	if err := json.Unmarshal(b, &q); err != nil {
		return nil, err
	}
	if q.Items[0].Kind == "network" {
		say(q.Mark + s.about)
		return nil, nil
	}
	var names []string
	for _, it := range q.Items {
		names = append(names, it.Name)
	}
	s.mu.Lock()
	s.processes = append(s.processes, names)
	s.mu.Unlock()
	for _, name := range names {
		say("trace: looking at " + name)
		say("error: this is a trace of the user's too")
		if s.crash[name] {
			return nil, errors.New("signal: killed")
		}
		say("trace: " + q.Mark + `{"drvPath":"` + store.Dir + `/00000000000000000000000000000000-x.drv","system":"` + name + `"}`)
		if s.told != nil {
			s.told(name)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// Machines are told of one by one while their evaluator runs; one that kills it
// costs the others nothing but another process.
func TestDriver(t *testing.T) {
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("m%02d", i))
	}
	about, err := json.Marshal(About{Machines: names})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	told := map[string]bool{}
	s := &script{about: string(about), crash: map[string]bool{"m03": true, "m11": true}}
	s.told = func(name string) {
		mu.Lock()
		defer mu.Unlock()
		if !told[name] {
			t.Errorf("%s was answered but is not told of before the next answer", name)
		}
	}
	n := testNetwork("shop.nix")
	n.Nix, n.Jobs = s, 2
	err = n.Evaluate(t.Context(), names, Facts{}, func(sys System) {
		mu.Lock()
		defer mu.Unlock()
		told[sys.Name] = true
		if (sys.Err != nil) != s.crash[sys.Name] {
			t.Errorf("%s: error %v", sys.Name, sys.Err)
		}
		if sys.Err == nil && sys.Platform != sys.Name {
			t.Errorf("%s got the answer of %s", sys.Name, sys.Platform)
		}
	})
	if err != nil || len(told) != len(names) {
		t.Errorf("%d machines told of, error %v, want %d", len(told), err, len(names))
	}
	slices.SortFunc(s.processes, slices.Compare)
	want := [][]string{names[0:5], names[4:5], names[5:10], names[10:12]}
	if !slices.EqualFunc(s.processes, want, slices.Equal) {
		t.Errorf("processes\n got %q\nwant %q", s.processes, want)
	}
}

// An evaluator that has more memory than it may is ended after a machine, and the
// rest goes on in a new one.
func TestDriverMemory(t *testing.T) {
	s := &script{about: `{"Machines":["a","b","c","d"]}`, crash: map[string]bool{"c": true}}
	n := testNetwork("shop.nix")
	n.Nix, n.Jobs, n.MaxMemory = s, 1, 1
	var told []string
	err := n.Evaluate(t.Context(), []string{"a", "b", "c", "d"}, Facts{}, func(sys System) {
		told = append(told, fmt.Sprint(sys.Name, sys.Err != nil))
	})
	if want := []string{"afalse", "bfalse", "ctrue", "dfalse"}; err != nil || !slices.Equal(told, want) {
		t.Errorf("told of %q, error %v, want %q", told, err, want)
	}
	if want := [][]string{{"a", "b", "c", "d"}, {"b", "c", "d"}, {"c", "d"}, {"d"}}; !slices.EqualFunc(s.processes, want, slices.Equal) {
		t.Errorf("processes\n got %q\nwant %q", s.processes, want)
	}
}

// deadly runs Nix with an evaluator that is killed when it comes to a machine:
// that machine's first evaluators, as many as kills has for it.
type deadly struct {
	nixcmd.Nix
	mu        sync.Mutex
	kills     map[string]int
	processes int
}

func (d *deadly) Instantiate(ctx context.Context, args, env []string, line func(string, int), saw func(string, int, int)) (unseen, err error) {
	d.mu.Lock()
	d.processes++
	d.mu.Unlock()
	return d.Nix.Instantiate(ctx, args, env, func(l string, pid int) {
		name, reached := strings.CutPrefix(l, "trace: reached ")
		if d.mu.Lock(); reached && d.kills[name] > 0 {
			d.kills[name]--
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				panic(err)
			}
		}
		d.mu.Unlock()
		line(l, pid)
	}, saw)
}

// A machine whose evaluator is killed, as the kernel does for memory, is
// evaluated again alone; killed again, it fails, and the others go on.
func TestEvaluatorKilled(t *testing.T) {
	t.Setenv("NIX_PATH", "nixpkgs="+trees(t)["stand-in"])
	file := write(t, `let
		# Long enough to be killed in.
		reached = name: builtins.seq (builtins.trace "reached ${name}" name)
			(builtins.foldl' (n: _: n) true (builtins.genList (n: n) (if builtins.elem name [ "m2" "m4" ] then 5000000 else 0)));
	in builtins.listToAttrs (map (name: { inherit name; value = { boot.isContainer = reached name; }; })
		[ "m1" "m2" "m3" "m4" "m5" ])`)
	d := &deadly{kills: map[string]int{"m2": 1, "m4": 2}}
	n := testNetwork(file)
	n.Nix, n.Jobs = d, 1
	got := evaluate(t, n, Facts{})
	for name, s := range got {
		if (s.Err != nil) != (name == "m4") {
			t.Errorf("%s: error %v", name, s.Err)
		}
	}
	var hinted interface{ Hint() string }
	if err := got["m4"].Err; err == nil || !strings.Contains(err.Error(), "nix-instantiate: signal: killed") || !strings.HasSuffix(err.Error(), ", twice") || !errors.As(err, &hinted) {
		t.Errorf("m4: error %v, want one that says so with a hint", err)
	}
	// About, twice; up to m2; m2; up to m4; m4; m5.
	if want := 7; d.processes != want || d.kills["m2"]+d.kills["m4"] != 0 {
		t.Errorf("%d processes with kills left %v, want %d and none", d.processes, d.kills, want)
	}
}

// Nix' garbage collector is set as its user says, where the user does.
func TestLimits(t *testing.T) {
	for _, name := range []string{"GC_INITIAL_HEAP_SIZE", "GC_FREE_SPACE_DIVISOR"} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	n := &Network{MaxMemory: 1000}
	if got, want := n.limits(2), (limits{1000, []string{"GC_INITIAL_HEAP_SIZE=900", "GC_FREE_SPACE_DIVISOR=1"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("limits %v, want %v", got, want)
	}
	t.Setenv("GC_INITIAL_HEAP_SIZE", "7")
	if got, want := n.limits(2).env, []string{"GC_FREE_SPACE_DIVISOR=1"}; !slices.Equal(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
	n.MaxMemory = 0
	if one, four := n.limits(1).memory, n.limits(4).memory; four < 1<<20 || one < 2*four {
		t.Errorf("%d bytes for one worker, %d for each of four", one, four)
	}
}

// Every item is in one chunk, and no worker gets all while others get none.
func TestQueue(t *testing.T) {
	tests := []struct {
		items, workers int
		want           []int
	}{
		{0, 2, nil},
		{1, 1, []int{1}},
		{3, 2, []int{2, 1}},
		{10, 2, []int{5, 5}},
		{12, 2, []int{5, 5, 2}},
		{12, 1, []int{12}},
		{20, 2, []int{5, 5, 5, 5}},
		{200, 2, []int{50, 37, 28, 21, 16, 12, 9, 6, 5, 5, 5, 5, 1}},
		{8, 4, []int{2, 2, 2, 2}},
	}
	for _, tt := range tests {
		q := newQueue(make([]item, tt.items), tt.workers)
		var got []int
		for chunk := q.next(); len(chunk) > 0; chunk = q.next() {
			got = append(got, len(chunk))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%d items among %d workers: %v, want %v", tt.items, tt.workers, got, tt.want)
		}
	}
}

func TestDriverCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &script{about: `{"Machines":["a","b"]}`, crash: map[string]bool{"b": true}, told: func(string) { cancel() }}
	n := testNetwork("shop.nix")
	n.Nix, n.Jobs = s, 1
	var told []string
	err := n.Evaluate(ctx, []string{"a", "b"}, Facts{}, func(sys System) { told = append(told, sys.Name) })
	if !errors.Is(err, context.Canceled) || !slices.Equal(told, []string{"a"}) {
		t.Errorf("told of %q, error %v, want a and %v", told, err, context.Canceled)
	}
}

func TestUUID(t *testing.T) {
	// python3 -c 'import uuid; print(uuid.uuid5(uuid.NAMESPACE_URL, "nx:shop"))'
	if got, want := uuid5("shop"), "89874f2b-dea6-51a8-8e54-2e797a0c11d6"; got != want {
		t.Errorf("uuid5 = %s, want %s", got, want)
	}
}
