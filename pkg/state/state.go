// Package state is what provisioning must remember: which deployment this is and
// which machines and resources it has made or is making. It is one JSON text, in a
// file, .nx/state.json, or in an S3 bucket:
//
//	{
//	  "version": 2,
//	  "uuid": "0e9dd6b1-…",
//	  "name": "shop",
//	  "recipients": ["age1…"],
//	  "resources": {
//	    "machines": {
//	      "web1": {
//	        "provider": "digitalOcean",
//	        "tags": ["web"],
//	        "intent": "create",
//	        "token": "nx-0e9dd6b1-web1",
//	        "id": "4711",
//	        "state": "up",
//	        "properties": {"region": "ams3", "size": "s-1vcpu-1gb"},
//	        "outputs": {"publicIPv4": "192.0.2.7"},
//	        "target": {"host": "192.0.2.7", "hostKeys": ["ssh-ed25519 AAAA…"]},
//	        "reached": {"host": "192.0.2.7"},
//	        "needs": ["sshKeyPairs.admin"],
//	        "secrets": {"hostKey": {"sealed": "YWdl…"}}
//	      }
//	    }
//	  }
//	}
//
// The names of types, of entries and of what is in their objects are sorted; empty
// members are left out. There is no absolute path in it, and no secret but under
// "secrets": there it is sealed for the recipients, {"sealed": age's bytes in base64}.
// Without recipients it is a text in the clear, and only the file's owner may read it.
//
// The package knows neither providers nor what their objects mean, and the encryption
// only as a [Sealer]. A network that provisions nothing needs no state and has none.
// README.md is for who operates it.
package state

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Path is where the state is below a tool's --root, unless it is elsewhere.
const Path = ".nx/state.json"

// Options are how a state is opened. All may be left out.
type Options struct {
	// Sealer seals and opens secrets.
	Sealer Sealer

	// Wait is told once who has the state when Open must wait for it.
	Wait func(Holder)
}

// A State is a deployment's memory. Its methods may be called concurrently.
type State struct {
	sealer  Sealer
	storage storage
	version string // of what was read or written last; the writer's

	writers sync.WaitGroup // the goroutine that writes

	mu      sync.Mutex
	locked  bool // it may be changed
	name    string
	content content // as it is stored
	writing bool    // there is a writer, which takes what is queued
	queue   []*change
}

// A change is part of one write of the state.
type change struct {
	apply func(*content) (changed bool, err error) // leaves the content alone when it has an error
	done  chan error
}

// Read returns the state at location as it is now, not to be changed. A location is a
// file or s3://BUCKET/KEY, as README.md says. Where nothing is, the state is empty,
// with no UUID.
func Read(ctx context.Context, location string, o Options) (*State, error) {
	storage, err := at(ctx, location)
	s := &State{sealer: o.Sealer, storage: storage}
	if err == nil {
		err = s.load(ctx, false)
	}
	if err != nil {
		return nil, fmt.Errorf("read state %s: %w", location, err)
	}
	return s, nil
}

// Open returns the state at location to be changed, and keeps others from changing it
// until [State.Close]; the lock of a file ends with the process at the latest. A new
// state has a new UUID; it is written with the first change.
//
// When the sealer names other recipients than the state has, or the state has secrets
// in the clear and may have them sealed, they are sealed and written at once. To give
// them to other recipients needs an identity that opens them.
func Open(ctx context.Context, location string, o Options) (*State, error) {
	storage, err := at(ctx, location)
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", location, err)
	}
	return open(ctx, storage, o)
}

func open(ctx context.Context, storage storage, o Options) (*State, error) {
	s := &State{sealer: o.Sealer, storage: storage}
	wait := o.Wait
	if wait == nil {
		wait = func(Holder) {}
	}
	if err := s.storage.lock(ctx, wait); err != nil {
		return nil, fmt.Errorf("lock state %s: %w", storage, err)
	}
	s.locked = true
	if err := s.load(ctx, true); err != nil {
		return nil, errors.Join(fmt.Errorf("read state %s: %w", storage, err), s.Close())
	}
	if s.content.UUID == "" {
		s.content.UUID = newUUID()
	}
	if err := s.reseal(); err != nil {
		return nil, errors.Join(fmt.Errorf("seal secrets of state %s: %w", storage, err), s.Close())
	}
	return s, nil
}

