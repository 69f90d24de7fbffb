// Package nixcmd runs the commands of a Nix installation and reads what they
// print. It knows what Nix 2.8 and later print differently, and no record.
package nixcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Nix is an installation: the commands found in PATH.
type Nix struct {
	Options []string     // for every command: "--option", "max-jobs", "4"
	Store   string       // the store that commands work on; empty: what Nix' settings say
	Log     *slog.Logger // what is built; nil discards it

	// Trace starts a command and calls saw for each path that it looks at, while it
	// waits, until stop is called, whose error says that some were missed. Where it
	// fails, the command has not been started. nil: nothing is traced.
	Trace func(cmd *exec.Cmd, saw func(path string, flags, thread int)) (stop func() error, err error)

	// Run, when set, runs a command on another machine, whose installation it is
	// then, and returns an error when its exit status is not 0. What evaluates
	// and what makes links runs on this one in any case.
	Run func(ctx context.Context, argv []string, stdout, stderr io.Writer) error
}

// stopWait is how long a command may take to end after SIGTERM before it is
// killed: nix-store waits for its builders.
const stopWait = 10 * time.Second

// evalStopWait is the same for an evaluation.
const evalStopWait = time.Second

func (n *Nix) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, slices.Concat(args, n.options())...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWait
	// What a terminal interrupts is nx, which then decides what comes to an end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Answers are read by programs: no colours, no pager.
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "PAGER=cat")
	return cmd
}

func (n *Nix) options() []string {
	if n.Store == "" {
		return n.Options
	}
	return slices.Concat(n.Options, []string{"--option", "store", n.Store})
}

func (n *Nix) log() *slog.Logger {
	if n.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return n.Log
}

// busy is what Nix 2.8 says when it waits for another writer of the store, which
// nothing comes of. Later versions say it only after a while.
var busy = regexp.MustCompile(`^(warning|error): .*SQLite database '.*' is busy`)

// Instantiate runs nix-instantiate with args, and with env over this process's
// environment, and hands each line of its standard error to line, without the
// newline, as it comes, with the id of the process. Where saw is not nil, it is
// called for each path that the process and its children look at, and unseen says
// why it was not, or not for all. The error says how the process ended, not what
// it wrote.
func (n *Nix) Instantiate(ctx context.Context, args, env []string, line func(line string, pid int), saw func(path string, flags, thread int)) (unseen, err error) {
	return n.evaluate(n.command(ctx, "nix-instantiate", args...), env, line, saw)
}

// EvalFlake runs nix eval with args, as Instantiate runs nix-instantiate.
func (n *Nix) EvalFlake(ctx context.Context, args, env []string, line func(line string, pid int), saw func(path string, flags, thread int)) (unseen, err error) {
	args = append([]string{"eval", "--extra-experimental-features", "nix-command flakes"}, args...)
	return n.evaluate(n.command(ctx, "nix", args...), env, line, saw)
}

// FlakeMetadata runs nix flake metadata with args, as Instantiate runs
// nix-instantiate, and returns what it prints.
func (n *Nix) FlakeMetadata(ctx context.Context, args []string, line func(line string), saw func(path string, flags, thread int)) (out []byte, unseen, err error) {
	args = append([]string{"flake", "metadata", "--extra-experimental-features", "nix-command flakes"}, args...)
	cmd := n.command(ctx, "nix", args...)
	var printed bytes.Buffer
	cmd.Stdout = &printed
	unseen, err = n.evaluate(cmd, nil, func(l string, _ int) { line(l) }, saw)
	return printed.Bytes(), unseen, err
}

