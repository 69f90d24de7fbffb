package nixserve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"nx/pkg/store"
)

// le writes a number as a POSIX printf format.
func le(n uint64) string {
	var s strings.Builder
	for range 8 {
		fmt.Fprintf(&s, `\%03o`, byte(n))
		n >>= 8
	}
	return s.String()
}

// ask opens a server and asks it something.
func ask(ctx context.Context, run Run) error {
	c := Open(ctx, run)
	defer c.Close()
	_, err := c.QueryValidPaths(ctx, nil, false, false)()
	return err
}

// Whatever else than a server answers, the error shows it.
func TestOpenRefuses(t *testing.T) {
	greet := func(version uint64) string { return "printf '" + le(serverMagic) + le(version) + "'" }
	for _, tt := range []struct {
		name    string
		script  string
		wantErr string
	}{
		{"no nix", "echo 'sh: 1: nix-store: not found' >&2; exit 127",
			"open store: nix-store --serve: exit status 127: sh: 1: nix-store: not found"},
		{"silent end", "exit 0", "open store: nix-store --serve: ended without an answer"},
		{"trace", "printf 'warning: x\\nerror:\\n  … while y\\n\\n  error: the cause\\n  at z\\n' >&2; exit 1",
			"open store: nix-store --serve: exit status 1: the cause"},
		{"banner", "echo 'Welcome to web1!'; " + greet(0x207),
			`open store: "Welcome to web1!" came instead of the greeting of nix-store --serve: does a login script print it?`},
		{"short banner", "echo hi; " + greet(0x207), `open store: "hi" came instead`},
		{"long banner", "i=0; while [ $i -lt 200 ]; do echo 'Welcome to web1!'; i=$((i+1)); done", `open store: "Welcome to web1!\nWelcome`},
		{"not nix", "echo no such command here", `open store: "no such command here" came instead`},
		{"Nix 2.0", greet(0x204), "open store: nix-store --serve speaks protocol 2.4, need 2.5: Nix 2.1 or later"},
		{"Nix of a far day", greet(0x300), "open store: nix-store --serve speaks protocol 3.0, need 2.5: Nix 2.1 or later"},
		{"end in greeting", "printf '" + le(serverMagic) + "'; exit 0", "open store: nix-store --serve: ended without an answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Like a server, the script ends by itself or with its input.
			err := ask(t.Context(), Command("/bin/sh", "-c", tt.script+"; exec cat >/dev/null"))
			if err == nil || !strings.HasPrefix(err.Error(), tt.wantErr) {
				t.Errorf("error\n got %v\nwant %s", err, tt.wantErr)
			}
		})
	}
	if err := ask(t.Context(), Command("/no/such/nix-store")); err == nil || !strings.Contains(err.Error(), "/no/such/nix-store") {
		t.Errorf("program that is not there: %v", err)
	}
}

func TestServerError(t *testing.T) {
	err := ask(t.Context(), Command("/bin/sh", "-c", "echo first >&2; echo error: last >&2; exit 3"))
	var server *ServerError
	if !errors.As(err, &server) || server.Log() != "first\nerror: last\n" {
		t.Errorf("error %v has log %q", err, server.Log())
	}
}

func TestTail(t *testing.T) {
	var l tail
	for range 9 * tailSize / 8 {
		io.WriteString(&l, "1234567\n")
	}
	if got := l.String(); len(got) != tailSize || !strings.HasSuffix(got, "7\n") {
		t.Errorf("tail of %d bytes ends in %q", len(got), got[len(got)-8:])
	}
	l.Write(make([]byte, 2*tailSize))
	if got := l.String(); got != strings.Repeat("\x00", tailSize) {
		t.Errorf("tail of %d bytes", len(got))
	}
}

// A fake is a server in this process.
func fake(serve func(d *decoder, e encoder) error) Run {
	return func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
		d, e := &decoder{r: bufio.NewReader(stdin)}, encoder{bufio.NewWriter(stdout)}
		if d.number() != clientMagic || d.number() != offered {
			return errors.New("greeted wrongly")
		}
		e.number(serverMagic)
		e.number(0x205)
		e.w.Flush()
		err := serve(d, e)
		e.w.Flush()
		return err
	}
}

// add reads one request of AddToStoreNar.
func add(d *decoder) (path string) {
	d.number()
	path = d.text(maxText)
	d.text(maxText)
	d.text(maxText)
	d.paths(maxPaths)
	d.number()
	size := d.number()
	d.number()
	d.texts(maxSigs)
	d.text(maxText)
	io.CopyN(io.Discard, d.r, int64(size))
	return path
}

