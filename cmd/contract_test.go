// Package cmd_test holds what all five programs have in common, as one table
// over the built binaries: flags, classes of input, output files, signals and
// exit statuses. What each tool does to a host is tested beside its stage.
package cmd_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// bin is where TestMain builds the programs, statically as they are installed.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "nx-bin-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(bin)
		build := exec.Command("go", "build", "-o", bin, "./...")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			panic(err)
		}
		if err := linkScripts(); err != nil {
			panic(err)
		}
		return m.Run()
	}())
}

// linkScripts puts the scripts that people run beside the tools, as make install does.
func linkScripts() error {
	for _, script := range []string{"nx-deploy", "nx-info", "nx-ssh", "nx-scp", "nx-foreach"} {
		file, err := filepath.Abs(filepath.Join("../scripts", script))
		if err != nil {
			return err
		}
		if err := os.Symlink(file, filepath.Join(bin, script)); err != nil {
			return err
		}
	}
	return nil
}

// A tool is one of the five and what must stand on its command line.
type tool struct {
	name  string
	args  []string
	reads bool // a stream of records
}

var tools = []tool{
	{"nx-provision", []string{"apply", "-f", "testdata/empty.nix"}, false},
	{"nx-eval", []string{"-f", "testdata/empty.nix"}, true},
	{"nx-build", nil, true},
	{"nx-copy", nil, true},
	{"nx-activate", []string{"switch"}, true},
}

func each(t *testing.T, f func(t *testing.T, tool tool)) {
	for _, tool := range tools {
		t.Run(tool.name, func(t *testing.T) {
			t.Parallel()
			f(t, tool)
		})
	}
}

func eachReader(t *testing.T, f func(t *testing.T, tool tool)) {
	each(t, func(t *testing.T, tool tool) {
		if tool.reads {
			f(t, tool)
		}
	})
}

// command is the tool with its own and more arguments.
func (c tool) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(bin, c.name), slices.Concat(c.args, args)...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "NX_") })
	return cmd
}

// A result is how a run ended.
type result struct {
	status         int // 128+n when killed by signal n, as a shell says it
	stdout, stderr string
}

func run(t *testing.T, cmd *exec.Cmd, stdin io.Reader) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", cmd, err)
	}
	return result{status(cmd.ProcessState), stdout.String(), stderr.String()}
}

func status(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// pipe makes text come over a pipe rather than from a file or a buffer that
// os/exec copies.
func pipe(t *testing.T, text string) io.Reader {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	go func() {
		defer w.Close()
		io.WriteString(w, text) // fails when the tool stopped reading
	}()
	return r
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "in.jsonl")
	if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return name
}

func (r result) want(t *testing.T, status int, stdout string, stderr ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("status %d, want %d", r.status, status)
	}
	if r.stdout != stdout {
		t.Errorf("stdout\n%s\nwant\n%s", r.stdout, stdout)
	}
	for _, s := range stderr {
		if !strings.Contains(r.stderr, s) {
			t.Errorf("stderr lacks %q", s)
		}
	}
	if t.Failed() {
		t.Logf("stderr:\n%s", r.stderr)
	}
}

func begin(tool string) string { return `{"nx":1,"kind":"begin","tool":"` + tool + `"}` + "\n" }

func end(hosts, failed int) string {
	return fmt.Sprintf(`{"nx":1,"kind":"end","hosts":%d,"failed":%d}`+"\n", hosts, failed)
}

// Records that no tool acts on.
const (
	failed   = `{"nx":1, "kind":"host","name":"db1","tags":["db"],"x":{"a" : 1.0},"error":{"stage":"provision","message":"no","log":"é\n"}, "y":"\u0041<>"}` + "\n"
	resource = `{"nx":1,"kind":"resource","type":"s3Buckets","name":"b","outputs":{"name" : "b"}}` + "\n"
	alert    = `{"nx":1,"kind":"alert", "text":"of no known kind","name":7}` + "\n"
)

