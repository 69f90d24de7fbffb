package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"nx/pkg/stream"
)

// A screen is what one sees of what was written to a terminal. It knows what nx
// writes: text, carriage return, newline, moving up, erasing the rest of the line or
// of the screen, colours.
type screen struct {
	rows        []string
	row, column int
	cut         []byte // an escape sequence of which the end has not come
}

var (
	colours = regexp.MustCompile(`^\x1b\[[0-9;]*m`)
	up      = regexp.MustCompile(`^\x1b\[([0-9]+)A`)
)

func (s *screen) write(b []byte) error {
	if len(s.rows) == 0 {
		s.rows = []string{""}
	}
	b = append(s.cut, b...)
	s.cut = nil
	for len(b) > 0 {
		row := &s.rows[s.row]
		n := 1
		switch {
		case b[0] == '\r':
			s.column = 0
		case b[0] == '\n':
			if s.row++; s.row == len(s.rows) {
				s.rows = append(s.rows, "")
			}
			s.column = 0
		case up.Match(b):
			lines, err := strconv.Atoi(string(up.FindSubmatch(b)[1]))
			if s.row -= lines; err != nil || s.row < 0 {
				return fmt.Errorf("%q leads above the screen", b)
			}
			n = len(up.Find(b))
		case bytes.HasPrefix(b, []byte(eraseBelow)):
			*row = string([]rune(*row)[:s.column])
			s.rows = s.rows[:s.row+1]
			n = len(eraseBelow)
		case bytes.HasPrefix(b, []byte(eraseRest)):
			*row = string([]rune(*row)[:s.column])
			n = len(eraseRest)
		case colours.Match(b):
			n = len(colours.Find(b))
		case b[0] == '\x1b' && len(b) < 8:
			s.cut = b
			return nil
		case b[0] == '\x1b':
			return fmt.Errorf("%q does what no test has seen", b)
		default:
			r := []rune(string(b))[0]
			if r == '\ufffd' && len(b) < 4 {
				s.cut = b
				return nil
			}
			cells := []rune(*row)
			*row = string(append(cells[:s.column:s.column], append([]rune{r}, cells[min(s.column+1, len(cells)):]...)...))
			s.column++
			n = len(string(r))
		}
		b = b[n:]
	}
	return nil
}

func (s *screen) String() string { return strings.Join(s.rows, "\n") }

// openTerminal returns a terminal, with what a program writes to it at the other
// end of it (pty(7)).
func openTerminal(t *testing.T, columns uint16) (terminal, other *os.File) {
	t.Helper()
	other, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("NEEDS pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { other.Close() })
	fd := int(other.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns})
	}
	if err != nil {
		t.Fatal(err)
	}
	if terminal, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return terminal, other
}

// read returns what was written to the terminal since the last read. The mark is
// written behind it and left out: a terminal tells nobody that it is read.
func read(t *testing.T, terminal, other *os.File, s *screen) string {
	t.Helper()
	const mark = "\x00"
	if _, err := io.WriteString(terminal, mark); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 4096); ; {
		n, err := other.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		text, marked := bytes.CutSuffix(b[:n], []byte(mark))
		if err := s.write(text); err != nil {
			t.Fatal(err)
		}
		if marked {
			return s.String()
		}
	}
}

