package cli

import (
	"fmt"
	"slices"
	"strings"

	"nx/pkg/stream"
)

// live is one line at the bottom of a terminal: how many hosts are done of all
// that were read, and what is being done with which.
//
//	nx-copy: 3 of 12 done; connecting db1; copying closure web1 (paths 812, bytes 1203), web2
//
// Stages know nothing of it. It follows the events that have a host: those of
// the stream say that a host was read and that it was written, and any other
// one of level info or debug in between is the step that the host is at, with
// the event's attributes in brackets. Store paths and file names are left out:
// the line has no room for them.
type live struct {
	tool  string
	width func() int // columns of the terminal, which may change

	all, done int
	working   []work // by when they began
	drawn     bool
	ended     bool
}

// work is a host in work.
type work struct{ host, step, details string }

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
	short := slices.DeleteFunc(slices.Clone(attrs), func(attr string) bool { return strings.Contains(attr, " /") })
	l.working[i].step, l.working[i].details = event, strings.Join(short, ", ")
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
