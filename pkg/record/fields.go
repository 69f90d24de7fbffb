package record

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/tidwall/gjson"

	"nx/pkg/store"
	"nx/pkg/target"
)

// A Stage is the step of the pipeline that owns fields of a record and that an
// error names.
type Stage string

// The stages in the order of the pipeline.
const (
	Provision Stage = "provision"
	Eval      Stage = "eval"
	Build     Stage = "build"
	Copy      Stage = "copy"
	Activate  Stage = "activate"
)

// fields are what each stage writes, in the order of the pipeline. Tags and
// target are not among them: provision and eval both contribute, and what the
// stream has wins.
var fields = []struct {
	stage Stage
	keys  []string
}{
	{Provision, []string{"machine", "outputs", "change", "drift"}},
	{Eval, []string{"system", "drvPath", "deployment"}},
	{Build, []string{"plan", "storePath", "closure"}},
	{Copy, []string{"copied"}},
	{Activate, []string{"activation"}},
}

// Reset removes what s and the stages behind it write, so that a fresh result
// never stands beside an old one.
func (r *Record) Reset(s Stage) {
	behind := false
	for _, f := range fields {
		if behind = behind || f.stage == s; behind {
			r.Delete(f.keys...)
		}
	}
}

// System returns the platform, such as "x86_64-linux", empty when not evaluated.
func (r *Record) System() string { return r.Get("system").String() }

// Tags returns the tags, sorted as they were written.
func (r *Record) Tags() []string {
	var tags []string
	r.Get("tags").ForEach(func(_, v gjson.Result) bool {
		tags = append(tags, v.String())
		return true
	})
	return tags
}

// AddTags unites tags with those that are there and sorts them.
func (r *Record) AddTags(tags ...string) error {
	all := append(r.Tags(), tags...)
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) == 0 {
		return nil
	}
	return r.Set("tags", all)
}

// DrvPath returns the system's derivation, set by nx-eval. The error names the
// field and the value when it is no derivation path.
func (r *Record) DrvPath() (store.Path, error) { return r.path("drvPath", store.ParseDerivation) }

// StorePath returns the built system, set by nx-build.
func (r *Record) StorePath() (store.Path, error) { return r.path("storePath", store.Parse) }

func (r *Record) path(key string, parse func(string) (store.Path, error)) (store.Path, error) {
	v := r.Get(key)
	if !v.Exists() {
		return "", missingError(key)
	}
	if v.Type != gjson.String {
		return "", fmt.Errorf("%q is %s, not a store path", key, shown(v))
	}
	p, err := parse(v.Str)
	if err != nil {
		return "", fmt.Errorf("%q: %w", key, err)
	}
	return p, nil
}

// A missingError names a member that an earlier tool should have set.
type missingError string

func (e missingError) Error() string { return fmt.Sprintf("the record has no %q", string(e)) }

// Hint says which tool writes the member.
func (e missingError) Hint() string {
	writer := map[string]string{"target": "nx-provision or nx-eval", "drvPath": "nx-eval", "storePath": "nx-build"}[string(e)]
	return writer + " adds it: it stands earlier in the pipe"
}

// Target returns how the host is reached. The error names the field that is
// missing, of the wrong type, or unsafe.
func (r *Record) Target() (target.Target, error) {
	v := r.Get("target")
	if !v.Exists() {
		return target.Target{}, missingError("target")
	}
	t, err := parseTarget(v, "target")
	if err != nil {
		return target.Target{}, err
	}
	return t, t.Validate()
}

