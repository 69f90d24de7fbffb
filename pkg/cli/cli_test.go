package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-multierror"

	"nx/pkg/record"
	"nx/pkg/stream"
)

func logger(level slog.Level, steps bool) (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(&text{console: &console{w: &b, level: level, steps: steps, eol: "\n"}, tool: "nx-copy"}), &b
}

func TestMessages(t *testing.T) {
	say := func(l *slog.Logger) {
		l.Debug("asking", "host", "web1")
		l.Info("copied", "host", "web1", "paths", 3, "bytes", 1203)
		l.Info("output", "host", "web1", "line", "one\ntwo\n")
		l.Info("output", "line", "\x1b[31mof no \x1b]52;c;evil\ahost\x1b[0m\x07")
		l.Warn("no space", "host", "web1", "hint", "collect garbage")
		l.With("host", "db1").Error("dial 10.0.0.1: no route")
	}
	const always = "nx-copy: warning: web1: no space\nnx-copy: hint: collect garbage\nnx-copy: error: db1: dial 10.0.0.1: no route\n"
	const output = "web1> one\nweb1> two\nof no host\\x07\n"
	const step = "nx-copy: web1: copied (paths 3, bytes 1203)\n"
	tests := []struct {
		name  string
		level slog.Level
		steps bool
		want  string
	}{
		{"plain", slog.LevelInfo, true, step + output + always},
		{"verbose", slog.LevelDebug, true, "nx-copy: web1: asking\n" + step + output + always},
		{"no steps", slog.LevelInfo, false, output + always},
		{"quiet", slog.LevelWarn, true, always},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, b := logger(tt.level, tt.steps)
			say(l)
			if b.String() != tt.want {
				t.Errorf("got\n%swant\n%s", b, tt.want)
			}
		})
	}
}

// A tool whose command does what the test says.
type toolCommands struct {
	Shared

	Go   goCommand   `cmd:"" default:"withargs"`
	List listCommand `cmd:""`
}

type goCommand struct {
	Network
	Files
}

type listCommand struct{}

func (listCommand) Run(p *Process) error {
	fmt.Fprintln(p.Stdout, "listed")
	return nil
}

var ran func(*goCommand, *Process) error

func (c *goCommand) Run(_ context.Context, p *Process) error { return ran(c, p) }

// A tool with one command shows that command's flags; which verb there is
// matters only where there are several.
func TestHelp(t *testing.T) {
	var one struct {
		Shared
		Go goCommand `cmd:"" default:"withargs"`
	}
	tests := []struct {
		name     string
		commands interface{ shared() *Shared }
		args     []string
		want     []string
	}{
		{"one command", &one, []string{"--help"}, []string{"Usage: nx-test go [<file> ...] [flags]", "--file=FILE", "--jobs=N"}},
		{"several", &toolCommands{}, []string{"--help"}, []string{"Usage: nx-test <command> [flags]", "list", "--jobs=N"}},
		{"one of them", &toolCommands{}, []string{"go", "--help"}, []string{"Usage: nx-test go [<file> ...] [flags]", "--file=FILE"}},
	}
	if os.Getenv("NXTEST_HELP") != "" {
		for _, tt := range tests {
			if tt.name == os.Getenv("NXTEST_HELP") {
				os.Exit(run(Tool{Name: "nx-test", Commands: tt.commands}, tt.args, os.Stdin, os.Stdout, os.Stderr))
			}
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Kong exits behind the help: it runs in a process of its own.
			cmd := exec.Command(os.Args[0], "-test.run=^TestHelp$")
			cmd.Env = append(os.Environ(), "NXTEST_HELP="+tt.name)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("the help lacks %q:\n%s", want, out)
				}
			}
		})
	}
}

type hinted struct{ error }

func (hinted) Hint() string { return "try something" }

func TestStatus(t *testing.T) {
	failed := multierror.Append(nil, &stream.HostError{Name: "db1", Stage: record.Build, Message: "no"})
	tests := []struct {
		name   string
		args   []string
		run    func(*goCommand, *Process) error
		status int
		stdout string
		stderr string
	}{
		{name: "success", run: func(*goCommand, *Process) error { return nil }},
		{name: "hosts failed", run: func(*goCommand, *Process) error {
			return &stream.HostsError{Hosts: 3, Failed: failed}
		}, status: 1, stderr: "nx-test: error: 1 of 3 hosts failed: db1 (build)\n"},
		{name: "tool failed", run: func(*goCommand, *Process) error { return errors.New("two\nlines") }, status: 2, stderr: "nx-test: error: two; lines\n"},
		{name: "tool failed with a hint", run: func(*goCommand, *Process) error { return fmt.Errorf("do it: %w", hinted{errors.New("no")}) },
			status: 2, stderr: "nx-test: error: do it: no\nnx-test: hint: try something\n"},
		{name: "usage", run: func(c *goCommand, _ *Process) error { return c.Check() }, status: 2,
			stderr: "nx-test: error: no network file\nnx-test: hint: name it with -f FILE\n"},
		{name: "another verb", args: []string{"list", "-q"}, stdout: "listed\n"},
		{name: "a file named like a verb", args: []string{"-f", "n.nix", "./list"}, run: func(c *goCommand, _ *Process) error {
			if !slices.Equal(c.Files.Files, []string{"./list"}) {
				return fmt.Errorf("files %q", c.Files.Files)
			}
			return nil
		}},
		{name: "flags of the network", args: strings.Fields("-f a.nix -f b,c.nix --arg x {y=1;} --argstr z a=b --arg w 2 -I nixpkgs=/n --option cores 2 --name shop"),
			run: func(c *goCommand, _ *Process) error {
				want := "--arg x {y=1;} --arg w 2 --argstr z a=b --option cores 2 -I nixpkgs=/n"
				if got := strings.Join(c.NixArgs(), " "); got != want || !slices.Equal(c.File, []string{"a.nix", "b,c.nix"}) || c.Name != "shop" {
					return fmt.Errorf("got %s, files %q, name %q", got, c.File, c.Name)
				}
				return nil
			}},
		{name: "half a pair", args: []string{"--arg", "x"}, status: 2, stderr: "nx-test: error: --arg: it takes two words, a name and a value\nnx-test: hint: run nx-test --help\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ran = tt.run
			dir := t.TempDir()
			file := func(name string) *os.File {
				f, err := os.Create(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.Close() })
				return f
			}
			stdout, stderr := file("stdout"), file("stderr")
			got := run(Tool{Name: "nx-test", Jobs: 2, Commands: &toolCommands{}}, tt.args, os.Stdin, stdout, stderr)
			out, _ := os.ReadFile(stdout.Name())
			msg, _ := os.ReadFile(stderr.Name())
			if got != tt.status || string(out) != tt.stdout || string(msg) != tt.stderr {
				t.Errorf("status %d, want %d\nstdout %q, want %q\nstderr %q, want %q", got, tt.status, out, tt.stdout, msg, tt.stderr)
			}
		})
	}
}
