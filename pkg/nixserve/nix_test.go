package nixserve

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nx/pkg/store"
	"nx/pkg/testhost"
)

// A nix is the nix-store of one installation of Nix.
type nix string

// installed returns the Nix in PATH.
func installed(t testing.TB) nix {
	testhost.Need(t, "nix")
	bin, err := exec.LookPath("nix-store")
	check(t, err)
	return nix(bin)
}

// newer returns a second, newer Nix.
func newer(t testing.TB) nix {
	testhost.Need(t, "nix-new")
	return nix(filepath.Join(os.Getenv("NXTEST_NIX_NEW"), "bin", "nix-store"))
}

// setup gives Nix a configuration and a home of the test's own.
func setup(t testing.TB) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("NIX_CONF_DIR", t.TempDir())
	t.Setenv("NIX_CONFIG", "substituters =\nbuild-users-group =\n")
	t.Setenv("NIX_REMOTE", "")
}

// A nixStore is a store of its own in a folder, whose paths begin with /nix/store
// all the same.
type nixStore struct {
	nix nix
	dir string
}

func (s nixStore) command(args ...string) *exec.Cmd {
	return exec.Command(string(s.nix), append([]string{"--store", s.dir}, args...)...)
}

func (s nixStore) run(t testing.TB, args ...string) string {
	t.Helper()
	cmd := s.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, &stderr)
	}
	return string(out)
}

// fill adds a tree with all that a NAR can hold, and a text that refers to it
// over another one, and returns the latter.
func (s nixStore) fill(t testing.TB) store.Path {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	for name, text := range map[string]string{
		"empty": "", "seven": "1234567", "eight": "12345678", "nine": "123456789",
		"sub/deep/er/file": strings.Repeat("x", 300_000), "sub/ü name with spaces": "y",
	} {
		file := filepath.Join(tree, name)
		check(t, os.MkdirAll(filepath.Dir(file), 0o755))
		check(t, os.WriteFile(file, []byte(text), 0o644))
	}
	check(t, os.Mkdir(filepath.Join(tree, "nothing"), 0o755))
	check(t, os.Symlink("/not/there", filepath.Join(tree, "link")))
	check(t, os.Chmod(filepath.Join(tree, "eight"), 0o755))
	added := strings.TrimSpace(s.run(t, "--add", tree))

	s.nix = nix(filepath.Join(filepath.Dir(string(s.nix)), "nix-instantiate"))
	text := s.run(t, "--eval", "--read-write-mode", "-E",
		`builtins.toFile "top" "${builtins.toFile "middle" "${builtins.storePath `+added+`}"} ${builtins.toFile "leaf" "leaf"}"`)
	return mustParse(t, strings.Trim(strings.TrimSpace(text), `"`))
}

// requisites returns the closure of path, dependencies first, as Nix knows it.
func (s nixStore) requisites(t testing.TB, path store.Path) []store.Path {
	t.Helper()
	var paths []store.Path
	for line := range strings.Lines(s.run(t, "-q", "--requisites", string(path))) {
		paths = append(paths, mustParse(t, strings.TrimSpace(line)))
	}
	return paths
}

func (s nixStore) open(t testing.TB, args ...string) *Client {
	t.Helper()
	return Open(t.Context(), Command(string(s.nix), append([]string{"--store", s.dir, "--serve"}, args...)...))
}

func mustParse(t testing.TB, s string) store.Path {
	t.Helper()
	p, err := store.Parse(s)
	check(t, err)
	return p
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func order(infos []store.Info, paths []store.Path) []store.Info {
	byPath := map[store.Path]store.Info{}
	for _, i := range infos {
		byPath[i.Path] = i
	}
	var list []store.Info
	for _, p := range paths {
		list = append(list, byPath[p])
	}
	return list
}

// Every pair of Nix versions copies a closure, and Nix itself finds it whole.
func TestPairs(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to func(testing.TB) nix
	}{
		{"installed to installed", installed, installed},
		{"installed to new", installed, newer},
		{"new to installed", newer, installed},
		{"new to new", newer, newer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			setup(t)
			testPair(t, nixStore{tt.from(t), t.TempDir()}, nixStore{tt.to(t), t.TempDir()})
		})
	}
}