// Unlock ends the lock that another has on the state in a bucket, and returns who it
// was. Whoever it was cannot change the state any longer.
func Unlock(ctx context.Context, location string) (Holder, error) {
	storage, err := at(ctx, location)
	var h Holder
	if err == nil {
		h, err = storage.force(ctx)
	}
	if err != nil {
		return Holder{}, fmt.Errorf("unlock state %s: %w", location, err)
	}
	return h, nil
}

// load reads what is stored.
func (s *State) load(ctx context.Context, change bool) error {
	o, err := s.storage.get(ctx)
	if err != nil {
		return err
	}
	if o.version == "" {
		s.content = content{Resources: map[string]map[string]Entry{}}
		return nil
	}
	c, err := parse(o.data)
	if err != nil {
		return &unusable{err}
	}
	sealing := change && len(recipients(s.sealer, c.Recipients)) > 0
	if o.exposed != nil && c.clear() && !sealing {
		return o.exposed
	}
	s.version, s.content, s.name = o.version, c, c.Name
	return nil
}

// An unusable state is there and cannot be understood.
type unusable struct{ err error }

func (e *unusable) Error() string { return e.err.Error() }
func (e *unusable) Unwrap() error { return e.err }

// Hint says what to do about it. To remove the state is no advice: what it remembers
// would be made again beside what is there.
func (e *unusable) Hint() string {
	var newer *hinted
	if errors.As(e.err, &newer) {
		return newer.hint
	}
	return "it was left as it is, and nothing was done: put back a copy of it; only it knows what nx-provision made"
}

// reseal writes the state unless its secrets are sealed for whom they should be.
func (s *State) reseal() error {
	to := recipients(s.sealer, s.content.Recipients)
	changed := !slices.Equal(to, s.content.Recipients)
	s.content.Recipients = to
	if len(s.content.entries()) == 0 || !changed && (len(to) == 0 || !s.content.clear()) {
		return nil
	}
	return s.change(func(c *content) (bool, error) {
		for typ, entries := range c.Resources {
			for name, e := range entries {
				sealed, err := s.sealAll(e.Secrets, nil, to)
				if err != nil {
					return false, fmt.Errorf("%s %s: %w", typ, name, err)
				}
				e.Secrets = sealed
				entries[name] = e
			}
		}
		return true, nil
	})
}

// Close lets others change the state, once what is being written is.
func (s *State) Close() error {
	s.mu.Lock()
	was := s.locked
	s.locked = false
	s.mu.Unlock()
	s.writers.Wait()
	if !was {
		return nil
	}
	if err := s.storage.unlock(context.Background()); err != nil {
		return fmt.Errorf("unlock state %s: %w", s.storage, err)
	}
	return nil
}

// Writable tells whether the state was opened to be changed.
func (s *State) Writable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locked
}

// UUID identifies the deployment, "" when there is no state yet: a random UUID
// (RFC 9562, version 4).
func (s *State) UUID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.content.UUID
}

// Name returns the deployment's name as of the last change, "" when there was none.
func (s *State) Name() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name
}

// SetName names the deployment. It is written with the next change.
func (s *State) SetName(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name = name
}

// Get returns what is remembered of one machine or resource.
func (s *State) Get(typ, name string) (Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.content.Resources[typ][name]
	return e.clone(), ok
}

// Entries returns all of one type, in the order of their names.
func (s *State) Entries(typ string) []Entry {
	all := s.All()
	return slices.DeleteFunc(all, func(e Entry) bool { return e.Type != typ })
}

// All returns all machines and resources, in the order of their types and names.
func (s *State) All() []Entry {
	s.mu.Lock()
	all := s.content.entries()
	s.mu.Unlock()
	for i, e := range all {
		all[i] = e.clone()
	}
	slices.SortFunc(all, func(a, b Entry) int { return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name)) })
	return all
}

