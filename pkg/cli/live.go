package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"nx/pkg/stream"
)

// live is what stands at the bottom of a terminal. Its first line says how many hosts
// are done of all that were read, how far the tool is with what it does for all of
// them together, and what is being done with which:
//
//	nx-copy: 3 of 12 done; sending 412M of 2.1G, 3.2M/s, 9m left; connecting db1, db2
//	nx-build: 3 of 12 done; building 17 of 40 (4 running), fetching 5 of 812, unpacking 96M of 1.2G
//
// and each host whose step says how far it is has a line below:
//
//	web1   sending 96M of 412M, 1.1M/s, 4m left
//	board  building 1 of 2, on big
//
// Stages know nothing of it. It follows the events that have a host: those of
// the stream say that a host was read and that it was written, and any other
// one of level info or debug in between is the step that the host is at, with
// the event's attributes. Store paths and file names are left out: the line has no
// room for them. An event that has the attributes done and all, or doneBytes and
// allBytes, says how far a step is, with rate, bytes a second, how fast, with left,
// seconds, how long it still takes, and with running how many things are in work; one
// with elapsed, seconds, says how long a step has taken that cannot know more, and one
// with took that the host's step is over. A detail that says none of it hides no step
// that does.
type live struct {
	tool string

	all, done int
	working   []work // by when they began
	counts    []count
}

// work is a host in work. Far is empty when its step does not say it.
type work struct{ host, step, far, details string }

// count is how far a step of the tool's own is.
type count struct{ step, far string }

// note takes an event of a host. Attributes are written "key value".
func (l *live) note(host, event string, detail bool, attrs []string) {
	i := slices.IndexFunc(l.working, func(w work) bool { return w.host == host })
	switch event {
	case stream.EventRead:
		l.all++
		return
	case stream.EventWritten:
		l.done++
		if i >= 0 {
			l.working = slices.Delete(l.working, i, i+1)
		}
		return
	}
	if l.all == 0 && detail {
		return // what is found out about the network's hosts, before any is read, is no step of theirs
	}
	if slices.ContainsFunc(attrs, func(a string) bool { return strings.HasPrefix(a, "took ") }) {
		if i >= 0 {
			l.working = slices.Delete(l.working, i, i+1)
		}
		return
	}
	if i < 0 {
		i = len(l.working)
		l.working = append(l.working, work{host: host})
	}
	l.working[i] = l.working[i].next(event, detail, attrs)
}

// next is the work at the step that an event says, unless that is a detail that says
// less than what is known.
func (w work) next(event string, detail bool, attrs []string) work {
	m, rest := cutMeasure(attrs)
	far := m.String()
	rest = slices.DeleteFunc(slices.Clone(rest), func(attr string) bool {
		seconds, ok := strings.CutPrefix(attr, "elapsed ")
		if n, err := strconv.ParseInt(seconds, 10, 64); ok && err == nil {
			far = span(n)
		}
		return ok
	})
	if far == "" && detail && w.far != "" {
		return w
	}
	rest = slices.DeleteFunc(rest, func(attr string) bool { return strings.Contains(attr, " /") })
	return work{w.host, event, far, strings.Join(rest, ", ")}
}

// count takes an event without a host, and tells whether it says how far a step is.
func (l *live) count(event string, attrs []string) bool { return follow(&l.counts, event, attrs) }

// follow is [live.count] for the counts of whatever tool.
func follow(counts *[]count, event string, attrs []string) bool {
	m, _ := cutMeasure(attrs)
	if m == nil {
		return false
	}
	i := slices.IndexFunc(*counts, func(c count) bool { return c.step == event })
	if i < 0 {
		i = len(*counts)
		*counts = append(*counts, count{step: event})
	}
	(*counts)[i].far = m.String()
	if m.done >= m.all {
		*counts = slices.Delete(*counts, i, i+1)
	}
	return true
}

// A measure is how far a step is.
type measure struct {
	done, all           int64
	bytes               bool
	rate, left, running int64
}

// cutMeasure takes what says how far a step is out of attributes; it is nil when
// nothing does.
func cutMeasure(attrs []string) (*measure, []string) {
	var m measure
	var rest []string
	ends := 0 // done and all
	for _, attr := range attrs {
		key, value, _ := strings.Cut(attr, " ")
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
			rest = append(rest, attr)
			continue
		case key == "done", key == "doneBytes":
			m.done = n
			ends++
		case key == "all", key == "allBytes":
			m.all = n
			ends++
		case key == "rate":
			m.rate = n
		case key == "left":
			m.left = n
		case key == "running":
			m.running = n
		default:
			rest = append(rest, attr)
		}
		m.bytes = m.bytes || key == "allBytes"
	}
	if ends != 2 {
		return nil, attrs
	}
	return &m, rest
}

// String is the measure for people, empty for none: "96M of 412M, 1.1M/s, 4m left".
func (m *measure) String() string {
	if m == nil {
		return ""
	}
	done, all := strconv.FormatInt(m.done, 10), strconv.FormatInt(m.all, 10)
	if m.bytes {
		done, all = Size(m.done).String(), Size(m.all).String()
	}
	s := done + " of " + all
	if m.running > 0 {
		s += fmt.Sprintf(" (%d running)", m.running)
	}
	if m.rate > 0 {
		s += fmt.Sprintf(", %s/s, %s left", Size(m.rate), span(m.left))
	}
	return s
}

// span writes seconds for people, in one unit or two: 40s, 9m, 3h20m.
func span(seconds int64) string {
	switch minutes := (seconds + 30) / 60; {
	case seconds < 100:
		return fmt.Sprintf("%ds", seconds)
	case minutes < 100:
		return fmt.Sprintf("%dm", minutes)
	default:
		return fmt.Sprintf("%dh%02dm", minutes/60, minutes%60)
	}
}

// lines are what is to be seen, none when nothing is left to do, and no more than
// there is room for.
func (l *live) lines(_, rows int) []line {
	var lines []line
	texts := l.texts()
	if room := max(rows-1, 2); len(texts) > room {
		more := fmt.Sprintf("  and %d more", len(texts)-room+1)
		texts = append(texts[:room-1:room-1], more)
	}
	for _, text := range texts {
		lines = append(lines, line{{text: text}})
	}
	return lines
}

func (l *live) texts() []string {
	if l.done >= l.all && len(l.working) == 0 {
		return nil
	}
	parts := []string{fmt.Sprintf("%s: %d of %d done", l.tool, l.done, l.all)}
	var counts, steps, rows []string
	for _, c := range l.counts {
		counts = append(counts, c.step+" "+c.far)
	}
	if len(counts) > 0 {
		parts = append(parts, strings.Join(counts, ", "))
	}
	wide := 0
	hosts := map[string][]string{}
	for _, w := range l.working {
		if w.far != "" {
			wide = max(wide, len(w.host))
			continue
		}
		if hosts[w.step] == nil {
			steps = append(steps, w.step)
		}
		if w.details != "" {
			w.host += " (" + w.details + ")"
		}
		hosts[w.step] = append(hosts[w.step], w.host)
	}
	for _, step := range steps {
		parts = append(parts, step+" "+strings.Join(hosts[step], ", "))
	}
	for _, w := range l.working {
		if w.far == "" {
			continue
		}
		row := fmt.Sprintf("  %-*s  %s %s", min(wide, 24), w.host, w.step, w.far)
		if w.details != "" {
			row += ", " + w.details
		}
		rows = append(rows, row)
	}
	return append([]string{strings.Join(parts, "; ")}, rows...)
}
