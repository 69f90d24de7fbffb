package deliver

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"nx/pkg/closure"
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

// A lab is a target, its store and the local store, as far as the stage can tell.
type lab struct {
	log []string // what happened, in order

	dialErrs []error       // of each dial; nil for the rest
	lookErr  error         // of the porter's session
	place    string        // what the porter finds
	trip     time.Duration // to the host and back
	refuses  []error       // AddToStoreNar's errors, nil for the rest
	there    bool          // the system is
	gone     bool          // it is not in the local store
	cached   bool          // the host can fetch it
	fetching time.Duration
	size     int // of its NAR, 120 when 0
	status   int // of nix-store --realise

	complaints int             // of nix-store --realise, before its error
	stalls     []time.Duration // before each read of what is sent to nix-store --serve
}

// logMu guards every lab's log: labs are copied in tables.
var logMu sync.Mutex

func (h *lab) note(format string, args ...any) {
	logMu.Lock()
	defer logMu.Unlock()
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

func (h *lab) courier(log *slog.Logger) *Courier {
	return &Courier{Depot: &closure.Depot{Source: h}, Dial: h.dial, Open: h.open, AddCompressed: h.addCompressed, Log: log}
}

func (h *lab) dial(_ context.Context, t target.Target) (Conn, error) {
	if t.Port == 0 {
		h.note("dial %s", t.Host)
	} else {
		h.note("dial %s:%d", t.Host, t.Port)
	}
	if len(h.dialErrs) == 0 {
		return conn{h}, nil
	}
	err := h.dialErrs[0]
	h.dialErrs = h.dialErrs[1:]
	return conn{h}, err
}

type conn struct{ *lab }

// Run is a host's shell, as far as it matters: the porter's session notes only
// what it is told to do.
func (c conn) Run(_ context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	script = strings.TrimSpace(script)
	facts, keep, porter := strings.Cut(script, "read -r _ || exit 0\n{ ")
	if !porter {
		c.note("run %s", script)
		for _, stall := range c.stalls {
			<-time.After(stall)
			io.ReadFull(stdin, make([]byte, 1))
		}
		return 0, nil
	}
	if !strings.Contains(facts, "df -Pk /nix/store") {
		return 127, nil
	}
	if c.lookErr != nil {
		return 0, c.lookErr
	}
	io.WriteString(stdout, c.place+"\n")
	if _, err := bufio.NewReader(stdin).ReadString('\n'); err != nil {
		return 0, nil
	}
	c.note("run %s", strings.TrimSuffix(keep, "; } >/dev/null && echo kept"))
	if c.status != 0 {
		for range c.complaints {
			io.WriteString(stderr, "warning: x\n")
		}
		io.WriteString(stderr, "warning: x\nerror: cannot create symlink\n")
		return c.status, nil
	}
	io.WriteString(stdout, "kept\n")
	return 0, nil
}

func (c conn) RoundTrip() time.Duration { return c.trip }

func (c conn) Close() error { c.note("hang up"); return nil }

// linked is how root keeps the system, which it does at any time.
const linked = "run 'mkdir' '-p' '/nix/var/nix/gcroots/nx/' && 'ln' '-sfn' '" + string(system) + "' '" + root + "'"

// unlinked is the log without that, and whether something keeps the system.
func (h *lab) unlinked() (log []string, kept bool) {
	logMu.Lock()
	defer logMu.Unlock()
	log = slices.DeleteFunc(slices.Clone(h.log), func(line string) bool { return line == linked })
	return log, len(log) < len(h.log) || slices.ContainsFunc(log, func(line string) bool { return strings.Contains(line, "--add-root") })
}

func (h *lab) open(ctx context.Context, serve Serve) Store {
	if err := serve(ctx, strings.NewReader("requests"), io.Discard, io.Discard); err != nil {
		h.note("serve: %v", err)
	}
	return remoteStore{h}
}

func (h *lab) addCompressed(ctx context.Context, serve Serve, infos iter.Seq[store.Info], dump closure.Dump, added func(store.Info)) error {
	if err := serve(ctx, strings.NewReader("requests"), io.Discard, io.Discard); err != nil {
		h.note("serve: %v", err)
	}
	return remoteStore{h}.AddToStoreNar(ctx, infos, dump, added)
}

func (h *lab) QueryClosure(context.Context, []store.Path) ([]store.Path, error) {
	return []store.Path{system}, nil
}

func (h *lab) QueryPathInfos(context.Context, []store.Path) ([]store.Info, error) {
	if h.gone {
		return nil, nil
	}
	return []store.Info{{Path: system, NarSize: uint64(len(h.nar()))}}, nil
}

func (h *lab) DumpStorePath(_ context.Context, _ store.Path, w io.Writer) error {
	_, err := w.Write(h.nar())
	return err
}

func (h *lab) nar() []byte { return make([]byte, cmp.Or(h.size, 120)) }

type remoteStore struct{ *lab }

func (s remoteStore) QueryValidPaths(_ context.Context, paths []store.Path, lock, substitute bool) closure.Answer {
	if substitute {
		s.note("substitute %d, lock %v", len(paths), lock)
		<-time.After(s.fetching)
	} else {
		s.note("ask for %d, lock %v", len(paths), lock)
	}
	if !s.there && (!s.cached || !substitute) {
		paths = nil
	}
	return func() ([]store.Path, error) { return paths, nil }
}

func (s remoteStore) AddToStoreNar(ctx context.Context, infos iter.Seq[store.Info], dump closure.Dump, added func(store.Info)) error {
	if len(s.refuses) > 0 {
		err := s.refuses[0]
		s.refuses = s.refuses[1:]
		if err != nil {
			return err
		}
	}
	for i := range infos {
		s.note("add %s", i.Path.Name())
		if err := dump(ctx, i.Path, io.Discard); err != nil {
			return err
		}
		added(i)
	}
	return nil
}

func (s remoteStore) Close() error { s.note("close store"); return nil }

func TestHost(t *testing.T) {
	const (
		in    = `{"nx":1,"kind":"host","name":"web1","target":{"host":"10.0.0.1"},"storePath":"` + string(system) + `","x":[1, 2]}`
		serve = "run exec 'nix-store' '--serve' '--write'"
	)
	done := strings.Replace(in, `,"x"`, `,"copied":{"storePath":"`+string(system)+`"},"x"`, 1)
	for _, tt := range []struct {
		name     string
		host     lab
		in       string
		want     string // the record; in where there is an error
		wantErr  string
		wantHint string
		log      []string
	}{
		{name: "all is missing", in: in, want: done,
			log: []string{"dial 10.0.0.1", serve, "ask for 1, lock true", "add nixos-system-web1", "hang up", "close store"}},
		{name: "all is there", host: lab{there: true}, in: in, want: done,
			log: []string{"dial 10.0.0.1", serve, "ask for 1, lock true", "hang up", "close store"}},
		{name: "the host built it", host: lab{there: true, gone: true}, in: in, want: done,
			log: []string{"dial 10.0.0.1", serve, "ask for 1, lock true", "hang up", "close store"}},
		{name: "sudo", host: lab{there: true},
			in:   `{"nx":1,"name":"web1","target":{"host":"h","user":"joe","sudo":["doas","-u","a b"]},"storePath":"` + string(system) + `"}`,
			want: `{"nx":1,"kind":"host","name":"web1","target":{"host":"h","user":"joe","sudo":["doas","-u","a b"]},"storePath":"` + string(system) + `","copied":{"storePath":"` + string(system) + `"}}`,
			log: []string{"dial h", strings.Replace(serve, "exec ", "exec 'doas' '-u' 'a b' ", 1), "ask for 1, lock true",
				"run 'doas' '-u' 'a b' 'nix-store' '--realise' '" + string(system) + "' '--add-root' '" + root + "'", "hang up", "close store"}},
		{name: "no storePath", in: `{"nx":1,"name":"web1","target":{"host":"h"}}`, wantErr: `the record has no "storePath"`,
			wantHint: "nx-build adds it: it stands earlier in the pipe"},
		{name: "no target", in: `{"nx":1,"name":"web1","storePath":"` + string(system) + `"}`, wantErr: `the record has no "target"`,
			wantHint: "nx-provision or nx-eval adds it: it stands earlier in the pipe"},
		{name: "unreachable", host: lab{dialErrs: []error{errors.New("connect to root@10.0.0.1:22: no route to host")}}, in: in,
			wantErr: "connect to root@10.0.0.1:22: no route to host", log: []string{"dial 10.0.0.1"}},
		{name: "disk full", host: lab{refuses: []error{errors.New("add x: no space left on device")}}, in: in,
			wantErr: "copy " + string(system) + ": add x: no space left on device",
			log:     []string{"dial 10.0.0.1", serve, "ask for 1, lock true", "hang up", "close store"}},
		{name: "no root", host: lab{there: true, status: 1}, in: in,
			wantErr: "keep " + string(system) + " by " + root + ": exit status 1: cannot create symlink",
			log:     []string{"dial 10.0.0.1", serve, "ask for 1, lock true", "hang up", "close store"}},
		{name: "no root, no sudo", host: lab{there: true, status: 1},
			in:       `{"nx":1,"name":"web1","target":{"host":"h","user":"joe"},"storePath":"` + string(system) + `"}`,
			wantErr:  "keep " + string(system) + " by ~/.local/state/nx/roots/00000000000000000000000000000000-nixos-system-web1: exit status 1: cannot create symlink",
			wantHint: `user "joe" may lack the right: set target.sudo, such as ["sudo"]`,
			log: []string{"dial h", serve, "ask for 1, lock true", "run 'nix-store' '--realise' '" + string(system) + "' '--indirect' '--add-root' " +
				`"$HOME"/.local/state/nx/roots/00000000000000000000000000000000-nixos-system-web1`, "hang up", "close store"}},
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
			log, kept := tt.host.unlinked()
			if !slices.Equal(log, tt.log) || !kept && tt.wantErr == "" {
				t.Errorf("what happened\n got %q\nwant %q; kept: %v", log, tt.log, kept)
			}
		})
	}
}