func TestLiveLine(t *testing.T) {
	t.Setenv("TERM", "xterm")
	terminal, other := openTerminal(t, 60)
	var file *os.File
	tests := []struct {
		name string
		args []string
		// Where stdout leads, when it is not the file.
		stdout *os.File
		do     func(p *Process, see func(want string)) error
		want   string // on the screen when the tool has ended
	}{
		{"steps", nil, nil, func(p *Process, see func(string)) error {
			for i := range 12 {
				p.Log.Debug(stream.EventRead, "host", fmt.Sprintf("web%d", i))
			}
			see("nx-test: 0 of 12 done")
			web1, web2 := p.Log.With("host", "web1"), p.Log.With("host", "web2")
			web1.Info("connecting", "target", "web1.lan")
			see("nx-test: 0 of 12 done; connecting web1 (target web1.lan)")
			web2.Info("evaluating")
			web1.Debug("evaluating", "drv", "/nix/store/x.drv")
			p.Log.Info("evaluating", "host", "db")
			see("nx-test: 0 of 12 done; evaluating web1, web2, db")
			web1.Error("no", "hint", "say yes")
			p.Log.Info("output", "host", "db", "line", "one\ntwo")
			web2.Debug(stream.EventWritten)
			see("nx-test: error: web1: no\nnx-test: hint: say yes\ndb> one\ndb> two\nnx-test: 1 of 12 done; evaluating web1, db")
			for i := range 12 {
				p.Log.Info("evaluating", "host", fmt.Sprintf("other%d", i))
			}
			see("nx-test: error: web1: no\nnx-test: hint: say yes\ndb> one\ndb> two\nnx-test: 1 of 12 done; evaluating web1, db, other0, other1…")
			io.WriteString(terminal, "another: a line"+eraseRest+"\n")
			see("nx-test: error: web1: no\nnx-test: hint: say yes\ndb> one\ndb> two\nanother: a line\n")
			return errors.New("broken off")
		}, "nx-test: error: web1: no\nnx-test: hint: say yes\ndb> one\ndb> two\nanother: a line\nnx-test: error: broken off\n"},
		{"all done", nil, nil, func(p *Process, see func(string)) error {
			p.Log.Debug("changed since it was evaluated", "host", "a")
			see("")
			p.Log.Debug(stream.EventRead, "host", "a")
			p.Log.Info("evaluating", "host", "a")
			p.Log.Info("evaluated", "host", "a")
			see("nx-test: 0 of 1 done; evaluated a")
			p.Log.Debug(stream.EventWritten, "host", "a")
			see("")
			p.Log.Info("done", "hosts", 1)
			return nil
		}, "nx-test: done (hosts 1)\n"},
		{"records on the same terminal", nil, terminal, func(p *Process, see func(string)) error {
			p.Log.Debug(stream.EventRead, "host", "a")
			fmt.Fprint(p.Stdout, "{}\n")
			see("{}\nnx-test: 0 of 1 done")
			fmt.Fprint(p.Stdout, "half a")
			see("{}\nhalf a")
			fmt.Fprint(p.Stdout, " line\n")
			see("{}\nhalf a line\nnx-test: 0 of 1 done")
			return nil
		}, "{}\nhalf a line\n"},
		{"how far", nil, nil, func(p *Process, see func(string)) error {
			p.Log.Debug(stream.EventRead, "host", "a")
			p.Log.Info("building", "drv", "/nix/store/x.drv", "done", 0, "all", 3)
			p.Log.Info("fetching", "path", "/nix/store/x", "from", "https://cache", "done", 7, "all", 812)
			see("nx-test: 0 of 1 done; building 0 of 3, fetching 7 of 812")
			p.Log.Debug("fetching", "done", 7, "all", 812, "running", 0)
			p.Log.Debug("building", "done", 2, "all", 3, "running", 1)
			see("nx-test: 0 of 1 done; building 2 of 3 (1 running), fetchin…")
			p.Log.Info("building", "host", "a", "drv", "/nix/store/y.drv", "on", "big", "done", 1, "all", 2)
			p.Log.Debug("unpacking", "doneBytes", 3<<19, "allBytes", 12<<20)
			p.Log.Debug("fetching", "done", 812, "all", 812)
			see("nx-test: 0 of 1 done; building 2 of 3 (1 running), unpacki…\n  a  building 1 of 2, on big")
			p.Log.Debug("building", "done", 3, "all", 3)
			p.Log.Debug("building", "host", "a", "done", 2, "all", 2)
			see("nx-test: 0 of 1 done; unpacking 1.5M of 12M\n  a  building 2 of 2")
			p.Log.Debug("unpacking", "doneBytes", 12<<20, "allBytes", 12<<20)
			p.Log.Info("realising", "builds", 3)
			p.Log.Debug(stream.EventWritten, "host", "a")
			return nil
		}, "nx-test: realising (builds 3)\n"},
		{"how far each host", nil, nil, func(p *Process, see func(string)) error {
			for _, host := range []string{"a", "board", "c"} {
				p.Log.Debug(stream.EventRead, "host", host)
				p.Log.Info("connecting", "host", host)
			}
			a, board := p.Log.With("host", "a"), p.Log.With("host", "board")
			board.Info("copying closure", "paths", 812)
			board.Debug("sending", "doneBytes", 0, "allBytes", 12<<20)
			see("nx-test: 0 of 3 done; connecting a, c\n  board  sending 0 of 12M")
			a.Debug("sending", "doneBytes", 96<<20, "allBytes", 412<<20, "rate", 1100<<10, "left", 95)
			p.Log.Debug("sending", "doneBytes", 96<<20, "allBytes", 424<<20, "rate", 1100<<10, "left", 12345)
			a.Debug("copied path", "path", "/nix/store/x", "sent", 3)
			const all, first, second = "nx-test: 0 of 3 done; sending 96M of 424M, 1.1M/s, 3h26m l…",
				"\n  a      sending 96M of 412M, 1.1M/s, 95s left", "\n  board  sending 0 of 12M"
			see(all + first + second)
			a.Warn("odd")
			io.WriteString(terminal, "another: a line"+eraseRest+"\n")
			see("nx-test: warning: a: odd\nanother: a line" + first + second)
			p.Log.Info("output", "host", "c", "line", "hello")
			const said = "nx-test: warning: a: odd\nanother: a line\nc> hello\n"
			see(said + all + first + second)
			a.Info("keeping", "root", "/nix/x")
			p.Log.Debug("sending", "doneBytes", 424<<20, "allBytes", 424<<20)
			board.Debug(stream.EventWritten)
			see(said + "nx-test: 1 of 3 done; keeping a; connecting c")
			for n := range 25 {
				p.Log.Debug("sending", "host", fmt.Sprintf("web%02d", n), "done", n, "all", 100)
				want := said + "nx-test: 1 of 3 done; keeping a; connecting c"
				for i := range n + 1 {
					if n > 21 && i == 21 { // of 24 rows the last one is the cursor's
						want += fmt.Sprintf("\n  and %d more", n-20)
						break
					}
					want += fmt.Sprintf("\n  web%02d  sending %d of 100", i, i)
				}
				see(want)
			}
			return errors.New("broken off")
		}, "nx-test: warning: a: odd\nanother: a line\nc> hello\nnx-test: error: broken off\n"},
		{"how long", nil, nil, func(p *Process, see func(string)) error {
			p.Log.Debug(stream.EventRead, "host", "a")
			a, key := p.Log.With("host", "a"), p.Log.With("host", "sshKeyPairs.k")
			a.Info("creating")
			key.Info("creating")
			see("nx-test: 0 of 1 done; creating a, sshKeyPairs.k")
			a.Debug("creating", "elapsed", 7)
			key.Info("created", "took", "1s")
			see("nx-test: 0 of 1 done\n  a  creating 7s")
			a.Debug("creating", "elapsed", 125)
			see("nx-test: 0 of 1 done\n  a  creating 2m")
			a.Info("created", "took", "2m5s")
			see("nx-test: 0 of 1 done")
			a.Debug(stream.EventWritten)
			return nil
		}, ""},
		{"never", []string{"--progress", "never"}, nil, func(p *Process, see func(string)) error {
			p.Log.Debug(stream.EventRead, "host", "a")
			p.Log.Info("evaluating", "host", "a")
			p.Log.Warn("odd", "host", "a")
			return nil
		}, "nx-test: warning: a: odd\n"},
		{"quiet", []string{"-q"}, nil, func(p *Process, see func(string)) error {
			p.Log.Info("evaluating", "host", "a")
			return nil
		}, ""},
		{"verbose", []string{"-v"}, nil, func(p *Process, see func(string)) error {
			p.Log.Debug(stream.EventRead, "host", "a")
			p.Log.Info("evaluating", "host", "a")
			p.Log.Debug("sending", "host", "a", "doneBytes", 3<<20, "allBytes", 12<<20, "rate", 1<<20, "left", 9, "wire", 7)
			p.Log.Debug("building", "host", "a", "done", 3, "all", 12)
			return nil
		}, "nx-test: a: read\nnx-test: a: evaluating\nnx-test: a: sending (3.0M of 12M, 1.0M/s, 9s left, wire 7)\nnx-test: a: building (done 3, all 12)\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			if file, err = os.Create(t.TempDir() + "/stdout"); err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if tt.stdout == nil {
				tt.stdout = file
			}
			var s screen
			see := func(want string) {
				t.Helper()
				if got := read(t, terminal, other, &s); got != want {
					t.Errorf("on the terminal\n%s\nwant\n%s", got, want)
				}
			}
			ran = func(_ *goCommand, p *Process) error { return tt.do(p, see) }
			run(Tool{Name: "nx-test", Jobs: 2, Commands: &toolCommands{}}, tt.args, os.Stdin, tt.stdout, terminal)
			see(tt.want)
		})
	}
}

