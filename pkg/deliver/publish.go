package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"nx/pkg/record"
	"nx/pkg/store"
)

// A Publisher brings systems to a store from which hosts, and people, fetch them. The
// records are left as they are: nothing is on a target by it.
type Publisher struct {
	// Send brings paths, with all they refer to, to the store, and calls done once
	// for each, from one goroutine.
	Send func(ctx context.Context, paths []store.Path, done func(p store.Path, err error))

	To  string       // how the store is called
	Log *slog.Logger // nil discards
}

// Hosts sends the systems of hosts and calls emit once for each. What systems have in
// common is sent once. It logs, with the host's name:
//
//	sending closure  to
//	sent             path
func (p *Publisher) Hosts(ctx context.Context, hosts []*record.Record, emit func(*record.Record)) {
	log := p.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var paths []store.Path
	waiting := map[store.Path][]*record.Record{} // hosts may share a system
	for _, r := range hosts {
		path, err := r.StorePath()
		if err != nil {
			r.Fail(record.Copy, err)
			emit(r)
			continue
		}
		log.Info("sending closure", "host", r.Name(), "to", p.To)
		if waiting[path] == nil {
			paths = append(paths, path)
		}
		waiting[path] = append(waiting[path], r)
	}
	if len(paths) == 0 {
		return
	}
	p.Send(ctx, paths, func(path store.Path, err error) {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		for _, r := range waiting[path] {
			if err != nil {
				r.Fail(record.Copy, err)
			} else {
				log.Info("sent", "host", r.Name(), "path", string(path))
			}
			emit(r)
		}
	})
}
