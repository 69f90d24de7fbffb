package closure

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"nx/pkg/store"
)

// path returns the store path of a one letter name.
func path(name string) store.Path {
	return store.Path(store.Dir + "/" + strings.Repeat("0", 32) + "-" + name)
}

func paths(names string) []store.Path {
	var list []store.Path
	for _, n := range strings.Fields(names) {
		list = append(list, path(n))
	}
	return list
}

// A memory is a store whose objects are named by one letter. It checks what a
// real store would.
type memory struct {
	refs     map[store.Path][]store.Path
	mu       sync.Mutex
	requests []string // what it was asked, in order

	vanished store.Path // dumping it is an error
	full     store.Path // adding it is an error
	locked   []store.Path
	place    Place
	size     int                     // of each NAR, 10 when 0
	noise    bool                    // NARs cannot be compressed
	caches   map[store.Path]struct{} // what it can fetch
	line     time.Duration           // what each write to it takes, and each reading of an object
}

// A lineWriter takes a while for each write.
type lineWriter struct {
	io.Writer
	takes time.Duration
}

func (w lineWriter) Write(b []byte) (int, error) {
	if w.takes > 0 {
		<-time.After(w.takes)
	}
	return w.Writer.Write(b)
}

// newMemory makes a store of objects described as "a:bc": a refers to b and c.
func newMemory(objects string) *memory {
	m := &memory{refs: map[store.Path][]store.Path{}}
	for _, o := range strings.Fields(objects) {
		name, refs, _ := strings.Cut(o, ":")
		m.refs[path(name)] = paths(strings.Join(strings.Split(refs, ""), " "))
	}
	return m
}

func (m *memory) ask(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests = append(m.requests, what)
}

func (m *memory) QueryClosure(_ context.Context, roots []store.Path) ([]store.Path, error) {
	m.ask("closure")
	seen := map[store.Path]bool{}
	var visit func(p store.Path) error
	visit = func(p store.Path) error {
		if seen[p] {
			return nil
		}
		refs, ok := m.refs[p]
		if !ok {
			return fmt.Errorf("path %s is not valid", p.Name())
		}
		seen[p] = true
		for _, r := range refs {
			if err := visit(r); err != nil {
				return err
			}
		}
		return nil
	}
	for _, r := range roots {
		if err := visit(r); err != nil {
			return nil, err
		}
	}
	return slices.Collect(maps.Keys(seen)), nil
}

func (m *memory) QueryPathInfos(_ context.Context, paths []store.Path) ([]store.Info, error) {
	m.ask("infos")
	var infos []store.Info
	for _, p := range paths {
		if p != m.vanished {
			infos = append(infos, store.Info{Path: p, References: m.refs[p], NarSize: uint64(cmp.Or(m.size, 10))})
		}
	}
	return infos, nil
}

func (m *memory) DumpStorePath(_ context.Context, p store.Path, w io.Writer) error {
	m.ask("dump " + p.Name())
	if m.line > 0 {
		<-time.After(m.line)
	}
	_, err := w.Write(m.nar(p))
	return err
}

// nar returns the contents of an object, its name over and over.
func (m *memory) nar(p store.Path) []byte {
	size := cmp.Or(m.size, 10)
	if m.noise {
		b := make([]byte, size)
		rand.NewChaCha8(sha256.Sum256([]byte(p))).Read(b)
		return b
	}
	return []byte(strings.Repeat(p.Name(), size/len(p.Name())+1))[:size]
}

func (m *memory) QueryValidPaths(_ context.Context, paths []store.Path, lock, substitute bool) Answer {
	m.ask(fmt.Sprintf("valid %d", len(paths)))
	if lock {
		m.locked = append(m.locked, paths...)
	}
	for _, p := range paths {
		if _, ok := m.caches[p]; ok && substitute {
			m.refs[p] = nil
		}
	}
	valid := slices.DeleteFunc(slices.Clone(paths), func(p store.Path) bool { _, ok := m.refs[p]; return !ok })
	return func() ([]store.Path, error) { return valid, nil }
}

