package closure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"nx/pkg/store"
)

// What the options change, as the sink sees it.
func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		name   string
		opt    Options
		size   int // of each of the two NARs
		place  Place
		caches string

		asked   string
		want    Progress
		wantErr string
	}{
		{name: "none", asked: "valid 1, valid 1, add", want: Progress{Missing: 2, Sent: 2}},
		{name: "the sink's caches have a part", opt: Options{Substitute: true}, caches: "b",
			asked: "valid 1, valid 1, valid 2, add", want: Progress{Missing: 1, Sent: 1, Substituted: 1}},
		{name: "the sink's caches have all", opt: Options{Substitute: true}, caches: "a b",
			asked: "valid 1, valid 1, valid 2", want: Progress{Substituted: 2}},
		{name: "dry run", opt: Options{DryRun: true, Substitute: true}, caches: "a b", asked: "valid 1, valid 1", want: Progress{Missing: 2}},
		{name: "no room", place: Place{Free: 10}, asked: "valid 1, valid 1", want: Progress{Missing: 2},
			wantErr: "0.0 MB are missing, but only 0.0 MB are free"},
		{name: "just room", place: Place{Free: 20}, asked: "valid 1, valid 1, add", want: Progress{Missing: 2, Sent: 2}},
		{name: "zstd", opt: Options{Compress: Zstd}, place: Place{Zstd: true}, asked: "valid 1, valid 1, add zstd", want: Progress{Missing: 2, Sent: 2}},
		{name: "zstd that is not there", opt: Options{Compress: Zstd}, asked: "valid 1",
			wantErr: "compress with zstd: the host has no zstd"},
		{name: "auto, without zstd", opt: Options{Compress: Auto}, size: 1 << 20, asked: "valid 1, valid 1, add", want: Progress{Missing: 2, Sent: 2}},
		{name: "auto, little", opt: Options{Compress: Auto}, place: Place{Zstd: true}, asked: "valid 1, valid 1, add", want: Progress{Missing: 2, Sent: 2}},
		{name: "auto", opt: Options{Compress: Auto}, size: 1 << 20, place: Place{Zstd: true}, asked: "valid 1, valid 1, add zstd", want: Progress{Missing: 2, Sent: 2}},
		{name: "auto, near", opt: Options{Compress: Auto, Near: true}, size: 1 << 20, place: Place{Zstd: true}, asked: "valid 1, valid 1, add", want: Progress{Missing: 2, Sent: 2}},
		{name: "none, though it could", opt: Options{Compress: None}, size: 1 << 20, place: Place{Zstd: true}, asked: "valid 1, valid 1, add", want: Progress{Missing: 2, Sent: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src, dst := newMemory("a:b b"), newMemory("")
			src.size, dst.size, dst.place = tt.size, tt.size, tt.place
			dst.caches = map[store.Path]struct{}{}
			for _, p := range paths(tt.caches) {
				dst.caches[p] = struct{}{}
			}
			got, err := (&Depot{Source: src}).Copy(t.Context(), dst, path("a"), tt.opt, nil)
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || err.Error() != tt.wantErr) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
			if asked := strings.Join(dst.requests, ", "); asked != tt.asked {
				t.Errorf("sink was asked %q, want %q", asked, tt.asked)
			}
			if got := (Progress{Missing: got.Missing, Sent: got.Sent, Substituted: got.Substituted}); got != tt.want {
				t.Errorf("progress\n got %+v\nwant %+v", got, tt.want)
			}
			if locked := len(dst.locked) > 0; locked == tt.opt.DryRun {
				t.Errorf("locked %q", dst.locked)
			}
		})
	}
}

func TestSigned(t *testing.T) {
	src, dst := newMemory("a:b b"), &signed{memory: newMemory("")}
	sign := func(i store.Info) string { return "key:" + i.Path.Name() }
	if _, err := (&Depot{Source: src}).Copy(t.Context(), dst, path("a"), Options{Sign: sign}, nil); err != nil {
		t.Fatal(err)
	}
	if want := []string{"key:b", "key:a"}; !slices.Equal(dst.sigs, want) {
		t.Errorf("signatures %q, want %q", dst.sigs, want)
	}
}

// A signed sink notes the signatures.
type signed struct {
	*memory
	sigs []string
}

func (s *signed) AddToStoreNar(ctx context.Context, infos iter.Seq[store.Info], dump Dump, added func(store.Info)) error {
	return s.memory.AddToStoreNar(ctx, func(yield func(store.Info) bool) {
		for i := range infos {
			s.sigs = append(s.sigs, i.Sigs...)
			if !yield(i) {
				return
			}
		}
	}, dump, added)
}

