package closure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

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
	requests []string // what it was asked, in order

	vanished store.Path // dumping it is an error
	full     store.Path // adding it is an error
	locked   []store.Path
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

func (m *memory) ask(what string) { m.requests = append(m.requests, what) }

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
			infos = append(infos, store.Info{Path: p, References: m.refs[p], NarSize: 10})
		}
	}
	return infos, nil
}

func (m *memory) DumpStorePath(_ context.Context, p store.Path, w io.Writer) error {
	m.ask("dump " + p.Name())
	_, err := io.WriteString(w, p.Name())
	return err
}

func (m *memory) QueryValidPaths(_ context.Context, paths []store.Path, lock, substitute bool) ([]store.Path, error) {
	m.ask("valid")
	if !lock || substitute {
		return nil, fmt.Errorf("lock %v, substitute %v", lock, substitute)
	}
	m.locked = paths
	return slices.DeleteFunc(slices.Clone(paths), func(p store.Path) bool { _, ok := m.refs[p]; return !ok }), nil
}

func (m *memory) AddToStoreNar(ctx context.Context, infos []store.Info,
	dump func(context.Context, store.Path, io.Writer) error, added func(store.Info)) error {
	m.ask("add")
	for _, i := range infos {
		for _, r := range i.References {
			if _, ok := m.refs[r]; !ok && r != i.Path {
				return fmt.Errorf("%s refers to %s, which is not there", i.Path.Name(), r.Name())
			}
		}
		if !slices.Contains(m.locked, i.Path) {
			return fmt.Errorf("%s is not locked", i.Path.Name())
		}
		var nar bytes.Buffer
		if err := dump(ctx, i.Path, &nar); err != nil {
			return err
		}
		if i.Path == m.full || nar.String() != i.Path.Name() {
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
		{name: "chain", from: "a:b b:c c", sent: "c b a", want: Progress{3, 3, 3, 30, 30, 30}},
		{name: "diamond", from: "a:bc b:d c:d d", sent: "d b c a", want: Progress{4, 4, 4, 40, 40, 40}},
		{name: "long way before the short", from: "a:zb b:c c:z z", sent: "z c b a", want: Progress{4, 4, 4, 40, 40, 40}},
		{name: "refers to itself", from: "a:ab b:b", sent: "b a", want: Progress{2, 2, 2, 20, 20, 20}},
		{name: "only what is missing", from: "a:bc b:d c:d d", to: "d c:d x", sent: "b a", want: Progress{4, 2, 2, 40, 20, 20}},
		{name: "only what is referred to", from: "a:b b x:a", sent: "b a", want: Progress{2, 2, 2, 20, 20, 20}},
		{name: "all there", from: "a:b b", to: "a:b b", want: Progress{Paths: 2, Size: 20}},
		{name: "circle", from: "a:b b:c c:b", wantErr: "sort closure of " + string(path("a")) + ": " + string(path("b")) + " refers to itself through others"},
		{name: "not there", from: "b", wantErr: "path a is not valid"},
		{name: "vanished after the closure was read", from: "a:b b", vanished: "b", wantErr: string(path("b")) + " is not valid any more"},
		{name: "sink fails half way", from: "a:b b:c c", full: "b", sent: "c", want: Progress{3, 3, 1, 30, 30, 10}, wantErr: "add b: no space left on device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src, dst := newMemory(tt.from), newMemory(tt.to)
			if tt.vanished != "" {
				src.vanished = path(tt.vanished)
			}
			if tt.full != "" {
				dst.full = path(tt.full)
			}
			var notes []Progress
			var sent []store.Path
			got, err := Copy(t.Context(), src, dst, path("a"), func(p store.Path, so Progress) {
				notes = append(notes, so)
				if p != "" {
					sent = append(sent, p)
				}
			})
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.HasSuffix(err.Error(), tt.wantErr)) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
			if got != tt.want {
				t.Errorf("progress\n got %+v\nwant %+v", got, tt.want)
			}
			if want := paths(tt.sent); !slices.Equal(sent, want) {
				t.Errorf("sent\n got %q\nwant %q", sent, want)
			}
			if len(notes) > 0 && (notes[0].Sent != 0 || notes[len(notes)-1] != got || len(notes) != got.Sent+1) {
				t.Errorf("notified of %+v", notes)
			}
			if got := strings.Join(dst.requests, " "); got != "" && got != "valid" && got != "valid add" {
				t.Errorf("sink was asked %q", got)
			}
		})
	}
}

// What a broken copy has brought is not sent again.
func TestCopyAgain(t *testing.T) {
	src, dst := newMemory("a:bc b:d c:d d"), newMemory("")
	dst.full = path("c")
	if _, err := Copy(t.Context(), src, dst, path("a"), nil); err == nil {
		t.Fatal("copied to a full store")
	}
	dst.full = ""
	got, err := Copy(t.Context(), src, dst, path("a"), nil)
	if want := (Progress{4, 2, 2, 40, 20, 20}); err != nil || got != want {
		t.Errorf("second copy (%v)\n got %+v\nwant %+v", err, got, want)
	}
}

func TestCopyErrors(t *testing.T) {
	gone := errors.New("gone")
	dst := broken{newMemory(""), gone}
	if _, err := Copy(t.Context(), newMemory("a"), dst, path("a"), nil); !errors.Is(err, gone) {
		t.Errorf("sink that cannot be asked: %v", err)
	}
}

type broken struct {
	*memory
	err error
}

func (b broken) QueryValidPaths(context.Context, []store.Path, bool, bool) ([]store.Path, error) {
	return nil, b.err
}