// evaluate runs cmd, an evaluator.
func (n *Nix) evaluate(cmd *exec.Cmd, env []string, line func(line string, pid int), saw func(path string, flags, thread int)) (unseen, err error) {
	cmd.Env = append(cmd.Env, env...)
	// An evaluation looks for signals only where it writes to the store. Nothing
	// is lost by killing it; the moment before is for builds that it waits for.
	cmd.Cancel = func() error {
		time.AfterFunc(evalStopWait, func() { _ = cmd.Process.Kill() })
		return cmd.Process.Signal(syscall.SIGTERM)
	}
	start := cmd.Start
	stop := func() error { return nil }
	if saw != nil && os.Getenv("GIT_CONFIG_COUNT") == "" {
		// A watcher that tells git what was edited would leave git nothing to look at.
		cmd.Env = append(cmd.Env, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=core.fsmonitor", "GIT_CONFIG_VALUE_0=false")
	}
	if saw != nil {
		start = func() (err error) {
			if n.Trace == nil {
				unseen = errors.New("nothing is traced")
				return cmd.Start()
			}
			if stop, unseen = n.Trace(cmd, saw); unseen != nil {
				stop = func() error { return nil }
				return cmd.Start()
			}
			return nil
		}
	}
	err = follow(cmd.Args[0], func(l string) {
		if busy.MatchString(l) {
			n.log().Debug("output", "line", l)
			return
		}
		line(l, cmd.Process.Pid)
	}, func(stderr io.Writer) error {
		cmd.Stderr = stderr
		if err := start(); err != nil {
			return err
		}
		return cmd.Wait()
	})
	return errors.Join(unseen, stop()), err
}

// run runs a command, here or on the machine that n is of.
func (n *Nix) run(ctx context.Context, stdout, stderr io.Writer, name string, args ...string) error {
	if n.Run != nil {
		return n.Run(ctx, slices.Concat([]string{name}, args, n.options()), stdout, stderr)
	}
	cmd := n.command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd.Run()
}

// follow runs a command and hands each line of its standard error to line.
func (n *Nix) follow(ctx context.Context, line func(string), name string, args ...string) error {
	return follow(name, line, func(stderr io.Writer) error { return n.run(ctx, nil, stderr, name, args...) })
}

// follow calls run and hands each line that it writes to line.
func follow(name string, line func(string), run func(stderr io.Writer) error) error {
	// A writer rather than a pipe that is read here: what a command left behind,
	// such as an ssh master, may hold its standard error open, and then WaitDelay ends it.
	stderr := &lineWriter{line: line}
	err := run(stderr)
	stderr.close()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Traces tells whether saw is called at all.
func (n *Nix) Traces() bool { return n.Trace != nil }

// Identity returns where nix-instantiate is and which file that is: another
// version has another.
func (n *Nix) Identity() (string, error) {
	name, err := exec.LookPath("nix-instantiate")
	if err == nil {
		name, err = filepath.EvalSymlinks(name)
	}
	if err != nil {
		return "", fmt.Errorf("identify nix: %w", err)
	}
	info, err := os.Stat(name)
	if err != nil {
		return "", fmt.Errorf("identify nix: %w", err)
	}
	return fmt.Sprintf("%s %d %d", name, info.Size(), info.ModTime().UnixNano()), nil
}

// A lineWriter cuts what is written to it into lines.
type lineWriter struct {
	rest []byte
	line func(string)
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		w.line(string(w.rest[:i]))
		w.rest = w.rest[i+1:]
	}
}

// close hands over a last line without its newline.
func (w *lineWriter) close() {
	if len(w.rest) > 0 {
		w.line(string(w.rest))
		w.rest = nil
	}
}

// output runs a command that is done at once and returns what it prints. The
// error ends in the last line it wrote to standard error.
func (n *Nix) output(ctx context.Context, name string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	if err := n.run(ctx, &stdout, &stderr, name, args...); err != nil {
		if said := lastLine(stderr.String()); said != "" {
			return nil, fmt.Errorf("%s: %s", name, said)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return stdout.Bytes(), nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	s = s[strings.LastIndexByte(s, '\n')+1:]
	return strings.TrimPrefix(strings.TrimSpace(s), "error: ")
}