func objects(n int) []store.Info {
	var infos []store.Info
	for i := range n {
		infos = append(infos, store.Info{Path: store.Path(fmt.Sprintf("/nix/store/%032d-x", i)), NarHash: hashA, NarSize: 1000})
	}
	return infos
}

func dumpThousand(_ context.Context, _ store.Path, w io.Writer) error {
	_, err := w.Write(make([]byte, 1000))
	return err
}

// A server that answers nothing before it has all requests gets them all.
func TestAddIsPipelined(t *testing.T) {
	const n = 1000
	infos := objects(n)
	c := Open(t.Context(), fake(func(d *decoder, e encoder) error {
		for i := range n {
			if got := add(d); got != string(infos[i].Path) {
				return fmt.Errorf("object %d is %q", i, got)
			}
		}
		for range n {
			e.number(1)
		}
		return nil
	}))
	acked := 0
	check(t, c.AddToStoreNar(t.Context(), slices.Values(infos), dumpThousand, func(store.Info) { acked++ }))
	if acked != n {
		t.Errorf("%d acknowledged, want %d", acked, n)
	}
	check(t, c.Close())
}

// A server that goes in the middle of a copy: the error is its last words, of the
// first object it did not acknowledge, not that of a pipe.
func TestServerGoes(t *testing.T) {
	gone := errors.New("connection reset")
	c := Open(t.Context(), fake(func(d *decoder, e encoder) error {
		add(d)
		e.number(1)
		add(d)
		return gone
	}))
	acked := 0
	err := c.AddToStoreNar(t.Context(), slices.Values(objects(10_000)), dumpThousand, func(store.Info) { acked++ })
	want := "add " + string(objects(2)[1].Path) + ": nix-store --serve: connection reset"
	if acked != 1 || !errors.Is(err, gone) || err.Error() != want {
		t.Errorf("%d acknowledged, error\n got %v\nwant %s", acked, err, want)
	}
	check(t, c.Close())
}

// What a server has begun to answer is not asked again: a part of it has been
// passed on.
func TestLocalServerGoesInAnswer(t *testing.T) {
	started := 0
	local := &Store{run: fake(func(d *decoder, e encoder) error {
		started++
		ask := func() {
			d.number()
			d.number()
			d.paths(maxPaths)
		}
		ask()
		e.number(0)
		e.w.Flush()
		ask()
		e.number(1) // of paths, and none comes
		return errors.New("connection reset")
	})}
	_, err := local.QueryClosure(t.Context(), nil)
	check(t, err)
	_, err = local.QueryClosure(t.Context(), nil)
	if want := "query closure: nix-store --serve: connection reset"; err == nil || err.Error() != want || started != 1 {
		t.Errorf("%d servers, want 1, error\n got %v\nwant %s", started, err, want)
	}
}

func TestWrongAnswer(t *testing.T) {
	c := Open(t.Context(), fake(func(d *decoder, e encoder) error {
		add(d)
		e.number(7)
		e.w.Flush()
		_, err := io.Copy(io.Discard, d.r)
		return err
	}))
	err := c.AddToStoreNar(t.Context(), slices.Values(objects(10_000)), dumpThousand, func(store.Info) {})
	if err == nil || !strings.HasSuffix(err.Error(), "answer is 7 instead of 1") {
		t.Errorf("error %v", err)
	}
	check(t, c.Close())
}

// What is under way ends with its context, at once, and the server with it.
func TestCancel(t *testing.T) {
	reason := errors.New("enough")
	t.Run("open", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		started := func(ctx context.Context, _ io.Reader, _, _ io.Writer) error {
			cancel(reason)
			<-ctx.Done()
			return ctx.Err()
		}
		if err := ask(ctx, started); !errors.Is(err, reason) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("add", func(t *testing.T) {
		c := Open(t.Context(), fake(func(d *decoder, e encoder) error {
			_, err := io.Copy(io.Discard, d.r)
			return err
		}))
		ctx, cancel := context.WithCancelCause(t.Context())
		err := c.AddToStoreNar(ctx, slices.Values(objects(2)), func(ctx context.Context, p store.Path, w io.Writer) error {
			cancel(reason)
			return dumpThousand(ctx, p, w)
		}, func(store.Info) {})
		if !errors.Is(err, reason) {
			t.Errorf("error %v", err)
		}
		check(t, c.Close())
	})
	t.Run("child", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		run := Command("/bin/sh", "-c", "printf '"+le(serverMagic)+"'; exec sleep 1000")
		err := ask(ctx, func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
			return run(ctx, stdin, writerFunc(func(b []byte) (int, error) {
				n, err := stdout.Write(b)
				cancel(reason)
				return n, err
			}), stderr)
		})
		if !errors.Is(err, reason) {
			t.Errorf("error %v", err)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
