package cli

import (
	"context"
	"fmt"
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
		return slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: event}).
			WithAttrs([]slog.Attr{slog.String("tool", tool)})
	}
	h := &console{w: stderr, tool: tool, level: level, steps: f.Progress != "never"}
	width, _, err := term.GetSize(int(stderr.Fd()))
	if err != nil || os.Getenv("TERM") == "dumb" {
		return &text{console: h} // no terminal, or one without cursor and colours
	}
	h.colour = os.Getenv("NO_COLOR") == ""
	live := f.Progress == "always" || f.Progress == "auto" && (f.Output != "" || !meetsTerminal(stdout))
	if live && width >= 20 && !f.Quiet && !f.Verbose {
		h.live = newLive(tool, width)
	}
	return &text{console: h}
}

// meetsTerminal tells whether what is written to stdout would stand between
// the live line's: it is a terminal, or a pipe to another tool that has a line.
func meetsTerminal(stdout *os.File) bool {
	info, err := stdout.Stat()
	return err != nil || info.Mode()&os.ModeNamedPipe != 0 || term.IsTerminal(int(stdout.Fd()))
}

// event names slog's own attributes as events have them.
func event(groups []string, a slog.Attr) slog.Attr {
	switch {
	case len(groups) > 0:
	case a.Key == slog.MessageKey:
		a.Key = "event"
	case a.Key == slog.LevelKey:
		a.Value = slog.StringValue(strings.ToLower(a.Value.String()))
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
	attrs []slog.Attr // of With
}

// A console is where text goes, shared by all handlers derived from one.
type console struct {
	mu     sync.Mutex
	w      io.Writer
	tool   string
	level  slog.Level
	steps  bool // show steps
	colour bool
	live   *live // nil where steps are printed one line each
}

func (h *text) Enabled(_ context.Context, l slog.Level) bool {
	return l >= h.level || h.live != nil // the live line follows details too
}

func (h *text) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &text{h.console, slices.Concat(h.attrs, attrs)}
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
	if h.live != nil && isStep && host != "" {
		h.live.note(host, message, rest)
		return h.print(h.live.draw())
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
	if len(rest) > 0 {
		b.WriteString(" (" + strings.Join(rest, ", ") + ")")
	}
	b.WriteByte('\n')
	if hint != "" {
		b.WriteString(h.tool + ": " + h.paint("1", "hint:") + " " + hint + "\n")
	}
	return h.print(h.clear() + b.String() + h.redraw())
}

// lines puts prefix in front of each line of s.
func (h *console) lines(prefix, s string) string {
	var b strings.Builder
	for l := range strings.Lines(strings.TrimRight(s, "\r\n") + "\n") {
		b.WriteString(prefix + l)
	}
	return h.clear() + b.String() + h.redraw()
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
	if !h.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (h *console) print(s string) error {
	_, err := io.WriteString(h.w, s)
	return err
}

func (h *console) clear() string {
	if h.live == nil {
		return ""
	}
	return h.live.clear()
}

func (h *console) redraw() string {
	if h.live == nil {
		return ""
	}
	return h.live.draw()
}

// live is one line at the bottom of a terminal that says what is in work.
type live struct {
	tool  string
	width int
	drawn bool
	done  int
	order []string          // hosts in work, by when they began
	step  map[string]string // what each of them does
}

func newLive(tool string, width int) *live {
	return &live{tool: tool, width: width, step: map[string]string{}}
}

// written is the message by which the stream announces that a host left the tool.
const written = "written"

func (l *live) note(host, message string, attrs []string) {
	if message == written {
		l.done++
		delete(l.step, host)
		l.order = slices.DeleteFunc(l.order, func(h string) bool { return h == host })
		return
	}
	if _, ok := l.step[host]; !ok {
		l.order = append(l.order, host)
	}
	l.step[host] = strings.Join(append([]string{message}, attrs...), " ")
}

func (l *live) clear() string {
	if !l.drawn {
		return ""
	}
	l.drawn = false
	return "\r\x1b[K"
}

func (l *live) draw() string {
	if len(l.order) == 0 {
		return l.clear()
	}
	parts := make([]string, len(l.order))
	for i, h := range l.order {
		parts[i] = h + " " + l.step[h]
	}
	s := []rune(fmt.Sprintf("%s: %d done, %d in work: %s", l.tool, l.done, len(l.order), strings.Join(parts, ", ")))
	if len(s) >= l.width {
		s = append(s[:max(l.width-2, 0)], '…')
	}
	cleared := l.clear()
	l.drawn = true
	return cleared + string(s)
}
