// Package closure brings a store object with all it refers to from one store to
// another. It knows what is missing, in which order it goes, and what was done;
// how a store is asked is left to its [Source] and [Sink].
package closure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

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
	// QueryValidPaths asks which of paths are valid. Other such questions can be asked
	// before the answer to this one is awaited, and AddCompressed can be called. With
	// lock, none of paths, valid or not, is collected as garbage from then on. With
	// substitute the store first fetches what it can from elsewhere.
	QueryValidPaths(ctx context.Context, paths []store.Path, lock, substitute bool) Answer

	// Place returns what there is where the store is.
	Place(ctx context.Context) (Place, error)

	// AddToStoreNar adds objects in their order, as many as infos turns out to
	// have, with the contents that dump writes. It calls added, in order and one at
	// a time, for each object that has become valid, and not after it returned.
	AddToStoreNar(ctx context.Context, infos iter.Seq[store.Info], dump Dump, added func(store.Info)) error

	// AddCompressed is AddToStoreNar for a dump that writes zstd frames. It is also
	// called ahead of a first object that may never come, and then asks nothing of
	// the place; with one, the place must have zstd.
	AddCompressed(ctx context.Context, infos iter.Seq[store.Info], dump Dump, added func(store.Info)) error
}

// An Answer waits for the paths that were asked for.
type Answer = func() ([]store.Path, error)

// A Dump writes the NAR of an object.
type Dump = func(context.Context, store.Path, io.Writer) error

// A Place is where a sink is.
type Place struct {
	Free uint64 // bytes that the store may still take; 0 when that is not known
	Zstd bool   // zstd frames can be decompressed there
}

// A Compression says how NARs go over the line.
type Compression string

const (
	Auto Compression = "auto" // compressed, until it turns out that the line is not what one waits for
	Zstd Compression = "zstd" // compressed, an error where the sink's place has no zstd
	None Compression = "none"
)

// Options say how a closure is copied. The zero value is a copy as it stands.
type Options struct {
	// Substitute has the sink fetch what it can from elsewhere first.
	Substitute bool

	// Compress is None when empty.
	Compress Compression

	// Near says that the line has hardly any delay, so that it may well be faster
	// than compression.
	Near bool

	// DryRun only says what is missing: nothing is locked, fetched or sent.
	DryRun bool

	// Sign, if not nil, returns a signature of an object, for a sink that does
	// not trust who asks.
	Sign func(store.Info) string
}

// A Step is where a copy is.
type Step int

const (
	Substituting Step = iota // what is missing is asked of the sink's own sources; Missing counts it
	Copying                  // it is known what is missing
	Sending                  // more of it has gone
	Added                    // Path is valid there
)

// Progress is how far a copy has come. Sizes are bytes of NARs.
type Progress struct {
	Step Step
	Path store.Path // of Added

	Paths, Missing, Sent int    // in the closure, 0 when the sink has its root; not in the sink; added
	Size                 uint64 // of Paths
	MissingSize          uint64
	SentSize             uint64 // of objects that were added
	Gone                 uint64 // of what was sent, whether it was added or not
	Wire                 uint64 // what that took on the line, in bytes
	Substituted          int    // paths that the sink fetched
}

// Copy copies root with its closure from the depot's source to dst, which is
// asked whether it has root, and else what it lacks, and locks that in the same
// request. What root refers to goes first, so that dst is whole after each object; whatever it has added
// stays after an error, and another Copy sends the rest.
//
// To a dst that is far away the first objects may go while it is still asked for the
// others, if it has room for the whole closure.
//
// Notify, if not nil, is called at each [Step], by one goroutine at a time. The
// returned Progress is the last one, on error too.
func (d *Depot) Copy(ctx context.Context, dst Sink, root store.Path, opt Options, notify func(Progress)) (Progress, error) {
	if notify == nil {
		notify = func(Progress) {}
	}
	d.copies.Add(1)
	defer d.copies.Add(-1)
	c := &copying{depot: d, dst: dst, opt: opt, notify: notify, counted: make(chan struct{}),
		infos: map[store.Path]store.Info{}, line: meter{compress: !opt.Near}}
	err := c.copy(ctx, root)
	return c.progress, err
}

// A copying is one Copy under way.
type copying struct {
	depot  *Depot
	dst    Sink
	opt    Options
	notify func(Progress)

	place  Place
	infos  map[store.Path]store.Info // of what goes
	bulk   *bulk                     // nil unless something is expected to go compressed
	enough bool                      // is missing for a compressed copy
	line   meter

	giveUp  context.CancelFunc
	counted chan struct{} // closed when it is known what is missing, or that nobody will know

	mu       sync.Mutex
	progress Progress
}