func parseTarget(v gjson.Result, at string) (target.Target, error) {
	if !v.IsObject() {
		return target.Target{}, fmt.Errorf("%q is %s, not an object", at, shown(v))
	}
	var wrong error
	get := func(key string, typ gjson.Type, what string) gjson.Result {
		f := v.Get(key)
		if f.Exists() && f.Type != gjson.Null && f.Type != typ {
			wrong = fmt.Errorf("%q is %s, not %s", at+"."+key, shown(f), what)
		}
		return f
	}
	text := func(key string) string { return get(key, gjson.String, "a string").Str }
	list := func(key string) (words []string) {
		get(key, gjson.JSON, "a list of strings").ForEach(func(_, e gjson.Result) bool {
			if e.Type != gjson.String {
				wrong = fmt.Errorf("%q has %s, not a string", at+"."+key, shown(e))
			}
			words = append(words, e.Str)
			return true
		})
		return words
	}
	t := target.Target{Host: text("host"), User: text("user"), HostKeys: list("hostKeys"),
		IdentityFile: text("identityFile"), Sudo: list("sudo"), ProxyJump: text("proxyJump")}
	if port := get("port", gjson.Number, "a number"); port.Exists() {
		t.Port = int(port.Int())
		if port.Num != float64(t.Port) {
			wrong = fmt.Errorf("%q is %s, not a whole number", at+".port", port.Raw)
		}
	}
	if p := v.Get("previous"); p.Exists() && p.Type != gjson.Null {
		previous, err := parseTarget(p, at+".previous")
		if err != nil {
			return target.Target{}, err
		}
		t.Previous = &previous
	}
	return t, wrong
}

// Failed tells whether a stage failed on this host.
func (r *Record) Failed() bool {
	v := r.Get("error")
	return v.Exists() && v.Type != gjson.Null
}

// FailedStage returns the stage that failed, as the error names it.
func (r *Record) FailedStage() Stage { return Stage(r.Get("error").Get("stage").String()) }

// Message returns the error's message.
func (r *Record) Message() string { return r.Get("error").Get("message").String() }

// Fail sets the record's error. The message is err's, on one line; an error in
// its chain with a method Log() string gives the log, of which the last
// [MaxLog] bytes are kept.
func (r *Record) Fail(s Stage, err error) {
	e := struct {
		Stage   Stage  `json:"stage"`
		Message string `json:"message"`
		Log     string `json:"log,omitempty"`
	}{Stage: s, Message: OneLine(err.Error())}
	var logged interface{ Log() string }
	if errors.As(err, &logged) {
		e.Log = tail(logged.Log(), MaxLog)
	}
	r.put("error", must(e))
	r.cause = err
}

// Cause returns the error that [Record.Fail] was given in this process, nil when
// the record came with its error or has none.
func (r *Record) Cause() error { return r.cause }

// OneLine makes a message of one line out of text that may have several.
func OneLine(s string) string {
	lines := strings.FieldsFunc(Printable(s), func(c rune) bool { return c == '\n' })
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return l == "" }), "; ")
}

// escapes are the sequences by which programs colour their output and move the
// cursor (ECMA-48's CSI, and the strings of OSC and its like).
var escapes = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b[]PX^_][^\x1b\a]*(?:\a|\x1b\\\\)?")

// Printable is s without what would act on a terminal that shows it: what a host
// or a builder says is never more than text. Newlines and tabs stay, escape
// sequences go, and other control characters are written as \xNN.
func Printable(s string) string {
	s = escapes.ReplaceAllString(strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\r\n", "\n"), "")
	if !strings.ContainsFunc(s, acts) {
		return s
	}
	var b strings.Builder
	for _, c := range s {
		switch {
		case c == '\r':
			b.WriteByte('\n') // a progress line that was written over
		case acts(c):
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// acts tells whether c is a control character: C0 but tab and newline, DEL, C1.
func acts(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\t' }

// tail keeps the last n bytes of s, from the beginning of a line where there is one.
func tail(s string, n int) string {
	s = Printable(s)
	if len(s) <= n {
		return s
	}
	s = strings.ToValidUTF8(s[len(s)-n:], "")
	if i := strings.IndexByte(s, '\n'); i >= 0 && i < len(s)-1 {
		return s[i+1:]
	}
	return s
}

func must(v any) []byte {
	b, err := marshal(v)
	if err != nil {
		panic(err) // only strings inside
	}
	return b
}
