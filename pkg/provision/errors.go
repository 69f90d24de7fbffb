package provision

import (
	"errors"
	"fmt"

	"nx/pkg/state"
)

func isNotMade(err error) bool { return errors.Is(err, ErrNotMade) }

// An unfinishedError is that of a creation which was begun, and of which something may
// be there.
type unfinishedError struct {
	ref         Ref
	id          string // "" when it is not known whether anything was made
	cause       error
	interrupted bool
}

func (e *unfinishedError) Error() string {
	what := "it may have been made"
	if e.id != "" {
		what = fmt.Sprintf("%s was made and is not ready", e.id)
	}
	return fmt.Sprintf("create %s: %s: %v", e.ref, what, e.cause)
}

func (e *unfinishedError) Unwrap() error { return e.cause }

func (e *unfinishedError) Hint() string {
	var own interface{ Hint() string }
	if !e.interrupted && errors.As(e.cause, &own) && own.Hint() != "" {
		return own.Hint()
	}
	hint := "it is remembered: run nx-provision again to go on with it"
	if e.ref.Type == state.Machines {
		hint += fmt.Sprintf(", or nx-provision destroy --on %s to have it removed", e.ref)
	}
	return hint
}

// An interruptedError is that of a destruction which was told to end, and of which it is
// not known how far it came.
type interruptedError struct {
	ref   Ref
	cause error
}

func (e *interruptedError) Error() string {
	return fmt.Sprintf("destroy %s: it may be there or not: %v", e.ref, e.cause)
}

func (e *interruptedError) Unwrap() error { return e.cause }

func (e *interruptedError) Hint() string {
	return "it is remembered: run the same again, which goes on with it"
}

// An inUseError is that of something that cannot go because another needs it.
type inUseError struct{ user Ref }

func (e *inUseError) Error() string { return fmt.Sprintf("destroy it: %s needs it", e.user) }

func (e *inUseError) Hint() string { return fmt.Sprintf("destroy %s, too, or before", e.user) }

// A downError says that a machine or a resource is not there, or does not run.
type downError struct {
	what  string
	state State
}

func (e *downError) Error() string { return "check " + e.what + ": it is " + string(e.state) }

func (e *downError) Hint() string { return "nx-provision apply makes and starts machines" }
