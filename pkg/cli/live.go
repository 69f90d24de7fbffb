package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"nx/pkg/stream"
)

// live is one line at the bottom of a terminal: how many hosts are done of all
// that were read, and what is being done with which.
//
//	nx-copy: 3 of 12 done; connecting db1; copying closure web1 (paths 812, bytes 1203), web2
//
// and how far the tool is with what it does for all of them together:
//
//	nx-build: 3 of 12 done; building 17 of 40 (4 running), fetching 5 of 812, unpacking 96M of 1.2G
//
// Stages know nothing of it. It follows the events that have a host: those of
// the stream say that a host was read and that it was written, and any other
// one of level info or debug in between is the step that the host is at, with
// the event's attributes in brackets. Store paths and file names are left out:
// the line has no room for them. An event without a host that has the attributes
// done and all, or doneBytes and allBytes, says how far a step is of the tool's own,
// and with running how many of it are in work.
type live struct {
	tool  string
	width func() int // columns of the terminal, which may change

	all, done int
	working   []work // by when they began
	counts    []count
	drawn     bool
	ended     bool
}

// work is a host in work.
type work struct{ host, step, details string }

// count is how far a step of the tool's own is: far as "3 of 12".
type count struct{ step, far, running string }

// eraseRest erases the line from the cursor on (ECMA-48, EL).
const eraseRest = "\x1b[K"

// note takes an event. Attributes are written "key value".
func (l *live) note(host, event string, attrs []string) {
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
	if i < 0 {
		i = len(l.working)
		l.working = append(l.working, work{host: host})
	}
	far, short := cutCount(attrs)
	short = slices.DeleteFunc(slices.Clone(short), func(attr string) bool { return strings.Contains(attr, " /") })
	if far != "" {
		short = append([]string{far}, short...)
	}
	l.working[i].step, l.working[i].details = event, strings.Join(short, ", ")
}

// count takes an event without a host, and tells whether it says how far a step is.
func (l *live) count(event string, attrs []string) bool {
	far, rest := cutCount(attrs)
	if far == "" {
		return false
	}
	i := slices.IndexFunc(l.counts, func(c count) bool { return c.step == event })
	if i < 0 {
		i = len(l.counts)
		l.counts = append(l.counts, count{step: event})
	}
	c := &l.counts[i]
	c.far = far
	for _, attr := range rest {
		if n, ok := strings.CutPrefix(attr, "running "); ok {
			c.running = n
		}
	}
	if done, all, _ := strings.Cut(far, " of "); done == all {
		l.counts = slices.Delete(l.counts, i, i+1)
	}
	return true
}

// cutCount takes what says how far a step is out of attributes, as "3 of 12"; it is
// empty when there is nothing.
func cutCount(attrs []string) (far string, rest []string) {
	value := map[string]string{}
	for _, attr := range attrs {
		switch key, v, _ := strings.Cut(attr, " "); key {
		case "done", "all":
			value[key] = v
		case "doneBytes", "allBytes":
			if n, err := strconv.ParseInt(v, 10, 64); err == nil {
				v = Size(n).String()
			}
			value[strings.TrimSuffix(key, "Bytes")] = v
		default:
			rest = append(rest, attr)
		}
	}
	if value["done"] == "" || value["all"] == "" {
		return "", attrs
	}
	return value["done"] + " of " + value["all"], rest
}

// text is what the line says, empty when nothing is left to do.
func (l *live) text() string {
	if l.done >= l.all && len(l.working) == 0 {
		return ""
	}
	var steps []string
	hosts := map[string][]string{}
	for _, w := range l.working {
		if hosts[w.step] == nil {
			steps = append(steps, w.step)
		}
		if w.details != "" {
			w.host += " (" + w.details + ")"
		}
		hosts[w.step] = append(hosts[w.step], w.host)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d of %d done", l.tool, l.done, l.all)
	for _, step := range steps {
		b.WriteString("; " + step + " " + strings.Join(hosts[step], ", "))
	}
	for i, c := range l.counts {
		b.WriteString([]string{"; ", ", "}[min(i, 1)] + c.step + " " + c.far)
		if c.running != "" && c.running != "0" {
			b.WriteString(" (" + c.running + " running)")
		}
	}
	return b.String()
}

// clear returns what removes the line.
func (l *live) clear() string {
	if !l.drawn {
		return ""
	}
	l.drawn = false
	return "\r" + eraseRest
}

// draw returns what writes the line where the cursor is. The cursor stays at its
// beginning: what another program writes to the terminal takes its place.
func (l *live) draw() string {
	s := []rune(l.text())
	if len(s) == 0 || l.ended {
		return ""
	}
	if room := max(l.width()-1, 1); len(s) > room {
		s = append(s[:room-1], '…')
	}
	l.drawn = true
	return string(s) + "\r"
}
