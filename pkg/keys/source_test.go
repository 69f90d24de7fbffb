package keys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"filippo.io/age"
)

// files makes files of a folder, and returns that.
func files(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func TestRead(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	root := files(t, map[string]string{
		"keys/a": "first\n", "empty": "", "largest": strings.Repeat("x", MaxSize), "larger": strings.Repeat("x", MaxSize+1),
		"largest.age": encrypt(t, strings.Repeat("x", MaxSize), id.Recipient()), "a.age": encrypt(t, "of age", id.Recipient()),
		"give": "#!/bin/sh\ncat keys/a\n",
	})
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(files(t, map[string]string{"b": "second"}), "b")
	texts := func(_ context.Context, host string) (map[string]string, error) {
		if host != "web" {
			return nil, errors.New("out of order")
		}
		return map[string]string{"token": "third"}, nil
	}
	sh := func(script string) Source { return Source{Command: []string{"sh", "-c", script}} }
	tests := []struct {
		name    string
		source  Source
		id      string // "token" unless set
		host    string // "web" unless set
		none    bool   // there are no texts
		want    string
		wantErr string
		hint    string
	}{
		{name: "a file below the root", source: Source{File: "keys/a"}, want: "first\n"},
		{name: "a file elsewhere", source: Source{File: elsewhere}, want: "second"},
		{name: "an empty file", source: Source{File: "empty"}},
		{name: "a file as large as can be", source: Source{File: "largest"}, want: strings.Repeat("x", MaxSize)},
		{name: "too large a file", source: Source{File: "larger"}, wantErr: "it is larger than 1048576 bytes"},
		{name: "no file", source: Source{File: "keys/none"}, wantErr: "keys/none: no such file or directory"},
		{name: "a folder", source: Source{File: "keys"}, wantErr: "keys: it is no regular file"},
		{name: "a fifo", source: Source{File: "fifo"}, wantErr: "fifo: it is no regular file"},
		{name: "a device", source: Source{File: "/dev/zero"}, wantErr: "/dev/zero: it is no regular file"},

		{name: "a command", source: Source{Command: []string{"printf", "%s", "a $HOME *"}}, want: "a $HOME *"},
		{name: "a command runs in the root folder", source: sh("cat keys/a"), want: "first\n"},
		{name: "a command there", source: Source{Command: []string{"./give"}}, want: "first\n"},
		{name: "a command has no input", source: sh("cat; echo end"), want: "end\n"},
		{name: "a command has no terminal", source: sh("(: </dev/tty) 2>/dev/null || printf none"), want: "none"},
		{name: "a command that fails", source: sh("echo part; echo secret why >&2; exit 3"), wantErr: "sh: exit status 3"},
		{name: "a command that prints without end", source: Source{Command: []string{"yes"}}, wantErr: "it is larger than 1048576 bytes"},
		{name: "a command that prints too much", source: sh("head -c 1048577 /dev/zero"), wantErr: "it is larger than 1048576 bytes"},
		{name: "no such command", source: Source{Command: []string{"nx-no-such"}}, wantErr: "nx-no-such: executable file not found in $PATH"},
		{name: "no such file to run", source: Source{Command: []string{"./none"}}, wantErr: "./none: no such file or directory"},

		{name: "a text", source: Source{Eval: "deployment.keys.token.text"}, want: "third"},
		{name: "a text that is not there", source: Source{Eval: "deployment.keys.other.text"}, id: "other", wantErr: "neither the network nor the bundle", hint: "nx-eval again"},
		{name: "a text that fails", source: Source{Eval: "deployment.keys.token.text"}, host: "db", wantErr: "out of order"},
		{name: "a text without a network", source: Source{Eval: "deployment.keys.token.text"}, none: true, wantErr: "it is in the network, which is not named", hint: "-f FILE"},

		{name: "a file of age", source: Source{File: "a.age", Decrypt: "age"}, want: "of age"},
		{name: "a large file of age", source: Source{File: "largest.age", Decrypt: "age"}, want: strings.Repeat("x", MaxSize)},
		{name: "a command's age", source: Source{Command: []string{"cat", "a.age"}, Decrypt: "age"}, want: "of age"},
		{name: "a file of nobody", source: Source{File: "keys/a", Decrypt: "age"}, wantErr: "decrypt: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			r := &Reader{Root: root, Texts: texts, Identities: []age.Identity{id}, Log: slog.New(slog.NewTextHandler(&log, nil))}
			if tt.none {
				r.Texts = nil
			}
			k := &Key{ID: "token", Source: tt.source}
			if tt.id != "" {
				k.ID = tt.id
			}
			host := "web"
			if tt.host != "" {
				host = tt.host
			}
			got, err := r.Read(t.Context(), host, k)
			switch {
			case tt.wantErr == "" && (err != nil || string(got) != tt.want):
				t.Errorf("%.40q, error %v, want %.40q", got, err, tt.want)
			case tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr) || got != nil || strings.Contains(err.Error(), "secret")):
				t.Errorf("%.40q, error %v, want %q", got, err, tt.wantErr)
			case !strings.Contains(hint(err), tt.hint):
				t.Errorf("hint %q, want %q in it", hint(err), tt.hint)
			}
			if said := "line=\"secret why\" host=web"; strings.Contains(tt.name, "that fails") && tt.source.Eval == "" && !strings.Contains(log.String(), "host=web line=\"secret why\"") {
				t.Errorf("said %q, want %s", log.String(), said)
			}
		})
	}
}

