package closure

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"

	"nx/pkg/store"
)

// A quarry is a source of large NARs, half of which can be compressed, and counts
// how often each is read.
type quarry struct {
	Source // nil: nothing else is asked

	mu    sync.Mutex
	reads map[store.Path]int
	fails error // after a piece and a half
	short uint64
}

func (q *quarry) DumpStorePath(_ context.Context, p store.Path, w io.Writer) error {
	q.mu.Lock()
	if q.reads == nil {
		q.reads = map[store.Path]int{}
	}
	q.reads[p]++
	q.mu.Unlock()
	var left uint64
	fmt.Sscanf(p.Name(), "nar%d", &left)
	left -= q.short
	rnd := rand.NewChaCha8(sha256.Sum256([]byte(p)))
	block := make([]byte, 32<<10)
	for sent := uint64(0); left > 0; {
		rnd.Read(block[:len(block)/2])
		n := min(left, uint64(len(block)))
		if _, err := w.Write(block[:n]); err != nil {
			return err
		}
		left -= n
		if sent += n; q.fails != nil && sent >= pieceSize*3/2 {
			return q.fails
		}
	}
	return nil
}

func (q *quarry) count(p store.Path) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.reads[p]
}

func nar(size uint64) store.Info {
	return store.Info{Path: path(fmt.Sprintf("nar%d", size)), NarSize: size}
}

// sum is the hash of what q dumps.
func (q *quarry) sum(t *testing.T, info store.Info) string {
	t.Helper()
	h := sha256.New()
	if err := (&quarry{}).DumpStorePath(t.Context(), info.Path, h); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// A receiver hashes the NAR that it is given piece by piece.
type receiver struct {
	hash hash.Hash
	zstd *zstd.Decoder // nil for plain pieces
	nar  uint64        // bytes, as the pieces say
	wire int
	gate func(piece int) // before each is taken; may be nil
	n    int
}

func newReceiver(t *testing.T, compressed bool) *receiver {
	r := &receiver{hash: sha256.New()}
	if compressed {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		r.zstd = d
	}
	return r
}

func (r *receiver) take(b []byte, nar uint64) error {
	if r.gate != nil {
		r.gate(r.n)
	}
	r.n++
	r.wire += len(b)
	if r.zstd != nil {
		var err error
		if b, err = r.zstd.DecodeAll(b, nil); err != nil {
			return err
		}
	}
	if nar != uint64(len(b)) {
		return fmt.Errorf("piece of %d bytes is said to have %d", len(b), nar)
	}
	r.nar += nar
	r.hash.Write(b)
	return nil
}

func (r *receiver) sum() string { return fmt.Sprintf("%x", r.hash.Sum(nil)) }

// Hosts that need the same have it read once, whenever they come.
func TestReadOnce(t *testing.T) {
	for _, compressed := range []bool{false, true} {
		t.Run(fmt.Sprintf("zstd %v", compressed), func(t *testing.T) {
			q := &quarry{}
			d := &Depot{Source: q, SpoolSize: 256 << 20}
			defer d.Close()
			infos := []store.Info{nar(1), nar(1000), nar(pieceSize), nar(5*pieceSize + 7)}
			deliver := func() {
				for _, info := range infos {
					r := newReceiver(t, compressed)
					if err := d.WriteNAR(t.Context(), info, compressed, r.take); err != nil {
						t.Error(err)
					}
					if got, want := r.sum(), q.sum(t, info); got != want {
						t.Errorf("%s arrives as %s, want %s", info.Path, got, want)
					}
					if compressed && info.NarSize > pieceSize && uint64(r.wire) > info.NarSize*6/10 {
						t.Errorf("%d bytes went as %d", info.NarSize, r.wire)
					}
				}
			}
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(deliver)
			}
			wg.Wait()
			deliver() // a late one
			for _, info := range infos {
				if n := q.count(info.Path); n != 1 {
					t.Errorf("%s was read %d times", info.Path, n)
				}
			}
		})
	}
}

// A host that has stopped holds nobody back. The spool goes on without it, and it
// has the NAR read anew from where it was.
func TestSlowHost(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spool int64
		reads int
	}{
		{"within the spool", 256 << 20, 1},
		{"beyond the spool", 16 << 20, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := &quarry{}
			d := &Depot{Source: q, SpoolSize: tt.spool}
			defer d.Close()
			info := nar(30*pieceSize + 1)
			stopped, others := make(chan struct{}), make(chan struct{})
			slow := newReceiver(t, false)
			slow.gate = func(piece int) {
				if piece == 2 {
					close(stopped)
					<-others
				}
			}
			done := make(chan error)
			go func() { done <- d.WriteNAR(t.Context(), info, false, slow.take) }()
			<-stopped
			for range 2 { // one after the other: the second finds the first one's, or nothing
				r := newReceiver(t, false)
				if err := d.WriteNAR(t.Context(), info, false, r.take); err != nil || r.sum() != q.sum(t, info) {
					t.Errorf("a fast host: %v", err)
				}
				if tt.reads > 1 {
					break
				}
			}
			close(others)
			if err := <-done; err != nil || slow.sum() != q.sum(t, info) {
				t.Errorf("the slow host: %v", err)
			}
			if n := q.count(info.Path); n != tt.reads {
				t.Errorf("read %d times, want %d", n, tt.reads)
			}
		})
	}
}

// The reading is ahead of the fastest by some pieces, not by the NAR.
func TestPace(t *testing.T) {
	var read atomic.Int64
	q := &quarry{}
	d := &Depot{Source: counting{q, &read}, SpoolSize: 1 << 30}
	defer d.Close()
	info := nar(100 * pieceSize)
	stop := errors.New("stop")
	err := d.WriteNAR(t.Context(), info, false, func([]byte, uint64) error { return stop })
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if n := read.Load(); n > (ahead+2)*pieceSize {
		t.Errorf("%d bytes read for one piece", n)
	}
}

