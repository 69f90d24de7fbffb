package activate_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"nx/pkg/activate"
	"nx/pkg/keys"
	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/testhost"
)

// keyAt is a key of root's in /var/keys, which a reboot does not empty.
func keyAt(name, text string, at keys.UploadAt) keys.Contents {
	return keys.Contents{Key: keys.Key{ID: name, Name: name, DestDir: "/var/keys", User: "root", Group: "root", Permissions: "0400", UploadAt: at}, Text: []byte(text)}
}

// stage brings keys to the host as nx-copy does, for a system, and says so in r.
func stage(t testing.TB, h *testhost.Host, r *record.Record, path store.Path, contents ...keys.Contents) {
	t.Helper()
	conn, err := dial(context.Background(), h.Target())
	check(t, err)
	defer conn.Close()
	_, err = keys.Stage(context.Background(), conn.Run, path.Base(), contents)
	check(t, err)
	names := []string{}
	for _, c := range contents {
		names = append(names, c.Key.ID)
	}
	check(t, r.Set("copied", map[string]any{"storePath": path, "keys": names}))
}

// oldKeys gives the host the keys of an earlier deployment.
func oldKeys(t testing.TB, h *testhost.Host) {
	t.Helper()
	exec(t, h, `umask 077; rm -rf /var/keys; mkdir /var/keys; cd /var/keys
printf old-a > a; printf old-dropped > dropped; printf foreign > foreign; chmod 640 a
printf 'system\n/var/keys/a\n/var/keys/dropped\n' > /var/lib/nx/keys`)
}

// newKeys are those that the new system has.
var newKeys = []keys.Contents{keyAt("a", "new-a", ""), keyAt("b", "new-b", ""), keyAt("late", "late", keys.PostActivation)}

const (
	keysBefore = "a 640 old-a, dropped 600 old-dropped, foreign 600 foreign"
	keysAfter  = "a 400 new-a, b 400 new-b, foreign 600 foreign, late 400 late"
	keysLess   = "a 400 new-a, b 400 new-b, foreign 600 foreign" // with those that come last lost in a reboot
)

// keysOf are the keys of the host, each with mode and contents.
func keysOf(t testing.TB, h *testhost.Host) string {
	t.Helper()
	return strings.TrimSuffix(exec(t, h, `cd /var/keys; for f in .[!.]* *; do [ ! -f "$f" ] || printf '%s %s %s, ' "$f" "$(stat -c %a "$f")" "$(cat "$f")"; done`), ", ")
}

// staged tells what nx-copy's folder on the host has.
func stagedKeys(t testing.TB, h *testhost.Host) string {
	t.Helper()
	return strings.TrimSpace(exec(t, h, `ls -A /run/nx/keys 2>/dev/null || :`))
}

