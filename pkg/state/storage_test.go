package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// everywhere runs test with a new storage of each kind. What newStorage returns are
// the same bytes and lock, as other processes have them.
func everywhere(t *testing.T, test func(t *testing.T, newStorage func() storage)) {
	t.Run("file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), Path)
		test(t, func() storage { return newFile(file) })
	})
	t.Run("bucket", func(t *testing.T) {
		newServer(t)
		test(t, func() storage {
			b := must(newBucket(t.Context(), inBucket))(t)
			b.poll = time.Millisecond
			return b
		})
	})
}

func TestStorage(t *testing.T) {
	everywhere(t, func(t *testing.T, newStorage func() storage) {
		s := newStorage()
		if err := s.lock(t.Context(), free(t).Wait); err != nil {
			t.Fatal(err)
		}
		if o, err := s.get(t.Context()); err != nil || o.version != "" {
			t.Fatalf("get = %+v, %v, want nothing", o, err)
		}
		if _, err := s.put(t.Context(), []byte("x"), "1234", false); !errors.Is(err, errChanged) {
			t.Errorf("put in place of what is not there: %v", err)
		}
		first, err := s.put(t.Context(), []byte("one"), "", false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.put(t.Context(), []byte("x"), "", false); !errors.Is(err, errChanged) {
			t.Errorf("put as if there were nothing: %v", err)
		}
		second, err := s.put(t.Context(), []byte("two"), first, false)
		if err != nil || second == first {
			t.Fatalf("put = %q, %v, the first was %q", second, err, first)
		}
		if _, err := s.put(t.Context(), []byte("x"), first, false); !errors.Is(err, errChanged) || !strings.Contains(hintOf(err), "nothing of the other's was overwritten") {
			t.Errorf("put in place of what was there: %v", err)
		}
		if o, err := newStorage().get(t.Context()); err != nil || string(o.data) != "two" || o.version != second {
			t.Errorf("get = %+v, %v, want two of version %s", o, err, second)
		}
		if err := s.unlock(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := newStorage().force(t.Context()); !errors.Is(err, errUnlocked) {
			t.Errorf("force where nobody has the lock: %v", err)
		}
		if _, err := s.put(t.Context(), []byte("x"), second, false); !errors.Is(err, errLost) {
			t.Errorf("put without the lock: %v", err)
		}
	})
}

// One at a time changes the state; who waits is told for whom, and sees what the first
// wrote. Reading needs no lock.
func TestLock(t *testing.T) {
	everywhere(t, func(t *testing.T, newStorage func() storage) {
		first := must(open(t.Context(), newStorage(), free(t)))(t)
		waiting := make(chan Holder)
		got := make(chan error)
		go func() {
			second, err := open(context.Background(), newStorage(), Options{Wait: func(h Holder) { waiting <- h }})
			if err == nil {
				if _, ok := second.Get(Machines, "web"); !ok || second.UUID() != first.UUID() {
					err = fmt.Errorf("the second has uuid %s, want %s, and %+v", second.UUID(), first.UUID(), second.All())
				}
				err = errors.Join(err, second.Close())
			}
			got <- err
		}()
		if h, me := <-waiting, self(); h.Owner != me.Owner || h.PID != me.PID || h.ID == "" || h.Since.IsZero() || h.Since.After(me.Since) {
			t.Errorf("Open waits for %+v, want %+v", h, me)
		}
		if err := first.Put(Entry{Type: Machines, Name: "web", Provider: "sandbox"}); err != nil {
			t.Fatal(err)
		}
		if o, err := newStorage().get(t.Context()); err != nil || o.version == "" {
			t.Errorf("get while another has the lock: %+v, %v", o, err)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		if _, err := open(cancelled, newStorage(), Options{Wait: func(Holder) { cancel() }}); !errors.Is(err, context.Canceled) {
			t.Errorf("Open that is cancelled while it waits: %v", err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
		if err := first.Put(Entry{Type: Machines, Name: "db", Provider: "sandbox"}); err == nil {
			t.Error("Put to a state that is closed succeeds")
		}
	})
}

// Eight processes add a machine each, a lock at a time: none is lost.
func TestCompete(t *testing.T) {
	everywhere(t, func(t *testing.T, newStorage func() storage) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				s, err := open(context.Background(), newStorage(), Options{})
				if err == nil {
					err = s.Put(Entry{Type: Machines, Name: fmt.Sprint("web", i), Provider: "p"})
					err = errors.Join(err, s.Close())
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		c := must(parse(must(newStorage().get(t.Context()))(t).data))(t)
		if n := len(c.entries()); n != 8 {
			t.Errorf("%d of 8 machines", n)
		}
	})
}

// What another has written without the lock, with an editor or git, is not overwritten.
func TestChanged(t *testing.T) {
	everywhere(t, func(t *testing.T, newStorage func() storage) {
		s := must(open(t.Context(), newStorage(), free(t)))(t)
		put := func(name string) error { return s.Put(Entry{Type: Machines, Name: name, Provider: "p"}) }
		if err := put("web"); err != nil {
			t.Fatal(err)
		}
		other := newStorage()
		o := must(other.get(t.Context()))(t)
		edited := strings.Replace(string(o.data), `"web"`, `"www"`, 1)
		switch other := other.(type) {
		case *local:
			if err := other.replace([]byte(edited), 0o600); err != nil {
				t.Fatal(err)
			}
		case *bucket:
			must(other.write(t.Context(), other.key, []byte(edited), o.version))(t)
		}
		for range 2 {
			if err := put("db"); !errors.Is(err, errChanged) {
				t.Errorf("Put: %v", err)
			}
		}
		if got := must(other.get(t.Context()))(t); string(got.data) != edited {
			t.Errorf("there is now %s", got.data)
		}
		if all := s.All(); len(all) != 1 || all[0].Name != "web" {
			t.Errorf("memory has %+v", all)
		}
	})
}

// A memory is a storage that writes when it is told how it went.
type memory struct {
	storage
	outcome chan error
	writes  int
	data    []byte
}

func (m *memory) get(context.Context) (object, error)      { return object{}, nil }
func (m *memory) lock(context.Context, func(Holder)) error { return nil }
func (m *memory) unlock(context.Context) error             { return nil }
func (m *memory) String() string                           { return "memory" }
func (m *memory) put(_ context.Context, data []byte, version string, _ bool) (string, error) {
	m.writes++
	if err := <-m.outcome; err != nil {
		return "", err
	}
	m.data = data
	return fmt.Sprint(m.writes), nil
}

// What is changed while another change is written is written by one write, after it.
func TestSharedWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{outcome: make(chan error)}
		s := must(open(t.Context(), m, Options{}))(t)
		results := make(chan error, 100)
		put := func(name string) {
			go func() { results <- s.Put(Entry{Type: Machines, Name: name, Provider: "p"}) }()
		}
		remembered := func(want int) {
			t.Helper()
			synctest.Wait()
			if got := len(s.All()); got != want {
				t.Errorf("memory has %d machines, want %d", got, want)
			}
		}
		put("first")
		remembered(0)
		for i := range 49 {
			put(fmt.Sprint("web", i))
		}
		go func() { results <- s.Delete(Machines, "first") }()
		go func() { results <- s.Rename(Machines, "none", "web0") }()
		remembered(0)
		m.outcome <- nil
		remembered(1)
		if len(results) != 1 {
			t.Errorf("%d changes have returned after the first write, want 1", len(results))
		}
		m.outcome <- nil
		remembered(49)
		failed := 0
		for range 52 {
			if err := <-results; err != nil {
				failed++
				if err.Error() != "rename machines none to web0: there is none" {
					t.Error(err)
				}
			}
		}
		if m.writes != 2 || failed != 1 {
			t.Errorf("%d writes, and %d errors, want 2, and that of the one that could not be", m.writes, failed)
		}

		// All that one write was for have its error, and memory what was before it.
		put("web0") // no change, so no write
		synctest.Wait()
		before := string(m.data)
		put("one")
		synctest.Wait()
		put("two")
		put("three")
		synctest.Wait()
		m.outcome <- errors.New("disk full")
		remembered(49)
		m.outcome <- errors.New("disk still full")
		remembered(49)
		if err := <-results; err != nil {
			t.Errorf("Put that changes nothing: %v", err)
		}
		var text strings.Builder
		for range 3 {
			fmt.Fprintln(&text, <-results)
		}
		for _, want := range []string{"remember machines one: write state memory: disk full\n", "remember machines two: write state memory: disk still full\n", "remember machines three: write state memory: disk still full\n"} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("Puts return\n%swithout %s", text.String(), want)
			}
		}
		if string(m.data) != before || m.writes != 4 {
			t.Errorf("%d writes, and there is %s", m.writes, m.data)
		}

		// Close waits for what is being written.
		put("last")
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		if len(closed) != 0 {
			t.Error("Close returns during a write")
		}
		m.outcome <- nil
		if err := errors.Join(<-results, <-closed); err != nil {
			t.Error(err)
		}
		if c := must(parse(m.data))(t); len(c.entries()) != 50 {
			t.Errorf("%d machines were written, want 50", len(c.entries()))
		}
	})
}

