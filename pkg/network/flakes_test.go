package network

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// nixCommand runs nix in dir and returns what it prints.
func nixCommand(t *testing.T, dir string, args ...string) string {
	t.Helper()
	return command(t, dir, "nix", append([]string{"--extra-experimental-features", "nix-command flakes"}, args...)...)
}

func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// writeFlake makes a flake of outputs, a function of { self, nixpkgs, ... }.
func writeFlake(t *testing.T, nixpkgs, outputs string) string {
	t.Helper()
	dir := t.TempDir()
	text := `{ inputs.nixpkgs.url = "` + nixpkgs + `"; outputs = { self, nixpkgs, ... }: ` + outputs + `; }`
	if err := os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// onEachFlakeNix runs f with each Nix and the stand-in as a flake reference.
func onEachFlakeNix(t *testing.T, f func(t *testing.T, nixpkgs string)) {
	onEachNix(t, func(t *testing.T) {
		t.Setenv("NIX_PATH", "")
		f(t, "path:"+trees(t)["stand-in"])
	})
}

// toplevel is what nix eval says of a flake's machine.
func toplevel(t *testing.T, flake, name string, args ...string) string {
	t.Helper()
	return nixCommand(t, ".", append([]string{"eval", "--raw", "--no-write-lock-file",
		flake + "#nixosConfigurations." + name + ".config.system.build.toplevel.drvPath"}, args...)...)
}

func TestFlake(t *testing.T) {
	want := map[string]System{
		"gamma": {
			Target:     []byte(`{"host":"gamma.example.org","sudo":["sudo","-u","root"],"user":"root"}`),
			Deployment: []byte(`{"buildOnTarget":false,"hasFastConnection":true,"keys":{}}`),
		},
		"delta": {
			Target:     []byte(`{"host":"delta.example.org","port":2222,"sudo":["sudo","-u","root"],"user":"deploy"}`),
			Deployment: []byte(`{"buildOnTarget":true,"hasFastConnection":false,"keys":{},"magicRollback":false,"successTimeout":60}`),
		},
		"own": {
			Tags:   []string{"own"},
			Target: []byte(`{"host":"own.example.org","port":2200}`),
			Deployment: []byte(`{"buildOnTarget":false,"hasFastConnection":false,"keys":{"token":{` +
				`"destDir":"/run/keys","group":"root","name":"token","permissions":"0400","source":{"command":["echo","from the command"]},"uploadAt":"pre-activation","user":"root"}}}`),
		},
	}
	onEachFlakeNix(t, func(t *testing.T, nixpkgs string) {
		// Not in this repository: there a flake has only what git knows of.
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS("testdata/networks/flake")); err != nil {
			t.Fatal(err)
		}
		n := testNetwork(dir)
		n.OverrideInputs = [][2]string{{"nixpkgs", nixpkgs}}
		about, err := n.About(t.Context())
		if err != nil || about.Form != "flake" || len(about.Warnings) != 1 || !strings.HasPrefix(about.Warnings[0], "deploy.nodes.phone is left out") {
			t.Fatalf("about %+v, error %v", about, err)
		}
		// What is known of the world is for networks of files.
		facts := Facts{Machines: map[string]MachineFacts{"gamma": {TargetHost: "elsewhere", PublicIPv4: "192.0.2.1"}}}
		got := evaluate(t, n, facts)
		if err := got["broken"].Err; err == nil || !strings.Contains(err.Error(), "out of order") {
			t.Errorf("broken: error %v", err)
		}
		delete(got, "broken")
		if g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)); !slices.Equal(g, w) {
			t.Errorf("machines %q, want %q", g, w)
		}
		for name, w := range want {
			s := got[name]
			if s.Err != nil || string(s.Target) != string(w.Target) || string(s.Deployment) != string(w.Deployment) || !slices.Equal(s.Tags, w.Tags) {
				t.Errorf("%s (%v)\n got %s %q %s\nwant %s %q %s", name, s.Err, s.Target, s.Tags, s.Deployment, w.Target, w.Tags, w.Deployment)
			}
			if drv := toplevel(t, n.Files[0], name, "--override-input", "nixpkgs", nixpkgs); string(s.DrvPath) != drv {
				t.Errorf("%s is %s, nix eval says %s", name, s.DrvPath, drv)
			}
			if _, err := os.Stat(string(s.DrvPath)); err != nil {
				t.Errorf("%s: the derivation is not in the store: %v", name, err)
			}
		}
		// With no memory for more, each machine has an evaluator of its own.
		nix := &counter{}
		n.Nix, n.MaxMemory, n.Jobs = nix, 1, 2
		for name, s := range evaluate(t, n, facts) {
			if s.DrvPath != got[name].DrvPath {
				t.Errorf("%s alone is %s, error %v; with others %s", name, s.DrvPath, s.Err, got[name].DrvPath)
			}
		}
		// About, twice; broken is in got no longer. One may answer again before it is ended.
		if want := 2 + len(got) + 1; nix.processes > want || nix.processes < want-1 {
			t.Errorf("%d processes, want %d", nix.processes, want)
		}
		d, err := n.Describe(t.Context(), Facts{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range d.Machines {
			if w, ok := want[m.Name]; ok && string(m.Target) != string(w.Target) {
				t.Errorf("%s is reached by %s (%v), want %s", m.Name, m.Target, m.Err, w.Target)
			}
			if m.Name == "delta" && string(m.Deployment) != `{"privilegeEscalationCommand":["sudo","-u","root"],"targetEnv":"none","targetHost":"delta.example.org","targetPort":2222,"targetUser":"deploy"}` {
				t.Errorf("delta is described as %s (%v)", m.Deployment, m.Err)
			}
		}
		for query, want := range map[string]string{
			"nodes.gamma.config.networking.hostName":                         `"gamma"`,
			"{ lib, nodes, resources }: [ (lib.attrNames nodes) resources ]": `[["broken","delta","gamma","own"],{}]`,
			"nodes.broken.config.services.openssh.enable":                    "out of order",
			"nodes.gamma.config.none":                                        "attribute 'none' missing",
		} {
			value, err := n.Query(t.Context(), query, Facts{})
			if err != nil && strings.HasPrefix(err.Error(), "query "+query+": ") && strings.Contains(err.Error(), want) {
				continue
			}
			if err != nil || string(value) != want {
				t.Errorf("query %s\n got %s, error %v\nwant %s", query, value, err, want)
			}
		}
		var hinted interface{ Hint() string }
		if _, err := n.Query(t.Context(), "import ./file.nix", Facts{}); !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "working directory") {
			t.Errorf("a query with a relative path: error %v, want one with a hint", err)
		}
		if _, err := os.Stat(filepath.Join(n.Files[0], "flake.lock")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("flake.lock: %v, want %v", err, os.ErrNotExist)
		}
	})
}

