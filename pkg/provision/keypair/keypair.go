// Package keypair makes resources.sshKeyPairs: ed25519 key pairs to log in to machines
// with. The private half is a secret of the state, and nowhere in a record.
package keypair

import (
	"context"
	"encoding/json"
	"fmt"

	"nx/pkg/provision"
)

// Type is that of the resources.
const Type = "sshKeyPairs"

// A Provider makes key pairs. It asks nobody.
type Provider struct{}

// Properties returns none: a key pair is one as well as another.
func (Provider) Properties(t provision.Thing) ([]provision.Property, error) {
	var o struct {
		Name string `json:"name"`
	}
	return nil, t.DecodeResource(&o)
}

// Effect is not asked for.
func (Provider) Effect(string, json.RawMessage, json.RawMessage) provision.Effect {
	return provision.InPlace
}

// Create makes a key pair. Its outputs are {"publicKey": "ssh-ed25519 AAAA… NAME"}.
func (Provider) Create(_ context.Context, w *provision.Work) (provision.Facts, error) {
	private, err := provision.NewPrivateKey(w.Name)
	if err != nil {
		return provision.Facts{}, fmt.Errorf("%w: %w", provision.ErrNotMade, err)
	}
	public, err := provision.PublicKey(private)
	if err != nil {
		return provision.Facts{}, fmt.Errorf("%w: %w", provision.ErrNotMade, err)
	}
	outputs, err := json.Marshal(map[string]string{"publicKey": public + " " + w.Name})
	return provision.Facts{ID: w.Name, State: provision.Up, Outputs: outputs, Secrets: map[string]string{provision.PrivateKey: private}}, err
}

// Update has nothing to do.
func (Provider) Update(context.Context, *provision.Work, []provision.Difference) (provision.Facts, error) {
	return provision.Facts{}, nil
}

// Read has nobody to ask: what is not remembered is nowhere.
func (Provider) Read(_ context.Context, known []provision.Known, tell func(int, provision.Facts, error)) {
	for i, k := range known {
		f := provision.Facts{State: provision.Up}
		if len(k.Outputs) == 0 {
			f.State = provision.Missing
		}
		tell(i, f, nil)
	}
}

// Destroy has nothing to do: the state forgets the key.
func (Provider) Destroy(context.Context, provision.Known) error { return nil }
