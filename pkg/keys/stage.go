package keys

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"nx/pkg/target"
)

// Script is what runs on a host, as root: POSIX sh functions, which do nothing
// until one is called.
//
//go:embed keys.sh
var Script string

// A Contents is a key and what is in it.
type Contents struct {
	Key  Key
	Text []byte
}

// A Run runs a POSIX sh script on a host as root, with its standard streams, and
// returns its exit status; an error means that it could not be run or that the
// connection broke.
type Run = func(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (status int, err error)

// Stage brings keys to a host, all that the network declares for it, to a folder in
// memory there that is root's alone. They are for the activation of the system of that
// name, the base name of its store path. What the host has already is not sent;
// sent counts the others. Nothing that the host uses is changed.
func Stage(ctx context.Context, run Run, name string, keys []Contents) (sent int, err error) {
	word, err := target.Quote(name)
	if err != nil {
		return 0, fmt.Errorf("stage keys: %w", err)
	}
	if sent, err = over(ctx, run, "keys_receive "+word, keys); err != nil {
		return 0, fmt.Errorf("stage keys: %w", err)
	}
	return sent, nil
}

// Install brings keys to a host and installs them at once, without an activation.
// Those that the network no longer declares stay unless prune is set.
func Install(ctx context.Context, run Run, keys []Contents, prune bool) (sent int, err error) {
	name := "now-" + rand.Text()
	if sent, err = over(ctx, run, fmt.Sprintf("keys_receive %s && keys_at_once %[1]s %s >&2", name, yes(&prune)), keys); err != nil {
		return 0, fmt.Errorf("install keys: %w", err)
	}
	return sent, nil
}

// over runs functions of the script, the first of which is keys_receive, and talks to it.
func over(ctx context.Context, run Run, functions string, keys []Contents) (sent int, err error) {
	stdin, told := io.Pipe()
	answers, said := io.Pipe()
	var stderr bytes.Buffer
	done := make(chan error, 1)
	go func() {
		status, err := run(ctx, Script+"\n"+functions, stdin, said, &stderr)
		if err == nil && status != 0 {
			err = failed(status, stderr.String())
		}
		// Whoever talks or listens learns why nobody else does.
		stdin.CloseWithError(cause(err))
		said.CloseWithError(cause(err))
		done <- err
	}()
	sent, err = send(told, bufio.NewReader(answers), keys)
	told.Close()
	answers.Close()
	if ended := <-done; err == nil {
		err = ended
	}
	return sent, err
}

// cause is err, or that there is nobody any more.
func cause(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// failed is why a script failed: the last line that it printed.
func failed(status int, said string) error {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return errors.New(last)
	}
	return fmt.Errorf("exit status %d", status)
}

// send is what the host's keys_receive listens to.
func send(w io.Writer, answers *bufio.Reader, keys []Contents) (sent int, err error) {
	salt := rand.Text()
	var ask strings.Builder
	ask.WriteString(salt + "\n")
	for _, k := range keys {
		ask.WriteString(k.Key.Path() + "\n")
	}
	if _, err := io.WriteString(w, ask.String()+"\n"); err != nil {
		return 0, err
	}
	// The whole manifest is made before any of it goes: a host that answers something
	// else than was asked gets nothing.
	var manifest bytes.Buffer
	for i, k := range keys {
		answer, err := line(answers)
		if err != nil {
			return 0, err
		}
		if words := strings.Fields(answer); len(words) > 0 && (words[0] == "refused" || words[0] == "protocol") {
			return 0, fmt.Errorf("the host's nx-switch says: %s", answer)
		}
		action, err := script(k.Key.Action)
		if err != nil {
			return 0, fmt.Errorf("key %s: action: %w", k.Key.ID, err)
		}
		sum := sha256.Sum256(append([]byte(salt), k.Text...))
		is, contents := "new", k.Text
		if k.as(hex.EncodeToString(sum[:]), answer) {
			is, contents = "same", nil
		} else {
			sent++
		}
		fmt.Fprintln(&manifest, strings.Join([]string{
			size(is == "new", len(contents)), size(action != "", len(action)),
			strconv.Itoa(i), is, when(&k.Key), k.Key.User, k.Key.Group, k.Key.Permissions, yes(k.Key.MakeDirs),
			hex.EncodeToString(sum[:]), units(k.Key.RestartUnits), k.Key.Path(),
		}, "\t"))
		manifest.Write(contents)
		manifest.WriteString(action)
	}
	manifest.WriteString("end\n")
	if _, err := w.Write(manifest.Bytes()); err != nil {
		return 0, err
	}
	if answer, err := line(answers); err != nil || answer != "staged" {
		return 0, errors.Join(fmt.Errorf("the host said %q", answer), err)
	}
	return sent, nil
}

// as tells whether the host's answer, "SUM USER UID GROUP GID MODE", is that the key
// is there as it should be.
func (k *Contents) as(sum, answer string) bool {
	f := strings.Fields(answer)
	if len(f) != 6 || f[0] != sum {
		return false
	}
	is, err := strconv.ParseUint(f[5], 8, 16)
	want, werr := strconv.ParseUint(k.Key.Permissions, 8, 16)
	return err == nil && werr == nil && is == want &&
		(k.Key.User == f[1] || k.Key.User == f[2]) && (k.Key.Group == f[3] || k.Key.Group == f[4])
}

// maxAnswer bounds what a host may say in one line.
const maxAnswer = 4096

func line(r *bufio.Reader) (string, error) {
	var text []byte
	for {
		b, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if b == '\n' {
			return string(text), nil
		}
		if text = append(text, b); len(text) > maxAnswer {
			return "", fmt.Errorf("the host says more than %d bytes in a line", maxAnswer)
		}
	}
}

// script is an action as the host runs it, "" when there is none.
func script(action []string) (string, error) {
	if len(action) == 0 {
		return "", nil
	}
	words, err := target.Quote(action...)
	return "exec " + words + "\n", err
}

func size(any bool, n int) string {
	if !any {
		return "-"
	}
	return strconv.Itoa(n)
}

func when(k *Key) string {
	if k.Late() {
		return "late"
	}
	return "early"
}

func yes(b *bool) string {
	if b != nil && !*b {
		return "no"
	}
	return "yes"
}

func units(units []string) string {
	if len(units) == 0 {
		return "-"
	}
	return strings.Join(units, ",")
}
