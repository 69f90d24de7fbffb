package conformance

import (
	"context"
	"errors"
	"net/http"
	"sync"
)

// What a [Line] does at one of its steps.
type cutKind string

const (
	killBefore cutKind = "killed before"           // the process is dead before the step has an effect
	killAfter  cutKind = "killed after"            // it has its effect, and the process is dead before it learns so
	lose       cutKind = "answer lost to"          // as killAfter, but the process lives: its connection broke
	interrupt  cutKind = "Ctrl-C at"               // the context is done by the end of the step, which is answered
	hangUp     cutKind = "Ctrl-C while asking, at" // as interrupt, but of questions
)

// errKilled is what a dead process is told: nothing that it does has an effect.
var errKilled = errors.New("this process was killed")

// errLost is what a process is told whose connection broke.
var errLost = errors.New("connection reset by peer")

var errInterrupted = errors.New("interrupted")

// A Line is the way from one process to its provider. All that a process does which has
// an effect is a step of it: questions to the provider, what it remembers, the calls of
// its Maker. The suite cuts it at one of them.
type Line struct {
	at   int // the step that is cut, from 1; 0 for none
	kind cutKind

	die  func() // called once, when the process is killed
	stop context.CancelCauseFunc

	mu        sync.Mutex
	steps     int // that were begun; of the kinds lose and hangUp only questions
	questions int // that had an effect
	cut, dead bool
}

// Ask has one question asked of the provider, and returns its error; a question that
// writes may have its effect although there is an error. A [World] gives its Makers no
// other way to their provider.
func (l *Line) Ask(question func() error) error { return l.step(true, question) }

// Transport is a way to a provider that speaks HTTP: each request is a question.
func (l *Line) Transport(next http.RoundTripper) http.RoundTripper { return transport{l, next} }

type transport struct {
	line *Line
	next http.RoundTripper
}

func (t transport) RoundTrip(r *http.Request) (response *http.Response, err error) {
	err = t.line.Ask(func() error {
		response, err = t.next.RoundTrip(r)
		return err
	})
	if err != nil && response != nil {
		response.Body.Close()
		response = nil
	}
	return response, err
}

func (l *Line) step(question bool, do func() error) error {
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return errKilled
	}
	if question || l.kind != lose && l.kind != hangUp {
		l.steps++
	}
	now := l.at > 0 && l.steps == l.at && !l.cut
	l.cut = l.cut || now
	kind := l.kind
	if question && !(now && kind == killBefore) {
		l.questions++
	}
	l.mu.Unlock()
	if !now {
		err := do()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.dead {
			return errKilled
		}
		return err
	}
	switch kind {
	case killBefore:
		l.kill()
		return errKilled
	case killAfter:
		_ = do() // nobody is there to be told
		l.kill()
		return errKilled
	case lose:
		if err := do(); err != nil {
			return err
		}
		return errLost
	default:
		err := do()
		l.stop(errInterrupted)
		return err
	}
}

func (l *Line) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	l.die()
	l.stop(errKilled)
}

// wasCut tells whether the line came to the step at which it was to be cut.
func (l *Line) wasCut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

// asked is how many questions had an effect.
func (l *Line) asked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.questions
}
