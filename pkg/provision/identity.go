package provision

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"nx/pkg/state"
)

// identityDir is where private keys stand in the clear, below a tool's --root.
const identityDir = ".nx/id"

// IdentityFile is where the private half of a key pair stands, relative to --root, for
// the tools that log in with it: what a record's target.identityFile names.
func IdentityFile(keyPair string) string { return identityDir + "/" + keyPair }

// Identities writes the private half of every key pair of the state, and returns
// their files.
func (p *Provisioner) Identities() ([]string, error) {
	var files []string
	for _, e := range p.State.All() {
		if _, ok := e.Secrets[PrivateKey]; !ok {
			continue
		}
		if err := p.writeIdentity(e); err != nil {
			return files, err
		}
		files = append(files, IdentityFile(e.Name))
	}
	return files, nil
}

// writeIdentity writes the private half of a key pair, unless its file is there.
func (p *Provisioner) writeIdentity(e state.Entry) error {
	secret, ok := e.Secrets[PrivateKey]
	if !ok {
		return nil
	}
	file := filepath.Join(p.Root, IdentityFile(e.Name))
	private, err := p.State.Reveal(secret)
	if _, serr := os.Stat(file); err != nil && serr == nil {
		return nil // it is there, and was written when it could be read
	}
	if err != nil {
		return fmt.Errorf("write identity %s: %w", IdentityFile(e.Name), err)
	}
	has, err := os.ReadFile(file)
	if err == nil && bytes.Equal(has, []byte(private)) {
		if info, err := os.Stat(file); err == nil && info.Mode().Perm() == 0o600 {
			return nil
		}
		return os.Chmod(file, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write identity: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	if err := renameio.WriteFile(file, []byte(private), 0o600, renameio.WithStaticPermissions(0o600), renameio.WithTempDir(filepath.Dir(file))); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

// renameIdentity has the machines that a key pair lets in reached with the file of its
// new name, which is beside the old one until all of them are. The old one is left to
// records that were written before.
func (p *Provisioner) renameIdentity(keyPair state.Entry, name string) error {
	old := IdentityFile(keyPair.Name)
	keyPair.Name = name
	if err := p.writeIdentity(keyPair); err != nil {
		return err
	}
	for _, e := range p.State.Entries(state.Machines) {
		to, err := readTarget(e.Target)
		if err != nil || to.IdentityFile != old {
			continue
		}
		to.IdentityFile = IdentityFile(name)
		e.Target = asJSON(to)
		if err := p.put(e); err != nil {
			return err
		}
	}
	return nil
}

// removeIdentity removes what writeIdentity wrote.
func (p *Provisioner) removeIdentity(e state.Entry) error {
	if _, ok := e.Secrets[PrivateKey]; !ok {
		return nil
	}
	if err := os.Remove(filepath.Join(p.Root, IdentityFile(e.Name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove identity: %w", err)
	}
	return nil
}
