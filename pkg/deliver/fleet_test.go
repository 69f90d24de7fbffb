package deliver_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/ssh"

	"nx/pkg/nixserve"
	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/testhost"
)

// A fakeStore answers as "nix-store --serve --write" does, with a store that is but
// a list: what is asked and added, and nothing on a disk.
type fakeStore struct {
	mu    sync.Mutex
	valid map[string]bool

	// hold, if not nil, is called before an object is taken.
	hold func(path string)
}

// serve answers until the requests end. Facts are those of Nix' serve-protocol.hh and
// nix-store.cc (opServe); numbers are 64 bits, little endian, texts a length and the
// bytes, with zeros up to a multiple of 8. TestFake holds it against Nix.
func (s *fakeStore) serve(in io.Reader, out io.Writer) (err error) {
	w := &wire{r: bufio.NewReader(in), w: bufio.NewWriter(out)}
	defer func() {
		// As with nix-store, the end of the requests is the end.
		if got := recover(); got != nil && got != io.EOF {
			err = fmt.Errorf("fake store: %v", got)
		}
	}()
	if magic := w.number(); magic != 0x390c9deb {
		return fmt.Errorf("fake store: greeted by %x", magic)
	}
	w.put(0x5452eecb, 2<<8|7)
	w.w.Flush()
	w.number() // the client's version
	for {
		switch op := w.number(); op {
		case 1: // QueryValidPaths: lock, substitute, paths
			w.number()
			w.number()
			paths := w.texts() // or the end, when nobody waits for the answer
			var there []string
			s.mu.Lock()
			for _, p := range paths {
				if s.valid[p] {
					there = append(there, p)
				}
			}
			s.mu.Unlock()
			slices.Sort(there)
			w.put(uint64(len(there)))
			for _, p := range there {
				w.putText(p)
			}
		case 9: // AddToStoreNar
			if err := s.add(w); err != nil {
				return err
			}
			w.put(1)
		default:
			return fmt.Errorf("fake store: it is asked %d", op)
		}
		w.w.Flush()
	}
}