func testPair(t *testing.T, from, to nixStore) {
	ctx := t.Context()
	root := from.fill(t)
	want := from.requisites(t, root)
	source, sink := from.open(t), to.open(t, "--write")

	closure, err := source.QueryClosure(ctx, []store.Path{root})
	check(t, err)
	if got, want := sorted(closure), sorted(want); !slices.Equal(got, want) {
		t.Fatalf("closure\n got %q\nwant %q", got, want)
	}
	infos, err := source.QueryPathInfos(ctx, closure)
	check(t, err)
	infos = order(infos, want)
	valid, err := sink.QueryValidPaths(ctx, closure, true, false)()
	check(t, err)
	if len(valid) != 0 {
		t.Fatalf("valid in an empty store: %q", valid)
	}
	var acked []store.Path
	check(t, sink.AddToStoreNar(ctx, slices.Values(infos), source.DumpStorePath, func(i store.Info) { acked = append(acked, i.Path) }))
	if !slices.Equal(acked, want) {
		t.Errorf("acknowledged\n got %q\nwant %q", acked, want)
	}
	valid, err = sink.QueryValidPaths(ctx, closure, true, false)()
	check(t, err)
	if len(valid) != len(want) {
		t.Errorf("valid after the copy: %q", valid)
	}

	// The sink's temporary roots hold while it is open, and no longer.
	if got := to.run(t, "--gc", "--print-dead"); got != "" {
		t.Errorf("garbage while the server is open:\n%s", got)
	}
	check(t, source.Close())
	check(t, sink.Close())
	if got := strings.Count(to.run(t, "--gc", "--print-dead"), "\n"); got < len(want) {
		t.Errorf("%d paths are garbage after the server is closed, want %d", got, len(want))
	}

	to.run(t, "--verify", "--check-contents")
	if got := to.requisites(t, root); !slices.Equal(sorted(got), sorted(want)) {
		t.Errorf("copied closure\n got %q\nwant %q", got, want)
	}
	for _, p := range want {
		if to.run(t, "--dump", to.dir+string(p)) != from.run(t, "--dump", from.dir+string(p)) {
			t.Errorf("%s has other contents", p)
		}
	}
}

// Questions do not wait for answers, and an answer is there for who waits for it late.
func TestQuestions(t *testing.T) {
	setup(t)
	s := nixStore{installed(t), t.TempDir()}
	root := s.fill(t)
	all := s.requisites(t, root)
	asked := make(chan struct{})
	run := Command(string(s.nix), "--store", s.dir, "--serve", "--write")
	c := Open(t.Context(), func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
		return run(ctx, stdin, gate{asked, stdout}, stderr)
	})
	first := c.QueryValidPaths(t.Context(), []store.Path{root}, true, false)
	second := c.QueryValidPaths(t.Context(), all, true, false)
	third := c.QueryValidPaths(t.Context(), nil, true, false)
	close(asked)
	for _, tt := range []struct {
		answer func() ([]store.Path, error)
		want   int
	}{{first, 1}, {third, 0}} {
		if got, err := tt.answer(); err != nil || len(got) != tt.want {
			t.Errorf("%q is valid, error %v; want %d", got, err, tt.want)
		}
	}
	fourth := c.QueryValidPaths(t.Context(), all[:2], true, false)
	if infos, err := c.QueryPathInfos(t.Context(), all); err != nil || len(infos) != len(all) {
		t.Errorf("%d infos, error %v", len(infos), err)
	}
	check(t, c.Close())
	for _, tt := range []struct {
		answer func() ([]store.Path, error)
		want   int
	}{{second, len(all)}, {fourth, 2}} {
		if got, err := tt.answer(); err != nil || len(got) != tt.want {
			t.Errorf("%q was valid, error %v; want %d", got, err, tt.want)
		}
	}
}

// A gate lets nothing through before it is open.
type gate struct {
	open <-chan struct{}
	io.Writer
}

func (g gate) Write(b []byte) (int, error) {
	<-g.open
	return g.Writer.Write(b)
}

func sorted(paths []store.Path) []store.Path { return slices.Sorted(slices.Values(paths)) }

