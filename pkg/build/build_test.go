package build_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"nx/pkg/build"
	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/target"
)

// A nix is a Realiser that builds what the test lets it: out of drv "…-x.drv"
// comes "…-x", except for what is in broken.
type nix struct {
	broken  map[string]error
	whole   error                   // of the scheduler
	entered func(drvs []store.Path) // called by Realise before anything is done

	mu      sync.Mutex
	batches [][]string // options, and names of derivations
	options []string   // of the last that was asked for
	missing map[string]store.Missing
	roots   map[string]store.Path
}

// with is a Builder's Nix.
func (n *nix) with(options []string) build.Realiser {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.options = options
	return n
}

func (n *nix) Realise(ctx context.Context, drvs []store.Path, done func(drv, out store.Path, err error)) error {
	var names []string
	for _, d := range drvs {
		names = append(names, d.Name())
	}
	n.mu.Lock()
	n.batches = append(n.batches, append(n.options, names...))
	n.mu.Unlock()
	if n.entered != nil {
		n.entered(drvs)
	}
	if n.whole != nil {
		return n.whole
	}
	for _, d := range drvs {
		if err := n.broken[d.Name()]; err != nil {
			done(d, "", err)
			continue
		}
		done(d, store.Path(strings.TrimSuffix(string(d), ".drv")), nil)
	}
	return ctx.Err()
}

func (n *nix) Missing(_ context.Context, drvs []store.Path) (all store.Missing, err error) {
	for _, d := range drvs {
		m := n.missing[d.Name()]
		all.Build, all.Fetch = append(all.Build, m.Build...), append(all.Fetch, m.Fetch...)
		all.DownloadSize, all.UnpackedSize = all.DownloadSize+m.DownloadSize, all.UnpackedSize+m.UnpackedSize
	}
	return all, nil
}

func (n *nix) Closure(context.Context, store.Path) (int, int64, error) { return 3, 4711, nil }

func (n *nix) AddRoot(_ context.Context, link string, p store.Path) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.roots == nil {
		n.roots = map[string]store.Path{}
	}
	n.roots[link] = p
	return nil
}

const hash = "/nix/store/00000000000000000000000000000000-"

