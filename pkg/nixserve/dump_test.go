package nixserve

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"nx/pkg/store"
)

// What Nix makes of the same tree, byte for byte.
func TestDumpNARAsNix(t *testing.T) {
	setup(t)
	tree := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(tree, "folder/empty"), 0o755))
	for name, size := range map[string]int{
		"empty": 0, "one": 1, "seven": 7, "eight": 8, "a": 9, "a.b": 9, "a-b": 9, "A": 9, "ü": 9, "folder/a": 9,
		"buffer": 32 << 10, "larger": 32<<10 + 1, "large": 1 << 20,
	} {
		check(t, os.WriteFile(filepath.Join(tree, name), bytes.Repeat([]byte("x"), size), 0o644))
	}
	check(t, os.WriteFile(filepath.Join(tree, "run"), []byte("#!/bin/sh\n"), 0o755))
	check(t, os.WriteFile(filepath.Join(tree, "others-run"), nil, 0o655))
	check(t, os.Symlink("../no such", filepath.Join(tree, "link")))
	for _, name := range []string{"", "empty", "run", "link", "folder/empty"} {
		file := filepath.Join(tree, name)
		want, err := exec.Command(string(installed(t)), "--dump", file).Output()
		check(t, err)
		var got bytes.Buffer
		check(t, DumpNAR(&got, file))
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%q: NAR of %d bytes differs from Nix' of %d", name, got.Len(), len(want))
		}
		got.Reset()
		check(t, DumpNAR(struct{ writerFunc }{got.Write}, file)) // no ReadFrom
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%q: NAR of %d bytes, written piece by piece, differs from Nix' of %d", name, got.Len(), len(want))
		}
	}
}

func TestDumpNARFails(t *testing.T) {
	if err := DumpNAR(new(bytes.Buffer), "/no/such/file"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	if err := DumpNAR(new(bytes.Buffer), os.DevNull); err == nil || !strings.Contains(err.Error(), "is no file, link or folder") {
		t.Errorf("device: %v", err)
	}
	full := errors.New("full")
	if err := DumpNAR(writerFunc(func([]byte) (int, error) { return 0, full }), "."); !errors.Is(err, full) {
		t.Errorf("writer that fails: %v", err)
	}
}

func TestLocalDir(t *testing.T) {
	for remote, want := range map[string]string{
		"": store.Dir, "daemon": store.Dir, "auto": store.Dir, "/srv/root": "/srv/root" + store.Dir,
		"local?root=/srv/root": "", "ssh://host": "", "unix:///run/socket": "",
	} {
		if got := localDir(remote); got != want {
			t.Errorf("%q: %q, want %q", remote, got, want)
		}
	}
}
