package deliver

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// interval is how often a host's progress is told, and that of all.
	interval = time.Second

	// seldom is how often that of all is told to who sees no details.
	seldom = 30 * time.Second

	// memory is the time after which a former pace counts for little.
	memory = 5 * time.Second
)

// A pace is how fast something goes.
type pace struct {
	at   time.Time // of the last sample
	done uint64    // then
	rate float64   // bytes a second
}

// start begins to measure at what is done already.
func (p *pace) start(done uint64) { *p = pace{at: time.Now(), done: done} }

// sample takes what is done now, unless the last sample is too fresh, and tells
// whether it did.
func (p *pace) sample(done uint64) bool {
	now := time.Now()
	past := now.Sub(p.at)
	if past < interval {
		return false
	}
	rate := float64(done-min(p.done, done)) / past.Seconds()
	if p.rate == 0 {
		p.rate = rate
	}
	p.rate += (rate - p.rate) * min(1, past.Seconds()/memory.Seconds())
	p.at, p.done = now, done
	return true
}

// far are the attributes that say how far something is.
func (p *pace) far(all uint64) []any {
	attrs := []any{"doneBytes", p.done, "allBytes", all}
	if p.rate >= 1 {
		attrs = append(attrs, "rate", uint64(p.rate), "left", uint64(float64(all-min(p.done, all))/p.rate))
	}
	return attrs
}

// A total is what goes to all hosts together, in bytes of NARs.
type total struct {
	mu        sync.Mutex
	done, all uint64
	pace      pace
	said      time.Time // when it was last told to all
}

// add adds up what one host has and gets; moved tells that some of it has gone.
func (t *total) add(log *slog.Logger, done, all int64, moved bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == 0 || t.done == t.all && all > 0 {
		t.pace.start(t.done)
		t.said = t.pace.at
	}
	t.done += uint64(done)
	t.all += uint64(all)
	level := slog.LevelDebug
	switch {
	case t.done == t.all && (done != 0 || all != 0): // for now that is all
		t.pace.done = t.done
	case !moved || !t.pace.sample(t.done):
		return
	case t.pace.at.Sub(t.said) >= seldom:
		t.said = t.pace.at
		level = slog.LevelInfo
	}
	log.Log(context.Background(), level, "sending", t.pace.far(t.all)...)
}

// A share is one host's part of the total.
type share struct {
	of        *total
	done, all uint64
	pace      pace
}

// begin says that so much is missing, and again what is when the copy goes on over
// another connection.
func (s *share) begin(log *slog.Logger, missing uint64) {
	all := max(s.all, missing)
	s.set(log, all-missing, all, false)
	s.pace.start(s.done)
}

// gone says how much has gone since it began, and tells whether it is worth saying.
func (s *share) gone(log *slog.Logger, missing, gone uint64) bool {
	s.set(log, min(s.all-missing+gone, s.all), s.all, true)
	return s.pace.sample(s.done)
}

// end takes out of the total what will not come.
func (s *share) end(log *slog.Logger) { s.set(log, s.done, s.done, false) }

func (s *share) set(log *slog.Logger, done, all uint64, moved bool) {
	s.of.add(log, int64(done)-int64(s.done), int64(all)-int64(s.all), moved)
	s.done, s.all = done, all
}
