package cmd_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// readme returns the text of the first block of a language under a heading of README.md.
func readme(t *testing.T, heading, language string) string {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(b), "\n"+heading+"\n")
	if ok {
		_, section, ok = strings.Cut(section, "\n```"+language+"\n")
	}
	block, _, end := strings.Cut(section, "\n```\n")
	if !ok || !end {
		t.Fatalf("README.md has no block of %s under %q", language, heading)
	}
	return block + "\n"
}

// The jobs of README.md: one evaluates and builds, another one deploys with what that
// left, in a folder and a store of its own.
func TestCI(t *testing.T) {
	t.Parallel()
	network := func(greeting, more string) string {
		return `{
  defaults = { deployment.targetEnv = "sandbox"; boot.isContainer = true; environment.etc.greeting.text = "` + greeting + `"; };
  web = { deployment.tags = [ "canary" ]; };
  db = { deployment.keys.password.text = "swordfish"; };
` + more + `}
`
	}
	d := deploy(t, map[string]string{"network.nix": network("morning", "")})
	cache := t.TempDir()
	review, build, deliver := readme(t, "### A review of a change", "sh"), readme(t, "### A job that builds", "sh"), readme(t, "### A job that deploys", "sh")
	job := func(script string) result {
		t.Helper()
		cmd := d.command("/bin/sh", "-euc", script)
		cmd.Env = append(cmd.Env, "CACHE=file://"+cache)
		return run(t, cmd, nil)
	}
	c := takeCensus(t)

	// deploys runs the second job on another computer: nothing but the files that
	// the first one left, its secrets, and a store of its own.
	deploys := func() (result, string) {
		t.Helper()
		other := t.TempDir()
		if r := d.sh("mkdir '" + other + "/.nx' && cp built.jsonl keys.age ci.key '" + other + "' && cp .nx/id_ed25519 '" + other + "/.nx'"); r.status != 0 {
			t.Fatalf("%+v", r)
		}
		public, err := os.ReadFile(filepath.Join(d.dir, "cache.pub"))
		if err != nil {
			t.Fatal(err)
		}
		cmd := d.command("/bin/sh", "-euc", deliver)
		cmd.Dir = other
		cmd.Env = append(cmd.Env, "PATH="+c.dir+":"+bin+":"+os.Getenv("PATH"), "NIX_REMOTE="+other+"/store", "NIX_PATH=",
			"NIX_CONFIG=sandbox = false\nbuild-users-group =\nsubstituters = file://"+cache+"\ntrusted-public-keys = "+string(public))
		before := c.started.Load()
		r := run(t, cmd, nil)
		if n := c.started.Load() - before; n != 0 {
			t.Errorf("%d evaluators ran where it is deployed", n)
		}
		return r, other
	}

	if r := d.sh(`
		nx-provision -q -f network.nix -o hosts.jsonl
		nix-store --generate-binary-cache-key cache-1 cache.key cache.pub
		ssh-keygen -q -t ed25519 -N '' -f ci.key && mv ci.key.pub ci.pub`); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	if r := job(build); r.status != 0 {
		t.Fatalf("build: %+v", r)
	}
	r, other := deploys()
	if r.status != 0 {
		t.Fatalf("deploy: %+v", r)
	}
	for file, want := range map[string]string{"canary.jsonl": "web", "rest.jsonl": "db"} {
		b, err := os.ReadFile(filepath.Join(other, file))
		if err != nil {
			t.Fatal(err)
		}
		got := hosts(t, string(b))
		if len(got) != 1 || got[want].Get("activation.result").Str != "activated" {
			t.Errorf("%s has %s", file, b)
		}
		d.wantRunning(got[want])
	}
	if got := d.on("db", "cat /run/keys/password"); got != "swordfish" {
		t.Errorf("the key is %q", got)
	}

	// A review tells what would change, and its status whether machines would.
	d.write("network.nix", network("evening", ""))
	for _, tt := range []struct {
		network string
		status  int
		want    string // of plan.md
	}{
		{network("evening", ""), 0, `(?m)^0 to change`},
		{network("evening", "  new = { };\n"), 3, `(?m)^\| new +\| create`},
	} {
		d.write("network.nix", tt.network)
		r := job(review)
		plan := d.sh("cat plan.md").stdout
		if r.status != tt.status || !regexp.MustCompile(tt.want).MatchString(plan) || !regexp.MustCompile(`(?m)^\| web +\| all `).MatchString(plan) {
			t.Errorf("review: status %d, want %d and %s; stderr:\n%s\nplan.md:\n%s", r.status, tt.status, tt.want, r.stderr, plan)
		}
	}
	if got := d.on("web", "cat /etc/greeting"); got != "morning" {
		t.Errorf("a review changed the greeting to %q", got)
	}

	// A canary that does not hold ends it.
	d.write("network.nix", network("noon", `  defaults.system.activationScripts.no = "exit 1";`))
	if r := job(build); r.status != 0 {
		t.Fatalf("build: %+v", r)
	}
	if r, _ := deploys(); r.status != 1 || !strings.Contains(r.stderr, "error: web: ") || strings.Contains(r.stderr, "db: activating") {
		t.Errorf("a canary that breaks: %+v", r)
	}

	// A month later the cache has been emptied.
	d.write("network.nix", network("night", ""))
	if r := job(build); r.status != 0 {
		t.Fatalf("build: %+v", r)
	}
	if err := os.RemoveAll(cache); err != nil {
		t.Fatal(err)
	}
	r, _ = deploys()
	if r.status != 1 || !regexp.MustCompile(`(?m)^nx-copy: error: web: copy /nix/store/\S+: .*is not valid$`).MatchString(r.stderr) ||
		!regexp.MustCompile(`(?m)^nx-copy: hint: .*run nx-build again`).MatchString(r.stderr) {
		t.Errorf("a month later: %+v", r)
	}
	if r := job(build); r.status != 0 {
		t.Fatalf("build again: %+v", r)
	}
	if r, _ := deploys(); r.status != 0 {
		t.Fatalf("deploy again: %+v", r)
	}
	if got := d.on("web", "cat /etc/greeting"); got != "night" {
		t.Errorf("the greeting is %q", got)
	}
}
