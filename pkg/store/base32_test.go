package store

import (
	"crypto/sha1"
	"testing"
)

func TestBase32(t *testing.T) {
	// nix-hash --type sha1 --flat --base32 of files with these texts
	for text, want := range map[string]string{
		"":    "143xibwh31h9bvxzalr0sjvbbvpa6ffs",
		"abc": "kpcd173cq987hw957sx6m0868wv3x6d9",
	} {
		if got := Base32(sha1.Sum([]byte(text))); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}
