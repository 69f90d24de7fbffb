package state

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"nx/pkg/keys"
)

// An identity can open what is sealed for its recipient.
type identity struct{ file, recipient string }

func newIdentity(t *testing.T) identity {
	t.Helper()
	id := must(age.GenerateX25519Identity())(t)
	file := filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(file, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return identity{file, id.Recipient().String()}
}

// sealer seals for recipients and opens nothing.
func sealer(t *testing.T, recipients ...string) Sealer {
	t.Helper()
	return must(keys.NewSealer(recipients, nil))(t)
}

// opener opens what an identity can, and seals for recipients.
func opener(t *testing.T, id identity, recipients ...string) Sealer {
	t.Helper()
	return must(keys.NewSealer(recipients, []string{id.file}))(t)
}

const private = "-----BEGIN OPENSSH PRIVATE KEY----- <secret> & \u2028"

func TestSecrets(t *testing.T) {
	alice, bob := newIdentity(t), newIdentity(t)
	file := filepath.Join(t.TempDir(), "state.json")
	reopen := func(o Sealer) *State {
		t.Helper()
		s := must(Open(t.Context(), file, Options{Sealer: o, Wait: free(t).Wait}))(t)
		t.Cleanup(func() { s.Close() })
		return s
	}
	put := func(s *State, name string, secrets map[string]Secret) {
		t.Helper()
		if err := s.Put(Entry{Type: Machines, Name: name, Provider: "p", Secrets: secrets}); err != nil {
			t.Fatal(err)
		}
	}
	closed := func(s *State) {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	text := func() string {
		t.Helper()
		return string(must(os.ReadFile(file))(t))
	}
	reveals := func(s *State, name, want string) {
		t.Helper()
		e, _ := s.Get(Machines, name)
		if got, err := s.Reveal(e.Secrets["key"]); err != nil || got != want {
			t.Errorf("Reveal of %s = %q, %v, want %q", name, got, err, want)
		}
	}
	key := func(text string) map[string]Secret { return map[string]Secret{"key": NewSecret(text)} }

	// In the clear while there are no recipients.
	s := reopen(nil)
	put(s, "web", key(private))
	reveals(s, "web", private)
	closed(s)
	reveals(must(Read(t.Context(), file, Options{}))(t), "web", private)
	if !strings.Contains(text(), `"key": "-----BEGIN`) {
		t.Errorf("the file is %s", text())
	}

	// Sealed as soon as there are, without an identity.
	s = must(Open(t.Context(), file, Options{Sealer: sealer(t, alice.recipient)}))(t)
	sealed := text()
	if strings.Contains(sealed, "BEGIN") || !strings.Contains(sealed, `"recipients": [`+"\n    \""+alice.recipient) {
		t.Errorf("the file is %s", sealed)
	}
	// What this process sealed it knows; another one needs the identity.
	reveals(s, "web", private)
	closed(s)
	s = reopen(nil)
	e, _ := s.Get(Machines, "web")
	if _, err := s.Reveal(e.Secrets["key"]); err == nil || err.Error() != "reveal secret: it is sealed, and nothing is there to open it" {
		t.Errorf("Reveal without a sealer: %v", err)
	}
	if err := s.Put(Entry{Type: Machines, Name: "db", Provider: "p", Secrets: key("x")}); err == nil || !strings.Contains(err.Error(), "remember machines db: seal secret key: ") {
		t.Errorf("Put without a sealer: %v", err)
	}
	put(s, "web", e.Secrets) // needs none
	closed(s)
	for _, tt := range []struct {
		name          string
		sealer        Sealer
		want, wantErr string
	}{
		{"nobody", sealer(t), "no identity is given", "--age-identity FILE"},
		{"another", opener(t, bob), "it is encrypted for others", "--age-identity FILE"},
	} {
		s := must(Read(t.Context(), file, Options{Sealer: tt.sealer}))(t)
		e, _ := s.Get(Machines, "web")
		if _, err := s.Reveal(e.Secrets["key"]); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(hintOf(err), tt.wantErr) {
			t.Errorf("Reveal for %s: %v (hint %q)", tt.name, err, hintOf(err))
		}
	}
	if text() != sealed {
		t.Errorf("the file was changed to %s", text())
	}

	// The recipients of the file stay in force when none are named; what is not
	// changed keeps its bytes.
	s = reopen(sealer(t))
	put(s, "db", key("two"))
	bytesOf := func(name string) string {
		t.Helper()
		var f struct {
			Resources struct {
				Machines map[string]struct {
					Secrets struct{ Key struct{ Sealed string } }
				}
			}
		}
		if err := json.Unmarshal([]byte(text()), &f); err != nil {
			t.Fatal(err)
		}
		sealed := f.Resources.Machines[name].Secrets.Key.Sealed
		if b, err := base64.StdEncoding.DecodeString(sealed); err != nil || !bytes.HasPrefix(b, []byte("age-encryption.org/v1\n")) {
			t.Errorf("the secret of %s is %q in the file", name, sealed)
		}
		return sealed
	}
	web, db := bytesOf("web"), bytesOf("db")
	put(s, "db", key("two")) // known, since this process put it
	e, _ = s.Get(Machines, "web")
	put(s, "web", e.Secrets)
	closed(s)
	s = reopen(opener(t, alice))
	put(s, "web", key(private))
	if bytesOf("web") != web || bytesOf("db") != db {
		t.Error("secrets that are as they were have other bytes")
	}
	put(s, "db", key("three"))
	if bytesOf("db") == db {
		t.Error("a secret that was changed has the bytes of the old one")
	}
	reveals(s, "db", "three")
	closed(s)

	// For other recipients all are sealed anew, which needs an identity.
	before := text()
	_, err := Open(t.Context(), file, Options{Sealer: sealer(t, alice.recipient, bob.recipient)})
	if err == nil || !strings.Contains(err.Error(), "seal secrets of state "+file+": machines ") || !strings.Contains(hintOf(err), "--age-identity FILE") || text() != before {
		t.Errorf("other recipients without an identity: %v (hint %q)", err, hintOf(err))
	}
	closed(must(Open(t.Context(), file, Options{Sealer: opener(t, alice, bob.recipient, alice.recipient, alice.recipient)}))(t))
	both := text()
	if bytesOf("web") == web || strings.Count(both, "age1") != 2 {
		t.Errorf("the file is %s", both)
	}
	for _, who := range []identity{alice, bob} {
		s := must(Read(t.Context(), file, Options{Sealer: opener(t, who)}))(t)
		reveals(s, "web", private)
		reveals(s, "db", "three")
	}
	closed(must(Open(t.Context(), file, Options{Sealer: sealer(t, bob.recipient, alice.recipient)}))(t))
	if text() != both {
		t.Error("the same recipients in another order change the file")
	}
	closed(must(Open(t.Context(), file, Options{Sealer: opener(t, bob, bob.recipient)}))(t))
	s = must(Read(t.Context(), file, Options{Sealer: opener(t, alice)}))(t)
	if e, _ := s.Get(Machines, "web"); e.Secrets["key"].s == nil {
		t.Error("the secret is lost")
	} else if _, err := s.Reveal(e.Secrets["key"]); err == nil {
		t.Error("who is a recipient no longer opens a secret")
	}
}

// An entry of another state brings its secrets along when they can be opened there.
func TestSecretOfAnotherState(t *testing.T) {
	alice, bob := newIdentity(t), newIdentity(t)
	dir := t.TempDir()
	from := must(Open(t.Context(), filepath.Join(dir, "from"), Options{Sealer: sealer(t, alice.recipient)}))(t)
	defer from.Close()
	e := Entry{Type: Machines, Name: "web", Provider: "p", Secrets: map[string]Secret{"key": NewSecret("x")}}
	if err := from.Put(e); err != nil {
		t.Fatal(err)
	}
	foreign, _ := must(Read(t.Context(), filepath.Join(dir, "from"), Options{}))(t).Get(Machines, "web")
	to := must(Open(t.Context(), filepath.Join(dir, "to"), Options{Sealer: opener(t, alice, bob.recipient)}))(t)
	defer to.Close()
	if err := to.Put(foreign); err != nil {
		t.Fatal(err)
	}
	s := must(Read(t.Context(), filepath.Join(dir, "to"), Options{Sealer: opener(t, bob)}))(t)
	got, _ := s.Get(Machines, "web")
	if x, err := s.Reveal(got.Secrets["key"]); err != nil || x != "x" {
		t.Errorf("Reveal = %q, %v", x, err)
	}
}

// A bucket has no secrets in the clear.
func TestSecretsInBucket(t *testing.T) {
	newServer(t)
	alice := newIdentity(t)
	e := Entry{Type: Machines, Name: "web", Provider: "p", Secrets: map[string]Secret{"key": NewSecret("x")}}
	s := must(openBucket(t, free(t)))(t)
	if err := s.Put(e); err == nil || !strings.Contains(err.Error(), "secrets would be in the clear in a bucket") || !strings.Contains(hintOf(err), "--age-recipient R") {
		t.Errorf("Put: %v (hint %q)", err, hintOf(err))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = must(openBucket(t, Options{Sealer: sealer(t, alice.recipient)}))(t)
	if err := s.Put(e); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	// One that was put there as a file had it is sealed by the next that may.
	file := filepath.Join(t.TempDir(), "state.json")
	if err := openFile(t, file).Put(e); err != nil {
		t.Fatal(err)
	}
	b := must(newBucket(t.Context(), inBucket))(t)
	o := must(b.get(t.Context()))(t)
	must(b.write(t.Context(), b.key, must(os.ReadFile(file))(t), o.version))(t)
	if _, err := Read(t.Context(), inBucket, Options{}); err == nil || !strings.Contains(err.Error(), "in the clear in a bucket") {
		t.Errorf("Read: %v", err)
	}
	must(openBucket(t, Options{Sealer: sealer(t, alice.recipient)}))(t)
	s = must(Read(t.Context(), inBucket, Options{Sealer: opener(t, alice)}))(t)
	e, _ = s.Get(Machines, "web")
	if x, err := s.Reveal(e.Secrets["key"]); err != nil || x != "x" {
		t.Errorf("Reveal = %q, %v", x, err)
	}
}

// Nothing that prints, prints a secret, however deep it is.
func TestSecretIsHidden(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	s := openFile(t, file)
	e := Entry{Type: Machines, Name: "web", Provider: "p", Secrets: map[string]Secret{"key": NewSecret("hunter2")}}
	if err := s.Put(e); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, v := range []any{e.Secrets["key"], &e, e, e.Secrets, s.content, struct{ hidden Secret }{e.Secrets["key"]}, Secret{}, e.file()} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		if _, ok := v.(fileEntry); !ok { // which is the form in the file
			slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		}
	}
	text := out.String()
	for _, secret := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), base64.StdEncoding.EncodeToString([]byte("hunter2"))} {
		if i := strings.Index(text, secret); i >= 0 {
			t.Errorf("it is printed: …%s", text[max(0, i-200):i+10])
		}
	}
	if !strings.Contains(text, hidden) {
		t.Errorf("nothing says that there is one: %s", text)
	}
	if _, err := s.Reveal(Secret{}); err == nil || err.Error() != "reveal secret: there is none" {
		t.Errorf("Reveal of no secret: %v", err)
	}
}
