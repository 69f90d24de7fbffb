package deliver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/target"
)

const (
	system = store.Path("/nix/store/00000000000000000000000000000000-nixos-system-web1")
	root   = "/nix/var/nix/gcroots/nx/00000000000000000000000000000000-nixos-system-web1"
)

func parse(t *testing.T, line string) *record.Record {
	t.Helper()
	r, err := record.Parse([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A host is a target, its store and the local store, as far as the stage can tell.
type host struct {
	log []string // what happened, in order

	dialErr error
	refuses string // AddToStoreNar's error
	there   bool   // the system is
	gone    bool   // it is not in the local store
	status  int    // of nix-store --realise

	complaints int             // of nix-store --realise, before its error
	stalls     []time.Duration // before each read of what is sent to nix-store --serve
}

func (h *host) note(format string, args ...any) { h.log = append(h.log, fmt.Sprintf(format, args...)) }

func (h *host) courier(log *slog.Logger) *Courier {
	return &Courier{Local: h, Dial: h.dial, Open: h.open, Log: log}
}

func (h *host) dial(_ context.Context, t target.Target) (Conn, error) {
	h.note("dial %s", t.Host)
	return conn{h}, h.dialErr
}

type conn struct{ *host }

func (c conn) Run(_ context.Context, script string, stdin io.Reader, _, stderr io.Writer) (int, error) {
	c.note("run %s", script)
	for _, stall := range c.stalls {
		if strings.Contains(script, "--serve") {
			<-time.After(stall)
			io.ReadFull(stdin, make([]byte, 1))
		}
	}
	if strings.Contains(script, "--realise") && c.status != 0 {
		for range c.complaints {
			io.WriteString(stderr, "warning: x\n")
		}
		io.WriteString(stderr, "warning: x\nerror: cannot create symlink\n")
		return c.status, nil
	}
	return 0, nil
}

func (c conn) Close() error { c.note("hang up"); return nil }

func (h *host) open(ctx context.Context, serve Serve) (Store, error) {
	return remoteStore{h}, serve(ctx, strings.NewReader("requests"), nil, nil)
}

func (h *host) QueryClosure(context.Context, []store.Path) ([]store.Path, error) {
	return []store.Path{system}, nil
}

func (h *host) QueryPathInfos(context.Context, []store.Path) ([]store.Info, error) {
	if h.gone {
		return nil, nil
	}
	return []store.Info{{Path: system, NarSize: 120}}, nil
}

func (h *host) DumpStorePath(context.Context, store.Path, io.Writer) error { return nil }

type remoteStore struct{ *host }

func (s remoteStore) QueryValidPaths(_ context.Context, paths []store.Path, lock, _ bool) ([]store.Path, error) {
	s.note("ask for %d, lock %v", len(paths), lock)
	if s.there {
		return paths, nil
	}
	return nil, nil
}

func (s remoteStore) AddToStoreNar(_ context.Context, infos []store.Info, _ func(context.Context, store.Path, io.Writer) error, added func(store.Info)) error {
	if s.refuses != "" {
		return errors.New(s.refuses)
	}
	for _, i := range infos {
		s.note("add %s", i.Path.Name())
		added(i)
	}
	return nil
}

func (s remoteStore) Close() error { s.note("close store"); return nil }

func TestHost(t *testing.T) {
	const (
		in    = `{"nx":1,"kind":"host","name":"web1","target":{"host":"10.0.0.1"},"storePath":"` + string(system) + `","x":[1, 2]}`
		serve = "run exec 'nix-store' '--serve' '--write'"
		keep  = "run exec 'nix-store' '--realise' '" + string(system) + "' '--add-root' '" + root + "'"
	)
	done := strings.Replace(in, `,"x"`, `,"copied":{"storePath":"`+string(system)+`"},"x"`, 1)
	for _, tt := range []struct {
		name     string
		host     host
		in       string
		want     string // the record; in where there is an error
		wantErr  string
		wantHint string
		log      []string
	}{
		{name: "all is missing", in: in, want: done,
			log: []string{"dial 10.0.0.1", serve, "ask for 1, lock true", "add nixos-system-web1", keep, "close store", "hang up"}},
		{name: "all is there", host: host{there: true}, in: in, want: done,
			log: []string{"dial 10.0.0.1", serve, "ask for 1, lock true", keep, "close store", "hang up"}},
		{name: "the host built it", host: host{there: true, gone: true}, in: in, want: done,
			log: []string{"dial 10.0.0.1", serve, "ask for 1, lock true", keep, "close store", "hang up"}},
		{name: "sudo", host: host{there: true},
			in:   `{"nx":1,"name":"web1","target":{"host":"h","user":"joe","sudo":["doas","-u","a b"]},"storePath":"` + string(system) + `"}`,
			want: `{"nx":1,"kind":"host","name":"web1","target":{"host":"h","user":"joe","sudo":["doas","-u","a b"]},"storePath":"` + string(system) + `","copied":{"storePath":"` + string(system) + `"}}`,
			log: []string{"dial h", strings.Replace(serve, "exec ", "exec 'doas' '-u' 'a b' ", 1), "ask for 1, lock true",
				strings.Replace(keep, "exec ", "exec 'doas' '-u' 'a b' ", 1), "close store", "hang up"}},
		{name: "no storePath", in: `{"nx":1,"name":"web1","target":{"host":"h"}}`, wantErr: `the record has no "storePath"`,
			wantHint: "nx-build adds it: it stands earlier in the pipe"},
		{name: "no target", in: `{"nx":1,"name":"web1","storePath":"` + string(system) + `"}`, wantErr: `the record has no "target"`,
			wantHint: "nx-provision or nx-eval adds it: it stands earlier in the pipe"},
		{name: "unreachable", host: host{dialErr: errors.New("connect to root@10.0.0.1:22: no route to host")}, in: in,
			wantErr: "connect to root@10.0.0.1:22: no route to host", log: []string{"dial 10.0.0.1"}},
		{name: "disk full", host: host{refuses: "add x: no space left on device"}, in: in,
			wantErr: "copy " + string(system) + ": add x: no space left on device",
			log:     []string{"dial 10.0.0.1", serve, "ask for 1, lock true", "close store", "hang up"}},
		{name: "no root", host: host{there: true, status: 1}, in: in,
			wantErr: "keep " + string(system) + " by " + root + ": exit status 1: cannot create symlink",
			log:     []string{"dial 10.0.0.1", serve, "ask for 1, lock true", keep, "close store", "hang up"}},
		{name: "no root, no sudo", host: host{there: true, status: 1},
			in:       `{"nx":1,"name":"web1","target":{"host":"h","user":"joe"},"storePath":"` + string(system) + `"}`,
			wantErr:  "keep " + string(system) + " by " + root + ": exit status 1: cannot create symlink",
			wantHint: `user "joe" may lack the right: set target.sudo, such as ["sudo"]`,
			log:      []string{"dial h", serve, "ask for 1, lock true", keep, "close store", "hang up"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := parse(t, tt.in)
			err := tt.host.courier(nil).Host(t.Context(), r)
			if got := fmt.Sprint(err); tt.wantErr != "" && got != tt.wantErr || tt.wantErr == "" && err != nil {
				t.Errorf("error\n got %s\nwant %s", got, tt.wantErr)
			}
			var hinted interface{ Hint() string }
			hint := ""
			if errors.As(err, &hinted) {
				hint = hinted.Hint()
			}
			if hint != tt.wantHint {
				t.Errorf("hint\n got %q\nwant %q", hint, tt.wantHint)
			}
			want := tt.want
			if tt.wantErr != "" {
				want = string(parse(t, tt.in).Bytes())
			}
			if got := string(r.Bytes()); got != want {
				t.Errorf("record\n got %s\nwant %s", got, want)
			}
			if !slices.Equal(tt.host.log, tt.log) {
				t.Errorf("what happened\n got %q\nwant %q", tt.host.log, tt.log)
			}
		})
	}
}

// A host that does not stop complaining fills nobody's memory, and has the last word.
func TestTail(t *testing.T) {
	h := host{there: true, status: 1, complaints: 1 << 16}
	r := parse(t, `{"nx":1,"name":"web1","target":{"host":"10.0.0.1"},"storePath":"`+string(system)+`"}`)
	err := h.courier(nil).Host(t.Context(), r)
	var logged interface{ Log() string }
	if !errors.As(err, &logged) || len(logged.Log()) > record.MaxLog || !strings.HasSuffix(err.Error(), ": exit status 1: cannot create symlink") {
		t.Errorf("error %v", err)
	}
}

// Who waits is told after half a minute in which nothing moved, and only then.
func TestStalled(t *testing.T) {
	for _, tt := range []struct {
		name   string
		stalls []time.Duration // before each read of what is sent
		want   int             // warnings
	}{
		{name: "slow", stalls: []time.Duration{29 * time.Second, 29 * time.Second}},
		{name: "stalled", stalls: []time.Duration{time.Hour}, want: 1},
		{name: "stalled twice", stalls: []time.Duration{31 * time.Second, time.Second, 31 * time.Second}, want: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var text bytes.Buffer
				log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelWarn}))
				r := parse(t, `{"nx":1,"name":"web1","target":{"host":"10.0.0.1"},"storePath":"`+string(system)+`"}`)
				h := host{stalls: tt.stalls}
				if err := h.courier(log).Host(t.Context(), r); err != nil {
					t.Error(err)
				}
				synctest.Wait() // for the last warning to be written
				if got := strings.Count(text.String(), `msg="nothing moved for 30s" host=web1 hint=`); got != tt.want {
					t.Errorf("%d warnings, want %d: %s", got, tt.want, text.String())
				}
			})
		})
	}
}

// The events are what fault tests act on and what people see.
func TestEvents(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	r := parse(t, `{"nx":1,"name":"web1","target":{"host":"10.0.0.1"},"storePath":"`+string(system)+`"}`)
	if err := new(host).courier(log).Host(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	want := `level=INFO msg=connecting host=web1 target=10.0.0.1
level=INFO msg="copying closure" host=web1 paths=1 missing=1 bytes=120
level=DEBUG msg="copied path" host=web1 path=` + string(system) + ` sent=1 missing=1
level=INFO msg=keeping host=web1 root=` + root + `
level=INFO msg=copied host=web1 paths=1 bytes=120
`
	if got := text.String(); got != want {
		t.Errorf("events\n got %s\nwant %s", got, want)
	}
}
