package nixcmd

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"nx/pkg/store"
)

// A derivation is what is needed here of one.
type derivation struct {
	outputs  map[string]string // paths by name
	platform string            // "x86_64-linux"
}

// outOf returns the path of a derivation's output "out", from its file.
func outOf(drv store.Path) (store.Path, error) {
	d, err := readDerivation(drv)
	if err != nil {
		return "", err
	}
	out, ok := d.outputs["out"]
	if !ok {
		return "", errors.New(`read derivation: it has no output "out"`)
	}
	return store.Parse(out)
}

// readDerivation reads a derivation's file in the store.
func readDerivation(drv store.Path) (derivation, error) {
	text, err := os.ReadFile(string(drv))
	if err != nil {
		return derivation{}, err
	}
	d, err := parseDerivation(string(text))
	if err != nil {
		return derivation{}, fmt.Errorf("read derivation: %w", err)
	}
	return d, nil
}

// parseDerivation reads a derivation in its text form (Nix manual, derivation, ATerm
// format) as far as the platform:
//
//	Derive([("out","/nix/store/…","",""),…],[("/nix/store/….drv",["out",…]),…],["/nix/store/…",…],"x86_64-linux",…
func parseDerivation(text string) (derivation, error) {
	d := derivation{outputs: map[string]string{}}
	r := &aterm{rest: text}
	r.skip("Derive(")
	r.list(func() {
		var tuple [4]string
		for i, before := range [4]string{"(", ",", ",", ","} {
			r.skip(before)
			tuple[i] = r.text()
		}
		r.skip(")")
		d.outputs[tuple[0]] = tuple[1]
	})
	r.skip(",")
	r.list(func() { // derivations it needs
		r.skip("(")
		r.text()
		r.skip(",")
		r.list(func() { r.text() })
		r.skip(")")
	})
	r.skip(",")
	r.list(func() { r.text() }) // files it needs
	r.skip(",")
	d.platform = r.text()
	return d, r.err
}

// An aterm is read from its beginning. After an error nothing more is read.
type aterm struct {
	rest string
	err  error
}

func (r *aterm) skip(word string) {
	if r.err != nil {
		return
	}
	rest, ok := strings.CutPrefix(r.rest, word)
	if !ok {
		r.err = fmt.Errorf("want %q before %.20q", word, r.rest)
		return
	}
	r.rest = rest
}

// list reads a list whose elements element reads.
func (r *aterm) list(element func()) {
	r.skip("[")
	for first := true; r.err == nil; first = false {
		if rest, ok := strings.CutPrefix(r.rest, "]"); ok {
			r.rest = rest
			return
		}
		if !first {
			r.skip(",")
		}
		element()
	}
}

// text reads one quoted string. Names and paths need no escapes, so one that has
// any is refused.
func (r *aterm) text() string {
	r.skip(`"`)
	if r.err != nil {
		return ""
	}
	value, rest, ok := strings.Cut(r.rest, `"`)
	if !ok || strings.Contains(value, `\`) {
		r.err = fmt.Errorf("want a string before %.20q", r.rest)
		return ""
	}
	r.rest = rest
	return value
}
