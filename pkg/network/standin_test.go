package network_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"nx/pkg/testhost"
)

const (
	standInDir = "../../testdata/nixpkgs"
	corpusDir  = "../../testdata/corpus"
	// corpusRelease is the release that the committed answers were recorded from.
	corpusRelease = "26.11"
)

// nix is the environment of every Nix command here: root without build users, no
// substituter, no sandbox.
func nixEnv() []string {
	return append(os.Environ(), "NIX_CONFIG=sandbox = false\nbuild-users-group =\nsubstituters =\nexperimental-features = nix-command flakes")
}

// eval evaluates expr against the dummy store, which holds nothing and needs no
// rights, to JSON, or returns what Nix printed as the error.
func eval(expr string) ([]byte, error) {
	cmd := exec.Command("nix-instantiate", "--store", "dummy://", "--eval", "--strict", "--json", "--expr", expr)
	cmd.Env = nixEnv()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// call is the Nix expression that calls a corpus file with what its head asks for,
// out of the nixpkgs tree.
func call(nixpkgs, file string) string {
	return fmt.Sprintf(`
		let
		  case = import %s;
		  all = {
		    lib = import %[2]s/lib;
		    eval = modules: import %[2]s/nixos/lib/eval-config.nix { system = "x86_64-linux"; inherit modules; };
		  };
		in case (builtins.intersectAttrs (builtins.functionArgs case) all)`, file, nixpkgs)
}

// answers evaluates a corpus file with a nixpkgs tree, case by case.
func answers(t *testing.T, nixpkgs, file string) map[string]any {
	t.Helper()
	cases := make(map[string]any)
	if filepath.Base(file) != "messages.nix" {
		decode(t, mustEval(t, call(nixpkgs, file)), &cases)
		return cases
	}
	var names []string
	decode(t, mustEval(t, "builtins.attrNames ("+call(nixpkgs, file)+")"), &names)
	for _, name := range names {
		value, err := eval("(" + call(nixpkgs, file) + ")." + name)
		if err == nil {
			t.Errorf("%s in %s evaluates to %s with %s", name, file, value, nixpkgs)
			continue
		}
		cases[name] = message(err.Error())
	}
	return cases
}

var (
	lastError = regexp.MustCompile(`(?s)^.*(?:^|\n)[^\n]*\berror:(?: |\n)`)
	afterText = regexp.MustCompile(`(?s)(\n\s+at [/«].*|\n\(use '--show-trace'.*)$`)
	margin    = regexp.MustCompile(`\n {7}`)
	lineEnds  = regexp.MustCompile(`[ \t]+\n`)
)

// message is the text of the innermost error in what Nix printed: without traces,
// positions and the margin that Nix puts before every line but the first.
func message(stderr string) string {
	text := afterText.ReplaceAllString(lastError.ReplaceAllString(stderr, ""), "")
	text = lineEnds.ReplaceAllString(margin.ReplaceAllString(text, "\n"), "\n")
	return strings.TrimSpace(text)
}

func mustEval(t *testing.T, expr string) []byte {
	t.Helper()
	out, err := eval(expr)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func decode(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("decode %.200s: %v", data, err)
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// realNixpkgs returns the tree that NXTEST_NIXPKGS names, its symlinks resolved, and
// its release.
func realNixpkgs(t *testing.T) (tree, release string) {
	t.Helper()
	testhost.Need(t, "nixpkgs")
	tree, err := filepath.EvalSymlinks(os.Getenv("NXTEST_NIXPKGS"))
	if err != nil {
		t.Fatal(err)
	}
	decode(t, mustEval(t, "(import "+tree+"/lib).trivial.release"), &release)
	return tree, release
}

// differences compares two sets of answers and returns how many are equal.
func differences(t *testing.T, got, want map[string]any) (equal int) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[name]; !ok {
			t.Errorf("%s: no answer", name)
		} else if !reflect.DeepEqual(g, want[name]) {
			t.Errorf("%s:\n got %v\nwant %v", name, g, want[name])
		} else {
			equal++
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: an answer that nobody recorded", name)
		}
	}
	return equal
}

func corpusFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(absolute(t, corpusDir), "*.nix"))
	if err != nil {
		t.Fatal(err)
	}
	newer, err := filepath.Glob(filepath.Join(absolute(t, corpusDir), corpusRelease, "*.nix"))
	if err != nil {
		t.Fatal(err)
	}
	return append(files, newer...)
}

// The stand-in answers every case of the corpus as the real nixpkgs did when the
// answers were recorded.
func TestStandInAnswersAsRecorded(t *testing.T) {
	testhost.Need(t, "nix")
	standIn := absolute(t, standInDir)
	for _, file := range corpusFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".nix"), func(t *testing.T) {
			recorded, err := os.ReadFile(strings.TrimSuffix(file, "nix") + "json")
			if err != nil {
				t.Fatal(err)
			}
			want := make(map[string]any)
			decode(t, recorded, &want)
			differences(t, answers(t, standIn, file), want)
		})
	}
}

// The stand-in answers every case of the corpus as the nixpkgs that NXTEST_NIXPKGS
// names, whose answers NXTEST_UPDATE=1 records.
func TestStandInAnswersAsNixpkgs(t *testing.T) {
	testhost.Need(t, "nix")
	nixpkgs, release := realNixpkgs(t)
	standIn := absolute(t, standInDir)
	total, equal := 0, 0
	for _, file := range corpusFiles(t) {
		if filepath.Base(filepath.Dir(file)) == corpusRelease && release < corpusRelease {
			continue
		}
		name, err := filepath.Rel(absolute(t, corpusDir), file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			want := answers(t, nixpkgs, file)
			if os.Getenv("NXTEST_UPDATE") == "1" {
				if release < corpusRelease {
					t.Fatalf("record from nixpkgs %s: want %s or newer", release, corpusRelease)
				}
				record(t, strings.TrimSuffix(file, "nix")+"json", want)
			}
			total += len(want)
			equal += differences(t, answers(t, standIn, file), want)
		})
	}
	t.Logf("nixpkgs %s: %d of %d cases equal", release, equal, total)
}

func record(t *testing.T, file string, cases map[string]any) {
	t.Helper()
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(cases); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
