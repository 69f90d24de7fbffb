package deliver

import (
	"bytes"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// What is said of one host and of all while bytes go, a connection is lost, and a
// host fails.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: untimed}))
		var all total
		web, db := share{of: &all}, share{of: &all}
		said := func(what, want string) {
			t.Helper()
			if got := text.String(); got != want {
				t.Errorf("%s:\n got %s\nwant %s", what, got, want)
			}
			text.Reset()
		}
		var host []any
		gone := func(s *share, missing, bytes uint64) {
			host = nil
			if s.gone(log, missing, bytes) {
				host = s.pace.far(s.all)
			}
		}
		far := func(want ...any) {
			t.Helper()
			if !equal(host, want) {
				t.Errorf("host: got %v, want %v", host, want)
			}
		}

		web.begin(log, 1000)
		db.begin(log, 3000)
		said("nothing has gone", "")
		<-time.After(500 * time.Millisecond)
		gone(&web, 1000, 50)
		far()
		<-time.After(500 * time.Millisecond)
		gone(&web, 1000, 100)
		far("doneBytes", 100, "allBytes", 1000, "rate", 100, "left", 9)
		said("after a second", "level=DEBUG msg=sending doneBytes=100 allBytes=4000 rate=100 left=39\n")
		gone(&db, 3000, 300)
		far("doneBytes", 300, "allBytes", 3000, "rate", 300, "left", 9)
		said("within the same", "")

		// Over a new connection less is missing than was sent, or more.
		web.begin(log, 920)
		<-time.After(time.Second)
		gone(&web, 920, 100)
		far("doneBytes", 180, "allBytes", 1000, "rate", 100, "left", 8)
		said("again", "level=DEBUG msg=sending doneBytes=480 allBytes=4000 rate=156 left=22\n")

		for range 27 {
			<-time.After(time.Second)
			gone(&db, 3000, 300)
		}
		text.Reset()
		<-time.After(time.Second)
		gone(&db, 3000, 310)
		said("after half a minute", "level=INFO msg=sending doneBytes=490 allBytes=4000 rate=2 left=1524\n")

		db.end(log)
		said("db has failed", "")
		gone(&web, 920, 920)
		web.end(log)
		said("web is done", "level=DEBUG msg=sending doneBytes=1310 allBytes=1310 rate=2 left=0\n")

		<-time.After(time.Minute)
		var third share
		third.of = &all
		third.begin(log, 10)
		gone(&third, 10, 5)
		said("a host that comes later", "")
		<-time.After(time.Second)
		gone(&third, 10, 6)
		said("later", "level=DEBUG msg=sending doneBytes=1316 allBytes=1320 rate=6 left=0\n")
	})
}

func equal(got, want []any) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		if n, ok := want[i].(int); ok {
			want[i] = uint64(n)
		}
		if got[i] != want[i] {
			return false
		}
	}
	return true
}
