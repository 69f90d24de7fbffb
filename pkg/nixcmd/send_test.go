package nixcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nx/pkg/store"
)

// storeOf gives this process' Nix a store of its own with a system for each name,
// which refer to one object that all have in common and one of their own.
func storeOf(t *testing.T, names ...string) map[string]store.Path {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("NIX_CONF_DIR", t.TempDir())
	t.Setenv("NIX_REMOTE", t.TempDir())
	systems := map[string]store.Path{}
	for _, name := range names {
		out, err := exec.Command("nix-instantiate", "--eval", "--read-write-mode", "--argstr", "name", name, "--expr", `{ name }:
			let common = builtins.toFile "common" "x"; own = builtins.toFile "own-${name}" name;
			in builtins.toFile "nixos-system-${name}" "${common} ${own}"`).Output()
		if err != nil {
			t.Fatal(err)
		}
		if systems[name], err = store.Parse(strings.Trim(strings.TrimSpace(string(out)), `"`)); err != nil {
			t.Fatal(err)
		}
	}
	return systems
}

// breakObject takes the contents of an object that p refers to, but not its record.
func breakObject(t *testing.T, p store.Path, name string) {
	t.Helper()
	out, err := exec.Command("nix-store", "--query", "--references", string(p)).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range strings.Fields(string(out)) {
		if strings.HasSuffix(ref, "-"+name) {
			if err := os.Remove(filepath.Join(os.Getenv("NIX_REMOTE"), ref)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// send returns what became of each path, by the name.
func send(ctx context.Context, d *Destination, paths ...store.Path) map[string]error {
	got := map[string]error{}
	d.Send(ctx, paths, func(p store.Path, err error) { got[strings.TrimPrefix(p.Name(), "nixos-system-")] = err })
	return got
}

// What can be sent is sent, once, and who cannot be sent hinders no other.
func TestSend(t *testing.T) {
	onEachNix(t, func(t *testing.T) {
		s := storeOf(t, "a", "b", "c")
		breakObject(t, s["b"], "own-b")
		s["gone"] = "/nix/store/00000000000000000000000000000000-nixos-system-gone"
		cache := t.TempDir()
		var events []string
		d := &Destination{Nix: &Nix{Log: logged(&events), Options: []string{"--option", "connect-timeout", "5"}}, Store: "file://" + cache + "?compression=none"}
		got := send(t.Context(), d, s["gone"], s["a"], s["b"], s["c"])
		want := map[string]string{"a": "", "c": "", "b": "own-b': ", "gone": "the path is not valid"}
		for name, text := range want {
			if err, ok := got[name]; !ok || (err == nil) != (text == "") || err != nil && text != "own-b': " && !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v", name, err)
			}
		}
		var hinted interface{ Hint() string }
		if !errors.As(got["gone"], &hinted) || !strings.Contains(hinted.Hint(), "run nx-build again") {
			t.Errorf("gone: hint of %v", got["gone"])
		}
		if err := got["b"]; err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("send %s to %s: ", s["b"], d.Store)) || !strings.Contains(err.Error(), "-own-b'") {
			t.Errorf("b: %v", err)
		}
		infos, err := filepath.Glob(cache + "/*.narinfo")
		if err != nil || len(infos) != 5 {
			t.Errorf("%v: in the cache is %q", err, infos)
		}
		if !strings.Contains(strings.Join(events, "\n"), "sending done=1 all=7\n") {
			t.Errorf("events %q", events)
		}

		// Again, nothing is sent.
		events = nil
		if got := send(t.Context(), d, s["a"], s["c"]); len(got) != 2 || got["a"] != nil || got["c"] != nil {
			t.Errorf("again: %v", got)
		}
		if strings.Contains(strings.Join(events, "\n"), "sending done=1") {
			t.Errorf("again: events %q", events)
		}
	})
}

// A store that cannot be opened is every path's error, and is not tried for each.
func TestSendNowhere(t *testing.T) {
	onEachNix(t, func(t *testing.T) {
		s := storeOf(t, "a", "b")
		for to, want := range map[string]string{
			"nonsense://x":       "don't know how to open Nix store",
			"file:///dev/null/x": "irectory",
		} {
			got := send(t.Context(), &Destination{Nix: &Nix{}, Store: to}, s["a"], s["b"])
			for _, name := range []string{"a", "b"} {
				if err := got[name]; err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "send "+string(s[name])+" to "+to+": ") {
					t.Errorf("%s: %v", to, err)
				}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got := send(ctx, &Destination{Nix: &Nix{}, Store: "file://" + t.TempDir()}, s["a"]); !errors.Is(got["a"], context.Canceled) {
			t.Errorf("interrupted: %v", got)
		}
	})
}

// A binary cache signs what it gets; for another store it is signed here.
func TestSendSigned(t *testing.T) {
	onEachNix(t, func(t *testing.T) {
		s := storeOf(t, "a")
		key := filepath.Join(t.TempDir(), "a key")
		if out, err := exec.Command("nix-store", "--generate-binary-cache-key", "test-1", key, filepath.Join(t.TempDir(), "public")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, to := range []string{"file://" + t.TempDir(), "file://" + t.TempDir() + "?compression=none", "local?root=" + t.TempDir()} {
			if got := send(t.Context(), &Destination{Nix: &Nix{Options: []string{"--option", "connect-timeout", "5"}}, Store: to, SignKey: key}, s["a"]); len(got) != 1 || got["a"] != nil {
				t.Fatalf("%s: %v", to, got)
			}
			out, err := exec.Command("nix", "--extra-experimental-features", "nix-command", "path-info", "--recursive", "--sigs", "--store", to, string(s["a"])).CombinedOutput()
			if n := strings.Count(string(out), " test-1:"); err != nil || n != 3 {
				t.Errorf("%s: %v: %d signatures: %s", to, err, n, out)
			}
		}
	})
}

// How far it is, Nix says in text, and later versions in bytes too; seldom everybody is
// told.
func TestSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		s := newSending(slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})))
		for _, line := range []string{
			`@nix {"action":"start","id":1,"level":3,"text":"copying 3 paths","type":103}`,
			`@nix {"action":"result","fields":[100,2000],"id":1,"type":106}`,
			`@nix {"action":"start","fields":["/nix/store/x","local","s3://c"],"id":2,"level":3,"text":"copying path","type":100}`,
			`@nix {"action":"result","fields":[500,1000,0,0],"id":2,"type":105}`,
			`@nix {"action":"result","fields":[501,1000,0,0],"id":2,"type":105}`,
			`@nix {"action":"stop","id":2}`, ``,
			`@nix {"action":"start","fields":["/nix/store/y","local","s3://c"],"id":3,"level":3,"text":"copying path","type":100}`,
			`@nix {"action":"stop","id":3}`,
			`warning: you do not have a home`,
			`@nix {"action":"msg","level":0,"msg":"could not copy /nix/store/z: \u001b[31;1merror:\u001b[0m no"}`,
			`@nix {"action":"msg","level":0,"msg":"error: another"}`,
		} {
			if line == "" {
				<-time.After(seldom)
				continue
			}
			s.line(line)
		}
		const want = `level=DEBUG msg=sending done=0 all=3
level=DEBUG msg=reading doneBytes=500 allBytes=2000
level=DEBUG msg=sending done=1 all=3
level=INFO msg=sending done=2 all=3
level=DEBUG msg=output line="warning: you do not have a home"
`
		if got := text.String(); got != want || s.first != "copy /nix/store/z: no" {
			t.Errorf("first error %q, events\n got %s\nwant %s", s.first, got, want)
		}
	})
}

// Nix' answers, before 2.19 and since.
func TestParseValid(t *testing.T) {
	const a, b, c = "/nix/store/00000000000000000000000000000000-a", "/nix/store/00000000000000000000000000000000-b", "/nix/store/00000000000000000000000000000000-c"
	for text, ok := range map[string]bool{
		`[{"path":"` + a + `","valid":false},{"path":"` + b + `","narSize":1},{"path":"` + c + `","valid":true}]`: true,
		`{"` + a + `":null,"` + b + `":{"narSize":1},"` + c + `":{"ca":null}}`:                                    true,
		``: false, `don't know`: false,
	} {
		got, err := parseValid([]byte(text))
		if (err == nil) != ok || ok && !maps.Equal(got, map[store.Path]bool{a: false, b: true, c: true}) {
			t.Errorf("%s: %v, error %v", text, got, err)
		}
	}
}
