package cli

import (
	"cmp"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"nx/pkg/record"
	"nx/pkg/stream"
)

// A board is the picture of a deployment, which several tools do together. It follows
// what they write with --log-format json --verbose, as [live] follows one of them:
//
//	nx-deploy: 12 of 50 done, 1 failed, 2 in work                      1m24s
//	  eval      38 of 50  41s
//	  build     21 of 50  58s  building 17 of 40 (4 running)
//	  copy      15 of 50  50s  sending 412M of 2.1G, 3.2M/s, 9m left
//	  activate  12 of 50  44s
//	         e b c a
//	  db     ✓ ✗      build /nix/store/…-db.drv: exit status 100
//	  web1   ✓ ✓ ✓ >  confirming, 12s
//	  board  ✓ ✓ >    sending 96M of 412M, 1.1M/s, 4m left
//	  12 done: 11 activated, 1 unchanged; 35 wait
//
// It knows no other clock than the events' and the one that it is given, so that a
// deployment can be shown again.
type board struct {
	stages []*stage
	hosts  []*host // as they came
	byName map[string]*host

	began, now time.Time // the first event's, and the one of the picture
	last       time.Time // the last event's
	failed     int
	log        string // where the events are kept
}

// A stage is what one tool does.
type stage struct {
	tool, name string // "nx-build", "build"
	done       int    // hosts that are through
	began      time.Time
	ended      time.Time // of the last that was heard of it
	counts     []count   // how far it is with what it does for all hosts together
	step       string    // what it does for them that it cannot count
}

// A host is somewhere between the first stage and the end of the last one.
type host struct {
	name   string
	at     int // the stage that it is in, or was in last
	phase  phase
	work   work      // what is being done with it, in phase working
	since  time.Time // of that
	result string    // of its activation
	cause  string    // why it failed
}

type phase int

const (
	waiting phase = iota
	working
	through // what stage at does is done
	failed
)

// The tool that puts the others together announces itself by these events.
const (
	deployer    = "nx-deploy"
	eventBegin  = "begin" // stages: the tools, parted by spaces; log: where the events are kept
	eventResult = "activated"

	// A host that is left out as was wished is told of by a warning that begins so.
	resultSkipped = "skipped"
)

func newBoard(tools ...string) *board {
	b := &board{byName: map[string]*host{}}
	for _, tool := range tools {
		b.stages = append(b.stages, &stage{tool: tool, name: strings.TrimPrefix(tool, "nx-")})
	}
	return b
}

// An event is a line of what a tool writes with --log-format json.
type event struct {
	time       time.Time
	level      slog.Level
	tool, name string
	host       string
	attrs      []slog.Attr // the others, in their order
}

// parseEvent tells whether the line is an event. What else is in a log is from
// somebody who does not know that it is one.
func parseEvent(line string) (e event, ok bool) {
	if !gjson.Valid(line) {
		return e, false
	}
	object := gjson.Parse(line)
	e.name, e.tool, e.host = object.Get("event").Str, object.Get("tool").Str, record.OneLine(object.Get("host").Str)
	e.time = object.Get("time").Time()
	if e.name == "" || e.tool == "" || e.time.IsZero() || e.level.UnmarshalText([]byte(object.Get("level").Str)) != nil {
		return e, false
	}
	object.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "time", "level", "event", "tool", "host":
		default:
			e.attrs = append(e.attrs, slog.String(key.Str, value.String()))
		}
		return true
	})
	return e, true
}