func TestStatic(t *testing.T) {
	each(t, func(t *testing.T, tool tool) {
		f, err := elf.Open(filepath.Join(bin, tool.name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
			t.Error("the binary is not static")
		}
	})
}

func TestHelpAndVersion(t *testing.T) {
	each(t, func(t *testing.T, tool tool) {
		r := run(t, exec.Command(filepath.Join(bin, tool.name), "--help"), nil)
		if r.status != 0 || r.stderr != "" || !strings.HasPrefix(r.stdout, "Usage: "+tool.name+" ") {
			t.Errorf("--help: %+v", r)
		}
		for _, flag := range []string{"--output", "--out-dir", "--if-changed", "--jobs", "--on", "--root", "--quiet", "--verbose", "--progress", "--log-format", "--version"} {
			if !strings.Contains(r.stdout, flag) {
				t.Errorf("--help lacks %s", flag)
			}
		}
		if env := strings.ToUpper(strings.ReplaceAll(tool.name, "-", "_")) + "_JOBS"; !strings.Contains(r.stdout, env) {
			t.Errorf("--help lacks %s", env)
		}
		r = run(t, exec.Command(filepath.Join(bin, tool.name), "--version"), nil)
		if r.status != 0 || r.stderr != "" || !strings.HasPrefix(r.stdout, tool.name+" ") {
			t.Errorf("--version: %+v", r)
		}
	})
}

func TestUsageErrors(t *testing.T) {
	tests := []struct {
		args []string
		env  string
		want string
	}{
		{args: []string{"--no-such-flag"}, want: "unknown flag --no-such-flag"},
		{args: []string{"-j", "0"}, want: "--jobs=0: it must be at least 1"},
		{args: []string{"-j", "many"}, want: "many"},
		{env: "_JOBS=-3", want: "--jobs=-3"},
		{args: []string{"--progress", "sometimes"}, want: `"sometimes"`},
		{args: []string{"--log-format", "xml"}, want: `"xml"`},
		{args: []string{"--on", "a,,b"}, want: `selector "a,,b" has an empty part`},
		{args: []string{"--on", "a["}, want: `selector "a["`},
		{args: []string{"--root", "/no/such/folder"}, want: "--root: stat /no/such/folder"},
		{args: []string{"--if-changed"}, want: "--if-changed: it needs -o FILE or --out-dir DIR"},
		{args: []string{"-o", "x", "--out-dir", "y"}, want: "--output and --out-dir: each says where records go"},
		{args: []string{"-q", "-v"}, want: "--quiet and --verbose"},
	}
	each(t, func(t *testing.T, tool tool) {
		for _, tt := range tests {
			cmd := tool.command(t, tt.args...)
			if tt.env != "" {
				cmd.Env = append(cmd.Env, strings.ToUpper(strings.ReplaceAll(tool.name, "-", "_"))+tt.env)
			}
			r := run(t, cmd, pipe(t, failed))
			r.want(t, 2, "", tool.name+": error: ", tt.want)
			if lines := strings.Split(strings.TrimSpace(r.stderr), "\n"); len(lines) != 2 || lines[1] != tool.name+": hint: run "+tool.name+" --help" {
				t.Errorf("%v: stderr %q, want one error and a hint", tt.args, r.stderr)
			}
		}
	})
}

func TestTerminalIsNoStream(t *testing.T) {
	eachReader(t, func(t *testing.T, tool tool) {
		_, tty := terminal(t)
		r := run(t, tool.command(t), tty)
		r.want(t, 2, "", "stdin is a terminal", "hint: pipe records in")
	})
}

// terminal opens a new pseudo-terminal, both ends.
func terminal(t *testing.T) (control, tty *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	n, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return control, tty
}

// What a tool does not act on is written byte for byte.
func TestPassesOn(t *testing.T) {
	eachReader(t, func(t *testing.T, tool tool) {
		in := begin("nx-other") + failed + "\n" + resource + alert + end(1, 1)
		out := begin(tool.name) + failed + resource + alert + end(1, 1)
		for _, jobs := range []string{"1", "8"} {
			run(t, tool.command(t, "-j", jobs), pipe(t, in)).want(t, 1, out, tool.name+": error: 1 of 1 hosts failed: db1 (provision)")
			run(t, tool.command(t, "-j", jobs, file(t, in)), nil).want(t, 1, out)
			run(t, tool.command(t, "-j", jobs, "-"), pipe(t, in)).want(t, 1, out)
		}
		// two files are one stream; flags stand before or behind
		run(t, tool.command(t, file(t, failed), file(t, resource), "-q"), nil).want(t, 1, begin(tool.name)+failed+resource+end(1, 1))
		// all is well when no host failed, and -q says nothing of it
		r := run(t, tool.command(t, "-q"), pipe(t, resource))
		r.want(t, 0, begin(tool.name)+resource+end(0, 0))
		if r.stderr != "" {
			t.Errorf("-q: stderr %q", r.stderr)
		}
	})
}

func TestSelection(t *testing.T) {
	eachReader(t, func(t *testing.T, tool tool) {
		web := strings.ReplaceAll(failed, "db", "web")
		in := failed + web + resource
		for _, on := range [][]string{{"web1"}, {"w*"}, {"@web"}, {"!db1"}, {"web1,db1", "!@db"}} {
			args := []string{"-q"}
			for _, s := range on {
				args = append(args, "--on", s)
			}
			r := run(t, tool.command(t, args...), pipe(t, in))
			if want := begin(tool.name) + web + resource + end(1, 1); sorted(r.stdout) != sorted(want) {
				t.Errorf("--on %q: got\n%swant\n%s", on, r.stdout, want)
			}
		}
		r := run(t, tool.command(t, "--on", "web1", "--on", "wbe2"), pipe(t, in))
		if r.status != 2 || strings.Contains(r.stdout, `"end"`) || !strings.Contains(r.stderr, `error: selector "wbe2" matches no host`) {
			t.Errorf("%+v", r)
		}
	})
}

func sorted(s string) string {
	lines := slices.Collect(strings.Lines(s))
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func TestBadInput(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"empty", "", "it is empty"},
		{"cut", begin("nx-other") + failed, "ends after line 2 without its end: the program "},
		{"cut in a line", begin("nx-other") + failed + `{"nx":1,`, "ends after line 2 without its end: the program "},
		{"malformed", failed + "web1\n", "line 2: the line is no JSON"},
		{"wrong version", `{"nx":2,"name":"web1"}`, `line 1: "nx" is 2`},
		{"duplicate host", failed + failed, "line 2: host db1 is there already"},
		{"duplicate key", `{"nx":1,"name":"a","name":"a"}`, `line 1: the key "name" stands there twice`},
		{"invalid UTF-8", "{\"nx\":1,\"name\":\"a\",\"x\":\"\xc3\"}", "line 1: the line is not valid UTF-8"},
		{"bad name", `{"nx":1,"name":"../a"}`, `line 1: "name": the name "../a"`},
	}
	eachReader(t, func(t *testing.T, tool tool) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				r := run(t, tool.command(t), pipe(t, tt.in))
				if r.status != 2 || !strings.Contains(r.stderr, tt.want) || strings.Contains(r.stdout, `"end"`) {
					t.Errorf("over a pipe: %+v", r)
				}
				// a file is validated whole before anything is done
				name := file(t, tt.in)
				run(t, tool.command(t, name), nil).want(t, 2, "", tt.want)
				f, err := os.Open(name)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				run(t, tool.command(t), f).want(t, 2, "", tt.want)
			})
		}
		run(t, tool.command(t, "/no/such/file"), nil).want(t, 2, "", "read records: stat /no/such/file: no such file")
		run(t, tool.command(t, t.TempDir()), nil).want(t, 2, "", "it is a folder")
	})
}

