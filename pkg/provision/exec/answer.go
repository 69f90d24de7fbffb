package exec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"nx/pkg/provision"
	"nx/pkg/target"
)

// host is the kind of a request for a machine, as in records.
const host = "host"

// A request is the line that a program reads.
type request struct {
	NX         int                        `json:"nx"`
	Op         string                     `json:"op"`
	Kind       string                     `json:"kind"`
	Name       string                     `json:"name"`
	Token      string                     `json:"token,omitempty"`
	Again      bool                       `json:"again,omitempty"`
	ID         string                     `json:"id,omitempty"`
	Properties map[string]json.RawMessage `json:"properties"`
	Changed    []string                   `json:"changed,omitempty"`
	Outputs    json.RawMessage            `json:"outputs,omitempty"`
	HostKey    *hostKey                   `json:"hostKey,omitempty"`
}

type hostKey struct {
	Private string `json:"private"`
	Public  string `json:"public"`
}

// An answer is one line that a program writes: a message, something to remember, or
// its result.
type answer struct {
	Message  *string `json:"message"`
	Remember *things `json:"remember"`

	things
	Error *string `json:"error"`
	Hint  string  `json:"hint"`
	Made  *bool   `json:"made"`
}

// things are what a program knows of a machine or resource.
type things struct {
	ID               string         `json:"id"`
	State            string         `json:"state"`
	Outputs          map[string]any `json:"outputs"`
	Properties       map[string]any `json:"properties"`
	Target           *place         `json:"target"`
	HostKeyInstalled bool           `json:"hostKeyInstalled"`
}

// A place is a target as records have it.
type place struct {
	Host         string   `json:"host"`
	Port         int      `json:"port"`
	User         string   `json:"user"`
	HostKeys     []string `json:"hostKeys"`
	IdentityFile string   `json:"identityFile"`
	Sudo         []string `json:"sudo"`
	ProxyJump    string   `json:"proxyJump"`
}

// maxLine is how long a line may be, in bytes: what it says has to fit into a record.
const maxLine = 512 << 10

// parse reads one line.
func parse(line []byte) (*answer, error) {
	if len(line) > maxLine {
		return nil, fmt.Errorf("it is longer than %d bytes", maxLine)
	}
	if !utf8.Valid(line) {
		return nil, errors.New("it is no UTF-8")
	}
	if b := bytes.TrimLeft(line, " \t\r"); len(b) == 0 || b[0] != '{' || !json.Valid(line) {
		return nil, fmt.Errorf("it is no JSON object: %q", excerpt(string(line)))
	}
	var a answer
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if err := d.Decode(&a); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			return nil, fmt.Errorf("%s is of the wrong form: %s", strings.TrimPrefix(wrong.Field, "things."), wrong.Value)
		}
		return nil, err
	}
	return &a, nil
}

// facts are what t says as nx has it. Of the properties those that wanted wants count.
func (t *things) facts(kind string, wanted func(string) bool) (f provision.Facts, err error) {
	if t.ID != "" && (len(t.ID) > 256 || strings.ContainsFunc(t.ID, unicode.IsControl)) {
		return f, fmt.Errorf("id %q is longer than 256 bytes or not plain text", excerpt(t.ID))
	}
	f.ID, f.State, f.Injected = t.ID, provision.State(t.State), t.HostKeyInstalled
	switch f.State {
	case "", provision.Up, provision.Stopped, provision.Unreachable, provision.Missing:
	default:
		return f, fmt.Errorf(`state is %q, and known are "up", "stopped", "unreachable", "missing"`, excerpt(t.State))
	}
	if len(t.Outputs) > 0 {
		for _, name := range []string{"provider", "id", "state"} {
			if _, ok := t.Outputs[name]; ok && kind == host {
				return f, fmt.Errorf("outputs.%s: a machine has that already", name)
			}
		}
		if f.Outputs, err = json.Marshal(t.Outputs); err != nil {
			return f, err
		}
	}
	for name, v := range t.Properties {
		if wanted(name) {
			if f.Properties == nil {
				f.Properties = map[string]any{}
			}
			f.Properties[name] = v
		}
	}
	if t.Target != nil && kind == host {
		f.Target = target.Target{Host: t.Target.Host, Port: t.Target.Port, User: t.Target.User, HostKeys: t.Target.HostKeys,
			IdentityFile: t.Target.IdentityFile, Sudo: t.Target.Sudo, ProxyJump: t.Target.ProxyJump}
		if err := f.Target.Validate(); err != nil {
			return f, err
		}
	}
	return f, nil
}

// result is what a last line says of what was asked.
func (a *answer) result(r request, wanted func(string) bool) (provision.Facts, error) {
	f, err := a.facts(r.Kind, wanted)
	if err != nil || f.State != "" {
		return f, err
	}
	switch r.Op {
	case "read":
		return f, errors.New("it says no state")
	case "stop":
		f.State = provision.Stopped
	case "destroy":
		f.State = provision.Missing
	default:
		f.State = provision.Up
	}
	return f, nil
}

// failure is the error that a last line says.
func (a *answer) failure() error {
	text := oneLine(*a.Error)
	if text == "" {
		text = "it says an error without a text"
	}
	err := &refused{error: errors.New(text), hint: oneLine(a.Hint)}
	if a.Made != nil && !*a.Made {
		return err
	}
	return &failed{err}
}

// A refused error is one of a creation that left nothing.
type refused struct {
	error
	hint string
}

func (e *refused) Unwrap() []error { return []error{e.error, provision.ErrNotMade} }
func (e *refused) Hint() string    { return e.hint }

// A failed error is one that may have left something.
type failed struct{ said *refused }

func (e *failed) Error() string { return e.said.Error() }
func (e *failed) Hint() string  { return e.said.hint }

// oneLine is a foreign text for people.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
	return excerpt(strings.Join(strings.Fields(s), " "))
}

// excerpt is at most the first thousand bytes of a text.
func excerpt(s string) string {
	if len(s) <= 1000 {
		return s
	}
	return strings.ToValidUTF8(s[:1000], "") + "…"
}