// A flake in a repository is what the repository has, also below its top and with
// changes that are not committed; inputs are those of its lock file.
func TestFlakeInRepository(t *testing.T) {
	git := func(dir string, args ...string) {
		command(t, dir, "git", append([]string{"-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "protocol.file.allow=always"}, args...)...)
	}
	onEachFlakeNix(t, func(t *testing.T, nixpkgs string) {
		top := t.TempDir()
		tree := filepath.Join(top, "nixpkgs")
		if err := os.CopyFS(tree, os.DirFS(strings.TrimPrefix(nixpkgs, "path:"))); err != nil {
			t.Fatal(err)
		}
		git(tree, "init", "-q", "-b", "main")
		git(tree, "add", "-A")
		git(tree, "commit", "-q", "-m", "first")

		repo := filepath.Join(top, "repo")
		dir := filepath.Join(repo, "machines")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		flake := func(text string) {
			t.Helper()
			err := os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(`{
				inputs.nixpkgs.url = "git+file://`+tree+`";
				outputs = { self, nixpkgs }: { nixosConfigurations.a = nixpkgs.lib.nixosSystem { system = "x86_64-linux"; modules = [ {
					boot.isContainer = true;
					environment.etc.source.text = "`+text+` ${self.outPath} ${self.rev or "dirty"}";
				} ]; }; };
			}`), 0o600)
			if err != nil {
				t.Fatal(err)
			}
		}
		flake("first")
		git(repo, "init", "-q", "-b", "main")
		git(repo, "add", "-A")
		nixCommand(t, dir, "flake", "lock")
		git(repo, "add", "-A")
		git(repo, "commit", "-q", "-m", "first")

		// Later revisions are not what the lock file says.
		if err := os.WriteFile(filepath.Join(tree, ".version"), []byte("27.05"), 0o600); err != nil {
			t.Fatal(err)
		}
		git(tree, "commit", "-q", "-a", "-m", "second")

		before, err := os.ReadFile(filepath.Join(dir, "flake.lock"))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"first", "changed"} {
			flake(text)
			s := evaluate(t, testNetwork(dir), Facts{})["a"]
			if want := toplevel(t, dir, "a"); s.Err != nil || string(s.DrvPath) != want || !strings.Contains(want, "-26.11") {
				t.Errorf("%s: %s (%v), nix eval says %s", text, s.DrvPath, s.Err, want)
			}
			s = evaluate(t, testNetwork("git+file://"+repo+"?dir=machines"), Facts{})["a"]
			if want := toplevel(t, dir, "a"); s.Err != nil || string(s.DrvPath) != want {
				t.Errorf("%s by its URL: %s (%v), nix eval says %s", text, s.DrvPath, s.Err, want)
			}
		}
		if after, err := os.ReadFile(filepath.Join(dir, "flake.lock")); err != nil || string(after) != string(before) {
			t.Errorf("flake.lock is %s, error %v, was %s", after, err, before)
		}
	})
}

// Whatever its inputs are and however they are found, a flake's machine is what
// nix eval says: the text shows all that a flake sees of itself and of them.
func TestFlakeInputs(t *testing.T) {
	const shown = `builtins.toJSON (let show = f: { inherit (f) outPath; info = f.sourceInfo or f; type = f._type or ""; inputs = builtins.mapAttrs (_: show) (f.inputs or { }); }; in show (removeAttrs self [ "nixosConfigurations" ]))`
	flake := func(inputs string) string {
		return `{ inputs = { ` + inputs + ` }; outputs = { self, nixpkgs, ... }: { nixosConfigurations.a = nixpkgs.lib.nixosSystem { system = "x86_64-linux"; modules = [ {
			boot.isContainer = true;
			environment.etc.shown.text = ` + shown + `;
		} ]; }; }; }`
	}
	git := func(dir string, args ...string) {
		command(t, dir, "git", append([]string{"-c", "user.name=test", "-c", "user.email=test@example.org"}, args...)...)
	}
	onEachFlakeNix(t, func(t *testing.T, nixpkgs string) {
		top := t.TempDir()
		put := func(name, text string) {
			t.Helper()
			file := filepath.Join(top, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put("data/file", "x")
		put("leaf/flake.nix", `{ outputs = { self }: { leaf = 1; }; }`)
		put("other/flake.nix", `{ outputs = { self }: { other = 1; }; }`)
		put("branch/flake.nix", `{ inputs.leaf.url = "path:`+top+`/leaf"; inputs.data = { url = "path:`+top+`/data"; flake = false; }; outputs = { self, ... }: { }; }`)
		put("repo/below/flake.nix", `{ outputs = { self }: { below = 1; }; }`)
		git(filepath.Join(top, "repo"), "init", "-q", "-b", "main")
		git(filepath.Join(top, "repo"), "add", "-A")
		git(filepath.Join(top, "repo"), "commit", "-q", "-m", "first")
		inputs := flake(`
			nixpkgs.url = "` + nixpkgs + `";
			branch.url = "path:` + top + `/branch";
			branch.inputs.leaf.follows = "leaf";
			leaf.url = "path:` + top + `/leaf";
			data = { url = "path:` + top + `/data"; flake = false; };
			tree = { url = "git+file://` + top + `/repo"; flake = false; };
			below.url = "git+file://` + top + `/repo?dir=below";`)
		tests := []struct {
			name      string
			git, lock bool
			dirty     bool
			override  [][2]string
		}{
			{name: "a folder without a lock file"},
			{name: "a folder with its lock file", lock: true},
			{name: "a repository without a lock file", git: true},
			{name: "a repository with its lock file", git: true, lock: true},
			{name: "a repository with changes", git: true, lock: true, dirty: true},
			{name: "a repository with another input", git: true, lock: true, override: [][2]string{{"leaf", "path:" + top + "/other"}, {"branch/data", "path:" + top + "/repo"}}},
		}
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				name := fmt.Sprintf("net%d", i)
				dir := filepath.Join(top, name)
				put(name+"/flake.nix", inputs)
				if tt.git {
					git(dir, "init", "-q", "-b", "main")
					git(dir, "add", "-A")
				}
				if tt.lock {
					nixCommand(t, dir, "flake", "lock")
				}
				if tt.git {
					git(dir, "add", "-A")
					git(dir, "commit", "-q", "-m", "first")
				}
				if tt.dirty {
					put(name+"/new", "x")
					git(dir, "add", "-A")
				}
				n := testNetwork(dir)
				n.OverrideInputs = tt.override
				var args []string
				for _, o := range tt.override {
					args = append(args, "--override-input", o[0], o[1])
				}
				s := evaluate(t, n, Facts{})["a"]
				if want := toplevel(t, dir, "a", args...); s.Err != nil || string(s.DrvPath) != want {
					t.Errorf("a is %s (%v), nix eval says %s", s.DrvPath, s.Err, want)
				}
			})
		}
	})
}

