package cmd_test

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"nx/pkg/state/s3fake"
	"nx/pkg/testhost"
)

// A team and CI share the state in a bucket: what one made another knows, secrets can
// be read by whom they are for, one waits for the other, and the lock of somebody who
// is gone is taken by force.
func TestStateInBucket(t *testing.T) {
	testhost.Need(t, "nix")
	s3, err := s3fake.New("team")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s3)
	t.Cleanup(server.Close)
	home := t.TempDir()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(home, "me")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	person := func() *deployment {
		d := &deployment{t, t.TempDir()}
		d.write("network.nix", `{ resources.sshKeyPairs.admin = { }; web = { }; }`)
		return d
	}
	run := func(d *deployment, status int, script string) result {
		t.Helper()
		r := d.sh("export AWS_ACCESS_KEY_ID=id AWS_SECRET_ACCESS_KEY=secret AWS_EC2_METADATA_DISABLED=true AWS_CONFIG_FILE=/dev/null" +
			" NX_STATE='s3://team/shop.json?endpoint=" + server.URL + "' NX_AGE_RECIPIENTS=" + home + "/me.pub\n" + script)
		if r.status != status {
			t.Fatalf("%s: got status %d, want %d\n%s%s", script, r.status, status, r.stdout, r.stderr)
		}
		return r
	}
	one, other := person(), person()
	first := run(one, 0, "nx-provision -f network.nix")
	if again := run(other, 0, "nx-provision plan --exit-code -q -f network.nix; nx-provision show -f network.nix --json"); !strings.Contains(again.stdout, `"publicKey":"ssh-ed25519 `) {
		t.Errorf("another is shown %s", again.stdout)
	}
	run(other, 0, "nx-provision identities --age-identity "+home+"/me")
	mine, err := os.ReadFile(filepath.Join(one.dir, ".nx/id/admin"))
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err := os.ReadFile(filepath.Join(other.dir, ".nx/id/admin")); err != nil || string(theirs) != string(mine) {
		t.Errorf("another's identity is %q (%v)", theirs, err)
	}
	for _, d := range []*deployment{one, other} {
		if _, err := os.Stat(filepath.Join(d.dir, ".nx/state.json")); err == nil {
			t.Error("there is a state here, too")
		}
	}
	// The deployment is the same for who evaluates.
	uuid := func(d *deployment) string {
		return strings.TrimSpace(run(d, 0, `nx-eval query -q -f network.nix 'nodes.web.config.deployment.uuid'`).stdout)
	}
	if a, b := uuid(one), uuid(other); a != b || len(a) != 38 {
		t.Errorf("the deployment is %s for one and %s for the other", a, b)
	}

	// Who is killed leaves the lock.
	other.write("slow.nix", `{ resources.sshKeyPairs.admin = { }; resources.commandOutput.slow.script = "kill -9 $PPID"; web = { }; }`)
	run(other, 128+9, "nx-provision -f slow.nix")
	r := run(one, 128+15, "nx-provision -f network.nix 2>err & pid=$!; until grep -q waiting err; do kill -0 $pid; done; kill -TERM $pid; wait $pid")
	said, err := os.ReadFile(filepath.Join(one.dir, "err"))
	if err != nil || !strings.Contains(string(said), "waiting for another nx-provision, which has the state: ") || !strings.Contains(string(said), "hint: if that process is gone: nx-provision unlock --force") {
		t.Errorf("who waits says %s%s (%v)", said, r.stderr, err)
	}
	if r := run(one, 0, "nx-provision unlock --force"); !strings.HasPrefix(r.stdout, "the lock was that of ") {
		t.Errorf("unlock says %s", r.stdout)
	}
	if again := run(one, 0, "nx-provision -f network.nix"); again.stdout != first.stdout {
		t.Errorf("afterwards, apply writes\n%s\nwant\n%s", again.stdout, first.stdout)
	}
}
