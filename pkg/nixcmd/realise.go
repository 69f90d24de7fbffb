package nixcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"nx/pkg/store"
)

// A BuildError is why a derivation could not be built.
type BuildError struct {
	Drv    store.Path // the one that was wanted
	Reason string     // "builder for '/nix/store/….drv' failed with exit code 1": the one that broke
	log    string
	hint   string
}

func (e *BuildError) Error() string { return fmt.Sprintf("build %s: %s", e.Drv, e.Reason) }

// Log returns the last lines that the derivation which broke wrote.
func (e *BuildError) Log() string { return e.log }

// Hint says what may help, if anything is known.
func (e *BuildError) Hint() string {
	if e.hint != "" {
		return e.hint
	}
	if m := otherPlatform.FindStringSubmatch(e.Reason); m != nil {
		if m[1] != "" && m[1] != m[3] {
			return foreignHint(m[1])
		}
		features := "requiredSystemFeatures"
		if m[2] != "" {
			features += " " + m[2]
		}
		return fmt.Sprintf("no machine that may build it has what it needs (%s): name one that has (--builders, or /etc/nix/machines), or say that this one has (--option system-features)", features)
	}
	return ""
}

// "a 'aarch64-linux' with features {} is required to build 'DRV', but I am a 'x86_64-linux' …",
// later "Cannot build 'DRV': required system or feature not available".
var otherPlatform = regexp.MustCompile(`a '([^']*)' with features \{(.*?)\} is required to build '[^']*', but I am a '([^']*)'|required system or feature not available`)

// errNoDerivation is the error of a derivation that was collected as garbage,
// or was evaluated on another machine.
type errNoDerivation store.Path

func (e errNoDerivation) Error() string {
	return fmt.Sprintf("build %s: the derivation is not in the store", string(e))
}

func (e errNoDerivation) Hint() string { return "run nx-eval again, on this machine" }

// noDerivation says which derivation could not be read, and why.
func noDerivation(drv store.Path, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errNoDerivation(drv)
	}
	return fmt.Errorf("build %s: %w", drv, err)
}

// Realise builds drvs, or fetches what they would give, with one scheduler. It logs
//
//	realising  builds and fetches: how many there are to be; download: bytes
//	building   drv, on: a builder
//	fetching   path, from: a binary cache
//	sending    (debug) path, to: a builder
//	output     (debug) drv, line: what its build says
//
// and, as details, how far all of it is: building and fetching with done and all,
// which the events above have as well, and running, how many are in work; unpacking
// with doneBytes and allBytes. It calls done once for each derivation, from one goroutine: with the path of the
// output "out" as soon as that is valid, or with the error of that derivation. The
// returned error is of Nix as a whole; then some derivations were not done.
func (n *Nix) Realise(ctx context.Context, drvs []store.Path, done func(drv, out store.Path, err error)) error {
	b := newBuilds(n, done)
	var asked []store.Path
	for _, drv := range drvs {
		out, err := outOf(drv)
		if err != nil {
			done(drv, "", noDerivation(drv, err))
			continue
		}
		b.wanted[drv] = out
		asked = append(asked, drv)
	}
	if err := n.take(ctx, asked); err != nil {
		return err
	}
	if err := b.settle(ctx, asked); err != nil {
		return err
	}
	b.refuse(ctx, asked)
	for len(b.wanted) > 0 {
		before := b.still(asked)
		b.tally, b.said = newTally(), Progress{} // each run counts for itself
		args := []string{"--realise", "--keep-going", "--log-format", "internal-json", "-v"}
		for _, drv := range before {
			args = append(args, string(drv))
		}
		err := n.follow(ctx, func(line string) { b.line(ctx, line) }, "nix-store", args...)
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
			if broken := b.whatBroke(ctx, drv); broken != "" {
				b.fail(ctx, drv, broken, nil)
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
			b.fail(ctx, drv, "", err)
		}
	}
	return nil
}

