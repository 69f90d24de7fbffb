package store

// StagedRoot returns the name, on a host, of the garbage collector root that keeps
// p there between two stages: nx-copy makes it, a symlink to p, before it lets go
// of what it locked; nx-activate removes it once a profile keeps p.
//
// The name depends on p alone, so that whoever knows what to activate knows it,
// and several people who deploy to one host have a root each, or the same.
func (p Path) StagedRoot() string { return "/nix/var/nix/gcroots/nx/" + p.Base() }

// StagedHomeRoot is StagedRoot for a user who may not write there: a symlink below
// the user's home folder, registered as an indirect root.
func (p Path) StagedHomeRoot() string { return ".local/state/nx/roots/" + p.Base() }
