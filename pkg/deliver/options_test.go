package deliver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nx/pkg/closure"
	"nx/pkg/deliver"
	"nx/pkg/nixcmd"
	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/target"
	"nx/pkg/testhost"
)

// result is what the stage says of a host that it is done with.
type result struct{ missing, paths, bytes, wire int }

func (r *result) note(t testing.TB, e event) {
	number := func(key string) int {
		n, err := strconv.Atoi(e.attrs[key])
		check(t, err)
		return n
	}
	switch e.what {
	case "copying closure":
		r.missing = number("missing")
	case "copied":
		r.paths, r.bytes, r.wire = number("paths"), number("bytes"), number("wire")
	}
}

func requisites(t testing.TB, path store.Path) []string {
	t.Helper()
	return strings.Fields(nix(t, "nix-store", "--query", "--requisites", string(path)))
}

// What a target's caches have is fetched by it; only the rest is sent.
func TestSubstituted(t *testing.T) {
	h := testhost.Start(t, 1)[0]
	path := localStore(t)
	all := requisites(t, path)
	nix(t, append([]string{"nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs",
		"--to", "file://" + h.Disk("var") + "/cache"}, all[:len(all)-1]...)...)
	config, err := os.OpenFile(filepath.Join(h.Disk("etc"), "nix/nix.conf"), os.O_APPEND|os.O_WRONLY, 0)
	check(t, err)
	_, err = config.WriteString("substituters = file:///var/cache\nrequire-sigs = false\n")
	check(t, errors.Join(err, config.Close()))

	var got result
	c := courier(t, func(e event) { got.note(t, e) })
	r := hostRecord(t, h, path)
	check(t, r.Set("deployment", json.RawMessage(`{"substituteOnDestination":true}`)))
	_, err = run(t.Context(), t, c, r)
	check(t, err)
	if got.missing != 1 || got.paths != 1 {
		t.Errorf("of %d objects, all but one of which the host can fetch: %+v", len(all), got)
	}
	inside(t, h, "nix-store --verify --check-contents")
	if got := strings.Fields(inside(t, h, "nix-store --query --requisites "+string(path))); !slices.Equal(got, all) {
		t.Errorf("closure on the host\n got %s\nwant %s", got, all)
	}
}

// Several hosts get what was read once, compressed once.
func TestFleet(t *testing.T) {
	hosts := testhost.Start(t, 4)
	path := localStore(t)
	var mu sync.Mutex
	var got []result
	c := courier(t, func(e event) {
		if e.what == "copied" {
			var r result
			r.note(t, e)
			mu.Lock()
			defer mu.Unlock()
			got = append(got, r)
		}
	})
	source := &countingSource{Source: c.Depot.Source, dumps: map[store.Path]int{}}
	c.Depot.Source, c.Compress = source, closure.Zstd
	var in []*record.Record
	for _, h := range hosts {
		in = append(in, hostRecord(t, h, path))
	}
	_, err := run(t.Context(), t, c, in...)
	check(t, err)
	all := requisites(t, path)
	for _, p := range all {
		if n := source.dumps[store.Path(p)]; n != 1 {
			t.Errorf("%s was read %d times", p, n)
		}
	}
	for _, r := range got {
		if r.paths != len(all) || r.wire == 0 || r.wire > r.bytes {
			t.Errorf("%+v of %d objects", r, len(all))
		}
	}
	for _, h := range hosts {
		inside(t, h, "nix-store --verify --check-contents && nix-store --check-validity "+string(path))
	}
}

// A countingSource counts how often each NAR is read.
type countingSource struct {
	closure.Source
	mu    sync.Mutex
	dumps map[store.Path]int
}

func (s *countingSource) DumpStorePath(ctx context.Context, p store.Path, w io.Writer) error {
	s.mu.Lock()
	s.dumps[p]++
	s.mu.Unlock()
	return s.Source.DumpStorePath(ctx, p, w)
}