func (e *event) attr(key string) string {
	for _, a := range e.attrs {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

// note takes an event.
func (b *board) note(e event) {
	if b.began.IsZero() {
		b.began = e.time
	}
	if e.time.After(b.now) {
		b.now = e.time
	}
	if e.time.After(b.last) {
		b.last = e.time
	}
	if e.tool == deployer && e.name == eventBegin {
		*b = *newBoard(strings.Fields(record.OneLine(e.attr("stages")))...)
		b.began, b.now, b.last, b.log = e.time, e.time, e.time, e.attr("log")
		return
	}
	at := slices.IndexFunc(b.stages, func(s *stage) bool { return s.tool == e.tool })
	if at < 0 {
		return
	}
	s := b.stages[at]
	var attrs []string
	for _, a := range e.attrs {
		attrs = append(attrs, a.Key+" "+record.OneLine(a.Value.String()))
	}
	if e.host == "" {
		switch {
		case e.level >= slog.LevelWarn:
		case follow(&s.counts, record.OneLine(e.name), attrs):
			s.heard(e.time)
		case e.level == slog.LevelInfo && e.name != "output":
			s.step = e.name
		}
		return
	}
	h := b.byName[e.host]
	skips := e.level == slog.LevelWarn && strings.HasPrefix(e.name, resultSkipped)
	if h == nil {
		if e.name != stream.EventRead && !skips {
			return // a resource, or a machine that is not among the hosts to deploy
		}
		h = &host{name: e.host}
		b.byName[e.host] = h
		b.hosts = append(b.hosts, h)
	}
	if h.phase == failed || at < h.at {
		return // the tools behind the failure only pass it on
	}
	switch {
	case e.level >= slog.LevelError:
		h.at, h.phase, h.cause = at, failed, e.name
		b.failed++
		s.heard(e.time)
	case e.name == stream.EventRead:
		h.at, h.phase = at, waiting
	case e.name == stream.EventWritten:
		if h.at != at || h.phase != through {
			s.done++
		}
		h.at, h.phase = at, through
		s.ended = e.time
	case skips:
		h.at, h.phase, h.result = at, through, resultSkipped
	case e.name == "output" || e.level >= slog.LevelWarn:
	case h.phase == through && h.at == at:
		// said behind the work
	default:
		if e.name == eventResult {
			h.result = record.OneLine(e.attr("result"))
		}
		s.heard(e.time)
		var was work
		if h.at == at && h.phase == working {
			was = h.work
		}
		h.at, h.phase = at, working
		detail := e.level < slog.LevelInfo
		is := was.next(record.OneLine(e.name), detail, attrs)
		if detail && is.far == "" && was.step != "" {
			break // it is still that step
		}
		if h.work = is; is.step != was.step {
			h.since = e.time
		}
	}
}

// heard notes that the stage was at work.
func (s *stage) heard(at time.Time) {
	if s.began.IsZero() {
		s.began = at
	}
	s.ended = at
}

// took is how long the stage was at work, or is.
func (s *stage) took(all int, now time.Time) time.Duration {
	switch {
	case s.began.IsZero():
		return 0
	case s.done < all && now.After(s.ended):
		return now.Sub(s.began)
	}
	return s.ended.Sub(s.began)
}

// finished tells whether nothing is left to do with the host.
func (b *board) finished(h *host) bool {
	return h.phase == through && (h.at == len(b.stages)-1 || h.result == resultSkipped)
}

// Colours, as SGR has them.
const (
	bold   = "1"
	faint  = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

// stuck is after how long it is said how long a step takes.
const stuck = 3 * time.Second

// lines are the board at that size, with one line less than rows at most.
func (b *board) lines(columns, rows int) []line {
	if len(b.hosts) == 0 && b.now.Sub(b.began) < stuck {
		return nil
	}
	room := max(rows-1, 2)
	lines := []line{b.head(columns)}
	room--
	if room >= len(b.stages)+4 {
		lines = append(lines, b.stageLines()...)
		room -= len(b.stages)
	} else if room >= 4 {
		lines = append(lines, b.stageLine())
		room--
	}
	return append(lines, b.hostLines(columns, room)...)
}

// head counts the hosts, and says how long it takes.
func (b *board) head(columns int) line {
	var done, busy int
	for _, h := range b.hosts {
		switch {
		case b.finished(h):
			done++
		case h.phase == working:
			busy++
		}
	}
	l := line{{text: deployer + ": ", colour: bold}, {text: fmt.Sprintf("%d of %d done", done, len(b.hosts))}}
	if b.failed > 0 {
		l = append(l, part{text: ", "}, part{fmt.Sprintf("%d failed", b.failed), red})
	}
	if busy > 0 {
		l = append(l, part{text: fmt.Sprintf(", %d in work", busy)})
	}
	wide := 0
	for _, p := range l {
		wide += cells(p.text)
	}
	elapsed := seconds(b.now.Sub(b.began))
	space := min(columns, widest) - 1 - wide - len(elapsed)
	if space < 2 { // narrow: what may be cut off stands last
		l[0] = part{elapsed + " ", bold}
		return l
	}
	return append(l, part{text: strings.Repeat(" ", space) + elapsed})
}

// widest is how far to the right anything is put that stands at the right.
const widest = 100

// stageLines is a line for each stage.
func (b *board) stageLines() []line {
	var lines []line
	wide, digits := 0, len(strconv.Itoa(len(b.hosts)))
	for _, s := range b.stages {
		wide = max(wide, len(s.name))
	}
	for _, s := range b.stages {
		text := fmt.Sprintf("  %-*s  %*d of %d", wide, s.name, digits, s.done, len(b.hosts))
		if !s.began.IsZero() {
			text += fmt.Sprintf("  %5s", seconds(s.took(len(b.hosts)-b.failed, b.now)))
			var far []string
			for _, c := range s.counts {
				far = append(far, c.step+" "+c.far)
			}
			switch {
			case len(far) > 0:
				text += "  " + strings.Join(far, ", ")
			case s.done < len(b.hosts)-b.failed && s.step != "":
				text += "  " + record.OneLine(s.step)
			}
		}
		lines = append(lines, line{{text: text}})
	}
	return lines
}

// stageLine is all stages in one.
func (b *board) stageLine() line {
	var parts []string
	for _, s := range b.stages {
		parts = append(parts, fmt.Sprintf("%s %d", s.name, s.done))
	}
	return line{{text: "  " + strings.Join(parts, "  ")}}
}

// hostLines are the hosts, as many as there is room for: all of them, or else those
// that failed, not more than half, and those in work, and how many others there are.
func (b *board) hostLines(columns, room int) []line {
	if len(b.hosts) == 0 {
		return nil
	}
	shown := b.hosts
	head := 1
	if room < 3 {
		head = 0
	}
	var rest line
	if len(shown)+head > room {
		shown, rest = b.choose(room - head - 1)
	}
	wide := 4
	for _, h := range shown {
		wide = max(wide, len(h.name))
	}
	wide = min(wide, max(columns/3, 8), 24)
	marks := columns >= 50
	var lines []line
	if head > 0 && len(shown) > 0 && marks {
		text := strings.Repeat(" ", wide+2)
		for _, s := range b.stages {
			text += " " + s.name[:1]
		}
		lines = append(lines, line{{text, faint}})
	}
	for _, h := range shown {
		l := append(line{{text: "  "}}, line{{text: h.name}}.cut(wide)...)
		l = append(l, part{text: strings.Repeat(" ", max(wide-len(h.name), 0))})
		detail := b.detail(h, marks)
		if marks {
			m := b.marks(h)
			if detail == nil {
				m = m[:2*(h.at+1)]
			}
			l = append(l, m...)
		}
		lines = append(lines, append(l, detail...))
	}
	if rest != nil {
		lines = append(lines, rest)
	}
	return lines
}

// choose takes the hosts that are worth so many lines, and counts the others.
func (b *board) choose(room int) (shown []*host, rest line) {
	var lost, busy []*host
	results := map[string]int{}
	var done, waits int
	for _, h := range b.hosts {
		switch {
		case h.phase == failed:
			lost = append(lost, h)
		case h.phase == working:
			busy = append(busy, h)
		case b.finished(h):
			done++
			results[cmp.Or(h.result, "done")]++
		default:
			waits++
		}
	}
	room = max(room, 0)
	// The last failures, and those hosts that are furthest.
	keep := min(len(lost), max((room+1)/2, room-len(busy)))
	hiddenLost := len(lost) - keep
	lost = lost[hiddenLost:]
	slices.SortStableFunc(busy, func(x, y *host) int { return cmp.Compare(y.at, x.at) })
	keep = min(len(busy), room-keep)
	hiddenBusy := len(busy) - keep
	shown = append(lost, busy[:keep]...)

	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(hiddenLost, "more failed")
	add(hiddenBusy, "more in work")
	if done > 0 {
		parts = append(parts, fmt.Sprintf("%d done: %s", done, counted(results)))
	}
	add(waits, "waiting")
	return shown, line{{"  " + strings.Join(parts, "; "), faint}}
}

// counted is "11 activated, 1 unchanged".
func counted(results map[string]int) string {
	var names, parts []string
	for name := range results {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int {
		return cmp.Or(cmp.Compare(results[y], results[x]), cmp.Compare(x, y))
	})
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%d %s", results[name], name))
	}
	return strings.Join(parts, ", ")
}

// marks say of each stage whether the host is through.
func (b *board) marks(h *host) line {
	var l line
	for i := range b.stages {
		p := part{text: " "}
		switch {
		case i == h.at && h.result == resultSkipped:
			p = part{"–", faint}
		case i < h.at || i == h.at && h.phase == through:
			p = part{"✓", green}
		case i > h.at:
		case h.phase == failed:
			p = part{"✗", red}
		case h.phase == working:
			p = part{">", yellow}
		case h.phase == waiting:
			p = part{"·", faint}
		}
		l = append(l, part{text: " "}, p)
	}
	return l
}

// hashes are what takes much room in a line and tells a person nothing.
var hashes = regexp.MustCompile(`/nix/store/[0-9a-z]{32}-`)

// detail is what is done with the host, or what became of it.
func (b *board) detail(h *host, marks bool) line {
	stage := ""
	if !marks {
		stage = b.stages[h.at].name + ": "
	}
	switch {
	case h.phase == failed:
		return line{{"  " + stage + hashes.ReplaceAllLiteralString(record.OneLine(h.cause), "…-"), red}}
	case b.finished(h):
		return line{{text: "  " + cmp.Or(h.result, "done")}}
	case h.phase != working:
		return nil
	}
	text := h.work.step
	if h.work.far != "" {
		text += " " + h.work.far
		if h.work.details != "" {
			text += ", " + h.work.details
		}
	}
	if d := b.now.Sub(h.since); h.work.far == "" && d >= stuck {
		text += ", " + seconds(d)
	}
	return line{{text: "  " + stage + text}}
}

// summary says what became of the deployment, in lines for people.
func (b *board) summary() []string {
	results := map[string]int{}
	for _, h := range b.hosts {
		switch {
		case h.phase == failed:
			results["failed"]++
		case b.finished(h) && h.result != "":
			results[h.result]++
		case b.finished(h):
			results["done"]++
		case h.phase == working:
			results["left in work"]++
		default:
			results["not reached"]++
		}
	}
	lines := []string{fmt.Sprintf("%s in %s", plural(len(b.hosts), "host"), seconds(b.last.Sub(b.began)))}
	if len(results) > 0 {
		lines[0] += ": " + counted(results)
	}
	var times []string
	for _, s := range b.stages {
		if !s.began.IsZero() {
			times = append(times, s.name+" "+seconds(s.took(0, b.last)))
		}
	}
	if len(times) > 0 {
		lines = append(lines, "time: "+strings.Join(times, ", "))
	}
	for _, h := range b.hosts {
		if h.phase == failed {
			lines = append(lines, fmt.Sprintf("failed: %s (%s): %s", record.OneLine(h.name), b.stages[h.at].name, record.OneLine(h.cause)))
		}
	}
	if b.log != "" {
		lines = append(lines, "log: "+record.OneLine(b.log))
		if b.failed > 0 {
			lines = append(lines, "hint: the logs of what failed: jq -r 'select(.error).error.log' "+record.OneLine(b.log)+"/records.jsonl")
		}
	}
	return lines
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// seconds writes a duration for people: 0s, 1m24s, 2h05m.
func seconds(d time.Duration) string {
	switch s := int64(d.Round(time.Second) / time.Second); {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	default:
		return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
	}
}
