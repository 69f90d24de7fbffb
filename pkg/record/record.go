// Package record is one line of the stream: a JSON object about a host, a
// resource, or the stream itself. It keeps every member as it was read, gives
// typed access to the known ones by gjson, and validates what enters.
//
// README.md beside this file is the format's description; its examples are
// testdata/record/v1. Reading many lines, order, begin and end are pkg/stream's.
package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// Version is the format version that every record carries as "nx".
const Version = 1

// MaxLine is the longest line of a stream in bytes, its newline not counted.
const MaxLine = 1 << 20

// MaxLog is the longest log text in an error, in bytes.
const MaxLog = 64 << 10

// maxDepth bounds nesting, so that a hostile line cannot exhaust the stack.
const maxDepth = 512

// The kinds of records that nx knows. Others pass through untouched.
const (
	KindHost     = "host"
	KindResource = "resource"
	KindBegin    = "begin"
	KindEnd      = "end"
)

// order is the known members' order in what nx writes.
var order = []string{
	"nx", "kind", "type", "name", "tags", "target", "machine", "outputs", "change", "drift", "system",
	"drvPath", "deployment", "plan", "storePath", "closure", "copied", "activation", "error",
}

// A Record is one line of the stream: its members in order, each raw value as it
// was read. Accessors parse on demand; Set replaces or inserts one member and
// leaves every other byte alone.
type Record struct {
	line    []byte // as read; nil once a member changed
	members []member
	kind    string
	typ     string
	name    string
	cause   error // what Fail was given, for messages; never written
}

type member struct {
	key    string // decoded
	quoted []byte // the key as it was read, or as JSON quotes it
	raw    []byte // the value, byte for byte
}

func newMember(key string, raw []byte) member { return member{key, quote(key), raw} }

// split takes a JSON object apart.
func split(object gjson.Result) (members []member) {
	object.ForEach(func(k, v gjson.Result) bool {
		members = append(members, member{k.String(), []byte(k.Raw), []byte(v.Raw)})
		return true
	})
	return members
}

// An ID is what makes a record one of its stream: no two have the same.
type ID struct{ Kind, Type, Name string }

func (id ID) String() string {
	if id.Type == "" {
		return id.Kind + " " + id.Name
	}
	return id.Kind + " " + id.Type + "." + id.Name
}

// Parse reads one line without its newline. The error says what is wrong with
// it: no JSON object, a duplicate key at any depth, invalid UTF-8, another
// version, or a name that breaks the rules.
func Parse(line []byte) (*Record, error) {
	if len(line) > MaxLine {
		return nil, fmt.Errorf("the line is longer than %d bytes", MaxLine)
	}
	if !utf8.Valid(line) {
		return nil, errors.New("the line is not valid UTF-8")
	}
	if err := checkDepth(line); err != nil {
		return nil, err
	}
	if !gjson.ValidBytes(line) {
		return nil, fmt.Errorf("the line is no JSON: %s", excerpt(line))
	}
	line = bytes.Clone(line)
	root := gjson.ParseBytes(line)
	if !root.IsObject() {
		return nil, fmt.Errorf("the line is no JSON object: %s", excerpt(line))
	}
	if err := checkKeys(root, ""); err != nil {
		return nil, err
	}
	r := &Record{line: line, members: split(root)}
	return r, r.identify()
}

// NewHost makes the record of a host, with nothing but its name.
func NewHost(name string) (*Record, error) {
	r := &Record{}
	r.put("nx", []byte(fmt.Sprint(Version)))
	r.put("kind", quote(KindHost))
	r.put("name", quote(name))
	return r, r.identify()
}

// NewResource makes the record of a resource, with nothing but its type and name.
func NewResource(typ, name string) (*Record, error) {
	r := &Record{}
	r.put("nx", []byte(fmt.Sprint(Version)))
	r.put("kind", quote(KindResource))
	r.put("type", quote(typ))
	r.put("name", quote(name))
	return r, r.identify()
}

// identify checks version, kind and identity and remembers them.
func (r *Record) identify() error {
	switch v := r.Get("nx"); {
	case !v.Exists():
		return fmt.Errorf(`"nx" is missing: a record carries "nx": %d`, Version)
	case v.Raw != fmt.Sprint(Version):
		return fmt.Errorf(`"nx" is %s: this program reads version %d`, shown(v), Version)
	}
	r.kind = KindHost
	if k := r.Get("kind"); k.Exists() {
		if k.Type != gjson.String {
			return fmt.Errorf(`"kind" is %s, not a string`, shown(k))
		}
		r.kind = k.Str
	}
	var err error
	switch r.kind {
	case KindResource:
		if r.typ, err = r.word("type"); err != nil {
			return err
		}
		r.name, err = r.word("name")
	case KindHost:
		r.name, err = r.word("name")
	default:
		// Other kinds pass untouched, but a name of theirs orders them.
		r.typ, r.name = r.Get("type").String(), r.Get("name").String()
	}
	return err
}

func (r *Record) word(key string) (string, error) {
	v := r.Get(key)
	if !v.Exists() {
		return "", fmt.Errorf("%q is missing", key)
	}
	if v.Type != gjson.String {
		return "", fmt.Errorf("%q is %s, not a string", key, shown(v))
	}
	if err := CheckName(v.Str); err != nil {
		return "", fmt.Errorf("%q: %w", key, err)
	}
	return v.Str, nil
}

