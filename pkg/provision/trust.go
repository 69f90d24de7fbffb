package provision

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"nx/pkg/state"
	"nx/pkg/target"
)

// A Conn is a connection to a host.
type Conn interface {
	// Run has the host's /bin/sh run a script, which reads stdin and whose exit status
	// it returns. The error is for a script that could not be run or seen to its end.
	Run(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (status int, err error)
	Close() error
}

// A Dialer connects to a host and believes no host key but the target's.
type Dialer func(ctx context.Context, t target.Target) (Conn, error)

// injectedKey is the secret that is a machine's first host key, until it has its own.
// Whoever can read what the provider gives the machine can read that key, which is
// why it does not stay.
const injectedKey = "hostKey"

// PrivateKey is the name of the secret that is the private half of a key pair.
const PrivateKey = "privateKey"

// answerTime is how long a machine that is up may take until its ssh server answers:
// cloud-init may have much to do before.
const answerTime = 5 * time.Minute

// NewPrivateKey returns a new ed25519 private key in OpenSSH's form.
func NewPrivateKey(comment string) (string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make private key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return "", fmt.Errorf("make private key: %w", err)
	}
	return string(pem.EncodeToMemory(block)), nil
}

// PublicKey returns the public half of a private key in OpenSSH's form, "ssh-ed25519 AAAA…".
func PublicKey(private string) (string, error) {
	signer, err := ssh.ParsePrivateKey([]byte(private))
	if err != nil {
		return "", fmt.Errorf("read private key: %w", err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), nil
}

func (p *Provisioner) hostKey(s state.Secret) (HostKey, error) {
	private, err := p.State.Reveal(s)
	if err != nil {
		return HostKey{}, err
	}
	public, err := PublicKey(private)
	return HostKey{Private: private, Public: public}, err
}

// renew is the script that gives a machine its own host key, in two steps, each of
// which may be done again.
//
//go:embed renew.sh
var renew string

// trust has a new machine present a host key that nobody else has ever seen, in
// place of the one that it was given. Both are remembered before the new one is put in
// force, and the old one is forgotten when the machine was reached with the new one:
// whenever this ends, the machine has a key that is known.
func (p *Provisioner) trust(ctx context.Context, t Thing, e state.Entry) (state.Entry, error) {
	if _, ok := e.Secrets[injectedKey]; !ok {
		return e, nil
	}
	to, err := readTarget(e.Target)
	if err == nil && len(to.HostKeys) == 0 {
		err = errors.New("it is not known")
	}
	if err != nil {
		return e, fmt.Errorf("replace the host key: %w", err)
	}
	injected := to.HostKeys[0]
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("it does not answer after %s", answerTime))
	defer cancel()
	p.log().Info("waiting until it answers", "host", t.Name)
	conn, err := p.await(ctx, to)
	if err != nil {
		return e, fmt.Errorf("connect to %s: %w", to.Host, err)
	}
	defer conn.Close()
	e = reached(e, to)

	p.log().Info("replacing the host key", "host", t.Name)
	said, err := runScript(ctx, conn, renew, "make", injected)
	if err != nil {
		return e, fmt.Errorf("make a host key on %s: %w", t.Name, err)
	}
	var own struct{ Key, OS, Version string }
	if err := json.Unmarshal([]byte(said), &own); err != nil {
		return e, fmt.Errorf("make a host key on %s: it says %q", t.Name, said)
	}
	if public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(own.Key)); err != nil {
		return e, fmt.Errorf("make a host key on %s: it says %q", t.Name, own.Key)
	} else {
		own.Key = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))
	}
	if e, err = withOS(e, own.OS, own.Version); err != nil {
		return e, err
	}
	if e, err = withHostKeys(e, injected, own.Key); err != nil {
		return e, err
	}
	if err := p.put(e); err != nil {
		return e, err
	}
	if _, err := runScript(ctx, conn, renew, "use", own.Key); err != nil {
		return e, fmt.Errorf("put the host key of %s in force: %w", t.Name, err)
	}
	to.HostKeys = []string{own.Key}
	again, err := p.await(ctx, to)
	if err != nil {
		return e, fmt.Errorf("connect to %s with its own host key: %w", to.Host, err)
	}
	again.Close()
	if e, err = withHostKeys(e, own.Key); err != nil {
		return e, err
	}
	e.Secrets = maps.Clone(e.Secrets)
	delete(e.Secrets, injectedKey)
	return e, p.put(e)
}

// withOS remembers what runs on the machine: its ID of os-release(5), and the release
// of NixOS that it was made with.
func withOS(e state.Entry, os, version string) (state.Entry, error) {
	known := map[string]string{}
	if os != "" {
		known["os"] = os
	}
	if os == "nixos" && version != "" {
		known["stateVersion"] = version
	}
	b, err := json.Marshal(known)
	if err != nil {
		return e, err
	}
	e.Outputs, err = merge(e.Outputs, b)
	return e, err
}

// await connects as soon as the host answers, with the right key, and lets us in. Until
// its first boot is over it may do neither.
func (p *Provisioner) await(ctx context.Context, t target.Target) (Conn, error) {
	for {
		conn, err := p.Dial(ctx, t)
		if err == nil {
			return conn, nil
		}
		p.log().Debug("not yet", "cause", err.Error())
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// runScript runs a script with arguments and returns what it prints.
func runScript(ctx context.Context, conn Conn, script string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	words, err := target.Quote(args...)
	if err != nil {
		return "", err
	}
	script = "set -- " + words + "\n" + script
	status, err := conn.Run(ctx, script, nil, &out, &errs)
	if err == nil && status != 0 {
		lines := strings.FieldsFunc(errs.String(), func(r rune) bool { return r == '\n' })
		err = fmt.Errorf("exit status %d: %s", status, strings.Join(lines[max(0, len(lines)-3):], "; "))
	}
	return strings.TrimSpace(out.String()), err
}

// newToken is a word that no other thing of any provider has.
func newToken() string { return "nx-" + strings.ToLower(rand.Text()) }
