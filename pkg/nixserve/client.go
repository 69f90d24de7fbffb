// Package nixserve speaks the protocol of "nix-store --serve", which Nix itself
// uses for ssh:// stores, and reads NARs. It knows one server behind a pair of
// byte streams: what is copied where is pkg/closure's, and how a server on
// another host is reached is pkg/remote's.
//
// Protocol facts are those of Nix' serve-protocol.hh and nix-store.cc (opServe).
// The client offers version 2.7 and takes 2.5 (Nix 2.1) and later.
//
// The protocol has no error frame: a server that cannot do what it was asked
// prints to stderr and ends. So an error here is a [ServerError] with the
// server's stderr, and a client that had one can only be closed.
package nixserve

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"

	"nx/pkg/store"
)

const (
	clientMagic = 0x390c9deb
	serverMagic = 0x5452eecb

	offered  = 2<<8 | 7 // Nix 2.4; 2.8 changed only builds
	required = 2<<8 | 5 // AddToStoreNar, Nix 2.1
)

// Operation codes of the protocol.
const (
	opQueryValidPaths = 1
	opQueryPathInfos  = 2
	opDumpStorePath   = 3
	opQueryClosure    = 7
	opAddToStoreNar   = 9
)

// A Run starts a server, connects its standard streams, and returns when it has
// ended: nil when its exit status was 0. It must return then even when stdin has
// not come to its end, and soon after ctx is cancelled.
type Run = func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error

// A Client talks to one server. Only one method may be in use at a time.
type Client struct {
	in     decoder
	stdout *countingReader // behind in
	out    encoder
	stdin  *io.PipeWriter
	stderr tail

	greeted bool // its greeting was read, or awaited in vain

	owed []*question // those whose answers were not read, in their order

	cancel context.CancelCauseFunc // ends the server
	done   chan struct{}           // closed when the server has ended
	ended  error                   // what Run returned; read after done
	broken error                   // the first error; the streams are out of step after it
}

// Open runs a server. It does not wait for it: the server's greeting is awaited
// with the first answer, which saves a round trip, so that is when a server turns
// out to be none. It lives until [Client.Close], an error, or the end of ctx.
func Open(ctx context.Context, run Run) *Client {
	return open(ctx, run, func(stdin io.Writer) io.Writer { return stdin })
}

// open is Open for a server whose input is encoded on its way.
func open(ctx context.Context, run Run, encode func(io.Writer) io.Writer) *Client {
	life, cancel := context.WithCancelCause(ctx)
	stdinR, stdinW := io.Pipe()
	stdoutR, stdoutW := io.Pipe()
	stdout := &countingReader{Reader: stdoutR}
	c := &Client{
		in:     decoder{r: bufio.NewReaderSize(stdout, 64<<10)},
		stdout: stdout,
		out:    encoder{bufio.NewWriterSize(encode(stdinW), 64<<10)},
		stdin:  stdinW,
		cancel: cancel,
		done:   make(chan struct{}),
	}
	// Whoever waits for the server gets the reason why nothing will come.
	end := func(reason error) {
		stdinR.CloseWithError(reason)
		stdoutW.CloseWithError(reason)
	}
	context.AfterFunc(life, func() { end(context.Cause(life)) })
	go func() {
		defer close(c.done)
		c.ended = run(life, stdinR, stdoutW, &c.stderr)
		end(cmp.Or(context.Cause(life), error(&ServerError{cause: c.ended, log: c.stderr.String()})))
	}()
	c.out.number(clientMagic)
	c.out.number(offered)
	return c
}

// Close ends the server, and with it the temporary roots it holds, and waits for
// it. The error is that of a server that did not end well, unless a method has
// returned it before.
func (c *Client) Close() error {
	c.stdin.Close()
	go io.Copy(io.Discard, c.stdout.Reader) // a greeting that nobody awaited; it ends with the server
	<-c.done
	c.cancel(nil)
	if c.ended != nil && c.broken == nil {
		return &ServerError{cause: c.ended, log: c.stderr.String()}
	}
	return nil
}

