package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// shell is the command that every session asks for, the same string always. It
// holds nothing that the common login shells (bash, dash, zsh, fish, tcsh)
// would read differently. The script comes first on stdin: each line behind a
// dot, so that blank lines survive, and an empty line at its end. A shell's
// read takes a pipe's bytes one by one, so that what follows is left for the
// script. A script that was cut on the way is not run. The mark on stdout parts
// what the login shell's own files printed from what the script prints, and
// a shell that refuses us (nologin) from a script that fails.
const shell = `exec /bin/sh -c 's=$(while IFS= read -r l; do [ "$l" ] || exit 0; printf "%s\n" "${l#.}"; done; exit 1) && printf "\036nx\n" && eval "$s"'`

const mark = "\x1enx\n"

// maxNoise is how much a login shell may print before the mark; the end of it
// is shown when the mark does not come.
const maxNoise = 64 << 10

// writeGrace is how long a caller's writer may take after ctx ended until it is
// taken for one that blocks.
const writeGrace = time.Second

// encode is the script as the shell command reads it.
func encode(script string) ([]byte, error) {
	if strings.IndexByte(script, 0) >= 0 {
		return nil, errors.New("the script contains a NUL byte")
	}
	script = strings.TrimSuffix(script, "\n")
	return []byte("." + strings.ReplaceAll(script, "\n", "\n.") + "\n\n"), nil
}

// Run runs a POSIX sh script in the host's /bin/sh, whatever the login shell,
// without a terminal. Values in it must be quoted by [target.Quote].
//
// The script's stdin is what stdin holds, up to its end; nil is empty. Its
// stdout and stderr go to the writers, nil discards; a writer need not be safe
// for concurrent use unless it is given for both. The status is the script's:
// 128 plus the signal's number when a signal ended it. A process that the
// script leaves behind must not hold its stdout or stderr: Run waits for their end.
//
// An error means that the script did not start, that the connection broke, that
// stdin or a writer failed, or that ctx ended; the status is then 0 and says
// nothing. When Run gives up by itself, the script's process group gets SIGTERM
// where sshd passes signals on (OpenSSH does not for root); else the script finds
// stdin at its end and stdout closed, and goes on until that stops it. Nothing is
// written after Run returned, except by a Write that blocked for a second after
// ctx ended: as one Read of stdin, it may still be waiting.
func (c *Conn) Run(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (status int, err error) {
	status, err = c.run(ctx, script, stdin, stdout, stderr)
	if err != nil {
		return 0, fmt.Errorf("run script on %s: %w", c.name, err)
	}
	return status, nil
}

func (c *Conn) run(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	head, err := encode(script)
	if err != nil {
		return 0, err
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	s := &session{
		conn:   c,
		head:   head,
		stdin:  stdin,
		stdout: &output{w: stdout, fail: giveUp, turn: make(chan struct{}, 1), marked: make(chan struct{}), seeking: true},
		stderr: &output{w: stderr, fail: giveUp, turn: make(chan struct{}, 1)},
		giveUp: giveUp,
	}
	late := time.AfterFunc(c.startTimeout, func() {
		giveUp(fmt.Errorf("start /bin/sh: the login shell did not within %v", c.startTimeout))
	})
	defer late.Stop()
	go func() {
		select {
		case <-s.stdout.marked:
			late.Stop()
		case <-ctx.Done():
		}
	}()

	type result struct {
		status int
		err    error
	}
	done := make(chan result, 1)
	go func() {
		status, err := s.run(ctx)
		done <- result{status, err}
	}()
	select {
	case r := <-done:
		return r.status, r.err
	case <-ctx.Done():
		// The host may be silent: leave without waiting for its goodbye.
		grace, cancel := context.WithTimeout(context.Background(), writeGrace)
		defer cancel()
		s.stdout.end(grace)
		s.stderr.end(grace)
		return 0, context.Cause(ctx)
	}
}

// A session is one running script.
type session struct {
	conn           *Conn
	head           []byte // the encoded script
	stdin          io.Reader
	stdout, stderr *output
	giveUp         context.CancelCauseFunc
}

// run returns when the script and its output have ended.
func (s *session) run(ctx context.Context) (int, error) {
	ch, reqs, err := s.conn.client.OpenChannel("session", nil)
	if err != nil {
		if broken := s.conn.broken(); broken != nil {
			return 0, broken
		}
		return 0, fmt.Errorf("open session: %w", err)
	}
	defer ch.Close()
	if ctx.Err() != nil { // Run has left: start nothing
		return 0, context.Cause(ctx)
	}
	stop := context.AfterFunc(ctx, func() {
		ch.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{"TERM"}))
		ch.Close()
	})
	defer stop()
	// No reply is asked for, which saves a round trip: the mark says that the
	// command runs, and startTimeout that it does not.
	if _, err := ch.SendRequest("exec", false, ssh.Marshal(struct{ Command string }{shell})); err != nil {
		return 0, s.ended(err)
	}
	go s.feed(ch)
	var copies sync.WaitGroup
	copies.Go(func() { io.Copy(s.stdout, ch) }) // their errors are ours, see output, or the end of the connection
	copies.Go(func() { io.Copy(s.stderr, ch.Stderr()) })
	status, said := exitStatus(reqs)
	copies.Wait()
	switch noise, running := s.stdout.noise(); {
	case !said:
		return 0, s.ended(errors.New("the session ended without an exit status"))
	case !running:
		return 0, fmt.Errorf("start /bin/sh: the login shell ended with status %d: %s", status, oneLine(noise))
	}
	return status, nil
}