// Keys go with the system that they are for, forth and back.
func TestKeys(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	tell := newKeys[1]
	tell.Key.Action = []string{"sh", "-c", `echo "$(cat /var/keys/b 2>/dev/null)" "$(readlink /run/current-system | sed s/.*-//)" >> /var/log/told`}
	foreign := keyAt("x", "x", "")
	foreign.Key.User = "nobody-knows"
	newcomer := keyAt("x", "x", "")
	newcomer.Key.User = "newcomer"
	lost := keyAt("lost", "x", keys.PostActivation)
	no := false
	lost.Key.DestDir, lost.Key.MakeDirs = "/nowhere", &no
	bad := tell
	bad.Key.Action = []string{"false"}
	for _, tt := range []struct {
		name   string
		action activate.Action
		files  map[string]string
		keys   []keys.Contents
		before string // a script, after they were staged
		result string
		err    string
		want   string // keys
		told   string // by b's action
		staged bool   // they are there for who tries again
	}{
		{name: "switch", keys: []keys.Contents{newKeys[0], tell, newKeys[2]}, result: "activated", want: keysAfter, told: "new-b new"},
		{name: "boot", action: activate.Boot, keys: newKeys, result: "activated", want: keysAfter},
		{name: "test", action: activate.Test, keys: newKeys, result: "activated", want: "a 400 new-a, b 400 new-b, dropped 600 old-dropped, foreign 600 foreign, late 400 late"},
		{name: "dry-activate", action: activate.DryActivate, keys: newKeys, result: "dry", want: keysBefore, staged: true},
		{name: "rolled back", keys: []keys.Contents{newKeys[0], tell, newKeys[2]}, files: map[string]string{"test": "4"}, result: "rolled-back", err: "units failed", want: keysBefore,
			told: "new-b new old", staged: true},
		{name: "refused", keys: newKeys, files: map[string]string{"test": "1", "say": "no"}, result: "failed", err: "nothing was changed", want: keysBefore, staged: true},
		{name: "boot loader", action: activate.Boot, keys: newKeys, files: map[string]string{"boot": "1", "say": "full"}, result: "failed", err: "full", want: keysBefore, staged: true},
		{name: "none is declared", keys: []keys.Contents{}, result: "activated", want: "foreign 600 foreign"},
		{name: "they are no concern", result: "activated", want: keysBefore},
		{name: "lost in a reboot", keys: newKeys, before: "rm -r /run/nx/keys", result: "failed", err: "its keys are not staged on the host, and nothing was changed", want: keysBefore},
		{name: "no owner", keys: []keys.Contents{newKeys[0], foreign}, result: "rolled-back", err: "/var/keys/x: there is no user nobody-knows, or no group root", want: keysBefore, staged: true},
		{name: "owner made by the switch", keys: []keys.Contents{newcomer}, files: map[string]string{"run": "stat -c %U:%a /var/keys/x >> /var/log/told; echo newcomer:x:7777:7777::/:/bin/false >> /etc/passwd"}, result: "activated",
			want: "foreign 600 foreign, x 400 x", told: "root:600"},
		{name: "not installed", keys: newKeys, before: "for f in /run/nx/keys/*-nixos-system-new/1; do echo cut > $f; done", result: "failed", err: "install keys: /var/keys/b did not arrive whole: run nx-copy again; nothing was changed", want: keysBefore, staged: true},
		{name: "action fails", keys: []keys.Contents{newKeys[0], bad}, result: "rolled-back", err: "/var/keys/b: its action failed", want: keysBefore, staged: true},
		{name: "late one fails", keys: []keys.Contents{newKeys[0], newKeys[1], lost}, result: "activated", err: "install keys: /nowhere/lost: there is no folder /nowhere; the host runs the new system", want: keysLess},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			reset(t, s.h, s.old)
			oldKeys(t, s.h)
			exec(t, s.h, "rm -f /var/log/told")
			path := s.system("new", tt.files)
			r := s.record(t, path, ample)
			if len(tt.keys) > 0 {
				stage(t, s.h, r, path, tt.keys...)
			} else if tt.keys != nil {
				check(t, r.Set("copied", map[string]any{"storePath": path, "keys": []string{}}))
			}
			exec(t, s.h, tt.before+"\n:")
			action := tt.action
			if action == "" {
				action = activate.Switch
			}
			runWith(t, &activate.Activator{Action: action, Dial: dial}, r)
			noteJournals(t, s.h)
			if got := r.Get("activation").Get("result").String(); got != tt.result || !strings.Contains(r.Message(), tt.err) || r.Failed() != (tt.err != "") {
				t.Errorf("%s, want %s: %q", r.Bytes(), tt.result, tt.err)
			}
			if got := keysOf(t, s.h); got != tt.want {
				t.Errorf("keys\n got %s\nwant %s", got, tt.want)
			}
			if got := strings.Join(strings.Fields(exec(t, s.h, "cat /var/log/told 2>/dev/null || :")), " "); got != tt.told {
				t.Errorf("told %q, want %q", got, tt.told)
			}
			if got := stagedKeys(t, s.h); tt.staged && got != path.Base() || !tt.staged && got != "" {
				t.Errorf("staged: %q", got)
			}
			if strings.Contains(exec(t, s.h, "cat /var/lib/nx/keys /var/lib/nx/deployments/*/* 2>/dev/null || :"), "new-a") {
				t.Error("a key's contents are in what is kept of deployments")
			}
			if tt.result != "activated" || tt.err != "" || tt.keys == nil || tt.action == activate.Test {
				return
			}
			// Again: what was done is found done, and what was not deployed with it too.
			r = s.record(t, path, ample)
			check(t, r.Set("copied", map[string]any{"storePath": path, "keys": make([]string, len(tt.keys))}))
			runWith(t, &activate.Activator{Action: action, Dial: dial}, r)
			if got := r.Get("activation").Get("result").String(); got != "unchanged" {
				t.Errorf("again: %s", r.Bytes())
			}
			if len(tt.keys) == 0 {
				return
			}
			exec(t, s.h, "rm /var/keys/"+tt.keys[0].Key.Name)
			if r := runWith(t, &activate.Activator{Action: action, Dial: dial}, r); !strings.Contains(r.Message(), "not staged") {
				t.Errorf("with a key gone: %s", r.Bytes())
			}
			// The same system, and a key that is another one.
			r = s.record(t, path, ample)
			other := tt.keys[0]
			other.Text = []byte("other")
			stage(t, s.h, r, path, append([]keys.Contents{other}, tt.keys[1:]...)...)
			runWith(t, &activate.Activator{Action: action, Dial: dial}, r)
			if got := keysOf(t, s.h); r.Failed() || !strings.Contains(got, fmt.Sprintf("%s 400 other", other.Key.Name)) {
				t.Errorf("with a new key: %s: %s", r.Bytes(), got)
			}
		})
	}
}

// A reboot that was asked for brings back the keys that it takes from memory.
func TestKeysAfterReboot(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	reset(t, s.h, s.old)
	oldKeys(t, s.h)
	path := s.system("new", nil)
	inMemory := func(name, text string, at keys.UploadAt) keys.Contents {
		k := keyAt(name, text, at)
		k.Key.DestDir = "/run/keys"
		return k
	}
	all := []keys.Contents{newKeys[0], inMemory("here", "was here", ""), inMemory("early", "early\x00\n", ""), inMemory("late", "late", keys.PostActivation)}
	exec(t, s.h, "mkdir -p /run/keys; printf 'was here' > /run/keys/here; chmod 400 /run/keys/here")
	r := s.record(t, path, ample)
	stage(t, s.h, r, path, all...)
	runWith(t, &activate.Activator{Action: activate.Switch, Reboot: activate.RebootAlways, Dial: dial}, r)
	if got := r.Get("activation"); r.Failed() || got.Get("result").String() != "activated" || !got.Get("rebooted").Bool() {
		t.Fatalf("%s", r.Bytes())
	}
	if got := exec(t, s.h, "cd /run/keys; stat -c '%n %a %U' *; cat here early late | tr '\\0' 0; cat /var/keys/a"); got != "early 400 root\nhere 400 root\nlate 400 root\nwas hereearly0\nlatenew-a" {
		t.Errorf("after the reboot: %q", got)
	}
	// What runs is what was asked for: nothing is to be done.
	r = s.record(t, path, ample)
	check(t, r.Set("copied", map[string]any{"storePath": path, "keys": []string{"a", "here", "early", "late"}}))
	runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, r)
	if got := r.Get("activation").Get("result").String(); got != "unchanged" {
		t.Errorf("again: %s", r.Bytes())
	}
}
