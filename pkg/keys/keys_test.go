package keys

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"nx/pkg/testhost"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// on runs scripts on h, past its sshd.
func on(h *testhost.Host) Run {
	return func(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
		cmd, err := h.Command(ctx, "/bin/sh", "-c", script)
		if err != nil {
			return 0, err
		}
		cmd.Stdout, cmd.Stderr = stdout, stderr
		if stdin != nil { // that of cmd would be waited for after the script's end
			to, err := cmd.StdinPipe()
			if err != nil {
				return 0, err
			}
			go func() {
				io.Copy(to, stdin)
				to.Close()
			}()
		}
		if err := cmd.Run(); err != nil {
			if exit, ok := err.(*exec.ExitError); ok {
				return exit.ExitCode(), nil
			}
			return 0, err
		}
		return 0, nil
	}
}

// sh runs a script on h and returns its output and whether it succeeded.
func sh(t testing.TB, h *testhost.Host, script string) (string, bool) {
	t.Helper()
	var out bytes.Buffer
	status, err := on(h)(t.Context(), script, nil, &out, &out)
	check(t, err)
	return strings.TrimSuffix(out.String(), "\n"), status == 0
}

// must is sh of a script that has to succeed.
func must(t testing.TB, h *testhost.Host, script string) string {
	t.Helper()
	out, ok := sh(t, h, script)
	if !ok {
		t.Fatalf("%s\nfailed: %s", script, out)
	}
	return out
}

// call runs functions of the script.
func call(t testing.TB, h *testhost.Host, functions string) (string, bool) {
	t.Helper()
	return sh(t, h, Script+"\n"+functions)
}

func key(id, dir string, text string) Contents {
	return Contents{Key: Key{ID: id, Source: Source{Eval: "x"}, Name: id, DestDir: dir, User: "root", Group: "root", Permissions: "0400"}, Text: []byte(text)}
}

func stage(t testing.TB, h *testhost.Host, keys ...Contents) int {
	t.Helper()
	sent, err := Stage(t.Context(), on(h), "sys", keys)
	check(t, err)
	return sent
}

// world is all that a key's user can see of keys: owner, mode, time, inode and contents.
func world(t testing.TB, h *testhost.Host) string {
	t.Helper()
	return must(t, h, `find /run/keys /var/keys /etc/keys -exec stat -c '%n %U:%G %a %F %y' {} + -type f -exec sha256sum {} + -type l -exec readlink {} + 2>/dev/null | grep -v ' directory ' | sort; cat /var/lib/nx/keys 2>/dev/null; true`)
}

func fresh(t testing.TB, h *testhost.Host) {
	t.Helper()
	must(t, h, `rm -rf /run/keys /var/keys /etc/keys /run/nx /var/lib/nx /tmp/keep; mkdir -p /tmp/keep /var/keys /var/lib/nx`)
}