// step changes the progress and says so, but not what goes before it is known how
// much that will be.
func (c *copying) step(s Step, f func(*Progress)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress.Step, c.progress.Path = s, ""
	f(&c.progress)
	if s != Sending || c.progress.Missing > 0 {
		c.notify(c.progress)
	}
}

func (c *copying) copy(ctx context.Context, root store.Path) error {
	ctx, c.giveUp = context.WithCancel(ctx)
	defer c.giveUp()
	lock := !c.opt.DryRun
	if lock && (c.opt.Compress == Zstd || c.opt.Compress == Auto && !c.opt.Near) {
		c.bulk = c.open(ctx)
		defer c.bulk.close()
	}
	// Who has the root has all of it, and keeps all of it for the root's sake: that is
	// a question of one path, and some more beside it take no longer. The one for all
	// others fills a long line for some round trips. If they are known by now it goes
	// right behind, and who has the root waits for no answer to it.
	infos := c.depot.known(root)
	asked := min(beside, max(0, len(infos)-1))
	first := c.ask(ctx, append(slices.Clone(infos[:asked]), store.Info{Path: root}), lock, false)
	var rest lacking
	if infos != nil {
		rest = c.ask(ctx, infos[asked:len(infos)-1], lock, false)
	}
	missing, err := first()
	if err != nil {
		return err
	}
	if n := len(missing); n == 0 || missing[n-1].Path != root {
		c.count(nil)
		return nil
	}
	missing = missing[:len(missing)-1]
	if infos == nil {
		if infos, err = c.depot.sorted(ctx, root); err != nil {
			return err
		}
	}
	for _, info := range infos {
		c.progress.Paths++
		c.progress.Size += info.NarSize
	}
	if !c.opt.DryRun {
		if c.place, err = c.dst.Place(ctx); err != nil {
			return err
		}
		if c.opt.Compress == Zstd && !c.place.Zstd {
			return errors.New("compress with zstd: the host has no zstd")
		}
	}
	last := len(infos) - 1 // the root's place
	if rest == nil {
		rest = c.ask(ctx, infos[asked:last], lock, false)
	}
	c.enough = size(missing) >= worthwhile
	if c.early() {
		return c.sendEarly(ctx, missing, func() ([]store.Info, error) {
			more, err := rest()
			return append(more, infos[last]), err
		})
	}
	more, err := rest()
	if err != nil {
		return err
	}
	missing = append(append(missing, more...), infos[last])
	if c.opt.Substitute && !c.opt.DryRun {
		c.step(Substituting, missed(missing))
		left, err := c.ask(ctx, missing, true, true)()
		if err != nil {
			return err
		}
		c.progress.Substituted = len(missing) - len(left)
		missing = left
	}
	c.count(missing)
	if len(missing) == 0 || c.opt.DryRun {
		return nil
	}
	if size := c.progress.MissingSize; c.place.Free > 0 && c.place.Free < size {
		return &RoomError{Need: size, Free: c.place.Free}
	}
	c.enough = c.progress.MissingSize >= worthwhile
	return c.send(ctx, missing, nil)
}

// A lacking waits for what the sink lacks of what was asked for.
type lacking func() ([]store.Info, error)

// ask asks for infos.
func (c *copying) ask(ctx context.Context, infos []store.Info, lock, substitute bool) lacking {
	if len(infos) == 0 {
		return func() ([]store.Info, error) { return nil, nil }
	}
	paths := make([]store.Path, len(infos))
	for i, info := range infos {
		paths[i] = info.Path
	}
	answer := c.dst.QueryValidPaths(ctx, paths, lock, substitute)
	return func() ([]store.Info, error) {
		valid, err := answer()
		if err != nil {
			return nil, err
		}
		there := make(map[store.Path]bool, len(valid))
		for _, path := range valid {
			there[path] = true
		}
		var missing []store.Info
		for _, info := range infos {
			if !there[info.Path] {
				missing = append(missing, info)
			}
		}
		return missing, nil
	}
}

// count says what is missing.
func (c *copying) count(missing []store.Info) {
	c.step(Copying, missed(missing))
	close(c.counted)
}

func missed(missing ...[]store.Info) func(*Progress) {
	return func(p *Progress) {
		p.Missing, p.MissingSize = 0, 0
		for _, infos := range missing {
			p.Missing += len(infos)
			p.MissingSize += size(infos)
		}
	}
}

// size is that of the objects' NARs, in bytes.
func size(infos []store.Info) (n uint64) {
	for _, info := range infos {
		n += info.NarSize
	}
	return n
}

// beside is how many paths are asked for beside the first one: what they are called
// fits into the first window of a TCP connection, some ten packets, each way.
const beside = 128

