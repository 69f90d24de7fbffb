package state

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// free are options for a state that nobody else has.
func free(t *testing.T) Options {
	return Options{Wait: func(h Holder) { t.Errorf("Open waits for %s, and nobody else is there", h) }}
}

func openFile(t *testing.T, file string) *State {
	t.Helper()
	s, err := Open(t.Context(), file, free(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestState(t *testing.T) {
	file := filepath.Join(t.TempDir(), Path)
	empty, err := Read(t.Context(), file, Options{})
	if err != nil || empty.UUID() != "" || len(empty.Entries(Machines)) != 0 {
		t.Fatalf("Read without a file: %+v, %v", empty, err)
	}
	s := openFile(t, file)
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(s.UUID()) {
		t.Errorf("UUID %q is not of version 4", s.UUID())
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("a state with nothing in it has a file: %v", err)
	}
	s.SetName("shop")
	for _, e := range []Entry{
		{Type: Machines, Name: "web", Provider: "sandbox", Tags: []string{"a", "b"}},
		{Type: "sshKeyPairs", Name: "web", Provider: "sshKeyPairs", Outputs: json.RawMessage(`{ "b": "<&>",
			"a": 1 }`)},
		{Type: Machines, Name: "db", Provider: "sandbox", Outputs: json.RawMessage(`{"address":"10.0.0.1"}`)},
		{Type: Machines, Name: "old", Provider: "sandbox"},
	} {
		if err := s.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.Delete(Machines, "old"); err != nil {
			t.Fatal(err)
		}
	}
	want := fmt.Sprintf(`{
  "version": 2,
  "uuid": %q,
  "name": "shop",
  "resources": {
    "machines": {
      "db": {
        "provider": "sandbox",
        "outputs": {
          "address": "10.0.0.1"
        }
      },
      "web": {
        "provider": "sandbox",
        "tags": [
          "a",
          "b"
        ]
      }
    },
    "sshKeyPairs": {
      "web": {
        "provider": "sshKeyPairs",
        "outputs": {
          "a": 1,
          "b": "<&>"
        }
      }
    }
  }
}
`, s.UUID())
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Errorf("the file is, %v\n%s\nwant\n%s", err, got, want)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	again, err := Read(t.Context(), file, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if again.UUID() != s.UUID() || again.Name() != "shop" {
		t.Errorf("read again: %s %s, want %s shop", again.UUID(), again.Name(), s.UUID())
	}
	e, ok := again.Get("sshKeyPairs", "web")
	if !ok || e.Type != "sshKeyPairs" || e.Name != "web" || string(e.Outputs) != `{"a":1,"b":"<&>"}` {
		t.Errorf("Get = %+v, %v", e, ok)
	}
	var names []string
	for _, e := range again.Entries(Machines) {
		names = append(names, e.Name)
	}
	if got := strings.Join(names, " "); got != "db web" {
		t.Errorf("Entries(machines) = %q, want db web", got)
	}
	if err := again.Put(e); err == nil || !strings.Contains(err.Error(), "not opened to be changed") {
		t.Errorf("Put to a state that was read: %v", err)
	}
}

// What does not change is not written: inode and bytes stay.
func TestPutUnchanged(t *testing.T) {
	file := filepath.Join(t.TempDir(), Path)
	s := openFile(t, file)
	put := func() os.FileInfo {
		t.Helper()
		if err := s.Put(Entry{Type: Machines, Name: "web", Provider: "sandbox", Outputs: json.RawMessage(` {"a": 1} `)}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	if first, second := put(), put(); !os.SameFile(first, second) {
		t.Error("the file was written again")
	}
}

// A state that cannot be understood is an error, and its bytes stay.
func TestDamaged(t *testing.T) {
	const uuid = `"uuid":"00000000-0000-4000-8000-000000000000"`
	const machine = `{"version":2,` + uuid + `,"recipients":["r"],"resources":{"machines":{"web":`
	tests := []struct {
		name, text, wantErr, wantHint string
	}{
		{"empty", "", "it is damaged: unexpected end of JSON input", ""},
		{"cut", `{"version":2,` + uuid + `,"res`, "it is damaged", ""},
		{"something else", `[]`, "it is damaged", ""},
		{"trailing bytes", `{"version":2,` + uuid + `} x`, "it is damaged", ""},
		{"newer", `{"version":3,"new":{}}`, "it has version 3, and this nx knows version 2", "a newer nx wrote it"},
		{"no version", `{` + uuid + `}`, "it has version 0", ""},
		{"unknown member", `{"version":2,` + uuid + `,"sealed":{}}`, `unknown field "sealed"`, ""},
		{"unknown member of version 1", `{"version":1,` + uuid + `,"recipients":[]}`, `unknown field "recipients"`, ""},
		{"unknown member of an entry", machine + `{"provider":"p","facts":{}}}}}`, `unknown field "facts"`, ""},
		{"no uuid", `{"version":2}`, `uuid "" is none`, ""},
		{"no recipient", `{"version":2,` + uuid + `,"recipients":[""]}`, "a recipient is empty", ""},
		{"no provider", machine + `{}}}}`, `machines "web" of provider "": an entry needs all three`, ""},
		{"no object", machine + `{"provider":"p","outputs":[]}}}}`, `machines web: outputs: "[]" is no object`, ""},
		{"no object in version 1", `{"version":1,` + uuid + `,"resources":{"machines":{"web":{"provider":"sandbox","facts":[]}}}}`, `"[]" is no object`, ""},
		{"empty secret", machine + `{"provider":"p","secrets":{"key":null}}}}}`, "machines web: secret key is empty", ""},
		{"nothing sealed", machine + `{"provider":"p","secrets":{"key":{"sealed":""}}}}}}`, "machines web: secret key is empty", ""},
		{"no base64", machine + `{"provider":"p","secrets":{"key":{"sealed":"?"}}}}}}`, "illegal base64", ""},
		{"sealed otherwise", machine + `{"provider":"p","secrets":{"key":{"sops":""}}}}}}`, `unknown field "sops"`, ""},
		{"sealed for nobody", `{"version":2,` + uuid + `,"resources":{"machines":{"web":{"provider":"p","secrets":{"key":{"sealed":"YQ=="}}}}}}`,
			"machines web: secret key is sealed, and there are no recipients", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "state.json")
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			refused := func(what string, err error) {
				t.Helper()
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) || !strings.HasPrefix(err.Error(), "read state "+file) {
					t.Errorf("%s: %v, want %q", what, err, tt.wantErr)
				}
				if hint := hintOf(err); !strings.Contains(hint, cmp.Or(tt.wantHint, "put back a copy")) {
					t.Errorf("%s: hint %q, want %q", what, hint, tt.wantHint)
				}
			}
			_, err := Read(t.Context(), file, Options{})
			refused("Read", err)
			for range 2 { // the first leaves no lock behind
				_, err := Open(t.Context(), file, free(t))
				refused("Open", err)
			}
			if got, err := os.ReadFile(file); err != nil || string(got) != tt.text {
				t.Errorf("the file is now %q, %v", got, err)
			}
		})
	}
}

// hintOf returns what err says to try next, as pkg/cli finds it.
func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) {
		return ""
	}
	return hinted.Hint()
}

func TestPutRefuses(t *testing.T) {
	s := openFile(t, filepath.Join(t.TempDir(), Path))
	for _, e := range []Entry{
		{Type: Machines, Provider: "sandbox"},
		{Type: Machines, Name: "web"},
		{Name: "web", Provider: "sandbox"},
		{Type: Machines, Name: "web", Provider: "sandbox", Outputs: json.RawMessage(`{`)},
		{Type: Machines, Name: "web", Provider: "sandbox", Outputs: json.RawMessage(`3`)},
	} {
		if err := s.Put(e); err == nil {
			t.Errorf("Put(%+v) succeeds", e)
		}
	}
}

func TestConcurrentPut(t *testing.T) {
	file := filepath.Join(t.TempDir(), Path)
	s := openFile(t, file)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := s.Put(Entry{Type: Machines, Name: fmt.Sprint("web", i), Provider: "sandbox"}); err != nil {
				t.Error(err)
			}
			s.Get(Machines, "web0")
		})
	}
	wg.Wait()
	again, err := Read(t.Context(), file, Options{})
	if err != nil || len(again.Entries(Machines)) != 8 {
		t.Errorf("%d of 8 machines, %v", len(again.Entries(Machines)), err)
	}
}

