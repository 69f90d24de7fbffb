package nixcmd

import (
	"context"
	"log/slog"
)

// onOutput returns a logger that calls f with each line a build writes.
func onOutput(f func(line string)) *slog.Logger { return slog.New(outputHandler(f)) }

type outputHandler func(line string)

func (h outputHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h outputHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h outputHandler) WithGroup(string) slog.Handler            { return h }
func (h outputHandler) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "line" {
			h(a.Value.String())
		}
		return true
	})
	return nil
}
