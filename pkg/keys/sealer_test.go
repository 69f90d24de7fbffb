package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
)

func TestSealer(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, public := sshKey(t, key, "")
	public = strings.TrimSpace(public)
	team := file("team", "# alice\n"+id.Recipient().String()+"\n"+public+" bob@laptop\n")

	s, err := NewSealer([]string{public + " bob@desk", team, id.Recipient().String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{id.Recipient().String(), public}
	if got := s.Recipients(); !slices.Equal(got, want) {
		t.Errorf("Recipients() = %q, want %q", got, want)
	}
	sealed, err := s.Seal([]byte("secret"), want)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(sealed); err == nil || !strings.Contains(err.Error(), "no identity is given") {
		t.Errorf("Open without an identity: %v", err)
	}
	for _, identity := range []string{file("age", id.String()), file("ssh", private)} {
		s, err := NewSealer(nil, []string{identity})
		if err != nil || len(s.Recipients()) != 0 {
			t.Fatalf("%v, %v", s, err)
		}
		if got, err := s.Open(sealed); err != nil || string(got) != "secret" {
			t.Errorf("Open with %s = %q, %v", identity, got, err)
		}
	}

	// Identities are read when they are needed.
	s, err = NewSealer(want, []string{filepath.Join(dir, "none")})
	if err == nil {
		_, err = s.Seal([]byte("x"), want)
	}
	if err != nil {
		t.Errorf("Seal needs an identity: %v", err)
	}
	for range 2 {
		if _, err := s.Open(sealed); err == nil || !strings.Contains(err.Error(), "read identity "+filepath.Join(dir, "none")) {
			t.Errorf("Open with an identity that is not there: %v", err)
		}
	}
	for _, r := range []string{"age1none", "ssh-ed25519 AAAA", "AGE-SECRET-KEY-1", filepath.Join(dir, "none")} {
		if _, err := NewSealer([]string{r}, nil); err == nil || !strings.HasPrefix(err.Error(), "read recipient") || strings.Contains(err.Error(), "\n") {
			t.Errorf("NewSealer(%q): %v", r, err)
		}
		if _, err := s.Seal(nil, []string{r}); err == nil {
			t.Errorf("Seal for %q succeeds", r)
		}
	}
	if _, err := s.Seal([]byte("x"), nil); err == nil {
		t.Error("Seal for nobody succeeds")
	}
	if text := fmt.Sprintf("%+v", s); strings.Contains(text, "SECRET") {
		t.Errorf("it prints %s", text)
	}
}