// worthwhile is from how many bytes on a compressed copy takes a session of its own.
const worthwhile = 256 << 10

// early tells whether what is missing of the first ones can go before it is known
// what else is. There must be room for whatever that turns out to be, and the session
// for compressed objects, since the store's own is busy with the question.
func (c *copying) early() bool {
	return c.bulk != nil && c.enough && c.compressed() && !c.opt.Substitute &&
		(c.place.Free == 0 || c.place.Free >= c.progress.Size)
}

// sendEarly is send for what is missing of the first ones; rest waits for what else
// is. A line gets fast only by being used (TCP's slow start), and here it is used some
// round trips earlier.
func (c *copying) sendEarly(ctx context.Context, missing []store.Info, rest lacking) error {
	type result struct {
		infos []store.Info
		err   error
	}
	known := make(chan result, 1)
	go func() {
		infos, err := rest()
		if err == nil {
			c.step(Copying, missed(missing, infos))
		}
		known <- result{infos, err}
		close(c.counted)
	}()
	err := c.send(ctx, missing, func() ([]store.Info, error) {
		r := <-known
		return r.infos, r.err
	})
	if err != nil {
		c.giveUp()
	}
	<-c.counted
	return err
}

// send sends what is missing, each object as the line is best used then. Rest, unless
// it is nil, waits for what comes behind.
func (c *copying) send(ctx context.Context, missing []store.Info, rest lacking) error {
	var failed error
	// more tells whether there is another object. All waits for the rest at once.
	more := func(all bool) bool {
		if rest != nil && (all || len(missing) == 0) {
			var behind []store.Info
			behind, failed = rest()
			missing, rest = append(missing, behind...), nil
		}
		return failed == nil && len(missing) > 0
	}
	for {
		zstd := c.compressed()
		// The store's own session first answers.
		if !more(!zstd) {
			return failed
		}
		infos := func(yield func(store.Info) bool) {
			for more(false) && c.compressed() == zstd {
				info := missing[0]
				missing = missing[1:]
				if c.opt.Sign != nil {
					info.Sigs = append(slices.Clip(info.Sigs), c.opt.Sign(info))
				}
				c.infos[info.Path] = info
				if !yield(info) {
					return
				}
			}
		}
		var err error
		if zstd {
			err = c.addCompressed(ctx, infos)
		} else {
			err = c.dst.AddToStoreNar(ctx, infos, c.dump(false), c.added)
		}
		if err != nil {
			return err
		}
	}
}

// compressed tells whether the next object is to go compressed. Hosts that are
// copied to at once share a line, and what is compressed once for all of them.
func (c *copying) compressed() bool {
	if c.opt.Compress != Auto {
		return c.opt.Compress == Zstd
	}
	return c.place.Zstd && c.enough && (c.line.compresses() || c.depot.shared())
}

// addCompressed is the sink's, by the call that is already open if there is one.
func (c *copying) addCompressed(ctx context.Context, infos iter.Seq[store.Info]) error {
	if b := c.bulk; b != nil && !b.used {
		return b.add(infos)
	}
	return c.dst.AddCompressed(ctx, infos, c.dump(true), c.added)
}

// A bulk is a call of AddCompressed that began before it is known whether and what
// goes, with the first question: a session takes some round trips to open.
type bulk struct {
	infos  chan iter.Seq[store.Info] // gets what goes, or is closed
	done   chan error
	cancel context.CancelFunc
	used   bool
}

func (c *copying) open(ctx context.Context) *bulk {
	b := &bulk{infos: make(chan iter.Seq[store.Info]), done: make(chan error, 1)}
	ctx, b.cancel = context.WithCancel(ctx)
	go func() {
		b.done <- c.dst.AddCompressed(ctx, func(yield func(store.Info) bool) {
			if infos, ok := <-b.infos; ok {
				infos(yield)
			}
		}, c.dump(true), c.added)
	}()
	return b
}

// add adds what infos has, in the end.
func (b *bulk) add(infos iter.Seq[store.Info]) error {
	b.used = true
	select {
	case b.infos <- infos:
		return <-b.done
	case err := <-b.done: // it could not be opened
		return err
	}
}

// close ends a bulk. One that was not used does not wait for the host's goodbye.
func (b *bulk) close() {
	b.cancel()
	if !b.used {
		close(b.infos)
		<-b.done
	}
}

func (c *copying) added(info store.Info) {
	<-c.counted // what it is one of is said first
	c.step(Added, func(p *Progress) {
		p.Path = info.Path
		p.Sent++
		p.SentSize += info.NarSize
	})
}

