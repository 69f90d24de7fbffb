package cli

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/term"

	"nx/pkg/record"
)

// newHandler renders what the tool says: JSON events, or text for people.
func newHandler(tool string, f *Shared, stdout, stderr *os.File) slog.Handler {
	level := slog.LevelInfo
	switch {
	case f.Verbose:
		level = slog.LevelDebug
	case f.Quiet:
		level = slog.LevelWarn
	}
	if f.LogFormat == "json" {
		return slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: eventAttr}).
			WithAttrs([]slog.Attr{slog.String("tool", tool)})
	}
	h := &console{w: stderr, level: level, steps: f.Progress != "never", eol: "\n"}
	if !term.IsTerminal(int(stderr.Fd())) || os.Getenv("TERM") == "dumb" {
		return &text{console: h, tool: tool} // no terminal, or one without cursor and colours
	}
	h.colour = os.Getenv("NO_COLOR") == ""
	// The programs of a pipe share the terminal: what another one has drawn
	// where the cursor is goes with it.
	h.eol = eraseRest + "\n"
	shown := f.Progress == "always" || f.Progress == "auto" && (f.Output != "" || f.OutDir != "" || !isPipe(stdout))
	if shown && !f.Quiet && !f.Verbose {
		h.live = &live{tool: tool}
		h.picture = &drawing{lines: h.live.lines, size: func() (int, int) { return size(stderr) }, paint: h.paint}
	}
	return &text{console: h, tool: tool}
}

// isPipe tells whether f leads to another program, which may be one of nx's
// with a live line of its own.
func isPipe(f *os.File) bool {
	info, err := f.Stat()
	return err != nil || info.Mode()&os.ModeNamedPipe != 0
}

// size returns the columns and rows of a terminal.
func size(f *os.File) (columns, rows int) {
	if columns, rows, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 && rows > 0 {
		return columns, rows
	}
	return 80, 24 // nobody has told the terminal
}

// eventAttr names slog's own attributes as events have them, and writes durations for
// people, as text has them.
func eventAttr(groups []string, a slog.Attr) slog.Attr {
	switch {
	case len(groups) > 0:
	case a.Key == slog.MessageKey:
		a.Key = "event"
	case a.Key == slog.LevelKey:
		a.Value = slog.StringValue(strings.ToLower(a.Value.String()))
	case a.Value.Kind() == slog.KindDuration:
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// text is the handler for people: one line a message, as
//
//	nx-copy: web1: copied (paths 3, bytes 1203)
//	nx-build: error: db1: build /nix/store/…-db1.drv: exit status 1
//	web1> a line of a child's output
type text struct {
	*console
	tool  string      // that speaks
	attrs []slog.Attr // of With
}

// A console is where text goes, shared by all handlers derived from one.
type console struct {
	mu      sync.Mutex
	w       io.Writer
	level   slog.Level
	steps   bool // show steps
	colour  bool
	eol     string   // ends a line
	picture *drawing // nil where steps are printed one line each
	live    *live    // what the picture shows, unless it is that of other tools
}

func (h *text) Enabled(_ context.Context, l slog.Level) bool {
	return l >= h.level || h.live != nil // the live line follows details too
}

func (h *text) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &text{h.console, h.tool, slices.Concat(h.attrs, attrs)}
}

// WithGroup drops the group: text has no place for it, and nx uses none.
func (h *text) WithGroup(string) slog.Handler { return h }

func (h *text) Handle(_ context.Context, r slog.Record) error {
	var host, hint, line string
	var rest []string
	message := record.OneLine(r.Message)
	take := func(a slog.Attr) bool {
		switch a.Key {
		case "host":
			host = record.OneLine(a.Value.String())
		case "hint":
			hint = record.OneLine(a.Value.String())
		case "line":
			line = record.Printable(a.Value.String())
		default:
			rest = append(rest, a.Key+" "+record.OneLine(a.Value.String()))
		}
		return true
	}
	for _, a := range h.attrs {
		take(a)
	}
	r.Attrs(take)
	h.mu.Lock()
	defer h.mu.Unlock()
	isOutput := r.Message == "output"
	isStep := r.Level <= slog.LevelInfo && !isOutput
	if h.live != nil && isStep {
		if host != "" {
			h.live.note(host, message, r.Level < slog.LevelInfo, rest)
			return h.print("")
		}
		if h.live.count(message, rest) {
			return h.print("")
		}
	}
	if r.Level < h.level || isStep && !h.steps {
		return nil
	}
	if isOutput {
		return h.print(h.lines(prefix(host), line))
	}
	var b strings.Builder
	b.WriteString(h.tool + ": ")
	b.WriteString(h.word(r.Level))
	b.WriteString(prefixed(host) + message)
	if m, others := cutMeasure(rest); m != nil && m.bytes {
		rest = append([]string{m.String()}, others...)
	}
	if len(rest) > 0 {
		b.WriteString(" (" + strings.Join(rest, ", ") + ")")
	}
	b.WriteString(h.eol)
	if hint != "" {
		b.WriteString(h.tool + ": " + h.paint("1", "hint:") + " " + hint + h.eol)
	}
	return h.print(b.String())
}

// lines puts prefix in front of each line of s.
func (h *console) lines(prefix, s string) string {
	var b strings.Builder
	for l := range strings.SplitSeq(strings.TrimRight(s, "\r\n"), "\n") {
		b.WriteString(prefix + l + h.eol)
	}
	return b.String()
}

func prefix(host string) string {
	if host == "" {
		return ""
	}
	return host + "> "
}

func prefixed(host string) string {
	if host == "" {
		return ""
	}
	return host + ": "
}

func (h *console) word(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return h.paint("31;1", "error:") + " "
	case l >= slog.LevelWarn:
		return h.paint("33;1", "warning:") + " "
	}
	return ""
}

func (h *console) paint(code, s string) string {
	if !h.colour || code == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// print writes whole lines, which may be none, and the picture below them.
func (h *console) print(lines string) error {
	switch {
	case h.picture != nil && lines == "":
		lines = h.picture.redraw()
	case h.picture != nil:
		lines = h.picture.clear() + lines + h.picture.draw()
	}
	if lines == "" {
		return nil
	}
	_, err := io.WriteString(h.w, lines)
	return err
}

// above returns what writes to stdout; where the picture is on the same
// terminal, it gives way.
func (h *console) above(stdout *os.File) io.Writer {
	if h.picture == nil || !term.IsTerminal(int(stdout.Fd())) {
		return stdout
	}
	return &aboveLive{h, stdout}
}

type aboveLive struct {
	*console
	stdout io.Writer
}

func (a *aboveLive) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := io.WriteString(a.w, a.picture.clear()); err != nil {
		return 0, err
	}
	n, err := a.stdout.Write(b)
	if err == nil && bytes.HasSuffix(b, []byte("\n")) {
		_, err = io.WriteString(a.w, a.picture.draw())
	}
	return n, err
}

// end leaves the terminal without live lines.
func (h *console) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.abandon()
}

// leave is end for who does not wait for a write that hangs.
func (h *console) leave() {
	if h.mu.TryLock() {
		defer h.mu.Unlock()
		h.abandon()
	}
}

func (h *console) abandon() {
	if h.picture != nil {
		io.WriteString(h.w, h.picture.clear())
		h.picture.ended = true
	}
}