// QueryValidPaths asks which of paths are valid in the server's store. What it
// returns waits for the answer. Something else may be requested before that, other
// questions without waiting for this one's answer.
//
// With lock, a server started with --write makes each of paths, valid or not, a
// temporary root: none is collected as garbage while the server lives. With
// substitute, the server first fetches what it lacks from its substituters.
func (c *Client) QueryValidPaths(ctx context.Context, paths []store.Path, lock, substitute bool) (answer func() ([]store.Path, error)) {
	q := &question{paths: len(paths)}
	err := c.guard(ctx, func() error {
		c.out.number(opQueryValidPaths)
		c.out.flag(lock)
		c.out.flag(substitute)
		c.out.paths(paths)
		c.flush()
		c.owed = append(c.owed, q)
		return nil // whether it could be sent, the answer tells
	})
	return func() ([]store.Path, error) {
		if err == nil && !q.answered {
			err = c.guard(ctx, func() error { return c.settle(q) })
		}
		return q.valid, wrap(err, "query valid paths")
	}
}

// A question is one by QueryValidPaths.
type question struct {
	paths    int // that it is about
	answered bool
	valid    []store.Path // of them, once it was answered
}

// settle reads answers up to that of last, or all.
func (c *Client) settle(last *question) error {
	for len(c.owed) > 0 && (last == nil || !last.answered) {
		q := c.owed[0]
		c.greet()
		q.valid = c.in.paths(uint64(q.paths))
		if c.in.err != nil {
			return c.in.err
		}
		q.answered = true
		c.owed = c.owed[1:]
	}
	return nil
}

// QueryPathInfos returns what the store records of each of paths, in no
// certain order. A path that is not valid is left out.
func (c *Client) QueryPathInfos(ctx context.Context, paths []store.Path) ([]store.Info, error) {
	var infos []store.Info
	err := c.exchange(ctx, func() error {
		c.out.number(opQueryPathInfos)
		c.out.paths(paths)
		c.request()
		infos = c.in.infos()
		return c.in.err
	})
	return infos, wrap(err, "query path infos")
}

// QueryClosure returns paths and all they refer to, directly or not, in no
// certain order. All of paths must be valid.
func (c *Client) QueryClosure(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	var closure []store.Path
	err := c.exchange(ctx, func() error {
		c.out.number(opQueryClosure)
		c.out.flag(false) // outputs of derivations in the closure are not asked for
		c.out.paths(paths)
		c.request()
		closure = c.in.paths(maxPaths)
		return c.in.err
	})
	return closure, wrap(err, "query closure")
}

// DumpStorePath writes the NAR of a valid path to w.
func (c *Client) DumpStorePath(ctx context.Context, path store.Path, w io.Writer) error {
	err := c.exchange(ctx, func() error {
		c.out.number(opDumpStorePath)
		c.out.text(string(path))
		c.request()
		if c.in.err != nil {
			return c.in.err
		}
		_, err := CopyNAR(w, c.in.r)
		return err
	})
	return wrap(err, "dump %s", path)
}

// AddToStoreNar adds objects to the store in the order of infos, which must have
// each object's references before it unless they are valid there already. Their
// contents are asked of dump, once for each object that is reached. Nothing waits
// for an answer before the next object is sent; added is called, from another
// goroutine but in order and never after AddToStoreNar returned, for each object
// as the server acknowledges it: then it is valid there, whatever comes later.
// The server must run with --write, as a user whom its Nix trusts when objects
// are not signed.
func (c *Client) AddToStoreNar(ctx context.Context, infos iter.Seq[store.Info],
	dump func(context.Context, store.Path, io.Writer) error, added func(store.Info)) error {
	return c.exchange(ctx, func() error {
		return c.add(ctx, infos, func(ctx context.Context, info store.Info) error {
			nar := &narWriter{w: c.out.w, left: info.NarSize}
			err := dump(ctx, info.Path, nar)
			switch {
			case nar.err != nil: // dump may have dressed it up
				return fmt.Errorf("add %s: %w", info.Path, nar.err)
			case err != nil:
				return err
			case nar.left != 0:
				return fmt.Errorf("add %s: NAR is %d bytes shorter than the %d that its store records", info.Path, nar.left, info.NarSize)
			}
			return nil
		}, func() error { return lost(c.out.w.Flush()) }, added)
	})
}

