package deliver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"nx/pkg/closure"
	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/target"
)

// A host is the store of a target and what is done there around a copy. It has
// two sessions from the beginning, so that no step waits for one to be opened: the
// one that serves the store, and a porter, which looks at the place and then waits
// until the system is to be kept.
type host struct {
	Store
	courier *Courier
	conn    Conn
	login   target.Target
	moved   func() // called when something moves in either direction

	begun  chan struct{}      // closed when the porter's script has gone
	place  chan closure.Place // gets one
	kept   chan struct{}      // closed when the root is there
	keep   *io.PipeWriter     // the porter's stdin
	asked  bool               // the porter was told to make the root
	done   chan struct{}      // closed when the porter has ended
	ended  error              // how; read after done
	stderr tail               // the porter's; read after done
}

// open starts the two sessions for the delivery of path. A host that fetches asks its
// caches again for what they lacked before: for an hour Nix would not, and what is
// deployed was just made.
func (c *Courier) open(ctx context.Context, conn Conn, t target.Target, path store.Path, substitute bool, moved func()) (*host, error) {
	command := []string{"nix-store", "--serve", "--write"}
	if substitute {
		command = append(command, "--option", "narinfo-cache-negative-ttl", "0")
	}
	serve, err := target.Quote(t.As(command...)...)
	if err != nil {
		return nil, err
	}
	keep, err := keeping(t, path)
	if err != nil {
		return nil, err
	}
	h := &host{courier: c, conn: conn, login: t, moved: moved,
		begun: make(chan struct{}), place: make(chan closure.Place, 1), kept: make(chan struct{}), done: make(chan struct{})}
	h.Store = c.Open(ctx, func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
		return run(ctx, conn, "exec "+serve, &movingReader{stdin, moved}, &movingWriter{stdout, moved}, stderr)
	})
	stdin, told := io.Pipe()
	h.keep = told
	go func() {
		defer close(h.done)
		h.ended = run(ctx, conn, fmt.Sprintf(porter, keep), &begunReader{Reader: stdin, begun: h.begun}, &porterReader{h: h}, &h.stderr)
		stdin.CloseWithError(io.ErrClosedPipe)
	}()
	if t.Login() == target.DefaultUser && !c.DryRun {
		// A link needs nothing that it leads to: it may be there before, and nobody
		// waits for it in the end. Where the delivery fails nothing is kept by it.
		h.asked = true
		go io.WriteString(told, keepLine)
	}
	return h, nil
}

// keepLine is what the porter waits for.
const keepLine = "keep\n"

// keeping is the script that makes the system's root: no more than the link, which root
// makes as nix-store would, only without starting it. Others may be allowed no more than nix-store, which makes the folders
// too, and takes a root below /nix/var/nix/gcroots without --indirect in all versions. Who
// may not write there has an indirect one below the home folder.
func keeping(t target.Target, path store.Path) (string, error) {
	if t.Login() == target.DefaultUser {
		dir, _ := filepath.Split(path.StagedRoot())
		made, err := target.Quote("mkdir", "-p", dir)
		if err != nil {
			return "", err
		}
		linked, err := target.Quote("ln", "-sfn", string(path), path.StagedRoot())
		return made + " && " + linked, err
	}
	if !mayKeep(t) {
		line, err := target.Quote("nix-store", "--realise", string(path), "--indirect", "--add-root")
		return fmt.Sprintf(`%s "$HOME"/%s`, line, path.StagedHomeRoot()), err
	}
	return target.Quote(t.As("nix-store", "--realise", string(path), "--add-root", path.StagedRoot())...)
}

// mayKeep tells whether who logs in is root, or becomes it.
func mayKeep(t target.Target) bool { return t.Login() == target.DefaultUser || len(t.Sudo) > 0 }

// porter says what its place has, in one line, and waits for one before it makes
// the root. Then it says so, since an exit status comes a round trip later: sshd's
// kernel holds it back until what was sent before is acknowledged.
const porter = `set -f
z=$(command -v zstd)
set -- $(df -Pk /nix/store 2>/dev/null | tail -n 1)
echo "free ${4:-?} ${z:+zstd}"
read -r _ || exit 0
{ %s; } >/dev/null && echo kept
`

// QueryValidPaths asks behind the porter's few bytes: where many paths are asked for,
// it would have to wait as long as they take.
func (h *host) QueryValidPaths(ctx context.Context, paths []store.Path, lock, substitute bool) closure.Answer {
	select {
	case <-h.begun:
	case <-h.done:
	case <-ctx.Done():
	}
	return h.Store.QueryValidPaths(ctx, paths, lock, substitute)
}

