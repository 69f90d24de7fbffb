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

// all returns every value that was said.
func (fs facts) all(key string) (values []string) {
	for _, f := range fs {
		if f[0] == key && !slices.Contains(values, f[1]) {
			values = append(values, f[1])
		}
	}
	return values
}

// judge says how the activation ended, from the facts of a host that was reached
// to the end. The exit statuses are those of NixOS' switch-to-configuration.
func judge(action Action, path store.Path, fs facts, said *output) (Activation, error) {
	got := Activation{
		Previous:     fs.previous(action),
		RebootNeeded: fs.has("reboot-needed"),
		Rebooted:     fs.has("rebooted"),
		FailedUnits:  fs.all("failed-unit"),
	}
	if action != Test {
		got.Generation, _ = strconv.Atoi(fs.value("generation"))
	}
	before, runs, def := fs.first("running"), fs.value("running"), fs.value("default")
	if action == Boot && runs != string(path) {
		got.RebootNeeded = true
	}
	fail := func(r Result, hint, format string, args ...any) (Activation, error) {
		got.Result = r
		return got, &failure{verb: verb(action, path), cause: fmt.Sprintf(format, args...), hint: hint, log: said.tail()}
	}
	tested := fs.code("tested")
	switch {
	case fs.has("unready"):
		return fail(Failed, "is the host's disk full, or mounted read-only?", "it cannot be noted on the host%s; nothing was changed", because(cmp.Or(fs.value("unready"), said.last())))
	case fs.has("unstaged"):
		return fail(Failed, "run nx-copy again: a reboot of the host loses them, and so does a day", "its keys are not staged on the host, and nothing was changed")
	case fs.has("unkeyed"):
		return fail(Failed, "", "install keys%s; nothing was changed", because(fs.value("unkeyed")))
	case fs.has("no-specialisation"):
		return fail(Failed, "", "the system has no such specialisation")
	case fs.has("unchanged"):
		got.Result = Unchanged
		return got, nil
	case !fs.has("end"):
		return fail(Unknown, "run nx-activate attach: it brings to an end what is half done", "its supervisor on the host was stopped before its end")
	case action == DryActivate && tested == 0:
		got.Result, got.Generation = Dry, 0
		return got, nil
	case action == DryActivate:
		return fail(Failed, "", "it was refused, and nothing was changed%s", because(said.last()))
	case fs.has("rolling-back"):
		return rolledBack(fail, fs, said, runs, def, before)
	}

	after := "profile and boot default are as before"
	if fs.has("back") && fs.code("back") != 0 {
		after = "profile and boot default may disagree"
	}
	switch {
	case fs.has("uncommitted"):
		return fail(Failed, full, "%s%s; %s", committing(fs), because(fs.value("uncommitted")), after)
	case fs.has("unrebooted"):
		return fail(Failed, "reboot it", "the host did not reboot; it is its boot default")
	case fs.has("done"):
		if got.Rebooted && runs != string(path) && action != Test {
			return fail(Failed, "look at its console, or boot its menu's last entry but one", "the host rebooted, and came up with %s", cmp.Or(runs, "nothing"))
		}
		if action != Test && def != string(path) {
			return fail(Unknown, "run nx-activate again", "its boot default is %s now", cmp.Or(def, "nothing"))
		}
		if got.Rebooted {
			got.RebootNeeded = false
		}
		got.Result = Activated
		if fs.has("late-keys") {
			_, err := fail(Activated, "run nx-copy and nx-activate again", "install keys%s; the host runs the new system", because(fs.value("late-keys")))
			return got, err
		}
		return got, nil
	case fs.has("rebooted"):
		return fail(RolledBack, "run nx-activate again", "the host rebooted before it was done; it runs %s; %s", cmp.Or(runs, "nothing"), after)
	case fs.has("back"):
		return fail(Failed, "run nx-activate again", "it was broken off while the boot default was set; %s", after)
	case tested == 100:
		got.RebootNeeded = true
		return fail(Failed, "run it with --reboot, or make it the boot default with nx-activate boot and reboot the host",
			"its init is incompatible with the running one: it needs a reboot, and nothing was switched")
	case strings.HasPrefix(fs.value("said"), "Could not acquire lock"):
		return fail(Failed, "is nixos-rebuild in work on the host? Run nx-activate again when it is through", "another switch-to-configuration has the lock, and nothing was changed")
	case tested > 0:
		return fail(Failed, "", "it was refused, and nothing was changed%s", because(said.last()))
	}
	return fail(Failed, "run nx-activate again", "it was not begun, and nothing was changed")
}

const full = "is there room left on /boot and below /nix? Run nx-activate again when the cause is gone"

// committing says what failed of setting the boot default.
func committing(fs facts) string {
	if boot := fs.code("boot"); boot >= 0 {
		return fmt.Sprintf("install the boot loader: exit status %d", boot)
	}
	return fmt.Sprintf("set the profile: exit status %d", fs.code("profile"))
}

// rolledBack judges a host that went back, or meant to.
func rolledBack(fail func(Result, string, string, ...any) (Activation, error), fs facts, said *output, runs, def, before string) (Activation, error) {
	why, hint := fs.first("rolling-back"), "run nx-activate again when the cause is gone"
	switch tested := fs.code("tested"); {
	case fs.code("profile") > 0 || fs.code("boot") > 0:
		why, hint = committing(fs)+because(strings.TrimPrefix(why, "set the boot default: ")), full
	case tested == 2:
		why = "its activation script failed" + because(lastOf(fs, said))
	case tested == 3:
		why = "systemd could not reload its units, or tmpfiles failed" + because(lastOf(fs, said))
	case tested > 128:
		why = fmt.Sprintf("switch-to-configuration was ended by signal %d", tested-128)
	case tested > 0 && tested != 4 && tested != 124:
		why += because(lastOf(fs, said))
	}
	now := fmt.Sprintf("the host runs %s", cmp.Or(runs, "nothing"))
	if fs.has("back") && fs.code("back") != 0 {
		now += "; profile and boot default may disagree"
	}
	switch {
	case fs.has("kept"):
		return fail(Failed, hint, "%s; nothing was rolled back: the running system may be part old, part new, the boot default is still the old one", why)
	case fs.has("rebooted") && runs == def:
		return fail(RolledBack, hint, "%s; it rebooted into its boot default: %s", why, now)
	case fs.has("rebooted"):
		return fail(Failed, "its console may tell why", "%s; it rebooted, and its boot default is %s, but %s", why, cmp.Or(def, "nothing"), now)
	case fs.has("unrebooted"):
		return fail(Failed, "reboot it", "%s; the way back failed too, and the host did not reboot: %s, or part of it", why, now)
	case runs == before && slices.Contains([]int{0, 3, 4}, fs.code("rolled-back")):
		return fail(RolledBack, hint, "%s; %s again", why, now)
	}
	return fail(Failed, "look at the host", "%s; the way back failed too: %s, or part of it", why, now)
}

// lastOf is what the new system's switch said last, before the way back began to speak.
func lastOf(fs facts, said *output) string {
	return cmp.Or(fs.value("said"), said.last())
}

// because is the last line that a program printed as the end of a message.
func because(last string) string {
	if last = strings.TrimSpace(last); last == "" {
		return ""
	}
	return ": " + last
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
