package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"filippo.io/age"
	"github.com/google/renameio/v2"
)

// A Bundle has the contents of keys that are in a network, by hosts and keys' IDs, for
// who brings them to hosts without the network. In its file it is encrypted by age.
type Bundle map[string]map[string]string

// bundleVersion is what a bundle begins with: {"nx":1,"texts":{"web":{"token":"…"}}}.
const bundleVersion = 1

type bundleFile struct {
	NX    int    `json:"nx"`
	Texts Bundle `json:"texts"`
}

// Write encrypts the bundle for recipients, and puts it in the place of file at once.
func (b Bundle) Write(file string, recipients []age.Recipient) error {
	var encrypted bytes.Buffer
	w, err := age.Encrypt(&encrypted, recipients...)
	if err == nil {
		err = json.NewEncoder(w).Encode(bundleFile{bundleVersion, b})
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = renameio.WriteFile(file, encrypted.Bytes(), 0o600, renameio.WithTempDir(filepath.Dir(file)))
	}
	if err != nil {
		return fmt.Errorf("write bundle of keys: %w", err)
	}
	return nil
}

// ReadBundle reads what [Bundle.Write] wrote.
func ReadBundle(file string, identities []age.Identity) (Bundle, error) {
	encrypted, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read bundle of keys: %w", err)
	}
	text, err := decrypt(encrypted, identities)
	var b Bundle
	if err == nil {
		b, err = parseBundle(text)
	}
	if err != nil {
		return nil, fmt.Errorf("read bundle of keys %s: %w", file, err)
	}
	return b, nil
}

// parseBundle reads a bundle's text. What is wrong with it is not in the error, as
// it may be a key's contents.
func parseBundle(text []byte) (Bundle, error) {
	var f bundleFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, errors.New("it is no bundle of keys")
	}
	if f.NX != bundleVersion {
		return nil, fmt.Errorf("it is of version %d, and this nx reads version %d", f.NX, bundleVersion)
	}
	return f.Texts, nil
}

// Of returns the texts of a host.
func (b Bundle) Of(host string) (map[string]string, error) {
	texts, ok := b[host]
	if !ok {
		return nil, &hinted{errors.New("the bundle of keys has nothing of this host"), "it is of another stream: write it with the same nx-eval as the records"}
	}
	return texts, nil
}
