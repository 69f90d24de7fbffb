// Package cli is the edge of the five tools: shared flags, signals, messages
// and exit status. It alone knows kong, the standard streams, the process's
// arguments and os.Exit, so that everything behind it can be called by tests.
package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"nx/pkg/record"
	"nx/pkg/stream"
)

// Exit statuses; 128+n is signal n.
const (
	statusHosts   = 1 // the stream is whole, but hosts in it failed
	statusUsage   = 2 // usage, bad or cut input, or the tool as a whole failed
	statusPending = 3 // with plan --exit-code: changes are pending
)

// ErrPending is what a command returns that was asked to say by its status that
// something is to be done.
var ErrPending = errors.New("changes are pending")

// version is set by the linker: -X nx/pkg/cli.version=v1.2.3.
var version string

// Shared are the flags that every tool has. Its struct of commands embeds them,
// so that they stand before and after the verb.
type Shared struct {
	Output    string           `short:"o" placeholder:"FILE" help:"Write records to FILE instead of stdout: sorted, and only when the stream is whole and no host failed."`
	OutDir    string           `placeholder:"DIR" help:"Write one file for each host into DIR instead of stdout, as soon as it is done: NAME.jsonl, or NAME.error when it failed."`
	IfChanged bool             `help:"With -o and --out-dir, leave files untouched whose bytes would not change."`
	Jobs      int              `short:"j" default:"${jobs}" placeholder:"N" env:"${env}_JOBS" help:"Work on at most N hosts at a time (default ${default})."`
	On        []string         `sep:"none" placeholder:"SELECTOR" help:"Act on and write only these hosts: names, globs, @tags; a comma is or, '!' is not. Repeatable."`
	Root      string           `default:"." placeholder:"DIR" help:"The folder that relative paths in records start from (default: the working directory)."`
	Quiet     bool             `short:"q" help:"Print warnings and errors only."`
	Verbose   bool             `short:"v" help:"Print details too."`
	Progress  string           `enum:"auto,always,never" default:"auto" placeholder:"WHEN" help:"Show steps: auto, always (a live line, whatever stdout is) or never (default ${default})."`
	LogFormat string           `enum:"text,json" default:"text" placeholder:"FORMAT" help:"What stderr has: text, or json, one event a line (default ${default})."`
	Version   kong.VersionFlag `help:"Print the version and exit."`
}

func (f *Shared) shared() *Shared { return f }

// A Tool describes one of the programs.
type Tool struct {
	Name string // "nx-build"
	Help string // one sentence
	Jobs int    // how many hosts at a time unless -j says else

	// Commands is a struct of kong commands that embeds [Shared]. The commands'
	// Run methods take (context.Context, *Process).
	Commands interface{ shared() *Shared }
}

// A Process is what a command gets of the world outside.
type Process struct {
	Tool   string
	Root   string // relative local paths in records start here
	Jobs   int    // hosts at a time
	Log    *slog.Logger
	Stdout io.Writer // for reports; records go through Stream

	stdin, stdout, stderr *os.File
	console               *console // what Log writes text to, nil when it writes events
	flags                 *Shared
	on                    stream.Selection
}

// A UsageError is a wrong command line: nothing was done.
type UsageError struct {
	Err     error
	HintMsg string // what to do instead; empty points to --help
}

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Hint is the line behind the message.
func (e *UsageError) Hint() string { return e.HintMsg }

