package keypair_test

import (
	"encoding/json"
	"testing"

	"nx/pkg/provision"
	"nx/pkg/provision/conformance"
	"nx/pkg/provision/keypair"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, func(*testing.T) conformance.World { return world{} })
}

// A world of key pairs is the state alone.
type world struct{}

func (world) Traits() conformance.Traits {
	const nobody = "nobody is asked"
	return conformance.Traits{Type: keypair.Type, Provider: keypair.Type, Lacks: map[conformance.Trait]string{
		conformance.Outside:      "it is in the state",
		conformance.Questions:    nobody,
		conformance.Drift:        nobody,
		conformance.Changed:      "a key pair is one as well as another",
		conformance.Replaced:     "a key pair is one as well as another",
		conformance.Unauthorised: nobody,
		conformance.Quota:        nobody,
		conformance.RateLimit:    nobody,
		conformance.Slow:         nobody,
	}}
}

func (world) Maker(*conformance.Line) provision.Maker { return keypair.Provider{} }

func (world) Others(*conformance.Line) map[string]provision.Maker { return nil }

func (world) Things(v conformance.Variant, names ...string) []provision.Thing {
	options, ok := map[conformance.Variant]string{
		conformance.First:    `{"name":"admin"}`,
		conformance.Misspelt: `{"nmae":"admin"}`,
	}[v]
	if !ok {
		return nil
	}
	var all []provision.Thing
	for _, name := range names {
		all = append(all, provision.Thing{Ref: provision.Ref{Type: keypair.Type, Name: name}, Provider: keypair.Type, Config: json.RawMessage(options)})
	}
	return all
}

func (world) Count() int { return 0 }

func (world) Misbehave(conformance.Fault) (string, bool) { return "", false }

func (world) Remove(string) bool { return false }

func (world) Tamper(string) (string, bool) { return "", false }
