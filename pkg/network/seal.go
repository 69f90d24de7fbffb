package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// sealName is what Nix' error names when an evaluation would copy the folder.
const sealName = ".nx/never-in-the-nix-store"

// sealBroken is what Nix says when it comes to copy what is called so.
const sealBroken = sealName + "' has an unsupported type"

// Seal makes dir, nx's own folder ".nx" with state and identities, and puts a
// socket into it that nobody listens on. Nix cannot copy a socket to its store,
// so an evaluation that would copy the folder (src = ./.) fails and names it. A
// filter that leaves out sockets but not the folder defeats this, as does one
// that names files of the folder.
func Seal(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("seal %s: %w", dir, err)
	}
	name := filepath.Join(dir, filepath.Base(sealName))
	if err := syscall.Mknod(name, syscall.S_IFSOCK|0o600, 0); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("seal %s: %w", dir, err)
	}
	return nil
}
