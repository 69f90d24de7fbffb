package testhost

import (
	"testing"
	"time"
)

// A line to a host lets through what it may, and carries on over its reboot.
func TestStretch(t *testing.T) {
	h := Start(t, 1)[0]
	if err := h.Stretch(t.Context(), Line{Delay: 5 * time.Millisecond, Rate: 50_000_000}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := banner(t.Context(), h.Addr.String()+":22"); err != nil {
		t.Fatal(err)
	}
	// A handshake and the banner: nothing is faster than the line.
	if took := time.Since(start); took < 20*time.Millisecond {
		t.Errorf("two round trips took %v", took)
	}
	if err := h.Reboot(t.Context()); err != nil {
		t.Error(err)
	}
}