// To a host far away the first objects go while it is asked for the others, which is
// counted on the line: the second answer is held back until half a MB has gone.
func TestFar(t *testing.T) {
	h := testhost.Start(t, 1)[0]
	check(t, h.Stretch(t.Context(), testhost.Line{Delay: 2 * time.Millisecond}))
	path := system(t, 200, func(i int) []byte { return noise(i, 10_000) })
	all := requisites(t, path)
	gone := make(chan struct{})
	var what []string
	var got result
	c := courier(t, func(e event) {
		got.note(t, e)
		switch e.what {
		case "copying closure": // what went before that is kept by the process that was asked
			inside(t, h, "nix-store --gc")
			fallthrough
		case "sending", "copied path":
			what = append(what, e.what)
		}
	})
	c.Timeout = 30 * time.Second // else it would wait for ever
	dial := c.Dial
	c.Dial = func(ctx context.Context, to target.Target) (deliver.Conn, error) {
		conn, err := dial(ctx, to)
		return heldConn{conn, gone}, err
	}
	c.Depot.Prepare(t.Context(), path) // which may take longer than the login
	_, err := run(t.Context(), t, c, hostRecord(t, h, path))
	check(t, err)
	if got.missing != len(all) || got.paths != len(all) || what[0] != "copying closure" {
		t.Errorf("of %d objects: %+v; it began with %q", len(all), got, what[0])
	}
	inside(t, h, "nix-store --verify --check-contents && nix-store --check-validity "+path.StagedRoot())
}

// A heldConn holds back what nix-store --serve answers behind the first answer, until
// half a MB of compressed objects has gone.
type heldConn struct {
	deliver.Conn
	gone chan struct{}
}

func (c heldConn) Run(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	switch {
	case strings.HasPrefix(script, "exec 'nix-store' '--serve'"):
		// Two numbers greet, and nothing is what of the first paths is valid.
		stdout = &heldWriter{Writer: stdout, free: 3 * 8, gone: c.gone}
	case strings.Contains(script, "zstd -dcq"):
		stdin = &goneReader{Reader: stdin, left: 500_000, gone: c.gone}
	}
	return c.Conn.Run(ctx, script, stdin, stdout, stderr)
}

type heldWriter struct {
	io.Writer
	free int // bytes that pass
	gone <-chan struct{}
}

func (w *heldWriter) Write(b []byte) (int, error) {
	n := min(w.free, len(b))
	w.free -= n
	if _, err := w.Writer.Write(b[:n]); err != nil || n == len(b) {
		return n, err
	}
	<-w.gone
	rest, err := w.Writer.Write(b[n:])
	return n + rest, err
}

type goneReader struct {
	io.Reader
	left int
	gone chan<- struct{} // closed when that was read
}

func (r *goneReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if r.left > 0 && r.left <= n {
		close(r.gone)
	}
	r.left -= n
	return n, err
}

// A target without zstd gets NARs as they are.
func TestWithoutZstd(t *testing.T) {
	h := testhost.Start(t, 1)[0]
	path := localStore(t)
	inside(t, h, "umount /usr/bin/zstd 2>/dev/null; mount --bind /dev/null /usr/bin/zstd")
	c := courier(t, func(event) {})
	_, err := run(t.Context(), t, c, hostRecord(t, h, path))
	check(t, err)
	c.Compress = closure.Zstd
	inside(t, h, "rm "+path.StagedRoot()+" && nix-store --gc")
	out, err := run(t.Context(), t, c, hostRecord(t, h, path))
	if want := "copy " + string(path) + ": compress with zstd: the host has no zstd"; err == nil || out["h1"].Message() != want {
		t.Errorf("error %v, record %s", err, out["h1"].Bytes())
	}
}

