package build

import (
	"fmt"
	"os"
	"path/filepath"

	"nx/pkg/store"
)

// Prune removes the links to systems of hosts that the network has no more: those
// whose name is none of hosts. What is no link to a store path is not ours.
func (b *Builder) Prune(hosts map[string]bool) error {
	entries, err := os.ReadDir(b.RootDir)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("prune roots: %w", err)
	}
	for _, e := range entries {
		link := filepath.Join(b.RootDir, e.Name())
		to, err := os.Readlink(link)
		if hosts[e.Name()] || err != nil {
			continue
		}
		if _, err := store.Parse(to); err != nil {
			continue
		}
		if err := os.Remove(link); err != nil {
			return fmt.Errorf("prune roots: %w", err)
		}
		b.Log.Info("pruned", "host", e.Name(), "path", to)
	}
	return nil
}
