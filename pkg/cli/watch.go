package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"nx/pkg/record"
	"nx/pkg/stream"
)

const (
	// glance is how often new events are looked for.
	glance = 100 * time.Millisecond

	// replayed is how long it takes at most to show a deployment again.
	replayed = 10 * time.Second
)

// Watch shows the events in a file that several tools write, or wrote, together with
// --log-format json --verbose: to a terminal as one picture with warnings and errors
// above it, else one line a host and step, as each tool would write it. At the end it
// sums them up.
//
// With follow the file is still being written, until stdin ends. Without, a terminal
// sees it happen again, in ten seconds at most.
func (p *Process) Watch(ctx context.Context, file string, follow bool) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	defer f.Close()
	w := &watcher{process: p, board: newBoard("nx-provision", "nx-eval", "nx-build", "nx-copy", "nx-activate"), in: bufio.NewReader(f)}
	w.console = p.console
	if w.console != nil && w.console.picture != nil {
		w.console.mu.Lock()
		w.console.live, w.console.picture.lines = nil, w.board.lines
		w.console.level = max(w.console.level, slog.LevelWarn)
		w.console.mu.Unlock()
	}
	if w.now = follow; follow {
		err = w.follow(p.stdin)
	} else {
		err = w.replay(ctx)
	}
	if w.console != nil {
		w.console.end()
		if !p.flags.Quiet {
			for _, line := range w.board.summary() {
				fmt.Fprintf(w.console.w, "%s: %s\n", deployer, line)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return nil
}

// A watcher follows events.
type watcher struct {
	process *Process
	console *console // nil where the events themselves are what stderr is to have
	board   *board
	now     bool // the tools are at work
	in      *bufio.Reader
	half    string // a line of which the end is not written yet
}

// line returns the next line, or an error that wraps io.EOF when it is not there yet.
func (w *watcher) line() (string, error) {
	text, err := w.in.ReadString('\n')
	text = w.half + text
	w.half = ""
	if err != nil {
		w.half = text
		return "", err
	}
	return strings.TrimSuffix(text, "\n"), nil
}

// follow takes events as they come, until nobody has the other end of stdin any more.
func (w *watcher) follow(stdin io.Reader) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(io.Discard, stdin) // whatever ends it, it is the end
	}()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for over := false; ; {
		for {
			line, err := w.line()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			w.take(line)
		}
		if over {
			return nil
		}
		w.draw(time.Now())
		select {
		case <-tick.C:
		case <-ended:
			over = true // what was written before is there now
		}
	}
}

// replay takes all events, at their times where a picture shows them.
func (w *watcher) replay(ctx context.Context) error {
	var lines []string
	for {
		line, err := w.line()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		lines = append(lines, line)
	}
	var first, last time.Time
	for _, line := range lines {
		if e, ok := parseEvent(line); ok {
			if first.IsZero() {
				first = e.time
			}
			last = e.time
		}
	}
	drawn := w.console != nil && w.console.picture != nil
	speed := max(1, float64(last.Sub(first))/float64(replayed))
	began := time.Now()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for _, line := range lines {
		e, ok := parseEvent(line)
		for drawn && ok && ctx.Err() == nil {
			now := first.Add(time.Duration(float64(time.Since(began)) * speed))
			if !now.Before(e.time) {
				break
			}
			w.draw(now)
			select {
			case <-tick.C:
			case <-ctx.Done(): // the rest at once
			}
		}
		w.take(line)
	}
	return nil
}

// take notes and prints a line of the file.
func (w *watcher) take(line string) {
	if w.console == nil {
		fmt.Fprintln(w.process.stderr, line)
		return
	}
	e, ok := parseEvent(line)
	if !ok { // what a tool says that breaks
		e = event{level: slog.LevelError, name: "output", attrs: []slog.Attr{slog.String("line", line)}}
		if w.console.level > slog.LevelInfo {
			e.name, e.attrs, e.tool = line, nil, deployer
		}
	} else {
		w.console.mu.Lock()
		w.board.note(e)
		w.console.mu.Unlock()
		switch {
		case e.tool == deployer:
			return
		case e.name == eventAsking && w.now:
			w.pause(e.tool + ": " + e.attr("question"))
		case e.name == eventAnswered && w.now:
			w.resume()
		case w.console.picture != nil && e.host == "" && strings.Contains(e.name, stream.HostsFailed):
			return // all five say it, and the summary
		}
	}
	r := slog.NewRecord(e.time, e.level, e.name, 0)
	if e.host != "" {
		r.AddAttrs(slog.String("host", e.host))
	}
	r.AddAttrs(e.attrs...)
	// An error to write to a terminal that is gone changes nothing here.
	(&text{console: w.console, tool: e.tool}).Handle(context.Background(), r)
}

// pause leaves the terminal to a tool that asks something. Its question may have been
// where the picture was, so it is written again.
func (w *watcher) pause(question string) {
	c := w.console
	if c.picture == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	io.WriteString(c.w, c.picture.clear()+record.OneLine(question)+" ")
	c.picture.ended = true
}

// resume has the picture drawn again.
func (w *watcher) resume() {
	if c := w.console; c.picture != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.picture.ended = false
	}
}

// draw brings the picture to that time.
func (w *watcher) draw(now time.Time) {
	if w.console == nil || w.console.picture == nil {
		return
	}
	w.console.mu.Lock()
	defer w.console.mu.Unlock()
	if !w.board.began.IsZero() && now.After(w.board.now) {
		w.board.now = now
	}
	w.console.print("")
}