// lostError is how a connection says that it broke.
type lostError struct{}

func (lostError) Error() string { return "connection broke: reset" }
func (lostError) Lost() bool    { return true }

// What is tried again, and where.
func TestConnections(t *testing.T) {
	const (
		plain    = `{"nx":1,"kind":"host","name":"web1","target":{"host":"new"},"storePath":"` + string(system) + `"}`
		previous = `{"nx":1,"kind":"host","name":"web1","target":{"host":"new","previous":{"host":"old","user":"joe","sudo":["sudo"]}},"storePath":"` + string(system) + `"}`
		serve    = "run exec 'nix-store' '--serve' '--write'"
		sudoKeep = "run 'sudo' 'nix-store' '--realise' '" + string(system) + "' '--add-root' '" + root + "'"
		asked    = "ask for 1, lock true"
	)
	refused, lost := errors.New("refused"), error(lostError{})
	sudo := func(s string) string { return strings.Replace(s, "'nix-store'", "'sudo' 'nix-store'", 1) }
	for _, tt := range []struct {
		name    string
		lab     lab
		in      string
		set     func(*Courier)
		wantErr string
		log     []string
	}{
		{name: "lost while sending", lab: lab{refuses: []error{lost, lost}}, in: plain, log: []string{
			"dial new", serve, asked, "hang up", "close store",
			"dial new", serve, asked, "hang up", "close store",
			"dial new", serve, asked, "add nixos-system-web1", "hang up", "close store"}},
		{name: "lost, and away for a while", lab: lab{refuses: []error{lost}, dialErrs: []error{nil, refused, refused}}, in: plain, log: []string{
			"dial new", serve, asked, "hang up", "close store",
			"dial new", "dial new", "dial new", serve, asked, "add nixos-system-web1", "hang up", "close store"}},
		{name: "lost for good", lab: lab{refuses: []error{lost}, dialErrs: []error{nil, refused, refused, refused, refused}}, in: plain,
			set:     func(c *Courier) { c.Timeout = 6 * time.Second },
			wantErr: "refused: given up after 3s in which nothing arrived",
			log:     []string{"dial new", serve, asked, "hang up", "close store", "dial new", "dial new"}},
		{name: "lost before anything was asked", lab: lab{there: true, lookErr: lost}, in: plain, set: func(c *Courier) { c.Timeout = 3 * time.Second },
			wantErr: "keep " + string(system) + " by " + root + ": connection broke: reset: given up after 1s in which nothing arrived",
			log: []string{"dial new", serve, asked, "hang up", "close store",
				"dial new", serve, asked, "hang up", "close store"}},
		{name: "as it was before", lab: lab{there: true, dialErrs: []error{refused}}, in: previous, log: []string{
			"dial new", "dial old", sudo(serve), asked, sudoKeep, "hang up", "close store"}},
		{name: "neither", lab: lab{dialErrs: []error{refused, errors.New("no route")}}, in: previous,
			wantErr: "refused; and as it was reached before: no route", log: []string{"dial new", "dial old"}},
		{name: "elsewhere", lab: lab{there: true}, in: previous, set: func(c *Courier) { c.TargetHost = "127.0.0.1" }, log: []string{
			"dial 127.0.0.1", serve, asked, "hang up", "close store"}},
		{name: "elsewhere in vain", lab: lab{dialErrs: []error{refused}}, in: previous, set: func(c *Courier) { c.TargetPort = 2222 },
			wantErr: "refused", log: []string{"dial new:2222"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := tt.lab.courier(nil)
				if tt.set != nil {
					tt.set(c)
				}
				err := c.Host(t.Context(), parse(t, tt.in))
				if got := fmt.Sprint(err); tt.wantErr != "" && got != tt.wantErr || tt.wantErr == "" && err != nil {
					t.Errorf("error\n got %s\nwant %s", got, tt.wantErr)
				}
				log, kept := tt.lab.unlinked()
				if !slices.Equal(log, tt.log) || !kept && tt.wantErr == "" {
					t.Errorf("what happened\n got %q\nwant %q; kept: %v", log, tt.log, kept)
				}
			})
		})
	}
}