// dump is what the sink calls for contents.
func (c *copying) dump(zstd bool) Dump {
	return func(ctx context.Context, path store.Path, w io.Writer) error {
		began, sending := time.Now(), time.Duration(0)
		write := c.depot.WriteNAR
		if !zstd && !c.depot.shared() {
			// The store's own files are as good as a spool for the only one who wants them.
			write = c.depot.writeAlone
		}
		err := write(ctx, c.infos[path], zstd, func(b []byte, nar uint64) error {
			start := time.Now()
			_, err := w.Write(b)
			sending += time.Since(start)
			if err != nil {
				return err
			}
			c.line.wire += uint64(len(b))
			c.step(Sending, func(p *Progress) {
				p.Gone += nar
				p.Wire += uint64(len(b))
			})
			return nil
		})
		c.line.sending += sending
		c.line.waiting += time.Since(began) - sending
		return err
	}
}

const (
	// sample is how many bytes go before the line is judged: the first two MiB are
	// taken by sshd's window at once, whatever the line.
	sample = 4 << 20

	// slowLine is how many bytes a second a line of 100 Mbit/s takes, which any
	// processor compresses faster. A target may be as slow with many small objects,
	// which its database bounds, and then compression helps nobody; hence no more.
	slowLine = 12.5e6
)

// A meter decides whether a line is better used compressed, by what the sender
// waits for.
type meter struct {
	compress bool // as it is now
	settled  bool // both were tried

	wire    uint64        // bytes sent since
	waiting time.Duration // for pieces to be read and compressed
	sending time.Duration // for the line to take them
}

// compresses tells whether the rest should go compressed. As long as little is
// known that stays as it is. What cannot be compressed is no reason to stop: it
// goes through unchanged and fast.
func (m *meter) compresses() bool {
	if m.settled || m.wire < sample {
		return m.compress
	}
	switch {
	case m.compress && m.waiting > m.sending:
		*m = meter{settled: true}
	case !m.compress && float64(m.wire) < slowLine*m.sending.Seconds():
		*m = meter{compress: true}
	}
	return m.compress
}

// A RoomError says that what is missing does not fit.
type RoomError struct {
	Need, Free uint64 // bytes
}

func (e *RoomError) Error() string {
	const mb = 1e6
	return fmt.Sprintf("%.1f MB are missing, but only %.1f MB are free", float64(e.Need)/mb, float64(e.Free)/mb)
}

// Prepare asks the source for the closure of root, so that a Copy that comes later
// finds it known. Whether that succeeds is for Copy to say.
func (d *Depot) Prepare(ctx context.Context, root store.Path) { d.sorted(ctx, root) }

// known returns what sorted does if that is known without waiting, else nil.
func (d *Depot) known(root store.Path) []store.Info {
	d.start()
	d.mu.Lock()
	l := d.closures[root]
	d.mu.Unlock()
	if l == nil || !l.mu.TryLock() {
		return nil
	}
	defer l.mu.Unlock()
	return l.infos
}

// A listed is a closure that is known, or being asked for.
type listed struct {
	mu    sync.Mutex
	infos []store.Info // nil as long as it is not known
}

// sorted returns the closure of root, each object behind those it refers to. What
// an object refers to never changes, so hosts with one system cost one question.
func (d *Depot) sorted(ctx context.Context, root store.Path) ([]store.Info, error) {
	d.start()
	d.mu.Lock()
	l := d.closures[root]
	if l == nil {
		l = new(listed)
		d.closures[root] = l
	}
	d.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.infos != nil {
		return l.infos, nil
	}
	paths, err := d.Source.QueryClosure(ctx, []store.Path{root})
	if err != nil {
		return nil, err
	}
	known, err := d.lookUp(ctx, paths)
	if err != nil {
		return nil, err
	}
	s := sorter{known: known, state: make(map[store.Path]state, len(known))}
	if err := s.visit(root); err != nil {
		return nil, fmt.Errorf("sort closure of %s: %w", root, err)
	}
	l.infos = s.out
	return l.infos, nil
}

// lookUp returns what the source records of paths. What hosts have in common is
// asked for and kept once.
func (d *Depot) lookUp(ctx context.Context, paths []store.Path) (map[store.Path]store.Info, error) {
	known := make(map[store.Path]store.Info, len(paths))
	var unknown []store.Path
	d.mu.Lock()
	for _, p := range paths {
		if info, ok := d.infos[p]; ok {
			known[p] = info
		} else {
			unknown = append(unknown, p)
		}
	}
	d.mu.Unlock()
	if len(unknown) == 0 {
		return known, nil
	}
	infos, err := d.Source.QueryPathInfos(ctx, unknown)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, info := range infos {
		known[info.Path], d.infos[info.Path] = info, info
	}
	return known, nil
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