func TestOutputFile(t *testing.T) {
	eachReader(t, func(t *testing.T, tool tool) {
		out := filepath.Join(t.TempDir(), "out.jsonl")
		content := func() string {
			b, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		in := strings.ReplaceAll(resource, `"b",`, `"c",`) + resource
		stdout := run(t, tool.command(t, "-q"), pipe(t, in)).stdout
		run(t, tool.command(t, "-q", "-o", out), pipe(t, in)).want(t, 0, "")
		if sorted(content()) != sorted(stdout) || content() != begin(tool.name)+resource+strings.ReplaceAll(resource, `"b",`, `"c",`)+end(0, 0) {
			t.Errorf("-o wrote\n%s, stdout is\n%s", content(), stdout)
		}
		whole := content()
		run(t, tool.command(t, "-o", out), pipe(t, failed)).want(t, 1, "")
		run(t, tool.command(t, "-o", out), pipe(t, begin("x")+resource)).want(t, 2, "")
		if content() != whole {
			t.Errorf("a failed host or a cut stream replaced the file by\n%s", content())
		}
		before, _ := os.Stat(out)
		run(t, tool.command(t, "-q", "-o", out, "--if-changed"), pipe(t, in)).want(t, 0, "")
		if after, _ := os.Stat(out); !os.SameFile(before, after) {
			t.Error("--if-changed replaced the file")
		}
		run(t, tool.command(t, "-q", "-o", out, out), nil).want(t, 0, "")
		if content() != whole {
			t.Errorf("the file as its own input became\n%s", content())
		}
		// what is no regular file is written to as a stream, failed hosts and all
		run(t, tool.command(t, "-q", "-o", "/dev/null"), pipe(t, failed)).want(t, 1, "")
		run(t, tool.command(t, "-q", "-o", "/dev/stdout"), pipe(t, failed)).want(t, 1, begin(tool.name)+failed+end(1, 1))
		// with -o, nobody need read stdout
		gone, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		gone.Close()
		defer w.Close()
		cmd := tool.command(t, "-q", "-o", out)
		cmd.Stdin, cmd.Stdout = pipe(t, in), w
		if err := cmd.Run(); err != nil || content() != whole {
			t.Errorf("with stdout gone: %v, the file has\n%s", err, content())
		}
		run(t, tool.command(t, "-o", "/no/such/folder/out.jsonl"), pipe(t, in)).want(t, 2, "", "write /no/such/folder/out.jsonl")
	})
}

func TestStdoutGone(t *testing.T) {
	eachReader(t, func(t *testing.T, tool tool) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		var stderr bytes.Buffer
		cmd := tool.command(t)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = pipe(t, resource), w, &stderr
		cmd.Run()
		w.Close()
		if got := status(cmd.ProcessState); got != 2 || !strings.Contains(stderr.String(), "broken pipe") {
			t.Errorf("status %d, stderr %s", got, &stderr)
		}

		// a shell may have closed it altogether
		inner := tool.command(t)
		closed := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", `exec "$@" >&-`, "sh"}, inner.Args...)...)
		closed.Dir, closed.Env = inner.Dir, inner.Env
		run(t, closed, pipe(t, resource)).want(t, 2, "", "stdout is closed")

		// it is noticed while there is nothing to write
		cmd = tool.command(t)
		said, closeInput := waiting(t, cmd, func(stdout io.Closer) { stdout.Close() })
		defer closeInput()
		cmd.Wait()
		if got := status(cmd.ProcessState); got != 2 || !strings.Contains(said.String(), "write records: broken pipe") {
			t.Errorf("while waiting: status %d, stderr %s", got, said)
		}
	})
}

