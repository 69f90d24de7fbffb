package sandbox_test

import (
	"context"
	"encoding/json"
	"os"
	"testing"

	"nx/pkg/provision"
	"nx/pkg/provision/conformance"
	"nx/pkg/provision/sandbox"
	"nx/pkg/state"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, func(t *testing.T) conformance.World { return &world{t, newRoot(t)} })
}

// A world of sandboxes is a folder with their disks, and what runs from them.
type world struct {
	t    *testing.T
	root string
}

func (*world) Traits() conformance.Traits {
	const nobody = "nobody is asked"
	return conformance.Traits{Type: state.Machines, Provider: "sandbox", RealTime: true, Costly: true, Lacks: map[conformance.Trait]string{
		conformance.Questions:    nobody,
		conformance.Drift:        "options count when a host starts, and cannot be seen",
		conformance.Replaced:     "options count when a host starts",
		conformance.Unauthorised: nobody,
		conformance.Quota:        nobody,
		conformance.RateLimit:    nobody,
		conformance.Slow:         nobody,
	}}
}

func (w *world) Maker(*conformance.Line) provision.Maker { return &sandbox.Provider{Root: w.root} }

func (*world) Others(*conformance.Line) map[string]provision.Maker { return nil }

func (*world) Things(v conformance.Variant, names ...string) []provision.Thing {
	options, ok := map[conformance.Variant]string{
		conformance.First:    `{}`,
		conformance.Changed:  `{"nix":"/usr"}`,
		conformance.Misspelt: `{"nxi":"/usr"}`,
	}[v]
	if !ok {
		return nil
	}
	var all []provision.Thing
	for _, name := range names {
		all = append(all, provision.Thing{Ref: provision.Ref{Type: state.Machines, Name: name}, Provider: "sandbox",
			Config: json.RawMessage(`{"targetEnv":"sandbox","sandbox":` + options + `}`)})
	}
	return all
}

func (w *world) Count() int {
	n := 0
	hosts, err := os.ReadDir(lab(w.root).Dir)
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	for _, h := range hosts {
		if h.IsDir() {
			n++
		}
	}
	return n
}

func (*world) Misbehave(conformance.Fault) (string, bool) { return "", false }

func (w *world) Remove(id string) bool {
	if err := lab(w.root).RemoveHost(context.Background(), id); err != nil {
		w.t.Fatal(err)
	}
	return true
}

func (*world) Tamper(string) (string, bool) { return "", false }
