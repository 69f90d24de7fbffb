package cmd_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// makefile is what README.md has a user write, with nx.mk where it is here.
func makefile(t *testing.T) string {
	t.Helper()
	scripts, err := filepath.Abs("../scripts")
	if err != nil {
		t.Fatal(err)
	}
	text := readme(t, "## With make", "make")
	here := strings.Replace(text, "/usr/local/share/nx", scripts, 1)
	if here == text {
		t.Fatalf("this includes no installed nx.mk:\n%s", text)
	}
	return here
}

// made is how a run of make ended.
type made struct {
	result
	did        string   // what became of which hosts: "built db web1; copied db"
	runs       string   // the tools that ran, with how many hosts each: "nx-build 2, nx-copy 1"
	recipes    []string // targets whose recipes ran but for .nx/hosts.jsonl and .nx/hosts.mk, which are always looked at
	evaluators int64    // Nix evaluators that ran
}

// make runs make in the deployment's folder, and sees what it does.
func (c *census) make(d *deployment, args ...string) made {
	d.t.Helper()
	cmd := d.command("make", append([]string{"--trace"}, args...)...)
	cmd.Env = append(cmd.Env, "PATH="+c.dir+":"+bin+":"+os.Getenv("PATH"))
	before := c.started.Load()
	m := made{result: run(d.t, cmd, nil)}
	m.evaluators = c.started.Load() - before
	for _, target := range regexp.MustCompile(`(?m)^\S*nx\.mk:\d+: (?:update )?target '([^']*)'`).FindAllStringSubmatch(m.stdout, -1) {
		if target[1] != ".nx/hosts.jsonl" && target[1] != ".nx/hosts.mk" {
			m.recipes = append(m.recipes, target[1])
		}
	}
	var did []string
	for _, step := range []string{"nx-build: built", "nx-copy: copied", "nx-activate: activated", "nx-build: error", "nx-copy: error", "nx-activate: error"} {
		tool, word, _ := strings.Cut(step, ": ")
		at := `(?m)^` + tool + `: (\S+): ` + word + ` \(`
		if word == "error" {
			at = `(?m)^` + tool + `: error: (\S+): `
		}
		var hosts []string
		for _, m := range regexp.MustCompile(at).FindAllStringSubmatch(m.stderr, -1) {
			hosts = append(hosts, m[1])
		}
		if slices.Sort(hosts); len(hosts) > 0 {
			did = append(did, strings.ReplaceAll(word, "error", tool+" failed")+" "+strings.Join(hosts, " "))
		}
	}
	m.did = strings.Join(did, "; ")
	var runs []string
	for _, end := range regexp.MustCompile(`(?m)^(nx-build|nx-copy|nx-activate): (?:done \(hosts (\d+)|error: \d+ of (\d+) hosts failed)`).FindAllStringSubmatch(m.stderr, -1) {
		runs = append(runs, end[1]+" "+end[2]+end[3])
	}
	m.runs = strings.Join(runs, ", ")
	return m
}

// A census counts the Nix evaluators that are started with its folder in PATH.
type census struct {
	dir     string
	started atomic.Int64
}

