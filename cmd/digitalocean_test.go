package cmd_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"nx/pkg/provision/digitalocean/dofake"
	"nx/pkg/testhost"
)

const doToken = "dop_v1_0123456789abcdef0123456789abcdef"

// A cloud is an account at DigitalOcean whose droplets are hosts of this machine.
type cloud struct {
	*dofake.API
	url string
	lab *testhost.Lab
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	dir := t.TempDir()
	c := &cloud{lab: &testhost.Lab{Dir: filepath.Join(dir, "hosts"), IdentityFile: filepath.Join(dir, "id")}}
	testhost.Reap(t, c.lab)
	c.API = dofake.New(t, dofake.Options{
		Token: doToken,
		Boot:  func(d dofake.Droplet) (string, error) { return c.boot(t, d) },
		Halt: func(d dofake.Droplet) {
			if h, err := c.lab.Host(d.Name); err == nil {
				_ = h.Stop(t.Context())
			}
		},
	})
	t.Cleanup(c.Wait)
	server := httptest.NewServer(c.API)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// newDroplet is a cloud, and a folder with the network of one droplet, which is text.
func newDroplet(t *testing.T) (c *cloud, d *deployment, text string) {
	t.Helper()
	testhost.Need(t, "root", "nix")
	network, err := os.ReadFile("../pkg/network/testdata/networks/droplet.nix")
	if err != nil {
		t.Fatal(err)
	}
	d = &deployment{t, t.TempDir()}
	d.write("network.nix", string(network))
	return newCloud(t), d, string(network)
}

// environment leads nx-provision to the cloud, in a script.
func (c *cloud) environment() string {
	return "export DIGITALOCEAN_API_URL=" + c.url + " DIGITAL_OCEAN_AUTH_TOKEN=" + doToken + "\n"
}

// boot starts a droplet's host. At its first start it does what cloud-init does with
// the user data and the keys.
func (c *cloud) boot(t *testing.T, d dofake.Droplet) (string, error) {
	_, err := c.lab.Host(d.Name)
	first := errors.Is(err, testhost.ErrNoHost)
	h, err := c.lab.Start(t.Context(), d.Name, testhost.Options{})
	if err != nil || !first {
		return h.Addr.String(), err
	}
	var data struct {
		Keys map[string]string `json:"ssh_keys"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(d.UserData, "#cloud-config\n")), &data); err != nil {
		return "", err
	}
	return h.Addr.String(), errors.Join(
		os.WriteFile(h.Disk("etc/ssh/ssh_host_ed25519_key"), []byte(data.Keys["ed25519_private"]), 0o600),
		os.WriteFile(h.Disk("etc/ssh/ssh_host_ed25519_key.pub"), []byte(data.Keys["ed25519_public"]), 0o644),
		os.WriteFile(h.Disk("etc/ssh/authorized_keys.d/root"), []byte(strings.Join(d.SSHKeys, "\n")+"\n"), 0o644),
		h.Reboot(t.Context()),
	)
}

// The network of one droplet is made as it stands, costs nothing when there is nothing
// to do, is changed, checked and destroyed, and the token is nowhere.
func TestDroplet(t *testing.T) {
	c, d, text := newDroplet(t)
	var said []string
	run := func(status int, script string) result {
		t.Helper()
		c.ForgetRequests()
		r := d.sh(c.environment() + script)
		said = append(said, r.stdout, r.stderr)
		if r.status != status {
			t.Fatalf("%s: got status %d, want %d\n%s%s", script, r.status, status, r.stdout, r.stderr)
		}
		return r
	}
	asked := func(most int) {
		t.Helper()
		if n := len(c.Requests()); n > most {
			t.Errorf("requests: got %d, want at most %d: %v", n, most, c.Counts())
		}
	}

	r := run(3, "nx-provision plan --exit-code -f network.nix")
	if asked(0); !strings.Contains(r.stdout, "s-1vcpu-1gb") {
		t.Errorf("plan: %s", r.stdout)
	}
	r = run(1, "unset DIGITAL_OCEAN_AUTH_TOKEN; nx-provision -f network.nix")
	if asked(0); !strings.Contains(r.stderr, "there is no token") || !strings.Contains(r.stderr, "hint: set DIGITAL_OCEAN_AUTH_TOKEN") {
		t.Errorf("without a token: %s", r.stderr)
	}
	r = run(1, "export DIGITAL_OCEAN_AUTH_TOKEN=wrong; nx-provision -f network.nix")
	if !strings.Contains(r.stderr, "DigitalOcean says: Unable to authenticate you") {
		t.Errorf("with a wrong token: %s", r.stderr)
	}

	r = run(0, "nx-provision -f network.nix")
	droplets := c.Droplets()
	if len(droplets) != 1 || droplets[0].Name != "machine-1" {
		t.Fatalf("droplets: got %+v", droplets)
	}
	h := hosts(t, r.stdout)["machine-1"]
	if h.Get("target.host").Str != droplets[0].PublicIPv4 || h.Get("target.identityFile").Str != ".nx/id/ssh-key" ||
		h.Get("machine.provider").Str != "digitalOcean" || h.Get("machine.state").Str != "up" || h.Get("machine.region").Str != "ams3" {
		t.Errorf("record: got %s", h)
	}
	if own := h.Get("target.hostKeys"); len(own.Array()) != 1 || strings.Contains(droplets[0].UserData, own.Array()[0].Str) {
		t.Errorf("host keys: got %s", own)
	}

	again := run(0, "nx-provision -f network.nix")
	if asked(0); again.stdout != r.stdout {
		t.Errorf("with nothing to do:\n got %s\nwant %s", again.stdout, r.stdout)
	}
	run(0, "nx-provision plan --exit-code -f network.nix")
	asked(0)
	run(0, "nx-provision check -f network.nix")
	asked(2)

	d.write("network.nix", strings.Replace(text, "s-1vcpu-1gb", "s-2vcpu-2gb", 1))
	if r := run(1, "nx-provision -f network.nix"); !strings.Contains(r.stderr, "hint: say --allow-reboot") {
		t.Errorf("resize without leave: %s", r.stderr)
	}
	asked(0)
	run(0, "nx-provision --allow-reboot -f network.nix")
	if d := c.Droplets()[0]; d.Size != "s-2vcpu-2gb" || d.Status != "active" {
		t.Errorf("resized: got %+v", d)
	}

	run(0, "nx-provision stop")
	if r := run(1, "nx-provision check -f network.nix"); !strings.Contains(r.stdout, "stopped") {
		t.Errorf("check: %s", r.stdout)
	}
	run(0, "nx-provision -f network.nix")
	if d := c.Droplets()[0]; d.Status != "active" {
		t.Errorf("started: got %+v", d)
	}
	state, err := os.ReadFile(filepath.Join(d.dir, ".nx/state.json"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(state), doToken) || slices.ContainsFunc(said, func(s string) bool {
		return strings.Contains(s, doToken) || strings.Contains(s, "PRIVATE KEY")
	}) {
		t.Errorf("the token is in %s or in %q", state, said)
	}

	// A token in the network goes no further than to the provider.
	d.write("network.nix", strings.Replace(text, "deployment.digitalOcean.region", `deployment.digitalOcean.authToken = "`+doToken+`";
    deployment.digitalOcean.region`, 1))
	run(0, "unset DIGITAL_OCEAN_AUTH_TOKEN; nx-provision check -f network.nix; nx-provision --allow-reboot -f network.nix | nx-eval -f network.nix --network-format nixops -o drvs.jsonl || true")
	if r := run(1, "grep -rlF "+doToken+" .nx drvs.jsonl"); r.stdout != "" {
		t.Errorf("the token is in %s", r.stdout)
	}

	run(0, "nx-provision destroy --yes")
	if got := c.Droplets(); len(got) != 0 {
		t.Errorf("destroyed: got %+v", got)
	}
	if n := c.Counts()["DELETE /v2/account/keys/{ssh_key_identifier}"]; n != 1 {
		t.Errorf("the account's key was deleted %d times", n)
	}
}

// Whoever is killed between a request and its answer leaves nothing that the next run
// does not find: there is one key in the account and one droplet.
func TestDropletKilled(t *testing.T) {
	c, d, _ := newDroplet(t)
	provision := func(args string) result { return d.sh(c.environment() + "echo $$ > pid; exec nx-provision " + args) }
	for _, op := range []string{"POST /v2/account/keys", "POST /v2/droplets"} {
		fault := dofake.CutAfter
		fault.After = func() { d.signal("pid", syscall.SIGKILL) }
		c.ForgetRequests()
		c.On(dofake.Nth(op, 1, fault))
		if r := provision("-f network.nix"); r.status != 128+9 {
			t.Fatalf("killed at %s: got %+v", op, r)
		}
	}
	c.On(nil)
	if r := provision("-f network.nix"); r.status != 0 {
		t.Fatalf("afterwards: %+v", r)
	}
	if droplets, keys := c.Droplets(), c.Keys(); len(droplets) != 1 || len(keys) != 1 {
		t.Errorf("there are droplets %+v and keys %q, want one of each", droplets, keys)
	}
	if r := provision("destroy --yes"); r.status != 0 {
		t.Errorf("destroy: %+v", r)
	}
	if droplets, keys := c.Droplets(), c.Keys(); len(droplets)+len(keys) != 0 {
		t.Errorf("afterwards there are droplets %+v and keys %q", droplets, keys)
	}
}

// signal sends a signal to the process whose id is in a file.
func (d *deployment) signal(file string, sig syscall.Signal) {
	text, err := os.ReadFile(filepath.Join(d.dir, file))
	pid, aerr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err := cmp.Or(err, aerr); err != nil {
		d.t.Error(err)
		return
	}
	if err := syscall.Kill(pid, sig); err != nil {
		d.t.Error(err)
	}
}

// Ctrl-C lets what was asked be answered, says what is there, and the next run goes on
// with it.
func TestDropletInterrupted(t *testing.T) {
	c, d, _ := newDroplet(t)
	provision := func(args string) result { return d.sh(c.environment() + "echo $$ > pid; exec nx-provision " + args) }
	c.On(dofake.Nth("POST /v2/droplets", 1, dofake.Fault{After: func() { d.signal("pid", syscall.SIGINT) }}))
	r := provision("-f network.nix")
	droplets := c.Droplets()
	if r.status != 128+2 || len(droplets) != 1 {
		t.Fatalf("interrupted: %+v; droplets %+v", r, droplets)
	}
	id := strconv.Itoa(droplets[0].ID)
	for _, want := range []string{
		"nx-provision: error: machine-1: create machine-1: " + id + " was made and is not ready: create droplet machine-1: interrupted by SIGINT",
		"nx-provision: hint: it is remembered: run nx-provision again to go on with it, or nx-provision destroy --on machine-1 to have it removed\n",
	} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("interrupted, it says\n%s\nwant %q in it", r.stderr, want)
		}
	}
	if r := provision("plan -f network.nix"); !strings.Contains(r.stdout, "its creation was begun") {
		t.Errorf("plan: %s", r.stdout)
	}
	if r := provision("-f network.nix"); r.status != 0 || !strings.Contains(r.stdout, `"id":"`+id+`"`) || len(c.Droplets()) != 1 {
		t.Errorf("afterwards: %+v; droplets %+v", r, c.Droplets())
	}
	if r := provision("destroy --yes"); r.status != 0 || len(c.Droplets()) != 0 {
		t.Errorf("destroy: %+v", r)
	}
}