func TestStage(t *testing.T) {
	testhost.Need(t, "root")
	h := testhost.Start(t, 1)[0]
	fresh(t, h)
	odd := "\x00\x01line\n\n-n 'x'\t" + strings.Repeat("ä", 100000)
	all := []Contents{key("a", "/run/keys", "one"), key("b c", "/var/keys/deep er", odd), key("empty", "/etc/keys", "")}
	all[1].Key.User, all[1].Key.Group, all[1].Key.Permissions = "1234", "nogroup", "640"

	before := world(t, h)
	if sent := stage(t, h, all...); sent != 3 {
		t.Errorf("%d were sent of three new ones", sent)
	}
	if got := world(t, h); got != before {
		t.Errorf("staging changed\n%s\nto\n%s", before, got)
	}
	if got := must(t, h, `stat -c '%a %U' /run/nx/keys /run/nx/keys/sys; stat -c '%a' /run/nx/keys/sys/*`); got != "700 root\n700 root"+strings.Repeat("\n600", 5) {
		t.Errorf("modes of what is staged:\n%s", got)
	}
	if out, ok := call(t, h, "keys_at_once sys no"); !ok {
		t.Fatal(out)
	}
	if got := must(t, h, `stat -c '%a %u %G' /run/keys/a '/var/keys/deep er/b c' /etc/keys/empty; stat -c %a /run/keys; cat /run/keys/a; ls -A /run/keys '/var/keys/deep er' /run/nx/keys`); got !=
		"400 0 root\n640 1234 nogroup\n400 0 root\n750\none/run/keys:\na\n\n/run/nx/keys:\n\n/var/keys/deep er:\nb c" {
		t.Errorf("installed:\n%s", got)
	}
	if got := must(t, h, `cat '/var/keys/deep er/b c'; echo .`); got != odd+"." {
		t.Errorf("%d bytes came instead of %d", len(got)-1, len(odd))
	}

	// What is there is not sent again, whoever it is of being named by number or not.
	all[1].Key.Group = must(t, h, "getent group nogroup | cut -d: -f3")
	if sent := stage(t, h, all...); sent != 0 {
		t.Errorf("%d were sent of three that are there", sent)
	}
	if out, ok := call(t, h, "keys_changed sys"); ok {
		t.Errorf("something is to be done: %s", out)
	}
	for name, change := range map[string]func(k *Contents){
		"contents": func(k *Contents) { k.Text = []byte("two") },
		"mode":     func(k *Contents) { k.Key.Permissions = "0440" },
		"owner":    func(k *Contents) { k.Key.User = "1235" },
	} {
		changed := all[0]
		change(&changed)
		if sent := stage(t, h, changed, all[1], all[2]); sent != 1 {
			t.Errorf("%s: %d were sent", name, sent)
		}
		if _, ok := call(t, h, "keys_changed sys"); !ok {
			t.Errorf("%s: nothing is to be done", name)
		}
	}

	// Those that the network dropped go when that is asked for.
	stage(t, h, all[1])
	if out, ok := call(t, h, "keys_at_once sys no"); !ok {
		t.Fatal(out)
	}
	must(t, h, "test -e /run/keys/a")
	stage(t, h, all[1])
	if out, ok := call(t, h, "keys_at_once sys yes"); !ok {
		t.Fatal(out)
	}
	must(t, h, "test ! -e /run/keys/a && test ! -e /etc/keys/empty && test -e '/var/keys/deep er/b c'")
}

// A stream that is cut stages nothing, and nothing is left of it.
func TestStageCut(t *testing.T) {
	testhost.Need(t, "root")
	h := testhost.Start(t, 1)[0]
	fresh(t, h)
	var whole bytes.Buffer
	record := func(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
		return on(h)(ctx, script, io.TeeReader(stdin, &whole), stdout, stderr)
	}
	_, err := Stage(t.Context(), record, "sys", []Contents{key("a", "/run/keys", "some contents"), key("b", "/run/keys", "others")})
	check(t, err)
	must(t, h, "rm -r /run/nx/keys/sys")
	for n := 0; n < whole.Len(); n += 3 {
		var out bytes.Buffer
		status, err := on(h)(t.Context(), Script+"\nkeys_receive sys", bytes.NewReader(whole.Bytes()[:n]), &out, io.Discard)
		check(t, err)
		if left := must(t, h, "ls -A /run/nx/keys"); status == 0 || left != "" || strings.Contains(out.String(), "staged") {
			t.Fatalf("after %d bytes of %d: status %d, left %q, said %q", n, whole.Len(), status, left, out.String())
		}
	}
}