// What the record's deployment says of the host's own caches.
func TestSubstitutes(t *testing.T) {
	yes, no := true, false
	for _, tt := range []struct {
		deployment string
		all        *bool
		want       bool
	}{
		{`null`, nil, false},
		{`{}`, nil, false},
		{`{"hasFastConnection":false}`, nil, true},
		{`{"hasFastConnection":true}`, nil, false},
		{`{"substituteOnDestination":true}`, nil, true},
		{`{"substituteOnDestination":false}`, nil, false},
		{`{"substituteOnDestination":true,"hasFastConnection":true}`, nil, false},
		{`{"substituteOnDestination":false,"hasFastConnection":false}`, nil, false},
		{`{"substituteOnDestination":true}`, &no, false},
		{`{"hasFastConnection":true}`, &yes, true},
	} {
		h := lab{cached: true}
		r := parse(t, `{"nx":1,"name":"web1","target":{"host":"h"},"storePath":"`+string(system)+`","deployment":`+tt.deployment+`}`)
		c := h.courier(nil)
		c.Substitute = tt.all
		if err := c.Host(t.Context(), r); err != nil {
			t.Error(err)
		}
		if asks := "run exec 'nix-store' '--serve' '--write' '--option' 'narinfo-cache-negative-ttl' '0'"; slices.Contains(h.log, asks) != tt.want {
			t.Errorf("%s: what happened: %q", tt.deployment, h.log)
		}
		if got := slices.Contains(h.log, "substitute 1, lock true"); got != tt.want || got == slices.Contains(h.log, "add nixos-system-web1") {
			t.Errorf("%s: what happened: %q", tt.deployment, h.log)
		}
	}
}

