package activate

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"nx/pkg/store"
)

// A facts is what the script says on stdout, in its order: a word and a value.
type facts [][2]string

func parse(stdout string) facts {
	var fs facts
	for line := range strings.Lines(stdout) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		fs = append(fs, [2]string{key, value})
	}
	return fs
}

// first returns the value that was said first.
func (fs facts) first(key string) string {
	for _, f := range fs {
		if f[0] == key {
			return f[1]
		}
	}
	return ""
}

// value returns the value that was said last, "" when none was.
func (fs facts) value(key string) string {
	for _, f := range slices.Backward(fs) {
		if f[0] == key {
			return f[1]
		}
	}
	return ""
}

func (fs facts) has(key string) bool {
	return slices.ContainsFunc(fs, func(f [2]string) bool { return f[0] == key })
}

// code returns an exit status; -1 when that step was not done.
func (fs facts) code(step string) int {
	n, err := strconv.Atoi(fs.value(step))
	if err != nil {
		return -1
	}
	return n
}

// previous is the system that the action replaces; "" when there was none.
func (fs facts) previous(action Action) store.Path {
	key := "running"
	if action == Boot {
		key = "default"
	}
	p, err := store.Parse(fs.first(key))
	if err != nil {
		return ""
	}
	return p
}

// judge says how the activation ended, from the facts of a host that was reached
// to the end. The exit statuses are those of NixOS' switch-to-configuration.
func judge(action Action, path store.Path, fs facts, said *output) (Activation, error) {
	got := Activation{
		Previous:     fs.previous(action),
		RebootNeeded: fs.has("reboot-needed"),
	}
	if action != Test {
		got.Generation, _ = strconv.Atoi(fs.value("generation"))
	}
	if action == Boot && fs.first("running") != string(path) {
		got.RebootNeeded = true
	}
	fail := func(r Result, hint, format string, args ...any) (Activation, error) {
		got.Result = r
		return got, &failure{verb: verb(action, path), cause: fmt.Sprintf(format, args...), hint: hint, log: said.tail()}
	}
	test, boot := fs.code("test"), fs.code("boot")
	switch {
	case fs.has("busy"):
		return fail(Failed, "wait for it to end; its log is /run/nx/log on the host", "another activation is in work on the host")
	case fs.has("unready"):
		after := "nothing was changed"
		if test == 0 || test == 4 {
			after = "profile and boot default are as before, the running system is the new one"
		}
		return fail(Failed, "is the host's disk full, or mounted read-only?", "it cannot be noted on the host%s; %s", because(fs.value("unready")), after)
	case fs.has("unchanged"):
		got.Result = Unchanged
		return got, nil
	case !fs.has("end"):
		return fail(Unknown, "run nx-activate again: it finishes what is half done", "its script on the host was stopped before its end")
	case action == DryActivate && test == 0:
		got.Result, got.Generation = Dry, 0
		return got, nil
	}

	if test == 4 {
		got.FailedUnits = said.failedUnits()
	}
	switch {
	case fs.code("profile") > 0 || boot > 0:
		what := fmt.Sprintf("install the boot loader: exit status %d", boot)
		if boot < 0 {
			what = fmt.Sprintf("set the profile: exit status %d", fs.code("profile"))
		}
		what += because(fs.value("why"))
		after := "profile and boot default are as before"
		if fs.code("back") != 0 {
			after = "profile and boot default may disagree"
		}
		if action == Switch {
			after += ", the running system is the new one"
		}
		return fail(Failed, "is there room left on /boot and below /nix? Run nx-activate again when the cause is gone", "%s; %s", what, after)
	case test == 100:
		got.RebootNeeded = true
		return fail(Failed, "make it the boot default with nx-activate boot, then reboot the host",
			"its init is incompatible with the running one: it needs a reboot, and nothing was switched")
	case test == 4:
		units := cmp.Or(strings.Join(got.FailedUnits, ", "), "see the log")
		return fail(Failed, "the host runs the new system; look at the units with systemctl status there", "units failed: %s", units)
	case test == 1:
		return fail(Failed, "", "it was refused, and nothing was changed%s", because(said.last()))
	case test == 2:
		return fail(Failed, stays(action), "its activation script failed%s", because(said.last()))
	case test == 3:
		return fail(Failed, stays(action), "systemd could not reload its units, or tmpfiles failed%s", because(said.last()))
	case test > 128:
		return fail(Failed, stays(action), "switch-to-configuration was ended by signal %d", test-128)
	case test > 0:
		return fail(Failed, stays(action), "switch-to-configuration: exit status %d%s", test, because(said.last()))
	}
	if tested, set := test == 0, fs.code("profile") == 0 && boot == 0; action != Boot && !tested || action != Test && !set {
		return fail(Unknown, "run nx-activate again", "its script on the host did not say how a step ended")
	}
	got.Result = Activated
	return got, nil
}

// because is the last line that a program printed as the end of a message.
func because(last string) string {
	if last = strings.TrimSpace(last); last == "" {
		return ""
	}
	return ": " + last
}

// stays says what a switch that stopped halfway left.
func stays(action Action) string {
	if action == DryActivate {
		return ""
	}
	return "the running system may be part old, part new; the boot default is still the old one. Run nx-activate again when the cause is gone"
}

// A failure says what was not done and why.
type failure struct {
	verb, cause, hint, log string
	err                    error // what cause is made from, when that is an error
}

func (f *failure) Error() string { return f.verb + ": " + f.cause }

// Hint returns what to try, or "".
func (f *failure) Hint() string { return f.hint }

// Log returns the last lines that the host's programs printed.
func (f *failure) Log() string { return f.log }

func (f *failure) Unwrap() error { return f.err }