// Where nx keeps its own in the folder of a flake, the flake is all else there.
func TestFlakeWithOwnFolder(t *testing.T) {
	onEachFlakeNix(t, func(t *testing.T, nixpkgs string) {
		flake := func(more string) string {
			return writeFlake(t, nixpkgs, `{ nixosConfigurations.a = nixpkgs.lib.nixosSystem { system = "x86_64-linux"; modules = [ {
				boot.isContainer = true;
				environment.etc.all.text = "${./.} ${self.lastModifiedDate}`+more+`";
			} ]; }; }`)
		}
		dir := flake("")
		older := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
		set := func(name string) {
			t.Helper()
			if err := os.Chtimes(name, older, older); err != nil {
				t.Fatal(err)
			}
		}
		set(filepath.Join(dir, "flake.nix"))
		set(dir)
		want := toplevel(t, dir, "a")
		if err := Seal(filepath.Join(dir, ".nx")); err != nil {
			t.Fatal(err)
		}
		set(dir)
		for _, ref := range []string{dir, "path:" + dir} {
			if s := evaluate(t, testNetwork(ref), Facts{})["a"]; s.Err != nil || string(s.DrvPath) != want {
				t.Errorf("%s: a is %s (%v), without .nx it is %s", ref, s.DrvPath, s.Err, want)
			}
		}
		// An error names the user's file, not its copy.
		dir = flake("${throw \"no\"}")
		if err := Seal(filepath.Join(dir, ".nx")); err != nil {
			t.Fatal(err)
		}
		n := testNetwork(dir)
		var logged interface{ Log() string }
		if err := evaluate(t, n, Facts{})["a"].Err; !errors.As(err, &logged) || strings.Contains(err.Error()+logged.Log(), n.locked.source) {
			t.Errorf("error %v, want one that names no file of %s\n%s", err, n.locked.source, logged.Log())
		}
		// An input is another matter.
		n = testNetwork(writeFlake(t, nixpkgs, "{ nixosConfigurations = { }; }"))
		n.OverrideInputs = [][2]string{{"nixpkgs", "path:" + dir}}
		var hinted interface{ Hint() string }
		if _, err := n.About(t.Context()); !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "input of a flake") {
			t.Errorf("error %v, want one with a hint", err)
		}
	})
}

