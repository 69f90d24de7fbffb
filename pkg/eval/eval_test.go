package eval_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"nx/pkg/eval"
	"nx/pkg/network"
	"nx/pkg/nixcmd"
	"nx/pkg/record"
	"nx/pkg/store"
)

// standIn makes the project's own nixpkgs the one that Nix finds.
func standIn(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nix-instantiate"); err != nil {
		if slices.Contains(strings.Split(os.Getenv("NXTEST_REQUIRE"), ","), "nix") {
			t.Fatalf("nix is required: %v", err)
		}
		t.Skipf("NEEDS nix: %v", err)
	}
	tree, err := filepath.Abs("../../testdata/nixpkgs")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NIX_PATH", "nixpkgs="+tree)
	t.Setenv("NIX_CONFIG", "sandbox = false\nbuild-users-group =\nsubstituters =\n"+os.Getenv("NIX_CONFIG"))
}

func write(t *testing.T, text string) *network.Network {
	t.Helper()
	file := filepath.Join(t.TempDir(), "network.nix")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &network.Network{Files: []string{file}, Name: "test", Nix: &nixcmd.Nix{}}
}

func parse(t *testing.T, lines ...string) (records []*record.Record) {
	t.Helper()
	for _, l := range lines {
		r, err := record.Parse([]byte(l))
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	return records
}

type roots struct {
	mu    sync.Mutex
	links map[string]store.Path
	err   error
}

func (r *roots) AddRoot(_ context.Context, link string, p store.Path) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.links == nil {
		r.links = map[string]store.Path{}
	}
	r.links[link] = p
	return r.err
}

func (r *roots) Sources(ctx context.Context, drvs ...store.Path) ([]store.Path, error) {
	return (&nixcmd.Nix{}).Sources(ctx, drvs...)
}

var drv = regexp.MustCompile(`/nix/store/[0-9a-z]{32}-nixos-system-[^"]*\.drv`)

// run gives facts all records and the stage those that chosen names, and
// returns what came out by name, with derivations as DRV.
func run(t *testing.T, e *eval.Evaluator, all []*record.Record, chosen ...string) (map[string]string, error) {
	t.Helper()
	in := func(yield func(*record.Record, error) bool) {
		for _, r := range all {
			e.Fact(r)
			if r.Kind() == record.KindHost && slices.Contains(chosen, r.Name()) && !yield(r, nil) {
				return
			}
		}
	}
	var mu sync.Mutex
	out := map[string]string{}
	err := e.Run(t.Context(), iter.Seq2[*record.Record, error](in), func(r *record.Record) {
		mu.Lock()
		defer mu.Unlock()
		out[r.Name()] = drv.ReplaceAllString(string(r.Bytes()), "DRV")
	})
	return out, err
}

