package nixcmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"nx/pkg/store"
)

// A Destination is a store that Nix knows: a binary cache as in "s3://bucket" or
// "file:///srv/cache", or another one, as in "ssh-ng://host".
type Destination struct {
	Nix   *Nix
	Store string // as Nix names it, with parameters such as "?compression=zstd"

	// SignKey, unless empty, is a file with a secret key. A binary cache signs what it
	// is sent. What goes to another store is signed in this machine's before.
	SignKey string
}

// A SendError is why a path, with all it refers to, is not in a store.
type SendError struct {
	Path store.Path
	To   string
	Err  error
	hint string
}

func (e *SendError) Error() string { return fmt.Sprintf("send %s to %s: %v", e.Path, e.To, e.Err) }

func (e *SendError) Unwrap() error { return e.Err }

// Hint says what may help, if anything is known.
func (e *SendError) Hint() string { return e.hint }

// seldom is how often it is told to who sees no details how far it is.
const seldom = 30 * time.Second

// maxPaths is how many paths go on a command line: of some hundred bytes each, where
// Linux takes 2 MiB.
const maxPaths = 4096

// Send brings paths, with all they refer to, to the store, what they share once, and
// calls done once for each, from one goroutine. What is there is not sent. It logs
// how far all of it is, as details and now and then for everybody: sending, with done
// and all, objects; and, where Nix tells, as details, reading, with doneBytes and
// allBytes of their NARs.
func (d *Destination) Send(ctx context.Context, paths []store.Path, done func(p store.Path, err error)) {
	for some := range slices.Chunk(paths, maxPaths) {
		d.some(ctx, some, func(p store.Path, err error) {
			if err != nil {
				e := &SendError{Path: p, To: d.Store, Err: err}
				if errors.Is(err, errInvalid) {
					e.hint = "it is not in this machine's store, or no longer: run nx-build again, here"
				}
				err = e
			}
			done(p, err)
		})
	}
}

var errInvalid = errors.New("the path is not valid")

// some is Send for what fits on a command line.
func (d *Destination) some(ctx context.Context, paths []store.Path, done func(store.Path, error)) {
	all := func(paths []store.Path, err error) {
		for _, p := range paths {
			done(p, err)
		}
	}
	// Nix would try to fetch them, or fail for all.
	invalid, err := d.Nix.Invalid(ctx, paths...)
	if err != nil {
		all(paths, err)
		return
	}
	all(invalid, errInvalid)
	paths = slices.DeleteFunc(slices.Clone(paths), func(p store.Path) bool { return slices.Contains(invalid, p) })
	if len(paths) == 0 {
		return
	}
	err = d.copy(ctx, paths)
	if err == nil || len(paths) == 1 || ctx.Err() != nil {
		all(paths, err)
		return
	}
	// One that cannot be sent may have ended it for all; or it is the store, which
	// then cannot be asked either.
	there, unasked := d.valid(ctx, paths)
	if unasked != nil {
		all(paths, err)
		return
	}
	for _, p := range paths {
		if there[p] {
			done(p, nil)
		} else {
			done(p, d.copy(ctx, []store.Path{p}))
		}
	}
}

// copy runs nix copy. It succeeds when all is there.
func (d *Destination) copy(ctx context.Context, paths []store.Path) error {
	to, err := d.signing(ctx, paths)
	if err != nil {
		return err
	}
	// With keep-going later Nix sends what it can, and then says nothing by its exit
	// status. The checks are those of nx-copy's own protocol: who may write the store
	// vouches for what is sent.
	args := append([]string{"copy", "--extra-experimental-features", "nix-command", "--option", "keep-going", "true",
		"--no-check-sigs", "--log-format", "internal-json", "--to", to}, texts(paths)...)
	s := newSending(d.Nix.log())
	err = d.Nix.follow(ctx, s.line, "nix", args...)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.first != "":
		return errors.New(s.first)
	}
	return err
}