// What only the host's caches have is fetched too.
func TestSubstitutesAll(t *testing.T) {
	h := lab{cached: true, gone: true}
	r := parse(t, `{"nx":1,"name":"web1","target":{"host":"h"},"storePath":"`+string(system)+`","deployment":{"substituteOnDestination":true}}`)
	if err := h.courier(nil).Host(t.Context(), r); err != nil || !r.Get("copied").Exists() {
		t.Errorf("error %v, record %s", err, r.Bytes())
	}
	if !slices.Contains(h.log, "substitute 1, lock true") {
		t.Errorf("what happened: %q", h.log)
	}
}

// Nothing is locked, sent or kept by a dry run, and only what is missing is said.
func TestDryRun(t *testing.T) {
	var h lab
	c := h.courier(nil)
	c.DryRun = true
	r := parse(t, `{"nx":1,"name":"web1","target":{"host":"h"},"storePath":"`+string(system)+`"}`)
	if err := c.Host(t.Context(), r); err != nil || r.Get("plan").Raw != `{"missing":1,"missingSize":120}` || r.Get("copied").Exists() {
		t.Errorf("error %v, record %s", err, r.Bytes())
	}
	want := []string{"dial h", "run exec 'nix-store' '--serve' '--write'", "ask for 1, lock false", "hang up", "close store"}
	if !slices.Equal(h.log, want) {
		t.Errorf("what happened\n got %q\nwant %q", h.log, want)
	}
}

