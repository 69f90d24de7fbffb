package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"nx/pkg/record"
)

const (
	begin = `{"nx":1,"kind":"begin","tool":"nx-test"}` + "\n"
	web1  = `{"nx":1,"kind":"host","name":"web1","tags":["web"]}` + "\n"
	web2  = `{"nx":1,"kind":"host","name":"web2","tags":["canary","web"]}` + "\n"
	db1   = `{"nx":1,"kind":"host","name":"db1","error":{"stage":"eval","message":"no"}}` + "\n"
	key   = `{"nx":1,"kind":"resource","type":"sshKeyPairs","name":"web1"}` + "\n"
	alert = `{"nx":1,"kind":"alert", "text":1}` + "\n"
)

func end(hosts, failed int) string {
	return fmt.Sprintf(`{"nx":1,"kind":"end","hosts":%d,"failed":%d}`+"\n", hosts, failed)
}

func noop(context.Context, *record.Record) error { return nil }

// over makes a stream of nx-test whose stdin has text, as a pipe or as a file.
func over(text string, regular bool) (*Stream, *bytes.Buffer) {
	var out bytes.Buffer
	return &Stream{
		Tool:   "nx-test",
		Stage:  record.Build,
		Inputs: []Input{{Name: Stdin, Reader: strings.NewReader(text), Regular: regular}},
		Output: Output{Writer: &out},
	}, &out
}

