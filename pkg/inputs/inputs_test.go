package inputs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"nx/pkg/inputs"
)

// must fails the test at the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestState(t *testing.T) {
	for _, test := range []struct {
		name    string
		list    bool
		prepare string // shell commands, in a new folder
		edit    string
		same    bool // the state of x
	}{
		{"file's contents", false, "echo a >x", "echo b >x", false},
		{"file's times", false, "echo a >x", "touch -d 2001-01-01 x", true},
		{"file replaced by its like", false, "echo a >x", "echo a >y; mv y x", true},
		{"file executable", false, "echo a >x", "chmod +x x", false},
		{"file for others to read", false, "echo a >x; chmod 600 x", "chmod 644 x", true},
		{"file gone", false, "echo a >x", "rm x", false},
		{"file comes", false, "", "echo a >x", false},
		{"file becomes folder", false, "echo a >x", "rm x; mkdir x", false},
		{"nothing", false, "", "echo a >y", true},
		{"folder's entries, as one", false, "mkdir x", "touch x/y", true},
		{"folder's entries, listed", true, "mkdir x", "touch x/y", false},
		{"entry's contents, listed", true, "mkdir x; touch x/y", "echo a >x/y", true},
		{"entry's kind, listed", true, "mkdir x; touch x/y", "rm x/y; mkdir x/y", false},
		{"folder gone", true, "mkdir x", "rmdir x", false},
		{"link to other", false, "touch y z; ln -s y x", "ln -sf z x", false},
		{"link's file", false, "touch y; ln -s y x", "echo a >y", false},
		{"link's file comes", false, "ln -s y x", "touch y", false},
		{"link to folder, listed", true, "mkdir y; ln -s y x", "touch y/z", false},
		{"link becomes its file", false, "touch y; ln -s y x", "rm x; touch x", false},
		{"below a file", false, "", "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			sh := func(script string) {
				cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
				cmd.Dir = dir
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", script, err, out)
				}
			}
			in := inputs.Input{Path: filepath.Join(dir, "x"), List: test.list}
			sh(test.prepare)
			before, err := in.State()
			must(t, err)
			stamp := in.Stamp()
			sh(test.edit)
			after, err := in.State()
			must(t, err)
			if same := before == after; same != test.same {
				t.Errorf("state %q, then %q", before, after)
			}
			if before != after && in.Stamp() == stamp {
				t.Errorf("state %q, then %q, with the same stamp", before, after)
			}
		})
	}
}

func TestSpecial(t *testing.T) {
	dir := t.TempDir()
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Symlink("fifo", filepath.Join(dir, "link")), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for name, want := range map[string]bool{"fifo": true, "link": true, "file": false, "none": false, ".": false} {
		if got := (inputs.Input{Path: filepath.Join(dir, name)}).Stamp().IsSpecial(); got != want {
			t.Errorf("%s is special: %v", name, got)
		}
	}
}

func TestSettled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	must(t, os.WriteFile(file, []byte("a"), 0o600))
	now := time.Now()
	stamp := inputs.Input{Path: file}.Stamp()
	if stamp.Settled(now) {
		t.Error("what was just written is taken for settled")
	}
	if !stamp.Settled(now.Add(time.Second)) {
		t.Error("what was written a second ago is not settled")
	}
	if !(inputs.Input{Path: file + "x"}).Stamp().Settled(now) {
		t.Error("what is not there is not settled")
	}
}

// What make itself makes of the rule, for names that are hard to write.
func TestWriteRule(t *testing.T) {
	dir := t.TempDir()
	hard := []string{"plain.nix", "a b", `back\slash`, `end\ space`, "ha#sh", "do$$l", "co:lon", "per%cent", "{curly}", "ümlaut", "with\ttab"}
	must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700), os.Mkdir(filepath.Join(dir, "list"), 0o700))
	past, elsewhere := time.Now().Add(-time.Hour), filepath.Join(t.TempDir(), "elsewhere")
	var read []inputs.Input
	for _, name := range hard {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		read = append(read, inputs.Input{Path: filepath.Join(dir, name)})
	}
	read = append(read, inputs.Input{Path: filepath.Join(dir, "folder")}, inputs.Input{Path: filepath.Join(dir, "list"), List: true},
		inputs.Input{Path: filepath.Join(dir, "list/absent/x.nix")}, inputs.Input{Path: elsewhere})
	must(t, os.WriteFile(elsewhere, nil, 0o600), os.Chtimes(elsewhere, past, past))
	var rule bytes.Buffer
	must(t, inputs.WriteRule(&rule, "out put", read, dir))
	must(t, os.WriteFile(filepath.Join(dir, "rule"), rule.Bytes(), 0o600),
		os.WriteFile(filepath.Join(dir, "Makefile"), []byte("include rule\nout\\ put:\n\t@touch '$@'$(info $?)\n"), 0o600))
	run := func() string {
		cmd := exec.CommandContext(t.Context(), "make", "-s")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "LC_ALL=C", "MAKEFLAGS=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("make: %v: %s\n%s", err, out, rule.String())
		}
		return strings.TrimSpace(string(out))
	}
	set := func(at time.Time, names ...string) {
		for _, name := range names {
			must(t, os.Chtimes(filepath.Join(dir, name), at, at))
		}
	}
	set(past, append(slices.Clone(hard), "folder", "list")...)
	if got := run(); got == "" {
		t.Fatalf("nothing is made\n%s", rule.String())
	}
	if got := run(); got != "" {
		t.Errorf("made again because of %q", got)
	}
	for _, name := range append(hard, "list") {
		set(past.Add(30*time.Minute), "out put")
		set(time.Now(), name)
		if got := run(); got != name {
			t.Errorf("touched %q, and make sees %q\n%s", name, got, rule.String())
		}
		set(past, name)
	}
	set(past.Add(30*time.Minute), "out put")
	set(time.Now(), "folder")
	if got := run(); got != "" {
		t.Errorf("made because of %q, a folder that was only looked at", got)
	}
	must(t, os.Remove(filepath.Join(dir, "plain.nix")))
	if got := run(); got != "plain.nix" {
		t.Errorf("plain.nix is gone, and make sees %q", got)
	}
	if err := inputs.WriteRule(&rule, "x", []inputs.Input{{Path: dir}, {Path: "/new\nline"}}, dir); err != nil {
		t.Errorf("a name that is not there is not written: %v", err)
	}
	if err := inputs.WriteRule(&rule, "two\nlines", nil, dir); err == nil {
		t.Error("a target of two lines is written")
	}
}
