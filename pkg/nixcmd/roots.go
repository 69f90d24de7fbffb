package nixcmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

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
