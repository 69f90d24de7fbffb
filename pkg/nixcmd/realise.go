package nixcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/tidwall/gjson"

	"nx/pkg/store"
)

// A BuildError is why a derivation could not be built.
type BuildError struct {
	Drv    store.Path // the one that was wanted
	Reason string     // "builder for '/nix/store/….drv' failed with exit code 1": the one that broke
	log    string
}

func (e *BuildError) Error() string { return fmt.Sprintf("build %s: %s", e.Drv, e.Reason) }

// Log returns the last lines that the derivation which broke wrote.
func (e *BuildError) Log() string { return e.log }

// Hint says what may help, if anything is known.
func (e *BuildError) Hint() string {
	if otherPlatform.MatchString(e.Reason) {
		return "it is for another platform than this machine's: name a machine that can build it in /etc/nix/machines, or have this one emulate it (boot.binfmt.emulatedSystems on NixOS)"
	}
	return ""
}

// "a 'aarch64-linux' with features {} is required to build 'DRV', but I am a 'x86_64-linux' …",
// later "Cannot build 'DRV': required system or feature not available".
var otherPlatform = regexp.MustCompile(`with features \{.*\} is required to build|required system or feature not available`)

// errNoDerivation is the error of a derivation that was collected as garbage,
// or was evaluated on another machine.
type errNoDerivation store.Path

func (e errNoDerivation) Error() string {
	return fmt.Sprintf("build %s: the derivation is not in the store", string(e))
}

func (e errNoDerivation) Hint() string { return "run nx-eval again, on this machine" }

