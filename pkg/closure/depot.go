package closure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"nx/pkg/store"
)

const (
	// pieceSize is how many bytes of a NAR are compressed, as one zstd frame, and
	// read from the spool at once. Smaller ones compress worse, by 3 % at half the
	// size; each host in work has one of them in memory, each slot two.
	pieceSize = 2 << 20

	// firstSize is pieceSize for the first piece of a NAR, for which a line waits.
	firstSize = 128 << 10

	// privateSize is pieceSize for a NAR that is read for one host alone.
	privateSize = 512 << 10

	// ahead is how many pieces a reading may have that nobody asked for yet.
	ahead = 4

	// maxSlots bounds how many pieces are in work at once, and so memory.
	maxSlots = 4
)

// A Depot reads NARs from a store once for all who send them. What was read, and
// compressed, is in a spool: a file in which each host reads at its own pace. The
// fastest one's pace is that of the reading, so that nobody waits for a slow one;
// one who falls behind by more than the spool reads the NAR anew, by itself.
//
// Memory is bounded: nothing of a NAR is kept there but the pieces in work.
type Depot struct {
	Source Source

	// SpoolSize is how many bytes the spool may have, 0 for none: then each NAR
	// is read for each host. The file is in TMPDIR, by default /var/tmp, has no
	// name there, and grows only to what is needed.
	SpoolSize int64

	Log *slog.Logger // nil discards

	copies   atomic.Int32 // under way
	once     sync.Once
	warning  sync.Once
	encoder  *zstd.Encoder
	slots    chan *slot
	spool    *spool // nil without one
	mu       sync.Mutex
	readings map[key]*reading
	closures map[store.Path]*listed
	infos    map[store.Path]store.Info
}

// A key is what a reading is of.
type key struct {
	path store.Path
	zstd bool
}

// A slot is the right to hold a piece in memory, and the memory.
type slot struct{ nar, frame []byte }

func (d *Depot) start() {
	d.once.Do(func() {
		if d.Log == nil {
			d.Log = slog.New(slog.DiscardHandler)
		}
		n := min(runtime.GOMAXPROCS(0)+1, maxSlots)
		d.slots = make(chan *slot, n)
		for range n {
			d.slots <- new(slot)
		}
		d.readings = map[key]*reading{}
		d.closures = map[store.Path]*listed{}
		d.infos = map[store.Path]store.Info{}
		var err error
		// A NAR's hash is checked where it arrives: no checksums of frames.
		d.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(n), zstd.WithEncoderCRC(false), zstd.WithWindowSize(pieceSize), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // the options are wrong
		}
		if d.SpoolSize > 0 {
			d.spool, err = openSpool(spoolDir(), d.SpoolSize)
			if err != nil {
				d.unspooled(err)
			}
		}
	})
}

// Close removes the spool. Nobody may be sending.
func (d *Depot) Close() error {
	if d.spool == nil {
		return nil
	}
	return d.spool.close()
}

// shared tells whether several copies are under way.
func (d *Depot) shared() bool { return d.copies.Load() > 1 }

// unspooled warns, once, that NARs are read for each host.
func (d *Depot) unspooled(err error) {
	d.warning.Do(func() {
		d.Log.Warn("no spool: "+err.Error(), "hint", "each host's objects are read and compressed for it alone; TMPDIR says where there is room")
	})
}

// WriteNAR passes an object's NAR to emit, as it is or as zstd frames, in pieces
// of so many bytes of the NAR. It fails when the NAR has not the size that the
// store records.
func (d *Depot) WriteNAR(ctx context.Context, info store.Info, zstd bool, emit func(piece []byte, nar uint64) error) error {
	d.start()
	if d.spool == nil {
		return d.private(ctx, info, zstd, 0, emit)
	}
	k := key{info.Path, zstd}
	r := d.join(ctx, k, info)
	defer d.leave(k, r)
	buf := pieces.Get().(*[]byte)
	defer pieces.Put(buf)
	sent := uint64(0) // of the NAR
	for i := 0; ; i++ {
		p, err := r.piece(ctx, i)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			*buf = grow(*buf, p.size)
			// Whole before any of it is sent: half a frame could not be continued.
			err = d.spool.read(*buf, p.at)
		}
		var lost *spoolError
		switch {
		case errors.Is(err, errOverwritten), errors.As(err, &lost):
			return d.private(ctx, info, zstd, sent, emit)
		case err != nil:
			return err
		}
		if err := emit(*buf, p.nar); err != nil {
			return err
		}
		sent += p.nar
	}
}

