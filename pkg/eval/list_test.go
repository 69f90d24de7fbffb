package eval_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nx/pkg/eval"
)

func TestList(t *testing.T) {
	standIn(t)
	n := write(t, `{ b.deployment.tags = [ "x" "a" ]; a.deployment.targetUser = "root"; broken.deployment.tags = throw "no"; }`)
	hosts, err := eval.List(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range hosts {
		if r.Failed() {
			// Later versions of Nix know the line, too.
			message, _, _ := strings.Cut(r.Message(), n.Files[0]+":")
			got = append(got, r.Name()+": "+strings.TrimSuffix(message, n.Files[0]))
			continue
		}
		got = append(got, string(r.Bytes()))
	}
	want := []string{
		`{"nx":1,"kind":"host","name":"a","target":{"host":"a","user":"root"}}`,
		`{"nx":1,"kind":"host","name":"b","tags":["a","x"],"target":{"host":"b","user":"root"}}`,
		"broken: evaluate configuration: no, at ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("list\n got %q\nwant %q", got, want)
	}
}

// The folder has what the hosts' last good evaluations said, and nothing of the
// user's own is touched.
func TestWriteDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	web, db := `{"nx":1,"kind":"host","name":"web","tags":["a"]}`, `{"nx":1,"kind":"host","name":"db"}`
	steps := []struct {
		name    string
		files   map[string]string // are there before
		records []string
		network []string
		want    map[string]string
	}{
		{"a new folder", nil, []string{web, db, `{"nx":1,"kind":"resource","type":"t","name":"r","outputs":{}}`}, []string{"web", "db"},
			map[string]string{"web.jsonl": web + "\n", "db.jsonl": db + "\n"}},
		{"one fails, one is not chosen", nil, []string{`{"nx":1,"kind":"host","name":"web","error":{"stage":"eval","message":"no"}}`}, []string{"web", "db"},
			map[string]string{"web.jsonl": web + "\n", "db.jsonl": db + "\n"}},
		{"one left, others' files stay",
			map[string]string{"mine.jsonl": "not a record", "copy.jsonl": web + "\n", "notes": "x", "two.jsonl": web + "\n" + db + "\n"},
			[]string{db}, []string{"db"},
			map[string]string{"mine.jsonl": "not a record", "copy.jsonl": web + "\n", "notes": "x", "two.jsonl": web + "\n" + db + "\n", "db.jsonl": db + "\n"}},
		{"the network lacks a host of the input", nil, []string{db}, nil,
			map[string]string{"mine.jsonl": "not a record", "copy.jsonl": web + "\n", "notes": "x", "two.jsonl": web + "\n" + db + "\n", "db.jsonl": db + "\n"}},
	}
	for _, step := range steps {
		for name, text := range step.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := eval.WriteDir(dir, parse(t, step.records...), step.network); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != len(step.want) {
			t.Errorf("%s: %v is there, want %d files", step.name, entries, len(step.want))
		}
		for name, want := range step.want {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
				t.Errorf("%s: %s has %q (%v), want %q", step.name, name, got, err, want)
			}
		}
	}
	if err := eval.WriteDir(filepath.Join(dir, "notes"), nil, nil); err == nil {
		t.Error("a file is taken for a folder")
	}
}