func (m *memory) Place(context.Context) (Place, error) { return m.place, nil }

func (m *memory) AddToStoreNar(ctx context.Context, infos iter.Seq[store.Info], dump Dump, added func(store.Info)) error {
	m.ask("add")
	return m.add(ctx, infos, dump, added, func(b []byte) ([]byte, error) { return b, nil })
}

func (m *memory) AddCompressed(ctx context.Context, infos iter.Seq[store.Info], dump Dump, added func(store.Info)) error {
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		return err
	}
	defer decoder.Close()
	return m.add(ctx, func(yield func(store.Info) bool) {
		first := true
		for i := range infos {
			if first {
				m.ask("add zstd") // it may have waited for the first one
			}
			if first = false; !yield(i) {
				return
			}
		}
	}, dump, added, func(b []byte) ([]byte, error) { return decoder.DecodeAll(b, nil) })
}

func (m *memory) add(ctx context.Context, infos iter.Seq[store.Info], dump Dump, added func(store.Info), decode func([]byte) ([]byte, error)) error {
	for i := range infos {
		for _, r := range i.References {
			if _, ok := m.refs[r]; !ok && r != i.Path {
				return fmt.Errorf("%s refers to %s, which is not there", i.Path.Name(), r.Name())
			}
		}
		if !slices.Contains(m.locked, i.Path) {
			return fmt.Errorf("%s is not locked", i.Path.Name())
		}
		var nar bytes.Buffer
		if err := dump(ctx, i.Path, lineWriter{&nar, m.line}); err != nil {
			return err
		}
		b, err := decode(nar.Bytes())
		if err != nil {
			return err
		}
		if i.Path == m.full || !bytes.Equal(b, m.nar(i.Path)) {
			return fmt.Errorf("add %s: no space left on device", i.Path.Name())
		}
		m.refs[i.Path] = i.References
		added(i)
	}
	return nil
}

func TestCopy(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to string
		vanished string
		full     string
		sent     string // in order
		want     Progress
		wantErr  string
	}{
		{name: "one object", from: "a", sent: "a", want: Progress{Paths: 1, Missing: 1, Sent: 1, Size: 10, MissingSize: 10, SentSize: 10}},
		{name: "chain", from: "a:b b:c c", sent: "c b a", want: Progress{Paths: 3, Missing: 3, Sent: 3, Size: 30, MissingSize: 30, SentSize: 30}},
		{name: "diamond", from: "a:bc b:d c:d d", sent: "d b c a", want: Progress{Paths: 4, Missing: 4, Sent: 4, Size: 40, MissingSize: 40, SentSize: 40}},
		{name: "long way before the short", from: "a:zb b:c c:z z", sent: "z c b a", want: Progress{Paths: 4, Missing: 4, Sent: 4, Size: 40, MissingSize: 40, SentSize: 40}},
		{name: "refers to itself", from: "a:ab b:b", sent: "b a", want: Progress{Paths: 2, Missing: 2, Sent: 2, Size: 20, MissingSize: 20, SentSize: 20}},
		{name: "only what is missing", from: "a:bc b:d c:d d", to: "d c:d x", sent: "b a", want: Progress{Paths: 4, Missing: 2, Sent: 2, Size: 40, MissingSize: 20, SentSize: 20}},
		{name: "only what is referred to", from: "a:b b x:a", sent: "b a", want: Progress{Paths: 2, Missing: 2, Sent: 2, Size: 20, MissingSize: 20, SentSize: 20}},
		{name: "all there", from: "a:b b", to: "a:b b"},
		{name: "root is there", from: "b", to: "a:b b"},
		{name: "circle", from: "a:b b:c c:b", wantErr: "sort closure of " + string(path("a")) + ": " + string(path("b")) + " refers to itself through others"},
		{name: "not there", from: "b", wantErr: "path a is not valid"},
		{name: "vanished after the closure was read", from: "a:b b", vanished: "b", wantErr: string(path("b")) + " is not valid any more"},
		{name: "sink fails half way", from: "a:b b:c c", full: "b", sent: "c", want: Progress{Paths: 3, Missing: 3, Sent: 1, Size: 30, MissingSize: 30, SentSize: 10}, wantErr: "add b: no space left on device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src, dst := newMemory(tt.from), newMemory(tt.to)
			if tt.vanished != "" {
				src.vanished = path(tt.vanished)
			}
			if tt.full != "" {
				dst.full = path(tt.full)
			}
			var steps []Step
			var sent []store.Path
			got, err := (&Depot{Source: src}).Copy(t.Context(), dst, path("a"), Options{}, func(p Progress) {
				steps = append(steps, p.Step)
				if p.Step == Added {
					sent = append(sent, p.Path)
				}
			})
			got.Step, got.Path, got.Gone, got.Wire = 0, "", 0, 0
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.HasSuffix(err.Error(), tt.wantErr)) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
			if got != tt.want {
				t.Errorf("progress\n got %+v\nwant %+v", got, tt.want)
			}
			if want := paths(tt.sent); !slices.Equal(sent, want) {
				t.Errorf("sent\n got %q\nwant %q", sent, want)
			}
			if len(steps) > 0 && steps[0] != Copying {
				t.Errorf("steps %v", steps)
			}
			if want := fmt.Sprintf("valid 1 valid %d add", tt.want.Paths-1); !strings.HasPrefix(strings.Replace(want, "valid 0 ", "", 1), strings.Join(dst.requests, " ")) {
				t.Errorf("sink was asked %q", dst.requests)
			}
		})
	}
}