// Too little room is an error before anything is sent; a disk that fills in the
// middle is one that says so, and both are mended by room.
func TestDiskFull(t *testing.T) {
	h := testhost.Start(t, 1)[0]
	path := localStore(t)
	mount := func(size string) { inside(t, h, "mount -t tmpfs -o size="+size+" tmpfs /nix/store") }
	mount("3m")
	out, err := run(t.Context(), t, courier(t, func(e event) {
		if e.what == "copied path" {
			t.Errorf("%s was sent", e.attrs["path"])
		}
	}), hostRecord(t, h, path))
	if m := out["h1"].Message(); err == nil || !strings.Contains(m, "4.2 MB are missing, but only 3.1 MB are free") {
		t.Errorf("error %v, message %s", err, m)
	}
	inside(t, h, "umount /nix/store")

	mount("10m")
	filled := false
	out, err = run(t.Context(), t, courier(t, func(e event) {
		if e.what == "copying closure" {
			filled = true
			inside(t, h, "head -c 8M /dev/zero >/nix/store/fill")
		}
	}), hostRecord(t, h, path))
	if m := out["h1"].Message(); err == nil || filled && !strings.Contains(m, "free") && !strings.Contains(m, "No space left on device") {
		t.Errorf("error %v, message %s", err, m)
	}
	inside(t, h, "rm /nix/store/fill")
	check(t, courier(t, func(event) {}).Host(t.Context(), hostRecord(t, h, path)))
	inside(t, h, "nix-store --verify --check-contents")
}

// addUser gives a host a user who may log in as root may, and a Nix daemon for him.
func addUser(t *testing.T, h *testhost.Host, name, config string) {
	t.Helper()
	inside(t, h, fmt.Sprintf(`
		echo '%[1]s:x:1000:1000::/home/%[1]s:/bin/sh' >>/etc/passwd
		echo '%[1]s:*:19000:0:99999:7:::' >>/etc/shadow
		mkdir -p /home/%[1]s
		cp -r /root/.ssh /home/%[1]s
		chown -R 1000:1000 /home/%[1]s
		printf '%%s\n' '%[2]s' >>/etc/nix/nix.conf
		setsid nix-daemon >/dev/null 2>&1 </dev/null &
		while ! [ -S /nix/var/nix/daemon-socket/socket ]; do :; done`, name, config))
}

// A user whom the host's Nix does not trust brings what is signed, and only that,
// and keeps it.
func TestUntrustedUser(t *testing.T) {
	h := testhost.Start(t, 1)[0]
	path := localStore(t)
	secret, public := filepath.Join(t.TempDir(), "secret"), filepath.Join(t.TempDir(), "public")
	nix(t, "nix-store", "--generate-binary-cache-key", "test-1", secret, public)
	text, err := os.ReadFile(public)
	check(t, err)
	addUser(t, h, "joe", "trusted-public-keys = "+strings.TrimSpace(string(text)))
	r := hostRecord(t, h, path)
	check(t, r.Merge("target", record.Member{Key: "user", Value: "joe"}))

	c := courier(t, func(event) {})
	c.Depot.Source = built{c.Depot.Source}
	err = c.Host(t.Context(), r)
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) || !strings.HasPrefix(hinted.Hint(), `the host's Nix does not trust user "joe": sign with --sign-key`) {
		t.Errorf("without signature: %v", err)
	}
	text, err = os.ReadFile(secret)
	check(t, err)
	key, err := store.ParseSecretKey(string(text))
	check(t, err)
	c.Sign = key.Sign
	check(t, c.Host(t.Context(), r))
	root := "/home/joe/" + path.StagedHomeRoot()
	inside(t, h, "nix-store --gc && nix-store --check-validity "+string(path)+" && rm "+root+" && nix-store --gc")
	if got := inside(t, h, "ls /nix/store"); strings.Contains(got, path.Base()) {
		t.Errorf("after its root was removed there is\n%s", got)
	}
}

// A built source says of its objects that they were built, so that only a
// signature vouches for them: those of localStore vouch for themselves, by their
// content address.
type built struct{ closure.Source }

func (s built) QueryPathInfos(ctx context.Context, paths []store.Path) ([]store.Info, error) {
	infos, err := s.Source.QueryPathInfos(ctx, paths)
	for i := range infos {
		infos[i].CA = ""
	}
	return infos, err
}