func TestRename(t *testing.T) {
	s := openFile(t, filepath.Join(t.TempDir(), Path))
	s.SetName("shop")
	for _, e := range []Entry{
		{Type: Machines, Name: "web", Provider: "p", ID: "7", Needs: []string{"keys.admin", "machines.db"}, Secrets: map[string]Secret{"hostKey": NewSecret("x")}},
		{Type: Machines, Name: "db", Provider: "p", Outputs: json.RawMessage(`{"a":1}`)},
		{Type: "keys", Name: "db", Provider: "p"},
		{Type: "keys", Name: "admin", Provider: "p"},
	} {
		if err := s.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ typ, old, name, wantErr string }{
		{Machines, "none", "new", "rename machines none to new: there is none"},
		{"none", "db", "new", "there is none"},
		{Machines, "db", "web", "there is one of that name"},
		{Machines, "db", "", "the new name is empty"},
		{Machines, "db", "db", ""},
		{Machines, "db", "store", ""},
		{"keys", "admin", "root", ""},
	} {
		if err := s.Rename(tt.typ, tt.old, tt.name); (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
			t.Errorf("Rename(%s, %s, %s): %v, want %q", tt.typ, tt.old, tt.name, err, tt.wantErr)
		}
	}
	again := must(Read(t.Context(), s.storage.String(), Options{}))(t)
	var got []string
	for _, e := range again.All() {
		got = append(got, e.Type+"."+e.Name, string(e.Outputs), strings.Join(e.Needs, ","))
	}
	if want := `[keys.db   keys.root   machines.store {"a":1}  machines.web  keys.root,machines.store]`; fmt.Sprint(got) != want {
		t.Errorf("there is\n%s\nwant\n%s", got, want)
	}
}