func sorted(s string) string {
	lines := slices.Collect(strings.Lines(s))
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func TestEach(t *testing.T) {
	tests := []struct {
		name, in, on string
		want         string // without begin and end, sorted
		hosts        int
		failed       int
		wantErr      string
		cut          bool // no end is written
	}{
		{name: "hosts", in: web1 + web2, want: web1 + web2, hosts: 2},
		{name: "framed", in: begin + web1 + end(1, 0), want: web1, hosts: 1},
		{name: "frame without hosts", in: begin + end(0, 0)},
		{name: "no newline at the end", in: strings.TrimSuffix(web1, "\n"), want: web1, hosts: 1},
		{name: "blank lines", in: "\n" + web1 + " \n\n", want: web1, hosts: 1},
		{name: "two streams in a row", in: begin + web1 + end(1, 0) + begin + web2 + end(1, 0), want: web1 + web2, hosts: 2},
		{name: "errors, resources and unknown kinds pass", in: db1 + key + alert + web1, want: db1 + key + alert + web1, hosts: 2, failed: 1,
			wantErr: "1 of 2 hosts failed"},

		{name: "selected by name", in: web1 + web2 + key, on: "web1", want: key + web1, hosts: 1},
		{name: "selected by glob", in: web1 + web2 + db1, on: "web*", want: web1 + web2, hosts: 2},
		{name: "selected by tag", in: web1 + web2, on: "@canary", want: web2, hosts: 1},
		{name: "all but", in: web1 + web2, on: "!@canary", want: web1, hosts: 1},
		{name: "one of two, but not", in: web1 + web2 + db1, on: "web*,db1,!db*", want: web1 + web2, hosts: 2},
		{name: "selector that matches nothing", in: web1, on: "web1,wbe2", wantErr: `selector "wbe2" matches no host`, cut: true},
		{name: "exclusion that matches nothing", in: web1, on: "!wbe2", wantErr: `selector "!wbe2" matches no host`, cut: true},

		{name: "empty", in: "", wantErr: "read stdin: it is empty", cut: true},
		{name: "nothing but a newline", in: "\n", wantErr: "read stdin: it is empty", cut: true},
		{name: "cut", in: begin + web1 + web2, wantErr: "stream ends after line 3 without its end: the program before nx-test died", cut: true},
		{name: "cut in the middle of a line", in: begin + web1 + web2[:20], wantErr: "stream ends after line 2 without its end", cut: true},
		{name: "cut, and another stream behind", in: begin + web1 + begin + web2 + end(1, 0), wantErr: "stream ends after line 2 without", cut: true},
		{name: "cut off at the front", in: web1 + end(2, 0), wantErr: "read stdin: line 2: this ends a stream whose beginning is not there", cut: true},
		{name: "malformed", in: web1 + "{\n" + web2, wantErr: "read stdin: line 2: the line is no JSON", cut: true},
		{name: "wrong version", in: web1 + `{"nx":3,"name":"a"}`, wantErr: `read stdin: line 2: "nx" is 3`, cut: true},
		{name: "twice the same host", in: web1 + "\n" + web1, wantErr: "read stdin: line 3: host web1 is there already, at stdin: line 1", cut: true},
		{name: "line too long", in: web1 + `{"nx":1,"name":"` + strings.Repeat("x", record.MaxLine), wantErr: "line 2: the line is longer than 1048576 bytes", cut: true},
	}
	for _, tt := range tests {
		for _, regular := range []bool{false, true} {
			for _, jobs := range []int{1, 8} {
				t.Run(fmt.Sprintf("%s/regular=%v/jobs=%d", tt.name, regular, jobs), func(t *testing.T) {
					s, out := over(tt.in, regular)
					if tt.on != "" {
						var err error
						if s.On, err = ParseSelection([]string{tt.on}); err != nil {
							t.Fatal(err)
						}
					}
					err := Each(t.Context(), s, jobs, noop)
					if got := fmt.Sprint(err); tt.wantErr == "" && err != nil || !strings.Contains(got, tt.wantErr) {
						t.Fatalf("error %v, want %q", err, tt.wantErr)
					}
					got := out.String()
					if tt.cut {
						if strings.Contains(got, `"end"`) {
							t.Errorf("an end is there: %s", got)
						}
						return
					}
					want := begin + sorted(tt.want) + end(tt.hosts, tt.failed)
					inner := strings.TrimSuffix(strings.TrimPrefix(got, begin), end(tt.hosts, tt.failed))
					if got := begin + sorted(inner) + end(tt.hosts, tt.failed); got != want {
						t.Errorf("got\n%swant\n%s", got, want)
					}
					var hosts *HostsError
					if errors.As(err, &hosts) && hosts.Failed.Len() != tt.failed {
						t.Errorf("%d failed, want %d", hosts.Failed.Len(), tt.failed)
					}
				})
			}
		}
	}
}

func TestRegularFilesAreValidatedBeforeTheFirstAction(t *testing.T) {
	s, out := over(web1+"{\n", true)
	err := Each(t.Context(), s, 1, func(context.Context, *record.Record) error {
		t.Error("a host was acted on")
		return nil
	})
	if err == nil || out.Len() > 0 {
		t.Errorf("error %v, output %q", err, out)
	}
}

// With a selector, nothing starts before it is known to match.
func TestNothingStartsWhenASelectorMatchesNothing(t *testing.T) {
	s, _ := over(web1+web2, false)
	s.On, _ = ParseSelection([]string{"web1", "db"})
	err := Each(t.Context(), s, 1, func(context.Context, *record.Record) error {
		t.Error("a host was acted on")
		return nil
	})
	if err == nil {
		t.Error("no error")
	}
}

// What is in work when the stream is cut is finished and written; what waits
// is not started.
func TestCutStartsNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, feed := io.Pipe()
		s, out := over("", false)
		s.Inputs[0].Reader = in
		go func() {
			if _, err := io.WriteString(feed, begin+web1+web2); err != nil {
				t.Error(err)
			}
		}()
		var acted atomic.Int32
		err := Each(t.Context(), s, 1, func(context.Context, *record.Record) error {
			acted.Add(1)
			synctest.Wait() // both hosts are read
			feed.Close()
			synctest.Wait() // the cut is seen
			return nil
		})
		var c *CutError
		if !errors.As(err, &c) {
			t.Fatalf("error %v, want a cut", err)
		}
		if got, want := out.String(), begin+web1; got != want || acted.Load() != 1 {
			t.Errorf("%d hosts acted on, got %q, want %q", acted.Load(), got, want)
		}
	})
}

// No more than jobs hosts are in work at a time, and that many are.
func TestEachBounds(t *testing.T) {
	const jobs = 3
	var in strings.Builder
	for i := range 10 {
		fmt.Fprintf(&in, `{"nx":1,"name":"h%d"}`+"\n", i)
	}
	s, _ := over(in.String(), false)
	var now, most atomic.Int32
	full := make(chan struct{})
	err := Each(t.Context(), s, jobs, func(context.Context, *record.Record) error {
		defer now.Add(-1)
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if n == jobs {
			select {
			case <-full:
			default:
				close(full)
			}
		}
		<-full // nobody leaves before the house was full once
		return nil
	})
	if err != nil || most.Load() != jobs {
		t.Errorf("%v, at most %d at a time, want %d", err, most.Load(), jobs)
	}
}