// add sends the objects, each one's NAR by send and what is left at the end by
// flush, and calls added for those that are acknowledged.
func (c *Client) add(ctx context.Context, infos iter.Seq[store.Info],
	send func(context.Context, store.Info) error, flush func() error, added func(store.Info)) error {
	waiting := newQueue()
	received := make(chan error, 1)
	go func() {
		for info := range waiting.all() {
			c.greet()
			switch n := c.in.number(); {
			case c.in.err != nil:
			case n != 1:
				c.in.failf("answer is %d instead of 1", n)
			}
			if c.in.err != nil {
				c.cancel(c.in.err) // wakes the writer
				received <- wrap(c.in.err, "add %s", info.Path)
				return
			}
			added(info)
		}
		received <- nil
	}()
	sent := func() error {
		for info := range infos {
			waiting.push(info)
			if err := c.announce(info); err != nil {
				return fmt.Errorf("add %s: %w", info.Path, err)
			}
			if err := send(ctx, info); err != nil {
				return err
			}
		}
		return flush()
	}()
	if sent != nil {
		// The server takes what was sent whole, then sees the end.
		flush()
		c.stdin.Close()
	}
	waiting.end()
	answered := <-received
	var lost *lostError
	if sent != nil && !errors.As(sent, &lost) {
		return sent
	}
	return cmp.Or(answered, sent)
}

// announce writes a request to add an object, up to its NAR.
func (c *Client) announce(info store.Info) error {
	hash, err := hexHash(info.NarHash)
	if err != nil {
		return err
	}
	c.out.number(opAddToStoreNar)
	c.out.text(string(info.Path))
	c.out.text(string(info.Deriver))
	c.out.text(hash)
	c.out.paths(info.References)
	c.out.number(0) // registration time: now
	c.out.number(info.NarSize)
	c.out.flag(false) // ultimate: it was not built there
	c.out.texts(info.Sigs)
	c.out.text(info.CA)
	return nil
}

// A queue is what was sent and not yet acknowledged.
type queue struct {
	mu      sync.Mutex
	changed sync.Cond
	infos   []store.Info
	ended   bool
}

func newQueue() *queue {
	q := new(queue)
	q.changed.L = &q.mu
	return q
}

func (q *queue) push(info store.Info) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.infos = append(q.infos, info)
	q.changed.Signal()
}

func (q *queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.changed.Signal()
}

// all yields what is pushed, and waits for it, up to the end.
func (q *queue) all() iter.Seq[store.Info] {
	return func(yield func(store.Info) bool) {
		for {
			q.mu.Lock()
			for len(q.infos) == 0 && !q.ended {
				q.changed.Wait()
			}
			infos := q.infos
			q.infos = nil
			q.mu.Unlock()
			if len(infos) == 0 {
				return
			}
			for _, info := range infos {
				if !yield(info) {
					return
				}
			}
		}
	}
}

// A narWriter passes exactly as many bytes as the server was told to expect.
type narWriter struct {
	w    io.Writer
	left uint64
	err  error
}

func (n *narWriter) Write(b []byte) (int, error) {
	if n.err == nil && uint64(len(b)) > n.left {
		n.err = errors.New("NAR is longer than its store records")
	}
	if n.err != nil {
		return 0, n.err
	}
	written, err := n.w.Write(b)
	n.left -= uint64(written)
	n.err = lost(err)
	return written, n.err
}

// A lostError tells a writer's failure from a source's: the server has gone, and
// the reader knows better why.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

func lost(err error) error {
	if err == nil {
		return nil
	}
	return &lostError{err}
}

// exchange runs one request and its answer.
func (c *Client) exchange(ctx context.Context, f func() error) error {
	return c.guard(ctx, func() error {
		if err := c.settle(nil); err != nil {
			return err
		}
		return f()
	})
}

// guard runs what uses the streams. An error leaves them out of step, so it ends
// the server.
func (c *Client) guard(ctx context.Context, f func() error) error {
	if c.broken != nil {
		return fmt.Errorf("server was given up: %w", c.broken)
	}
	stop := context.AfterFunc(ctx, func() { c.cancel(context.Cause(ctx)) })
	err := f()
	if err != nil {
		c.broken = err
		c.cancel(err)
	}
	if !stop() && c.broken == nil {
		c.broken = context.Cause(ctx) // too late for this request, but the server goes
	}
	return err
}

