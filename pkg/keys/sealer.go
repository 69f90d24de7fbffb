package keys

import (
	"bytes"
	"slices"
	"strings"
	"sync"

	"filippo.io/age"
)

// A Sealer encrypts by age what is kept where others can see it, as pkg/state keeps
// secrets.
type Sealer struct {
	recipients []string
	identities func() ([]age.Identity, error)
}

// NewSealer takes recipients as [ParseRecipients] does, and identities as
// [ReadIdentities] does, which it reads when it must open something for the first time.
// Either may be empty.
func NewSealer(recipients, identityFiles []string) (*Sealer, error) {
	lines, err := recipientLines(recipients)
	if err != nil {
		return nil, err
	}
	for i, line := range lines {
		if _, err := parseRecipient(line); err != nil {
			return nil, err
		}
		// Not the comment of an ssh public key: one key is one recipient.
		if f := strings.Fields(line); len(f) > 2 {
			lines[i] = f[0] + " " + f[1]
		}
	}
	slices.Sort(lines)
	return &Sealer{
		recipients: slices.Compact(lines),
		identities: sync.OnceValues(func() ([]age.Identity, error) { return ReadIdentities(identityFiles) }),
	}, nil
}

// Recipients returns those that NewSealer was given, sorted: "age1…" or
// "ssh-ed25519 AAAA…".
func (s *Sealer) Recipients() []string { return slices.Clone(s.recipients) }

// Seal encrypts for recipients, which are as Recipients returns them. It needs no
// identity.
func (s *Sealer) Seal(plain []byte, recipients []string) ([]byte, error) {
	parsed, err := parseLines(recipients)
	if err != nil {
		return nil, err
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, parsed...)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	return sealed.Bytes(), err
}

// Open decrypts what Seal made. The error has a hint when the right identity is
// missing.
func (s *Sealer) Open(sealed []byte) ([]byte, error) {
	identities, err := s.identities()
	if err != nil {
		return nil, err
	}
	return decrypt(sealed, identities)
}
