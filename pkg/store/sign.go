package store

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// A SecretKey signs store objects, so that a store that does not trust who sends
// them may trust the signature.
type SecretKey struct {
	name string
	key  ed25519.PrivateKey
}

// ParseSecretKey reads a key as "nix-store --generate-binary-cache-key" writes it: a
// name, a colon, and base 64 of the 64 bytes of an Ed25519 key. The error never
// has any of it.
func ParseSecretKey(text string) (SecretKey, error) {
	name, encoded, ok := strings.Cut(strings.TrimSpace(text), ":")
	if !ok || name == "" || strings.ContainsAny(name, " \t\n") {
		return SecretKey{}, errors.New("it is no secret key of Nix, which is a name, a colon and base 64")
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	switch {
	case err != nil:
		return SecretKey{}, errors.New("what is behind the secret key's name is not base 64")
	case len(key) == ed25519.PublicKeySize:
		return SecretKey{}, errors.New("it is a public key, not a secret one")
	case len(key) != ed25519.PrivateKeySize:
		return SecretKey{}, fmt.Errorf("the secret key has %d bytes, not %d", len(key), ed25519.PrivateKeySize)
	}
	return SecretKey{name, key}, nil
}

// Sign returns the key's signature of what the object is: "name:base64".
func (k SecretKey) Sign(info Info) string {
	return k.name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(k.key, []byte(info.fingerprint())))
}

// fingerprint is what Nix signs of an object (ValidPathInfo::fingerprint in Nix'
// path-info.cc). The references must be sorted.
func (i Info) fingerprint() string {
	refs := make([]string, len(i.References))
	for n, r := range i.References {
		refs[n] = string(r)
	}
	return fmt.Sprintf("1;%s;%s;%d;%s", i.Path, i.NarHash, i.NarSize, strings.Join(refs, ","))
}
