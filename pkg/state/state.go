// Package state is what provisioning must remember: which deployment this is and
// which machines and resources it has made, with each provider's own facts about
// them. It is one JSON file, .nx/state.json, with sorted keys and no absolute path
// in it:
//
//	{
//	  "version": 1,
//	  "uuid": "0e9dd6b1-…",
//	  "name": "shop",
//	  "resources": {
//	    "machines": {
//	      "web1": {"provider": "sandbox", "tags": ["web"], "facts": {"address": "10.231.4.2", …}}
//	    }
//	  }
//	}
//
// The package knows neither providers nor what their facts mean. Facts must hold no
// secret. A network that provisions nothing needs no state and has none.
package state

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
)

// Path is where the state is below a tool's --root.
const Path = ".nx/state.json"

// Version of the file's format. Every added or changed member raises it, since an
// older nx would drop what it does not know when it writes.
const Version = 1

// Machines is the type of the entries that are machines; all others are resources.
const Machines = "machines"

// A State is a deployment's memory. Its methods may be called concurrently.
type State struct {
	path string
	lock *flock.Flock // nil when it was read only

	mu      sync.Mutex
	content content
}

// An Entry is what is remembered of one machine or resource.
type Entry struct {
	Type     string          `json:"-"` // [Machines] or a resource's type, such as "sshKeyPairs"
	Name     string          `json:"-"`
	Provider string          `json:"provider"` // "sandbox"
	Tags     []string        `json:"tags,omitempty"`
	Facts    json.RawMessage `json:"facts,omitempty"` // the provider's own; an object
}

// content is the file.
type content struct {
	Version   int                         `json:"version"`
	UUID      string                      `json:"uuid"`
	Name      string                      `json:"name"`
	Resources map[string]map[string]Entry `json:"resources"`
}

// Read returns the state in file as it is now, not to be changed. When there is no
// file it is empty, with no UUID.
func Read(file string) (*State, error) {
	s := &State{path: file}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		s.content = content{Version: Version, Resources: map[string]map[string]Entry{}}
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if s.content, err = parse(b); err != nil {
		return nil, &readError{file, err}
	}
	return s, nil
}

// A readError is why a state that is there cannot be used.
type readError struct {
	file string
	err  error
}

func (e *readError) Error() string { return fmt.Sprintf("read state %s: %v", e.file, e.err) }

func (e *readError) Unwrap() error { return e.err }

// Hint says what to do about it. To remove the file is no advice: what it
// remembers would be made again beside what is there.
func (e *readError) Hint() string {
	return "it was left as it is, and nothing was done: put back a copy of it; only it knows what nx-provision made"
}

// Open returns the state in file to be changed, and keeps others from changing it
// until [State.Close] or the end of the process. When another process has it, wait
// is called once, then Open waits. A new state has a new UUID; it gets its file with
// the first [State.Put].
func Open(ctx context.Context, file string, wait func()) (*State, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	lock := flock.New(file+".lock", flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	if err == nil && !locked {
		wait()
		if _, err = lock.TryLockContext(ctx, 50*time.Millisecond); ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lock state %s: %w", file, err)
	}
	s, err := Read(file)
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	s.lock = lock
	if s.content.UUID == "" {
		s.content.UUID = newUUID()
	}
	return s, nil
}

// Close lets others change the state.
func (s *State) Close() error {
	if s.lock == nil {
		return nil
	}
	if err := s.lock.Unlock(); err != nil {
		return fmt.Errorf("unlock state %s: %w", s.path, err)
	}
	return nil
}

// UUID identifies the deployment, "" when there is no state yet: a random UUID
// (RFC 9562, version 4).
func (s *State) UUID() string { return s.content.UUID }

// Name returns the deployment's name as of the last change, "" when there was none.
func (s *State) Name() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.content.Name
}

// SetName names the deployment. It is written with the next change.
func (s *State) SetName(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.content.Name = name
}

// Get returns what is remembered of one machine or resource.
func (s *State) Get(typ, name string) (Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.content.Resources[typ][name]
	return e, ok
}

