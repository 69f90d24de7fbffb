package trace_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"nx/pkg/testhost"
	"nx/pkg/trace"
)

// run traces sh with script in dir and returns what it looked at and what it
// opened, below dir.
func run(t *testing.T, dir, script string) (looked, opened []string, stdout string) {
	t.Helper()
	testhost.Need(t, "trace")
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "cd '"+dir+"'; "+script)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	var mu sync.Mutex
	stop, err := trace.Start(cmd, func(path string, flags, thread int) {
		mu.Lock()
		defer mu.Unlock()
		if thread <= 0 {
			t.Errorf("%s is looked at by thread %d", path, thread)
		}
		if path, ok := strings.CutPrefix(path, dir+"/"); ok {
			if looked = append(looked, path); flags != trace.Asked {
				opened = append(opened, path)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v: %s", script, err, stderr.String())
	}
	if err := stop(); err != nil {
		t.Errorf("%s: missed %v", script, err)
	}
	return looked, opened, out.String()
}

func TestStart(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a/", 200) + "b"
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, long), 0o700), os.Mkdir(filepath.Join(dir, "sub"), 0o700),
		os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600), os.WriteFile(filepath.Join(dir, "sub/file"), []byte("y"), 0o600),
		os.Symlink("sub", filepath.Join(dir, "link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		script, looked, opened, stdout string
	}{
		{"cat " + dir + "/file", "file", "file", "x"},
		{"cat file", "file", "file", "x"},
		{"cat ./sub//file", "sub/file", "sub/file", "y"},
		{"cd sub && exec cat ../file", "sub/../file", "sub/../file", "x"},
		{"cd link && exec cat file", "link", "sub/file", "y"},
		{"cat link/file", "link/file", "link/file", "y"},
		{"ls sub", "sub", "sub", "file\n"},
		{"test -e none || echo none", "none", "", "none\n"},
		{"cat none || echo none", "none", "none", "none\n"},
		{"readlink link", "link", "", "sub\n"},
		{"echo z > new; echo z >> new", "", "", ""},
		{"( ( cat file ) & wait )", "file", "file", "x"},
		{"test -d " + long, long, "", ""},
	} {
		looked, opened, stdout := run(t, dir, test.script)
		if stdout != test.stdout {
			t.Errorf("%s says %q, want %q", test.script, stdout, test.stdout)
		}
		if test.looked != "" && !slices.Contains(looked, test.looked) || test.opened != "" && !slices.Contains(opened, test.opened) {
			t.Errorf("%s: looked at %q, opened %q; want %q and %q", test.script, looked, opened, test.looked, test.opened)
		}
		if test.opened == "" && len(opened) > 0 || slices.Contains(opened, "new") {
			t.Errorf("%s: opened %q to read", test.script, opened)
		}
	}
}

// A command waits for whoever sees what it does, so that what follows an access
// is known to follow it.
func TestWaits(t *testing.T) {
	testhost.Need(t, "trace")
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "cat", filepath.Join(dir, "late"))
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stop, err := trace.Start(cmd, func(path string, _, _ int) {
		if path == filepath.Join(dir, "late") {
			if err := os.WriteFile(path, []byte("there"), 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cmd.Wait(), stop()); err != nil || stdout.String() != "there" {
		t.Errorf("cat says %q, error %v, want what was written as it looked", stdout.String(), err)
	}
}

func TestStartFails(t *testing.T) {
	stop, err := trace.Start(exec.CommandContext(t.Context(), "/nowhere/to/be/found"), func(string, int, int) {})
	if err == nil {
		t.Fatal("a program that is not there was started")
	}
	if stop != nil {
		t.Error("there is something to stop")
	}
}

// What a command leaves behind does not keep its trace alive.
func TestStopWithoutChildren(t *testing.T) {
	testhost.Need(t, "trace")
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "read -r line <&3 & echo $!")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd.ExtraFiles = []*os.File{r}
	stop, err := trace.Start(cmd, func(string, int, int) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cmd.Wait(), stop()); err != nil {
		t.Error(err)
	}
}