// Realise builds drvs, or fetches what they would give, with one scheduler. It
// calls done once for each derivation, from one goroutine: with the path of the
// output "out" as soon as that is valid, or with the error of that derivation. The
// returned error is of Nix as a whole; then some derivations were not done.
func (n *Nix) Realise(ctx context.Context, drvs []store.Path, done func(drv, out store.Path, err error)) error {
	b := newBuilds(n, done)
	var asked []store.Path
	for _, drv := range drvs {
		out, err := outOf(drv)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			done(drv, "", errNoDerivation(drv))
		case err != nil:
			done(drv, "", fmt.Errorf("build %s: %w", drv, err))
		default:
			b.wanted[drv] = out
			asked = append(asked, drv)
		}
	}
	if err := b.settle(ctx, asked); err != nil {
		return err
	}
	for len(b.wanted) > 0 {
		before := b.still(asked)
		b.built = 0 // each run counts for itself
		args := []string{"--realise", "--keep-going", "--log-format", "internal-json", "-v"}
		args = append(args, before...)
		cmd := n.command(ctx, "nix-store", args...)
		err := follow(cmd, cmd.Start, func(line string) { b.line(ctx, line) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// What the log did not tell of, such as a substituted path.
		if err := b.settle(ctx, asked); err != nil {
			return err
		}
		// --keep-going notwithstanding, a derivation for another platform ends
		// it all: the others are asked for again.
		for _, drv := range b.still(asked) {
			if broken := b.whatBroke(ctx, store.Path(drv)); broken != "" {
				b.fail(ctx, store.Path(drv), broken, nil)
			}
		}
		left := b.still(asked)
		if len(left) < len(before) {
			continue
		}
		if err == nil {
			err = errors.New("nix-store --realise: it ended without the output")
		} else if b.last != "" {
			err = errors.New(b.last)
		}
		for _, drv := range left {
			b.fail(ctx, store.Path(drv), "", err)
		}
	}
	return nil
}

// builds follows one nix-store --realise.
type builds struct {
	*Nix
	done    func(drv, out store.Path, err error)
	wanted  map[store.Path]store.Path // not done yet: derivation to output
	running map[string]*activity      // by Nix' id
	built   int64                     // what Nix counts as done
	broken  map[store.Path]*activity  // derivations that failed by themselves
	reasons map[store.Path]string     // what Nix said of them
	last    string                    // the last error
}

func newBuilds(n *Nix, done func(drv, out store.Path, err error)) *builds {
	return &builds{Nix: n, done: done, wanted: map[store.Path]store.Path{}, running: map[string]*activity{},
		broken: map[store.Path]*activity{}, reasons: map[store.Path]string{}}
}

// An activity is one derivation's build.
type activity struct {
	drv store.Path
	log bytes.Buffer // bounded by keptLog
}

// keptLog bounds what is remembered of one build's log, in bytes.
const keptLog = 64 << 10

// Types of activities and results in Nix' internal-json log (src/libutil/logging.hh).
const (
	actCopyPath      = 100
	actBuilds        = 104
	actBuild         = 105
	actSubstitute    = 108
	resBuildLogLine  = 101
	resPostBuildLine = 107
	resProgress      = 105
	levelError       = 0
	internalJSON     = "@nix "
)

var (
	escapes = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")
	// "1 dependencies of derivation 'DRV' failed to build", later "Reason: 1 dependency failed."
	ofOthers = regexp.MustCompile(`(?m)^(?:\s*Reason: )?\d+ dependenc(?:y|ies) `)
	drvPath  = regexp.MustCompile(`/nix/store/[0-9a-z]{32}-[0-9A-Za-z+._?=-]+\.drv`)
)

func (b *builds) line(ctx context.Context, line string) {
	raw, ok := strings.CutPrefix(line, internalJSON)
	if !ok || !gjson.Valid(raw) {
		b.log().Debug("output", "line", line)
		return
	}
	event := gjson.Parse(raw)
	id := event.Get("id").Raw
	fields := event.Get("fields").Array()
	switch event.Get("action").Str {
	case "start":
		b.start(id, event.Get("type").Int(), fields)
	case "result":
		a := b.running[id]
		if a == nil || len(fields) == 0 {
			return
		}
		switch event.Get("type").Int() {
		case resBuildLogLine, resPostBuildLine:
			a.add(escapes.ReplaceAllString(fields[0].String(), ""))
			b.log().Debug("output", "drv", a.drv, "line", fields[0].String())
		case resProgress:
			// The activity of a wanted derivation stops only when all have, but
			// the count of finished builds goes up when its output is there.
			if a.drv == "" && fields[0].Int() > b.built {
				b.built = fields[0].Int()
				b.settleRunning(ctx)
			}
		}
	case "stop":
		if a := b.running[id]; a != nil && b.wanted[a.drv] == "" {
			delete(b.running, id)
		}
	case "msg":
		msg := event.Get("raw_msg").Str
		if msg == "" {
			msg = event.Get("msg").Str
		}
		msg = strings.TrimPrefix(escapes.ReplaceAllString(msg, ""), "error: ")
		if event.Get("level").Int() == levelError {
			b.failed(ctx, msg)
		} else {
			b.log().Debug("output", "line", msg)
		}
	}
}

func (b *builds) start(id string, typ int64, fields []gjson.Result) {
	switch typ {
	case actBuilds:
		b.running[id] = &activity{}
	case actBuild:
		if len(fields) > 0 {
			a := &activity{drv: store.Path(fields[0].String())}
			b.running[id] = a
			b.log().Info("building", "drv", a.drv)
		}
	case actCopyPath, actSubstitute:
		if len(fields) > 0 {
			b.log().Debug("fetching", "path", fields[0].String())
		}
	}
}

func (a *activity) add(line string) {
	a.log.WriteString(line)
	a.log.WriteByte('\n')
	if over := a.log.Len() - keptLog; over > 0 {
		a.log.Next(over)
	}
}

// failed takes an error that Nix wrote while it goes on with other builds.
func (b *builds) failed(ctx context.Context, msg string) {
	b.last = firstLine(msg)
	drv := store.Path(drvPath.FindString(msg))
	if drv == "" {
		return
	}
	if !ofOthers.MatchString(msg) {
		if _, ok := b.reasons[drv]; !ok {
			b.reasons[drv] = reason(msg)
		}
		for _, a := range b.running {
			if a.drv == drv {
				b.broken[drv] = a
			}
		}
	}
	// The last message of all names every derivation that was asked for.
	if _, ok := b.wanted[drv]; ok && !strings.HasPrefix(msg, "build of ") {
		b.fail(ctx, drv, b.whatBroke(ctx, drv), errors.New(b.last))
	}
}

// reason makes one line of a message. Later Nix says "Cannot build 'DRV'." and
// the reason on the line behind.
func reason(msg string) string {
	for _, line := range strings.Split(msg, "\n") {
		if r, ok := strings.CutPrefix(strings.TrimSpace(line), "Reason: "); ok {
			return fmt.Sprintf("%s: %s", strings.TrimSuffix(firstLine(msg), "."), strings.TrimSuffix(r, "."))
		}
	}
	return strings.TrimSuffix(firstLine(msg), ";")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// still returns those of drvs that are not done yet.
func (b *builds) still(drvs []store.Path) (left []string) {
	for _, drv := range drvs {
		if _, ok := b.wanted[drv]; ok {
			left = append(left, string(drv))
		}
	}
	return left
}

// whatBroke returns the derivation, drv itself or one it needs, that failed by
// itself, empty when none is known.
func (b *builds) whatBroke(ctx context.Context, drv store.Path) store.Path {
	if len(b.reasons) == 0 {
		return ""
	}
	if _, ok := b.reasons[drv]; ok {
		return drv
	}
	needs, err := b.output(ctx, "nix-store", "--query", "--requisites", string(drv))
	if err != nil {
		b.log().Debug("output", "line", err.Error())
	}
	for _, p := range strings.Fields(string(needs)) {
		if _, ok := b.reasons[store.Path(p)]; ok {
			return store.Path(p)
		}
	}
	return ""
}

// fail reports drv's failure: because of broken, or where that is not known, of err.
func (b *builds) fail(ctx context.Context, drv, broken store.Path, err error) {
	delete(b.wanted, drv)
	e := &BuildError{Drv: drv}
	if broken != "" {
		e.Reason, e.log = b.reasons[broken], b.logOf(ctx, broken)
	} else {
		e.Reason = err.Error()
	}
	b.done(drv, "", e)
}

// logOf returns the last lines of what drv's build wrote, now or when it failed before.
func (b *builds) logOf(ctx context.Context, drv store.Path) string {
	if a := b.broken[drv]; a != nil && a.log.Len() > 0 {
		return a.log.String()
	}
	old, err := b.output(ctx, "nix-store", "--read-log", string(drv))
	if err != nil {
		return ""
	}
	if len(old) > keptLog {
		old = old[len(old)-keptLog:]
	}
	return string(old)
}

// settleRunning reports those whose build has begun and whose output is there.
func (b *builds) settleRunning(ctx context.Context) {
	var begun []store.Path
	for _, a := range b.running {
		if _, ok := b.wanted[a.drv]; ok {
			begun = append(begun, a.drv)
		}
	}
	if err := b.settle(ctx, begun); err != nil {
		b.log().Debug("output", "line", err.Error())
	}
}

// settle reports those of drvs whose output is valid.
func (b *builds) settle(ctx context.Context, drvs []store.Path) error {
	args := []string{"--check-validity", "--print-invalid"}
	for _, drv := range drvs {
		if out, ok := b.wanted[drv]; ok {
			args = append(args, string(out))
		}
	}
	if len(args) == 2 {
		return nil
	}
	said, err := b.output(ctx, "nix-store", args...)
	if err != nil {
		return fmt.Errorf("ask which outputs are there: %w", err)
	}
	invalid := map[string]bool{}
	for _, p := range strings.Fields(string(said)) {
		invalid[p] = true
	}
	for _, drv := range drvs {
		if out, ok := b.wanted[drv]; ok && !invalid[string(out)] {
			delete(b.wanted, drv)
			b.done(drv, out, nil)
		}
	}
	return nil
}

// outOf returns the path of a derivation's output "out", from its file.
func outOf(drv store.Path) (store.Path, error) {
	text, err := os.ReadFile(string(drv))
	if err != nil {
		return "", err
	}
	outputs, err := parseOutputs(string(text))
	if err != nil {
		return "", fmt.Errorf("read derivation: %w", err)
	}
	out, ok := outputs["out"]
	if !ok {
		return "", errors.New(`read derivation: it has no output "out"`)
	}
	return store.Parse(out)
}

// parseOutputs reads the outputs, by name, of a derivation in its text form:
// Derive([("out","/nix/store/…","",""),…],… (Nix manual, derivation, ATerm format).
func parseOutputs(text string) (map[string]string, error) {
	rest, ok := strings.CutPrefix(text, "Derive([")
	if !ok {
		return nil, errors.New(`it does not begin with "Derive(["`)
	}
	outputs := map[string]string{}
	for {
		if strings.HasPrefix(rest, "]") {
			return outputs, nil
		}
		rest = strings.TrimPrefix(rest, ",")
		var tuple [4]string
		for i, before := range [4]string{"(", ",", ",", ","} {
			s, ok := strings.CutPrefix(rest, before)
			if !ok {
				return nil, fmt.Errorf("output %d: want %q", len(outputs), before)
			}
			if tuple[i], rest, ok = cutString(s); !ok {
				return nil, fmt.Errorf("output %d: want a string", len(outputs))
			}
		}
		if rest, ok = strings.CutPrefix(rest, ")"); !ok {
			return nil, fmt.Errorf("output %d: want %q", len(outputs), ")")
		}
		outputs[tuple[0]] = tuple[1]
	}
}

// cutString reads one quoted string. Names and paths need no escapes, so one
// that has any is refused.
func cutString(s string) (value, rest string, ok bool) {
	s, ok = strings.CutPrefix(s, `"`)
	if !ok {
		return "", "", false
	}
	value, rest, ok = strings.Cut(s, `"`)
	return value, rest, ok && !strings.Contains(value, `\`)
}