// Hosts that are there together go together; those that came meanwhile are the next
// batch, and nothing is started once the input was cut.
func TestBatches(t *testing.T) {
	for _, tt := range []struct {
		name, end, wantErr string
	}{
		{name: "whole", end: end(3, 0)},
		{name: "cut", wantErr: "without its end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in, w := io.Pipe()
				s, out := over("", false)
				s.Inputs[0].Reader = in
				var got [][]string
				go io.WriteString(w, begin+web1+db1+web2)
				err := Batches(t.Context(), s, func(_ context.Context, hosts []*record.Record, emit func(*record.Record)) {
					var names []string
					for _, r := range hosts {
						names = append(names, r.Name())
					}
					if got = append(got, names); len(got) == 1 {
						io.WriteString(w, key+`{"nx":1,"name":"last"}`+"\n")
						if tt.end != "" {
							io.WriteString(w, tt.end)
						}
						w.Close()
						synctest.Wait()
					}
					for _, r := range hosts {
						emit(r)
					}
				})
				want := [][]string{{"web1", "web2"}, {"last"}}
				wantOut := begin + web1 + db1 + web2 + key + `{"nx":1,"name":"last"}` + "\n" + end(4, 1)
				if tt.wantErr != "" {
					want, wantOut = want[:1], begin+web1+db1+web2+key
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("batches %v, want %v", got, want)
				}
				if failed := (*HostsError)(nil); tt.wantErr == "" && !errors.As(err, &failed) || tt.wantErr != "" && !strings.Contains(fmt.Sprint(err), tt.wantErr) {
					t.Errorf("error %v", err)
				}
				if sorted(out.String()) != sorted(wantOut) {
					t.Errorf("stream\n got %s\nwant %s", out, wantOut)
				}
			})
		})
	}
}

func TestFailureIsTheHosts(t *testing.T) {
	s, out := over(web1+web2, false)
	err := Each(t.Context(), s, 2, func(_ context.Context, r *record.Record) error {
		if r.Name() == "web1" {
			return errors.New("build it: no")
		}
		return r.Set("storePath", "p")
	})
	var hosts *HostsError
	if !errors.As(err, &hosts) || hosts.Hosts != 2 || hosts.Failed.Len() != 1 {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{
		`"name":"web1","tags":["web"],"error":{"stage":"build","message":"build it: no"}}`,
		`"name":"web2","tags":["canary","web"],"storePath":"p"}`,
		end(2, 1),
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is missing in\n%s", want, out)
		}
	}
}

func TestFreshResultsOnly(t *testing.T) {
	s, out := over(`{"nx":1,"name":"a","storePath":"old","activation":{}}`+"\n", false)
	if err := Each(t.Context(), s, 1, noop); err != nil {
		t.Fatal(err)
	}
	if want := `{"nx":1,"kind":"host","name":"a"}`; !strings.Contains(out.String(), want) {
		t.Errorf("got %s, want %s", out, want)
	}
}

