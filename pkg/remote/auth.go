package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// An identities is what to log in with, in the order to try.
type identities struct {
	signers []ssh.Signer
	names   []string // of signers, for messages
	unused  []string // identities that could not be used, and why
	locked  string   // an encrypted key file that would have been tried; "" for none

	agent net.Conn    // nil when there is none
	stop  func() bool // lets the connection to the agent outlive ctx
}

// Close ends the connection to the agent; its signers are of no use then.
func (ids *identities) Close() {
	if ids.agent != nil {
		ids.stop()
		ids.agent.Close()
	}
}

func (ids *identities) add(s ssh.Signer, name string) {
	ids.signers = append(ids.signers, s)
	ids.names = append(ids.names, name)
}

// identities gathers the target's identity file, those of the configuration,
// and the agent's keys unless IdentitiesOnly says no. Files come first, because
// an agent may hold more keys than sshd lets one try (MaxAuthTries is 6). The
// agent's signers fail when ctx ends: an agent may wait for its owner forever.
func (d Dialer) identities(ctx context.Context, h hop, cfg config) (_ *identities, err error) {
	ids := &identities{}
	defer func() {
		if err != nil {
			ids.Close()
		}
	}()
	var held []ssh.Signer
	if cfg.agent != "" {
		if ids.agent, err = (&net.Dialer{}).DialContext(ctx, "unix", cfg.agent); err != nil {
			ids.unused = append(ids.unused, "agent: "+err.Error())
		} else {
			ids.stop = context.AfterFunc(ctx, func() { ids.agent.Close() })
			if held, err = agent.NewClient(ids.agent).Signers(); err != nil {
				ids.unused = append(ids.unused, "agent "+cfg.agent+": "+err.Error())
			}
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("ask agent %s: %w", cfg.agent, context.Cause(ctx))
		}
	}
	own := d.identityFile(h)
	if own != "" {
		if err := ids.addFile(own, held); err != nil {
			return nil, fmt.Errorf("target.identityFile: %w", err)
		}
	}
	for _, file := range cfg.identityFiles {
		if file == own {
			continue
		}
		if err := ids.addFile(file, held); err != nil && !errors.Is(err, fs.ErrNotExist) {
			ids.unused = append(ids.unused, err.Error())
			if e := (*lockedError)(nil); errors.As(err, &e) {
				ids.locked = e.file
			}
		}
	}
	if !cfg.identitiesOnly {
		for _, s := range held {
			if !slices.ContainsFunc(ids.signers, func(o ssh.Signer) bool { return sameKey(o.PublicKey(), s.PublicKey()) }) {
				ids.add(s, "agent "+ssh.FingerprintSHA256(s.PublicKey()))
			}
		}
	}
	return ids, nil
}

// addFile adds the key of an identity file: a private key, an encrypted one that
// the agent holds, or a public key whose private half the agent holds. A
// certificate in FILE-cert.pub is tried before the bare key, as ssh does.
func (ids *identities) addFile(file string, held []ssh.Signer) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read identity: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if locked := (*ssh.PassphraseMissingError)(nil); errors.As(err, &locked) {
		pub := locked.PublicKey
		if pub == nil { // a PEM file shows nothing of the key; FILE.pub may
			pub = readPublic(file + ".pub")
		}
		if signer = find(held, pub); signer == nil {
			return &lockedError{file}
		}
	} else if err != nil {
		pub, _, _, _, perr := ssh.ParseAuthorizedKey(data)
		if perr != nil {
			return fmt.Errorf("read identity %s: %w", file, err)
		}
		if signer = find(held, pub); signer == nil {
			return fmt.Errorf("read identity %s: it is a public key that the agent does not hold", file)
		}
	}
	if cert, ok := readPublic(file + "-cert.pub").(*ssh.Certificate); ok {
		if s, err := ssh.NewCertSigner(cert, signer); err == nil {
			ids.add(s, file+"-cert.pub")
		}
	}
	ids.add(signer, file)
	return nil
}

// readPublic returns the public key in file, nil when there is none.
func readPublic(file string) ssh.PublicKey {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil
	}
	return key
}

// find returns the signer in held that has the key pub, nil when none has.
func find(held []ssh.Signer, pub ssh.PublicKey) ssh.Signer {
	for _, s := range held {
		if pub != nil && sameKey(s.PublicKey(), pub) {
			return s
		}
	}
	return nil
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// A lockedError is about a key file that only a passphrase opens.
type lockedError struct{ file string }

func (e *lockedError) Error() string {
	return fmt.Sprintf("read identity %s: it is encrypted and the agent does not hold it", e.file)
}

// Hint says how the key becomes usable: nx never asks for a passphrase.
func (e *lockedError) Hint() string { return "add it to your agent: ssh-add " + e.file }

// A loginError says that the host accepted none of our keys.
type loginError struct {
	user string
	ids  *identities
	err  error
}

func (e *loginError) Error() string {
	tried := "there was no key to try"
	if len(e.ids.names) > 0 {
		tried = "tried " + strings.Join(e.ids.names, ", ")
	}
	for _, u := range e.ids.unused {
		tried += "; not usable: " + u
	}
	return fmt.Sprintf("log in as %s: %v (%s)", e.user, e.err, tried)
}

func (e *loginError) Unwrap() error { return e.err }

// Hint names the likeliest cause.
func (e *loginError) Hint() string {
	if e.ids.locked != "" {
		return (&lockedError{e.ids.locked}).Hint()
	}
	return fmt.Sprintf("is your public key in the authorized keys of user %s there? target.user and target.identityFile name others", e.user)
}
