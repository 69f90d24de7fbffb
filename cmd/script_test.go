package cmd_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"nx/pkg/testhost"
)

// TestScripts runs testdata/script/*.txtar, the tools' manual by example, one
// host at a time and eight at a time. What is between "--" lines are files.
// Besides testscript's own, the scripts have these commands:
//
//	status N PROGRAM ARGUMENT...   exec that must end with exit status N
//	hosts FILTER [FILE]            jq's FILTER over the host records of the last stdout, or of FILE, sorted by name
//	derivations FILE               a record with drvPath for each attribute of FILE, a function { sh }: { … };
//	                               sh NAME SCRIPT { … } is a derivation that no run before has built
//
// and the conditions [nix], [root] and [trace], which mean what testhost.Need says.
// $NIXPKGS is the folder of the nixpkgs in NIX_PATH, $CLOUD the example of a program that makes
// machines. NXTEST_UPDATE=1 rewrites the files that cmp finds different.
func TestScripts(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skipf("SKIPPED, needs jq: %v", err)
	}
	update := os.Getenv("NXTEST_UPDATE") != ""
	for _, jobs := range []string{"1", "8"} {
		if update && jobs != "1" {
			continue // both would write the same files
		}
		t.Run("j"+jobs, func(t *testing.T) {
			t.Parallel()
			testscript.Run(t, testscript.Params{
				Dir:                 "../testdata/script",
				WorkdirRoot:         t.TempDir(),
				Setup:               func(env *testscript.Env) error { return setupScript(t, env, jobs) },
				Condition:           has,
				Cmds:                map[string]func(*testscript.TestScript, bool, []string){"status": exitStatus, "hosts": hostRecords, "derivations": derivations},
				UpdateScripts:       update,
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
			})
		})
	}
}

// setupScript gives a script the environment of a user with the tools in PATH.
func setupScript(t *testing.T, env *testscript.Env, jobs string) error {
	for _, e := range environment(t) {
		name, value, _ := strings.Cut(e, "=")
		switch name {
		case "PATH", "NIX_PATH", "NIX_CONFIG":
			env.Setenv(name, value)
		}
	}
	for _, tool := range tools {
		env.Setenv(strings.ToUpper(strings.ReplaceAll(tool.name, "-", "_"))+"_JOBS", jobs)
	}
	env.Setenv("NIXPKGS", strings.TrimPrefix(env.Getenv("NIX_PATH"), "nixpkgs="))
	cloud, err := filepath.Abs("../pkg/provision/exec/testdata/cloud.sh")
	if err != nil {
		return err
	}
	env.Setenv("CLOUD", cloud)
	env.Setenv("HOME", filepath.Join(env.WorkDir, ".home"))
	if missing, _ := testhost.Missing("root"); missing == nil {
		testhost.Reap(t, &testhost.Lab{Dir: filepath.Join(env.WorkDir, ".nx/sandbox"), IdentityFile: filepath.Join(env.WorkDir, ".nx/id_ed25519")})
	}
	return os.Mkdir(env.Getenv("HOME"), 0o700)
}

// has is the scripts' condition.
func has(word string) (bool, error) {
	missing, required := testhost.Missing(word)
	if missing != nil && required {
		return false, fmt.Errorf("[%s]: %w", word, missing)
	}
	return missing == nil, nil
}

func exitStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM ARGUMENT...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = status(exit.ProcessState)
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("status %d, want %d", got, want)
	}
}

func hostRecords(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: hosts FILTER [FILE]")
	}
	file := "stdout"
	if len(args) == 2 {
		file = args[1]
	}
	records := ts.MkAbs(filepath.Join(ts.Getenv("TMPDIR"), "records"))
	ts.Check(os.WriteFile(records, []byte(ts.ReadFile(file)), 0o600))
	ts.Check(ts.Exec("jq", "-rcn", `[inputs | select(.kind == "host")] | sort_by(.name)[] | `+args[0], records))
}

func derivations(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: derivations FILE")
	}
	ts.Check(ts.Exec("nix-instantiate", "--eval", "--strict", "--read-write-mode", "--json",
		"--arg", "file", ts.MkAbs(args[0]), "--argstr", "salt", ts.Getenv("WORK"), "--expr", `
		{ file, salt }:
		let sh = name: script: more: derivation ({
			inherit name salt; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
		} // more);
		in map (name: { nx = 1; inherit name; inherit ((import file { inherit sh; }).${name}) drvPath; })
			(builtins.attrNames (import file { inherit sh; }))`))
	list := ts.ReadFile("stdout")
	file := ts.MkAbs(filepath.Join(ts.Getenv("TMPDIR"), "derivations"))
	ts.Check(os.WriteFile(file, []byte(list), 0o600))
	ts.Check(ts.Exec("jq", "-c", ".[]", file))
}
