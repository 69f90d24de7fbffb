package nixserve

import (
	"bufio"
	"context"
	"io"
	"iter"
	"sync"

	"github.com/klauspost/compress/zstd"

	"nx/pkg/store"
)

// A Compressor compresses what is sent to servers behind decompressors. All of them
// share what that takes, some MB of memory. The zero value works.
type Compressor struct {
	once    sync.Once
	encoder *zstd.Encoder
	err     error
}

// encoders is how many servers' requests are compressed at once: they are small.
const encoders = 2

// Add runs a server behind a decompressor, as "zstd -d | nix-store
// --serve --write" is one, and adds objects as [Client.AddToStoreNar] does, but
// dump must write NARs as zstd frames. What is sent besides is put in frames too.
// The server gets nothing else to do, and the end of its input after the last
// object: a decompressor passes nothing on before its buffer is full or its input
// ends, so that a question would wait for ever. Without a first object it gets
// nothing but that end.
func (z *Compressor) Add(ctx context.Context, run Run, infos iter.Seq[store.Info],
	dump func(context.Context, store.Path, io.Writer) error, added func(store.Info)) error {
	z.once.Do(func() {
		z.encoder, z.err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(encoders), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstd.MinWindowSize<<6))
	})
	if z.err != nil {
		return z.err
	}
	var wire *bufio.Writer
	c := open(ctx, run, func(stdin io.Writer) io.Writer {
		wire = bufio.NewWriterSize(stdin, 64<<10)
		return &framer{w: wire, encoder: z.encoder}
	})
	defer c.Close()
	began := false
	return c.exchange(ctx, func() error {
		return c.add(ctx, infos, func(ctx context.Context, info store.Info) error {
			began = true
			if err := c.out.w.Flush(); err != nil {
				return lost(err)
			}
			return dump(ctx, info.Path, lostWriter{wire})
		}, func() error {
			if !began {
				return lost(c.stdin.Close())
			}
			if err := c.out.w.Flush(); err != nil {
				return lost(err)
			}
			if err := wire.Flush(); err != nil {
				return lost(err)
			}
			return lost(c.stdin.Close())
		}, added)
	})
}

// A framer compresses each write as one frame.
type framer struct {
	w       io.Writer
	encoder *zstd.Encoder
	frame   []byte
}

func (f *framer) Write(b []byte) (int, error) {
	f.frame = f.encoder.EncodeAll(b, f.frame[:0])
	if _, err := f.w.Write(f.frame); err != nil {
		return 0, err
	}
	return len(b), nil
}

// A lostWriter's errors are those of a server that has gone.
type lostWriter struct{ w io.Writer }

func (w lostWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	return n, lost(err)
}
