package deliver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"nx/pkg/record"
	"nx/pkg/store"
)

// A system that several hosts have is sent once; who has none, or whose cannot be
// sent, has an error, and the records of the others stay as they are.
func TestPublisher(t *testing.T) {
	const other = "/nix/store/00000000000000000000000000000000-nixos-system-db1"
	var hosts []*record.Record
	for _, line := range []string{
		`{"nx":1,"kind":"host","name":"web1","x":[1, 2],"storePath":"` + string(system) + `"}`,
		`{"nx":1,"kind":"host","name":"new"}`,
		`{"nx":1,"kind":"host","name":"db1","storePath":"` + other + `"}`,
		`{"nx":1,"kind":"host","name":"web2","storePath":"` + string(system) + `"}`,
	} {
		hosts = append(hosts, parse(t, line))
	}
	var asked []store.Path
	var said bytes.Buffer
	p := Publisher{To: "s3://cache", Log: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{ReplaceAttr: untimed})),
		Send: func(_ context.Context, paths []store.Path, done func(store.Path, error)) {
			asked = append(asked, paths...)
			for _, path := range paths {
				var err error
				if path == other {
					err = errors.New("send it: no")
				}
				done(path, err)
			}
		}}
	var got []string
	emit := func(r *record.Record) { got = append(got, string(r.Bytes())) }
	p.Hosts(t.Context(), hosts, emit)
	want := []string{
		`{"nx":1,"kind":"host","name":"new","error":{"stage":"copy","message":"the record has no \"storePath\""}}`,
		`{"nx":1,"kind":"host","name":"web1","x":[1, 2],"storePath":"` + string(system) + `"}`,
		`{"nx":1,"kind":"host","name":"web2","storePath":"` + string(system) + `"}`,
		`{"nx":1,"kind":"host","name":"db1","storePath":"` + other + `","error":{"stage":"copy","message":"send it: no"}}`,
	}
	if !slices.Equal(got, want) || !slices.Equal(asked, []store.Path{system, other}) {
		t.Errorf("sent %q, records\n got %q\nwant %q", asked, got, want)
	}
	const events = `level=INFO msg="sending closure" host=web1 to=s3://cache
level=INFO msg="sending closure" host=db1 to=s3://cache
level=INFO msg="sending closure" host=web2 to=s3://cache
level=INFO msg=sent host=web1 path=` + string(system) + `
level=INFO msg=sent host=web2 path=` + string(system) + "\n"
	if said.String() != events {
		t.Errorf("events\n got %s\nwant %s", &said, events)
	}

	got, asked = nil, nil
	p.Hosts(t.Context(), []*record.Record{parse(t, `{"nx":1,"kind":"host","name":"new"}`)}, emit)
	if len(got) != 1 || asked != nil {
		t.Errorf("without any system: sent %q, records %q", asked, got)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted by SIGINT"))
	p.Send = func(ctx context.Context, paths []store.Path, done func(store.Path, error)) {
		done(paths[0], fmt.Errorf("send: %w", ctx.Err()))
	}
	r := parse(t, `{"nx":1,"name":"web1","storePath":"`+string(system)+`"}`)
	p.Hosts(ctx, []*record.Record{r}, func(*record.Record) {})
	if got := r.Message(); got != "interrupted by SIGINT: send: context canceled" {
		t.Errorf("interrupted: %s", got)
	}
}

// untimed leaves the time out of events.
func untimed(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