// add takes an object, which must be what was announced and have all that it refers to.
func (s *fakeStore) add(w *wire) error {
	path, _, hash, refs := w.text(), w.text(), w.text(), w.texts()
	w.number()
	size := w.number()
	w.number()
	w.texts()
	w.text()
	if s.hold != nil {
		s.hold(path)
	}
	sum := sha256.New()
	if n, err := io.CopyN(sum, w.r, int64(size)); err != nil {
		return fmt.Errorf("fake store: %s ends after %d of %d bytes", path, n, size)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != hash {
		return fmt.Errorf("fake store: %s has hash %s, not %s", path, got, hash)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range refs {
		if ref != path && !s.valid[ref] {
			return fmt.Errorf("fake store: %s comes before %s", path, ref)
		}
	}
	s.valid[path] = true
	return nil
}

// A wire is the two ends of a connection. What is wrong is a panic.
type wire struct {
	r *bufio.Reader
	w *bufio.Writer
}

func (w *wire) full(b []byte) {
	if _, err := io.ReadFull(w.r, b); err != nil {
		panic(err)
	}
}

func (w *wire) number() uint64 {
	var b [8]byte
	w.full(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func (w *wire) text() string {
	n := w.number()
	if n > 1<<16 {
		panic("text too long")
	}
	b := make([]byte, (n+7)&^7)
	w.full(b)
	return string(b[:n])
}

func (w *wire) texts() []string {
	var list []string
	for range w.number() {
		list = append(list, w.text())
	}
	return list
}

func (w *wire) put(numbers ...uint64) {
	for _, n := range numbers {
		w.w.Write(binary.LittleEndian.AppendUint64(nil, n))
	}
}

func (w *wire) putText(s string) {
	w.put(uint64(len(s)))
	w.w.WriteString(s + strings.Repeat("\x00", -len(s)&7))
}

// Nix and the fake answer the same requests with the same bytes.
func TestFake(t *testing.T) {
	for _, version := range []string{"installed", "new"} {
		t.Run(version, func(t *testing.T) {
			if version == "new" {
				testhost.Need(t, "nix-new")
				t.Setenv("PATH", filepath.Join(os.Getenv("NXTEST_NIX_NEW"), "bin")+":"+os.Getenv("PATH"))
			}
			path := localSystem(t, 5, 10, 100_000)
			local := nixserve.Local()
			defer local.Close()
			all, err := local.QueryClosure(t.Context(), []store.Path{path})
			check(t, err)
			infos, err := local.QueryPathInfos(t.Context(), all)
			check(t, err)
			// What nothing refers to but the system, and the system, in an order that Nix takes.
			slices.SortFunc(infos, func(a, b store.Info) int { return len(a.References) - len(b.References) })

			var asked, answered bytes.Buffer
			command := nixserve.Command("nix-store", "--store", t.TempDir(), "--serve", "--write")
			c := nixserve.Open(t.Context(), func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
				return command(ctx, io.TeeReader(stdin, &asked), io.MultiWriter(stdout, &answered), stderr)
			})
			for _, lock := range []bool{false, true} {
				_, err = c.QueryValidPaths(t.Context(), all, lock, false)()
				check(t, err)
				check(t, c.AddToStoreNar(t.Context(), slices.Values(infos[:len(infos)-1]), local.DumpStorePath, func(store.Info) {}))
				_, err = c.QueryValidPaths(t.Context(), append(all, path), lock, true)()
				check(t, err)
			}
			check(t, c.AddToStoreNar(t.Context(), slices.Values(infos), local.DumpStorePath, func(store.Info) {}))
			_, err = c.QueryValidPaths(t.Context(), all, true, false)()
			check(t, errors.Join(err, c.Close()))

			var fake bytes.Buffer
			check(t, (&fakeStore{valid: map[string]bool{}}).serve(&asked, &fake))
			if !bytes.Equal(fake.Bytes(), answered.Bytes()) {
				t.Errorf("of %d and %d bytes:\nfake %q\nNix  %q", fake.Len(), answered.Len(), fake.Bytes(), answered.Bytes())
			}
		})
	}
}

// A fakeHost is an ssh server in this process, with a store.
type fakeHost struct {
	fakeStore
	listener net.Listener
	kept     []string // systems for which a root was made
}

// A fakeFleet are hosts with one host key, to which one key logs in.
type fakeFleet struct {
	hosts        []*fakeHost
	hostKey      string
	identityFile string
}

func startFleet(t testing.TB, n int) *fakeFleet {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	check(t, err)
	signer, err := ssh.NewSignerFromKey(private)
	check(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	check(t, err)
	f := &fakeFleet{hostKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), identityFile: filepath.Join(t.TempDir(), "id")}
	check(t, os.WriteFile(f.identityFile, pem.EncodeToMemory(block), 0o600))
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), signer.PublicKey().Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(signer)
	var serving sync.WaitGroup
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		h := &fakeHost{fakeStore: fakeStore{valid: map[string]bool{}}, listener: l}
		f.hosts = append(f.hosts, h)
		serving.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				serving.Go(func() { h.connection(conn, config) })
			}
		})
	}
	t.Cleanup(func() {
		for _, h := range f.hosts {
			h.listener.Close()
		}
		serving.Wait()
	})
	return f
}

// records are the fleet's, each with the system at path.
func (f *fakeFleet) records(t testing.TB, path store.Path) string {
	var all strings.Builder
	for i, h := range f.hosts {
		r, err := record.NewHost(fmt.Sprintf("h%d", i+1))
		check(t, err)
		check(t, r.Set("target", map[string]any{"host": "127.0.0.1", "port": h.listener.Addr().(*net.TCPAddr).Port,
			"hostKeys": []string{f.hostKey}, "identityFile": f.identityFile}))
		check(t, r.Set("storePath", path))
		fmt.Fprintf(&all, "%s\n", r.Bytes())
	}
	return all.String()
}

func (h *fakeHost) connection(raw net.Conn, config *ssh.ServerConfig) {
	defer raw.Close()
	conn, channels, requests, err := ssh.NewServerConn(raw, config)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		sessions.Go(func() {
			defer channel.Close()
			for r := range requests {
				if r.Type != "exec" {
					r.Reply(false, nil)
					continue
				}
				r.Reply(true, nil)
				go ssh.DiscardRequests(requests)
				status := make([]byte, 4)
				if err := h.run(channel); err != nil {
					fmt.Fprintf(channel.Stderr(), "error: %v\n", err)
					status[3] = 1
				}
				channel.SendRequest("exit-status", false, status)
				return
			}
		})
	}
}

