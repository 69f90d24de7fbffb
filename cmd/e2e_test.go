package cmd_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"nx/pkg/testhost"
)

// A deployment is a folder with a network whose machines are sandboxes, and the
// tools run in it as a user would.
type deployment struct {
	t   *testing.T
	dir string
}

func deploy(t *testing.T, files map[string]string) *deployment {
	t.Helper()
	testhost.Need(t, "root", "nix")
	d := &deployment{t, t.TempDir()}
	for name, text := range files {
		d.write(name, text)
	}
	testhost.Reap(t, &testhost.Lab{Dir: filepath.Join(d.dir, ".nx/sandbox"), IdentityFile: filepath.Join(d.dir, ".nx/id_ed25519")})
	t.Cleanup(func() {
		if r := d.sh("nx-provision -q destroy --yes"); r.status != 0 {
			t.Errorf("destroy: %+v", r)
		}
	})
	return d
}

func (d *deployment) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o666); err != nil {
		d.t.Fatal(err)
	}
}

// environment is the one of a user who has the tools, the stand-in nixpkgs and a
// Nix without a daemon.
func environment(t *testing.T) []string {
	t.Helper()
	nixpkgs, err := filepath.Abs("../testdata/nixpkgs")
	if err != nil {
		t.Fatal(err)
	}
	return append(os.Environ(),
		"PATH="+bin+":"+os.Getenv("PATH"),
		"NIX_PATH=nixpkgs="+nixpkgs,
		"NIX_CONFIG=sandbox = false\nbuild-users-group =\nsubstituters =",
	)
}

func (d *deployment) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.t.Context()), 4*time.Minute)
	d.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = d.dir, environment(d.t)
	return cmd
}

// sh runs a script in the deployment's folder.
func (d *deployment) sh(script string) result {
	d.t.Helper()
	return run(d.t, d.command("/bin/sh", "-c", script), nil)
}

// The whole pipe, from the network to running systems.
const pipeline = `nx-provision -f network.nix | nx-eval -f network.nix | nx-build | nx-copy | nx-activate switch`

// hosts are the host records of a stream, by name.
func hosts(t *testing.T, stream string) map[string]gjson.Result {
	t.Helper()
	all := map[string]gjson.Result{}
	for line := range strings.Lines(stream) {
		if r := gjson.Parse(line); r.Get("kind").Str == "host" {
			all[r.Get("name").Str] = r
		}
	}
	return all
}