// In the middle of a pipe, and where there is no cursor, steps are lines.
func TestNoLiveLine(t *testing.T) {
	step := func(_ *goCommand, p *Process) error {
		p.Log.Debug(stream.EventRead, "host", "a")
		p.Log.Info("evaluating", "host", "a")
		return nil
	}
	const want = "nx-test: a: evaluating\n"
	t.Run("pipe", func(t *testing.T) {
		t.Setenv("TERM", "xterm")
		terminal, other := openTerminal(t, 60)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		ran = step
		run(Tool{Name: "nx-test", Jobs: 2, Commands: &toolCommands{}}, nil, os.Stdin, w, terminal)
		if got := read(t, terminal, other, &screen{}); got != want {
			t.Errorf("on the terminal\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("dumb", func(t *testing.T) {
		t.Setenv("TERM", "dumb")
		terminal, other := openTerminal(t, 60)
		ran = step
		run(Tool{Name: "nx-test", Jobs: 2, Commands: &toolCommands{}}, []string{"-o", "x"}, os.Stdin, os.Stdout, terminal)
		if got := read(t, terminal, other, &screen{}); got != want {
			t.Errorf("on the terminal\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("no terminal", func(t *testing.T) {
		t.Setenv("TERM", "xterm")
		stderr, err := os.Create(t.TempDir() + "/stderr")
		if err != nil {
			t.Fatal(err)
		}
		defer stderr.Close()
		ran = step
		run(Tool{Name: "nx-test", Jobs: 2, Commands: &toolCommands{}}, []string{"--progress", "always", "-o", "x"}, os.Stdin, os.Stdout, stderr)
		if got, err := os.ReadFile(stderr.Name()); err != nil || string(got) != want {
			t.Errorf("stderr %q (%v), want %q", got, err, want)
		}
	})
}

// Colours are another matter than the live line.
func TestNoColour(t *testing.T) {
	t.Setenv("TERM", "xterm")
	for _, set := range []string{"", "1"} {
		t.Setenv("NO_COLOR", set)
		terminal, other := openTerminal(t, 60)
		ran = func(_ *goCommand, p *Process) error { p.Log.Warn("odd"); return nil }
		run(Tool{Name: "nx-test", Jobs: 2, Commands: &toolCommands{}}, []string{"-o", "x"}, os.Stdin, os.Stdout, terminal)
		b := make([]byte, 200)
		n, err := other.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(b[:n]), "\x1b[33;1m"); got != (set == "") {
			t.Errorf("NO_COLOR=%q: %q", set, b[:n])
		}
	}
}
