// Package store has the words of a Nix store: store paths, derivation paths and
// what a store knows about a path. It parses and validates; it runs nothing and
// touches no file. How a store is asked is left to pkg/nixcmd and pkg/nixserve.
package store

import (
	"fmt"
	"strings"
)

// Dir is the only store directory nx deploys: NixOS' own.
const Dir = "/nix/store"

const (
	hashLen    = 32
	maxNameLen = 211 // StorePath::MaxPathLen, Nix 2.8
	nix32      = "0123456789abcdfghijklmnpqrsvwxyz"
)

// A Path is an absolute store path of one store object, such as
// "/nix/store/<32 digits>-nixos-system-web1". Only [Parse] makes a valid one.
type Path string

// Parse checks s and returns it as a Path. The rules are those of Nix 2.8's
// StorePath: 32 digits of Nix' base 32, a dash, and a name of at most 211
// characters out of letters, digits and "+-._?=", not beginning with a dot.
func Parse(s string) (Path, error) {
	base, ok := strings.CutPrefix(s, Dir+"/")
	if !ok {
		return "", fmt.Errorf("store path %q is not below %s", s, Dir)
	}
	if len(base) < hashLen+2 || base[hashLen] != '-' {
		return "", fmt.Errorf("store path %q has no hash and name", s)
	}
	for _, c := range base[:hashLen] {
		if !strings.ContainsRune(nix32, c) {
			return "", fmt.Errorf("store path %q has %q in its hash", s, c)
		}
	}
	name := base[hashLen+1:]
	if len(name) > maxNameLen {
		return "", fmt.Errorf("store path %q has a name of more than %d characters", s, maxNameLen)
	}
	if name[0] == '.' {
		return "", fmt.Errorf("store path %q has a name that begins with a dot", s)
	}
	for _, c := range name {
		if !nameRune(c) {
			return "", fmt.Errorf("store path %q has %q in its name", s, c)
		}
	}
	return Path(s), nil
}

// ParseDerivation is [Parse] for the path of a derivation, which ends in ".drv".
func ParseDerivation(s string) (Path, error) {
	p, err := Parse(s)
	if err != nil {
		return "", err
	}
	if !p.IsDerivation() {
		return "", fmt.Errorf("store path %q is no derivation", s)
	}
	return p, nil
}

// Base returns the path's last element: hash, dash and name.
func (p Path) Base() string { return strings.TrimPrefix(string(p), Dir+"/") }

// Hash returns the 32 digits in front of the name.
func (p Path) Hash() string { return p.Base()[:hashLen] }

// Name returns the name behind the hash, such as "nixos-system-web1".
func (p Path) Name() string { return p.Base()[hashLen+1:] }

// IsDerivation tells whether the path names a derivation.
func (p Path) IsDerivation() bool { return strings.HasSuffix(string(p), ".drv") }

func nameRune(c rune) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' ||
		strings.ContainsRune("+-._?=", c)
}

// Info is what a store records of one valid path: the fields of "nix path-info
// --json" (Nix manual, store object info).
type Info struct {
	Path       Path
	Deriver    Path   // empty when unknown
	References []Path // sorted; may contain Path itself
	NarHash    string // "sha256:" and 52 digits of base 32
	NarSize    uint64 // bytes
	CA         string // content address, empty for input-addressed paths
	Sigs       []string
}

// Missing is what realising derivations would do. A path that a cache has is
// fetched, whatever would make it; what that needs is not missing then.
type Missing struct {
	Build        []Path // derivations to be built
	Fetch        []Path // paths to be fetched
	DownloadSize int64  // bytes that come over the line, as Nix rounds them: to 0.01 MiB
	UnpackedSize int64  // bytes of NARs of the same, rounded as well
}
