package cli

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// watched runs Watch as a tool does.
func watched(t *testing.T, file string, follow bool, stdin, stderr *os.File, flags Shared) error {
	t.Helper()
	flags.LogFormat = "text"
	if flags.Progress == "" {
		flags.Progress = "auto"
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p := &Process{Tool: "nx-activate", stdin: stdin, stdout: null, stderr: stderr, flags: &flags}
	p.console = newHandler("nx-activate", &flags, null, stderr).(*text).console
	return p.Watch(t.Context(), file, follow)
}

const three = `{"time":"2026-01-02T03:04:05Z","level":"info","event":"begin","tool":"nx-deploy","stages":"nx-eval nx-build","log":".nx/log/x"}
{"time":"2026-01-02T03:04:05.01Z","level":"debug","event":"read","tool":"nx-eval","host":"web1"}
{"time":"2026-01-02T03:04:05.02Z","level":"debug","event":"read","tool":"nx-eval","host":"db"}
{"time":"2026-01-02T03:04:05.03Z","level":"info","event":"evaluating","tool":"nx-eval","host":"web1"}
{"time":"2026-01-02T03:04:05.04Z","level":"info","event":"output","tool":"nx-eval","host":"db","line":"trace: hello"}
{"time":"2026-01-02T03:04:05.05Z","level":"error","event":"evaluate configuration: no","tool":"nx-eval","host":"db","hint":"say yes"}
{"time":"2026-01-02T03:04:05.06Z","level":"info","event":"evaluated","tool":"nx-eval","host":"web1","drv":"/nix/store/x.drv"}
{"time":"2026-01-02T03:04:05.07Z","level":"debug","event":"written","tool":"nx-eval","host":"web1"}
panic: what no tool should say
{"time":"2026-01-02T03:04:05.1Z","level":"info","event":"built","tool":"nx-build","host":"web1"}
{"time":"2026-01-02T03:04:05.11Z","level":"debug","event":"written","tool":"nx-build","host":"web1"}
{"time":"2026-01-02T03:04:05.12Z","level":"error","event":"1 of 2 hosts failed: db (eval)","tool":"nx-build"}
`

const summary = `nx-deploy: 2 hosts in 0s: 1 done, 1 failed
nx-deploy: time: eval 0s, build 0s
nx-deploy: failed: db (eval): evaluate configuration: no
nx-deploy: log: .nx/log/x
nx-deploy: hint: the logs of what failed: jq -r 'select(.error).error.log' .nx/log/x/records.jsonl
`

// Elsewhere than on a terminal, and with -v, each event is the line that its tool would
// have written.
func TestWatchLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "events.jsonl")
	if err := os.WriteFile(file, []byte(three), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		flags Shared
		want  string
	}{
		{"all", Shared{}, `nx-eval: web1: evaluating
db> trace: hello
nx-eval: error: db: evaluate configuration: no
nx-eval: hint: say yes
nx-eval: web1: evaluated (drv /nix/store/x.drv)
panic: what no tool should say
nx-build: web1: built
nx-build: error: 1 of 2 hosts failed: db (eval)
` + summary},
		{"quiet", Shared{Quiet: true}, `nx-eval: error: db: evaluate configuration: no
nx-eval: hint: say yes
nx-deploy: error: panic: what no tool should say
nx-build: error: 1 of 2 hosts failed: db (eval)
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			if err := watched(t, file, false, nil, out, tt.flags); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(out.Name())
			if err != nil || string(got) != tt.want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, tt.want)
			}
		})
	}
}

// On a terminal there are warnings and errors, and in the end the summary in place of
// the picture, whether the deployment is followed or shown again.
func TestWatchTerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	want := `nx-eval: error: db: evaluate configuration: no
nx-eval: hint: say yes
nx-deploy: error: panic: what no tool should say
` + summary
	for _, follow := range []bool{false, true} {
		terminal, other := openTerminal(t, 80)
		file := filepath.Join(t.TempDir(), "events.jsonl")
		if err := os.WriteFile(file, []byte(three[:900]), 0o600); err != nil { // half of a line is its end
			t.Fatal(err)
		}
		stdin, tools, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		write := func() {
			if _, err := io.WriteString(f, three[900:]); err != nil {
				t.Error(err)
			}
			f.Close()
			tools.Close() // the tools have ended
		}
		if follow {
			go write()
		} else {
			write()
		}
		if err := watched(t, file, follow, stdin, terminal, Shared{}); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimRight(read(t, terminal, other, &screen{}), "\n") + "\n"; got != want {
			t.Errorf("follow %v:\n%s\nwant\n%s", follow, got, want)
		}
	}
}

// A tool that asks something has the terminal to itself until it was answered.
func TestWatchAsked(t *testing.T) {
	var out strings.Builder
	b := newBoard("nx-eval")
	for line := range strings.Lines(three[:600]) {
		if e, ok := parseEvent(strings.TrimSuffix(line, "\n")); ok {
			b.note(e)
		}
	}
	c := &console{w: &out, level: slog.LevelWarn, eol: "\n"}
	c.picture = &drawing{lines: b.lines, size: func() (int, int) { return 80, 24 }, paint: c.paint}
	w := &watcher{console: c, board: b, now: true}
	for _, tt := range []struct{ event, want string }{
		{"evaluating", "of 2 done"},
		{"asking", "\r" + eraseBelow + "nx-build: the password: "},
		{"testing", ""},
		{"answered", "of 2 done"},
	} {
		out.Reset()
		w.take(`{"time":"2026-01-02T03:04:06Z","level":"debug","event":"` + tt.event + `","tool":"nx-build","question":"the password:"}`)
		w.draw(b.now.Add(1))
		if got := out.String(); !strings.Contains(got, tt.want) || tt.want != "of 2 done" && got != tt.want {
			t.Errorf("%s: %q, want %q", tt.event, got, tt.want)
		}
	}
}

func TestWatchNothing(t *testing.T) {
	if err := watched(t, filepath.Join(t.TempDir(), "none"), false, nil, os.Stderr, Shared{}); err == nil || !strings.HasPrefix(err.Error(), "read events: ") {
		t.Errorf("%v", err)
	}
}

// What an event says comes back as it was said.
func TestEvent(t *testing.T) {
	var b strings.Builder
	log := slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: eventAttr}))
	log.Warn("waiting \"here\"", "tool", "nx-copy", "host", "web1", "bytes", int64(1)<<60, "target", "a\nb")
	e, ok := parseEvent(strings.TrimSuffix(b.String(), "\n"))
	if !ok || e.level != slog.LevelWarn || e.tool != "nx-copy" || e.host != "web1" || e.name != "waiting \"here\"" || e.time.IsZero() ||
		e.attr("bytes") != "1152921504606846976" || e.attr("target") != "a\nb" || len(e.attrs) != 2 {
		t.Errorf("%+v, %v", e, ok)
	}
	for _, line := range []string{"", "panic: no", "{}", `{"time":"2026-01-02T03:04:05Z","level":"loud","event":"x","tool":"nx-eval"}`, `[1]`} {
		if e, ok := parseEvent(line); ok {
			t.Errorf("%q is %+v", line, e)
		}
	}
}
