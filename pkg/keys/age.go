package keys

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"
)

// ReadIdentities reads files of what decrypts: identities of age, one a line, or an
// ssh private key, as age -i takes them.
func ReadIdentities(files []string) ([]age.Identity, error) {
	var all []age.Identity
	for _, file := range files {
		text, err := readFile(file)
		if err == nil {
			var found []age.Identity
			found, err = parseIdentities(text)
			all = append(all, found...)
		}
		if err != nil {
			return nil, fmt.Errorf("read identity %s: %w", file, err)
		}
	}
	return all, nil
}

func parseIdentities(text []byte) ([]age.Identity, error) {
	switch {
	case bytes.HasPrefix(text, []byte("age-encryption.org/")), bytes.HasPrefix(text, []byte(armor.Header)):
		return nil, &hinted{errors.New("it is encrypted with a passphrase"), "decrypt it to a file in memory for the time: age -d FILE > /dev/shm/identity"}
	case bytes.Contains(text, []byte("-----BEGIN")):
		id, err := agessh.ParseIdentity(text)
		if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
			return nil, &hinted{errors.New("it is an ssh key with a passphrase"), "use a key without one, or an identity of age: age-keygen -o FILE"}
		}
		if err != nil {
			return nil, err
		}
		return []age.Identity{id}, nil
	}
	return age.ParseIdentities(bytes.NewReader(text))
}

// ParseRecipients reads for whom to encrypt: recipients of age, ssh public keys, or
// files that have such, one a line.
func ParseRecipients(words []string) ([]age.Recipient, error) {
	lines, err := recipientLines(words)
	if err != nil {
		return nil, err
	}
	return parseLines(lines)
}

func parseLines(lines []string) ([]age.Recipient, error) {
	var all []age.Recipient
	for _, line := range lines {
		r, err := parseRecipient(line)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// recipientLines returns words with files replaced by the recipients in them.
func recipientLines(words []string) ([]string, error) {
	var all []string
	for _, word := range words {
		if strings.HasPrefix(word, "AGE-SECRET-KEY-") {
			return nil, errors.New("read recipient: it is a secret key, which is for --age-identity")
		}
		if isRecipient(word) {
			all = append(all, word)
			continue
		}
		text, err := os.ReadFile(word)
		if err != nil {
			return nil, fmt.Errorf("read recipient %s: it is neither age1…, an ssh public key nor a file: %w", word, bare(err))
		}
		before := len(all)
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			if !isRecipient(line) { // it may be a secret key
				return nil, fmt.Errorf("read recipient %s: it has a line that is neither age1… nor an ssh public key", word)
			}
			if _, err := parseRecipient(line); err != nil {
				return nil, fmt.Errorf("read recipient %s: %w", word, err)
			}
			all = append(all, line)
		}
		if len(all) == before {
			return nil, fmt.Errorf("read recipient %s: the file has none", word)
		}
	}
	return all, nil
}

func isRecipient(word string) bool {
	return strings.HasPrefix(word, "age1") || strings.HasPrefix(word, "ssh-")
}

func parseRecipient(word string) (r age.Recipient, err error) {
	if strings.HasPrefix(word, "ssh-") {
		r, err = agessh.ParseRecipient(word)
	} else {
		var found []age.Recipient
		if found, err = age.ParseRecipients(strings.NewReader(word)); err == nil {
			r = found[0]
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read recipient %s: %w", word, err)
	}
	return r, nil
}

// decrypt decrypts what age has encrypted, armored or not.
func decrypt(encrypted []byte, identities []age.Identity) ([]byte, error) {
	if len(identities) == 0 {
		return nil, &hinted{errors.New("no identity is given"), "name the file that has it with --age-identity FILE or in NX_AGE_IDENTITY"}
	}
	var in io.Reader = bytes.NewReader(encrypted)
	if bytes.HasPrefix(bytes.TrimSpace(encrypted), []byte(armor.Header)) {
		in = armor.NewReader(in)
	}
	out, err := age.Decrypt(in, identities...)
	if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
		return nil, &hinted{errors.New("it is encrypted for others than the identities given"), "name the right one with --age-identity FILE or in NX_AGE_IDENTITY"}
	}
	if err != nil {
		return nil, err
	}
	contents, err := io.ReadAll(out)
	if err != nil {
		return nil, err // what came before is not known to be whole
	}
	return contents, nil
}