// run does what the script does that comes first (pkg/remote): lines behind dots, and
// an empty one.
func (h *fakeHost) run(channel io.ReadWriter) error {
	in := bufio.NewReader(channel)
	script := ""
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if line == "\n" {
			break
		}
		script += strings.TrimPrefix(line, ".")
	}
	io.WriteString(channel, "\x1enx\n")
	const serve = "'nix-store' '--serve' '--write'"
	switch {
	case strings.HasPrefix(script, "exec "+serve):
		return h.serve(in, channel)
	case strings.HasPrefix(script, "read -r _ || exit 0\nzstd -dcq | "+serve):
		if _, err := in.ReadString('\n'); err != nil {
			return nil
		}
		nar, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		defer nar.Close()
		return h.serve(nar, channel)
	case strings.Contains(script, "kept"):
		fmt.Fprintf(channel, "free %d zstd\n", 1<<30)
		if _, err := in.ReadString('\n'); err != nil {
			return nil
		}
		_, link, _ := strings.Cut(script, "'ln' '-sfn' '")
		path, _, _ := strings.Cut(link, "'")
		h.mu.Lock()
		h.kept = append(h.kept, path)
		h.mu.Unlock()
		_, err := io.WriteString(channel, "kept\n")
		return err
	}
	return fmt.Errorf("a script that no host has seen: %s", script)
}

// buildCopy builds nx-copy, as it is installed.
func buildCopy(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "nx-copy")
	build := exec.Command("go", "build", "-o", bin, "nx/cmd/nx-copy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// A cost is what a run of nx-copy took.
type cost struct {
	cpu  time.Duration // of it and the processes that it waited for
	peak int           // the most memory that it had at a time, in bytes; the heap is part of it
}

// copyTo runs nx-copy for a fleet.
func (f *fakeFleet) copyTo(t testing.TB, bin string, path store.Path, args ...string) cost {
	t.Helper()
	cmd := exec.Command(bin, append([]string{"-q", "-j", fmt.Sprint(len(f.hosts))}, args...)...)
	stdin, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	check(t, cmd.Start())
	records := bufio.NewReader(stdout)
	_, err = io.WriteString(stdin, f.records(t, path))
	for range len(f.hosts) + 1 { // and begin
		if err == nil {
			_, err = records.ReadBytes('\n')
		}
	}
	// Now all is done, and it waits for the end of its input. What wait4 says would
	// include this process: the child's memory is that until exec.
	status, readErr := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	stdin.Close()
	_, copyErr := io.Copy(io.Discard, records)
	if err := errors.Join(err, readErr, copyErr, cmd.Wait()); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	for _, h := range f.hosts {
		h.mu.Lock()
		if n := len(h.kept); n == 0 || h.kept[n-1] != string(path) || !h.valid[string(path)] {
			t.Errorf("a host keeps %q", h.kept)
		}
		h.mu.Unlock()
	}
	c := cost{cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	_, high, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscanf(high, "%d kB", &c.peak); err != nil {
		t.Fatalf("%v in\n%s", err, status)
	}
	c.peak <<= 10
	return c
}

// Memory does not grow with what is copied, and little with the hosts: 200 that have
// all take less than 300 MB, those that get something 64 MB and 4 MB each, however
// long one of them holds back.
func TestMemory(t *testing.T) {
	const mb = 1_000_000
	bin := buildCopy(t)
	path := localSystem(t, 20, 10, 48*mb)
	t.Run("nothing missing", func(t *testing.T) {
		f := startFleet(t, 200)
		for _, h := range f.hosts {
			h.valid[string(path)] = true
		}
		got := f.copyTo(t, bin, path).peak
		t.Logf("200 hosts take %d MB of 300 MB", got/mb)
		if got > 300*mb {
			t.Errorf("that is too much")
		}
	})
	for _, tt := range []struct {
		hosts    int
		compress string
	}{{1, "auto"}, {1, "none"}, {24, "zstd"}, {24, "none"}} {
		t.Run(fmt.Sprintf("%d hosts, %s", tt.hosts, tt.compress), func(t *testing.T) {
			f := startFleet(t, tt.hosts)
			if tt.hosts > 1 {
				// The last one takes nothing before all others have everything.
				var others sync.WaitGroup
				for _, h := range f.hosts[1:] {
					others.Add(1)
					h.hold = func(p string) {
						if p == string(path) { // the last one
							others.Done()
						}
					}
				}
				f.hosts[0].hold = func(string) { others.Wait() }
			}
			got, bound := f.copyTo(t, bin, path, "--compress", tt.compress).peak, (64+4*tt.hosts)*mb
			t.Logf("%d hosts take %d MB of %d MB", tt.hosts, got/mb, bound/mb)
			if got > bound {
				t.Errorf("that is too much")
			}
		})
	}
}