// ended says why the session ended early: err, unless the connection is gone.
func (s *session) ended(err error) error {
	if broken := s.conn.broken(); broken != nil {
		return broken
	}
	return err
}

// feed sends the script and stdin. An error of stdin gives up the session: the
// script must not take it for the end.
func (s *session) feed(ch ssh.Channel) {
	if _, err := ch.Write(s.head); err != nil {
		return // the session is over, and its end says why
	}
	if s.stdin != nil {
		buf := make([]byte, 32<<10)
		for {
			n, err := s.stdin.Read(buf)
			if n > 0 {
				if _, werr := ch.Write(buf[:n]); werr != nil {
					return // the script did not want it all
				}
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				s.giveUp(fmt.Errorf("read its stdin: %w", err))
				return
			}
		}
	}
	ch.CloseWrite()
}

// exitStatus reads the channel's requests to its end and returns the status that
// they tell; said is false when they tell none.
func exitStatus(reqs <-chan *ssh.Request) (status int, said bool) {
	for req := range reqs {
		switch req.Type { // RFC 4254, 6.10
		case "exit-status":
			var msg struct{ Status uint32 }
			if ssh.Unmarshal(req.Payload, &msg) == nil {
				status, said = int(msg.Status), true
			}
		case "exit-signal":
			var msg struct {
				Name       string
				CoreDumped bool
				Message    string
				Language   string
			}
			if ssh.Unmarshal(req.Payload, &msg) == nil {
				status, said = 128+signals[msg.Name], true
			}
		}
		if req.WantReply {
			req.Reply(false, nil)
		}
	}
	return status, said
}

// signals are the numbers of the signals that ssh has names for, on Linux.
var signals = map[string]int{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "ABRT": 6, "FPE": 8, "KILL": 9,
	"USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15,
}

// An output passes a stream on to the caller's writer until it is ended. On
// stdout it first seeks the mark and keeps what comes before it.
type output struct {
	fail   context.CancelCauseFunc // told when w fails
	marked chan struct{}           // closed at the mark
	over   atomic.Bool             // nothing more goes to w
	turn   chan struct{}           // a lock, held by a Write; a channel, because end does not wait for it forever

	w       io.Writer // nil discards
	seeking bool
	before  []byte // what came before the mark
}

func (o *output) Write(p []byte) (int, error) {
	o.turn <- struct{}{}
	defer func() { <-o.turn }()
	n := len(p)
	if o.over.Load() {
		return n, nil
	}
	if o.seeking {
		o.before = append(o.before, p...)
		i := bytes.Index(o.before, []byte(mark))
		if i < 0 {
			o.before = o.before[max(0, len(o.before)-maxNoise):]
			return n, nil
		}
		p = o.before[i+len(mark):]
		o.before, o.seeking = nil, false
		close(o.marked)
	}
	if o.w == nil || len(p) == 0 {
		return n, nil
	}
	if _, err := o.w.Write(p); err != nil {
		o.fail(fmt.Errorf("write its output: %w", err))
		o.over.Store(true)
	}
	return n, nil
}

// noise returns what came before the mark, and whether the mark came.
func (o *output) noise() (before string, marked bool) {
	o.turn <- struct{}{}
	defer func() { <-o.turn }()
	return string(o.before), !o.seeking
}

// end cuts the caller's writer off. It waits for a Write that is under way until
// grace ends.
func (o *output) end(grace context.Context) {
	o.over.Store(true)
	select {
	case o.turn <- struct{}{}:
		<-o.turn
	case <-grace.Done():
	}
}