// A flake for colmena or NixOps is evaluated as that does.
func TestFlakeOfOthers(t *testing.T) {
	const machines = `defaults = { name, nodes, ... }: { boot.isContainer = true; environment.etc.name.text = "${name} of ${toString (builtins.attrNames nodes)}"; };
		web = { deployment.tags = [ "web" ]; deployment.targetUser = "admin"; };`
	const plain = `nixosConfigurations.web = nixpkgs.lib.nixosSystem { system = "x86_64-linux"; modules = [ { boot.isContainer = true; environment.etc.name.text = "web of web"; networking.hostName = nixpkgs.lib.mkOverride 900 "WEB"; } ]; };`
	nixos := strings.ReplaceAll(plain, "WEB", "nixos")
	web := strings.ReplaceAll(plain, "WEB", "web")
	tests := []struct{ name, form, outputs string }{
		{"hive", "colmena", `{ colmena = { meta = { nixpkgs = import nixpkgs { system = "x86_64-linux"; }; facts = true; }; ` + machines + ` }; ` + nixos + ` }`},
		{"evaluated hive", "colmena", `{ colmenaHive = { __schema = "v0.5"; metaConfig.description = "made"; nodes.web = self.nixosConfigurations.web.extendModules { modules = [ ({ lib, ... }: {
			options.deployment = lib.mkOption { type = lib.types.attrs; };
			config.deployment = { targetHost = "web"; targetPort = null; targetUser = "admin"; privilegeEscalationCommand = [ "sudo" "-H" "--" ];
				tags = [ "web" ]; keys = { }; allowLocalDeployment = false; buildOnTarget = false; replaceUnknownProfiles = true; sshOptions = [ ]; };
		}) ]; }; }; ` + nixos + ` }`},
		{"NixOps", "nixops", `{ nixopsConfigurations.default = { who, ... }: { inherit nixpkgs; network = { description = who; facts = true; }; ` + machines + ` }; ` + web + ` }`},
	}
	onEachFlakeNix(t, func(t *testing.T, nixpkgs string) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				n := testNetwork(writeFlake(t, nixpkgs, tt.outputs))
				n.Args = []string{"--argstr", "who", "a \"${b}\"\n\\", "--arg", "other", "1 # one", "--option", "cores", "1"}
				about, err := n.About(t.Context())
				if err != nil || about.Form != tt.form || tt.form == "nixops" && about.Description != n.Args[2] {
					t.Fatalf("about %+v, error %v", about, err)
				}
				if told := slices.ContainsFunc(about.Warnings, func(w string) bool { return strings.HasSuffix(w, ".facts does nothing here: no facts enter a flake") }); told != strings.Contains(tt.outputs, "facts = true") {
					t.Errorf("warnings %q", about.Warnings)
				}
				facts := Facts{Machines: map[string]MachineFacts{"web": {Provider: "ec2", PublicIPv4: "192.0.2.1", HostKeys: []string{"ssh-ed25519 AAAA"}, StateVersion: "20.03"}}}
				s := evaluate(t, n, facts, "web")["web"]
				if s.Err != nil || !slices.Equal(s.Tags, []string{"web"}) || !strings.Contains(string(s.Target), `"host":"web"`) || !strings.Contains(string(s.Target), `"user":"admin"`) {
					t.Fatalf("web: %s %q, error %v", s.Target, s.Tags, s.Err)
				}
				if want := toplevel(t, n.Files[0], "web"); string(s.DrvPath) != want {
					t.Errorf("web is %s, nix eval says %s", s.DrvPath, want)
				}
				const query = `{ lib, nodes, ... }: lib.attrNames nodes ++ [ nodes.web.config.environment.etc.name.text ]`
				if value, err := n.Query(t.Context(), query, Facts{}); err != nil || string(value) != `["web","web of web"]` {
					t.Errorf("query: %s, error %v", value, err)
				}
				n.Format = "flake"
				if about, err := n.About(t.Context()); err != nil || about.Form != "flake" {
					t.Errorf("forced: about %+v, error %v", about, err)
				}
			})
		}
	})
}