// CheckName refuses what cannot name a machine or a resource. Names become
// file names, store path names and arguments, so only letters, digits and
// "_.-" are allowed, neither dot nor dash in front, at most 128 bytes.
func CheckName(name string) error {
	if name == "" {
		return errors.New("the name is empty")
	}
	if len(name) > 128 {
		return fmt.Errorf("the name %s is longer than 128 characters", excerpt([]byte(name)))
	}
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case i > 0 && (c == '.' || c == '-'):
		default:
			return fmt.Errorf("the name %q has %q: only letters, digits, '_', and behind the first '.' and '-' are allowed", name, c)
		}
	}
	return nil
}

// Kind returns the record's kind; a line without one is a host's.
func (r *Record) Kind() string { return r.kind }

// Type returns a resource's type, such as "sshKeyPairs".
func (r *Record) Type() string { return r.typ }

// Name returns the machine's or resource's name.
func (r *Record) Name() string { return r.name }

// ID returns the record's identity.
func (r *Record) ID() ID { return ID{r.kind, r.typ, r.name} }

// Bytes returns the line without its newline: as it was read while nothing was
// set, else the known members in their order and the unknown ones behind them.
func (r *Record) Bytes() []byte {
	if r.line != nil {
		return r.line
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range r.members {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(m.quoted)
		b.WriteByte(':')
		b.Write(m.raw)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// Get returns the member with this key; Exists is false when there is none.
func (r *Record) Get(key string) gjson.Result {
	for _, m := range r.members {
		if m.key == key {
			return gjson.ParseBytes(m.raw)
		}
	}
	return gjson.Result{}
}

// Set replaces or inserts one member. value is anything that encoding/json
// marshals; a json.RawMessage stays byte for byte.
func (r *Record) Set(key string, value any) error {
	raw, err := marshal(value)
	if err != nil {
		return fmt.Errorf("set %s of %s: %w", key, r.name, err)
	}
	r.put(key, raw)
	return nil
}

// A Member is a key and its value inside an object.
type Member struct {
	Key   string
	Value any
}

// Merge sets members inside the object at key, in their order; the object's
// other members stay byte for byte. An absent object is made.
func (r *Record) Merge(key string, members ...Member) error {
	old := r.Get(key)
	if old.Exists() && !old.IsObject() {
		return fmt.Errorf("%q is %s, not an object", key, shown(old))
	}
	inner := Record{members: split(old)}
	for _, m := range members {
		raw, err := marshal(m.Value)
		if err != nil {
			return fmt.Errorf("set %s.%s of %s: %w", key, m.Key, r.name, err)
		}
		if i := inner.index(m.Key); i >= 0 {
			inner.members[i].raw = raw
		} else {
			inner.members = append(inner.members, newMember(m.Key, raw))
		}
	}
	r.put(key, inner.Bytes())
	return nil
}

// Delete removes members; absent ones are no error.
func (r *Record) Delete(keys ...string) {
	for _, k := range keys {
		if i := r.index(k); i >= 0 {
			r.members = slices.Delete(r.members, i, i+1)
			r.changed()
		}
	}
}

func (r *Record) index(key string) int {
	return slices.IndexFunc(r.members, func(m member) bool { return m.key == key })
}

func (r *Record) put(key string, raw []byte) {
	if i := r.index(key); i >= 0 {
		if bytes.Equal(r.members[i].raw, raw) {
			return
		}
		r.members[i].raw = raw
	} else {
		r.members = append(r.members, newMember(key, raw))
	}
	r.changed()
}

// changed brings the members into the order in which they are written.
func (r *Record) changed() {
	r.line = nil
	if r.index("kind") < 0 && r.kind != "" {
		r.members = append(r.members, newMember("kind", quote(r.kind)))
	}
	rank := func(m member) int {
		if i := slices.Index(order, m.key); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(r.members, func(a, b member) int { return rank(a) - rank(b) })
}

// marshal is json.Marshal without HTML's escapes, which people read badly.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func quote(s string) []byte {
	b, err := marshal(s)
	if err != nil {
		panic(err) // a string always marshals
	}
	return b
}

// shown is a JSON value as a message shows it.
func shown(v gjson.Result) string {
	const n = 60
	if len(v.Raw) > n {
		return strings.ToValidUTF8(v.Raw[:n], "") + "…"
	}
	return v.Raw
}

// excerpt quotes what a message can show of a value of any length.
func excerpt(b []byte) string {
	const n = 60
	if len(b) > n {
		return fmt.Sprintf("%q…", strings.ToValidUTF8(string(b[:n]), ""))
	}
	return fmt.Sprintf("%q", b)
}

func checkDepth(line []byte) error {
	depth, quoted, escaped := 0, false, false
	for _, c := range line {
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return fmt.Errorf("the line is nested more than %d deep", maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// checkKeys finds a key that an object has twice, where in JSON the meaning
// depends on the reader.
func checkKeys(v gjson.Result, at string) (err error) {
	switch {
	case v.IsObject():
		seen := map[string]bool{}
		v.ForEach(func(k, e gjson.Result) bool {
			key := k.String()
			if seen[key] {
				err = fmt.Errorf("the key %q stands there twice", at+key)
				return false
			}
			seen[key] = true
			err = checkKeys(e, at+key+".")
			return err == nil
		})
	case v.IsArray():
		v.ForEach(func(_, e gjson.Result) bool {
			err = checkKeys(e, at)
			return err == nil
		})
	}
	return err
}