func TestStageThatLosesAHost(t *testing.T) {
	s, out := over(web1+web2, false)
	err := Run(t.Context(), s, func(_ context.Context, in iter.Seq2[*record.Record, error], emit func(*record.Record)) error {
		first := true
		for r := range in {
			if !first {
				emit(r)
			}
			first = false
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "host web1 got lost") || strings.Contains(out.String(), `"end"`) {
		t.Errorf("error %v, output %s", err, out)
	}
}

func TestToolThatFails(t *testing.T) {
	s, out := over(web1, false)
	boom := errors.New("no nix here")
	err := Run(t.Context(), s, func(context.Context, iter.Seq2[*record.Record, error], func(*record.Record)) error { return boom })
	if !errors.Is(err, boom) || strings.Contains(out.String(), `"end"`) {
		t.Errorf("error %v, output %s", err, out)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestStdoutGone(t *testing.T) {
	s, _ := over(web1+web2, false)
	s.Output.Writer = brokenPipe{}
	err := Each(t.Context(), s, 1, func(ctx context.Context, r *record.Record) error {
		<-ctx.Done() // a stage in work is told
		return nil
	})
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error %v", err)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	in, _ := io.Pipe() // never ends
	s, out := over("", false)
	s.Inputs = []Input{{Name: "given", Reader: strings.NewReader(web1 + web2)}, {Name: Stdin, Reader: in}}
	why := errors.New("interrupted by SIGTERM")
	err := Each(ctx, s, 1, func(ctx context.Context, r *record.Record) error {
		cancel(why)
		return ctx.Err()
	})
	if !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	if got := out.String(); !strings.Contains(got, "interrupted by SIGTERM: context canceled") || strings.Contains(got, `"end"`) || strings.Contains(got, "web2") {
		t.Errorf("output %s", got)
	}
}

func TestFactsSeesAll(t *testing.T) {
	s, _ := over(web1+web2+db1+key, false)
	s.On, _ = ParseSelection([]string{"web1"})
	var seen []string
	s.Facts = func(r *record.Record) { seen = append(seen, r.ID().String()) }
	if err := Each(t.Context(), s, 1, noop); err != nil {
		t.Fatal(err)
	}
	if want := []string{"host web1", "host web2", "host db1", "resource sshKeyPairs.web1"}; !slices.Equal(seen, want) {
		t.Errorf("got %q, want %q", seen, want)
	}
}

// A stage that holds a host until all of the input was read gets to know that, or
// why it never will be.
func TestEnd(t *testing.T) {
	for _, in := range []string{web1 + web2 + key, begin + web1} {
		s, _ := over(in, false)
		facts := 0
		ended := make(chan error, 2)
		s.Facts = func(*record.Record) { facts++ }
		s.End = func(err error) { ended <- err }
		err := Each(t.Context(), s, 1, func(context.Context, *record.Record) error {
			ended <- <-ended
			return nil
		})
		if end := <-ended; err != end || facts != strings.Count(in, `"name"`) || len(ended) > 0 {
			t.Errorf("%sended with %v after %d facts, the stream with %v", in, end, facts, err)
		}
	}
}

// Hosts that wait for the end of the stream keep no other from being in work, and go
// on one at a time.
func TestIdle(t *testing.T) {
	const hosts = 20
	var in strings.Builder
	for i := range hosts {
		fmt.Fprintf(&in, `{"nx":1,"kind":"host","name":"h%d"}`+"\n", i)
	}
	s, _ := over(in.String(), false)
	var began, working atomic.Int32
	all := make(chan struct{})
	work := func() {
		if n := working.Add(1); n > 1 {
			t.Errorf("%d hosts in work", n)
		}
		runtime.Gosched()
		working.Add(-1)
	}
	if err := Each(t.Context(), s, 1, func(ctx context.Context, r *record.Record) error {
		work()
		if began.Add(1) == hosts {
			close(all)
		}
		Idle(ctx, func() { <-all })
		work()
		return nil
	}); err != nil {
		t.Error(err)
	}
	Idle(t.Context(), func() { began.Store(0) }) // of no stream
	if began.Load() != 0 {
		t.Error("nobody waited")
	}
}

func TestOutputFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "out.jsonl")
	to := func(file, in string, change ...func(*Stream)) error {
		s, out := over(in, true)
		s.Output.File = file
		for _, c := range change {
			c(s)
		}
		err := Each(t.Context(), s, 8, noop)
		if out.Len() > 0 {
			t.Errorf("stdout has %q", out)
		}
		return err
	}
	content := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	want := begin + alert + web1 + web2 + key + end(2, 0)

	if err := to(file, web2+key+web1+alert); err != nil || content(file) != want {
		t.Fatalf("%v, got\n%swant\n%s", err, content(file), want)
	}
	// a host that failed, or a cut stream, leaves the old file
	if err := to(file, db1); err == nil || content(file) != want {
		t.Errorf("%v, %s", err, content(file))
	}
	if err := to(file, begin+web1); err == nil || content(file) != want {
		t.Errorf("%v, %s", err, content(file))
	}
	// the mode stays, symlinks are followed, also one that points to nothing yet
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	link, fresh := filepath.Join(dir, "link"), filepath.Join(dir, "fresh")
	os.Symlink("out.jsonl", link)
	os.Symlink("new.jsonl", fresh)
	if err := to(link, web1); err != nil || content(file) != begin+web1+end(1, 0) {
		t.Errorf("%v, %s", err, content(file))
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().IsRegular() {
		t.Errorf("the symlink is %v, %v", info.Mode(), err)
	}
	if err := to(fresh, web1); err != nil || content(filepath.Join(dir, "new.jsonl")) != begin+web1+end(1, 0) {
		t.Errorf("%v", err)
	}
	// --if-changed keeps the very file
	ifChanged := func(s *Stream) { s.Output.IfChanged = true }
	before, _ := os.Stat(file)
	if err := to(file, web1, ifChanged); err != nil {
		t.Error(err)
	}
	if after, _ := os.Stat(file); !os.SameFile(before, after) {
		t.Error("the file was replaced though its bytes are the same")
	}
	if err := to(file, web2, ifChanged); err != nil || content(file) != begin+web2+end(1, 0) {
		t.Errorf("%v, %s", err, content(file))
	}
	// the output may be the input
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := to(file, "", func(s *Stream) { s.Inputs[0].Reader = in }); err != nil || content(file) != begin+web2+end(1, 0) {
		t.Errorf("%v, %s", err, content(file))
	}
	// what is no regular file is written to directly, as a stream
	if err := to("/dev/null", db1); err == nil {
		t.Error("no error")
	}
	// nothing is done when the file could not be written
	for _, bad := range []string{dir, filepath.Join(dir, "none", "out.jsonl")} {
		if err := to(bad, web1, func(s *Stream) {}); err == nil || !strings.Contains(err.Error(), "write "+bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(left) != 4 {
		t.Errorf("the folder has %q", left)
	}
}

func TestParseSelectionRefuses(t *testing.T) {
	for _, s := range []string{"", "a,,b", "!", "@", "!@", "a["} {
		if _, err := ParseSelection([]string{s}); err == nil {
			t.Errorf("selector %q was taken", s)
		}
	}
}

// A tool that does nothing, twice in a row, writes what it writes once.
func FuzzTwoToolsEqualOne(f *testing.F) {
	for _, s := range []string{web1 + web2, begin + db1 + key + end(1, 1), alert + "\n" + web1, begin + web1, "{", web1 + web1} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		once, err := through(in)
		if err != nil && !errors.As(err, new(*HostsError)) {
			return
		}
		twice, err := through(once)
		if err != nil && !errors.As(err, new(*HostsError)) {
			t.Fatalf("%v: the second tool refuses %q", err, once)
		}
		if sorted(string(once)) != sorted(string(twice)) {
			t.Fatalf("%q\nbecame %q", once, twice)
		}
	})
}

func through(in []byte) ([]byte, error) {
	s, out := over(string(in), false)
	err := Each(context.Background(), s, 4, noop)
	return out.Bytes(), err
}

// 10,000 records through a stage that does nothing. Reported beside the time:
// the heap in use at its peak, sampled at every 1,000th host.
func BenchmarkNoop(b *testing.B) {
	var in bytes.Buffer
	in.WriteString(begin)
	const n = 10_000
	for i := range n {
		fmt.Fprintf(&in, `{"nx":1,"kind":"host","name":"web%d","tags":["web"],"target":{"host":"10.0.0.1"},"system":"x86_64-linux",`+
			`"drvPath":"/nix/store/3zl0pzyi9yqrimhdpcp5cp4ng2wxk6q9-nixos-system-web.drv","deployment":{"x":%q}}`+"\n", i, strings.Repeat("x", 700))
	}
	in.WriteString(end(n, 0))
	var peak atomic.Uint64
	b.SetBytes(int64(in.Len()))
	b.ReportAllocs()
	for b.Loop() {
		var done atomic.Int64
		s := &Stream{Tool: "nx-test", Stage: record.Build, Output: Output{Writer: io.Discard},
			Inputs: []Input{{Name: Stdin, Reader: bytes.NewReader(in.Bytes())}}}
		err := Each(context.Background(), s, 8, func(context.Context, *record.Record) error {
			if done.Add(1)%1000 == 0 {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				for old := peak.Load(); m.HeapInuse > old && !peak.CompareAndSwap(old, m.HeapInuse); old = peak.Load() {
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(peak.Load())/(1<<20), "peak-heap-MiB")
}