func TestRun(t *testing.T) {
	standIn(t)
	n := write(t, `{
		defaults = { boot.isContainer = true; deployment.tags = [ "net" ]; };
		resources.elasticIPs.ip = { };
		db = { };
		mail = { };
		odd = throw "never";
		web = { nodes, resources, ... }: {
			deployment = { targetPort = 2222; targetUser = "admin"; };
			environment.etc.db.text = nodes.db.config.networking.privateIPv4 + resources.elasticIPs.ip.address;
		};
	}`)
	rooted := &roots{}
	e := &eval.Evaluator{Network: n, Store: rooted, RootDir: "drvs"}
	got, err := run(t, e, parse(t,
		// What the network says of a target fills what the stream leaves open.
		`{"nx":1,"kind":"host","name":"web","tags":["stream"],"target":{"host":"192.0.2.1","user":"root","x":1},"more":[1, 2]}`,
		`{"nx":1,"kind":"host","name":"mail","target":{"user":"deploy"}}`,
		`{"nx":1,"kind":"host","name":"gone"}`,
		`{"nx":1,"kind":"host","name":"odd"}`,
		// Not chosen, and failed: its address is known nevertheless.
		`{"nx":1,"kind":"host","name":"db","machine":{"privateIPv4":"10.0.0.1","publicIPv4":7},"error":{"stage":"provision","message":"x"}}`,
		`{"nx":1,"kind":"resource","type":"elasticIPs","name":"ip","outputs":{"address":"203.0.113.9"}}`,
		`{"nx":1,"kind":"resource","type":"elasticIPs","name":"none"}`,
	), "web", "mail", "gone", "odd")
	want := map[string]string{
		"web":  `{"nx":1,"kind":"host","name":"web","tags":["net","stream"],"target":{"host":"192.0.2.1","user":"root","x":1,"port":2222},"system":"x86_64-linux","drvPath":"DRV","deployment":{"alwaysActivate":true,"hasFastConnection":false,"keys":{}},"more":[1, 2]}`,
		"mail": `{"nx":1,"kind":"host","name":"mail","tags":["net"],"target":{"user":"deploy","host":"mail","sudo":["sudo","-H","--"]},"system":"x86_64-linux","drvPath":"DRV","deployment":{"alwaysActivate":true,"hasFastConnection":false,"keys":{}}}`,
		"gone": `{"nx":1,"kind":"host","name":"gone","error":{"stage":"eval","message":"evaluate configuration: the network has no machine \"gone\""}}`,
	}
	odd := got["odd"]
	delete(got, "odd")
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("error %v\n got %v\nwant %v", err, got, want)
	}
	if !strings.Contains(odd, `"error":{"stage":"eval","message":"evaluate configuration: never`) || !strings.Contains(odd, `"log":"error: never`) {
		t.Errorf("odd: %s, want Nix' words in message and log", odd)
	}
	if links := slices.Sorted(maps.Keys(rooted.links)); !slices.Equal(links, []string{"drvs/mail", "drvs/web"}) {
		t.Errorf("roots %q, want those of mail and web", links)
	}
}

// source returns the text of the file called name that drv is made from.
func source(t *testing.T, drv store.Path, name string) string {
	t.Helper()
	out, err := exec.Command("nix-store", "--query", "--requisites", string(drv)).Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.Lines(string(out)) {
		if path = strings.TrimSpace(path); strings.HasSuffix(path, "-"+name) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
	}
	t.Errorf("%s is not made from a file %s:\n%s", drv, name, out)
	return ""
}

