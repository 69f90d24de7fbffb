package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
)

// Version of the file's format. Every added or changed member raises it, since an
// older nx would drop what it does not know when it writes.
const Version = 2

// Machines is the type of the entries that are machines; all others are resources.
const Machines = "machines"

// An Entry is what is remembered of one machine or resource. The objects in it have
// no absolute path and no secret but in Secrets.
type Entry struct {
	Type       string            `json:"-"`                    // [Machines] or a resource's type, such as "sshKeyPairs"
	Name       string            `json:"-"`                    // the network's name for it
	Provider   string            `json:"provider"`             // "digitalOcean"
	Tags       []string          `json:"tags,omitempty"`       // the machine's, sorted
	Intent     string            `json:"intent,omitempty"`     // what was asked of the provider and not yet seen done: "create", "update", "destroy"
	Token      string            `json:"token,omitempty"`      // what the thing is found by while its ID is not known
	ID         string            `json:"id,omitempty"`         // the provider's
	State      string            `json:"state,omitempty"`      // as last seen: "up", "stopped", …
	Properties json.RawMessage   `json:"properties,omitempty"` // an object: what it was made with, by name
	Outputs    json.RawMessage   `json:"outputs,omitempty"`    // an object: what is known since it was made
	Target     json.RawMessage   `json:"target,omitempty"`     // an object: where ssh reaches a machine, as in its record
	Reached    json.RawMessage   `json:"reached,omitempty"`    // an object: where it was reached last
	Needs      []string          `json:"needs,omitempty"`      // TYPE.NAME of what must be destroyed after it: "sshKeyPairs.admin"
	Secrets    map[string]Secret `json:"secrets,omitempty"`    // by name: private keys, passphrases
}

func (e Entry) clone() Entry {
	e.Tags = slices.Clone(e.Tags)
	e.Properties = bytes.Clone(e.Properties)
	e.Outputs = bytes.Clone(e.Outputs)
	e.Target = bytes.Clone(e.Target)
	e.Reached = bytes.Clone(e.Reached)
	e.Needs = slices.Clone(e.Needs)
	e.Secrets = maps.Clone(e.Secrets)
	return e
}

// normal returns a copy of e whose objects have one form each, so that equal ones
// have equal bytes.
func (e Entry) normal() (Entry, error) {
	if e.Type == "" || e.Name == "" || e.Provider == "" {
		return e, fmt.Errorf("%s %q of provider %q: an entry needs all three", e.Type, e.Name, e.Provider)
	}
	e = e.clone()
	for _, o := range []struct {
		name string
		raw  *json.RawMessage
	}{{"properties", &e.Properties}, {"outputs", &e.Outputs}, {"target", &e.Target}, {"reached", &e.Reached}} {
		var err error
		if *o.raw, err = canonical(*o.raw); err != nil {
			return e, fmt.Errorf("%s %s: %s: %w", e.Type, e.Name, o.name, err)
		}
	}
	return e, nil
}

// content is what a state's file says.
type content struct {
	UUID       string
	Name       string
	Recipients []string                    // sorted; all secrets are sealed for them
	Resources  map[string]map[string]Entry // by type and name
}

func (c content) clone() content {
	c.Recipients = slices.Clone(c.Recipients)
	c.Resources = maps.Clone(c.Resources)
	for typ, entries := range c.Resources {
		c.Resources[typ] = maps.Clone(entries)
	}
	return c
}

// entries returns all entries.
func (c content) entries() []Entry {
	var all []Entry
	for _, entries := range c.Resources {
		all = slices.AppendSeq(all, maps.Values(entries))
	}
	return all
}

// clear says whether there are secrets that anybody can read who has the file.
func (c content) clear() bool {
	for _, e := range c.entries() {
		for _, x := range e.Secrets {
			if len(x.s.sealed) == 0 {
				return true
			}
		}
	}
	return false
}

// A file is a state's form in JSON.
type file struct {
	Version    int                             `json:"version"`
	UUID       string                          `json:"uuid"`
	Name       string                          `json:"name"`
	Recipients []string                        `json:"recipients,omitempty"`
	Resources  map[string]map[string]fileEntry `json:"resources"`
}

// A fileEntry is an entry with its secrets. Of the two members named secrets the outer
// one counts (encoding/json).
type fileEntry struct {
	Entry
	Secrets map[string]fileSecret `json:"secrets,omitempty"`
}

// A fileSecret is a text in the clear, or {"sealed": its bytes in base64}.
type fileSecret struct{ Secret }

type sealedSecret struct {
	Sealed []byte `json:"sealed"`
}

func (x fileSecret) MarshalJSON() ([]byte, error) {
	if len(x.s.sealed) > 0 {
		return json.Marshal(sealedSecret{x.s.sealed})
	}
	return json.Marshal(*x.s.plain)
}