// What cannot be added is an error that names the object and says why, in Nix'
// words; what was acknowledged before stays.
func TestAddFails(t *testing.T) {
	setup(t)
	from := nixStore{installed(t), t.TempDir()}
	root := from.fill(t)
	paths := from.requisites(t, root)
	source := from.open(t)
	infos, err := source.QueryPathInfos(t.Context(), paths)
	check(t, err)
	infos = order(infos, paths)
	last := len(infos) - 1

	type dump = func(context.Context, store.Path, io.Writer) error
	for _, tt := range []struct {
		name    string
		infos   []store.Info
		dump    dump
		acked   int
		wantErr []string
	}{
		{name: "reference is missing", infos: []store.Info{infos[0], infos[last]}, acked: 1,
			wantErr: []string{"add " + string(root), "exit status 1"}},
		{name: "contents differ", infos: infos, acked: last,
			dump: func(ctx context.Context, p store.Path, w io.Writer) error {
				var nar bytes.Buffer
				if err := source.DumpStorePath(ctx, p, &nar); err != nil {
					return err
				}
				b := nar.Bytes()
				if p == root {
					b[bytes.Index(b, []byte("-middle"))] ^= 1
				}
				_, err := w.Write(b)
				return err
			},
			wantErr: []string{"add " + string(root), "exit status 1", "hash mismatch"}},
		// The server has a whole object when the first byte too many comes.
		{name: "contents too long", infos: infos, acked: last + 1,
			dump: func(ctx context.Context, p store.Path, w io.Writer) error {
				if err := source.DumpStorePath(ctx, p, w); err != nil || p != root {
					return err
				}
				_, err := w.Write(make([]byte, 8))
				return err
			},
			wantErr: []string{"add " + string(root), "NAR is longer than its store records"}},
		{name: "contents too short", infos: infos, acked: last,
			dump: func(ctx context.Context, p store.Path, w io.Writer) error {
				if p == root {
					_, err := w.Write([]byte("short"))
					return err
				}
				return source.DumpStorePath(ctx, p, w)
			},
			wantErr: []string{"add " + string(root), "bytes shorter than the"}},
		{name: "source fails half way", infos: infos, acked: last,
			dump: func(ctx context.Context, p store.Path, w io.Writer) error {
				if p == root {
					w.Write([]byte("part"))
					return io.ErrNoProgress
				}
				return source.DumpStorePath(ctx, p, w)
			},
			wantErr: []string{io.ErrNoProgress.Error()}},
		{name: "hash of another kind", infos: []store.Info{infos[0], {Path: root, NarHash: "md5:1", NarSize: 1}}, acked: 1,
			wantErr: []string{"add " + string(root), `"md5:1"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := nixStore{installed(t), t.TempDir()}
			sink := to.open(t, "--write")
			if tt.dump == nil {
				tt.dump = source.DumpStorePath
			}
			var acked []store.Path
			err := sink.AddToStoreNar(t.Context(), slices.Values(tt.infos), tt.dump, func(i store.Info) { acked = append(acked, i.Path) })
			for _, want := range tt.wantErr {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error has several lines: %q", err)
			}
			t.Log(err)
			if len(acked) != tt.acked {
				t.Errorf("%d acknowledged, want %d", len(acked), tt.acked)
			}
			if _, err := sink.QueryValidPaths(t.Context(), paths, false, false)(); err == nil || !strings.Contains(err.Error(), "given up") {
				t.Errorf("next request: %v", err)
			}
			check(t, sink.Close())

			again := to.open(t, "--write")
			valid, err := again.QueryValidPaths(t.Context(), paths, false, false)()
			check(t, err)
			if !slices.Equal(sorted(valid), sorted(acked)) {
				t.Errorf("valid after the error\n got %q\nwant %q", valid, acked)
			}
			check(t, again.Close())
		})
	}
	check(t, source.Close())
}

func TestLocal(t *testing.T) {
	setup(t)
	from := nixStore{installed(t), t.TempDir()}
	root := from.fill(t)
	t.Setenv("NIX_REMOTE", from.dir)
	local := Local()
	ctx := t.Context()

	absent := store.Path("/nix/store/00000000000000000000000000000000-absent")
	if _, err := local.QueryClosure(ctx, []store.Path{absent}); err == nil || !strings.Contains(err.Error(), "is not valid") {
		t.Errorf("closure of an invalid path: %v", err)
	}
	infos, err := local.QueryPathInfos(ctx, []store.Path{absent, root})
	check(t, err)
	if len(infos) != 1 || infos[0].Path != root || len(infos[0].References) != 2 {
		t.Errorf("infos: %+v", infos)
	}
	// Many at once have a server each; a failed one is not used again.
	errs := make(chan error)
	for n := range 8 {
		go func() {
			if n%2 == 0 {
				errs <- local.DumpStorePath(ctx, root, io.Discard)
				return
			}
			err := local.DumpStorePath(ctx, absent, io.Discard)
			if err == nil || !strings.Contains(err.Error(), "dump "+string(absent)) {
				t.Errorf("dump of an invalid path: %v", err)
			}
			errs <- nil
		}()
	}
	for range 8 {
		check(t, <-errs)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := local.DumpStorePath(canceled, root, io.Discard); err != nil && !strings.Contains(err.Error(), "canceled") {
		t.Errorf("canceled dump: %v", err)
	}
	check(t, local.DumpStorePath(ctx, root, io.Discard))
	check(t, local.Close())
}

// A server that died while nobody used it, as when the daemon behind it is
// restarted, is replaced.
func TestLocalServerGone(t *testing.T) {
	setup(t)
	from := nixStore{installed(t), t.TempDir()}
	root := from.fill(t)
	t.Setenv("NIX_REMOTE", from.dir)
	serve := Command("nix-store", "--serve")
	var kill []context.CancelFunc // of each server that was started
	local := &Store{run: func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		kill = append(kill, cancel)
		return serve(ctx, stdin, stdout, stderr)
	}}
	for want := range 3 {
		if _, err := local.QueryClosure(t.Context(), []store.Path{root}); err != nil || len(kill) != want+1 {
			t.Fatalf("%d servers, want %d, error %v", len(kill), want+1, err)
		}
		kill[want]()
		<-local.free[0].done
	}
	// Another server than the one that was free has the last word.
	absent := store.Path("/nix/store/00000000000000000000000000000000-absent")
	if _, err := local.QueryClosure(t.Context(), []store.Path{absent}); err == nil || !strings.Contains(err.Error(), "is not valid") || len(kill) != 4 {
		t.Errorf("%d servers, want 4, closure of an invalid path: %v", len(kill), err)
	}
	check(t, local.Close())
}