// What replaced keys is taken back byte for byte, wherever the installation stopped.
func TestRestore(t *testing.T) {
	testhost.Need(t, "root")
	h := testhost.Start(t, 1)[0]
	fresh(t, h)
	must(t, h, `mkdir -p /run/keys; echo old >/run/keys/a; chown 77:88 /run/keys/a; chmod 604 /run/keys/a
ln -s /etc/passwd /run/keys/link; printf 'x\0y' >/var/keys/same; chmod 400 /var/keys/same; echo other >/run/keys/other
mkdir /tmp/fault; for p in mv sync ln cp chown chmod cat rm mkdir; do
printf '#!/bin/sh\nn=$(($(/bin/cat /tmp/n)-1)); echo $n >/tmp/n; [ $n != 0 ] || kill -9 $PPID\nexec /bin/%s "$@"\n' $p >/tmp/fault/$p; chmod +x /tmp/fault/$p; done`)
	before := world(t, h)
	all := []Contents{key("a", "/run/keys", "new"), key("link", "/run/keys", "no link"), key("same", "/var/keys", "x\x00y"),
		key("fresh", "/etc/keys/made", "fresh"), key("late", "/var/keys", "late")}
	all[4].Key.UploadAt = PostActivation
	stage(t, h, all...)
	killed := 0
	const install = `rm -rf /tmp/keep; mkdir /tmp/keep; echo %d >/tmp/n
(PATH=/tmp/fault:$PATH; (keys_install sys /tmp/keep early) && (keys_install sys /tmp/keep late)) || failed=yes
[ "$(cat /tmp/n)" -gt 0 ] || exit 3 # a step may be one of a process that only another one waits for
[ -z "${failed-}" ]`
	for n := 1; ; n++ {
		out, whole := call(t, h, fmt.Sprintf(install, n))
		if whole {
			if got := must(t, h, "cat /run/keys/a /run/keys/link /etc/keys/made/fresh /var/keys/late /run/keys/other"); got != "newno linkfreshlateother" {
				t.Errorf("installed: %s", got)
			}
		}
		if back, ok := call(t, h, "keys_restore /tmp/keep"); !ok {
			t.Fatalf("after step %d (%s): %s", n, out, back)
		}
		if got := world(t, h); got != before {
			t.Fatalf("after step %d (%s), there was\n%s\nand is\n%s", n, out, before, got)
		}
		if whole {
			break
		}
		killed++
	}
	if killed < 20 {
		t.Errorf("it was killed at %d steps only", killed)
	}
	t.Logf("killed at %d steps", killed)

	// Settled, there is nothing to take back.
	must(t, h, "rm -rf /tmp/keep; mkdir /tmp/keep")
	if out, ok := call(t, h, "keys_install sys /tmp/keep early && keys_install sys /tmp/keep late && keys_settle sys /tmp/keep yes"); !ok {
		t.Fatal(out)
	}
	after := world(t, h)
	if out, ok := call(t, h, "keys_restore /tmp/keep"); !ok || strings.Contains(after, "nx-") {
		t.Errorf("left: %s; %s", after, out)
	}
	if out, ok := call(t, h, "keys_there sys"); !ok {
		t.Errorf("they are not there: %s %s", out, must(t, h, "cat /var/lib/nx/keys; ls -la /var/keys /run/keys"))
	}
	must(t, h, "rm /run/keys/a")
	if _, ok := call(t, h, "keys_there sys"); ok {
		t.Error("a key that is gone is there")
	}
}

func TestOwners(t *testing.T) {
	testhost.Need(t, "root")
	h := testhost.Start(t, 1)[0]
	fresh(t, h)
	k := key("a", "/run/keys", "one")
	k.Key.User, k.Key.Group, k.Key.Permissions = "newuser", "newgroup", "0444"
	stage(t, h, k)
	if out, ok := call(t, h, "keys_install sys /tmp/keep early"); !ok {
		t.Fatal(out)
	}
	if got := must(t, h, "stat -c '%U:%G %a' /run/keys/a"); got != "root:root 600" {
		t.Errorf("before its owner exists: %s", got)
	}
	if out, ok := call(t, h, "keys_hand_over /tmp/keep early"); ok || out != "/run/keys/a: there is no user newuser, or no group newgroup" {
		t.Errorf("handed over to nobody: %s", out)
	}
	must(t, h, "echo newuser:x:4321:4321::/:/bin/false >>/etc/passwd; echo newgroup:x:4322: >>/etc/group")
	if out, ok := call(t, h, "keys_hand_over /tmp/keep early"); !ok {
		t.Error(out)
	}
	if got := must(t, h, "stat -c '%U:%G %a' /run/keys/a"); got != "newuser:newgroup 444" {
		t.Errorf("handed over: %s", got)
	}
}