// What records say of a host is in its configuration and in others', and -v says
// where others' matters.
func TestFacts(t *testing.T) {
	standIn(t)
	var log bytes.Buffer
	e := &eval.Evaluator{
		Network: write(t, `{
			defaults = { boot.isContainer = true; services.openssh.enable = true; };
			db.deployment.targetEnv = "sandbox";
			board = { };
		}`),
		Store: &roots{}, RootDir: "drvs",
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	got, err := run(t, e, parse(t,
		`{"nx":1,"name":"board","machine":{"provider":"none"}}`,
		`{"nx":1,"name":"db","target":{"host":"10.0.0.1"},"machine":{"provider":"sandbox","privateIPv4":"10.0.0.1","authorizedKeys":["ssh-ed25519 AAAAroot nx",7,"x\ny"],"stateVersion":"20.03"}}`,
		`{"nx":1,"name":"web","target":{"host":"10.0.0.2","hostKeys":["ssh-ed25519 AAAAweb"]},"machine":{"provider":"sandbox","privateIPv4":"10.0.0.2"}}`,
	), "board", "db")
	if err != nil || strings.Contains(got["db"]+got["board"], `"error"`) {
		t.Fatalf("%v: %v", err, got)
	}
	said := regexp.MustCompile(`msg="facts about other hosts .*" host=(\w+)`).FindAllStringSubmatch(log.String(), -1)
	if len(said) != 1 || said[0][1] != "db" {
		t.Errorf("told of facts about others: %q, want db alone", said)
	}
	links := e.Store.(*roots).links
	for file, want := range map[string]string{
		"etc-hosts":           "127.0.0.1 localhost\n127.0.0.2 db\n::1 localhost\n10.0.0.1 db db-unencrypted\n127.0.0.1 db-encrypted\n10.0.0.2 web web-unencrypted\n",
		"etc-ssh_known_hosts": "web-unencrypted,web-encrypted,web ssh-ed25519 AAAAweb\n",
		"etc-root":            "ssh-ed25519 AAAAroot nx\n",
	} {
		if text := source(t, links["drvs/db"], file); text != want {
			t.Errorf("%s of db is\n%s\nwant\n%s", file, text, want)
		}
	}
}

func TestRunFails(t *testing.T) {
	standIn(t)
	host := `{"nx":1,"kind":"host","name":"a"}`
	t.Run("the network", func(t *testing.T) {
		e := &eval.Evaluator{Network: write(t, "{ a = ; }"), Store: &roots{}}
		got, err := run(t, e, parse(t, host), "a")
		if err == nil || !strings.Contains(err.Error(), "read network") || len(got) > 0 {
			t.Errorf("got %v, error %v, want the network's", got, err)
		}
	})
	t.Run("keeping the derivation", func(t *testing.T) {
		e := &eval.Evaluator{Network: write(t, "{ a.boot.isContainer = true; }"), Store: &roots{err: errors.New("disk full")}}
		got, err := run(t, e, parse(t, host), "a")
		if want := `"error":{"stage":"eval","message":"disk full"}`; err != nil || !strings.Contains(got["a"], want) {
			t.Errorf("got %v, error %v, want %s", got, err, want)
		}
	})
	t.Run("the input is cut", func(t *testing.T) {
		e := &eval.Evaluator{Network: &network.Network{Nix: &nixcmd.Nix{}}}
		err := e.Run(t.Context(), func(yield func(*record.Record, error) bool) {
			_ = yield(parse(t, host)[0], nil) && yield(nil, errors.New("cut"))
		}, func(r *record.Record) { t.Errorf("%s came out", r.Name()) })
		if err != nil {
			t.Error(err)
		}
	})
}

func TestAll(t *testing.T) {
	standIn(t)
	n := write(t, `{ b.deployment.tags = [ "x" "a" ]; a = { }; broken.deployment.tags = throw "no"; }`)
	for _, tags := range []bool{false, true} {
		hosts, err := eval.All(t.Context(), n, tags)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range hosts {
			got = append(got, string(r.Bytes()))
		}
		want := []string{`{"nx":1,"kind":"host","name":"a"}`, `{"nx":1,"kind":"host","name":"b"}`, `{"nx":1,"kind":"host","name":"broken"}`}
		if tags {
			want[1] = `{"nx":1,"kind":"host","name":"b","tags":["a","x"]}`
		}
		if !slices.Equal(got, want) {
			t.Errorf("All with tags %v\n got %q\nwant %q", tags, got, want)
		}
	}
}

// What the socket in .nx does not stop: a filter that drops it, and naming a file.
func TestSecretsAmongSources(t *testing.T) {
	standIn(t)
	n := write(t, `{
		clean = { boot.isContainer = true; };
		leaky = { pkgs, ... }: {
			boot.isContainer = true;
			environment.etc.src.source = builtins.filterSource (path: type: type != "unknown") ../.;
		};
		named = { boot.isContainer = true; environment.etc.key.source = ./.nx/id_ed25519; };
	}`)
	root := filepath.Dir(n.Files[0])
	if err := os.Mkdir(filepath.Join(root, ".nx"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, ".nx", "id_ed25519"), []byte("a secret of this test "+root), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &eval.Evaluator{Network: n, Store: &roots{}, Root: root}
	got, err := run(t, e, parse(t, `{"nx":1,"name":"clean"}`, `{"nx":1,"name":"leaky"}`, `{"nx":1,"name":"named"}`), "clean", "leaky", "named")
	if err != nil || strings.Contains(got["clean"], "error") {
		t.Errorf("%v: %v", err, got)
	}
	for _, name := range []string{"leaky", "named"} {
		if !strings.Contains(got[name], "it copies .nx into the Nix store, as /nix/store/") {
			t.Errorf("%s: %s", name, got[name])
		}
	}
}

// A record says of a key where it comes from: files below the root by names that
// start there, however links lead to it. One in the store is refused.
func TestKeyFiles(t *testing.T) {
	standIn(t)
	top := t.TempDir()
	root := filepath.Join(top, "root")
	if err := os.MkdirAll(filepath.Join(root, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("root", filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"secret": "not for all", "sub/network.nix": `{
		defaults.boot.isContainer = true;
		web.deployment.keys = {
			path.keyFile = ../secret;
			relative.keyFile = "keys/../keys/x";
			above.keyFile = ./../../y;
			elsewhere = { keyFile = "/srv/keys/x"; decrypt = "age"; restartUnits = [ "web.service" ]; };
			encrypted = { keyFile = "${../secret}"; decrypt = "sops"; };
			printed = { keyCommand = [ "sh" "-c" "a > b && c" ]; uploadAt = "post-activation"; action = [ "reload" "it" ]; };
			text.text = "not for all";
		};
		stored.deployment.keys.a.keyFile = "${../secret}";
		none.deployment.keys.a = { };
		both.deployment.keys.a = { text = "not for all"; keyFile = ../secret; };
		locked.deployment.keys.a = { text = "not for all"; decrypt = "age"; };
	}`} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []string{"root", "link"} {
		n := &network.Network{Files: []string{filepath.Join(top, from, "sub/network.nix")}, Name: "test", Nix: &nixcmd.Nix{}}
		e := &eval.Evaluator{Network: n, Store: &roots{}, Root: filepath.Join(top, from), RootDir: "drvs"}
		var all []*record.Record
		names := []string{"web", "stored", "none", "both", "locked"}
		for _, name := range names {
			all = append(all, parse(t, `{"nx":1,"kind":"host","name":"`+name+`"}`)...)
		}
		if _, err := run(t, e, all, names...); err != nil {
			t.Fatal(err)
		}
		sources := regexp.MustCompile(`^/nix/store/\w{32}-`)
		got := map[string]string{}
		all[0].Get("deployment").Get("keys").ForEach(func(name, key gjson.Result) bool {
			got[name.Str] = sources.ReplaceAllString(key.Get("source.file").Str, "STORE-") + key.Get("source.command").Raw + key.Get("source.eval").Str +
				" " + key.Get("source.decrypt").Str + " " + key.Get("restartUnits").Raw + key.Get("action").Raw + " " + key.Get("uploadAt").Str
			return true
		})
		want := map[string]string{
			"path":      "secret   pre-activation",
			"relative":  "keys/../keys/x   pre-activation",
			"above":     filepath.Join(top, "y") + "   pre-activation",
			"elsewhere": `/srv/keys/x age ["web.service"] pre-activation`,
			"encrypted": "STORE-secret sops  pre-activation",
			"printed":   `["sh","-c","a > b && c"]  ["reload","it"] post-activation`,
			"text":      "deployment.keys.text.text   pre-activation",
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: %s\n got %q\nwant %q", from, all[0].Bytes(), got, want)
		}
		for i, want := range []string{
			"evaluate deployment.keys.a: its file is in the Nix store: /nix/store/",
			"Exactly one of text, keyFile and keyCommand of deployment.keys.a must be set",
			"Exactly one of text, keyFile and keyCommand of deployment.keys.a must be set",
			"deployment.keys.a.decrypt is for keyFile and keyCommand, not for text",
		} {
			if r := all[i+1]; !strings.Contains(r.Get("error").Get("message").Str, want) || strings.Contains(string(r.Bytes()), "not for all") {
				t.Errorf("%s: %s, want an error with %q", from, r.Bytes(), want)
			}
		}
	}
}