func TestFlakeRefused(t *testing.T) {
	onEachFlakeNix(t, func(t *testing.T, nixpkgs string) {
		empty := writeFlake(t, nixpkgs, `{ }`)
		tests := []struct {
			name string
			n    *Network
			want string
		}{
			{"no network", &Network{Files: []string{empty}}, "no network: the flake has none of nixosConfigurations,"},
			{"nothing for the format", &Network{Files: []string{empty}, Format: "colmena"}, "the flake has neither colmenaHive nor colmena"},
			{"an attribute", &Network{Files: []string{"path:" + empty + "#a"}}, "a flake is named without an attribute"},
			{"two", &Network{Files: []string{empty, empty}}, "a flake is a network by itself, and 2 are named"},
			{"a file with inputs", &Network{Files: []string{"testdata/networks/hive.nix"}, OverrideInputs: [][2]string{{"nixpkgs", "x"}}}, "it is no flake, whose input nixpkgs could be another"},
			{"a hive without a package set", &Network{Files: []string{writeFlake(t, nixpkgs, `{ colmena.meta.nixpkgs = nixpkgs; }`)}}, "meta.nixpkgs must be a package set"},
			{"gone", &Network{Files: []string{"path:/there/is/none"}}, "/there/is/none"},
		}
		for _, tt := range tests {
			tt.n.Nix = testNetwork().Nix
			if _, err := tt.n.About(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: error %v, want %q in it", tt.name, err, tt.want)
			}
		}
	})
}

