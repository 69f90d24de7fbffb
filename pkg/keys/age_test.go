package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"
)

// encrypt is what age makes of text.
func encrypt(t *testing.T, text string, to ...age.Recipient) string {
	t.Helper()
	var b bytes.Buffer
	w, err := age.Encrypt(&b, to...)
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// sshKey returns an ssh key pair as files have it.
func sshKey(t *testing.T, private any, passphrase string) (file, public string) {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
}

func armored(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := armor.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Whatever age's own program would decrypt with these identities is decrypted.
func TestDecrypt(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edFile, edPublic := sshKey(t, ed, "")
	rsaFile, rsaPublic := sshKey(t, rsaKey, "")
	locked, _ := sshKey(t, ed, "passphrase")
	dir := files(t, map[string]string{
		"age": "# created: now\n# public key: " + id.Recipient().String() + "\n" + id.String() + "\n", "hybrid": hybrid.String(), "ed25519": edFile, "rsa": rsaFile,
		"locked": locked, "sealed": encrypt(t, id.String(), id.Recipient()), "armored": armored(t, encrypt(t, id.String(), id.Recipient())),
		"recipients": "# all of us\n\n" + id.Recipient().String() + "\n" + edPublic, "odd": id.String() + "\n", "none": "# nobody\n",
	})
	in := func(name string) string { return filepath.Join(dir, name) }

	for identity, recipient := range map[string]string{
		"age": id.Recipient().String(), "hybrid": hybrid.Recipient().String(), "ed25519": edPublic, "rsa": strings.TrimSpace(rsaPublic) + " me@here",
	} {
		ids, err := ReadIdentities([]string{in(identity)})
		if err != nil {
			t.Errorf("%s: %v", identity, err)
			continue
		}
		to, err := ParseRecipients([]string{recipient})
		if err != nil {
			t.Errorf("%s: %v", recipient, err)
			continue
		}
		sealed := encrypt(t, "text", to...)
		for _, encrypted := range []string{sealed, armored(t, sealed), "\n" + armored(t, sealed)} {
			if got, err := decrypt([]byte(encrypted), ids); err != nil || string(got) != "text" {
				t.Errorf("%s: %q, error %v", identity, got, err)
			}
		}
		for _, cut := range []string{sealed[:len(sealed)-1], sealed + "x", "", "age-encryption.org/v1"} {
			if got, err := decrypt([]byte(cut), ids); err == nil || got != nil {
				t.Errorf("%s: %q of what is broken, error %v", identity, got, err)
			}
		}
	}

	both, err := ParseRecipients([]string{in("recipients")})
	if err != nil || len(both) != 2 {
		t.Errorf("recipients %v, error %v", both, err)
	}
	other, err := ReadIdentities([]string{in("rsa"), in("hybrid")})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, wantErr, hint string
		err                 error
	}{
		{"for others", "encrypted for others", "--age-identity", second(decrypt([]byte(encrypt(t, "x", id.Recipient())), other))},
		{"without identities", "no identity is given", "NX_AGE_IDENTITY", second(decrypt(nil, nil))},
		{"a locked ssh key", "read identity " + in("locked") + ": it is an ssh key with a passphrase", "without one", second(ReadIdentities([]string{in("locked")}))},
		{"an encrypted identity", "it is encrypted with a passphrase", "age -d", second(ReadIdentities([]string{in("sealed")}))},
		{"an armored identity", "it is encrypted with a passphrase", "age -d", second(ReadIdentities([]string{in("armored")}))},
		{"no identity", "no identities found", "", second(ReadIdentities([]string{in("none")}))},
		{"no identity file", "no such file", "", second(ReadIdentities([]string{in("x")}))},
		{"no recipient file", "read recipient nobody: it is neither age1…, an ssh public key nor a file: no such file or directory", "", second(ParseRecipients([]string{"nobody"}))},
		{"no recipient", "the file has none", "", second(ParseRecipients([]string{in("none")}))},
		{"no recipient of age", "read recipient age1x", "", second(ParseRecipients([]string{"age1x"}))},
		{"a secret recipient", "it is a secret key", "", second(ParseRecipients([]string{id.String()}))},
		{"a file of secret recipients", "neither age1… nor an ssh public key", "", second(ParseRecipients([]string{in("odd")}))},
	} {
		if tt.err == nil || !strings.Contains(tt.err.Error(), tt.wantErr) || !strings.Contains(hint(tt.err), tt.hint) || strings.Contains(tt.err.Error(), "AGE-SECRET") {
			t.Errorf("%s: error %v, hint %q", tt.name, tt.err, hint(tt.err))
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestBundle(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	ids := []age.Identity{id}
	file := filepath.Join(t.TempDir(), "bundle")
	b := Bundle{"web": {"token": "known \x00\u00e9\n", "empty": ""}, "db": {}}
	for range 2 { // over the one before
		if err := b.Write(file, []age.Recipient{id.Recipient()}); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil || bytes.Contains(text, []byte("known")) || bytes.Contains(text, []byte("token")) {
		t.Errorf("the file has %q, error %v", text, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	got, err := ReadBundle(file, ids)
	if err != nil {
		t.Fatal(err)
	}
	if texts, err := got.Of("web"); err != nil || len(texts) != 2 || texts["token"] != b["web"]["token"] {
		t.Errorf("texts %q, error %v", texts, err)
	}
	if texts, err := got.Of("db"); err != nil || len(texts) != 0 {
		t.Errorf("texts %q, error %v", texts, err)
	}
	if _, err := got.Of("other"); err == nil || !strings.Contains(hint(err), "nx-eval") {
		t.Errorf("error %v", err)
	}
	for text, want := range map[string]string{
		`{"nx":2,"texts":{}}`: "version 2", `{}`: "version 0", `{"nx":1,"texts":{"web":"known"}}`: "it is no bundle", `known`: "it is no bundle", "": "it is no bundle",
	} {
		if _, err := parseBundle([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "known") {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
	if _, err := ReadBundle(file, nil); err == nil || !strings.HasPrefix(err.Error(), "read bundle of keys "+file+": no identity is given") {
		t.Errorf("error %v", err)
	}
	if err := b.Write(filepath.Join(file, "x"), []age.Recipient{id.Recipient()}); err == nil {
		t.Error("written below a file")
	}
}

// What a bundle says is what it is written with; anything else is refused whole.
func FuzzParseBundle(f *testing.F) {
	f.Add([]byte(`{"nx":1,"texts":{"web":{"token":"a\nb"},"db":{}}}`))
	f.Add([]byte(`{"nx":1}`))
	f.Add([]byte(`{"nx":1,"texts":{"web":null}} x`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := parseBundle(text)
		if err != nil && b != nil {
			t.Errorf("%v with error %v", b, err)
		}
		for host := range b {
			if _, err := b.Of(host); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
	})
}
