package digitalocean

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/digitalocean/godo"
	"golang.org/x/crypto/ssh"

	"nx/pkg/provision"
)

// KeyType is the type of public keys in an account, which machines are made with. A
// network does not define them: [Provider.Complete] does, one for each key pair.
const KeyType = "digitalOceanSSHKeys"

// keyOptions are what [Provider.Complete] says of one.
type keyOptions struct {
	AuthToken string              `json:"authToken"`
	KeyPair   provision.Reference `json:"keyPair"`
}

// keyOutputs are what is known of one.
type keyOutputs struct {
	Fingerprint string `json:"fingerprint"`
	Adopted     bool   `json:"adopted,omitempty"` // it was there before, and is to stay
}

// Keys returns the maker of [KeyType].
func (p *Provider) Keys() provision.Maker { return &keys{p} }

type keys struct{ p *Provider }

func (m *keys) options(t provision.Thing) (*client, keyOptions, error) {
	var o keyOptions
	if err := t.DecodeResource(&o); err != nil {
		return nil, o, err
	}
	c, err := m.p.client(t, o.AuthToken)
	return c, o, err
}

// Properties returns the public key, once there is one.
func (m *keys) Properties(t provision.Thing) ([]provision.Property, error) {
	var o keyOptions
	if err := t.DecodeResource(&o); err != nil {
		return nil, err
	}
	public, _ := publicKey(o.KeyPair) // not known before the key pair is made
	return []provision.Property{{Name: "publicKey", Value: bare(public)}}, nil
}

// Effect says that a key is what it is.
func (m *keys) Effect(string, json.RawMessage, json.RawMessage) provision.Effect {
	return provision.Replaces
}

// bare is a public key without its comment.
func bare(public string) string {
	words := strings.Fields(public)
	return strings.Join(words[:min(2, len(words))], " ")
}

// publicKey is what a key pair lets in.
func publicKey(r provision.Reference) (string, error) {
	var outputs struct {
		PublicKey string `json:"publicKey"`
	}
	if err := json.Unmarshal(r.Outputs, &outputs); err != nil || outputs.PublicKey == "" {
		return "", fmt.Errorf("read key pair %s: it has no publicKey", r.Ref())
	}
	return outputs.PublicKey, nil
}

// Create adds a key to the account, or takes the one that is there: an account has no
// key twice. The token in its name tells whose it is.
func (m *keys) Create(ctx context.Context, w *provision.Work) (provision.Facts, error) {
	c, o, err := m.options(w.Thing)
	if err != nil {
		return provision.Facts{}, notMade{err}
	}
	public, err := publicKey(o.KeyPair)
	if err != nil {
		return provision.Facts{}, notMade{err}
	}
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		return provision.Facts{}, notMade{fmt.Errorf("read public key %q: %w", public, err)}
	}
	fingerprint := ssh.FingerprintLegacyMD5(parsed) // what the API calls one
	found, _, err := c.api.Keys.GetByFingerprint(ctx, fingerprint)
	if err != nil && status(err) != http.StatusNotFound {
		return provision.Facts{}, notMade{c.explain(err, "find ssh key %s", w.Name)}
	}
	if err != nil {
		var refused error
		found, _, refused = c.api.Keys.Create(ctx, &godo.KeyCreateRequest{Name: keyName(w.Known), PublicKey: public})
		if err = refused; status(err) == http.StatusUnprocessableEntity {
			// It is there after all: the request was made twice, or another one made it.
			if found, _, err = c.api.Keys.GetByFingerprint(ctx, fingerprint); err != nil {
				err = refused
			}
		}
	}
	if err != nil {
		said := c.explain(err, "add ssh key %s", w.Name)
		if !unknown(err) {
			said = notMade{said}
		}
		return provision.Facts{}, said
	}
	return keyFacts(found, keyOutputs{fingerprint, found.Name != keyName(w.Known)})
}

func keyName(k provision.Known) string { return k.Name + " " + k.Token }

func keyFacts(k *godo.Key, o keyOutputs) (provision.Facts, error) {
	outputs, err := json.Marshal(o)
	if err != nil {
		return provision.Facts{}, fmt.Errorf("describe ssh key %d: %w", k.ID, err)
	}
	return provision.Facts{
		ID: strconv.Itoa(k.ID), State: provision.Up, Outputs: outputs,
		Properties: map[string]any{"publicKey": bare(k.PublicKey)},
	}, nil
}

// Update has nothing to do: no property of a key can change.
func (m *keys) Update(_ context.Context, w *provision.Work, _ []provision.Difference) (provision.Facts, error) {
	return provision.Facts{ID: w.ID, State: provision.Up}, nil
}

// Read lists the account's keys.
func (m *keys) Read(ctx context.Context, known []provision.Known, tell func(int, provision.Facts, error)) {
	lists := map[*client][]godo.Key{}
	for i, k := range known {
		c, _, err := m.options(k.Thing)
		if err != nil {
			tell(i, provision.Facts{}, err)
			continue
		}
		list, ok := lists[c]
		if !ok {
			if list, err = c.listKeys(ctx); err != nil {
				tell(i, provision.Facts{}, err)
				continue
			}
			lists[c] = list
		}
		found := findKey(list, k)
		if found == nil {
			tell(i, provision.Facts{State: provision.Missing}, nil)
			continue
		}
		var o keyOutputs
		_ = json.Unmarshal(k.Outputs, &o) // what has another form is not known
		f, err := keyFacts(found, keyOutputs{found.Fingerprint, o.Adopted})
		tell(i, f, err)
	}
}

func (c *client) listKeys(ctx context.Context) ([]godo.Key, error) {
	list, err := all(func(o *godo.ListOptions) ([]godo.Key, *godo.Response, error) { return c.api.Keys.List(ctx, o) })
	if err != nil {
		return nil, c.explain(err, "list ssh keys")
	}
	return list, nil
}

// Destroy removes a key that was added, and leaves one that was there before.
func (m *keys) Destroy(ctx context.Context, k provision.Known) error {
	var o keyOutputs
	_ = json.Unmarshal(k.Outputs, &o) // what has another form is not known
	if o.Adopted {
		return nil
	}
	c, _, err := m.options(k.Thing)
	if err != nil {
		return err
	}
	id := k.ID
	if id == "" {
		list, err := c.listKeys(ctx)
		if err != nil {
			return err
		}
		found := findKey(list, k)
		if found == nil {
			return nil
		}
		id = strconv.Itoa(found.ID)
	}
	n, err := strconv.Atoi(id)
	if err != nil {
		return fmt.Errorf("remove ssh key %q: its id is no number", id)
	}
	if _, err := c.api.Keys.DeleteByID(ctx, n); err != nil && status(err) != http.StatusNotFound {
		return c.explain(err, "remove ssh key %s", strings.TrimSpace(k.Name+" "+id))
	}
	return nil
}

// findKey returns what is known by its id, or by its name where that has the token.
func findKey(list []godo.Key, k provision.Known) *godo.Key {
	for i, key := range list {
		if strconv.Itoa(key.ID) == k.ID || k.ID == "" && key.Name == keyName(k) {
			return &list[i]
		}
	}
	return nil
}
