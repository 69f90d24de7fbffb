// Package closure brings a store object with all it refers to from one store to
// another. It knows what is missing, in which order it goes, and what was done;
// how a store is asked is left to its [Source] and [Sink].
package closure

import (
	"context"
	"fmt"
	"io"
	"slices"

	"nx/pkg/store"
)

// A Source is a store to copy from.
type Source interface {
	// QueryClosure returns paths and all they refer to, directly or not. It is
	// an error when one of paths is not valid.
	QueryClosure(ctx context.Context, paths []store.Path) ([]store.Path, error)

	// QueryPathInfos returns what is recorded of those of paths that are valid.
	QueryPathInfos(ctx context.Context, paths []store.Path) ([]store.Info, error)

	// DumpStorePath writes the NAR of path to w.
	DumpStorePath(ctx context.Context, path store.Path, w io.Writer) error
}

// A Sink is a store to copy to. What it locks stays locked until the sink is closed.
type Sink interface {
	// QueryValidPaths returns those of paths that are valid. With lock, none of
	// paths, valid or not, is collected as garbage from now on. With substitute
	// the store first fetches what it can from elsewhere.
	QueryValidPaths(ctx context.Context, paths []store.Path, lock, substitute bool) ([]store.Path, error)

	// AddToStoreNar adds objects in their order, with the contents that dump
	// writes. It calls added, in order and one at a time, for each object that
	// has become valid, and not after it returned.
	AddToStoreNar(ctx context.Context, infos []store.Info,
		dump func(context.Context, store.Path, io.Writer) error, added func(store.Info)) error
}

// Progress is how far a copy has come. Sizes are bytes of NARs.
type Progress struct {
	Paths, Missing, Sent int    // in the closure; of them not in the sink at first; of them added
	Size                 uint64 // of Paths
	MissingSize          uint64
	SentSize             uint64
}

// Copy copies root with its closure from src to dst, which is asked once for what
// it lacks, and locks all of it in the same request. What root refers to goes
// first, so that dst is whole after each object; whatever it has added stays
// after an error, and another Copy sends the rest.
//
// Notify, if not nil, is called when it is known what is missing, with an empty
// path, and then with each path that was added. The returned Progress is the last
// one, on error too.
func Copy(ctx context.Context, src Source, dst Sink, root store.Path, notify func(store.Path, Progress)) (Progress, error) {
	var p Progress
	if notify == nil {
		notify = func(store.Path, Progress) {}
	}
	infos, err := sorted(ctx, src, root)
	if err != nil {
		return p, err
	}
	paths := make([]store.Path, len(infos))
	for i, info := range infos {
		paths[i] = info.Path
		p.Paths++
		p.Size += info.NarSize
	}
	valid, err := dst.QueryValidPaths(ctx, paths, true, false)
	if err != nil {
		return p, err
	}
	there := make(map[store.Path]bool, len(valid))
	for _, path := range valid {
		there[path] = true
	}
	missing := slices.DeleteFunc(infos, func(i store.Info) bool { return there[i.Path] })
	for _, info := range missing {
		p.Missing++
		p.MissingSize += info.NarSize
	}
	notify("", p)
	if len(missing) == 0 {
		return p, nil
	}
	err = dst.AddToStoreNar(ctx, missing, src.DumpStorePath, func(info store.Info) {
		p.Sent++
		p.SentSize += info.NarSize
		notify(info.Path, p)
	})
	return p, err
}

// sorted returns the closure of root, each object behind those it refers to.
func sorted(ctx context.Context, src Source, root store.Path) ([]store.Info, error) {
	paths, err := src.QueryClosure(ctx, []store.Path{root})
	if err != nil {
		return nil, err
	}
	infos, err := src.QueryPathInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	s := sorter{known: make(map[store.Path]store.Info, len(infos)), state: make(map[store.Path]state, len(infos))}
	for _, info := range infos {
		s.known[info.Path] = info
	}
	if err := s.visit(root); err != nil {
		return nil, fmt.Errorf("sort closure of %s: %w", root, err)
	}
	return s.out, nil
}

type state int

const (
	unseen state = iota
	open         // what it refers to is being visited
	done
)

// A sorter sorts topologically, depth first.
type sorter struct {
	known map[store.Path]store.Info
	state map[store.Path]state
	out   []store.Info
}

func (s *sorter) visit(p store.Path) error {
	switch s.state[p] {
	case done:
		return nil
	case open:
		return fmt.Errorf("%s refers to itself through others", p)
	}
	info, ok := s.known[p]
	if !ok {
		return fmt.Errorf("%s is not valid any more", p)
	}
	s.state[p] = open
	for _, ref := range info.References {
		if ref == p {
			continue // an object may refer to itself
		}
		if err := s.visit(ref); err != nil {
			return err
		}
	}
	s.state[p] = done
	s.out = append(s.out, info)
	return nil
}
