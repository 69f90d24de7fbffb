package record

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"nx/pkg/target"
)

func parse(t *testing.T, line string) *Record {
	t.Helper()
	r, err := Parse([]byte(line))
	if err != nil {
		t.Fatalf("Parse(%s): %v", line, err)
	}
	return r
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ name, line, want string }{
		{"no JSON", `name: web1`, "is no JSON"},
		{"no object", `["web1"]`, "is no JSON object"},
		{"two objects", `{"nx":1,"name":"a"}{"nx":1,"name":"b"}`, "is no JSON"},
		{"no version", `{"name":"web1"}`, `"nx" is missing`},
		{"later version", `{"nx":2,"name":"web1"}`, `"nx" is 2`},
		{"version as text", `{"nx":"1","name":"web1"}`, `"nx" is`},
		{"kind of another type", `{"nx":1,"kind":7,"name":"web1"}`, `"kind" is 7`},
		{"no name", `{"nx":1}`, `"name" is missing`},
		{"name of another type", `{"nx":1,"name":["web1"]}`, `"name" is`},
		{"name that is a path", `{"nx":1,"name":"../web1"}`, `has '.'`},
		{"name that is an option", `{"nx":1,"name":"-v"}`, `has '-'`},
		{"empty name", `{"nx":1,"name":""}`, "is empty"},
		{"name beyond ASCII", `{"nx":1,"name":"wéb"}`, `has 'Ã'`},
		{"resource without type", `{"nx":1,"kind":"resource","name":"x"}`, `"type" is missing`},
		{"duplicate key", `{"nx":1,"name":"a","name":"b"}`, `"name" stands there twice`},
		{"duplicate key in other spelling", `{"nx":1,"name":"a","n\u0061me":"b"}`, `"name" stands there twice`},
		{"duplicate key deep inside", `{"nx":1,"name":"a","x":[{"y":{"z":1,"z":2}}]}`, `"x.y.z" stands there twice`},
		{"invalid UTF-8", "{\"nx\":1,\"name\":\"a\",\"x\":\"\xff\"}", "UTF-8"},
		{"control character", "{\"nx\":1,\"name\":\"a\",\"x\":\"\x01\"}", "is no JSON"},
		{"too deep", `{"nx":1,"name":"a","x":` + strings.Repeat("[", 600) + strings.Repeat("]", 600) + `}`, "nested more than 512 deep"},
		{"too long", `{"nx":1,"name":"a","x":"` + strings.Repeat("x", MaxLine) + `"}`, "longer than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.line))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestUntouchedIsWrittenAsRead(t *testing.T) {
	for _, line := range []string{
		`{"nx":1,"name":"web1"}`,
		`  { "name" : "web1", "nx":1 , "x" : 1.50e3 }`,
		`{"nx":1,"kind":"alert","name":17}`,
		`{"nx":1,"name":"web1","x":"\u0041 <>& \/"}`,
	} {
		if got := string(parse(t, line).Bytes()); got != line {
			t.Errorf("got  %s\nwant %s", got, line)
		}
	}
}

func TestSet(t *testing.T) {
	tests := []struct {
		name, line string
		change     func(*Record) error
		want       string
	}{
		{"known members in order, unknown behind", `{"z":1, "storePath":"x","nx":1,"a":{"b" : 2},"name":"web1"}`,
			func(r *Record) error { return r.Set("system", "x86_64-linux") },
			`{"nx":1,"kind":"host","name":"web1","system":"x86_64-linux","storePath":"x","z":1,"a":{"b" : 2}}`},
		{"same value changes nothing", `{"name":"web1","nx":1,"system":"a"}`,
			func(r *Record) error { return r.Set("system", "a") },
			`{"name":"web1","nx":1,"system":"a"}`},
		{"no HTML escapes", `{"nx":1,"name":"web1"}`,
			func(r *Record) error { return r.Set("system", "<&>") },
			`{"nx":1,"kind":"host","name":"web1","system":"<&>"}`},
		{"merge keeps the other members' bytes", `{"nx":1,"name":"web1","target":{"x-rack" : [1,  2],"port":22}}`,
			func(r *Record) error { return r.Merge("target", Member{"host", "h"}, Member{"port", 23}) },
			`{"nx":1,"kind":"host","name":"web1","target":{"x-rack":[1,  2],"port":23,"host":"h"}}`},
		{"merge makes the object", `{"nx":1,"name":"web1"}`,
			func(r *Record) error { return r.Merge("copied", Member{"storePath", "p"}) },
			`{"nx":1,"kind":"host","name":"web1","copied":{"storePath":"p"}}`},
		{"keys stay as they were spelled", `{"nx":1,"name":"web1","\u00e9":1}`,
			func(r *Record) error { return r.Set("system", "s") },
			`{"nx":1,"kind":"host","name":"web1","system":"s","\u00e9":1}`},
		{"reset removes own and later fields", `{"nx":1,"name":"w","drvPath":"d","storePath":"s","closure":{},"copied":{},"activation":{},"machine":{}}`,
			func(r *Record) error { r.Reset(Build); return nil },
			`{"nx":1,"kind":"host","name":"w","machine":{},"drvPath":"d"}`},
		{"reset removes all that provisioning says of a resource", `{"nx":1,"kind":"resource","type":"t","name":"r","outputs":{"a":1},"drift":[]}`,
			func(r *Record) error { r.Reset(Provision); return nil },
			`{"nx":1,"kind":"resource","type":"t","name":"r"}`},
		{"tags are united and sorted", `{"nx":1,"name":"w","tags":["web","a"]}`,
			func(r *Record) error { return r.AddTags("b", "web") },
			`{"nx":1,"kind":"host","name":"w","tags":["a","b","web"]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := parse(t, tt.line)
			if err := tt.change(r); err != nil {
				t.Fatal(err)
			}
			if got := string(r.Bytes()); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

type logged struct{ log string }

func (logged) Error() string { return "build it:\n  exit status 1\n" }
func (l logged) Log() string { return l.log }

func TestFail(t *testing.T) {
	r := parse(t, `{"nx":1,"name":"db1"}`)
	r.Fail(Build, logged{strings.Repeat("x", 100) + "\n" + strings.Repeat("é\n", MaxLog)})
	if !r.Failed() || r.FailedStage() != Build || r.Cause() == nil {
		t.Errorf("Failed %v, stage %q, cause %v", r.Failed(), r.FailedStage(), r.Cause())
	}
	if got, want := r.Message(), "build it:; exit status 1"; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	if log := r.Get("error").Get("log").String(); len(log) > MaxLog || len(log) < MaxLog-8 || !strings.HasPrefix(log, "é\n") {
		t.Errorf("log has %d bytes, begins %q", len(log), log[:8])
	}
	if again := parse(t, string(r.Bytes())); !again.Failed() || again.Cause() != nil {
		t.Error("a record that is read with an error has no cause")
	}
}

func TestTarget(t *testing.T) {
	r := parse(t, `{"nx":1,"name":"a","target":{"host":"h","port":2222,"user":"u","hostKeys":["ssh-ed25519 AAAA"],"identityFile":"k","sudo":["sudo","--"],"proxyJump":"j","previous":{"host":"old"},"x":1}}`)
	got, err := r.Target()
	want := target.Target{Host: "h", Port: 2222, User: "u", HostKeys: []string{"ssh-ed25519 AAAA"}, IdentityFile: "k",
		Sudo: []string{"sudo", "--"}, ProxyJump: "j", Previous: &target.Target{Host: "old"}}
	if err != nil || !equal(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	for line, want := range map[string]string{
		`{"nx":1,"name":"a"}`:                                                         `no "target"`,
		`{"nx":1,"name":"a","target":"h"}`:                                            `not an object`,
		`{"nx":1,"name":"a","target":{}}`:                                             `target.host ""`,
		`{"nx":1,"name":"a","target":{"host":"-oProxyCommand=evil"}}`:                 `must not be empty or start with '-'`,
		`{"nx":1,"name":"a","target":{"host":"h","previous":{"host":"a b"}}}`:         `target.previous`,
		`{"nx":1,"name":"a","target":{"host":"h","hostKeys":["ssh-ed25519 A\nb c"]}}`: `target.hostKeys`,
	} {
		if _, err := parse(t, line).Target(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", line, err, want)
		}
	}
}

func equal(a, b target.Target) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

func TestPaths(t *testing.T) {
	r := parse(t, `{"nx":1,"name":"a","drvPath":"/nix/store/3zl0pzyi9yqrimhdpcp5cp4ng2wxk6q9-x","storePath":7}`)
	if _, err := r.DrvPath(); err == nil || !strings.Contains(err.Error(), `"drvPath": store path`) {
		t.Errorf("DrvPath: %v", err)
	}
	if _, err := r.StorePath(); err == nil || !strings.Contains(err.Error(), `"storePath" is 7`) {
		t.Errorf("StorePath: %v", err)
	}
	for _, tt := range []struct {
		missing func(*Record) error
		want    string
	}{
		{func(r *Record) error { _, err := r.Target(); return err }, "nx-provision or nx-eval adds it"},
		{func(r *Record) error { _, err := r.DrvPath(); return err }, "nx-eval adds it"},
		{func(r *Record) error { _, err := r.StorePath(); return err }, "nx-build adds it"},
	} {
		var hinted interface{ Hint() string }
		if err := tt.missing(parse(t, `{"nx":1,"name":"a"}`)); !errors.As(err, &hinted) || !strings.HasPrefix(hinted.Hint(), tt.want) {
			t.Errorf("%v: want a hint with %q", err, tt.want)
		}
	}
	r.Delete("storePath")
	if _, err := r.StorePath(); err == nil || !strings.Contains(err.Error(), `no "storePath"`) {
		t.Errorf("StorePath: %v", err)
	}
}

func TestNewRefusesNames(t *testing.T) {
	if _, err := NewHost("a b"); err == nil {
		t.Error("a host with a blank in its name was made")
	}
	r, err := NewHost("web1")
	if want := `{"nx":1,"kind":"host","name":"web1"}`; err != nil || string(r.Bytes()) != want {
		t.Errorf("got %s, %v, want %s", r.Bytes(), err, want)
	}
}

// The README's examples are the golden streams of version 1, which later
// versions of nx must go on reading: the files are never edited.
func TestREADME(t *testing.T) {
	const dir = "../../"
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(dir + "testdata/record/v1/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden streams: %v, %v", files, err)
	}
	blocks := regexp.MustCompile("(?s)```jsonl (\\S+)\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	for _, b := range blocks {
		data, err := os.ReadFile(dir + b[1])
		if err != nil || string(data) != b[2] {
			t.Errorf("README's example %s is not the file (%v)", b[1], err)
		}
		files = slices.DeleteFunc(files, func(f string) bool { return f == dir+b[1] })
		for line := range strings.Lines(b[2]) {
			r := parse(t, strings.TrimSuffix(line, "\n"))
			if r.Kind() != KindHost || !r.Get("kind").Exists() {
				continue
			}
			r.changed() // into the order in which nx writes
			if got := string(r.Bytes()) + "\n"; got != line {
				t.Errorf("%s: nx writes\n%snot\n%s", b[1], got, line)
			}
		}
	}
	if len(files) > 0 {
		t.Errorf("README does not show %v", files)
	}
	for _, key := range order {
		if !strings.Contains(string(text), "| `"+key+"` |") {
			t.Errorf("README does not document %q", key)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("../../testdata/record/v1/*.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			f.Add([]byte(strings.TrimSuffix(line, "\n")))
		}
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := Parse(line)
		if err != nil {
			return
		}
		if !json.Valid(line) {
			t.Fatalf("encoding/json refuses %q", line)
		}
		if string(r.Bytes()) != string(line) {
			t.Fatalf("untouched: %q became %q", line, r.Bytes())
		}
		// What nx writes after a change reads back, and writing it again changes nothing.
		r.Reset(Eval)
		r.Fail(Eval, errors.New("no"))
		once := string(r.Bytes())
		again, err := Parse([]byte(once))
		if len(once) > MaxLine {
			return
		}
		if err != nil {
			t.Fatalf("what was written does not read back: %v: %q", err, once)
		}
		again.Reset(Eval)
		again.Fail(Eval, errors.New("no"))
		if twice := string(again.Bytes()); once != twice {
			t.Fatalf("%q\nbecame %q", once, twice)
		}
	})
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext é\n":                       "plain\ttext é\n",
		"\x1b[1;31mred\x1b[0m":                  "red",
		"\x1b]52;c;aGVsbG8=\aclipboard":         "clipboard",
		"\x1b]0;title\x1b\\rest":                "rest",
		"a\x07b\x7fc\u009bd\x1b":                `a\x07b\x7fc\x9bd\x1b`,
		"one\r\ntwo\rthree":                     "one\ntwo\nthree",
		"\xff":                                  "\uFFFD",
		"forged\x1b[2K\x1b[1Gnx-copy: done\x00": `forgednx-copy: done\x00`,
	} {
		if got := Printable(in); got != want {
			t.Errorf("Printable(%q)\n got %q\nwant %q", in, got, want)
		}
	}
	if got, want := OneLine("build it:\x1b[1m\r\n  no\x07\n"), `build it:; no\x07`; got != want {
		t.Errorf("OneLine: %q, want %q", got, want)
	}
}
