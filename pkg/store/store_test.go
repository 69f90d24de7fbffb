package store

import (
	"strings"
	"testing"
)

const hash = "3zl0pzyi9yqrimhdpcp5cp4ng2wxk6q9"

func TestParse(t *testing.T) {
	tests := []struct {
		name, path string
		wantErr    string // substring; empty means success
	}{
		{"a system", "/nix/store/" + hash + "-nixos-system-web1-26.11", ""},
		{"every character that a name may have", "/nix/store/" + hash + "-aZ0+-._?=", ""},
		{"longest name", "/nix/store/" + hash + "-" + strings.Repeat("x", 211), ""},
		{"empty", "", "is not below /nix/store"},
		{"relative", "nix/store/" + hash + "-a", "is not below"},
		{"another store", "/gnu/store/" + hash + "-a", "is not below"},
		{"the store itself", "/nix/store/", "no hash and name"},
		{"a file inside", "/nix/store/" + hash + "-a/bin/sh", `has '/' in its name`},
		{"way out", "/nix/store/../../etc/passwd-xxxxxxxxxxxxxxxxxxxxx", "no hash and name"},
		{"no name", "/nix/store/" + hash + "-", "no hash and name"},
		{"no dash", "/nix/store/" + hash + "a", "no hash and name"},
		{"letter that base 32 lacks", "/nix/store/e" + hash[1:] + "-a", `has 'e' in its hash`},
		{"hidden name", "/nix/store/" + hash + "-.a", "begins with a dot"},
		{"name too long", "/nix/store/" + hash + "-" + strings.Repeat("x", 212), "more than 211"},
		{"shell in the name", "/nix/store/" + hash + "-a;reboot", `has ';' in its name`},
		{"newline in the name", "/nix/store/" + hash + "-a\nb", `has '\n' in its name`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Parse(tt.path)
			switch {
			case tt.wantErr == "" && (err != nil || string(p) != tt.path):
				t.Errorf("Parse(%q) = %q, %v", tt.path, p, err)
			case tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)):
				t.Errorf("Parse(%q): error %v, want one with %q", tt.path, err, tt.wantErr)
			}
		})
	}
}

func TestParts(t *testing.T) {
	p, err := ParseDerivation("/nix/store/" + hash + "-web1.drv")
	if err != nil {
		t.Fatal(err)
	}
	if p.Hash() != hash || p.Name() != "web1.drv" || p.Base() != hash+"-web1.drv" || !p.IsDerivation() {
		t.Errorf("%q: hash %q, name %q, base %q", p, p.Hash(), p.Name(), p.Base())
	}
	if _, err := ParseDerivation("/nix/store/" + hash + "-web1"); err == nil || !strings.Contains(err.Error(), "no derivation") {
		t.Errorf("an output was taken for a derivation: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/nix/store/" + hash + "-nixos-system-web1-26.11")
	f.Add("/nix/store/" + hash + "-../x")
	f.Add("/nix/store/\xff")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err == nil && (string(p) != s || strings.ContainsAny(s[len(Dir)+1:], "/ '\"\n\x00$`\\") || p.Hash()+"-"+p.Name() != p.Base()) {
			t.Errorf("Parse(%q) = %q", s, p)
		}
	})
}
