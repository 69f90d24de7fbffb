package state

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"
)

// A storage is where the bytes of one state are. It is used by one goroutine at a
// time.
type storage interface {
	// get returns the bytes. Without any the object is zero.
	get(ctx context.Context) (object, error)

	// put replaces the bytes that had version, "" when there were none, and returns
	// the new version. The error wraps errChanged when there are others by now, and
	// errLost when the lock is not held any longer; then nothing was written.
	// Afterwards what was written survives a crash. Bytes that are private nobody
	// but the owner can read.
	put(ctx context.Context, data []byte, version string, private bool) (string, error)

	// lock keeps others from lock and force from then on. While another has it,
	// which wait is told once, it waits.
	lock(ctx context.Context, wait func(Holder)) error
	unlock(ctx context.Context) error

	// force ends the lock that another has, and returns who.
	force(ctx context.Context) (Holder, error)

	String() string
}

// An object is what a storage has.
type object struct {
	data    []byte
	version string
	exposed error // why others than its owner can read it; nil when none can
}

var (
	errChanged  = errors.New("it was changed by somebody else in the meantime")
	errLost     = errors.New("its lock was taken away")
	errSilent   = errors.New("no answer in time")
	errUnlocked = errors.New("nobody has locked it")
)

// lost returns why this process may not write any longer, err.
func lost(err error) error {
	return &hinted{err, "nothing of the other's was overwritten: run this again when nobody else does; what was begun is found again"}
}

// at returns the storage of a location, a file or s3://BUCKET/KEY.
func at(ctx context.Context, location string) (storage, error) {
	switch scheme, _, ok := strings.Cut(location, "://"); {
	case location == "":
		return nil, errors.New("its location is empty")
	case !ok && !strings.HasPrefix(location, "s3:"):
		return newFile(location), nil
	case scheme == "s3":
		return newBucket(ctx, location)
	default:
		return nil, errors.New("it is neither a file nor s3://BUCKET/KEY")
	}
}

// A Holder is who has a state locked. It is zero when that is not known.
type Holder struct {
	Owner string    `json:"owner"` // USER@HOST
	PID   int       `json:"pid"`   // on that host
	Since time.Time `json:"since"` // to the second, UTC
	ID    string    `json:"id"`    // unique
}

func (h Holder) String() string {
	if h.Owner == "" {
		return "somebody"
	}
	return fmt.Sprintf("%s (process %d) since %s", h.Owner, h.PID, h.Since.Format("2006-01-02 15:04:05 MST"))
}

// self is this process as one that locks now.
func self() Holder {
	name := strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, _ := os.Hostname()
	return Holder{Owner: name + "@" + cmp.Or(host, "localhost"), PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second), ID: newUUID()}
}

// A hinted error says what to try next.
type hinted struct {
	error
	hint string
}

func (e *hinted) Hint() string  { return e.hint }
func (e *hinted) Unwrap() error { return e.error }