// waiting starts the tool with a stdin that stays open, and returns when it has
// begun to write and then was called.
func waiting(t *testing.T, cmd *exec.Cmd, then func(stdout io.Closer)) (stderr *bytes.Buffer, closeInput func()) {
	t.Helper()
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr = &bytes.Buffer{}
	cmd.Stdin, cmd.Stderr = in, stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	in.Close()
	if _, err := io.ReadFull(out, make([]byte, 10)); err != nil {
		t.Fatalf("%v: no begin: %s", err, stderr)
	}
	then(out)
	return stderr, func() { w.Close() }
}

func TestSignals(t *testing.T) {
	eachReader(t, func(t *testing.T, tool tool) {
		for sig, name := range map[syscall.Signal]string{syscall.SIGINT: "SIGINT", syscall.SIGTERM: "SIGTERM", syscall.SIGHUP: "SIGHUP"} {
			cmd := tool.command(t)
			stderr, closeInput := waiting(t, cmd, func(io.Closer) { cmd.Process.Signal(sig) })
			cmd.Wait()
			closeInput()
			if got := status(cmd.ProcessState); got != 128+int(sig) || !strings.Contains(stderr.String(), "interrupted by "+name) {
				t.Errorf("%s: status %d, stderr %s", name, got, stderr)
			}
		}
		// also while nobody has opened the other end of an input
		q := filepath.Join(t.TempDir(), "q")
		if err := unix.Mkfifo(q, 0o600); err != nil {
			t.Fatal(err)
		}
		waitsFor := tool.command(t, q)
		said, closeInput := waiting(t, waitsFor, func(io.Closer) { waitsFor.Process.Signal(syscall.SIGTERM) })
		waitsFor.Wait()
		closeInput()
		if got := status(waitsFor.ProcessState); got != 143 {
			t.Errorf("with a FIFO: status %d, stderr %s", got, said)
		}
		// what nohup ignores stays ignored
		inner := tool.command(t)
		cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", `trap "" HUP; exec "$@"`, "sh"}, inner.Args...)...)
		stderr, closeInput := waiting(t, cmd, func(io.Closer) { cmd.Process.Signal(syscall.SIGHUP) })
		closeInput()
		cmd.Wait()
		if got := status(cmd.ProcessState); got != 2 || !strings.Contains(stderr.String(), "it is empty") {
			t.Errorf("under nohup: status %d, stderr %s", got, stderr)
		}
	})
}

