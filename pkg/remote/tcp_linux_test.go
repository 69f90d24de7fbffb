package remote

import (
	"testing"
	"time"
)

// A line is filled and somewhat more, never by megabytes.
func TestTooEarly(t *testing.T) {
	const kib = 1 << 10
	for _, tt := range []struct {
		name        string
		onWay, rate uint64
		trip        time.Duration
		want        time.Duration
	}{
		{"nothing is known", 10_000 * kib, 0, 50 * time.Millisecond, 0},
		{"a host nearby", 10_000 * kib, 100_000 * kib, time.Millisecond, 0},
		{"the line is not full", 625 * kib, 10_000 * kib, 50 * time.Millisecond, 0},
		{"just enough", 1137 * kib, 10_000 * kib, 50 * time.Millisecond, 0},
		{"more", 1137*kib + 1000*kib - 128*kib, 10_000 * kib, 50 * time.Millisecond, 6250 * time.Microsecond},
		{"more on a longer way", 13012*kib + 1000*kib - 128*kib, 10_000 * kib, time.Second, 100 * time.Millisecond},
		{"a slow line begins", 512 * kib, 10 * kib, 100 * time.Millisecond, 0},
	} {
		if got := tooEarly(tt.onWay, tt.rate, tt.trip); got != tt.want {
			t.Errorf("%s: wait %v, want %v", tt.name, got, tt.want)
		}
	}
}