func host(t *testing.T, name, drv string) *record.Record {
	t.Helper()
	line := fmt.Sprintf(`{"nx":1,"kind":"host","name":%q}`, name)
	if drv != "" {
		line = fmt.Sprintf(`{"nx":1,"kind":"host","name":%q,"drvPath":%q}`, name, drv)
	}
	r, err := record.Parse([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func all(hosts ...*record.Record) iter.Seq2[*record.Record, error] {
	return func(yield func(*record.Record, error) bool) {
		for _, r := range hosts {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// run returns the records that came out, by name.
func run(t *testing.T, ctx context.Context, n *nix, in iter.Seq2[*record.Record, error]) (map[string]string, error) {
	t.Helper()
	var mu sync.Mutex
	out := map[string]string{}
	b := build.Builder{Nix: n.with, RootDir: "roots", Jobs: 2}
	err := b.Run(ctx, in, func(r *record.Record) {
		mu.Lock()
		defer mu.Unlock()
		if _, twice := out[r.Name()]; twice {
			t.Errorf("%s came out twice", r.Name())
		}
		out[r.Name()] = string(r.Bytes())
	})
	return out, err
}

func TestRun(t *testing.T) {
	n := &nix{broken: map[string]error{"b.drv": errors.New("build b: exit code 3")}}
	got, err := run(t, t.Context(), n, all(host(t, "a", hash+"a.drv"), host(t, "b", hash+"b.drv"),
		host(t, "twin", hash+"a.drv"), host(t, "new", ""), host(t, "odd", "/nix/store/what")))
	want := map[string]string{
		"a":    `{"nx":1,"kind":"host","name":"a","drvPath":"` + hash + `a.drv","storePath":"` + hash + `a","closure":{"paths":3,"narSize":4711}}`,
		"twin": `{"nx":1,"kind":"host","name":"twin","drvPath":"` + hash + `a.drv","storePath":"` + hash + `a","closure":{"paths":3,"narSize":4711}}`,
		"b":    `{"nx":1,"kind":"host","name":"b","drvPath":"` + hash + `b.drv","error":{"stage":"build","message":"build b: exit code 3"}}`,
		"new":  `{"nx":1,"kind":"host","name":"new","error":{"stage":"build","message":"the record has no \"drvPath\""}}`,
		"odd":  `{"nx":1,"kind":"host","name":"odd","drvPath":"/nix/store/what","error":{"stage":"build","message":"\"drvPath\": store path \"/nix/store/what\" has no hash and name"}}`,
	}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("error %v\n got %v\nwant %v", err, got, want)
	}
	if want := [][]string{{"a.drv", "b.drv"}}; fmt.Sprint(n.batches) != fmt.Sprint(want) {
		t.Errorf("batches %v, want %v: what is there together is built together", n.batches, want)
	}
	if want := map[string]store.Path{filepath.Join("roots", "a"): hash + "a", filepath.Join("roots", "twin"): hash + "a"}; !maps.Equal(n.roots, want) {
		t.Errorf("roots %v, want %v", n.roots, want)
	}
}

// The first host is built before the input ends, and those that come while it
// is are the next batch.
func TestRunBatches(t *testing.T) {
	first := make(chan struct{})
	building := sync.OnceFunc(func() { close(first) })
	arrived := make(chan struct{})
	n := &nix{entered: func([]store.Path) { building(); <-arrived }}
	got, err := run(t, t.Context(), n, func(yield func(*record.Record, error) bool) {
		yield(host(t, "a", hash+"a.drv"), nil)
		<-first
		yield(host(t, "b", hash+"b.drv"), nil)
		yield(host(t, "c", hash+"c.drv"), nil)
		close(arrived)
	})
	if err != nil || len(got) != 3 {
		t.Errorf("%d hosts came out, error %v, want 3", len(got), err)
	}
	if want := [][]string{{"a.drv"}, {"b.drv", "c.drv"}}; fmt.Sprint(n.batches) != fmt.Sprint(want) {
		t.Errorf("batches %v, want %v", n.batches, want)
	}
}

func TestRunFailures(t *testing.T) {
	t.Run("the scheduler", func(t *testing.T) {
		n := &nix{whole: errors.New("run nix-store: no such file")}
		got, err := run(t, t.Context(), n, all(host(t, "a", hash+"a.drv")))
		if want := `"error":{"stage":"build","message":"build ` + hash + `a.drv: run nix-store: no such file"}`; err != nil || !strings.Contains(got["a"], want) {
			t.Errorf("got %v, error %v, want %s", got, err, want)
		}
	})
	t.Run("the input is cut", func(t *testing.T) {
		started := make(chan struct{})
		cut := make(chan struct{})
		n := &nix{entered: func([]store.Path) { close(started); <-cut }}
		got, err := run(t, t.Context(), n, func(yield func(*record.Record, error) bool) {
			yield(host(t, "a", hash+"a.drv"), nil)
			<-started
			yield(host(t, "b", hash+"b.drv"), nil)
			yield(nil, errors.New("cut"))
			close(cut)
		})
		if names := slices.Collect(maps.Keys(got)); err != nil || !slices.Equal(names, []string{"a"}) {
			t.Errorf("%q came out, error %v, want a alone, which was in work", names, err)
		}
	})
	t.Run("told to stop", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		n := &nix{entered: func([]store.Path) { cancel() }, whole: context.Canceled}
		got, err := run(t, ctx, n, all(host(t, "a", hash+"a.drv")))
		if !errors.Is(err, context.Canceled) || !strings.Contains(got["a"], "context canceled") {
			t.Errorf("got %v, error %v", got, err)
		}
	})
}

// Hosts whose networks say the same of Nix are built together, others by themselves.
func TestRunOptions(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"machines", "others"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("ssh://arm aarch64-linux\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	with := func(name, deployment string) *record.Record {
		r := host(t, name, hash+name+".drv")
		if err := r.Set("deployment", json.RawMessage(deployment)); err != nil {
			t.Fatal(err)
		}
		return r
	}
	n := &nix{}
	var mu sync.Mutex
	failed := map[string]string{}
	b := build.Builder{Nix: n.with, Root: dir, RootDir: "roots"}
	if err := b.Run(t.Context(), all(
		with("a", `{"machinesFile":"machines"}`),
		with("b", `{}`),
		with("c", `{"machinesFile":"`+dir+`/machines","nixConfig":{}}`),
		with("d", `{"machinesFile":"others","nixConfig":{"cores":"2"}}`),
		with("e", `{"machinesFile":null,"nixConfig":{"cores":"2","builders-use-substitutes":"true"}}`),
		with("f", `{"machinesFile":"gone"}`),
		with("g", `{"machinesFile":{}}`),
		with("h", `{"nixConfig":{"cores":2}}`),
	), func(r *record.Record) {
		mu.Lock()
		defer mu.Unlock()
		if r.Failed() {
			failed[r.Name()] = r.Message()
		}
	}); err != nil {
		t.Fatal(err)
	}
	if want := [][]string{
		{"--option", "builders", "@" + dir + "/machines", "a.drv", "c.drv"},
		{"b.drv"},
		{"--option", "builders", "@" + dir + "/others", "--option", "cores", "2", "d.drv"},
		{"--option", "builders-use-substitutes", "true", "--option", "cores", "2", "e.drv"},
	}; fmt.Sprint(n.batches) != fmt.Sprint(want) {
		t.Errorf("batches %v, want %v", n.batches, want)
	}
	if want := map[string]string{
		"f": "read machines to build on: stat " + dir + "/gone: no such file or directory",
		"g": `"deployment.machinesFile" is {}, not a file name`,
		"h": `"deployment.nixConfig": "cores" is 2, not a string`,
	}; !maps.Equal(failed, want) {
		t.Errorf("failed %v, want %v", failed, want)
	}
}

// A network says which hosts build their own systems, unless the user does for all.
func TestRunWhere(t *testing.T) {
	yes, no := true, false
	for _, tt := range []struct {
		name     string
		onTarget *bool
		want     map[string]string
	}{
		{"as the network says", nil, map[string]string{"a": "there", "b": "here", "c": "here"}},
		{"on the targets", &yes, map[string]string{"a": "there", "b": "there", "c": "there"}},
		{"here", &no, map[string]string{"a": "here", "b": "here", "c": "here"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := &nix{}
			b := build.Builder{Nix: n.with, RootDir: "roots", OnTarget: tt.onTarget, Targets: build.Targets{
				Dial: func(_ context.Context, to target.Target) (build.Conn, error) {
					return nil, errors.New("no way to " + to.Host)
				},
			}}
			var in []*record.Record
			for name, deployment := range map[string]string{"a": `{"buildOnTarget":true}`, "b": `{"buildOnTarget":false}`, "c": `{}`} {
				r := host(t, name, hash+name+".drv")
				if err := errors.Join(r.Set("deployment", json.RawMessage(deployment)), r.Set("target", map[string]string{"host": name})); err != nil {
					t.Fatal(err)
				}
				in = append(in, r)
			}
			var mu sync.Mutex
			got := map[string]string{}
			if err := b.Run(t.Context(), all(in...), func(r *record.Record) {
				mu.Lock()
				defer mu.Unlock()
				got[r.Name()] = "here"
				if r.Message() == "no way to "+r.Name() {
					got[r.Name()] = "there"
				}
			}); err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got, tt.want) {
				t.Errorf("built %v, want %v", got, tt.want)
			}
		})
	}
}

func TestPlan(t *testing.T) {
	n := &nix{missing: map[string]store.Missing{
		"a.drv": {Build: []store.Path{hash + "a.drv", hash + "b.drv"}, Fetch: []store.Path{hash + "c"}, DownloadSize: 5, UnpackedSize: 7},
	}}
	b := build.Builder{Nix: n.with, Log: slog.New(slog.DiscardHandler)}
	var planned []*record.Record
	for name, want := range map[string]string{
		"a": `{"builds":2,"fetches":1,"downloadSize":5,"unpackedSize":7}`,
		"b": `{"builds":0,"fetches":0,"downloadSize":0,"unpackedSize":0}`,
	} {
		r := host(t, name, hash+name+".drv")
		if err := b.Plan(t.Context(), r); err != nil || r.Get("plan").Raw != want {
			t.Errorf("%s: plan %s, error %v, want %s", name, r.Get("plan").Raw, err, want)
		}
		planned = append(planned, r)
	}
	if err := b.Plan(t.Context(), host(t, "c", "")); err == nil {
		t.Error("a host without a derivation has a plan")
	}
	if m, err := b.Total(t.Context(), append(planned, host(t, "d", hash+"a.drv"))); err != nil || len(m.Build) != 2 || m.DownloadSize != 5 {
		t.Errorf("total %+v, error %v, want that of a", m, err)
	}
	if n.batches != nil || n.roots != nil {
		t.Errorf("it did %v %v", n.batches, n.roots)
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	for link, to := range map[string]string{"web": hash + "web", "left": hash + "left", "result": "/etc", "broken": "relative"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	b := build.Builder{RootDir: dir, Log: slog.New(slog.DiscardHandler)}
	if err := b.Prune(map[string]bool{"web": true}); err != nil {
		t.Fatal(err)
	}
	var names []string
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"broken", "file", "result", "web"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("left are %q, %v, want %q", names, err, want)
	}
	b.RootDir = filepath.Join(dir, "none")
	if err := b.Prune(nil); err != nil {
		t.Errorf("no folder yet: %v", err)
	}
}
