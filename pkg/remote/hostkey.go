package remote

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"nx/pkg/target"
)

// A hostKeys is what is known of one host's keys.
type hostKeys struct {
	names       []string // what to look for in known_hosts files, in this order; the first is the one to show
	principal   string   // the name that a host certificate must carry
	pinned      bool     // the keys are the target's own: no other is accepted and no file counts
	keys        []knownKey
	authorities []knownKey
	revoked     []knownKey
}

// A knownKey is a key and where it was found: "FILE:LINE", or "target.hostKeys".
type knownKey struct {
	ssh.PublicKey
	where string
}

// trusted collects the keys known for h: those of the target when it has any,
// else those of the known_hosts files.
func (d Dialer) trusted(h hop, cfg config) (*hostKeys, error) {
	name := strings.ToLower(cfg.hostName)
	k := &hostKeys{principal: name, names: []string{name}}
	switch {
	case cfg.hostKeyAlias != "":
		k.principal = cfg.hostKeyAlias
		k.names = []string{cfg.hostKeyAlias} // without the port, sshconnect.c: get_hostfile_hostname_ipaddr
	case cfg.port != target.DefaultPort:
		// ssh looks for the name without the port next (check_host_key, "checking without port identifier").
		k.names = []string{fmt.Sprintf("[%s]:%d", name, cfg.port), name}
	}
	if len(h.HostKeys) > 0 {
		k.pinned = true
		for _, line := range h.HostKeys {
			key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
			if err != nil {
				return nil, fmt.Errorf("target.hostKeys: parse %q: %w", line, err)
			}
			k.keys = append(k.keys, knownKey{key, "target.hostKeys"})
		}
		return k, nil
	}
	for _, name := range k.names {
		for _, file := range cfg.knownHosts {
			data, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read known hosts: %w", err)
			}
			k.read(file, data, name)
		}
		if len(k.keys)+len(k.authorities) > 0 {
			break // a further name counts only where the first is unknown
		}
	}
	return k, nil
}

// read adds what the text of a known_hosts file (sshd(8), SSH_KNOWN_HOSTS FILE
// FORMAT) says about name. As in ssh, lines that cannot be read say nothing,
// so that one new key type does not lock the user out of all hosts.
func (k *hostKeys) read(file string, data []byte, name string) {
	for i, line := range bytes.Split(data, []byte("\n")) {
		marker, patterns, key, _, _, err := ssh.ParseKnownHosts(line)
		if err != nil || !matchHost(patterns, name) {
			continue
		}
		known := knownKey{key, fmt.Sprintf("%s:%d", file, i+1)}
		switch marker {
		case "":
			k.keys = append(k.keys, known)
		case "cert-authority":
			k.authorities = append(k.authorities, known)
		case "revoked":
			k.revoked = append(k.revoked, known)
		}
	}
}

// matchHost tells whether the host patterns of one known_hosts line mean name.
func matchHost(patterns []string, name string) bool {
	matched := false
	for _, p := range patterns {
		if strings.HasPrefix(p, "|") {
			matched = matched || matchHashed(p, name)
			continue
		}
		p, negated := strings.CutPrefix(strings.ToLower(p), "!")
		if !matchPattern(p, strings.ToLower(name)) {
			continue
		}
		if negated {
			return false
		}
		matched = true
	}
	return matched
}

// matchHashed compares name with a hashed one, "|1|SALT|HASH": HMAC-SHA1 of the
// name under the salt, both in base 64 (hostfile.c, host_hash).
func matchHashed(hashed, name string) bool {
	f := strings.Split(hashed, "|")
	if len(f) != 4 || f[1] != "1" {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(f[2])
	if err != nil {
		return false
	}
	want, err := base64.StdEncoding.DecodeString(f[3])
	if err != nil {
		return false
	}
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(name))
	return hmac.Equal(mac.Sum(nil), want)
}