func TestEventsAreJSON(t *testing.T) {
	eachReader(t, func(t *testing.T, tool tool) {
		r := run(t, tool.command(t, "--log-format", "json"), pipe(t, failed+resource))
		for line := range strings.Lines(r.stderr) {
			var e struct{ Tool, Level, Event string }
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.Tool != tool.name || e.Level == "" || e.Event == "" {
				t.Errorf("%v: %s", err, line)
			}
		}
		if r.status != 1 || r.stderr == "" {
			t.Errorf("%+v", r)
		}
	})
}

// The last tool's status is the status of the pipe, in a shell without
// pipefail: whichever tool before it is killed, it sees a stream without end.
func TestKilledUpstream(t *testing.T) {
	for victim := range len(tools) - 1 {
		t.Run(tools[victim].name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			readers := tools[1:]
			if victim == 0 {
				// It waits for its state, as for another nx-provision.
				readers = tools
				state := filepath.Join(dir, ".nx", "state.json")
				if err := os.Mkdir(filepath.Dir(state), 0o700); err != nil {
					t.Fatal(err)
				}
				lock := flock.New(state + ".lock")
				if ok, err := lock.TryLock(); !ok {
					t.Fatalf("lock state: %v", err)
				}
				defer lock.Unlock()
			}
			victim := slices.IndexFunc(readers, func(r tool) bool { return r.name == tools[victim].name })
			var stages []string
			for i, tool := range readers {
				args := strings.Join(slices.Concat([]string{filepath.Join(bin, tool.name)}, tool.args, []string{"--root", dir}), " ")
				stages = append(stages, fmt.Sprintf(`sh -c 'echo $$ > %s/%d; exec %s 2>%s/%d.err'`, dir, i, args, dir, i))
			}
			for i := range readers {
				if err := unix.Mkfifo(fmt.Sprintf("%s/%d", dir, i), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "/bin/sh", "-c", strings.Join(stages, " | "))
			in, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			cmd.Stdin = in
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			in.Close()
			pids := make([]int, len(readers))
			for i := range readers {
				b, err := os.ReadFile(fmt.Sprintf("%s/%d", dir, i))
				if err != nil {
					t.Fatal(err)
				}
				if pids[i], err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
					t.Fatal(err)
				}
			}
			// once a record came out at the end, every tool has begun
			first := begin("nx-activate")
			if readers[0].reads {
				io.WriteString(w, resource)
				first += resource
			}
			if _, err := io.ReadFull(out, make([]byte, len(first))); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pids[victim], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			rest, _ := io.ReadAll(out)
			cmd.Wait()
			stderr, _ := os.ReadFile(fmt.Sprintf("%s/%d.err", dir, len(readers)-1))
			if got := status(cmd.ProcessState); got != 2 || len(rest) > 0 || !strings.Contains(string(stderr), "without its end: the program before nx-activate died") {
				t.Errorf("status %d, stderr %s, rest %s", got, stderr, rest)
			}
		})
	}
}