func (x *fileSecret) UnmarshalJSON(b []byte) error {
	x.s = &secret{}
	if b[0] != '{' {
		return json.Unmarshal(b, &x.s.plain)
	}
	var sealed sealedSecret
	err := strict(b, &sealed)
	x.s.sealed = sealed.Sealed
	return err
}

func (e Entry) file() fileEntry {
	f := fileEntry{Entry: e, Secrets: map[string]fileSecret{}}
	for name, x := range e.Secrets {
		f.Secrets[name] = fileSecret{x}
	}
	return f
}

// same says whether the file would not show the difference.
func same(a, b Entry) bool {
	x, errX := json.Marshal(a.file())
	y, errY := json.Marshal(b.file())
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func format(c content) ([]byte, error) {
	f := file{Version: Version, UUID: c.UUID, Name: c.Name, Recipients: c.Recipients, Resources: map[string]map[string]fileEntry{}}
	for typ, entries := range c.Resources {
		f.Resources[typ] = map[string]fileEntry{}
		for name, e := range entries {
			f.Resources[typ][name] = e.file()
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(f)
	return b.Bytes(), err
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// parse reads the file. What it does not understand it refuses: the next write would
// destroy it.
func parse(b []byte) (content, error) {
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return content{}, fmt.Errorf("it is damaged: %w", err)
	}
	var f file
	var err error
	switch version.Version {
	case Version:
		err = strict(b, &f)
	case 1:
		f, err = parse1(b)
	default:
		err := fmt.Errorf("it has version %d, and this nx knows version %d", version.Version, Version)
		if version.Version > Version {
			return content{}, &hinted{err, "a newer nx wrote it: use that one, or a newer one"}
		}
		return content{}, err
	}
	if err != nil {
		return content{}, fmt.Errorf("it is damaged: %w", err)
	}
	c, err := f.content()
	if err != nil {
		return content{}, fmt.Errorf("it is damaged: %w", err)
	}
	return c, nil
}

// content checks a file.
func (f file) content() (content, error) {
	c := content{UUID: f.UUID, Name: f.Name, Recipients: slices.Compact(slices.Sorted(slices.Values(f.Recipients))), Resources: map[string]map[string]Entry{}}
	if !uuidForm.MatchString(c.UUID) {
		return c, fmt.Errorf("uuid %q is none", c.UUID)
	}
	if slices.Contains(c.Recipients, "") {
		return c, errors.New("a recipient is empty")
	}
	for typ, entries := range f.Resources {
		c.Resources[typ] = map[string]Entry{}
		for name, fe := range entries {
			e := fe.Entry
			e.Type, e.Name = typ, name
			e, err := e.normal()
			if err != nil {
				return c, err
			}
			for of, x := range fe.Secrets {
				switch {
				case x.s == nil || x.s.plain == nil && len(x.s.sealed) == 0:
					return c, fmt.Errorf("%s %s: secret %s is empty", typ, name, of)
				case x.s.plain == nil && len(c.Recipients) == 0:
					return c, fmt.Errorf("%s %s: secret %s is sealed, and there are no recipients", typ, name, of)
				case x.s.plain == nil:
					x.s.of = audience(c.Recipients)
				}
				if e.Secrets == nil {
					e.Secrets = map[string]Secret{}
				}
				e.Secrets[of] = x.Secret
			}
			c.Resources[typ][name] = e
		}
	}
	return c, nil
}

// parse1 reads version 1. Its entries had "facts" that only their provider understood,
// none of them secret; they are the outputs.
func parse1(b []byte) (file, error) {
	var old struct {
		Version   int    `json:"version"`
		UUID      string `json:"uuid"`
		Name      string `json:"name"`
		Resources map[string]map[string]struct {
			Provider string          `json:"provider"`
			Tags     []string        `json:"tags"`
			Facts    json.RawMessage `json:"facts"`
		} `json:"resources"`
	}
	err := strict(b, &old)
	f := file{UUID: old.UUID, Name: old.Name, Resources: map[string]map[string]fileEntry{}}
	for typ, entries := range old.Resources {
		f.Resources[typ] = map[string]fileEntry{}
		for name, e := range entries {
			f.Resources[typ][name] = fileEntry{Entry: Entry{Provider: e.Provider, Tags: e.Tags, Outputs: e.Facts}}
		}
	}
	return f, err
}

// strict reads b into v, and refuses members that v does not have.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// canonical gives a JSON object one form, with sorted keys; null is none.
func canonical(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("read %q: %w", raw, err)
	}
	if v == nil {
		return nil, nil
	}
	_, end := d.Token()
	if _, ok := v.(map[string]any); !ok || end != io.EOF {
		return nil, fmt.Errorf("%q is no object", raw)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