// A distant sink does not answer the second question before it was sent something, or
// when it must be sent nothing before that.
type distant struct {
	*memory
	early bool
	fails error // instead of the second answer

	asked int
	sent  chan struct{} // closed when something was
	once  sync.Once
}

func (d *distant) QueryValidPaths(ctx context.Context, paths []store.Path, lock, substitute bool) Answer {
	answer := d.memory.QueryValidPaths(ctx, paths, lock, substitute)
	if d.asked++; d.asked != 2 {
		return answer
	}
	return func() ([]store.Path, error) {
		if d.early {
			select {
			case <-d.sent:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		select {
		case <-d.sent:
			if !d.early {
				return nil, errors.New("something was sent before it was known what is missing")
			}
		default:
		}
		if d.fails != nil {
			return nil, d.fails
		}
		return answer()
	}
}

func (d *distant) AddCompressed(ctx context.Context, infos iter.Seq[store.Info], dump Dump, added func(store.Info)) error {
	return d.memory.AddCompressed(ctx, infos, func(ctx context.Context, p store.Path, w io.Writer) error {
		err := dump(ctx, p, w)
		d.once.Do(func() { close(d.sent) })
		return err
	}, added)
}

// The first objects go while it is still asked for the others, if nothing is against
// that; the question for those does not wait for the first answer.
func TestEarly(t *testing.T) {
	const n = 200 // objects beside the root
	free := errors.New("the line broke")
	for _, tt := range []struct {
		name    string
		opt     Options
		place   Place
		size    int
		there   int  // of the first ones
		full    bool // the sink is, after the first answer
		fails   error
		early   bool
		wantErr string
	}{
		{name: "far", opt: Options{Compress: Auto}, place: Place{Zstd: true}, early: true},
		{name: "always compressed", opt: Options{Compress: Zstd, Near: true}, place: Place{Zstd: true}, early: true},
		{name: "just room for all", opt: Options{Compress: Auto}, place: Place{Zstd: true, Free: (n + 1) * 4 << 10}, early: true},
		{name: "room for what is missing only", opt: Options{Compress: Auto}, place: Place{Zstd: true, Free: (n+1)*4<<10 - 1}, there: 1},
		{name: "no room", opt: Options{Compress: Auto}, place: Place{Zstd: true, Free: 1},
			wantErr: "0.8 MB are missing, but only 0.0 MB are free"},
		{name: "near", opt: Options{Compress: Auto, Near: true}, place: Place{Zstd: true}},
		{name: "plain", opt: Options{Compress: None}, place: Place{Zstd: true}},
		{name: "no zstd", opt: Options{Compress: Auto}},
		{name: "little of the first ones is missing", opt: Options{Compress: Auto}, place: Place{Zstd: true}, there: beside - 63},
		{name: "just enough is", opt: Options{Compress: Auto}, place: Place{Zstd: true}, there: beside - 64, early: true},
		{name: "the sink's caches may have it", opt: Options{Compress: Auto, Substitute: true}, place: Place{Zstd: true}},
		{name: "dry run", opt: Options{Compress: Auto, DryRun: true}, place: Place{Zstd: true}},
		{name: "no second answer", opt: Options{Compress: Auto}, place: Place{Zstd: true}, fails: free, early: true, wantErr: free.Error()},
		{name: "no disk", opt: Options{Compress: Auto}, place: Place{Zstd: true}, full: true, early: true, wantErr: "no space left on device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Who waits for what does not come is found to.
			synctest.Test(t, func(t *testing.T) {
				src, dst := newMemory(""), newMemory("")
				src.size, dst.size, dst.place = 4<<10, 4<<10, tt.place
				for i := range n {
					p := path(fmt.Sprint(i))
					src.refs[p], src.refs[path("a")] = nil, append(src.refs[path("a")], p)
					if i < tt.there {
						dst.refs[p] = nil
					}
				}
				if tt.full {
					dst.full = path("0")
				}
				depot := &Depot{Source: src}
				depot.Prepare(t.Context(), path("a"))
				sink := &distant{memory: dst, early: tt.early, fails: tt.fails, sent: make(chan struct{})}
				var steps []Step
				sent, gone := 0, uint64(0)
				got, err := depot.Copy(t.Context(), sink, path("a"), tt.opt, func(p Progress) {
					steps = append(steps, p.Step)
					if p.Step == Added {
						sent++
					}
					gone = p.Gone
				})
				if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.HasSuffix(err.Error(), tt.wantErr)) {
					t.Errorf("error %v, want %q", err, tt.wantErr)
				}
				if sent != got.Sent || gone != got.Gone {
					t.Errorf("told of %d objects, %d bytes; it was %+v", sent, gone, got)
				}
				if asked := strings.Join(dst.requests, ", "); !strings.HasPrefix(asked, "valid 129, valid 72") {
					t.Errorf("sink was asked %s", asked)
				}
				if tt.wantErr != "" {
					return
				}
				missing := n + 1 - tt.there
				if got.Missing != missing || got.MissingSize != uint64(missing)*4<<10 || !tt.opt.DryRun && (got.Sent != missing || len(dst.refs) != n+1) {
					t.Errorf("%d objects there, progress %+v", len(dst.refs), got)
				}
				if first := slices.IndexFunc(steps, func(s Step) bool { return s != Substituting }); steps[first] != Copying {
					t.Errorf("steps %v", steps)
				}
			})
		})
	}
}