// What cannot be written is not remembered, and the error says so.
func TestWriteFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".nx")
	s := openFile(t, filepath.Join(dir, "state.json"))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	err := s.Put(Entry{Type: Machines, Name: "web", Provider: "sandbox"})
	if err == nil || !strings.HasPrefix(err.Error(), "remember machines web: write state "+filepath.Join(dir, "state.json")+": its lock was taken away") {
		t.Errorf("Put without a folder: %v", err)
	}
	if e, ok := s.Get(Machines, "web"); ok {
		t.Errorf("it is remembered nonetheless: %+v", e)
	}
}

// The format is this: what is read is written with the same bytes, whatever the order
// and the white space that it was read with.
func TestFormat(t *testing.T) {
	want := must(os.ReadFile("testdata/v2.json"))(t)
	var compact bytes.Buffer
	if err := json.Compact(&compact, want); err != nil {
		t.Fatal(err)
	}
	var anything map[string]any
	if err := json.Unmarshal(want, &anything); err != nil {
		t.Fatal(err)
	}
	sorted := bytes.Replace(must(json.Marshal(anything))(t), []byte(`"size":10.5`), []byte(`"size":10.50`), 1)
	for _, text := range [][]byte{want, compact.Bytes(), sorted} {
		if got := must(format(must(parse(text))(t)))(t); !bytes.Equal(got, want) {
			t.Errorf("%s is written as\n%s\nwant\n%s", text, got, want)
		}
	}
	e := must(parse(want))(t).Resources[Machines]["web1"]
	if e.Provider != "digitalOcean" || fmt.Sprint(e.Tags) != "[eu web]" || e.ID != "4711" || e.State != "up" || string(e.Properties) != `{"keyPair":"sshKeyPairs.admin","size":"s-1vcpu-1gb"}` ||
		string(e.Reached) != `{"host":"192.0.2.6"}` || fmt.Sprint(e.Needs) != "[sshKeyPairs.admin]" || len(e.Secrets) != 1 {
		t.Errorf("web1 is read as %+v", e)
	}
}

// Whatever is accepted is written so that it is read as the same, byte for byte.
func FuzzParse(f *testing.F) {
	whole, err := os.ReadFile("testdata/v2.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parse(b)
		if err != nil {
			return
		}
		once, err := format(c)
		if err != nil {
			t.Fatalf("format(%q): %v", b, err)
		}
		c, err = parse(once)
		if err != nil {
			t.Fatalf("parse(%q): %v", once, err)
		}
		twice, err := format(c)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("written %q, read and written again %q, %v", once, twice, err)
		}
	})
}
