package state

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("NXTEST_STATE"); dir != "" {
		putAndStop(filepath.Join(dir, Path), os.Getenv("NXTEST_STEP"))
		return
	}
	os.Exit(m.Run())
}

// putAndStop adds a machine. It prints each step of the write before it takes it, and
// takes none from the one named stop on.
func putAndStop(file, stop string) {
	s, err := Open(context.Background(), file, Options{})
	if err != nil {
		panic(err)
	}
	s.storage.(*local).at = func(step string) {
		fmt.Println(step)
		if step == stop {
			select {}
		}
	}
	if err := s.Put(Entry{Type: Machines, Name: "new", Provider: "p", Secrets: map[string]Secret{"key": NewSecret("the new secret")}}); err != nil {
		panic(err)
	}
	fmt.Println("written")
}

// Killed before any step of a write, it leaves what was there or what was to be there,
// whole; no lock; and nothing beside it once the next write is done.
func TestKilled(t *testing.T) {
	child := func(dir, step string) (*exec.Cmd, *bufio.Scanner) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "NXTEST_STATE="+dir, "NXTEST_STEP="+step)
		cmd.Stderr = os.Stderr
		out := must(cmd.StdoutPipe())(t)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd, bufio.NewScanner(out)
	}
	var steps []string
	cmd, lines := child(t.TempDir(), "")
	for lines.Scan() {
		steps = append(steps, lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(steps, ", "), "create, write, write the rest, sync, rename, sync folder, done, written"; got != want {
		t.Fatalf("the steps of a write are %s, want %s", got, want)
	}
	for _, before := range []string{"nothing", "a state"} {
		renamed := false
		for _, step := range steps[:len(steps)-1] {
			renamed = renamed || step == "sync folder"
			t.Run(before+" before "+step, func(t *testing.T) {
				dir := t.TempDir()
				file := filepath.Join(dir, Path)
				uuid := ""
				if before == "a state" {
					s := openFile(t, file)
					if err := s.Put(Entry{Type: Machines, Name: "old", Provider: "p"}); err != nil {
						t.Fatal(err)
					}
					uuid = s.UUID()
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
				cmd, lines := child(dir, step)
				for lines.Scan() && lines.Text() != step {
				}
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()

				s := openFile(t, file) // does not wait
				if _, ok := s.Get(Machines, "old"); ok != (uuid != "") || uuid != "" && s.UUID() != uuid {
					t.Errorf("what was there is lost: %+v", s.All())
				}
				e, ok := s.Get(Machines, "new")
				if ok != renamed {
					t.Errorf("the new entry is there: %v, want %v", ok, renamed)
				}
				if ok {
					if key, err := s.Reveal(e.Secrets["key"]); err != nil || key != "the new secret" {
						t.Errorf("Reveal = %q, %v", key, err)
					}
				}
				if err := s.Put(Entry{Type: Machines, Name: "next", Provider: "p"}); err != nil {
					t.Error(err)
				}
				var names []string
				for _, f := range must(os.ReadDir(filepath.Dir(file)))(t) {
					names = append(names, f.Name())
				}
				if got := strings.Join(names, " "); got != "state.json state.json.lock" {
					t.Errorf("there are %s, want state.json and its lock", got)
				}
			})
		}
	}
}

// Secrets in the clear are for the owner of the file alone.
func TestMode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	put := func(s *State, e Entry) {
		t.Helper()
		e.Type, e.Provider = Machines, "p"
		if err := s.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	mode := func(what string, want fs.FileMode) {
		t.Helper()
		if info := must(os.Stat(file))(t); info.Mode() != want {
			t.Errorf("the mode is %v %s, want %v", info.Mode(), what, want)
		}
	}
	chmod := func(mode fs.FileMode) {
		t.Helper()
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	s := openFile(t, file)
	put(s, Entry{Name: "web"})
	mode("at first", 0o600)
	chmod(0o664)
	put(s, Entry{Name: "db"})
	mode("without secrets", 0o664)
	put(s, Entry{Name: "db", Secrets: map[string]Secret{"key": NewSecret("x")}})
	mode("with a secret in the clear", 0o600)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, m := range []fs.FileMode{0o640, 0o604, 0o610, 0o777} {
		chmod(m)
		want := fmt.Sprintf("read state %s: it has secrets in the clear, and its mode %04o lets others read them", file, m)
		if _, err := Read(t.Context(), file, Options{}); err == nil || err.Error() != want || !strings.Contains(hintOf(err), "chmod 600 "+file) {
			t.Errorf("Read with mode %v: %v (hint %q)", m, err, hintOf(err))
		}
		if _, err := Open(t.Context(), file, free(t)); err == nil || err.Error() != want {
			t.Errorf("Open with mode %v: %v", m, err)
		}
	}
	alice := newIdentity(t)
	s = must(Open(t.Context(), file, Options{Sealer: sealer(t, alice.recipient)}))(t)
	mode("once they are sealed", 0o777)
	chmod(0o644)
	put(s, Entry{Name: "cache", Secrets: map[string]Secret{"key": NewSecret("y")}})
	mode("with sealed secrets", 0o644)
}

// What has its name already, and perhaps not for good, is replaced by the next write.
func TestUnsureFile(t *testing.T) {
	root := t.TempDir()
	dir, away := filepath.Join(root, ".nx"), filepath.Join(root, "away")
	s := openFile(t, filepath.Join(dir, "state.json"))
	put := func(name string) error { return s.Put(Entry{Type: Machines, Name: name, Provider: "p"}) }
	if err := put("web"); err != nil {
		t.Fatal(err)
	}
	s.storage.(*local).at = func(step string) {
		if step == "sync folder" {
			if err := os.Rename(dir, away); err != nil {
				t.Error(err)
			}
		}
	}
	if err := put("db"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Put whose folder goes away: %v", err)
	}
	s.storage.(*local).at = nil
	if err := os.Rename(away, dir); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Get(Machines, "db"); ok {
		t.Error("what may not survive is remembered")
	}
	if err := put("cache"); err != nil {
		t.Errorf("the next Put: %v", err)
	}
	if n := len(must(Read(t.Context(), s.storage.String(), Options{}))(t).All()); n != 2 {
		t.Errorf("the file has %d machines, want 2", n)
	}
}

// A state that is a link stays one, and is locked where it is.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "shared", "state.json"), filepath.Join(dir, "state.json")
	s := openFile(t, file)
	if err := s.Put(Entry{Type: Machines, Name: "web", Provider: "p"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("shared/state.json", link); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Open(ctx, link, Options{Wait: func(Holder) { cancel() }}); !errors.Is(err, context.Canceled) {
		t.Errorf("Open of the link while the file is locked: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openFile(t, link).Put(Entry{Type: Machines, Name: "db", Provider: "p"}); err != nil {
		t.Fatal(err)
	}
	if n := len(must(Read(t.Context(), file, Options{}))(t).All()); n != 2 {
		t.Errorf("the file has %d machines, want 2", n)
	}
	if to, err := os.Readlink(link); err != nil || to != "shared/state.json" {
		t.Errorf("the link is %q, %v", to, err)
	}
}

// A link that leads nowhere is no new state: what it led to may be on a disk that is
// not mounted.
func TestLinkToNothing(t *testing.T) {
	link := filepath.Join(t.TempDir(), "state.json")
	if err := os.Symlink("/nonexistent/state.json", link); err != nil {
		t.Fatal(err)
	}
	_, opened := Open(t.Context(), link, Options{})
	_, read := Read(t.Context(), link, Options{})
	for _, err := range []error{opened, read} {
		if err == nil || !strings.HasSuffix(err.Error(), "it is a link to /nonexistent/state.json, and nothing is there") || !strings.Contains(hintOf(err), "mount") {
			t.Errorf("%v (hint %q)", err, hintOf(err))
		}
	}
}

// The lock of a file is the kernel's, which no one can take away. If its file is, writing
// is refused.
func TestFileLock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	if _, err := Unlock(t.Context(), file); !errors.Is(err, errUnlocked) {
		t.Errorf("Unlock without a file: %v", err)
	}
	s := openFile(t, file)
	_, err := Unlock(t.Context(), file)
	if err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("unlock state %s: %s (process %d) since ", file, self().Owner, os.Getpid())) || !strings.Contains(hintOf(err), "end that") {
		t.Errorf("Unlock: %v (hint %q)", err, hintOf(err))
	}
	if err := os.Remove(file + ".lock"); err != nil {
		t.Fatal(err)
	}
	second := openFile(t, file)
	if err := s.Put(Entry{Type: Machines, Name: "web", Provider: "p"}); !errors.Is(err, errLost) || !strings.Contains(hintOf(err), "leave that file where it is") {
		t.Errorf("Put after the lock's file was removed: %v (hint %q)", err, hintOf(err))
	}
	if err := second.Put(Entry{Type: Machines, Name: "web", Provider: "p"}); err != nil {
		t.Error(err)
	}
}

func TestUnreadable(t *testing.T) {
	file := t.TempDir() // a folder
	if _, err := Read(t.Context(), file, Options{}); err == nil || err.Error() != "read state "+file+": is a directory" {
		t.Errorf("Read of a folder: %v", err)
	}
}

// What version 1 had is all there, and the next change writes it as it is now.
func TestVersion1(t *testing.T) {
	const (
		uuid = "00000000-0000-4000-8000-000000000000"
		old  = `{"version": 1, "uuid": "` + uuid + `", "name": "shop", "resources": {"machines": {
			"web": {"provider": "sandbox", "tags": ["a"], "facts": {"hostKey": "ssh-ed25519 AAAA", "address": "10.231.4.2"}},
			"db": {"provider": "sandbox", "facts": {}}, "cache": {"provider": "sandbox"}}}}`
	)
	file := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(file, []byte(old), 0o644); err != nil {
		t.Fatal(err)
	}
	s := openFile(t, file)
	want := []Entry{
		{Type: Machines, Name: "cache", Provider: "sandbox"},
		{Type: Machines, Name: "db", Provider: "sandbox", Outputs: json.RawMessage(`{}`)},
		{Type: Machines, Name: "web", Provider: "sandbox", Tags: []string{"a"}, Outputs: json.RawMessage(`{"address":"10.231.4.2","hostKey":"ssh-ed25519 AAAA"}`)},
	}
	if got := s.All(); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) || s.UUID() != uuid || s.Name() != "shop" {
		t.Errorf("%s %s has\n%+v\nwant\n%+v", s.UUID(), s.Name(), got, want)
	}
	if err := s.Put(want[1]); err != nil {
		t.Fatal(err)
	}
	if got := must(os.ReadFile(file))(t); string(got) != old {
		t.Errorf("a Put that changes nothing writes %s", got)
	}
	if err := s.Put(Entry{Type: Machines, Name: "new", Provider: "p"}); err != nil {
		t.Fatal(err)
	}
	if got := must(os.ReadFile(file))(t); !strings.HasPrefix(string(got), "{\n  \"version\": 2,\n") {
		t.Errorf("the next change writes %s", got)
	}
	again := must(Read(t.Context(), file, Options{}))(t)
	want = append(want[:2:2], Entry{Type: Machines, Name: "new", Provider: "p"}, want[2])
	if got := again.All(); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) || again.UUID() != uuid || again.Name() != "shop" {
		t.Errorf("written and read again: %s %s has\n%+v\nwant\n%+v", s.UUID(), s.Name(), got, want)
	}
}
