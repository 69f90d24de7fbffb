package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nx/pkg/inputs"
	"nx/pkg/record"
)

// notMine are the files of nixpkgs and nx in the recorded traces.
func notMine(file string) bool {
	return !filepath.IsAbs(file) || inputs.Below(file, "/nixpkgs") || inputs.Below(file, "/nx")
}

func recorded(t testing.TB, name string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/errors", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

func TestParseError(t *testing.T) {
	lines := func(s string) []string { return strings.Split(s, "\n") }
	tests := []struct {
		name    string
		lines   []string
		message string
		at      string
		log     []string // in it, in this order
	}{
		{
			name: "a throw, Nix 2.8", lines: recorded(t, "throw-2.8"),
			message: "not like this nor like that", at: "/net/broken.nix",
			log: []string{"error: not like this\nnor like that\n", "… while evaluating definitions from `/net/broken.nix':\n", "… while evaluating the option `networking.hostName':\n"},
		},
		{
			name: "a throw, Nix 2.26", lines: recorded(t, "throw-2.26"),
			message: "not like this nor like that", at: "/net/broken.nix:14:35",
			log: []string{"error: not like this\nnor like that\n", "… while calling the 'throw' builtin\n  at /net/broken.nix:14:35\n… while"},
		},
		{
			name: "an option that is not there, Nix 2.8", lines: recorded(t, "option-2.8"),
			message: "The option `services.nothingKnown' does not exist. Definition values: - In `/net/broken.nix': { enable = true; } Did you mean `services.nginx', `services.fail2ban' or `services.fstrim'?",
		},
		{
			name: "an option that is not there, Nix 2.26", lines: recorded(t, "option-2.26"),
			message: "The option `services.nothingKnown' does not exist. Definition values: - In `/net/broken.nix': { enable = true; } Did you mean `services.nginx', `services.fail2ban' or `services.fstrim'?",
		},
		{
			name: "a message with its own place, Nix 2.8", message: "attribute 'missing' missing", at: "/net/a.nix:2:2",
			lines: lines("error: attribute 'missing' missing\n\n       at /net/a.nix:2:2:\n\n            1| { x = let y = {}; in\n            2|  y.missing; }\n             |  ^\n\n       … while evaluating the attribute 'x'\n\n       at /net/a.nix:1:3:\n(use '--show-trace' to show detailed location information)"),
			log:   []string{"error: attribute 'missing' missing\n  at /net/a.nix:2:2\n… while evaluating the attribute 'x'\n  at /net/a.nix:1:3\n"},
		},
		{
			name: "a message with its own place, Nix 2.26", message: "undefined variable 'x'", at: "/net/a.nix:1:7",
			lines: lines("error:\n       … while calling the 'foldl'' builtin\n         at /nx/main.nix:1:1:\n            1| builtins.foldl'\n             | ^\n\n       error: undefined variable 'x'\n       at /net/a.nix:1:7:\n            1| { x = x; }\n             |       ^"),
			log:   []string{"error: undefined variable 'x'\n  at /net/a.nix:1:7\n"},
		},
		{
			name: "no trace at all", message: "stack overflow (possible infinite recursion)",
			lines: lines("error: stack overflow (possible infinite recursion)"),
		},
		{
			name: "a place in nixpkgs is none of the user's", message: "nothing", at: "",
			lines: lines("error: nothing\n\n       at /nixpkgs/lib/a.nix:1:1:"),
		},
		{name: "nothing at all", message: "Nix gave no reason", lines: lines("error:")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := parseError(tt.lines, notMine)
			if e.Message != tt.message || e.Position != tt.at {
				t.Errorf("got %q at %q\nwant %q at %q", e.Message, e.Position, tt.message, tt.at)
			}
			rest := e.own
			for _, want := range tt.log {
				_, after, ok := strings.Cut(rest, want)
				if !ok {
					t.Errorf("the user's part has no %q, or not in order:\n%s", want, e.own)
				}
				rest = after
			}
			if strings.Contains(e.own, "/nx/") {
				t.Errorf("the user's part shows where nx's own files are:\n%s", e.own)
			}
			steps := strings.Count(strings.Join(tt.lines, "\n"), "… ")
			if got := strings.Count(e.Log(), "… "); got != steps || strings.Contains(e.Log(), " | ") {
				t.Errorf("the log has %d of %d steps, or lines of source:\n%s", got, steps, e.Log())
			}
		})
	}
}