// matchPattern matches s against a pattern in which "*" stands for any
// characters and "?" for one; "[" is no class here (match.c, match_pattern).
func matchPattern(pattern, s string) bool {
	star, back := -1, 0 // the last "*" and how far it has swallowed s
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, back = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			back++
			p, i = star+1, back
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// algorithms returns the host key algorithms to offer, those of known keys
// first, so that a host with several keys shows one that we know. A pinned host
// is offered nothing else.
func (k *hostKeys) algorithms() []string {
	var certs, known, rest []string
	all := ssh.SupportedAlgorithms().HostKeys
	// Ed25519 before the rest, as in ssh: its keys are what people compare and copy.
	slices.SortStableFunc(all, func(a, b string) int { return order(a) - order(b) })
	for _, algo := range all {
		isCert := strings.Contains(algo, "-cert-")
		switch {
		case isCert && len(k.authorities) > 0:
			certs = append(certs, algo)
		case isCert:
		case slices.ContainsFunc(k.keys, func(n knownKey) bool { return n.Type() == keyType(algo) }):
			known = append(known, algo)
		default:
			rest = append(rest, algo)
		}
	}
	if k.pinned {
		return known
	}
	return slices.Concat(certs, known, rest)
}

func order(algo string) int {
	if strings.HasPrefix(algo, ssh.KeyAlgoED25519) {
		return 0
	}
	return 1
}

// keyType returns the type of the key that a signature algorithm uses; only RSA
// keys sign with algorithms of other names.
func keyType(algo string) string {
	if algo == ssh.KeyAlgoRSASHA256 || algo == ssh.KeyAlgoRSASHA512 {
		return ssh.KeyAlgoRSA
	}
	return algo
}

// check says why key is not accepted as the host's, or nil.
func (k *hostKeys) check(key ssh.PublicKey) error {
	refuse := func(reason string) error { return &hostKeyError{keys: k, key: key, reason: reason} }
	if cert, ok := key.(*ssh.Certificate); ok {
		if has(k.revoked, cert.Key) || has(k.revoked, cert.SignatureKey) {
			return refuse("is revoked")
		}
		checker := &ssh.CertChecker{IsHostAuthority: func(ca ssh.PublicKey, _ string) bool { return has(k.authorities, ca) }}
		err := checker.CheckHostKey(net.JoinHostPort(k.principal, "22"), nil, key)
		if err == nil {
			return nil
		}
		if !has(k.keys, cert.Key) { // the bare key may be known even so
			return refuse("is a certificate that does not hold: " + err.Error())
		}
		return nil
	}
	switch {
	case has(k.revoked, key):
		return refuse("is revoked")
	case has(k.keys, key):
		return nil
	case len(k.keys) == 0:
		return refuse("is not known")
	case k.pinned:
		return refuse("is not the one in target.hostKeys")
	}
	return refuse("has changed")
}

func has(known []knownKey, key ssh.PublicKey) bool {
	return slices.ContainsFunc(known, func(k knownKey) bool { return bytes.Equal(k.Marshal(), key.Marshal()) })
}

// A hostKeyError says that the key a host showed is not accepted, and why.
type hostKeyError struct {
	keys   *hostKeys
	key    ssh.PublicKey // nil when it showed none
	reason string
}

func (e *hostKeyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "host key of %s %s", e.keys.names[0], e.reason)
	if e.key != nil {
		fmt.Fprintf(&b, ": it shows %s %s", e.key.Type(), ssh.FingerprintSHA256(e.key))
	}
	for i, k := range e.keys.keys {
		if i > 0 {
			b.WriteString(" and")
		} else {
			b.WriteString(", expected")
		}
		fmt.Fprintf(&b, " %s %s (%s)", k.Type(), ssh.FingerprintSHA256(k), k.where)
	}
	return b.String()
}

// Hint says how a key is accepted that the user has made sure of.
func (e *hostKeyError) Hint() string {
	switch {
	case e.keys.pinned:
		return "if the host was made anew, put its new public key into target.hostKeys; if not, somebody may stand in between"
	case len(e.keys.keys) > 0:
		return fmt.Sprintf("if the host was made anew, remove its old key with: ssh-keygen -R %q; if not, somebody may stand in between", e.keys.names[0])
	case e.key != nil:
		if _, ok := e.key.(*ssh.Certificate); !ok {
			return fmt.Sprintf("compare the fingerprint with the host's, then log in once with ssh, or set target.hostKeys to [%q]",
				strings.TrimSpace(string(ssh.MarshalAuthorizedKey(e.key))))
		}
	}
	return "log in once with ssh, or put the host's public key into target.hostKeys"
}