// RealiseRooted builds drv, or fetches what it would give, and returns the path of
// its output "out". Link names a symlink to that, which the same command makes and
// registers, so that there is no moment at which a collection could delete it. The
// derivation is read in this machine's store and must be in n's as well.
func (n *Nix) RealiseRooted(ctx context.Context, drv store.Path, link func(out store.Path) string) (store.Path, error) {
	out, err := outOf(drv)
	if err != nil {
		return "", noDerivation(drv, err)
	}
	args := []string{"--realise", "--log-format", "internal-json", "-v", string(drv), "--add-root", link(out)}
	if !strings.HasPrefix(link(out), "/nix/var/nix/gcroots/") {
		args = append(args, "--indirect") // since Nix 2.4 that is clear by itself
	}
	var failed error
	b := newBuilds(n, func(_, _ store.Path, err error) { failed = err })
	err = n.follow(ctx, func(line string) { b.line(ctx, line) }, "nix-store", args...)
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("build %s: %w", drv, ctx.Err())
	case err == nil:
		return out, nil
	case b.last != "":
		err = errors.New(b.last)
	}
	b.fail(ctx, drv, b.whatBroke(ctx, drv), err)
	return "", failed
}

// take copies derivations, with all that they need, from the store that Nix'
// settings name, where they were evaluated, to the one that n works on.
func (n *Nix) take(ctx context.Context, drvs []store.Path) error {
	if n.Store == "" || len(drvs) == 0 {
		return nil
	}
	args := []string{"copy", "--extra-experimental-features", "nix-command", "--derivation", "--to", n.Store}
	for _, drv := range drvs {
		args = append(args, string(drv))
	}
	from := &Nix{Options: n.Options, Log: n.Log}
	if _, err := from.output(ctx, "nix", args...); err != nil {
		return fmt.Errorf("copy derivations to %s: %w", n.Store, err)
	}
	return nil
}

// builds follows one nix-store --realise.
type builds struct {
	*Nix
	done    func(drv, out store.Path, err error)
	wanted  map[store.Path]store.Path // not done yet: derivation to output
	tally   *tally                    // of this run
	said    Progress                  // the last that was logged
	running map[string]*activity      // builds, by Nix' id
	broken  map[store.Path]*activity  // derivations that failed by themselves
	reasons map[store.Path]string     // what Nix said of them
	hints   map[store.Path]string     // what may help them
	last    string                    // the last error
}

func newBuilds(n *Nix, done func(drv, out store.Path, err error)) *builds {
	return &builds{Nix: n, done: done, wanted: map[store.Path]store.Path{}, tally: newTally(), running: map[string]*activity{},
		broken: map[store.Path]*activity{}, reasons: map[store.Path]string{}, hints: map[store.Path]string{}}
}

// refuse fails what nothing here can build, before anything is fetched or built
// for it, and says what there is to do. What it cannot find out, Nix will say.
func (b *builds) refuse(ctx context.Context, drvs []store.Path) {
	left := b.still(drvs)
	if len(left) == 0 || b.Run != nil {
		return // all is there; and what another machine can build, that one says
	}
	m, err := b.missing(ctx, left)
	var foreign map[store.Path]*foreignError
	if err == nil {
		foreign, err = b.foreign(ctx, m.Build)
	}
	if err != nil {
		b.log().Debug("output", "line", err.Error())
		return
	}
	for drv, err := range foreign {
		b.reasons[drv], b.hints[drv] = err.Error(), err.Hint()
	}
	if len(foreign) > 0 {
		for _, drv := range left {
			if broken := b.whatBroke(ctx, drv); broken != "" {
				b.fail(ctx, drv, broken, nil)
			}
		}
	}
	if len(b.wanted) > 0 {
		b.log().Info("realising", "builds", len(m.Build)-len(foreign), "fetches", len(m.Fetch), "download", m.DownloadSize)
	}
}

// An activity is one derivation's build.
type activity struct {
	drv store.Path
	log bytes.Buffer // bounded by keptLog
}

// keptLog bounds what is remembered of one build's log, in bytes.
const keptLog = 64 << 10

var (
	// "1 dependencies of derivation 'DRV' failed to build", later "Reason: 1 dependency failed."
	ofOthers = regexp.MustCompile(`(?m)^(?:\s*Reason: )?\d+ dependenc(?:y|ies) `)
	drvPath  = regexp.MustCompile(`/nix/store/[0-9a-z]{32}-[0-9A-Za-z+._?=-]+\.drv`)
)