// pieces are the hosts' buffers.
var pieces = sync.Pool{New: func() any { return new([]byte) }}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		b = make([]byte, n)
	}
	return b[:n]
}

// writeAlone is WriteNAR for one host alone.
func (d *Depot) writeAlone(ctx context.Context, info store.Info, zstd bool, emit func(piece []byte, nar uint64) error) error {
	return d.private(ctx, info, zstd, 0, emit)
}

// private passes on a NAR from some byte on, read for one host alone.
func (d *Depot) private(ctx context.Context, info store.Info, zstd bool, from uint64, emit func([]byte, uint64) error) error {
	var frame []byte
	size := int(min(privateSize, info.NarSize))
	nar := make([]byte, 0, size)
	return d.dump(ctx, info, &cutter{skip: from,
		begin: func() ([]byte, error) { return nar, nil },
		end: func(nar []byte) error {
			if !zstd {
				return emit(nar, uint64(len(nar)))
			}
			frame = d.encoder.EncodeAll(nar, frame[:0])
			return emit(frame, uint64(len(nar)))
		}})
}

// dump reads a NAR into c.
func (d *Depot) dump(ctx context.Context, info store.Info, c *cutter) error {
	if info.NarSize == 0 {
		return fmt.Errorf("dump %s: its store records no size", info.Path)
	}
	err := d.Source.DumpStorePath(ctx, info.Path, c)
	if err == nil {
		err = c.close()
	}
	switch {
	case c.err != nil: // the source may have dressed it up
		return c.err
	case err != nil:
		return err
	case c.read != info.NarSize:
		return fmt.Errorf("dump %s: NAR has %d bytes instead of the %d that its store records", info.Path, c.read, info.NarSize)
	}
	return nil
}

// join returns the reading of k, which begins with it unless it is under way or
// still in the spool.
func (d *Depot) join(ctx context.Context, k key, info store.Info) *reading {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.readings[k]; r != nil && r.join(d.spool) {
		return r
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := newReading(cancel)
	d.readings[k] = r
	go func() {
		r.end(d.fill(ctx, r, info, k.zstd))
		cancel()
	}()
	return r
}

// leave ends a reading that nobody waits for any more.
func (d *Depot) leave(k key, r *reading) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if abandoned := r.leave(); abandoned && d.readings[k] == r {
		delete(d.readings, k)
	}
}