// request sends what was written. An answer may follow.
func (c *Client) request() {
	c.flush()
	c.greet()
}

// flush sends what was written. Where that fails no answer can be read.
func (c *Client) flush() {
	if err := c.out.w.Flush(); err != nil {
		c.in.fail(err)
	}
}

// greet reads the server's greeting, which comes before its first answer.
func (c *Client) greet() {
	if c.greeted {
		return
	}
	c.greeted = true
	magic := c.in.number()
	if c.in.err == nil && magic != serverMagic {
		c.in.fail(&greetingError{fmt.Errorf("%q came instead of the greeting of nix-store --serve: does a login script print it?", c.garbage(magic))})
	}
	version := c.in.number()
	var greeting *greetingError
	switch {
	case errors.As(c.in.err, &greeting):
	case c.in.err != nil:
		c.in.err = &greetingError{c.in.err}
	case version>>8 != required>>8 || version < required:
		c.in.fail(&greetingError{fmt.Errorf("nix-store --serve speaks protocol %d.%d, need %d.%d: Nix 2.1 or later",
			version>>8, version&0xff, required>>8, required&0xff)})
	}
	// What both sides speak is the lower of the two versions; nothing that is
	// asked here differs between 2.5 and 2.7.
}

// A greetingError says that there is no server to talk to, whatever it was asked.
type greetingError struct{ error }

func (e *greetingError) Error() string { return "open store: " + e.error.Error() }

func (e *greetingError) Unwrap() error { return e.error }

// garbage returns what stands in front of the server's magic number, of which
// first was read already, up to 1 KiB.
func (c *Client) garbage(first uint64) string {
	// A server that sees the end of its input ends, and so does what it prints.
	c.stdin.Close()
	var text bytes.Buffer
	e := encoder{bufio.NewWriter(&text)}
	e.number(first)
	e.w.Flush()
	io.CopyN(&text, c.in.r, 1<<10)
	var magic bytes.Buffer
	e.w.Reset(&magic)
	e.number(serverMagic)
	e.w.Flush()
	front, _, _ := strings.Cut(text.String(), magic.String())
	return strings.TrimSpace(front)
}

// A ServerError says that the server ended while an answer was awaited.
type ServerError struct {
	cause error // what Run returned
	log   string
}

// Error gives the exit status and the server's last error message, on one line.
func (e *ServerError) Error() string {
	s := "nix-store --serve: "
	if e.cause == nil {
		s += "ended without an answer"
	} else {
		s += e.cause.Error()
	}
	if m := e.message(); m != "" {
		s += ": " + m
	}
	return s
}

// Unwrap returns the error of Run.
func (e *ServerError) Unwrap() error { return e.cause }

// Log returns the last lines of the server's stderr.
func (e *ServerError) Log() string { return e.log }

// message returns the last line of the log that begins with "error:", which is
// where Nix puts the cause behind its trace, else the last line.
func (e *ServerError) message() string {
	last, message := "", ""
	for line := range strings.Lines(e.log) {
		line = strings.TrimSpace(line)
		if m, ok := strings.CutPrefix(line, "error: "); ok {
			message = m
		}
		if line != "" {
			last = line
		}
	}
	if message != "" {
		return message
	}
	return last
}

// A countingReader counts what is read, in bytes.
type countingReader struct {
	io.Reader
	n int64
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.n += int64(n)
	return n, err
}

// tailSize is how much of the server's stderr is kept: what a record's error.log holds.
const tailSize = 64 << 10

// A tail keeps the last bytes written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b[max(0, len(b)-tailSize):]...)
	if len(t.text) > 4*tailSize { // seldom, so that many small writes stay cheap
		t.text = append(t.text[:0], t.last()...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.last())
}

func (t *tail) last() []byte { return t.text[max(0, len(t.text)-tailSize):] }

func wrap(err error, format string, args ...any) error {
	var greeting *greetingError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &greeting):
		return greeting
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
