package nixcmd

import (
	"context"
	"crypto/sha1"
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
	if rooted(link, p) {
		return nil
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

// rooted tells whether link is to p and registered as AddRoot does it: by a link
// to it in Nix' state that is named by the hash of its path (Nix' gc.cc,
// makeSymlink and addIndirectRoot). Where that looks otherwise, it is false.
func rooted(link string, p store.Path) bool {
	if to, err := os.Readlink(link); err != nil || to != string(p) {
		return false
	}
	state := os.Getenv("NIX_STATE_DIR")
	if state == "" {
		state = "/nix/var/nix"
	}
	to, err := os.Readlink(filepath.Join(state, "gcroots/auto", store.Base32(sha1.Sum([]byte(link)))))
	if err != nil || to != link {
		return false
	}
	// A path may be gone in spite of its roots: deleted by hand, or a store made anew.
	_, err = os.Lstat(string(p))
	return err == nil
}

// Sources returns the paths in the closures of derivations that no derivation
// makes: files and folders that evaluation copied into the store.
func (n *Nix) Sources(ctx context.Context, drvs ...store.Path) ([]store.Path, error) {
	args := []string{"--query", "--requisites"}
	for _, drv := range drvs {
		args = append(args, string(drv))
	}
	out, err := n.output(ctx, "nix-store", args...)
	if err != nil {
		return nil, fmt.Errorf("list sources of %s: %w", drvs, err)
	}
	var sources []store.Path
	for line := range strings.Lines(string(out)) {
		p, err := store.Parse(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("list sources of %s: %w", drvs, err)
		}
		if !p.IsDerivation() {
			sources = append(sources, p)
		}
	}
	return sources, nil
}

// Invalid returns those of paths that are not in the store.
func (n *Nix) Invalid(ctx context.Context, paths ...store.Path) ([]store.Path, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	args := []string{"--check-validity", "--print-invalid"}
	for _, p := range paths {
		args = append(args, string(p))
	}
	out, err := n.output(ctx, "nix-store", args...)
	if err != nil {
		return nil, fmt.Errorf("check store paths: %w", err)
	}
	var invalid []store.Path
	for line := range strings.Lines(string(out)) {
		p, err := store.Parse(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("check store paths: %w", err)
		}
		invalid = append(invalid, p)
	}
	return invalid, nil
}
