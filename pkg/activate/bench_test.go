package activate_test

import (
	"fmt"
	"testing"

	"nx/pkg/activate"
	"nx/pkg/testhost"
)

// What an activation costs besides the switch itself and the time to settle: the
// stand-in's switch takes a few milliseconds.
func BenchmarkActivate(b *testing.B) {
	h := testhost.Start(b, 1)[0]
	old := addSystem(b, h, "old", nil)
	reset(b, h, old)
	b.Run("changed", func(b *testing.B) {
		var records []func() error
		for i := range b.N {
			r := hostRecord(b, h, addSystem(b, h, "new", map[string]string{"id": fmt.Sprint(b.N, i)}))
			a := activate.Activator{Action: activate.Switch, Dial: dial}
			records = append(records, func() error { return a.Host(b.Context(), r) })
		}
		b.ResetTimer()
		for _, run := range records {
			check(b, run())
		}
	})
	b.Run("unchanged", func(b *testing.B) {
		r := hostRecord(b, h, old)
		a := activate.Activator{Action: activate.Switch, Dial: dial}
		check(b, a.Host(b.Context(), r))
		b.ResetTimer()
		for range b.N {
			check(b, a.Host(b.Context(), r))
		}
	})
}
