package nixserve

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"nx/pkg/store"
)

// Real decompressors in front of real servers: what they got is what Nix finds whole.
func TestCompressor(t *testing.T) {
	setup(t)
	if _, err := exec.LookPath("zstd"); err != nil {
		t.Skipf("SKIPPED, needs zstd: %v", err)
	}
	from, to := nixStore{installed(t), t.TempDir()}, nixStore{installed(t), t.TempDir()}
	root := from.fill(t)
	paths := from.requisites(t, root)
	source := from.open(t)
	infos, err := source.QueryPathInfos(t.Context(), paths)
	check(t, err)
	infos = order(infos, paths)
	encoder, err := zstd.NewWriter(nil)
	check(t, err)
	dump := func(ctx context.Context, p store.Path, w io.Writer) error {
		return source.DumpStorePath(ctx, p, &framer{w: w, encoder: encoder})
	}
	server := Command("/bin/sh", "-c", `zstd -dcq | "$@"`, "sh", string(to.nix), "--store", to.dir, "--serve", "--write")

	var acked []store.Path
	check(t, new(Compressor).Add(t.Context(), server, slices.Values(infos), dump, func(i store.Info) { acked = append(acked, i.Path) }))
	if !slices.Equal(acked, paths) {
		t.Errorf("acknowledged\n got %q\nwant %q", acked, paths)
	}
	if got := to.requisites(t, root); !slices.Equal(got, paths) {
		t.Errorf("closure\n got %q\nwant %q", got, paths)
	}
	check(t, source.Close())
}

// A server that was asked nothing ends, though nobody awaits its greeting. One that
// waits for compressed objects got nothing then.
func TestNothingAsked(t *testing.T) {
	greeter := Command("/bin/sh", "-c", "printf '"+le(serverMagic)+le(offered)+"'; exec cat >/dev/null")
	check(t, Open(t.Context(), greeter).Close())
	check(t, new(Compressor).Add(t.Context(), greeter, slices.Values(objects(0)), dumpThousand, func(store.Info) {}))
	silent := Command("/bin/sh", "-c", "read -r _ && exit 1; exit 0")
	check(t, new(Compressor).Add(t.Context(), silent, slices.Values(objects(0)), dumpThousand, func(store.Info) {}))
}

// A server that goes: the error is its last words.
func TestCompressorFails(t *testing.T) {
	for _, tt := range []struct {
		name, script, wantErr string
	}{
		{"no decompressor", "no-such-zstd -d | cat >/dev/null; exit 3", "open store: nix-store --serve: exit status 3: "},
		{"no server", "exec >&-; cat >/dev/null; echo error: no space >&2; exit 1", "open store: nix-store --serve: exit status 1: no space"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := new(Compressor).Add(t.Context(), Command("/bin/sh", "-c", tt.script), slices.Values(objects(3)), dumpThousand, func(store.Info) { t.Error("acknowledged") })
			if err == nil || !strings.HasPrefix(err.Error(), tt.wantErr) {
				t.Errorf("error\n got %v\nwant %s", err, tt.wantErr)
			}
		})
	}
	broken := errors.New("source broke")
	err := new(Compressor).Add(t.Context(), Command("/bin/sh", "-c", "exec cat >/dev/null"), slices.Values(objects(3)),
		func(context.Context, store.Path, io.Writer) error { return broken }, func(store.Info) {})
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want that of the source", err)
	}
}