// Entries returns all of one type, in the order of their names.
func (s *State) Entries(typ string) []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Entry
	for _, e := range s.content.Resources[typ] {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// Put remembers e in place of what was there. When it returns nil, e is on the disk
// and survives a crash of this machine.
func (s *State) Put(e Entry) error {
	if e.Type == "" || e.Name == "" || e.Provider == "" {
		return fmt.Errorf("remember %s %q of provider %q: an entry needs all three", e.Type, e.Name, e.Provider)
	}
	facts, err := compact(e.Facts)
	if err != nil {
		return fmt.Errorf("remember %s %s: %w", e.Type, e.Name, err)
	}
	e.Facts = facts
	e.Tags = slices.Clone(e.Tags)
	return s.change("remember", e.Type, e.Name, func(m map[string]Entry) (changed bool) {
		old, ok := m[e.Name]
		m[e.Name] = e
		return !ok || old.Provider != e.Provider || !slices.Equal(old.Tags, e.Tags) || !bytes.Equal(old.Facts, e.Facts)
	})
}

// Delete forgets one machine or resource. When it returns nil, that is on the disk.
func (s *State) Delete(typ, name string) error {
	return s.change("forget", typ, name, func(m map[string]Entry) bool {
		_, ok := m[name]
		delete(m, name)
		return ok
	})
}

// change lets f edit the entries of one type and writes the file when f says that
// they changed. What could not be written is not remembered here either.
func (s *State) change(verb, typ, name string, f func(map[string]Entry) bool) error {
	if s.lock == nil {
		return fmt.Errorf("%s %s %s: the state was not opened to be changed", verb, typ, name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.content.Resources
	next := map[string]map[string]Entry{}
	for t, entries := range old {
		next[t] = entries
	}
	entries := map[string]Entry{}
	for n, e := range old[typ] {
		entries[n] = e
	}
	if !f(entries) {
		return nil
	}
	if next[typ] = entries; len(entries) == 0 {
		delete(next, typ)
	}
	s.content.Resources = next
	if err := s.write(); err != nil {
		s.content.Resources = old
		return fmt.Errorf("%s %s %s: write state: %w", verb, typ, name, err)
	}
	return nil
}

func (s *State) write() error {
	b, err := format(s.content)
	if err != nil {
		return err
	}
	dir := filepath.Dir(s.path)
	if err := renameio.WriteFile(s.path, b, 0o600, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600)); err != nil {
		return err
	}
	// The new name too must survive a crash.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func format(c content) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(c)
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
	if version.Version != Version {
		return content{}, fmt.Errorf("it has version %d, and this nx knows version %d", version.Version, Version)
	}
	var c content
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return content{}, fmt.Errorf("it is damaged: %w", err)
	}
	if !uuidForm.MatchString(c.UUID) {
		return content{}, fmt.Errorf("it is damaged: uuid %q is none", c.UUID)
	}
	if c.Resources == nil {
		c.Resources = map[string]map[string]Entry{}
	}
	for typ, entries := range c.Resources {
		for name, e := range entries {
			if typ == "" || name == "" || e.Provider == "" {
				return content{}, fmt.Errorf("it is damaged: %s %q has no type, name or provider", typ, name)
			}
			facts, err := compact(e.Facts)
			if err != nil {
				return content{}, fmt.Errorf("it is damaged: %s %s: %w", typ, name, err)
			}
			e.Type, e.Name, e.Facts = typ, name, facts
			entries[name] = e
		}
	}
	return c, nil
}

// compact gives facts one form, so that equal ones have equal bytes.
func compact(facts json.RawMessage) (json.RawMessage, error) {
	if len(facts) == 0 {
		return nil, nil
	}
	var b bytes.Buffer
	if err := json.Compact(&b, facts); err != nil {
		return nil, fmt.Errorf("facts %q: %w", facts, err)
	}
	if b.Bytes()[0] != '{' {
		return nil, fmt.Errorf("facts %q are no object", facts)
	}
	return b.Bytes(), nil
}

func newUUID() string {
	b := make([]byte, 16)
	rand.Read(b)
	b[6] = b[6]&0x0f | 0x40 // version 4
	b[8] = b[8]&0x3f | 0x80 // the variant of RFC 9562
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
