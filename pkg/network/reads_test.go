package network

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPlace(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/cache")
	for _, test := range []struct {
		path string
		want int
	}{
		{"/etc/nixos", anywhere},
		{"/dev/shm/network.nix", anywhere},
		{"/dev/shmem", ofTheMoment},
		{"/proc/self/cwd/network.nix", ofTheMoment},
		{"/nix/store/x-source/flake.nix", inStore},
		{"/nix/store/x-hello.drv", nixOwn},
		{"/nix/var/nix/db/db.sqlite", nixOwn},
		{"/nix/var/nix/gcroots/nixpkgs/default.nix", anywhere},
		{"/nix/var/nix/profiles/per-user/root/channels", anywhere},
		{"/cache/nix/fetcher-cache-v1.sqlite", nixFetches},
		{"/cache/nix/eval-cache-v4/x.sqlite", nixOwn},
	} {
		if got := place(test.path); got != test.want {
			t.Errorf("place(%q) = %d, want %d", test.path, got, test.want)
		}
	}
}

// What is kept of an evaluation holds only where the reference means the same or
// is seen to be read.
func TestFixed(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "checked out/.git"), 0o700); err != nil {
		t.Fatal(err)
	}
	const commit = "1234567890123456789012345678901234567890"
	for ref, want := range map[string]bool{
		dir: true, "./x": true, "path:/x": true, "path:///x": false,
		"git+file://" + dir + "/checked%20out?ref=main": true,
		"git+file:" + dir + "/checked%20out":            true,
		"git+file://" + dir:                             false, // bare
		"git+file://" + dir + "?ref=main&rev=" + commit: true,
		"tarball+file:/x.tar":                           false,
		"github:o/r":                                    false,
		"github:o/r/" + commit:                          true,
		"nixpkgs":                                       false,
	} {
		if got := fixed(ref); got != want {
			t.Errorf("fixed(%q) = %t", ref, got)
		}
	}
}