// Main runs the tool with this process's arguments and exits.
func Main(t Tool) { os.Exit(run(t, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(t Tool, args []string, stdin, stdout, stderr *os.File) int {
	p := &Process{Tool: t.Name, Stdout: stdout, stdin: stdin, stdout: stdout, stderr: stderr, flags: t.Commands.shared()}
	parser, err := kong.New(t.Commands, kong.Name(t.Name), kong.Description(t.Help),
		kong.Writers(stdout, stderr), kong.Help(help), kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Vars{
			"version": t.Name + " " + Version(),
			"jobs":    fmt.Sprint(max(t.Jobs, 1)),
			"env":     strings.ToUpper(strings.ReplaceAll(t.Name, "-", "_")),
		})
	if err != nil {
		panic(err) // the commands' tags are wrong
	}
	command, err := parser.Parse(args)
	messages := newHandler(t.Name, p.flags, stdout, stderr)
	p.Log = slog.New(messages)
	leave := func() {}
	if m, ok := messages.(*text); ok {
		p.console = m.console
		p.Stdout = m.above(stdout)
		defer m.end()
		leave = m.leave
	}
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return p.usage(err)
	}

	// A broken pipe is an error of the write, not the end of the process; caught
	// rather than ignored, so that children do not inherit it.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	var out *os.File
	if p.flags.Output == "" && p.flags.OutDir == "" {
		out = stdout
	}
	ctx, caught, release := catch(out, p.Log, leave)
	defer release()
	command.BindTo(ctx, (*context.Context)(nil))
	return p.status(command.Run(p), caught())
}

// help prints a tool's help. That of a tool with one command is the command's,
// which has all flags.
func help(options kong.HelpOptions, ctx *kong.Context) error {
	if only := ctx.Model.Leaves(true); ctx.Selected() == nil && len(only) == 1 {
		command, err := kong.Trace(ctx.Kong, []string{only[0].Name})
		if err != nil {
			return err
		}
		ctx = command
	}
	return kong.DefaultHelpPrinter(options, ctx)
}

func (p *Process) check() error {
	f := p.flags
	switch {
	case f.Jobs < 1:
		return fmt.Errorf("--jobs=%d: it must be at least 1", f.Jobs)
	case f.IfChanged && f.Output == "" && f.OutDir == "":
		return errors.New("--if-changed: it needs -o FILE or --out-dir DIR")
	case f.Output != "" && f.OutDir != "":
		return errors.New("--output and --out-dir: each says where records go")
	case f.Quiet && f.Verbose:
		return errors.New("--quiet and --verbose: they contradict each other")
	}
	if f.Output == "-" {
		f.Output = "" // stdout, as elsewhere
	}
	if f.Output == "" && f.OutDir == "" && closed(p.stdout) {
		return errors.New("stdout is closed: the records have nowhere to go")
	}
	if info, err := os.Stat(f.Root); err != nil {
		return fmt.Errorf("--root: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("--root: %s is no folder", f.Root)
	}
	on, err := stream.ParseSelection(f.On)
	if err != nil {
		return fmt.Errorf("--on: %w", err)
	}
	p.Root, p.Jobs, p.on = f.Root, f.Jobs, on
	return nil
}

// Stream opens the record files, where "-" and no file at all mean stdin.
func (p *Process) Stream(stage record.Stage, files []string) (*stream.Stream, error) {
	if len(files) == 0 {
		files = []string{"-"}
	}
	s := p.Produce(stage, nil)
	for _, name := range files {
		in, err := p.input(name)
		if err != nil {
			return nil, err
		}
		s.Inputs = append(s.Inputs, in)
	}
	return s, nil
}

func (p *Process) input(name string) (stream.Input, error) {
	if name == "-" {
		if term.IsTerminal(int(p.stdin.Fd())) {
			return stream.Input{}, &UsageError{errors.New("stdin is a terminal, not a stream of records"),
				fmt.Sprintf("pipe records in, as from the tool before, or name a file: %s FILE", p.Tool)}
		}
		info, err := p.stdin.Stat()
		if err != nil {
			return stream.Input{}, fmt.Errorf("read stdin: %w", err)
		}
		return stream.Input{Name: stream.Stdin, Reader: p.stdin, Regular: info.Mode().IsRegular()}, nil
	}
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return stream.Input{}, fmt.Errorf("read records: %w", err)
	case info.IsDir():
		return stream.Input{}, fmt.Errorf("read %s: it is a folder", name)
	case !info.Mode().IsRegular():
		return stream.Input{Name: name, Reader: &fifo{name: name}}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return stream.Input{}, fmt.Errorf("read records: %w", err)
	}
	return stream.Input{Name: name, Reader: f, Regular: true}, nil
}

// A fifo is opened by its first read, since that waits for a writer: whoever
// reads may be interrupted meanwhile.
type fifo struct {
	name string
	f    *os.File
}

func (r *fifo) Read(b []byte) (n int, err error) {
	if r.f == nil {
		if r.f, err = os.Open(r.name); err != nil {
			return 0, err
		}
	}
	return r.f.Read(b)
}

// Selects tells whether --on chooses among the hosts.
func (p *Process) Selects() bool { return !p.on.Empty() }

// Chooses tells whether --on chooses a host of that name and tags.
func (p *Process) Chooses(name string, tags []string) bool { return p.on.Chooses(name, tags) }

// Produce is a stream that reads nothing: its hosts are given.
func (p *Process) Produce(stage record.Stage, hosts []*record.Record) *stream.Stream {
	return &stream.Stream{
		Tool:  p.Tool,
		Stage: stage,
		Given: hosts,
		On:    p.on,
		Log:   p.Log,
		Output: stream.Output{
			Writer:    p.Stdout,
			File:      p.flags.Output,
			Dir:       p.flags.OutDir,
			IfChanged: p.flags.IfChanged,
		},
	}
}

// Table is called by a command that writes a table: it is a usage error to say where
// records go.
func (p *Process) Table() error {
	flag := ""
	switch {
	case p.flags.Output != "":
		flag = "--output"
	case p.flags.OutDir != "":
		flag = "--out-dir"
	default:
		return nil
	}
	return &UsageError{Err: fmt.Errorf("%s: it takes records, and this is a table", flag), HintMsg: "add --json"}
}

// Confirm asks the user at the terminal whether to go on. Where there is no
// terminal it is a usage error: instead is the flag that answers.
func (p *Process) Confirm(question, instead string) error {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return &UsageError{fmt.Errorf("ask %q: there is no terminal", question), "say " + instead}
	}
	defer tty.Close()
	defer p.asks(question + " [y/N]")()
	fmt.Fprintf(tty, "%s: %s [y/N] ", p.Tool, question)
	answer, err := bufio.NewReader(tty).ReadString('\n')
	if err != nil {
		return fmt.Errorf("ask at the terminal: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("nothing was done, as you said")
	}
	return nil
}

// What is said around a question at the terminal, for who draws there.
const (
	eventAsking   = "asking"
	eventAnswered = "answered"
)

// asks announces a question, and what it returns that it was answered.
func (p *Process) asks(question string) (answered func()) {
	p.Log.Debug(eventAsking, "question", question)
	return func() { p.Log.Debug(eventAnswered) }
}

// Password asks the user at the terminal for a secret, which is not shown. Where there
// is no terminal it is a usage error: instead is the flag that answers.
func (p *Process) Password(question, instead string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", &UsageError{fmt.Errorf("ask for the %s: there is no terminal", question), "say " + instead}
	}
	defer tty.Close()
	defer p.asks(question + ":")()
	fmt.Fprintf(tty, "%s: %s: ", p.Tool, question)
	b, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	if err != nil {
		return "", fmt.Errorf("ask at the terminal: %w", err)
	}
	return string(b), nil
}

// usage prints what is wrong with the command line. Nothing was done.
func (p *Process) usage(err error) int {
	hint := fmt.Sprintf("run %s --help", p.Tool)
	var u *UsageError
	if errors.As(err, &u) && u.HintMsg != "" {
		hint = u.HintMsg
	}
	p.Log.Error(err.Error(), "hint", hint)
	return statusUsage
}

// status says how the tool ended and returns its exit status.
func (p *Process) status(err error, sig syscall.Signal) int {
	var hosts *stream.HostsError
	var usage *UsageError
	var hint interface{ Hint() string }
	switch {
	case sig != 0:
		p.Log.Error(fmt.Sprintf("interrupted by %s", signalName(sig)))
		return 128 + int(sig)
	case err == nil:
		return 0
	case errors.Is(err, ErrPending):
		return statusPending
	case errors.As(err, &hosts):
		p.Log.Error(hosts.Error())
		return statusHosts
	case errors.As(err, &usage):
		return p.usage(err)
	case errors.As(err, &hint):
		p.Log.Error(err.Error(), "hint", hint.Hint())
	default:
		p.Log.Error(err.Error())
	}
	return statusUsage
}

// Version is what --version prints: the release, or the commit it was built from.
func Version() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