// wantResults checks each host's activation result, or the stage of its error.
func wantResults(t *testing.T, r result, want map[string]string) map[string]gjson.Result {
	t.Helper()
	got := hosts(t, r.stdout)
	for name, want := range want {
		h, ok := got[name]
		result := h.Get("activation.result").Str
		if h.Get("error").Exists() {
			result = "error: " + h.Get("error.stage").Str
		}
		if !ok || result != want {
			t.Errorf("%s: %q, want %q: %s", name, result, want, h.Raw)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d hosts, want %d", len(got), len(want))
	}
	if t.Failed() {
		t.Fatalf("status %d, stderr:\n%s", r.status, r.stderr)
	}
	return got
}

// host is the machine's sandbox, to look at it from the inside and to cut its cable.
func (d *deployment) host(name string) *testhost.Host {
	d.t.Helper()
	lab := testhost.Lab{Dir: filepath.Join(d.dir, ".nx/sandbox"), IdentityFile: filepath.Join(d.dir, ".nx/id_ed25519")}
	h, err := lab.Host(name)
	if err != nil {
		d.t.Fatal(err)
	}
	return h
}

// on runs a script in the machine.
func (d *deployment) on(name, script string) string {
	d.t.Helper()
	out, err := d.host(name).Exec(d.t.Context(), script)
	if err != nil {
		d.t.Fatalf("%s: %v", name, err)
	}
	return strings.TrimSpace(out)
}

// wantRunning checks that the machine runs what its record says, that it boots it,
// and that nothing is left of the way there.
func (d *deployment) wantRunning(r gjson.Result) {
	d.t.Helper()
	name, path := r.Get("name").Str, r.Get("storePath").Str
	got := d.on(name, "readlink -f /run/current-system /nix/var/nix/profiles/system; find /nix/var/nix/gcroots/nx/"+filepath.Base(path)+" 2>/dev/null || true")
	if want := path + "\n" + path; got != want {
		d.t.Errorf("%s runs, boots, and is still kept by\n%s\nwant\n%s", name, got, want)
	}
	if got := d.on(name, "nix-store --verify --check-contents 2>&1 | grep -v '^checking\\|^reading' || true"); got != "" {
		d.t.Errorf("%s: its store: %s", name, got)
	}
}

const shop = `{
  network.description = "A shop";
  defaults = { name, ... }: {
    deployment.targetEnv = "sandbox";
    boot.isContainer = true;
    services.openssh.enable = true;
    environment.etc."shop/role".text = "${name}";
  };
  db = { deployment.tags = [ "database" ]; };
  web1 = import ./web.nix;
  web2 = import ./web.nix;
}
`

func web(greeting string) string {
	return `{ nodes, ... }: {
  environment.etc."shop/database".text = nodes.db.config.networking.privateIPv4;
  environment.etc."shop/greeting".text = "` + greeting + `";
}
`
}

func TestDeploy(t *testing.T) {
	t.Parallel()
	d := deploy(t, map[string]string{"network.nix": shop, "web.nix": web("morning")})

	// A network goes in, and machines run what it says.
	first := d.sh(pipeline)
	got := wantResults(t, first, map[string]string{"db": "activated", "web1": "activated", "web2": "activated"})
	if first.status != 0 {
		t.Errorf("status %d", first.status)
	}
	for name, r := range got {
		d.wantRunning(r)
		if role := d.on(name, "cat /etc/shop/role"); role != name {
			t.Errorf("%s plays %q", name, role)
		}
	}
	if got, want := d.on("web1", "cat /etc/shop/database"), got["db"].Get("machine.privateIPv4").Str; got != want || want == "" {
		t.Errorf("web1 has the database at %q, it is at %q", got, want)
	}

	// Again, nothing changes.
	generations := d.on("db", "ls /nix/var/nix/profiles")
	again := d.sh(pipeline)
	wantResults(t, again, map[string]string{"db": "unchanged", "web1": "unchanged", "web2": "unchanged"})
	if after := d.on("db", "ls /nix/var/nix/profiles"); after != generations {
		t.Errorf("profiles became\n%s, were\n%s", after, generations)
	}

	// A line changes: only the machines that have it change. Each stage leaves a
	// file, and the files are a deployment of their own.
	d.write("web.nix", web("evening"))
	for _, step := range []string{
		"nx-provision -f network.nix -o hosts.jsonl",
		"nx-eval -f network.nix -o drvs.jsonl hosts.jsonl",
		"nx-build -o built.jsonl drvs.jsonl",
		"nx-copy -o copied.jsonl built.jsonl",
	} {
		if r := d.sh(step); r.status != 0 || r.stdout != "" {
			t.Fatalf("%s: %+v", step, r)
		}
	}
	wantResults(t, d.sh("nx-activate dry-activate copied.jsonl"), map[string]string{"db": "unchanged", "web1": "dry", "web2": "dry"})
	if got := d.on("web2", "cat /etc/shop/greeting"); got != "morning" {
		t.Errorf("dry-activate changed the greeting to %q", got)
	}
	wantResults(t, d.sh("nx-activate switch copied.jsonl"), map[string]string{"db": "unchanged", "web1": "activated", "web2": "activated"})
	if got := d.on("web2", "cat /etc/shop/greeting"); got != "evening" {
		t.Errorf("greeting %q", got)
	}
	wantResults(t, d.sh("nx-activate switch < copied.jsonl"), map[string]string{"db": "unchanged", "web1": "unchanged", "web2": "unchanged"})

	// The same input gives the same bytes.
	before, err := os.ReadFile(filepath.Join(d.dir, "built.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if r := d.sh("nx-eval -q -f network.nix < hosts.jsonl | nx-build -q -o built.jsonl"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	after, err := os.ReadFile(filepath.Join(d.dir, "built.jsonl"))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("%v: built.jsonl became\n%s, was\n%s", err, after, before)
	}

	// Only the chosen are acted on and written; the others are still facts.
	wantResults(t, d.sh("nx-provision -f network.nix | nx-eval -f network.nix --on web1 | nx-build | nx-copy | nx-activate switch"),
		map[string]string{"web1": "unchanged"})

	// The root for the next boot.
	d.write("web.nix", web("night"))
	wantResults(t, d.sh("nx-eval -f network.nix --on 'web*' hosts.jsonl | nx-build | nx-copy | nx-activate boot"),
		map[string]string{"web1": "activated", "web2": "activated"})
	if got := d.on("web1", "cat /etc/shop/greeting"); got != "evening" {
		t.Errorf("boot changed the greeting to %q", got)
	}
	if err := d.host("web1").Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := d.on("web1", "cat /etc/shop/greeting"); got != "night" {
		t.Errorf("after the reboot the greeting is %q", got)
	}
}

// One machine is cut off, one cannot be evaluated, one not built, one fails to
// switch: each has its own error, the rest is deployed, and the status is 1.
func TestEachFailsByItself(t *testing.T) {
	t.Parallel()
	d := deploy(t, map[string]string{"network.nix": `{
  defaults = { deployment.targetEnv = "sandbox"; boot.isContainer = true; };
  good = { };
  cut = { };
  misspelt = { services.opnessh.enable = true; };
  unbuildable = { pkgs, ... }: {
    environment.etc.x.source = derivation {
      name = "broken"; system = builtins.currentSystem; builder = "/bin/sh";
      args = [ "-c" "echo the last words; exit 7" ];
    };
  };
  stubborn = { system.activationScripts.no = "echo this machine does not want to; exit 1"; };
}
`})
	if r := d.sh("nx-provision -q -f network.nix"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	if err := d.host("cut").Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := d.sh(pipeline)
	got := wantResults(t, r, map[string]string{"good": "activated", "cut": "error: copy", "misspelt": "error: eval",
		"unbuildable": "error: build", "stubborn": "error: activate"})
	if r.status != 1 {
		t.Errorf("status %d", r.status)
	}
	d.wantRunning(got["good"])
	for name, want := range map[string][2]string{
		"cut":         {"", ""},
		"misspelt":    {"services.opnessh", "network.nix"},
		"unbuildable": {"broken.drv", "the last words"},
		"stubborn":    {"", "this machine does not want to"},
	} {
		e := got[name].Get("error")
		if !strings.Contains(e.Get("message").Str, want[0]) || !strings.Contains(e.Get("log").Str, want[1]) || strings.Contains(e.Get("message").Str, "\n") {
			t.Errorf("%s: %s, want %q", name, e.Raw, want)
		}
		if !strings.Contains(r.stderr, "error: "+name+": ") {
			t.Errorf("stderr does not say that %s failed", name)
		}
	}

	// Mended, the next run completes.
	if err := d.host("cut").Mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.write("network.nix", `{
  defaults = { deployment.targetEnv = "sandbox"; boot.isContainer = true; };
  good = { };
  cut = { };
  misspelt = { };
  unbuildable = { };
  stubborn = { };
}
`)
	for _, r := range wantResults(t, d.sh(pipeline), map[string]string{"good": "unchanged", "cut": "activated", "misspelt": "activated",
		"unbuildable": "activated", "stubborn": "activated"}) {
		d.wantRunning(r)
	}
}

// Ten hosts; each tool is killed in the middle of its work; the last tool says so,
// and the run repeated completes: no record and no path is lost.
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	const n = 10
	d := deploy(t, nil)
	network := func(version string) {
		text := "{\n  defaults = { deployment.targetEnv = \"sandbox\"; boot.isContainer = true; environment.etc.version.text = \"" + version + "\"; };\n"
		for i := range n {
			text += fmt.Sprintf("  host%d = { environment.etc.number.text = \"%d\"; };\n", i, i)
		}
		d.write("network.nix", text+"}\n")
	}
	all := func(result string) map[string]string {
		want := map[string]string{}
		for i := range n {
			want[fmt.Sprintf("host%d", i)] = result
		}
		return want
	}
	stages := [][]string{
		{"nx-provision", "-f", "network.nix"}, {"nx-eval", "-f", "network.nix"}, {"nx-build"}, {"nx-copy"}, {"nx-activate", "switch"},
	}
	for victim, stage := range stages {
		network("before " + stage[0])
		stdout, status := d.killed(stages, victim)
		if want := map[bool]int{false: 2, true: 137}[victim == len(stages)-1]; status != want {
			t.Errorf("%s killed: the last tool's status is %d, want %d", stage[0], status, want)
		}
		if strings.Contains(stdout, `"end"`) {
			t.Errorf("%s killed: an end was written:\n%s", stage[0], stdout)
		}
		r := d.sh(pipeline)
		if r.status != 0 {
			t.Fatalf("after %s was killed: status %d, stderr:\n%s", stage[0], r.status, r.stderr)
		}
		got := hosts(t, r.stdout)
		if len(got) != n {
			t.Errorf("after %s was killed: %d hosts, want %d", stage[0], len(got), n)
		}
		for name, r := range got {
			d.wantRunning(r)
			if v := d.on(name, "cat /etc/version"); v != "before "+stage[0] {
				t.Errorf("%s has version %q", name, v)
			}
		}
	}
	wantResults(t, d.sh(pipeline), all("unchanged"))
}

// killed runs the pipe and kills one of its tools as soon as that has announced
// something about a host. It returns what the last tool wrote, and its status.
func (d *deployment) killed(stages [][]string, victim int) (stdout string, last int) {
	d.t.Helper()
	var cmds []*exec.Cmd
	var out bytes.Buffer
	var wg sync.WaitGroup
	announced := make(chan bool, 1)
	for i, stage := range stages {
		cmd := d.command(filepath.Join(bin, stage[0]), append([]string{"-v", "--log-format", "json"}, stage[1:]...)...)
		if i == len(stages)-1 {
			cmd.Stdout = &out
		}
		stderr, err := cmd.StderrPipe()
		if err != nil {
			d.t.Fatal(err)
		}
		wg.Go(func() {
			for s := bufio.NewScanner(stderr); s.Scan(); {
				var e struct{ Host string }
				if json.Unmarshal(s.Bytes(), &e) == nil && e.Host != "" && i == victim {
					select {
					case announced <- true:
					default:
					}
				}
			}
		})
		cmds = append(cmds, cmd)
	}
	for i := range len(cmds) - 1 {
		r, w, err := os.Pipe()
		if err != nil {
			d.t.Fatal(err)
		}
		cmds[i].Stdout, cmds[i+1].Stdin = w, r
		defer r.Close()
		defer w.Close()
	}
	for i, cmd := range cmds {
		if err := cmd.Start(); err != nil {
			d.t.Fatal(err)
		}
		// The tools alone hold the pipes, so that one's death is seen by its neighbours.
		if f, ok := cmd.Stdout.(*os.File); ok {
			f.Close()
		}
		if i > 0 {
			cmd.Stdin.(*os.File).Close()
		}
	}
	<-announced
	if err := cmds[victim].Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
	wg.Wait()
	for _, cmd := range cmds {
		cmd.Wait()
	}
	return out.String(), status(cmds[len(cmds)-1].ProcessState)
}

// A host that exists already: the network says where it is, and another program
// adds what only the user's machine knows.
func TestExistingHost(t *testing.T) {
	t.Parallel()
	h := testhost.Start(t, 1)[0]
	d := &deployment{t, t.TempDir()}
	d.write("network.nix", `{
  board = { ... }: {
    deployment.targetHost = "`+h.Addr.String()+`";
    imports = [ ./board.nix ];
  };
}
`)
	d.write("board.nix", `{ ... }: { boot.isContainer = true; services.openssh.enable = true; environment.etc.board.text = "yes"; }`)
	key := map[string]any{"hostKeys": []string{h.HostKey}, "identityFile": h.Target().IdentityFile}
	b, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	d.write("key.json", string(b))

	const add = `jq -c --slurpfile key key.json 'if .name then .target += $key[0] else . end'`
	first := d.sh("nx-provision -f network.nix | " + add + " | nx-eval -f network.nix | nx-build | nx-copy | nx-activate switch")
	r := wantResults(t, first, map[string]string{"board": "activated"})["board"]
	if got, err := h.Exec(t.Context(), "readlink -f /run/current-system; cat /etc/board"); err != nil || got != r.Get("storePath").Str+"\nyes" {
		t.Errorf("the host runs %q (%v), want %s", got, err, r.Get("storePath"))
	}
	if r := d.sh("nx-provision show -f network.nix"); r.status != 0 || !strings.Contains(r.stdout, "board  none") {
		t.Errorf("%+v", r)
	}

	// A host key that is not the host's is refused, before anything is sent.
	other := strings.ReplaceAll(string(b), h.HostKey, testhost.Start(t, 1)[0].HostKey)
	d.write("key.json", other)
	r = wantResults(t, d.sh("nx-provision -f network.nix | "+add+" | nx-eval -f network.nix | nx-build | nx-copy"),
		map[string]string{"board": "error: copy"})["board"]
	if !strings.Contains(r.Get("error.message").Str, "host key") {
		t.Errorf("error %s", r.Get("error"))
	}
}

// The networks that these tests deploy with the stand-in evaluate with the real
// nixpkgs too.
func TestNetworksOnNixpkgs(t *testing.T) {
	testhost.Need(t, "nix", "nixpkgs")
	t.Parallel()
	d := &deployment{t, t.TempDir()}
	for name, text := range map[string]string{"network.nix": shop, "web.nix": web("morning"),
		"hosts.jsonl": `{"nx":1,"name":"db","machine":{"privateIPv4":"10.0.0.7"}}
{"nx":1,"name":"web1"}
{"nx":1,"name":"web2"}
`} {
		d.write(name, text)
	}
	demo, err := filepath.Abs("../testdata/demo/network.nix")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"network.nix", demo} {
		r := d.sh("NIX_PATH=nixpkgs=$NXTEST_NIXPKGS nx-eval -f " + file + " hosts.jsonl")
		got := hosts(t, r.stdout)
		if r.status != 0 || len(got) != 3 || strings.Contains(r.stdout, "stand-in") {
			t.Errorf("%s: %+v", file, r)
		}
	}
}