// What Nix fetched from elsewhere, since no lock file has it, may be another a
// moment later.
func TestUnlocked(t *testing.T) {
	repo := t.TempDir() // it is seen what is read of one that is checked out
	if err := os.Mkdir(filepath.Join(repo, ".git"), 0o700); err != nil {
		t.Fatal(err)
	}
	metadata := `{"path":"/nix/store/x-source","locked":{"type":"git","url":"file:///repo","dir":"machines"},"locks":{"root":"root","version":7,"nodes":{
		"root":{"inputs":{"away":"away","bare":"bare","here":"here","repo":"repo","same":["away"]}},
		"away":{"inputs":{"deep":"deep"},"locked":{"type":"github","owner":"o","repo":"r","rev":"1","narHash":"sha256-x"}},
		"deep":{"locked":{"type":"path","path":"/deep","narHash":"sha256-x","lastModified":1735689600}},
		"here":{"locked":{"type":"path","path":"/here","narHash":"sha256-x"}},
		"repo":{"locked":{"type":"git","url":"file://` + repo + `"}},
		"bare":{"locked":{"type":"git","url":"file://` + repo + `/bare"}}}}}`
	const moment = "the flake has no lock for its input "
	for _, tt := range []struct {
		unlocked   []string
		overridden [][2]string
		want       string
	}{
		{nil, nil, ""},
		{[]string{"here", "repo", "away/deep"}, nil, ""},
		{[]string{"bare"}, nil, moment + "bare"},
		{[]string{"away"}, nil, moment + "away"},
		{[]string{"away/none"}, nil, moment + "away/none"},
		{[]string{"away"}, [][2]string{{"away", "github:o/r"}}, moment + "away"},
		{[]string{"away"}, [][2]string{{"away", "github:o/r/" + strings.Repeat("1", 40)}}, ""},
	} {
		l := &lockedFlake{Trees: map[string]tree{}, folders: map[string]string{}}
		if err := l.take([]byte(metadata), tt.unlocked, tt.overridden); err != nil || l.moment != tt.want {
			t.Errorf("unlocked %q, overridden %q: %q (%v), want %q", tt.unlocked, tt.overridden, l.moment, err, tt.want)
		}
		if l.local != "/repo" || l.Dir != "machines" || len(l.Trees) != 2 || l.Trees["deep"].LastModifiedDate != "20250101000000" || l.folders["here"] != "/here" {
			t.Errorf("took %+v", l)
		}
	}
}

func TestIsFlake(t *testing.T) {
	dir := writeFlake(t, "nixpkgs", "{ }")
	tests := []struct {
		file, format string
		want         bool
	}{
		{dir, "", true},
		{dir, "colmena", true},
		{dir, "morph", false},
		{filepath.Join(dir, "flake.nix"), "", false},
		{t.TempDir(), "", false},
		{"github:example/machines", "", true},
		{"git+ssh://git@example.org/machines?ref=main", "", true},
		{"gone.nix", "", false},
		{"machines", "flake", true},
	}
	for _, tt := range tests {
		if got := isFlake(tt.file, tt.format); got != tt.want {
			t.Errorf("isFlake(%q, %q) = %t, want %t", tt.file, tt.format, got, tt.want)
		}
	}
}

// Whatever the text, Nix reads the literal as that text.
func FuzzNixString(f *testing.F) {
	for _, s := range []string{"", `"; abort "x`, "${x}", `\${x}`, "$$", "''", "\r\n\t", "ü", "\\"} {
		f.Add(s)
	}
	if _, err := exec.LookPath("nix-instantiate"); err != nil {
		f.Skipf("SKIPPED, needs nix: %v", err)
	}
	file := filepath.Join(f.TempDir(), "string")
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) {
			t.Skip("no argument has NUL")
		}
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		// With a store of nothing: several of these run at once, also on a machine
		// whose store has never been opened.
		cmd := exec.Command("nix-instantiate", "--store", "dummy://", "--eval", "--expr", nixString(s)+" == builtins.readFile "+file)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || strings.TrimSpace(string(out)) != "true" {
			t.Errorf("nixString(%q) = %s: %s, %v: %s", s, nixString(s), out, err, &stderr)
		}
	})
}
