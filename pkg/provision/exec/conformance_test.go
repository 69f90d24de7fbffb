package exec_test

import (
	"encoding/json"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nx/pkg/provision"
	"nx/pkg/provision/conformance"
	"nx/pkg/provision/exec"
	"nx/pkg/state"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, func(t *testing.T) conformance.World {
		needJQ(t)
		return &world{t: t, dir: t.TempDir()}
	})
}

func needJQ(t *testing.T) {
	t.Helper()
	if _, err := osexec.LookPath("jq"); err != nil {
		t.Skipf("SKIPPED, needs jq: %v", err)
	}
}

// A world is a folder that cloud.sh, the README's example, has for a cloud.
type world struct {
	t    *testing.T
	dir  string
	slow bool
}

func (w *world) Traits() conformance.Traits {
	return conformance.Traits{Type: state.Machines, Provider: exec.Env, Costly: true, Lacks: map[conformance.Trait]string{
		conformance.RateLimit: "to wait is the program's affair",
	}}
}

func (w *world) Maker(l *conformance.Line) provision.Maker {
	return (&exec.Provider{Root: "testdata"}).Through(func(run func() error) error {
		return l.Ask(func() error {
			if w.slow {
				<-time.After(time.Hour) // of a bubble
			}
			return run()
		})
	})
}

func (w *world) Others(*conformance.Line) map[string]provision.Maker { return nil }

func (w *world) Things(v conformance.Variant, names ...string) []provision.Thing {
	options := map[string]any{"command": []string{"./cloud.sh", w.dir}, "replaceOn": []string{"region"}, "size": "small", "region": "here"}
	switch v {
	case conformance.Changed:
		options["size"] = "big"
	case conformance.Replaced:
		options["region"] = "there"
	case conformance.Misspelt:
		options["replaceOn"] = []string{"regoin"}
	}
	return things(w.t, state.Machines, options, names...)
}

// things are those of a network, with the same options each.
func things(t *testing.T, typ string, options any, names ...string) []provision.Thing {
	t.Helper()
	if typ == state.Machines {
		options = map[string]any{"targetEnv": exec.Env, exec.Env: options}
	}
	config, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	var all []provision.Thing
	for _, name := range names {
		all = append(all, provision.Thing{Ref: provision.Ref{Type: typ, Name: name}, Provider: exec.Env, Config: config})
	}
	return all
}

func (w *world) Count() int {
	files, err := filepath.Glob(filepath.Join(w.dir, "*.json"))
	if err != nil {
		w.t.Fatal(err)
	}
	return len(files)
}

func (w *world) Misbehave(f conformance.Fault) (string, bool) {
	for file, text := range map[string]string{"locked": "who are you?", "quota": "0"} {
		is := map[conformance.Fault]string{conformance.Unauthorised: "locked", conformance.Quota: "quota"}[f] == file
		err := os.RemoveAll(filepath.Join(w.dir, file))
		if is {
			err = os.WriteFile(filepath.Join(w.dir, file), []byte(text), 0o600)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	w.slow = f == conformance.Slow
	switch f {
	case conformance.Unauthorised:
		return "401: who are you?", true
	case conformance.Quota:
		return "the quota of 0 is used up", true
	}
	return "", f != conformance.RateLimit
}

func (w *world) file(id string) string { return filepath.Join(w.dir, id+".json") }

func (w *world) Remove(id string) bool {
	if err := os.Remove(w.file(id)); err != nil {
		w.t.Fatal(err)
	}
	return true
}

func (w *world) Tamper(id string) (string, bool) {
	var machine map[string]any
	b, err := os.ReadFile(w.file(id))
	if err == nil {
		err = json.Unmarshal(b, &machine)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	machine["properties"].(map[string]any)["size"] = "huge"
	if b, err = json.Marshal(machine); err == nil {
		err = os.WriteFile(w.file(id), b, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return "size", true
}

// killer is jq, mv or rm, until it is the one at which the program is killed.
const killer = `#!/bin/sh
n=$(($(cat "$NXTEST_STEPS") + 1))
echo $n >"$NXTEST_STEPS"
[ "$n $NXTEST_KILL" != "$n $n before" ] || kill -9 0
PATH=$NXTEST_PATH ${0##*/} "$@"
status=$?
[ "$n $NXTEST_KILL" != "$n $n after" ] || kill -9 0
exit $status
`

// The program is killed at each of its steps while nx lives, and asked again.
func TestKilledProgram(t *testing.T) {
	needJQ(t)
	bin := t.TempDir()
	for _, name := range []string{"jq", "mv", "rm"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(killer), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	steps := filepath.Join(bin, "steps")
	t.Setenv("NXTEST_STEPS", steps)
	t.Setenv("NXTEST_PATH", os.Getenv("PATH"))
	t.Setenv("NXTEST_KILL", "0 never")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	p := &exec.Provider{Root: "testdata"}
	remember := func(provision.Facts) error { return nil }
	for _, op := range []string{"create", "update", "destroy"} {
		for _, when := range []string{"before", "after"} {
			killed := true
			for at := 1; killed; at++ {
				t.Run(fmt.Sprintf("%s killed %s step %d", op, when, at), func(t *testing.T) {
					w := &world{t: t, dir: t.TempDir()}
					k := provision.Known{Thing: w.Things(conformance.First, "web")[0], Token: "nx-1"}
					make := func(again bool) error {
						f, err := p.Create(t.Context(), &provision.Work{Known: k, Again: again, Remember: remember})
						k.ID = f.ID
						return err
					}
					do, want := func() error { return make(true) }, 1
					switch op {
					case "update":
						do = func() error {
							_, err := p.Update(t.Context(), &provision.Work{Known: k, Want: map[string]json.RawMessage{"size": json.RawMessage(`"big"`)}, Remember: remember}, nil)
							return err
						}
					case "destroy":
						do, want = func() error { return p.Destroy(t.Context(), k) }, 0
					}
					arm := func(kill string) {
						t.Setenv("NXTEST_KILL", kill)
						if err := os.WriteFile(steps, []byte("0\n"), 0o600); err != nil {
							t.Fatal(err)
						}
					}
					arm("0 never")
					if op != "create" {
						if err := make(false); err != nil {
							t.Fatal(err)
						}
					}
					arm(fmt.Sprint(at, " ", when))
					err := do()
					killed = err != nil
					if killed && !strings.HasSuffix(err.Error(), "signal: killed") {
						t.Errorf("killed: %v", err)
					}
					arm("0 never")
					if err := do(); err != nil {
						t.Errorf("again: %v", err)
					}
					if n := w.Count(); n != want {
						t.Errorf("there are %d, want %d", n, want)
					}
				})
			}
		}
	}
}