// Compression is judged when enough has gone to know the line, and tried once.
func TestMeter(t *testing.T) {
	const enough = 8 << 20
	for _, tt := range []struct {
		name string
		line meter
		want meter
	}{
		{"nothing is known", meter{compress: true}, meter{compress: true}},
		{"nothing is known of a near host", meter{}, meter{}},
		{"the first megabytes fit into windows", meter{compress: true, wire: 2 << 20, waiting: 1}, meter{compress: true, wire: 2 << 20, waiting: 1}},
		{"the line is waited for", meter{compress: true, wire: enough, waiting: 1, sending: 2}, meter{compress: true, wire: enough, waiting: 1, sending: 2}},
		{"compression is waited for", meter{compress: true, wire: enough, waiting: 2, sending: 1}, meter{settled: true}},
		{"fast", meter{wire: enough, sending: time.Second / 8}, meter{wire: enough, sending: time.Second / 8}},
		{"slow", meter{wire: enough, sending: time.Second}, meter{compress: true}},
		{"both were tried", meter{wire: enough, sending: time.Second, settled: true}, meter{wire: enough, sending: time.Second, settled: true}},
	} {
		got := tt.line
		if compress := got.compresses(); got != tt.want || compress != tt.want.compress {
			t.Errorf("%s: %v, %+v\nwant %+v", tt.name, compress, got, tt.want)
		}
	}
}

// A line that is faster than compression stops it, between two objects; all arrives.
func TestStopsCompressing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, dst := newMemory("a:b b:c c"), newMemory("")
		src.size, dst.size, dst.place = sample, sample, Place{Zstd: true}
		src.noise, dst.noise = true, true // so that a sample of it fills a sample of the line
		// The sink takes what it gets at once: whoever sends to it waits for the source.
		src.line = time.Second
		got, err := (&Depot{Source: src}).Copy(t.Context(), dst, path("a"), Options{Compress: Auto}, nil)
		if err != nil || got.Sent != 3 || got.Gone != 3*sample {
			t.Errorf("error %v, progress %+v", err, got)
		}
		if asked := strings.Join(dst.requests, ", "); asked != "valid 1, valid 2, add zstd, add" {
			t.Errorf("sink was asked %q", asked)
		}
	})
}

// A line to a host nearby that is slow all the same is compressed, between two
// objects, and so is one that another copy shares.
func TestStartsCompressing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		line   time.Duration // for each write
		others int32
		asked  string
	}{
		{"fast", 0, 0, "valid 1, valid 2, add"},
		{"slow", time.Second, 0, "valid 1, valid 2, add, add zstd"},
		{"shared", 0, 1, "valid 1, valid 2, add zstd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, dst := newMemory("a:b b:c c"), newMemory("")
				src.size, dst.size, dst.place, dst.line = sample, sample, Place{Zstd: true}, tt.line
				depot := &Depot{Source: src}
				depot.copies.Store(tt.others)
				got, err := depot.Copy(t.Context(), dst, path("a"), Options{Compress: Auto, Near: true}, nil)
				if err != nil || got.Sent != 3 || got.Gone != 3*sample {
					t.Errorf("error %v, progress %+v", err, got)
				}
				if asked := strings.Join(dst.requests, ", "); asked != tt.asked {
					t.Errorf("sink was asked %q, want %q", asked, tt.asked)
				}
			})
		})
	}
}