// Put remembers e in place of what was there. When it returns nil, e is stored and
// survives a crash of this machine; when it returns an error, what was there before
// is what is remembered. Concurrent changes are stored by one write where they can be.
func (s *State) Put(e Entry) error {
	fail := func(err error) error { return fmt.Errorf("remember %s %s: %w", e.Type, e.Name, err) }
	e, err := e.normal()
	if err != nil {
		return fmt.Errorf("remember %w", err)
	}
	old, _ := s.Get(e.Type, e.Name)
	s.mu.Lock()
	recipients := s.content.Recipients
	s.mu.Unlock()
	if e.Secrets, err = s.sealAll(e.Secrets, old.Secrets, recipients); err != nil {
		return fail(err)
	}
	err = s.change(func(c *content) (bool, error) {
		old, ok := c.Resources[e.Type][e.Name]
		if c.Resources[e.Type] == nil {
			c.Resources[e.Type] = map[string]Entry{}
		}
		c.Resources[e.Type][e.Name] = e
		return !ok || !same(old, e), nil
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

// Delete forgets one machine or resource. When it returns nil, that is stored.
func (s *State) Delete(typ, name string) error {
	err := s.change(func(c *content) (bool, error) {
		if _, ok := c.Resources[typ][name]; !ok {
			return false, nil
		}
		c.remove(typ, name)
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("forget %s %s: %w", typ, name, err)
	}
	return nil
}

// Rename gives one machine or resource another name, also where others need it.
func (s *State) Rename(typ, old, name string) error {
	err := s.change(func(c *content) (bool, error) {
		e, ok := c.Resources[typ][old]
		_, taken := c.Resources[typ][name]
		switch {
		case name == "":
			return false, errors.New("the new name is empty")
		case !ok:
			return false, errors.New("there is none")
		case old == name:
			return false, nil
		case taken:
			return false, errors.New("there is one of that name")
		}
		e.Name = name
		c.Resources[typ][name] = e
		c.remove(typ, old)
		for _, entries := range c.Resources {
			for n, e := range entries {
				if i := slices.Index(e.Needs, typ+"."+old); i >= 0 {
					e.Needs = slices.Clone(e.Needs)
					e.Needs[i] = typ + "." + name
					entries[n] = e
				}
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("rename %s %s to %s: %w", typ, old, name, err)
	}
	return nil
}

func (c content) remove(typ, name string) {
	delete(c.Resources[typ], name)
	if len(c.Resources[typ]) == 0 {
		delete(c.Resources, typ)
	}
}

// change stores the content as apply has changed it, together with what else is
// queued, and returns when that is done.
func (s *State) change(apply func(*content) (bool, error)) error {
	c := &change{apply: apply, done: make(chan error, 1)}
	s.mu.Lock()
	if !s.locked {
		s.mu.Unlock()
		return errors.New("the state was not opened to be changed")
	}
	s.queue = append(s.queue, c)
	if !s.writing {
		s.writing = true
		s.writers.Go(s.write)
	}
	s.mu.Unlock()
	return <-c.done
}

// write stores what is queued, what comes in the meantime by the next write, until
// nothing is.
func (s *State) write() {
	for {
		s.mu.Lock()
		batch := s.queue
		s.queue = nil
		s.writing = len(batch) > 0
		next := s.content.clone()
		next.Name = s.name
		s.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		changed := false
		errs := make([]error, len(batch))
		for i, c := range batch {
			did, err := c.apply(&next)
			changed, errs[i] = changed || did, err
		}
		var err error
		if changed {
			if err = s.store(next); err == nil {
				s.mu.Lock()
				s.content = next
				s.mu.Unlock()
			}
		}
		for i, c := range batch {
			c.done <- cmp.Or(errs[i], err)
		}
	}
}

// storing is how long one write may take, all tries of it.
const storing = time.Minute

// store writes next in place of what was stored last. It does not end when the tool is
// told to: what was just made would be forgotten.
func (s *State) store(next content) error {
	b, err := format(next)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), storing, errSilent)
	defer cancel()
	version, err := s.storage.put(ctx, b, s.version, next.clear())
	if err != nil {
		return fmt.Errorf("write state %s: %w", s.storage, err)
	}
	s.version = version
	return nil
}

func newUUID() string {
	b := make([]byte, 16)
	rand.Read(b)
	b[6] = b[6]&0x0f | 0x40 // version 4
	b[8] = b[8]&0x3f | 0x80 // the variant of RFC 9562
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