// Compressed objects have a session of their own, which a host nearby need not have.
func TestCompressed(t *testing.T) {
	for _, tt := range []struct {
		trip time.Duration
		want bool
	}{
		{0, true},
		{time.Millisecond, false},
		{20 * time.Millisecond, true},
	} {
		h := lab{place: "free 1000 zstd", size: 1 << 19, trip: tt.trip}
		c := h.courier(nil)
		c.Compress = closure.Auto
		r := parse(t, `{"nx":1,"name":"web1","target":{"host":"h","user":"joe","sudo":["sudo"]},"storePath":"`+string(system)+`"}`)
		if err := c.Host(t.Context(), r); err != nil {
			t.Error(err)
		}
		if want := "run read -r _ || exit 0\nzstd -dcq | 'sudo' 'nix-store' '--serve' '--write'"; slices.Contains(h.log, want) != tt.want {
			t.Errorf("%v to the host and back: %q has %q: want %v", tt.trip, h.log, want, tt.want)
		}
	}
}

// What goes to the decompressor has a line in front, once there is something.
func TestLineAhead(t *testing.T) {
	for _, text := range []string{"", "a", "abc"} {
		want := text
		if text != "" {
			want = "\n" + text
		}
		err := iotest.TestReader(&lineAhead{Reader: iotest.OneByteReader(strings.NewReader(text))}, []byte(want))
		if err != nil {
			t.Error(err)
		}
	}
}

