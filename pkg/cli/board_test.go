package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

// draw is what a terminal shows of a board.
func draw(b *board, columns, rows int, colour bool) string {
	d := &drawing{
		size:  func() (int, int) { return columns, rows },
		lines: b.lines,
		paint: (&console{colour: colour}).paint,
	}
	text, _, _ := strings.Cut(d.draw(), "\r")
	return text
}

// A picture is a board at a time and a size, as testdata/board/*.txt have it.
type picture struct {
	after         time.Duration // since the first event
	columns, rows int
}

func TestBoard(t *testing.T) {
	shop, err := os.ReadFile("testdata/board/shop.jsonl") // recorded: three sandboxes, and two machines with mistakes
	if err != nil {
		t.Fatal(err)
	}
	recorded := strings.Split(strings.TrimSpace(string(shop)), "\n")
	for _, tt := range []struct {
		name     string
		events   []string
		pictures []picture
	}{
		{"shop", recorded, []picture{
			{1500 * time.Millisecond, 80, 24}, {2500 * time.Millisecond, 80, 24}, {2500 * time.Millisecond, 40, 12},
			{2500 * time.Millisecond, 20, 6}, {time.Hour, 80, 24},
		}},
		{"fleet", fleet(50), []picture{
			{time.Second, 80, 24}, {20 * time.Second, 80, 24}, {40 * time.Second, 80, 24}, {40 * time.Second, 120, 60},
			{40 * time.Second, 48, 16}, {40 * time.Second, 30, 10}, {40 * time.Second, 80, 5}, {40 * time.Second, 10, 2}, {time.Hour, 80, 24},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got strings.Builder
			var b *board
			for _, p := range tt.pictures {
				b = newBoard("nx-eval")
				for _, line := range tt.events {
					e, ok := parseEvent(line)
					if !ok {
						t.Fatalf("no event: %s", line)
					}
					if b.began.IsZero() || !e.time.After(b.began.Add(p.after)) {
						b.note(e)
					}
				}
				fmt.Fprintf(&got, "== after %v, %dx%d\n%s\n", p.after, p.columns, p.rows, draw(b, p.columns, p.rows, false))
			}
			fmt.Fprintf(&got, "== summary\n%s\n", strings.Join(b.summary(), "\n"))
			golden(t, filepath.Join("testdata/board", tt.name+".txt"), got.String())
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("NXTEST_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant\n%s", file, got, want)
	}
}

// Colours say nothing that marks and words do not, and NO_COLOR leaves them out.
func TestBoardColour(t *testing.T) {
	b := newBoard()
	for _, line := range fleet(3) {
		e, _ := parseEvent(line)
		b.note(e)
	}
	plain, coloured := draw(b, 80, 24, false), draw(b, 80, 24, true)
	if strings.Contains(plain, "\x1b") || !strings.Contains(coloured, "\x1b[32m✓\x1b[0m") {
		t.Errorf("plain %q, coloured %q", plain, coloured)
	}
	var s screen
	if err := s.write([]byte(coloured)); err != nil || s.String() != plain {
		t.Errorf("%v\n%s\nwant\n%s", err, s.String(), plain)
	}
}

// What a terminal draws two cells wide, or none, is counted so.
func TestCut(t *testing.T) {
	for _, tt := range []struct {
		text string
		room int
		want string
	}{
		{"web1", 4, "web1"},
		{"web1", 3, "we…"},
		{"世界地図", 8, "世界地図"},
		{"世界地図", 7, "世界地…"},
		{"世界地図", 6, "世界…"},
		{"e\u0301cole", 5, "e\u0301cole"},
		{"e\u0301cole", 3, "e\u0301c…"},
		{"web1", 1, "…"},
	} {
		got := ""
		for _, p := range (line{{text: tt.text}}).cut(tt.room) {
			got += p.text
		}
		if got != tt.want {
			t.Errorf("%q in %d cells: %q, want %q", tt.text, tt.room, got, tt.want)
		}
	}
}

// Whatever is in a log, the picture fits the terminal and has nothing that would
// steer it.
func FuzzBoard(f *testing.F) {
	f.Add(strings.Join(fleet(2), "\n"), 80, 24)
	f.Add(`{"time":"2026-01-02T03:04:05Z","level":"error","event":"a\u001b[2Jb","tool":"nx-eval","host":"\n"}`, 3, 1)
	f.Add(`{"time":"2026-01-02T03:04:05Z","level":"info","event":"begin","tool":"nx-deploy","stages":"nx-\u001b nx-build"}`, 30, 4)
	f.Fuzz(func(t *testing.T, log string, columns, rows int) {
		b := newBoard("nx-eval", "nx-build")
		for text := range strings.SplitSeq(log, "\n") {
			if e, ok := parseEvent(text); ok {
				b.note(e)
			}
		}
		columns, rows = min(max(columns, 1), 500), min(max(rows, 1), 200)
		lines := b.lines(columns, rows)
		if len(lines) > max(rows-1, 2) {
			t.Errorf("%d lines on %d rows", len(lines), rows)
		}
		for _, l := range lines {
			wide := 0
			for _, p := range l.cut(max(columns-1, 1)) {
				wide += cells(p.text)
				if strings.ContainsFunc(p.text, unicode.IsControl) {
					t.Errorf("%q steers the terminal", p.text)
				}
			}
			if wide > max(columns-1, 1) {
				t.Errorf("%d cells in %d columns: %v", wide, columns, l)
			}
		}
		for _, text := range b.summary() {
			if strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("%q steers the terminal", text)
			}
		}
	})
}

// fleet are the events of a deployment to n hosts: two are evaluated at a time, three
// built, four copied to, six activated. The 7th does not evaluate, the 19th does not
// build, the 23rd goes back, and nothing is new for each 6th.
func fleet(n int) []string {
	type said struct {
		at   time.Duration
		line string
	}
	var all []said
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	say := func(at time.Duration, level, tool, event, host string, attrs ...any) {
		text := fmt.Sprintf(`{"time":%q,"level":%q,"event":%q,"tool":"nx-%s"`, start.Add(at).Format(time.RFC3339Nano), level, event, tool)
		if host != "" {
			text += fmt.Sprintf(`,"host":%q`, host)
		}
		for i := 0; i < len(attrs); i += 2 {
			value, _ := json.Marshal(attrs[i+1])
			text += fmt.Sprintf(`,%q:%s`, attrs[i], value)
		}
		all = append(all, said{at, text + "}"})
	}
	say(0, "info", "deploy", "begin", "", "stages", "nx-provision nx-eval nx-build nx-copy nx-activate", "log", ".nx/log/20260102T030405Z")
	ready := make([]time.Duration, n)
	name := func(i int) string { return fmt.Sprintf("shop-%02d", i+1) }
	for i := range n {
		say(200*time.Millisecond, "debug", "provision", "read", name(i))
		ready[i] = 900 * time.Millisecond
		say(ready[i], "debug", "provision", "written", name(i))
	}
	lost := make([]bool, n)
	// stage has so many slots; work says what is done with a host from a time on, and
	// returns when it is through.
	stage := func(tool string, slots int, work func(i int, host string, at time.Duration) time.Duration) {
		free := make([]time.Duration, slots)
		for i := range n {
			say(ready[i], "debug", tool, "read", name(i))
			if !lost[i] {
				slot := slices.Index(free, slices.Min(free))
				at := max(ready[i], free[slot])
				ready[i] = work(i, name(i), at)
				free[slot] = ready[i]
			}
			say(ready[i], "debug", tool, "written", name(i))
		}
	}
	fails := func(i int, tool string, at time.Duration, why string) time.Duration {
		lost[i] = true
		say(at, "error", tool, why, name(i))
		return at
	}
	stage("eval", 2, func(i int, host string, at time.Duration) time.Duration {
		say(at, "info", "eval", "evaluating", host)
		if i+1 == 7 {
			return fails(i, "eval", at+time.Second, "evaluate configuration: The option `services.opnessh' does not exist.")
		}
		say(at+1200*time.Millisecond, "info", "eval", "evaluated", host, "drv", "/nix/store/00000000000000000000000000000000-nixos-system-"+host+".drv")
		return at + 1200*time.Millisecond
	})
	stage("build", 3, func(i int, host string, at time.Duration) time.Duration {
		if (i+1)%6 == 0 {
			return at
		}
		for second := range 3 {
			say(at+time.Duration(second)*700*time.Millisecond, "debug", "build", "building", "", "done", i*2+second, "all", n*2, "running", 3)
		}
		if i+1 == 19 {
			return fails(i, "build", at+time.Second, "build /nix/store/00000000000000000000000000000000-nixos-system-shop-19.drv: nix-store --realise: exit status 100")
		}
		say(at+2*time.Second, "info", "build", "built", host)
		return at + 2*time.Second
	})
	stage("copy", 4, func(i int, host string, at time.Duration) time.Duration {
		const size = 96 << 20
		say(at, "info", "copy", "connecting", host, "target", "192.0.2.1")
		say(at+200*time.Millisecond, "info", "copy", "copying closure", host, "paths", 812, "missing", 40, "bytes", size)
		pace := 1 + i%5 // seconds
		for second := range pace + 1 {
			done := size * second / pace
			say(at+time.Duration(second)*time.Second+300*time.Millisecond, "debug", "copy", "sending", host,
				"doneBytes", done, "allBytes", size, "rate", size/pace, "left", pace-second)
			say(at+time.Duration(second)*time.Second+300*time.Millisecond, "debug", "copy", "sending", "",
				"doneBytes", size*i+done, "allBytes", size*n, "rate", 4*size/pace, "left", (n-i)*pace)
		}
		end := at + time.Duration(pace)*time.Second + 500*time.Millisecond
		say(end, "info", "copy", "copied", host, "paths", 40, "bytes", size, "wire", size/3)
		return end
	})
	stage("activate", 6, func(i int, host string, at time.Duration) time.Duration {
		if (i+1)%6 == 0 {
			say(at+300*time.Millisecond, "info", "activate", "activated", host, "result", "unchanged", "generation", 3)
			return at + 300*time.Millisecond
		}
		for second, event := range []string{"connecting", "activating", "testing", "confirming"} {
			say(at+time.Duration(second)*time.Second, "info", "activate", event, host)
		}
		say(at+2500*time.Millisecond, "info", "activate", "output", host, "line", "setting up /etc...")
		if i+1 == 23 {
			return fails(i, "activate", at+5*time.Second, "switch: rolled back: these units failed: nginx.service")
		}
		say(at+8*time.Second, "info", "activate", "committing", host)
		say(at+9*time.Second, "info", "activate", "activated", host, "result", "activated", "generation", 4)
		return at + 9*time.Second
	})
	slices.SortStableFunc(all, func(a, b said) int { return int(a.at - b.at) })
	var lines []string
	for _, s := range all {
		lines = append(lines, s.line)
	}
	return lines
}