// Place returns what the porter found.
func (h *host) Place(ctx context.Context) (closure.Place, error) {
	select {
	case p := <-h.place:
		h.place <- p // for who asks again
		return p, nil
	case <-h.done:
		select {
		case p := <-h.place: // and ended
			h.place <- p
			return p, nil
		default:
			return closure.Place{}, fmt.Errorf("look at the host: %w", h.failed())
		}
	case <-ctx.Done():
		return closure.Place{}, context.Cause(ctx)
	}
}

// AddCompressed adds objects over a session of its own, which a decompressor is in.
// Neither that nor the store behind it is started before there is something for them.
func (h *host) AddCompressed(ctx context.Context, infos iter.Seq[store.Info], dump closure.Dump, added func(store.Info)) error {
	serve, err := target.Quote(h.login.As("nix-store", "--serve", "--write")...)
	if err != nil {
		return err
	}
	return h.courier.AddCompressed(ctx, func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
		return run(ctx, h.conn, "read -r _ || exit 0\nzstd -dcq | "+serve, &lineAhead{Reader: &movingReader{stdin, h.moved}}, &movingWriter{stdout, h.moved}, stderr)
	}, infos, dump, added)
}

// Keep makes the system's root on the host.
func (h *host) Keep(ctx context.Context) error {
	if !h.asked {
		if _, err := io.WriteString(h.keep, keepLine); err != nil && err != io.ErrClosedPipe {
			return err
		}
	}
	select {
	case <-h.kept:
		return nil
	case <-h.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-h.kept: // and ended
		return nil
	default:
		return h.failed()
	}
}

// failed says how the porter failed.
func (h *host) failed() error {
	e := &keepError{err: h.ended, log: string(h.stderr)}
	if e.err == nil {
		e.err = errors.New("ended too early")
	}
	if !mayKeep(h.login) {
		e.hint = fmt.Sprintf("user %q may lack the right: set target.sudo, such as [\"sudo\"]", h.login.Login())
	}
	return e
}

// Close ends both sessions and waits for them. The connection should be closed
// before, which saves their goodbye: how they end has no meaning, since what was
// acknowledged is there.
func (h *host) Close() {
	h.keep.Close()
	h.Store.Close()
	<-h.done
}

// A porterReader reads the two lines that the porter prints.
type porterReader struct {
	h     *host
	lines int
	text  []byte // of the next one
}

func (r *porterReader) Write(b []byte) (int, error) {
	r.text = append(r.text, b...)
	for {
		line, rest, whole := bytes.Cut(r.text, []byte("\n"))
		if !whole {
			break
		}
		switch r.lines++; r.lines {
		case 1:
			r.h.place <- parsePlace(string(line))
		case 2:
			close(r.h.kept)
		}
		r.text = rest
	}
	if len(r.text) > record.MaxLog {
		return 0, errors.New("look at the host: it does not stop talking")
	}
	return len(b), nil
}

// parsePlace reads the porter's line: "free", KiB or "?", and "zstd" where it is.
func parsePlace(line string) closure.Place {
	var p closure.Place
	words := strings.Fields(line)
	if len(words) > 1 && words[0] == "free" {
		if kib, err := strconv.ParseUint(words[1], 10, 53); err == nil {
			p.Free = max(kib<<10, 1) // none is known too
		}
		p.Zstd = slices.Contains(words[2:], "zstd")
	}
	return p
}

// A begunReader is a script's stdin, which is read behind the script, and says so.
type begunReader struct {
	io.Reader
	begun chan struct{}
	once  sync.Once
}

func (r *begunReader) Read(p []byte) (int, error) {
	r.once.Do(func() { close(r.begun) })
	return r.Reader.Read(p)
}

// A lineAhead has an empty line in front of the first bytes that there are.
type lineAhead struct {
	io.Reader
	passed bool
}

func (r *lineAhead) Read(p []byte) (int, error) {
	if r.passed || len(p) == 0 {
		return r.Reader.Read(p)
	}
	n, err := r.Reader.Read(p[1:])
	if n > 0 {
		p[0] = '\n'
		n, r.passed = n+1, true
	}
	return n, err
}

// A movingReader calls moved whenever something was read.
type movingReader struct {
	io.Reader
	moved func()
}

func (r *movingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.moved()
	}
	return n, err
}

// A movingWriter calls moved whenever something is written.
type movingWriter struct {
	io.Writer
	moved func()
}

func (w *movingWriter) Write(p []byte) (int, error) {
	w.moved()
	return w.Writer.Write(p)
}

// A tail keeps the last record.MaxLog bytes that are written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-record.MaxLog):]
	return len(p), nil
}

// run runs a script on the host; an exit status other than 0 is an error.
func run(ctx context.Context, conn Conn, script string, stdin io.Reader, stdout, stderr io.Writer) error {
	status, err := conn.Run(ctx, script, stdin, stdout, stderr)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d", status)
	}
	return err
}
