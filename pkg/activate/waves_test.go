package activate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"

	"nx/pkg/activate"
	"nx/pkg/record"
	"nx/pkg/target"
)

// A fleet stands in for hosts of which only the order counts: each says that it was
// activated, or is broken, or away.
type fleet struct {
	mu    sync.Mutex
	log   []string // what was done to which host
	state map[string]string
}

type member struct {
	f    *fleet
	name string
}

func (f *fleet) dial(_ context.Context, to target.Target) (activate.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state[to.Host] == "away" {
		return nil, errors.New("no route to host")
	}
	return member{f, to.Host}, nil
}

func (m member) Close() error { return nil }

func (m member) Run(_ context.Context, script string, _ io.Reader, stdout, _ io.Writer) (int, error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	_, path, _ := strings.Cut(script, "'system=")
	path, _, _ = strings.Cut(path, "'")
	what := m.name
	if strings.HasSuffix(path, "-old") {
		what = "back " + what
	}
	m.f.log = append(m.f.log, what)
	const old = "/nix/store/00000000000000000000000000000000-old"
	fmt.Fprintf(stdout, "running %s\ndeployment x\nrunning %[1]s\n", old)
	if m.f.state[m.name] == "broken" {
		fmt.Fprintf(stdout, "tested 1\nrunning %s\nend\n", old)
	} else {
		fmt.Fprintf(stdout, "done\nrunning %s\ndefault %[1]s\nend\n", path)
	}
	return 0, nil
}

func share(t *testing.T, s string) activate.Share {
	t.Helper()
	got, err := activate.ParseShare(s)
	check(t, err)
	return got
}