func (b *builds) line(ctx context.Context, line string) {
	e, ok := parseEvent(line)
	if !ok {
		b.log().Debug("output", "line", line)
		return
	}
	b.tally.take(e)
	switch e.action {
	case "start":
		b.start(e)
	case "result":
		b.result(ctx, e)
	case "stop":
		if a := b.running[e.id]; a != nil && b.wanted[a.drv] == "" {
			delete(b.running, e.id)
		}
	case "msg":
		if e.level == levelError {
			b.failed(ctx, e.text)
		} else {
			b.log().Debug("output", "line", e.text)
		}
	}
}

func (b *builds) start(e event) {
	switch e.typ {
	case actBuild:
		if drv := e.field(0); drv != "" {
			b.running[e.id] = &activity{drv: store.Path(drv)}
			args := []any{"drv", drv}
			if machine := e.field(1); machine != "" {
				args = append(args, "on", machine)
			}
			p := b.tally.progress()
			b.log().Info("building", append(args, "done", p.Built, "all", p.Builds)...)
		}
	case actCopyPath:
		// The message alone says which of the two stores is this one.
		if !strings.Contains(e.text, "' from '") {
			b.log().Debug("sending", "path", e.field(0), "to", e.field(2))
			return
		}
		p := b.tally.progress()
		b.log().Info("fetching", "path", e.field(0), "from", e.field(1), "done", p.Fetched, "all", p.Fetches)
	}
}

func (b *builds) result(ctx context.Context, e event) {
	switch a := b.running[e.id]; {
	case a != nil && (e.typ == resBuildLogLine || e.typ == resPostBuildLine):
		line := e.field(0)
		a.add(escapes.ReplaceAllString(line, ""))
		b.log().Debug("output", "drv", a.drv, "line", line)
	case e.typ == resProgress || e.typ == resSetExpected:
		b.report(ctx)
	}
}

// report logs how far all of it is: when a build or a fetch has ended, and for each
// hundredth of the bytes.
func (b *builds) report(ctx context.Context) {
	p := b.tally.progress()
	// The activity of a wanted derivation stops only when all have, but the count
	// of finished builds goes up when its output is there.
	if p.Built > b.said.Built {
		b.settleRunning(ctx)
	}
	step := func(name string, was, is [3]int64) {
		if was != is {
			b.log().Debug(name, "done", is[0], "all", is[1], "running", is[2])
		}
	}
	was := b.said
	step("building", [3]int64{was.Built, was.Builds, was.Building}, [3]int64{p.Built, p.Builds, p.Building})
	step("fetching", [3]int64{was.Fetched, was.Fetches, was.Fetching}, [3]int64{p.Fetched, p.Fetches, p.Fetching})
	b.said = p
	if percent(p.Unpacked, p.Unpack) == percent(was.Unpacked, was.Unpack) {
		b.said.Unpacked, b.said.Unpack = was.Unpacked, was.Unpack
		return
	}
	b.log().Debug("unpacking", "doneBytes", p.Unpacked, "allBytes", p.Unpack)
}

// percent returns how many hundredths of all part is; 0 when nothing is known.
func percent(part, all int64) int64 {
	if all < 100 {
		return 0
	}
	return part / (all / 100)
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
			// What a builder runs is told of twice, and one of them has the log.
			if before := b.broken[drv]; a.drv == drv && (before == nil || before.log.Len() == 0) {
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
func (b *builds) still(drvs []store.Path) (left []store.Path) {
	for _, drv := range drvs {
		if _, ok := b.wanted[drv]; ok {
			left = append(left, drv)
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
		e.Reason, e.hint, e.log = b.reasons[broken], b.hints[broken], b.logOf(ctx, broken)
	} else {
		e.Reason = err.Error()
	}
	if b.Run != nil && otherPlatform.MatchString(e.Reason) {
		e.hint = "it can build no such derivation: build it here, or on a machine that can (--no-build-on-target)"
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