// A host that has all costs at most four round trips after the login: one to open
// the sessions, which are opened at once, and those in which something is written
// before something is read.
func TestRoundTrips(t *testing.T) {
	h := testhost.Start(t, 1)[0]
	path := localStore(t)
	c := courier(t, func(event) {})
	check(t, c.Host(t.Context(), hostRecord(t, h, path)))

	dial, trips := c.Dial, &trips{}
	c.Dial = func(ctx context.Context, to target.Target) (deliver.Conn, error) {
		conn, err := dial(ctx, to)
		return tripConn{conn, trips}, err
	}
	check(t, c.Host(t.Context(), hostRecord(t, h, path)))
	if n := 1 + trips.n; n > 4 {
		t.Errorf("%d round trips for nothing", n)
	}
}

// trips counts how often something is read after something was written, in any
// session.
type trips struct {
	mu      sync.Mutex
	written bool
	n       int
}

func (t *trips) note(written bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.written && !written {
		t.n++
	}
	t.written = written
}

type tripConn struct {
	deliver.Conn
	trips *trips
}

func (c tripConn) Run(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	in, out := tripReader{stdin, c.trips}, tripWriter{stdout, c.trips}
	return c.Conn.Run(ctx, script, in, out, stderr)
}

type tripReader struct {
	io.Reader
	*trips
}

func (r tripReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if n > 0 {
		r.note(true)
	}
	return n, err
}

type tripWriter struct {
	io.Writer
	*trips
}

func (w tripWriter) Write(b []byte) (int, error) {
	w.note(false)
	if w.Writer == nil {
		return len(b), nil
	}
	return w.Writer.Write(b)
}

// A changed port is deployed: while sshd still listens at the old one, and when it
// listens at the new one alone.
func TestMovedPort(t *testing.T) {
	h := testhost.Start(t, 1)[0]
	path := localStore(t)
	r := hostRecord(t, h, path)
	check(t, r.Merge("target", record.Member{Key: "port", Value: 2222},
		record.Member{Key: "previous", Value: map[string]any{"host": h.Addr.String(), "hostKeys": []string{h.HostKey}, "identityFile": h.Target().IdentityFile}}))
	var connects []string
	c := courier(t, func(e event) {
		if e.what == "connecting" {
			connects = append(connects, e.attrs["previous"])
		}
	})
	check(t, c.Host(t.Context(), r))
	inside(t, h, "/usr/sbin/sshd -p 2222 && echo 'Port 2222' >>/etc/ssh/sshd_config")
	check(t, c.Host(t.Context(), r))
	if want := []string{"", "true", ""}; !slices.Equal(connects, want) {
		t.Errorf("connected to the previous target: %q, want %q", connects, want)
	}
}

// A store of another machine is one that Nix knows too.
func TestPublishOverSSH(t *testing.T) {
	lab := testhost.NewLab(t)
	h, err := lab.Start(t.Context(), "h1", testhost.Options{})
	check(t, err)
	path := localStore(t)
	knownHosts := filepath.Join(t.TempDir(), "known_hosts")
	check(t, os.WriteFile(knownHosts, fmt.Appendf(nil, "%s %s\n", h.Addr, h.HostKey), 0o600))
	t.Setenv("NIX_SSHOPTS", fmt.Sprintf("-F none -i %s -o UserKnownHostsFile=%s", lab.IdentityFile, knownHosts))
	there := nixcmd.Destination{Nix: &nixcmd.Nix{}, Store: "ssh-ng://root@" + h.Addr.String()}
	p := deliver.Publisher{Send: there.Send, To: there.Store}
	r := hostRecord(t, h, path)
	p.Hosts(t.Context(), []*record.Record{r}, func(*record.Record) {})
	if r.Failed() || r.Get("copied").Exists() {
		t.Errorf("record %s", r.Bytes())
	}
	inside(t, h, "nix-store --verify --check-contents")
	if got, want := strings.Fields(inside(t, h, "nix-store --query --requisites "+string(path))), requisites(t, path); !slices.Equal(got, want) {
		t.Errorf("closure on the host\n got %s\nwant %s", got, want)
	}
}