func TestWaves(t *testing.T) {
	none, one := 0, 1
	for _, tt := range []struct {
		name  string
		waves *activate.Waves // nil is the zero value
		hosts string          // NAME or NAME:STATE, NAME@TAG, NAME>AFTER; NAME! has failed before
		log   string          // waves sorted within, apart by "|"
		want  string          // results
		err   string          // of the last host
	}{
		{name: "all at once", hosts: "a b c", log: "a b c", want: "a=activated b=activated c=activated"},
		{name: "each by itself", hosts: "a:broken b", log: "a b", want: "a=failed b=activated"},
		{name: "canary", waves: &activate.Waves{Canary: share(t, "1")}, hosts: "c b a", log: "a|b c", want: "c=activated b=activated a=activated"},
		{name: "canary dies", waves: &activate.Waves{Canary: share(t, "1")}, hosts: "a:broken b c", log: "a", want: "a=failed b=skipped c=skipped",
			err: "skipped: hosts that failed: 1, and --max-failures is 0"},
		{name: "batches", waves: &activate.Waves{Canary: share(t, "1"), Batch: share(t, "50%")}, hosts: "a b c d e", log: "a|b c d|e",
			want: "a=activated b=activated c=activated d=activated e=activated"},
		{name: "failures allowed", waves: &activate.Waves{Batch: share(t, "1"), MaxFailures: &one}, hosts: "a:broken b c:broken d", log: "a|b|c",
			want: "a=failed b=activated c=failed d=skipped"},
		{name: "the rest of a wave", waves: &activate.Waves{Batch: share(t, "3")}, hosts: "c b:broken a", log: "a|b", want: "c=skipped b=failed a=activated"},
		{name: "tags", waves: &activate.Waves{Batch: share(t, "1"), OrderByTags: []string{"x", "y"}}, hosts: "a b@y c@x", log: "c|b|a",
			want: "a=activated b=activated c=activated"},
		{name: "after", hosts: "a>c b c>d d", log: "b d|c|a", want: "a=activated b=activated c=activated d=activated"},
		{name: "after an absent one", hosts: "a>z", log: "a", want: "a=activated"},
		{name: "after a failed one", hosts: "a:broken b>a c>b", log: "a", want: "a=failed b=skipped c=skipped", err: "it comes after b, which failed"},
		{name: "after one that failed before", hosts: "a! b>a", want: "a=- b=skipped", err: "it comes after a, which failed"},
		{name: "in a circle", hosts: "a>b b>a c", log: "c", want: "a=skipped b=skipped c=activated"},
		{name: "barrier", waves: &activate.Waves{Barrier: true}, hosts: "a b", log: "a b", want: "a=activated b=activated"},
		{name: "barrier holds", waves: &activate.Waves{Barrier: true}, hosts: "a! b", want: "a=- b=skipped", err: "held by --barrier"},
		{name: "offline", hosts: "a:away b", log: "b", want: "a=failed b=activated"},
		{name: "skip offline", waves: &activate.Waves{SkipOffline: true}, hosts: "a:away b", log: "b", want: "a=skipped b=activated"},
		{name: "all go back", waves: &activate.Waves{Batch: share(t, "2"), RollbackAll: true, MaxFailures: &none}, hosts: "a b d:broken c",
			log: "a b|c|d|back a back b back c", want: "a=rolled-back b=rolled-back d=failed c=rolled-back", err: "it went back to /nix/store/00000000000000000000000000000000-old"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fleet{state: map[string]string{}}
			w := tt.waves
			if w == nil {
				w = &activate.Waves{}
			}
			w.Jobs, w.Activator = 1, &activate.Activator{Action: activate.Switch, Dial: f.dial}
			var in []*record.Record
			got := map[string]*record.Record{}
			for _, word := range strings.Fields(tt.hosts) {
				name := word[:1]
				r, err := record.NewHost(name)
				check(t, err)
				check(t, r.Set("target", map[string]string{"host": name}))
				check(t, r.Set("storePath", "/nix/store/00000000000000000000000000000000-new"))
				switch rest := word[1:]; {
				case rest == "!":
					r.Fail(record.Build, errors.New("no"))
				case strings.HasPrefix(rest, "@"):
					check(t, r.AddTags(rest[1:]))
				case strings.HasPrefix(rest, ">"):
					check(t, r.Set("deployment", json.RawMessage(`{"activation":{"after":["`+rest[1:]+`"]}}`)))
				case rest != "":
					f.state[name] = rest[1:]
				}
				if w.See(r); r.Failed() {
					got[name] = r
					continue
				}
				in = append(in, r)
			}
			var mu sync.Mutex
			var input iter.Seq2[*record.Record, error] = func(yield func(*record.Record, error) bool) {
				for _, r := range in {
					if !yield(r, nil) {
						return
					}
				}
			}
			check(t, w.Run(context.Background(), input, func(r *record.Record) {
				mu.Lock()
				defer mu.Unlock()
				if got[r.Name()] != nil {
					t.Errorf("%s was emitted twice", r.Name())
				}
				got[r.Name()] = r
			}))
			var log []string
			done := slices.Clone(f.log)
			for wave := range strings.SplitSeq(tt.log, "|") {
				n := len(strings.Fields(strings.ReplaceAll(wave, "back ", "")))
				part := done[:min(n, len(done))]
				done = done[len(part):]
				slices.Sort(part)
				log = append(log, strings.Join(part, " "))
			}
			if s := strings.Join(append(log, done...), "|"); s != tt.log {
				t.Errorf("done: %q, want %q", s, tt.log)
			}
			var results []string
			last := ""
			for _, word := range strings.Fields(tt.hosts) {
				r := got[word[:1]]
				result := "-"
				if v := r.Get("activation").Get("result"); v.Exists() {
					result = v.Str
				}
				results, last = append(results, word[:1]+"="+result), r.Message()
			}
			if s := strings.Join(results, " "); s != tt.want || !strings.Contains(last, tt.err) {
				t.Errorf("got %s: %s\nwant %s: %s", s, last, tt.want, tt.err)
			}
		})
	}
}

func TestParseShare(t *testing.T) {
	for _, s := range []string{"0", "-1", "x", "101%", "%", "1.5"} {
		if got, err := activate.ParseShare(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}