// fill reads a NAR into the spool.
func (d *Depot) fill(ctx context.Context, r *reading, info store.Info, zstd bool) error {
	var s *slot
	free := func() {
		if s != nil {
			d.slots <- s
			s = nil
		}
	}
	defer free()
	lead := max(1, min(ahead, d.SpoolSize/(8*pieceSize)))
	size := firstSize
	return d.dump(ctx, info, &cutter{
		begin: func() ([]byte, error) {
			// Nobody's pace holds a slot.
			if err := r.wanted(ctx, int(lead)); err != nil {
				return nil, err
			}
			select {
			case s = <-d.slots:
				s.nar = grow(s.nar, int(min(uint64(size), info.NarSize)))
				size = pieceSize
				return s.nar[:0:len(s.nar)], nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		},
		end: func(b []byte) error {
			defer free()
			nar := uint64(len(b))
			if zstd {
				s.frame = d.encoder.EncodeAll(b, s.frame[:0])
				b = s.frame
			}
			at, err := d.spool.append(b)
			if err != nil {
				d.unspooled(err)
				return &spoolError{err}
			}
			r.add(piece{at, len(b), nar})
			return nil
		}})
}

// A spoolError says that the spool could not be written, which is no fault of the NAR.
type spoolError struct{ error }

func (e *spoolError) Unwrap() error { return e.error }

// A cutter cuts what is written to it into pieces.
type cutter struct {
	skip  uint64                 // so many bytes are none's
	begin func() ([]byte, error) // returns an empty piece with the capacity that it is to fill; the last one may be smaller
	end   func([]byte) error

	read uint64
	buf  []byte // nil between pieces
	err  error
}

func (c *cutter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 && c.err == nil {
		if c.read < c.skip {
			skipped := min(c.skip-c.read, uint64(len(b)))
			b = b[skipped:]
			c.read += skipped
		} else if room := c.room(); room != nil {
			k := copy(room, b)
			b = b[k:]
			c.fill(k)
		}
	}
	return n - len(b), c.err
}

// ReadFrom reads contents to where they are compressed from.
func (c *cutter) ReadFrom(r io.Reader) (n int64, err error) {
	if c.read < c.skip {
		n, err = io.CopyN(io.Discard, r, int64(c.skip-c.read))
		c.read += uint64(n)
	}
	for err == nil && c.err == nil {
		if room := c.room(); room != nil {
			var k int
			k, err = r.Read(room)
			n += int64(k)
			c.fill(k)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return n, cmp.Or(c.err, err)
}

// room returns what is free of the piece, nil when there is an error.
func (c *cutter) room() []byte {
	if c.buf == nil {
		c.buf, c.err = c.begin()
	}
	if c.err != nil {
		return nil
	}
	return c.buf[len(c.buf):cap(c.buf)]
}

// fill says that n bytes of the room are taken.
func (c *cutter) fill(n int) {
	c.buf = c.buf[:len(c.buf)+n]
	c.read += uint64(n)
	if len(c.buf) == cap(c.buf) {
		c.close()
	}
}

// close ends the piece.
func (c *cutter) close() error {
	if len(c.buf) > 0 && c.err == nil {
		c.err = c.end(c.buf)
		c.buf = nil
	}
	return c.err
}

// A piece is where a part of a NAR is in the spool.
type piece struct {
	at   int64
	size int
	nar  uint64 // how many bytes of the NAR it has
}

// A reading is one NAR on its way through the spool, or what is there of it.
type reading struct {
	cancel context.CancelFunc // ends it

	mu      sync.Mutex
	changed sync.Cond // something below has
	pieces  []piece
	err     error // of its end; io.EOF when it is whole, nil before
	front   int   // the furthest piece that was asked for
	readers int
}

func newReading(cancel context.CancelFunc) *reading {
	r := &reading{readers: 1, cancel: cancel}
	r.changed.L = &r.mu
	return r
}

func (r *reading) add(p piece) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pieces = append(r.pieces, p)
	r.changed.Broadcast()
}

func (r *reading) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = cmp.Or(err, io.EOF)
	r.changed.Broadcast()
}

// piece waits for piece i and returns it, or io.EOF behind the last one.
func (r *reading) piece(ctx context.Context, i int) (piece, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i > r.front {
		r.front = i
		r.changed.Broadcast()
	}
	if err := r.until(ctx, func() bool { return i < len(r.pieces) || r.err != nil }); err != nil {
		return piece{}, err
	}
	if i < len(r.pieces) {
		return r.pieces[i], nil
	}
	return piece{}, r.err
}

// wanted waits until fewer than lead pieces are there that nobody asked for.
func (r *reading) wanted(ctx context.Context, lead int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.until(ctx, func() bool { return len(r.pieces) < r.front+lead })
}

// until waits, with the lock, until something is so.
func (r *reading) until(ctx context.Context, so func() bool) error {
	if so() {
		return nil
	}
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.changed.Broadcast()
	})
	defer stop()
	for !so() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.changed.Wait()
	}
	return nil
}

// join adds a reader unless the reading cannot be followed from its beginning.
func (r *reading) join(s *spool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	failed := r.err != nil && r.err != io.EOF
	if failed || len(r.pieces) > 0 && !s.holds(r.pieces[0].at) {
		return false
	}
	r.readers++
	return true
}

// leave removes a reader. When it was the last one of a reading under way, that
// is abandoned.
func (r *reading) leave() (abandoned bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readers--
	if r.readers > 0 || r.err != nil {
		return false
	}
	r.cancel()
	return true
}