// A trace that no record has room for keeps its ends.
func TestLongTrace(t *testing.T) {
	lines := []string{"error: too deep"}
	for i := range 1500 {
		lines = append(lines, "", fmt.Sprintf("       … while evaluating 'step %d' %s", i, strings.Repeat("x", 100)), "", "       at /net/a.nix:1:7:")
	}
	log := parseError(lines, notMine).Log()
	if len(log) > record.MaxLog || len(log) < record.MaxLog-1000 ||
		!strings.HasPrefix(log, "error: too deep\n… while evaluating 'step 0' ") || !strings.HasSuffix(log, "x\n  at /net/a.nix:1:7\n") ||
		!strings.Contains(log, "'step 1499'") || strings.Count(log, "\n…\n") != 1 {
		t.Errorf("%d bytes:\n%.300s\n[…]\n%s", len(log), log, log[len(log)-300:])
	}
}

// Values, and lines of source, may be a key's text.
func TestErrorsHaveNoValues(t *testing.T) {
	for line, want := range map[string]string{
		`error: string '"hunter2"' is not equal to string '"it's hunter2"'`:                                                                        "string is not equal to string",
		`error: attribute names of attribute set '{ hunter2 = 1; }' differs from attribute set '{ }'`:                                              "attribute names of attribute set differs from attribute set",
		`error: assertion '((config.x == "hunter\"2") && ("hunter2" != y))' failed`:                                                                `assertion '((config.x == "…") && ("…" != y))' failed`,
		`error: [json.exception.parse_error.101] parse error at line 1, column 7: syntax error while parsing value - x; last read: '"a": hunter2'`: "[json.exception.parse_error.101] parse error at line 1, column 7: syntax error while parsing value - x",
		"error: while parsing TOML: [error] bad format: unknown value appeared\n        --> fromTOML\n          |\n        1 | a = hunter2":        "while parsing TOML: [error] bad format: unknown value appeared",
		"error: cannot coerce a set to a string: { a = \"hunter2\"; }":                                                                             "cannot coerce a set to a string",
		"error: expected a set but found a string: \"hunter2\"":                                                                                    "expected a set but found a string",
	} {
		e := parseError(strings.Split(line, "\n"), notMine)
		if e.Message != want || strings.Contains(e.Log(), "hunter") {
			t.Errorf("%s\n got %q, log\n%s\nwant %q", line, e.Message, e.Log(), want)
		}
	}
	e := parseError([]string{"error:", `       … while evaluating the condition of the assertion '("hunter2" == "b")'`, "         at /net/a.nix:1:1:", "", "       error: no"}, notMine)
	if strings.Contains(e.Log(), "hunter") {
		t.Errorf("a step shows a value:\n%s", e.Log())
	}
}

func TestHints(t *testing.T) {
	for line, want := range map[string]string{
		"error: anonymous function at /net/a.nix:1:1 called without required argument 'region'": "--arg region EXPR",
		"error: networking.privateIPv4 of db is not known":                                      "run nx-provision first",
		"error: resources.elasticIPs.ip.address is not known":                                   "run nx-provision first",
		"error: The option `networking.hostId' is used but not defined.":                        "",
	} {
		e := parseError([]string{line}, notMine)
		if got := e.Hint(); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: hint %q, want %q", line, got, want)
		}
		if strings.HasSuffix(e.Message, ".") {
			t.Errorf("message %q ends in a full stop", e.Message)
		}
	}
}

func FuzzParseError(f *testing.F) {
	for _, name := range []string{"throw-2.8", "throw-2.26", "option-2.8", "option-2.26"} {
		f.Add(strings.Join(recorded(f, name), "\n"))
	}
	f.Fuzz(func(t *testing.T, text string) {
		e := parseError(strings.Split(text, "\n"), notMine)
		if e.Message == "" || strings.Contains(e.Message, "\n") {
			t.Errorf("message %q: want one line", e.Message)
		}
		if e.Position != "" && !strings.Contains(text, e.Position) {
			t.Errorf("position %q is not in the text", e.Position)
		}
	})
}
