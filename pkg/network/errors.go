package network

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"nx/pkg/record"
)

// An EvalError is what ended an evaluation, in Nix' words.
type EvalError struct {
	Message  string // on one line
	Position string // FILE:LINE:COLUMN in the user's files, or FILE, as far as the trace leads there
	own      string // the message and the steps that are in the user's files
	whole    string // the message and all steps, without lines of source and values
}

func (e *EvalError) Error() string {
	if e.Position == "" {
		return "evaluate configuration: " + e.Message
	}
	return fmt.Sprintf("evaluate configuration: %s, at %s", e.Message, e.Position)
}

// Log returns Nix' message and its trace, innermost step first. Of one that is
// too long for a record, the middle is left out.
func (e *EvalError) Log() string { return withoutMiddle(e.whole, record.MaxLog) }

// withoutMiddle returns s in at most n bytes: its first and its last lines.
func withoutMiddle(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const gap = "…\n"
	head, tail := s[:(n-len(gap))/2], s[len(s)-(n-len(gap))/2:]
	head = head[:strings.LastIndexByte(head, '\n')+1]
	_, tail, _ = strings.Cut(tail, "\n")
	return head + gap + tail
}

// Unknown returns the machine, of type "machines", or the resource of which the
// evaluation needed what is not known yet. Ok is false when it failed for another reason.
func (e *EvalError) Unknown() (typ, name string, ok bool) {
	m := noFact.FindStringSubmatch(e.Message)
	switch {
	case m == nil:
		return "", "", false
	case m[1] != "":
		return "machines", m[1], true
	}
	return m[2], m[3], true
}

// Hint says what may help, if anything is known.
func (e *EvalError) Hint() string {
	switch {
	case strings.Contains(e.Message, sealBroken):
		return "the configuration copies the folder with nx's state into the Nix store, as src = ./. does: name a folder without .nx, or filter it out; a folder that is the input of a flake is copied whole, so keep .nx elsewhere with --root"
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
	noFact     = regexp.MustCompile(`^(?:networking\.privateIPv[46] of (\S+)|resources\.([^\s.]+)\.(\S+)\.[^\s.]+) is not known$`) // nix/addresses.nix, nix/nixops.nix
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
	// "string '"x"' is not equal to string '"y"'", "attribute names of attribute set '…' differs from …"
	unequal = regexp.MustCompile(`(?s)^([a-z ]+) '.*' (is not equal to|differs? from) ([a-z ]+) '.*'`)
	// The source of an assertion's condition.
	assertion = regexp.MustCompile(`(?s)\bassertion '.*'`)
	literal   = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	// What is no JSON or TOML is quoted where that shows.
	lastRead = regexp.MustCompile(`(?s)(syntax error while parsing .*?); last read: .*`)
	tomlLine = regexp.MustCompile(`(?s)(while parsing (?:a )?TOML[^\n]*)\n.*`)
)

// withoutValues cuts the values out of a message.
func withoutValues(text []string) []string {
	s := strings.Join(text, "\n")
	if keyOption.MatchString(s) {
		s = definitions.ReplaceAllStringFunc(s, func(values string) string {
			return "efinition values:\n" + strings.Join(definedIn.FindAllString(values, -1), "\n")
		})
	}
	s = wrongValue.ReplaceAllString(s, "$1")
	s = unequal.ReplaceAllString(s, "$1 $2 $3")
	s = lastRead.ReplaceAllString(s, "$1")
	s = tomlLine.ReplaceAllString(s, "$1")
	s = assertion.ReplaceAllStringFunc(s, func(source string) string { return literal.ReplaceAllString(source, `"…"`) })
	return strings.Split(s, "\n")
}

// parseError reads what Nix writes when an evaluation fails, from its line
// "error:" on. Nix 2.8 puts the message first and the trace behind it, the
// innermost step first; from 2.20 on the trace comes first, the outermost step
// first, and the message last, behind a second "error:".
// foreign tells which files are not the user's.
func parseError(lines []string, foreign func(file string) bool) *EvalError {
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
	var mine, whole strings.Builder
	message.write(&mine, "error: ", own(message))
	message.write(&whole, "error: ", message.at != "")
	file := "" // the innermost of the user's that a definition is from
	for _, s := range trace {
		s.text = withoutValues(s.text)
		s.write(&whole, "… ", s.at != "")
		// The module system says which option it was at, and whose definition.
		from := fromText.FindStringSubmatch(s.text[0])
		if !own(s) && (from == nil || filepath.IsAbs(from[1]) && foreign(from[1])) {
			continue
		}
		if e.Position == "" && own(s) {
			e.Position = s.at
		}
		if from != nil && file == "" && !foreign(from[1]) {
			file = from[1]
		}
		s.write(&mine, "… ", own(s))
	}
	if e.Position == "" && !strings.Contains(e.Message, file) {
		e.Position = file
	}
	e.own, e.whole = mine.String(), whole.String()
	return e
}

// write adds the step to b, and where it is if placed is set.
func (s *step) write(b *strings.Builder, mark string, placed bool) {
	text := strings.TrimRight(strings.Join(s.text, "\n"), "\n ")
	fmt.Fprintf(b, "%s%s\n", mark, strings.TrimLeft(text, "\n"))
	if placed {
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

// failure returns the error of which t is the text, with the names of the
// user's files as the user knows them, relative where they are below the working
// directory, and those of a session's folder as in nx: a record is the same
// wherever the network's folder is.
func (s *session) failure(t *transcript) *EvalError {
	e := parseError(t.lines, s.foreign)
	for _, text := range []*string{&e.Message, &e.Position, &e.own, &e.whole} {
		*text = below(s.dir, `(?:nix|request-\d+)/`).ReplaceAllString(*text, "${1}nx/")
		if s.local != "" {
			*text = below(s.source, "").ReplaceAllString(*text, "${1}"+strings.ReplaceAll(s.local, "$", "$$")+"/")
		}
		*text = below(s.cwd, "").ReplaceAllString(*text, "$1")
	}
	return e
}

// below matches where the name of a file below dir begins, up to folders there
// that match rest.
func below(dir, rest string) *regexp.Regexp {
	return regexp.MustCompile(`(^|[^\w/.-])` + regexp.QuoteMeta(strings.TrimSuffix(dir, "/")+"/") + rest)
}