// What a broken copy has brought is not sent again.
func TestCopyAgain(t *testing.T) {
	src, dst := newMemory("a:bc b:d c:d d"), newMemory("")
	dst.full = path("c")
	depot := &Depot{Source: src}
	if _, err := depot.Copy(t.Context(), dst, path("a"), Options{}, nil); err == nil {
		t.Fatal("copied to a full store")
	}
	dst.full = ""
	got, err := depot.Copy(t.Context(), dst, path("a"), Options{}, nil)
	got.Step, got.Path, got.Gone, got.Wire = 0, "", 0, 0
	if want := (Progress{Paths: 4, Missing: 2, Sent: 2, Size: 40, MissingSize: 20, SentSize: 20}); err != nil || got != want {
		t.Errorf("second copy (%v)\n got %+v\nwant %+v", err, got, want)
	}
	// What is known by then is asked at once, if it is not too much.
	if asked := strings.Join(dst.requests, ", "); asked != "valid 1, valid 3, add, valid 4, add" {
		t.Errorf("sink was asked %q", asked)
	}
}

// Of a large closure that is known, a part is asked for with the first question.
func TestLargeClosure(t *testing.T) {
	const n = 300
	src, dst := newMemory(""), newMemory("")
	for i := range n {
		p := path(fmt.Sprint(i))
		src.refs[p], src.refs[path("a")] = nil, append(src.refs[path("a")], p)
		if i%3 == 0 {
			dst.refs[p] = nil
		}
	}
	depot := &Depot{Source: src}
	depot.Prepare(t.Context(), path("a"))
	got, err := depot.Copy(t.Context(), dst, path("a"), Options{}, nil)
	if err != nil || got.Paths != n+1 || got.Missing != 201 || got.Sent != 201 || len(dst.refs) != n+1 {
		t.Errorf("%d objects there, error %v, progress %+v", len(dst.refs), err, got)
	}
	if asked := strings.Join(dst.requests, ", "); asked != "valid 129, valid 172, add" {
		t.Errorf("sink was asked %q", asked)
	}
}

func TestCopyErrors(t *testing.T) {
	gone := errors.New("gone")
	dst := broken{newMemory(""), gone}
	if _, err := (&Depot{Source: newMemory("a")}).Copy(t.Context(), dst, path("a"), Options{}, nil); !errors.Is(err, gone) {
		t.Errorf("sink that cannot be asked: %v", err)
	}
}

type broken struct {
	*memory
	err error
}

func (b broken) QueryValidPaths(context.Context, []store.Path, bool, bool) Answer {
	return func() ([]store.Path, error) { return nil, b.err }
}
