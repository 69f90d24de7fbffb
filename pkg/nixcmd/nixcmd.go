// Package nixcmd runs the commands of a Nix installation and reads what they
// print. It knows what Nix 2.8 and later print differently, and no record.
package nixcmd

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Nix is an installation: the commands found in PATH.
type Nix struct {
	Options []string     // for every command: "--option", "max-jobs", "4"
	Log     *slog.Logger // what is built; nil discards it
}

// stopWait is how long a command may take to end after SIGTERM before it is
// killed: nix-store waits for its builders.
const stopWait = 10 * time.Second

// evalStopWait is the same for an evaluation.
const evalStopWait = time.Second

func (n *Nix) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, append(args[:len(args):len(args)], n.Options...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWait
	// What a terminal interrupts is nx, which then decides what comes to an end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Answers are read by programs: no colours, no pager.
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "PAGER=cat")
	return cmd
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
// newline, as it comes, with the id of the process. The error says how the
// process ended, not what it wrote.
func (n *Nix) Instantiate(ctx context.Context, args, env []string, line func(line string, pid int)) error {
	return n.evaluate(n.command(ctx, "nix-instantiate", args...), env, line)
}

// EvalFlake runs nix eval with args, as Instantiate runs nix-instantiate.
func (n *Nix) EvalFlake(ctx context.Context, args, env []string, line func(line string, pid int)) error {
	args = append([]string{"eval", "--extra-experimental-features", "nix-command flakes"}, args...)
	return n.evaluate(n.command(ctx, "nix", args...), env, line)
}

// evaluate runs cmd, an evaluator.
func (n *Nix) evaluate(cmd *exec.Cmd, env []string, line func(line string, pid int)) error {
	cmd.Env = append(cmd.Env, env...)
	// An evaluation looks for signals only where it writes to the store. Nothing
	// is lost by killing it; the moment before is for builds that it waits for.
	cmd.Cancel = func() error {
		time.AfterFunc(evalStopWait, func() { _ = cmd.Process.Kill() })
		return cmd.Process.Signal(syscall.SIGTERM)
	}
	return follow(cmd, func(l string) {
		if busy.MatchString(l) {
			n.log().Debug("output", "line", l)
			return
		}
		line(l, cmd.Process.Pid)
	})
}

// follow runs cmd and hands each line of its standard error to line.
func follow(cmd *exec.Cmd, line func(string)) error {
	// A writer rather than a pipe that is read here: what a command left behind,
	// such as an ssh master, may hold its standard error open, and then WaitDelay ends it.
	stderr := &lineWriter{line: line}
	cmd.Stderr = stderr
	err := cmd.Run()
	stderr.close()
	if err != nil {
		return fmt.Errorf("%s: %w", cmd.Args[0], err)
	}
	return nil
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
	cmd := n.command(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if said := lastLine(stderr.String()); said != "" {
			return nil, fmt.Errorf("%s: %s", name, said)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	s = s[strings.LastIndexByte(s, '\n')+1:]
	return strings.TrimPrefix(strings.TrimSpace(s), "error: ")
}