func takeCensus(t *testing.T) *census {
	t.Helper()
	nix, err := exec.LookPath("nix-instantiate")
	if err != nil {
		t.Fatal(err)
	}
	// They call, since whatever file an evaluator touches is taken for its input.
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	c := &census{dir: t.TempDir()}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.started.Add(1)
			conn.Close()
		}
	}()
	script := fmt.Sprintf("#!/bin/bash\nread <>/dev/tcp/127.0.0.1/%d\nexec '%s' \"$@\"\n", listener.Addr().(*net.TCPAddr).Port, nix)
	if err := os.WriteFile(filepath.Join(c.dir, "nix-instantiate"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

func (m made) want(t *testing.T, what string, status int, did, runs string) {
	t.Helper()
	if m.status != status || m.did != did || m.runs != runs {
		t.Fatalf("%s:\n got status %d, %q, %q\nwant status %d, %q, %q\nstdout:\n%s\nstderr:\n%s",
			what, m.status, m.did, m.runs, status, did, runs, m.stdout, m.stderr)
	}
}

// wantNothing checks that there was nothing to do.
func (m made) wantNothing(t *testing.T, what string) {
	t.Helper()
	m.want(t, what, 0, "", "")
	if len(m.recipes) > 0 || m.evaluators > 0 {
		t.Errorf("%s: recipes of %q ran, and %d evaluators", what, m.recipes, m.evaluators)
	}
}

// A network of four under make, from nothing to nothing.
func TestMake(t *testing.T) {
	t.Parallel()
	network := func(more string) string {
		return `{
  defaults = { name, ... }: {
    deployment.targetEnv = "sandbox";
    boot.isContainer = true;
    environment.etc.role.text = name;
  };
  db = { nodes, ... }: {
    deployment.keys.peer.text = (import ./secret.nix) + nodes.web1.config.networking.privateIPv4;
  };
  "host.with.dots" = { networking.hostName = "dots"; };
  web1 = import ./web.nix;
  web2 = import ./web.nix;
` + more + `}
`
	}
	web := func(greeting string) string { return `{ environment.etc.greeting.text = "` + greeting + `"; }` + "\n" }
	d := deploy(t, map[string]string{"Makefile": makefile(t) + "first: deploy-web1\n", "network.nix": network(""), "web.nix": web("morning"), "secret.nix": `"first "`})
	c := takeCensus(t)
	mk := func(args ...string) made { t.Helper(); return c.make(d, args...) }
	const all = "db host.with.dots web1 web2"
	greets := func(want map[string]string) {
		t.Helper()
		for name, greeting := range want {
			if got := d.on(name, "cat /etc/greeting"); got != greeting {
				t.Errorf("%s greets with %q, want %q", name, got, greeting)
			}
		}
	}

	// What only looks makes nothing.
	mk("plan").want(t, "plan of nothing", 0, "", "")
	mk("-n", "deploy").wantNothing(t, "-n of nothing")
	if left, _ := filepath.Glob(filepath.Join(d.dir, ".nx/sandbox/*")); len(left) > 0 {
		t.Fatalf("plan and -n made %q", left)
	}

	// From nothing, one process of each tool does it all.
	const anew, by4 = "built " + all + "; copied " + all + "; activated " + all, "nx-build 4, nx-copy 4, nx-activate 4"
	first := mk("-j8", "deploy")
	if first.want(t, "the first deployment", 0, anew, by4); first.evaluators == 0 {
		t.Error("evaluators are not counted")
	}
	greets(map[string]string{"web1": "morning", "web2": "morning"})

	// It converges, and touching what says the same redoes nothing.
	for _, touched := range []string{"Makefile", "network.nix web.nix", "unrelated .nx/hosts.jsonl"} {
		if r := d.sh("touch " + touched); r.status != 0 {
			t.Fatalf("%+v", r)
		}
		mk("-j8", "deploy").wantNothing(t, "after touching "+touched)
	}

	// A change redoes what depends on it, once.
	d.write("web.nix", web("evening"))
	mk("plan").want(t, "plan", 0, "", "nx-build 4")
	mk("-n", "-j8", "deploy").wantNothing(t, "-n")
	mk("-j8", "build").want(t, "building only", 0, "built web1 web2", "nx-build 2")
	greets(map[string]string{"web1": "morning", "web2": "morning"})
	mk("first").want(t, "one host, by a goal of the user's", 0, "copied web1; activated web1", "nx-copy 1, nx-activate 1")
	greets(map[string]string{"web1": "evening", "web2": "morning"})
	mk("deploy", "HOSTS=db web1").wantNothing(t, "hosts that are done")
	if m := mk("deploy", "HOSTS=web% nosuch"); m.status != 2 || m.did != "" || !strings.Contains(m.stderr, `selector "nosuch" matches no host`) {
		t.Errorf("a host that is not there: %+v", m)
	}
	mk("deploy", "HOSTS=web%").want(t, "a pattern", 0, "copied web2; activated web2", "nx-copy 1, nx-activate 1")
	greets(map[string]string{"web2": "evening"})

	// So do the files in between, touched or removed. Hosts that were left behind
	// catch up first: one process activates all.
	for _, step := range []struct{ change, did, runs string }{
		{"touch .nx/built/web1.jsonl", "copied web1; activated web1", "nx-copy 1, nx-activate 1"},
		{"rm .nx/copied/web2.jsonl; touch .nx/copied/db.jsonl", "copied web2; activated db web2", "nx-copy 1, nx-activate 2"},
		{"rm -r .nx/built", anew, by4},
		{"rm .nx/drv/db.jsonl", "built db; copied db; activated db", "nx-build 1, nx-copy 1, nx-activate 1"},
	} {
		if r := d.sh(step.change); r.status != 0 {
			t.Fatalf("%+v", r)
		}
		mk("-j8", "deploy").want(t, step.change, 0, step.did, step.runs)
		mk("-j8", "deploy").wantNothing(t, step.change+", again")
	}

	// Keys may tell of any host, whichever are copied. The text of one that changes is in
	// no record.
	web1 := hosts(t, d.sh("cat .nx/hosts.jsonl").stdout)["web1"].Get("machine.privateIPv4").Str
	wantKey := func(want string) {
		t.Helper()
		if got := d.on("db", "cat /run/keys/peer"); got != want+web1 || web1 == "" {
			t.Errorf("the key is %q, want %q", got, want+web1)
		}
	}
	wantKey("first ")
	d.write("secret.nix", `"second "`)
	mk("deploy").want(t, "a key's text", 0, "", "")
	mk("keys").want(t, "keys", 0, "", "nx-copy 4")
	wantKey("second ")

	// Hosts come and go, and are in the others' /etc/hosts.
	d.write("network.nix", network("  aux = { };\n"))
	mk("-j8", "deploy").want(t, "a host that comes", 0, strings.ReplaceAll(anew, "db", "aux db"), strings.ReplaceAll(by4, "4", "5"))
	d.write("network.nix", network(""))
	mk("-j8", "deploy").want(t, "a host that goes", 0, anew, by4)
	if m := mk("deploy-aux"); m.status != 2 || !strings.Contains(m.stderr, "No rule to make target 'deploy-aux'") {
		t.Errorf("a host that has left: %+v", m)
	}

	// What hosts are asked, and going back. Make goes forward again.
	d.write("web.nix", web("night"))
	mk("diff").want(t, "diff", 0, "built web1 web2; copied web1 web2", "nx-build 2, nx-copy 2, nx-activate 4")
	mk("deploy").want(t, "deploying that", 0, "activated web1 web2", "nx-activate 2")
	mk("rollback", "HOSTS=web1").want(t, "going back", 0, "activated web1", "nx-activate 1")
	greets(map[string]string{"web1": "evening", "web2": "night"})
	status := mk("status")
	status.want(t, "status", 0, "", "nx-activate 4")
	if !regexp.MustCompile(`(?m)^web1 +no `).MatchString(status.stdout) || !regexp.MustCompile(`(?m)^web2 +yes `).MatchString(status.stdout) {
		t.Errorf("status says\n%s", status.stdout)
	}
	mk("deploy").want(t, "forward again", 0, "activated web1", "nx-activate 1")
	greets(map[string]string{"web1": "night"})

	// What README.md shows.
	if r := d.sh("set -e\n" + readme(t, "## With make", "sh")); r.status != 0 {
		t.Errorf("the commands of README.md: %+v", r)
	}

	// All goes away and comes back.
	mk("destroy", "NX_DESTROY_FLAGS=--yes").want(t, "destroy", 0, "", "")
	if left := d.sh(`nx-provision -q show --json | grep '"host"'`); left.status == 0 {
		t.Errorf("there is still %s", left.stdout)
	}
	mk("-j8", "deploy").want(t, "all anew", 0, anew, by4)
	greets(map[string]string{"web1": "night"})
}

// With -k a host that fails, at whatever stage, stops only itself, and the next make tries
// it again, alone.
func TestMakeGoesOn(t *testing.T) {
	t.Parallel()
	network := func(one, two, three, more string) string {
		return `{
  defaults = { deployment.targetEnv = "sandbox"; boot.isContainer = true; };
  good = { };
  one = { pkgs, ... }: { ` + one + ` };
  two = { pkgs, ... }: { ` + two + ` };
  three = { pkgs, ... }: { deployment.tags = [ "canary" ]; ` + three + ` };
` + more + `}
`
	}
	const (
		misspelt    = `services.opnessh.enable = true;`
		unbuildable = `environment.etc.x.source = derivation { name = "broken"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "exit 7" ]; };`
		nowhere     = `  four = { deployment.targetEnv = "digitalOcean"; deployment.digitalOcean.region = "ams3"; deployment.digitalOcean.size = "s-1vcpu-1gb"; };` + "\n"
		stubborn    = `system.activationScripts.no = "exit 1";`
	)
	d := deploy(t, map[string]string{"Makefile": makefile(t), "network.nix": network(misspelt, unbuildable, stubborn, nowhere)})
	c := takeCensus(t)
	mk := func(args ...string) made { t.Helper(); return c.make(d, args...) }

	m := mk("-k", "-j8", "deploy")
	m.want(t, "four break", 2, "built good three; copied good three; activated good; nx-build failed two; nx-activate failed three", "nx-build 3, nx-copy 2, nx-activate 2")
	for _, want := range []string{
		"nx.mk: error: four: ", `nx\.mk:\d+: \.nx/drv/four\.jsonl\] Error 1`,
		"nx.mk: error: one: .*services.opnessh", `nx\.mk:\d+: \.nx/drv/one\.jsonl\] Error 1`,
		"nx.mk: error: two: .*broken.drv", `nx\.mk:\d+: \.nx/built/two\.jsonl\] Error 1`,
		"nx.mk: error: three: ", `nx\.mk:\d+: \.nx/active/three\.jsonl\] Error 1`,
	} {
		if !regexp.MustCompile(want).MatchString(m.stderr) {
			t.Errorf("stderr has no %s:\n%s", want, m.stderr)
		}
	}

	mk("-k", "-j8", "deploy").want(t, "again", 2, "nx-build failed two; nx-activate failed three", "nx-build 1, nx-activate 1")
	mk("-j8", "deploy-good").want(t, "the good one", 0, "", "")

	// A host whose new configuration is broken is not brought the old one meanwhile.
	d.write("network.nix", network("", misspelt, "", ""))
	mk("-k", "-j8", "deploy").want(t, "two are mended", 2, "built one three; copied one three; activated one three", "nx-build 2, nx-copy 2, nx-activate 2")
	d.write("network.nix", network("", "", "", ""))

	// Waves are those of all hosts; those that were not reached are for the next make.
	if r := d.sh("touch .nx/drv/*.jsonl"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	d.write("network.nix", network("", "", stubborn, ""))
	m = mk("-k", "-j8", "deploy", "NX_ACTIVATE_FLAGS=--canary 1 --order-by-tags canary")
	if m.status != 2 || !strings.HasSuffix(m.runs, "nx-activate 4") || strings.Contains(m.did, "activated") {
		t.Errorf("a canary that does not hold: %+v", m)
	}
	d.write("network.nix", network("", "", "", ""))
	mk("-k", "-j8", "deploy").want(t, "the rest", 0, "built three; copied three; activated good one three two", "nx-build 1, nx-copy 1, nx-activate 4")
	mk("-k", "-j8", "deploy").wantNothing(t, "all are well")

	// What was collected as garbage is named, with the file to make again. A derivation
	// is made again by its evaluation.
	d.write("network.nix", network(`environment.etc.x.text = "collected";`, "", "", ""))
	mk("build").want(t, "one is built", 0, "built one", "nx-build 1")
	if r := d.sh(`
		out=$(jq -r .storePath .nx/built/one.jsonl)
		drv=$(jq -r .drvPath .nx/drv/one.jsonl)
		rm -r .nx/gcroots .nx/drvs
		nix-store --delete "$out" && nix-store --delete "$drv"`); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	m = mk("-k", "deploy")
	want := `nx.mk: hint: /nix/store/\S+-nixos-system-one-\S+ is gone: remove .nx/built/one.jsonl and make again`
	if m.status != 2 || !regexp.MustCompile(want).MatchString(m.stderr) {
		t.Errorf("what was collected: status %d, stderr:\n%s", m.status, m.stderr)
	}
	if r := d.sh("rm .nx/built/one.jsonl"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	mk("-k", "deploy").want(t, "made again", 0, "built one; copied one; activated one", "nx-build 1, nx-copy 1, nx-activate 1")
}

// Fifty hosts are one process of each tool, also when one of them is broken.
func TestMakeFleet(t *testing.T) {
	t.Parallel()
	network := func(broken string) string {
		return `builtins.listToAttrs (map (n: { name = "web${toString n}"; value.networking.hostName = "web${toString n}"; }) (builtins.genList (n: n + 10) 49)) // {
  defaults = { deployment.targetEnv = "sandbox"; boot.isContainer = true; };
  broken = { ` + broken + ` };
}
`
	}
	d := deploy(t, map[string]string{"Makefile": makefile(t), "network.nix": network(`services.opnessh.enable = true;`)})
	c := takeCensus(t)
	m := c.make(d, "-k", "-j8", "deploy")
	if m.status != 2 || m.runs != "nx-build 49, nx-copy 49, nx-activate 49" || strings.Contains(m.did, "error") {
		t.Fatalf("the first deployment: status %d, %s, %s; stderr:\n%s", m.status, m.runs, m.did, m.stderr)
	}
	d.write("network.nix", network(""))
	c.make(d, "-j8", "deploy").want(t, "the broken one is mended", 0, "built broken; copied broken; activated broken", "nx-build 1, nx-copy 1, nx-activate 1")
	c.make(d, "-j8", "deploy").wantNothing(t, "all are well")
}
