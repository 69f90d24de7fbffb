// Package target says where a host is reached and quotes what is run there. It
// runs nothing and opens no connection, so quoting and hostile host names are
// tested without a network; connections are pkg/remote's.
package target

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// A Target is how a host is reached: the record's "target" field.
type Target struct {
	Host         string   // name or address; IPv6 without brackets
	Port         int      // 0 means 22, or what the user's ssh configuration says
	User         string   // "" means root
	HostKeys     []string // "ssh-ed25519 AAAA…"; when given, no other key is accepted
	IdentityFile string   // private key; a relative path is relative to the tool's --root
	Sudo         []string // argv prefix when User is not root
	ProxyJump    string   // as in ssh_config(5)
	Previous     *Target  // the last target that worked, when it changes
}

// DefaultUser is who logs in where the target names nobody.
const DefaultUser = "root"

// DefaultPort is where sshd listens unless told otherwise.
const DefaultPort = 22

// Validate refuses values that could be taken for an option or for more than
// one word by ssh or a shell on the way. The error names field and value.
func (t Target) Validate() error {
	switch {
	case t.Host == "" || t.Host[0] == '-':
		return fmt.Errorf("target.host %q must not be empty or start with '-'", t.Host)
	case !plain(t.Host, ".-_:%[]"):
		return fmt.Errorf("target.host %q is no host name or address", t.Host)
	case t.Port < 0 || t.Port > 65535:
		return fmt.Errorf("target.port %d is no port", t.Port)
	case t.User != "" && (t.User[0] == '-' || !plain(t.User, ".-_+@$\\")):
		return fmt.Errorf("target.user %q is no user name", t.User)
	case strings.HasPrefix(t.IdentityFile, "-"):
		return fmt.Errorf("target.identityFile %q must not start with '-'", t.IdentityFile)
	case strings.HasPrefix(t.ProxyJump, "-") || !plain(t.ProxyJump, ".-_:%[]@,/+"):
		return fmt.Errorf("target.proxyJump %q is no list of [user@]host[:port]", t.ProxyJump)
	}
	for _, k := range t.HostKeys {
		if f := strings.Fields(k); len(f) < 2 || strings.ContainsAny(k, "\n\r\x00") {
			return fmt.Errorf("target.hostKeys: %q is no \"TYPE BASE64\" public key", k)
		}
	}
	if t.Previous != nil {
		if err := t.Previous.Validate(); err != nil {
			return fmt.Errorf("target.previous: %w", err)
		}
	}
	return nil
}

// Login returns the user to log in as, [DefaultUser] when none is named.
func (t Target) Login() string {
	if t.User == "" {
		return DefaultUser
	}
	return t.User
}

// As prefixes argv with the target's sudo when it logs in as somebody else than root.
func (t Target) As(argv ...string) []string {
	if t.Login() == DefaultUser {
		return argv
	}
	return append(append([]string(nil), t.Sudo...), argv...)
}

// Through is the beginning of a line of shell, where t logs in as another user and has
// no sudo: it does as root what words say, by the host's nx-switch, which one rule of
// sudo lets that user start, and what follows it is for hosts without. It is "" when t
// has other means.
func (t Target) Through(words ...string) (string, error) {
	if t.Login() == DefaultUser || len(t.Sudo) > 0 {
		return "", nil
	}
	line, err := Quote(append([]string{"sudo", "-n", nxSwitch, SwitchProtocol}, words...)...)
	return "[ ! -x " + nxSwitch + " ] || exec " + line + "; ", err
}

// Reach calls dial for t, and else for the target before it, and returns the one that
// it reached. It logs connecting, with target, before each.
func Reach[C any](ctx context.Context, log *slog.Logger, t Target, dial func(context.Context, Target) (C, error)) (C, Target, error) {
	log.Info("connecting", "target", t.Host)
	conn, err := dial(ctx, t)
	if err == nil || t.Previous == nil || ctx.Err() != nil {
		return conn, t, err
	}
	log.Info("connecting", "target", t.Previous.Host, "previous", true, "error", err)
	conn, before := dial(ctx, *t.Previous)
	if before != nil {
		return conn, t, fmt.Errorf("%w; and as it was reached before: %w", err, before)
	}
	return conn, *t.Previous, nil
}

// nxSwitch is where a host has the door for users who are not root, and SwitchProtocol
// what it speaks.
const (
	nxSwitch       = "/run/current-system/sw/bin/nx-switch"
	SwitchProtocol = "1"
)

// Quote joins argv into one line of POSIX shell that runs exactly these words.
// A NUL cannot be an argument of any program and is refused.
func Quote(argv ...string) (string, error) {
	words := make([]string, len(argv))
	for i, a := range argv {
		if strings.IndexByte(a, 0) >= 0 {
			return "", errors.New("quote argument: it contains a NUL byte")
		}
		words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(words, " "), nil
}

// plain tells whether s has only ASCII letters, digits and the runes in extra.
func plain(s, extra string) bool {
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', strings.ContainsRune(extra, c):
		default:
			return false
		}
	}
	return true
}
