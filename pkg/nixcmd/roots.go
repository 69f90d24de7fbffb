package nixcmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"nx/pkg/store"
)

// AddRoot makes link a symlink to p and registers it with the store, so that
// p's closure is kept as long as link is there. A link that is there is
// replaced by rename. p must be valid; a derivation is kept, not built.
func (n *Nix) AddRoot(ctx context.Context, link string, p store.Path) error {
	link, err := filepath.Abs(link)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(link), 0o755)
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", p, err)
	}
	if p.IsDerivation() {
		// nix-store --realise would build it. nix-instantiate roots what it is
		// given as a derivation, and this expression evaluates to the one there is.
		_, err = n.output(ctx, "nix-instantiate", "--add-root", link, "--argstr", "drv", string(p), "--expr",
			`{ drv }: { type = "derivation"; name = "kept"; drvPath = drv; outPath = drv; outputName = "out"; }`)
	} else {
		_, err = n.output(ctx, "nix-store", "--realise", "--add-root", link, string(p))
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", p, err)
	}
	return nil
}

// Sources returns the paths in a derivation's closure that no derivation makes:
// files and folders that evaluation copied into the store.
func (n *Nix) Sources(ctx context.Context, drv store.Path) ([]store.Path, error) {
	out, err := n.output(ctx, "nix-store", "--query", "--requisites", string(drv))
	if err != nil {
		return nil, fmt.Errorf("list sources of %s: %w", drv, err)
	}
	var sources []store.Path
	for line := range strings.Lines(string(out)) {
		p, err := store.Parse(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("list sources of %s: %w", drv, err)
		}
		if !p.IsDerivation() {
			sources = append(sources, p)
		}
	}
	return sources, nil
}