func TestRefused(t *testing.T) {
	testhost.Need(t, "root")
	h := testhost.Start(t, 1)[0]
	no := false
	dirless := key("a", "/etc/keys/none", "x")
	dirless.Key.MakeDirs = &no
	for _, tt := range []struct {
		name, before, between string
		key                   Contents
		want                  string
	}{
		{"changed meanwhile", "mkdir /run/keys; printf one >/run/keys/a; chmod 400 /run/keys/a", "echo two >/run/keys/a", key("a", "/run/keys", "one"),
			"/run/keys/a changed after nx-copy had looked: run nx-copy again"},
		{"gone meanwhile", "mkdir /run/keys; printf one >/run/keys/a; chmod 400 /run/keys/a", "rm /run/keys/a", key("a", "/run/keys", "one"),
			"/run/keys/a changed after nx-copy had looked: run nx-copy again"},
		{"cut on the disk", "", "printf on >/run/nx/keys/sys/0", key("a", "/run/keys", "one"), "/run/keys/a did not arrive whole: run nx-copy again"},
		{"nothing staged", "", "rm -r /run/nx/keys/sys", key("a", "/run/keys", "one"), "what nx-copy staged is gone"},
		{"a folder", "mkdir -p /run/keys/a", "", key("a", "/run/keys", "one"), "/run/keys/a is a folder"},
		{"no folder", "", "", dirless, "/etc/keys/none/a: there is no folder /etc/keys/none"},
		{"action fails", "", "", Contents{Key: Key{ID: "a", Name: "a", DestDir: "/run/keys", User: "root", Group: "root", Permissions: "0400",
			Action: []string{"sh", "-c", "echo it\\'s; exit 1"}}}, "it's\n/run/keys/a: its action failed"},
		{"memory", "mkdir /run/nx; ln -s /var/keys /run/nx/keys", "", key("a", "/run/keys", "one"), "stage keys: there is no folder in memory: /run/nx/keys is on a disk"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fresh(t, h)
			must(t, h, tt.before+"\n:")
			out := ""
			if _, err := Stage(t.Context(), on(h), "sys", []Contents{tt.key}); err != nil {
				out = err.Error()
			} else {
				must(t, h, tt.between+"\n:")
				out, _ = call(t, h, "keys_install sys /tmp/keep early && keys_act sys early")
			}
			if out != tt.want {
				t.Errorf("got  %q\nwant %q", out, tt.want)
			}
		})
	}
	t.Run("an activation in work", func(t *testing.T) {
		fresh(t, h)
		stage(t, h, key("a", "/run/keys", "one"))
		out, ok := sh(t, h, "exec 5>>/run/nx/lock; flock 5; "+strings.ReplaceAll(Script, "flock -w 2", "flock -n")+"\nkeys_at_once sys no")
		if ok || !strings.HasPrefix(out, "an activation is in work") {
			t.Error(out)
		}
	})
	t.Run("an activation half done", func(t *testing.T) {
		fresh(t, h)
		stage(t, h, key("a", "/run/keys", "one"))
		must(t, h, "mkdir -p /var/lib/nx/last; echo testing >/var/lib/nx/last/journal")
		if out, ok := call(t, h, "keys_at_once sys no"); ok || !strings.HasPrefix(out, "an activation was left half done") {
			t.Error(out)
		}
		must(t, h, "echo end >>/var/lib/nx/last/journal")
		if out, ok := call(t, h, "keys_at_once sys no"); !ok {
			t.Error(out)
		}
	})
}
