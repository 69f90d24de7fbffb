package exec

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"nx/pkg/provision"
)

// The README's answers are answers.
func TestReadmeAnswers(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(ReadmeBlock(t, "json answer")), "\n")
	for _, line := range lines {
		a, err := parse([]byte(line))
		if err == nil && a.Message == nil && a.Error == nil {
			_, err = a.facts(host, func(string) bool { return true })
		}
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if len(lines) < 8 {
		t.Errorf("there are %d examples", len(lines))
	}
}

// ReadmeBlock is the code of README.md behind ```INFO.
func ReadmeBlock(t *testing.T, info string) string {
	t.Helper()
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n```"+info+"\n")
	text, _, ok2 := strings.Cut(text, "\n```\n")
	if !ok || !ok2 {
		t.Fatalf("README.md has no %s", info)
	}
	return text + "\n"
}

// Whatever a program writes is facts that hold together, or an error of one line.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte("{\"remember\":{\"id\":\"1\"}}\n{\"message\":\"x\\ny\"}\n\n{\"id\":\"1\",\"state\":\"up\",\"target\":{\"host\":\"h\"}}"), "create")
	f.Add([]byte(`{"error":"a\nb","hint":"\u0007","made":false}`), "create")
	f.Add([]byte(`{"state":"stopped","outputs":{"a":{"b":1,"b":2}},"properties":{"size":1e999}}`), "read")
	f.Add([]byte("{\"id\":\"\\u0000\"}\n[]\n{}\xff"), "update")
	f.Fuzz(func(t *testing.T, written []byte, op string) {
		r := request{Op: op, Kind: host}
		oneLine := func(err error) {
			if text := err.Error(); text == "" || strings.ContainsAny(text, "\r\n") {
				t.Errorf("%q is not one line", text)
			}
		}
		l := &lines{each: func(line []byte) error {
			a, err := parse(line)
			if err != nil {
				oneLine(err)
				return nil
			}
			if a.Error != nil {
				oneLine(a.failure())
				return nil
			}
			facts, err := a.result(r, func(name string) bool { return name != "command" })
			if err != nil {
				oneLine(err)
				return nil
			}
			check(t, facts)
			return nil
		}}
		// In two pieces, wherever they are cut.
		half := len(written) / 2
		for _, p := range [][]byte{written[:half], written[half:]} {
			if n, err := l.Write(p); n != len(p) || err != nil {
				t.Fatalf("wrote %d of %d bytes: %v", n, len(p), err)
			}
		}
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
	})
}

func check(t *testing.T, f provision.Facts) {
	var outputs map[string]json.RawMessage
	if err := json.Unmarshal(f.Outputs, &outputs); f.Outputs != nil && err != nil {
		t.Errorf("outputs are %s: %v", f.Outputs, err)
	}
	if _, err := json.Marshal(f.Properties); err != nil {
		t.Error(err)
	}
	if f.Target.Host != "" && f.Target.Validate() != nil {
		t.Errorf("target is %+v", f.Target)
	}
	if f.State == "" {
		t.Error("it has no state")
	}
}
