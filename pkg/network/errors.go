package network

import (
	"fmt"
	"regexp"
	"strings"
)

// An EvalError is what ended an evaluation, in Nix' words.
type EvalError struct {
	Message  string // on one line
	Position string // FILE:LINE:COLUMN in the user's files, or FILE, as far as the trace leads there
	log      string
}

func (e *EvalError) Error() string {
	if e.Position == "" {
		return "evaluate configuration: " + e.Message
	}
	return fmt.Sprintf("evaluate configuration: %s, at %s", e.Message, e.Position)
}

// Log returns Nix' message and those steps of its trace that are in the user's
// files, or all with Network.ShowTrace.
func (e *EvalError) Log() string { return e.log }

// Hint says what may help, if anything is known.
func (e *EvalError) Hint() string {
	switch {
	case strings.Contains(e.Message, sealName+"' has an unsupported type"):
		return "the configuration copies the folder with nx's state into the Nix store, as src = ./. does: name a folder without .nx, or filter it out; a flake that is no git repository is copied whole, so keep .nx elsewhere with --root"
	case noFact.MatchString(e.Message):
		return "run nx-provision first and pipe its records to nx-eval: they say what became of machines and resources; none of that enters a flake"
	}
	if m := noArgument.FindStringSubmatch(e.Message); m != nil {
		return fmt.Sprintf("an argument of the network itself is given by --arg %s EXPR or --argstr %[1]s TEXT", m[1])
	}
	return ""
}

var (
	noArgument = regexp.MustCompile(`called without required argument '([^']*)'`)
	noFact     = regexp.MustCompile(`^(?:networking\.privateIPv4 of \S+|resources\.\S+) is not known$`) // nix/addresses.nix, nix/nixops.nix
)

// A step is one entry of Nix' trace with what belongs to it.
type step struct {
	text []string // "while evaluating the attribute 'x'", or the message's lines
	at   string   // FILE:LINE:COLUMN
	file string
}

var (
	errorLine = regexp.MustCompile(`^ *error:(?: (.*))?$`)
	traceLine = regexp.MustCompile(`^ +… (.*)$`)
	atLine    = regexp.MustCompile(`^ +at ((.+):\d+:\d+):$`)
	codeLine  = regexp.MustCompile(`^ +(?:\d+)?\| ?.*$`)
	fromText  = regexp.MustCompile("^while evaluating (?:the option|definitions from) `([^']*)'")
	noteLine  = regexp.MustCompile(`^ *\((?:use '--show-trace'|stack trace truncated|\d+ duplicate frames omitted).*\)$`)
)

// What an error shows of values and of the source around it may be a key's text,
// which is in no record and no log. So lines of source are dropped, as are the
// values of options that hold keys, and those of which Nix says that they are of
// the wrong type.
var (
	keyOption   = regexp.MustCompile("option (?:value )?`deployment\\.")
	definitions = regexp.MustCompile("(?s)(efinition values:).*")
	definedIn   = regexp.MustCompile("(?m)^ *- In `[^']*'")
	wrongValue  = regexp.MustCompile(`(?s)\b((?:but (?:found )?an? |cannot coerce )[^:\n]*): .*`)
)

// withoutValues cuts the values out of a message.
func withoutValues(text []string) []string {
	s := strings.Join(text, "\n")
	if keyOption.MatchString(s) {
		s = definitions.ReplaceAllStringFunc(s, func(values string) string {
			return "efinition values:\n" + strings.Join(definedIn.FindAllString(values, -1), "\n")
		})
	}
	return strings.Split(wrongValue.ReplaceAllString(s, "$1"), "\n")
}

