package nixcmd

import (
	"regexp"
	"strings"

	"github.com/tidwall/gjson"
)

// Types of activities and results, and a level, in Nix' internal-json log
// (src/libutil/logging.hh). The numbers are the same from Nix 2.0 to 2.31.
const (
	actCopyPath     = 100 // fields: path, from, to
	actFileTransfer = 101
	actCopyPaths    = 103
	actBuilds       = 104
	actBuild        = 105 // fields: derivation, builder or ""

	resBuildLogLine  = 101
	resProgress      = 105
	resSetExpected   = 106
	resPostBuildLine = 107

	levelError = 0
	levelInfo  = 3
)

// An event is one line of Nix' internal-json log.
type event struct {
	action string // "start", "stop" and "result" of an activity, or "msg"
	id     string // the activity's
	typ    int64  // of the activity, or of the result
	level  int64  // of a message
	text   string // of a start or a message, without colours and "error: "
	fields []gjson.Result
}

// field returns the one that is a string, empty when there is none.
func (e *event) field(i int) string {
	if i >= len(e.fields) || e.fields[i].Type != gjson.String {
		return ""
	}
	return e.fields[i].Str
}

// number returns the field that is a number, 0 when there is none or it is less.
func (e *event) number(i int) int64 {
	if i >= len(e.fields) || e.fields[i].Type != gjson.Number {
		return 0
	}
	return max(e.fields[i].Int(), 0)
}

// escapes are the colours in Nix' messages.
var escapes = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// parseEvent reads one line of what a Nix command with --log-format internal-json
// writes to its standard error; ok is false when it is anything else.
func parseEvent(line string) (e event, ok bool) {
	raw, ok := strings.CutPrefix(line, "@nix ")
	if !ok || !gjson.Valid(raw) {
		return event{}, false
	}
	v := gjson.Parse(raw)
	e = event{action: v.Get("action").Str, id: v.Get("id").Raw, typ: v.Get("type").Int(), level: v.Get("level").Int(), text: v.Get("text").Str}
	if f := v.Get("fields"); f.IsArray() {
		e.fields = f.Array()
	}
	if e.action == "msg" {
		// raw_msg is the message without the place in a file where there is one.
		if e.text = v.Get("raw_msg").Str; e.text == "" {
			e.text = v.Get("msg").Str
		}
		e.text = strings.TrimPrefix(escapes.ReplaceAllString(e.text, ""), "error: ")
	}
	return e, true
}

// Progress is how far a realisation has come, as Nix counts: what it expects grows
// while it finds out what is to be done. A derivation that is fetched is no build.
type Progress struct {
	Building, Built, Failed, Builds int64 // derivations: in work, done, failed; Builds of all
	Fetching, Fetched, Fetches      int64 // store paths: in work, done; Fetches of all
	Downloaded, Download            int64 // bytes as they come over the line, and of all
	Unpacked, Unpack                int64 // bytes of the same in the store, and of all
}

// A tally makes Progress out of events, in the way of Nix' own progress bar
// (src/libmain/progress-bar.cc).
type tally struct {
	kinds   map[int64]*kind
	running map[string]*counted
}

// A kind is what is known of all activities of one type.
type kind struct {
	done, failed int64 // of those that have stopped
	expected     int64 // by resSetExpected
	running      map[string]*counted
}

// A counted activity has said how far it is.
type counted struct {
	typ                           int64
	done, expected, begun, failed int64
	expects                       map[int64]int64 // of other types: what it has announced
}

func newTally() *tally { return &tally{kinds: map[int64]*kind{}, running: map[string]*counted{}} }

func (t *tally) kind(typ int64) *kind {
	k := t.kinds[typ]
	if k == nil {
		k = &kind{running: map[string]*counted{}}
		t.kinds[typ] = k
	}
	return k
}

// take counts an event.
func (t *tally) take(e event) {
	switch e.action {
	case "start":
		c := &counted{typ: e.typ, expects: map[int64]int64{}}
		t.running[e.id] = c
		t.kind(e.typ).running[e.id] = c
	case "stop":
		c := t.running[e.id]
		if c == nil {
			return
		}
		delete(t.running, e.id)
		k := t.kind(c.typ)
		delete(k.running, e.id)
		k.done += c.done
		k.failed += c.failed
		for typ, n := range c.expects {
			t.kind(typ).expected -= n
		}
	case "result":
		c := t.running[e.id]
		if c == nil {
			return
		}
		switch e.typ {
		case resProgress:
			c.done, c.expected, c.begun, c.failed = e.number(0), e.number(1), e.number(2), e.number(3)
		case resSetExpected:
			typ, n := e.number(0), e.number(1)
			t.kind(typ).expected += n - c.expects[typ]
			c.expects[typ] = n
		}
	}
}

// sum adds up one type.
func (t *tally) sum(typ int64) (done, all, begun, failed int64) {
	k := t.kind(typ)
	done, all, failed = k.done, k.done, k.failed
	for _, c := range k.running {
		done += c.done
		all += c.expected
		begun += c.begun
		failed += c.failed
	}
	return done, max(all, k.expected), begun, failed
}

func (t *tally) progress() (p Progress) {
	p.Built, p.Builds, p.Building, p.Failed = t.sum(actBuilds)
	p.Fetched, p.Fetches, p.Fetching, _ = t.sum(actCopyPaths)
	p.Downloaded, p.Download, _, _ = t.sum(actFileTransfer)
	p.Unpacked, p.Unpack, _, _ = t.sum(actCopyPath)
	return p
}
