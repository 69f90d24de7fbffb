package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// A Sealer encrypts secrets, so that the state may be shown to others.
type Sealer interface {
	// Recipients returns for whom secrets are to be sealed, sorted, in a form
	// that Seal takes. None means: for those that the state has.
	Recipients() []string

	// Seal encrypts for recipients. It needs no identity.
	Seal(plain []byte, recipients []string) ([]byte, error)

	// Open decrypts what Seal made.
	Open(sealed []byte) ([]byte, error)
}

// A Secret is a text that nothing prints: neither fmt nor slog nor encoding/json.
// [State.Reveal] returns it. The zero Secret is none.
type Secret struct{ s *secret }

// A secret is not changed once it is made. At least one of plain and sealed is set.
type secret struct {
	plain  *string
	sealed []byte
	of     string // the recipients sealed is for, as joined by audience
}

const hidden = "[secret]"

// NewSecret returns a secret to put into an [Entry].
func NewSecret(plain string) Secret { return Secret{&secret{plain: &plain}} }

// String hides the secret.
func (Secret) String() string { return hidden }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return hidden }

// LogValue hides the secret from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalJSON hides the secret: an entry that is printed as JSON has none. The
// state's file is written otherwise.
func (Secret) MarshalJSON() ([]byte, error) { return json.Marshal(hidden) }

// Reveal returns a secret of this state in the clear. The error of a sealed one that
// cannot be decrypted is the [Sealer]'s.
func (s *State) Reveal(x Secret) (string, error) {
	switch {
	case x.s == nil:
		return "", errors.New("reveal secret: there is none")
	case x.s.plain != nil:
		return *x.s.plain, nil
	case s.sealer == nil:
		return "", errors.New("reveal secret: it is sealed, and nothing is there to open it")
	}
	plain, err := s.sealer.Open(x.s.sealed)
	if err != nil {
		return "", fmt.Errorf("reveal secret: %w", err)
	}
	return string(plain), nil
}

// audience joins recipients, so that they can be compared.
func audience(recipients []string) string { return strings.Join(recipients, "\n") }

// seal returns x as it is kept in a state with these recipients. When it is what old
// is, it keeps old's bytes, since sealing again would give others.
func (s *State) seal(x, old Secret, recipients []string) (Secret, error) {
	if x.s == nil {
		return x, errors.New("it is empty")
	}
	if len(x.s.sealed) > 0 && x.s.of == audience(recipients) {
		return x, nil
	}
	plain, err := s.Reveal(x)
	if err != nil {
		return x, err
	}
	if len(recipients) == 0 {
		return Secret{&secret{plain: &plain}}, nil
	}
	if old.s != nil && len(old.s.sealed) > 0 && old.s.of == audience(recipients) {
		if before, err := s.Reveal(old); err == nil && before == plain {
			return Secret{&secret{plain: &plain, sealed: old.s.sealed, of: old.s.of}}, nil
		}
	}
	if s.sealer == nil {
		return x, errors.New("nothing is there to seal it")
	}
	sealed, err := s.sealer.Seal([]byte(plain), recipients)
	if err != nil {
		return x, err
	}
	return Secret{&secret{plain: &plain, sealed: sealed, of: audience(recipients)}}, nil
}

// sealAll returns secrets as they are kept, old being those that are there.
func (s *State) sealAll(secrets, old map[string]Secret, recipients []string) (map[string]Secret, error) {
	kept := map[string]Secret{}
	for name, x := range secrets {
		var err error
		if kept[name], err = s.seal(x, old[name], recipients); err != nil {
			return nil, fmt.Errorf("seal secret %s: %w", name, err)
		}
	}
	return kept, nil
}

// recipients returns for whom the sealer wants secrets sealed, else the state's.
func recipients(sealer Sealer, has []string) []string {
	if sealer != nil {
		if wanted := sealer.Recipients(); len(wanted) > 0 {
			return slices.Compact(slices.Sorted(slices.Values(wanted)))
		}
	}
	return has
}