// What several keys of several hosts name is run once.
func TestCommandRunsOnce(t *testing.T) {
	root := t.TempDir()
	r := &Reader{Root: root}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			k := &Key{ID: "k", Source: Source{Command: []string{"sh", "-c", `echo run >> runs; echo "$1"`, "-", fmt.Sprint(i % 2)}}}
			if got, err := r.Read(t.Context(), fmt.Sprintf("host%d", i), k); err != nil || string(got) != fmt.Sprintln(i%2) {
				t.Errorf("%q, error %v", got, err)
			}
		})
	}
	all.Wait()
	if runs, err := os.ReadFile(filepath.Join(root, "runs")); err != nil || strings.Count(string(runs), "run") != 2 {
		t.Errorf("ran %q, error %v", runs, err)
	}
}

// heard calls f with each line that a command says.
type heard struct {
	slog.Handler
	f func(line string)
}

func (h heard) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "line" {
			h.f(a.Value.String())
		}
		return true
	})
	return nil
}
func (h heard) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h heard) Enabled(context.Context, slog.Level) bool { return true }

// A command ends with all that it has started, even what does not want to, when
// nobody waits for it any more; somebody else who wants it runs it again.
func TestCommandIsEnded(t *testing.T) {
	root := t.TempDir()
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	pids := make(chan string, 1)
	r := &Reader{Root: root, Log: slog.New(heard{slog.DiscardHandler, func(line string) {
		pids <- line
		cancel(why)
	}})}
	k := &Key{ID: "k", Source: Source{Command: []string{"sh", "-c", `
		if [ -e again ]; then echo second; exit; fi
		touch again
		(trap '' TERM; exec sleep 1000) &
		echo $! >&2
		wait`}}}
	var other sync.WaitGroup
	other.Go(func() {
		<-ctx.Done()
		if got, err := r.Read(t.Context(), "db", k); err != nil || string(got) != "second\n" {
			t.Errorf("%q, error %v", got, err)
		}
	})
	if got, err := r.Read(ctx, "web", k); !errors.Is(err, why) || got != nil {
		t.Errorf("%q, error %v, want %v", got, err, why)
	}
	other.Wait()
	pid := <-pids
	for {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			break
		}
		if _, state, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(state, "Z") {
			break // and nobody has looked yet
		}
	}
}

// What is run for sops' files is sops, which says itself what is wrong.
func TestSops(t *testing.T) {
	bin := files(t, map[string]string{"sops": "#!/bin/sh\nfor arg; do echo \"$arg\"; done\n[ \"$arg\" != /dev/stdin ] || cat\necho no key >&2\n[ ! -e broken ]\n"})
	root := files(t, map[string]string{"a.yaml": "x"})
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	var log bytes.Buffer
	r := &Reader{Root: root, Log: slog.New(slog.NewTextHandler(&log, nil))}
	file := &Key{ID: "k", Source: Source{File: "a.yaml", Decrypt: "sops"}}
	if got, err := r.Read(t.Context(), "web", file); err != nil || string(got) != "--decrypt\n"+filepath.Join(root, "a.yaml")+"\n" {
		t.Errorf("%q, error %v", got, err)
	}
	if !strings.Contains(log.String(), `host=web line="no key"`) {
		t.Errorf("said %s", log.String())
	}
	command := &Key{ID: "k", Source: Source{Command: []string{"echo", "printed"}, Decrypt: "sops"}}
	if got, err := r.Read(t.Context(), "web", command); err != nil || string(got) != "--decrypt\n--input-type\nbinary\n--output-type\nbinary\n/dev/stdin\nprinted\n" {
		t.Errorf("%q, error %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(root, "broken"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = &Reader{Root: root}
	if _, err := r.Read(t.Context(), "web", file); err == nil || err.Error() != "sops: exit status 1" {
		t.Errorf("error %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	r = &Reader{Root: root}
	if _, err := r.Read(t.Context(), "web", file); err == nil || !strings.Contains(err.Error(), "sops: executable file not found") || !strings.Contains(hint(err), "install sops") {
		t.Errorf("error %v, hint %q", err, hint(err))
	}
}

// The real one, of whatever format a file is.
func TestRealSops(t *testing.T) {
	if _, err := exec.LookPath("sops"); err != nil {
		t.Skipf("SKIPPED, needs sops: %v", err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	t.Setenv("SOPS_AGE_KEY", id.String())
	r := &Reader{Root: root}
	for name, text := range map[string]string{"a.yaml": "token: x\n", "a.env": "TOKEN=x\n", "token": "\x00x\n"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		sealed, err := exec.Command("sops", "--encrypt", "--age", id.Recipient().String(), filepath.Join(root, name)).Output()
		if err == nil {
			err = os.WriteFile(filepath.Join(root, name), sealed, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Read(t.Context(), "web", &Key{ID: "k", Source: Source{File: name, Decrypt: "sops"}}); err != nil || string(got) != text {
			t.Errorf("%s: %q, error %v, want %q", name, got, err, text)
		}
	}
	if got, err := r.Read(t.Context(), "web", &Key{ID: "k", Source: Source{Command: []string{"cat", "token"}, Decrypt: "sops"}}); err != nil || string(got) != "\x00x\n" {
		t.Errorf("of a command: %q, error %v", got, err)
	}
	t.Setenv("SOPS_AGE_KEY", "")
	if got, err := (&Reader{Root: root}).Read(t.Context(), "web", &Key{ID: "k", Source: Source{File: "token", Decrypt: "sops"}}); err == nil || got != nil {
		t.Errorf("without an identity: %q, error %v", got, err)
	}
}