// Errors that somebody can do something about say what.
func TestHints(t *testing.T) {
	for _, tt := range []struct {
		name, user, place, refuses, wantErr, want string
	}{
		{name: "no room", place: "free 0 ", wantErr: ": 0.0 MB are missing, but only 0.0 MB are free", want: "make room on the host, as with nix-collect-garbage -d"},
		{name: "not trusted, Nix 2.8", user: "joe", refuses: "cannot add path 'x' because it lacks a valid signature", want: `the host's Nix does not trust user "joe": sign with --sign-key`},
		{name: "not trusted, later", user: "joe", refuses: "cannot add path 'x' because it lacks a signature by a trusted key", want: `the host's Nix does not trust user "joe": sign with --sign-key`},
		{name: "may not write", user: "joe", refuses: "opening lock file '/nix/var/nix/db/big-lock': Permission denied", want: `user "joe" may not write the host's store: set target.sudo, such as ["sudo"]`},
		{name: "another", refuses: "hash mismatch", want: ""},
	} {
		h := lab{place: tt.place}
		if tt.refuses != "" {
			h.refuses = []error{errors.New(tt.refuses)}
		}
		r := parse(t, `{"nx":1,"name":"web1","target":{"host":"h","user":"`+cmp.Or(tt.user, "root")+`"},"storePath":"`+string(system)+`"}`)
		err := h.courier(nil).Host(t.Context(), r)
		var hinted interface{ Hint() string }
		if !errors.As(err, &hinted) || !strings.HasPrefix(hinted.Hint(), tt.want) || tt.want == "" && hinted.Hint() != "" || !strings.HasSuffix(err.Error(), tt.wantErr) {
			t.Errorf("%s: %v", tt.name, err)
			if hinted != nil {
				t.Errorf("hint %q, want %q", hinted.Hint(), tt.want)
			}
		}
	}
}

func TestParsePlace(t *testing.T) {
	for _, tt := range []struct {
		facts string
		want  closure.Place
	}{
		{"", closure.Place{}},
		{"free 7 zstd", closure.Place{Zstd: true, Free: 7 << 10}},
		{"free 0 ", closure.Place{Free: 1}},
		{"free ? zstd", closure.Place{Zstd: true}},
		{"free -1 ", closure.Place{}},
		{"zstd", closure.Place{}},
	} {
		if got := parsePlace(tt.facts); got != tt.want {
			t.Errorf("%q: %+v, want %+v", tt.facts, got, tt.want)
		}
	}
}

// A host that does not stop complaining fills nobody's memory, and has the last word.
func TestTail(t *testing.T) {
	h := lab{there: true, status: 1, complaints: 1 << 16}
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
		{name: "stalled", stalls: []time.Duration{9 * time.Minute}, want: 1},
		{name: "stalled twice", stalls: []time.Duration{31 * time.Second, time.Second, 31 * time.Second}, want: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var text bytes.Buffer
				log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelWarn}))
				r := parse(t, `{"nx":1,"name":"web1","target":{"host":"10.0.0.1"},"storePath":"`+string(system)+`"}`)
				h := lab{stalls: tt.stalls}
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

// A host that fetches is silent as long as it takes: that its connection is there says
// enough. What is slow behind that is slow again.
func TestFetchesSilently(t *testing.T) {
	for _, gone := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var text bytes.Buffer
			log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelWarn}))
			h := lab{cached: true, gone: gone, fetching: 3*time.Hour + time.Second}
			r := parse(t, `{"nx":1,"name":"web1","target":{"host":"h"},"storePath":"`+string(system)+`","deployment":{"substituteOnDestination":true}}`)
			if err := h.courier(log).Host(t.Context(), r); err != nil || text.Len() > 0 {
				t.Errorf("error %v, warnings %s", err, &text)
			}
		})
	}
}

// The events are what fault tests act on and what people see.
func TestEvents(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: untimed}))
	r := parse(t, `{"nx":1,"name":"web1","target":{"host":"10.0.0.1"},"storePath":"`+string(system)+`"}`)
	if err := new(lab).courier(log).Host(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	want := `level=INFO msg=connecting host=web1 target=10.0.0.1
level=INFO msg="copying closure" host=web1 paths=1 missing=1 bytes=120
level=DEBUG msg=sending host=web1 doneBytes=0 allBytes=120
level=DEBUG msg=sending doneBytes=120 allBytes=120
level=DEBUG msg="copied path" host=web1 path=` + string(system) + ` sent=1 missing=1
level=INFO msg=keeping host=web1 root=` + root + `
level=INFO msg=copied host=web1 paths=1 bytes=120 wire=120
`
	if got := text.String(); got != want {
		t.Errorf("events\n got %s\nwant %s", got, want)
	}
}
