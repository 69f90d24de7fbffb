package exec_test

import (
	"encoding/json"
	"os"
	osexec "os/exec"
	"path/filepath"
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
	return conformance.Traits{Type: state.Machines, Provider: exec.Env, Lacks: map[conformance.Trait]string{
		conformance.RateLimit: "to wait is the program's affair",
	}}
}

func (w *world) Maker(l *conformance.Line) provision.Maker {
	return (&exec.Provider{Root: "testdata"}).Through(func(run func() error) error {
		return l.Ask(func() error {
			if w.slow {
				time.Sleep(time.Hour) // of a bubble
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