// signing returns the store's name with the key that it is to sign with, or signs
// here.
func (d *Destination) signing(ctx context.Context, paths []store.Path) (string, error) {
	if d.SignKey == "" {
		return d.Store, nil
	}
	switch scheme, _, _ := strings.Cut(d.Store, "://"); scheme {
	case "file", "http", "https", "s3":
		sep := "?"
		if strings.Contains(d.Store, "?") {
			sep = "&"
		}
		return d.Store + sep + "secret-key=" + url.PathEscape(d.SignKey), nil
	}
	args := append([]string{"store", "sign", "--extra-experimental-features", "nix-command", "--key-file", d.SignKey, "--recursive"}, texts(paths)...)
	if _, err := d.Nix.output(ctx, "nix", args...); err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return d.Store, nil
}

// valid returns those of paths that the store has.
func (d *Destination) valid(ctx context.Context, paths []store.Path) (map[store.Path]bool, error) {
	args := append([]string{"path-info", "--extra-experimental-features", "nix-command", "--json", "--store", d.Store}, texts(paths)...)
	out, err := d.Nix.output(ctx, "nix", args...)
	if err != nil {
		return nil, err
	}
	return parseValid(out)
}

// parseValid reads what nix path-info --json prints: a list of objects until Nix 2.18,
// then an object by path, with null for what is not valid.
func parseValid(out []byte) (map[store.Path]bool, error) {
	if !gjson.ValidBytes(out) {
		return nil, errors.New("nix path-info: it prints no JSON")
	}
	there := map[store.Path]bool{}
	answer := gjson.ParseBytes(out)
	answer.ForEach(func(key, info gjson.Result) bool {
		path := key.Str
		if answer.IsArray() {
			path = info.Get("path").Str
		}
		there[store.Path(path)] = info.IsObject() && info.Get("valid").Type != gjson.False
		return true
	})
	return there, nil
}

func texts(paths []store.Path) []string {
	all := make([]string, len(paths))
	for i, p := range paths {
		all[i] = string(p)
	}
	return all
}

// sending follows one nix copy.
type sending struct {
	log     *slog.Logger
	tally   *tally
	running map[string]bool // objects, by Nix' id
	all     int64           // objects
	done    int64
	bytes   int64     // the last that was logged
	said    time.Time // when it was last told to all
	first   string    // error
}

func newSending(log *slog.Logger) *sending {
	return &sending{log: log, tally: newTally(), running: map[string]bool{}, said: time.Now()}
}

// "copying 812 paths": the text alone says it, in all versions.
var copyingPaths = regexp.MustCompile(`^copying (\d+) paths`)

func (s *sending) line(line string) {
	e, ok := parseEvent(line)
	if !ok {
		s.log.Debug("output", "line", line)
		return
	}
	s.tally.take(e)
	switch {
	case e.action == "start" && e.typ == actCopyPaths:
		if m := copyingPaths.FindStringSubmatch(e.text); m != nil {
			s.all, _ = strconv.ParseInt(m[1], 10, 64)
			s.tell()
		}
	case e.action == "start" && e.typ == actCopyPath:
		s.running[e.id] = true
	case e.action == "stop" && s.running[e.id]:
		delete(s.running, e.id)
		s.done++
		s.tell()
	case e.action == "result" && e.typ == resProgress:
		if p := s.tally.progress(); percent(p.Unpacked, p.Unpack) != percent(s.bytes, p.Unpack) {
			s.bytes = p.Unpacked
			s.log.Debug("reading", "doneBytes", p.Unpacked, "allBytes", p.Unpack)
		}
	case e.action == "msg" && e.level == levelError:
		if s.first == "" {
			s.first = strings.Replace(strings.TrimPrefix(firstLine(e.text), "could not "), ": error: ", ": ", 1)
		}
	case e.action == "msg":
		s.log.Debug("output", "line", e.text)
	}
}

// tell logs how many objects are there.
func (s *sending) tell() {
	level := slog.LevelDebug
	if now := time.Now(); now.Sub(s.said) >= seldom {
		s.said, level = now, slog.LevelInfo
	}
	s.log.Log(context.Background(), level, "sending", "done", s.done, "all", max(s.all, s.done))
}
