package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"nx/pkg/provision"
)

// dying is how long a program has to end after it was told to, or to let go of what it
// writes to after it ended.
const dying = 10 * time.Second

// start runs the program to its end, calls said for each line that it writes, and tells
// why it has no result. Result is where said keeps it.
func (p *Provider) start(ctx context.Context, argv []string, r request, ref provision.Ref, said func(*answer) error, result **answer) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = p.Root
	cmd.Stdin = bytes.NewReader(append(line, '\n'))
	// A group of its own: Ctrl-C at the terminal is for nx, which then tells the program.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	defer dieTogether(cmd.SysProcAttr)()
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		// One that was stopped, because it asked the terminal, would not hear it.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGCONT)
		return err
	}
	cmd.WaitDelay = dying
	n := 0
	stdout := &lines{each: func(line []byte) error {
		n++
		if len(bytes.TrimSpace(line)) == 0 {
			return nil
		}
		a, err := parse(line)
		if err == nil {
			err = said(a)
		}
		if err != nil {
			err = &answerError{n, err}
			cancel(err)
		}
		return err
	}}
	complaint := &output{log: p.log(ref)}
	stderr := &lines{each: complaint.line}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return &refused{error: err} // nobody was asked
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		// What it started and left behind.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	lerr := stdout.end()
	_ = stderr.end()
	var wrong *answerError
	switch {
	case errors.As(context.Cause(ctx), &wrong):
		return wrong
	case lerr != nil:
		return lerr
	case *result != nil && (*result).Error != nil:
		return (*result).failure()
	case *result != nil && cmd.ProcessState.Success():
		return nil // also when it was told to end meanwhile, or what it started has its stdout
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && complaint.last != "":
		return fmt.Errorf("%w: %s", err, complaint.last)
	case err != nil:
		return err
	}
	return errors.New("it ended without a result")
}

// An answerError is that of a line which is none of the protocol's.
type answerError struct {
	line int
	err  error
}

func (e *answerError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *answerError) Unwrap() error { return e.err }

// lines calls each for each line that is written to it, and as soon as one is longer
// than maxLine with what there is of it.
type lines struct {
	each func([]byte) error

	rest []byte
	err  error
}

func (l *lines) Write(p []byte) (int, error) {
	for part := range bytes.SplitAfterSeq(p, []byte("\n")) {
		if l.err != nil {
			return 0, l.err
		}
		l.rest = append(l.rest, part...)
		if len(l.rest) > maxLine || bytes.HasSuffix(part, []byte("\n")) {
			l.take()
		}
	}
	return len(p), l.err
}

func (l *lines) take() {
	line := bytes.TrimSuffix(l.rest, []byte("\n"))
	l.rest = nil
	l.err = l.each(line)
}

// end takes the last line, which need not end.
func (l *lines) end() error {
	if l.err == nil && len(l.rest) > 0 {
		l.take()
	}
	return l.err
}

// output shows what a program writes to stderr, and keeps the last line.
type output struct {
	log  *slog.Logger
	last string
}

func (o *output) line(line []byte) error {
	o.log.Info("output", "line", strings.TrimSuffix(string(line), "\r"))
	if text := oneLine(string(line)); text != "" {
		o.last = text
	}
	return nil
}