// parseError reads what Nix writes when an evaluation fails, from its line
// "error:" on. Nix 2.8 puts the message first and the trace behind it, the
// innermost step first; from 2.20 on the trace comes first, the outermost step
// first, and the message last, behind a second "error:".
// foreign tells which files are not the user's; their steps are in the log if
// whole is set.
func parseError(lines []string, foreign func(file string) bool, whole bool) *EvalError {
	message := &step{}
	var trace []*step // innermost first
	current := message
	last := false // the message comes last
	for i, line := range lines {
		if m := errorLine.FindStringSubmatch(line); m != nil && (i == 0 || len(trace) > 0 && strings.HasPrefix(line, " ")) {
			last = i > 0
			message = &step{}
			current = message
			if m[1] != "" {
				message.text = []string{m[1]}
			}
		} else if m := traceLine.FindStringSubmatch(line); m != nil {
			current = &step{text: []string{m[1]}}
			trace = append(trace, current)
		} else if m := atLine.FindStringSubmatch(line); m != nil {
			current.at, current.file = m[1], m[2]
		} else if codeLine.MatchString(line) && current.at != "" {
			continue
		} else if !noteLine.MatchString(line) {
			current.text = append(current.text, strings.TrimPrefix(line, "       "))
		}
	}
	if last {
		for i, j := 0, len(trace)-1; i < j; i, j = i+1, j-1 {
			trace[i], trace[j] = trace[j], trace[i]
		}
	}

	message.text = withoutValues(message.text)
	own := func(s *step) bool { return s.at != "" && !foreign(s.file) }
	e := &EvalError{Message: strings.TrimSuffix(oneLine(message.text), ".")}
	if e.Message == "" {
		e.Message = "Nix gave no reason"
	}
	if own(message) {
		e.Position = message.at
	}
	shown := func(s *step) bool { return own(s) || whole && s.at != "" }
	var log strings.Builder
	message.write(&log, "error: ", shown)
	file := "" // the innermost of the user's that a definition is from
	for _, s := range trace {
		// The module system says which option it was at, and whose definition.
		from := fromText.FindStringSubmatch(s.text[0])
		if from == nil && !own(s) && !whole {
			continue
		}
		if e.Position == "" && own(s) {
			e.Position = s.at
		}
		if from != nil && file == "" && !foreign(from[1]) {
			file = from[1]
		}
		s.write(&log, "… ", shown)
	}
	if e.Position == "" && !strings.Contains(e.Message, file) {
		e.Position = file
	}
	e.log = log.String()
	return e
}

func (s *step) write(b *strings.Builder, mark string, shown func(*step) bool) {
	text := strings.TrimRight(strings.Join(s.text, "\n"), "\n ")
	fmt.Fprintf(b, "%s%s\n", mark, strings.TrimLeft(text, "\n"))
	if shown(s) {
		fmt.Fprintf(b, "  at %s\n", s.at)
	}
}

func oneLine(lines []string) string {
	var words []string
	for _, line := range lines {
		if line = strings.TrimSpace(line); line != "" {
			words = append(words, line)
		}
	}
	return strings.Join(words, " ")
}

// A transcript holds what may be an error until it is known whether the
// evaluator ended with it: a user's trace may look like one.
type transcript struct {
	lines []string
}

// An evaluation that recurses too deeply has a trace of as many steps. Its
// beginning has the message in Nix 2.8, its end in later ones.
const keptLines = 2000

// add takes line when it begins an error or one has begun.
func (t *transcript) add(line string) bool {
	if len(t.lines) == 0 && !strings.HasPrefix(line, "error:") {
		return false
	}
	t.lines = append(t.lines, line)
	if len(t.lines) > 2*keptLines {
		t.lines = append(t.lines[:keptLines/2:keptLines/2], t.lines[len(t.lines)-keptLines/2:]...)
	}
	return true
}

func (t *transcript) empty() bool { return len(t.lines) == 0 }

// reset returns and gives up what turned out to be no error.
func (t *transcript) reset() []string {
	lines := t.lines
	t.lines = nil
	return lines
}

// failure returns the error with the names of files below dir relative to it: a
// record is the same wherever the network's folder is.
func (t *transcript) failure(foreign func(string) bool, dir string, whole bool) *EvalError {
	e := parseError(t.lines, foreign, whole)
	below := regexp.MustCompile(`(^|[^\w/.-])` + regexp.QuoteMeta(strings.TrimSuffix(dir, "/")+"/"))
	for _, s := range []*string{&e.Message, &e.Position, &e.log} {
		*s = below.ReplaceAllString(*s, "$1")
	}
	return e
}