// A counting source counts the bytes that are taken from it.
type counting struct {
	*quarry
	n *atomic.Int64
}

func (c counting) DumpStorePath(ctx context.Context, p store.Path, w io.Writer) error {
	return c.quarry.DumpStorePath(ctx, p, writerFunc(func(b []byte) (int, error) {
		n, err := w.Write(b)
		c.n.Add(int64(n))
		return n, err
	}))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// One who leaves, or cannot be written to, costs the others nothing; when all have
// left the reading ends.
func TestLeave(t *testing.T) {
	q := &quarry{}
	d := &Depot{Source: q, SpoolSize: 256 << 20}
	defer d.Close()
	info := nar(6 * pieceSize)
	gone := errors.New("gone")
	there, joined := make(chan struct{}), make(chan struct{})
	first := newReceiver(t, true)
	first.gate = func(piece int) {
		if piece == 0 {
			close(there)
			<-joined
		}
	}
	done := make(chan error)
	go func() { done <- d.WriteNAR(t.Context(), info, true, first.take) }()
	<-there
	for range 3 {
		if err := d.WriteNAR(t.Context(), info, true, func([]byte, uint64) error { return gone }); !errors.Is(err, gone) {
			t.Errorf("error %v", err)
		}
	}
	close(joined)
	if err := <-done; err != nil || first.sum() != q.sum(t, info) {
		t.Errorf("who stayed: %v", err)
	}
	if n := q.count(info.Path); n != 1 {
		t.Errorf("read %d times", n)
	}
}

func TestSourceErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, spool := range []int64{0, 256 << 20} {
		d := &Depot{Source: &quarry{fails: broken}, SpoolSize: spool}
		if err := d.WriteNAR(t.Context(), nar(4*pieceSize), true, newReceiver(t, true).take); !errors.Is(err, broken) {
			t.Errorf("spool %d: source that breaks: %v", spool, err)
		}
		d = &Depot{Source: &quarry{short: 1}, SpoolSize: spool}
		err := d.WriteNAR(t.Context(), nar(1000), true, newReceiver(t, true).take)
		if err == nil || !strings.Contains(err.Error(), "NAR has 999 bytes instead of the 1000 that its store records") {
			t.Errorf("spool %d: short NAR: %v", spool, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		d = &Depot{Source: blocked{}, SpoolSize: spool}
		go cancel(broken)
		if err := d.WriteNAR(ctx, nar(1000), true, newReceiver(t, true).take); !errors.Is(err, broken) {
			t.Errorf("spool %d: canceled: %v", spool, err)
		}
	}
}

// A blocked source gives nothing before its context ends.
type blocked struct{ Source }

func (blocked) DumpStorePath(ctx context.Context, _ store.Path, _ io.Writer) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// Without room for a spool each host has its own reading, and one warning says so.
func TestNoSpool(t *testing.T) {
	var log bytes.Buffer
	t.Setenv("TMPDIR", "/no/such/folder")
	q := &quarry{}
	d := &Depot{Source: q, SpoolSize: 1 << 30, Log: slog.New(slog.NewTextHandler(&log, nil))}
	defer d.Close()
	info := nar(3 * pieceSize)
	for range 2 {
		r := newReceiver(t, true)
		if err := d.WriteNAR(t.Context(), info, true, r.take); err != nil || r.sum() != q.sum(t, info) {
			t.Errorf("%v", err)
		}
	}
	if n := q.count(info.Path); n != 2 || strings.Count(log.String(), "no spool") != 1 {
		t.Errorf("read %d times, log %s", n, &log)
	}
}

// A spool's disk that is full is the same, and is told once.
func TestFullSpool(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("NEEDS /dev/full: %v", err)
	}
	var log bytes.Buffer
	q := &quarry{}
	d := &Depot{Source: q, SpoolSize: 1 << 30, Log: slog.New(slog.NewTextHandler(&log, nil))}
	defer d.Close()
	d.start()
	d.spool.close()
	d.spool.f = full
	for _, info := range []store.Info{nar(3 * pieceSize), nar(pieceSize)} {
		r := newReceiver(t, true)
		if err := d.WriteNAR(t.Context(), info, true, r.take); err != nil || r.sum() != q.sum(t, info) {
			t.Errorf("%v", err)
		}
	}
	if strings.Count(log.String(), "no space left on device") != 1 {
		t.Errorf("log %s", &log)
	}
}

// Memory is bounded by hosts, not by what they get or how far they are apart.
func TestMemory(t *testing.T) {
	const hosts = 50
	q := &quarry{}
	d := &Depot{Source: q, SpoolSize: 256 << 20}
	defer d.Close()
	infos := []store.Info{nar(10 * pieceSize), nar(10*pieceSize + 1), nar(10*pieceSize + 2)}
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var peak atomic.Uint64
	var pieces atomic.Int64
	var wg sync.WaitGroup
	for i := range hosts {
		wg.Go(func() {
			for n := range infos {
				// Hosts are in different places.
				err := d.WriteNAR(t.Context(), infos[(i+n)%len(infos)], true, func([]byte, uint64) error {
					if pieces.Add(1)%97 == 0 {
						var m runtime.MemStats
						runtime.ReadMemStats(&m)
						peak.Store(max(peak.Load(), m.HeapAlloc-before.HeapAlloc))
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("peak %d MiB", peak.Load()>>20)
	if limit := uint64(64<<20 + hosts*4<<20); peak.Load() > limit {
		t.Errorf("peak heap is %d MiB, more than %d", peak.Load()>>20, limit>>20)
	}
}
