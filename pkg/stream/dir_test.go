package stream

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"nx/pkg/record"
)

// folder is what the files of dir have.
func folder(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

// A folder says of each host what its last run did: one of two files.
func TestOutputDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "dir")
	web2Fails := `{"nx":1,"kind":"host","name":"web2","tags":["canary","web"],"error":{"stage":"build","message":"broken"}}` + "\n"
	fail := func(name string) func(context.Context, *record.Record) error {
		return func(_ context.Context, r *record.Record) error {
			if r.Name() == name {
				return errors.New("broken")
			}
			return nil
		}
	}
	for _, step := range []struct {
		name  string
		in    string
		f     func(context.Context, *record.Record) error
		want  map[string]string
		fails bool
	}{
		{"hosts only", web1 + web2 + key + alert, noop, map[string]string{"web1.jsonl": web1, "web2.jsonl": web2}, false},
		{"one fails, now or before", web1 + web2 + db1, fail("web2"), map[string]string{"web1.jsonl": web1, "web2.error": web2Fails, "db1.error": db1}, true},
		{"it is mended, others are not there", web2, noop, map[string]string{"web1.jsonl": web1, "web2.jsonl": web2, "db1.error": db1}, false},
		{"a cut stream: what was done is kept", begin + web1, noop, map[string]string{"web1.jsonl": web1, "web2.jsonl": web2, "db1.error": db1}, true},
	} {
		s, out := over(step.in, false)
		s.Output.Dir = dir
		if err := Each(t.Context(), s, 8, step.f); (err != nil) != step.fails {
			t.Errorf("%s: %v", step.name, err)
		}
		if got := folder(t, dir); !maps.Equal(got, step.want) {
			t.Errorf("%s:\n got %q\nwant %q", step.name, got, step.want)
		}
		if out.Len() > 0 {
			t.Errorf("%s: stdout has %q", step.name, out)
		}
	}

	// A file is replaced unless nobody asked for it and it would say the same.
	for _, ifChanged := range []bool{true, false} {
		before, err := os.Stat(filepath.Join(dir, "web1.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		s, _ := over(web1, true)
		s.Output.Dir, s.Output.IfChanged = dir, ifChanged
		if err := Each(t.Context(), s, 8, noop); err != nil {
			t.Fatal(err)
		}
		if after, err := os.Stat(filepath.Join(dir, "web1.jsonl")); err != nil || os.SameFile(before, after) != ifChanged {
			t.Errorf("with IfChanged %v the file is the same: %v (%v)", ifChanged, os.SameFile(before, after), err)
		}
	}

	// Nothing is done when no file could be written.
	s, _ := over(web1, true)
	s.Output.Dir = filepath.Join(dir, "web1.jsonl")
	if err := Each(t.Context(), s, 8, func(context.Context, *record.Record) error { t.Error("it was acted on"); return nil }); err == nil {
		t.Error("a file is taken for a folder")
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{
		"web1.jsonl": web1, "db1.error": db1, // left the network
		"web2.jsonl": web2,                                                                       // is in it
		"mine.jsonl": "not a record", "copy.jsonl": web1, "notes": "x", "two.jsonl": web1 + web2, // are the user's
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Prune(dir, map[string]bool{"web2": true}); err != nil {
		t.Fatal(err)
	}
	delete(files, "web1.jsonl")
	delete(files, "db1.error")
	if got := folder(t, dir); !maps.Equal(got, files) {
		t.Errorf("got %q\nwant %q", got, files)
	}
}
