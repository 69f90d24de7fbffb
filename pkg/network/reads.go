package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"nx/pkg/inputs"
	"nx/pkg/store"
)

// A reading is what one evaluator has read until now, in order: what it answered
// depends on nothing that it read later.
type reading struct {
	*table
	own      string // the folder of nx's expressions: it is in no answer
	private  string // a folder that is to be left alone, "" for none
	from     string // the evaluation begins with this, where there are none of nx's expressions
	answered string // what the files are called that are looked for behind each answer
	pure     bool   // evaluated purely: what is fetched has a hash, and neither time nor variables are there
	whole    bool   // what it can read is known beforehand

	mu      sync.Mutex
	pid     int             // of the evaluator, once it is known
	seen    map[string]bool // a path: whether it was opened too
	has     map[inputs.Input]bool
	order   []inputs.Input
	env     int            // how many of order are variables: the first
	behind  map[string]int // how much had been read when an answer had been given, by its number
	files   []string       // that it evaluated
	opened  bool           // it has opened something in private
	begun   bool           // it evaluates; what it read before is for Nix itself
	started bool           // it reads its configuration; what it read before are its libraries
	fetches bool           // it has used Nix' cache of what was fetched, beyond what a hash names
	why     string         // why its answers are for now only; empty: they are not
}

func (r *reading) forNow(format string, args ...any) {
	if r.why == "" {
		r.why = fmt.Sprintf(format, args...)
	}
}

// saw takes one access, while the evaluator waits.
func (r *reading) saw(path string, flags, thread int) {
	opened := flags >= 0
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, ok := r.seen[path]; ok && (before || !opened) {
		return
	}
	if n, ok := strings.CutPrefix(filepath.Base(path), r.answered); ok {
		r.behind[n] = len(r.order)
		return
	}
	if inputs.Below(path, r.own) {
		r.begun = true
		return
	}
	r.begun = r.begun || r.from != "" && inputs.Below(path, r.from)
	ours, git := r.program(thread)
	if strings.HasPrefix(path, fmt.Sprintf("%s/nix-%d-", os.TempDir(), r.pid)) {
		return // a folder that the evaluator made for itself (Nix' createTempDir)
	}
	if !ours && !git {
		return // a builder's, whose derivation says what it may read
	}
	r.seen[path] = opened
	r.opened = r.opened || opened && r.private != "" && inputs.Below(path, r.private)
	switch place(path) {
	case nixOwn:
		return
	case nixFetches:
		r.fetches = !r.pure
		return
	case ofTheMoment:
		if r.begun && !ofTheRuntime(path) && (opened || strings.Count(path, "/") > 1) {
			r.forNow("it reads %s", path)
		}
		return
	case inStore:
		if p, ok := storeInput(path); ok {
			r.add(p)
			return
		}
	}
	// What a configuration includes, or a registry has, may be in the store behind a
	// link, where all files are of the same time.
	r.started = r.started || filepath.Base(path) == "nix.conf"
	if !r.begun && !r.started {
		r.add(inputs.Input{Path: programs + path})
		return
	}
	in := inputs.Input{Path: path}
	stamp := r.look(in)
	// A folder is opened as such to be listed (opendir(3)), otherwise to have it
	// written to the disk, as Nix does with its store, or to find what is in it.
	if opened && stamp.IsDir() && flags&syscall.O_DIRECTORY != 0 {
		in.List = true
		stamp = r.look(in)
	}
	if opened && stamp.IsSpecial() && r.begun {
		r.forNow("%s is no file", path)
	}
	if !r.begun && filepath.Base(path) != "nix.conf" {
		in.Path = settings + path
	}
	r.add(in)
}

func (r *reading) add(in inputs.Input) {
	if !r.has[in] {
		r.has[in] = true
		r.order = append(r.order, in)
	}
}

// clean tells whether the evaluator is seen, and has opened nothing in private.
func (r *reading) clean() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begun && r.pid != 0 && !r.opened
}

// evaluated takes the name of a file that the evaluator says it evaluates.
func (r *reading) evaluated(file string) {
	if filepath.IsAbs(file) && !inputs.Below(file, r.own) {
		r.files = append(r.files, file)
	}
}

// program tells whose an access is: the evaluator's, or git's, which it runs to
// see a repository.
func (r *reading) program(thread int) (ours, git bool) {
	if thread == r.pid {
		return true, false
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", thread))
	if err != nil {
		return true, false
	}
	name := strings.TrimPrefix(filepath.Base(exe), ".") // .nix-wrapped
	ours = strings.HasPrefix(name, "nix")
	if ours && r.pid == 0 {
		r.pid = thread
	}
	return ours, name == "git" || strings.HasPrefix(name, "git-")
}

// done says that the evaluator has ended. missed is an error if accesses were
// missed; search is Nix' search path; moment is why its answers are for now only,
// if that is known.
func (r *reading) done(missed error, search []string, moment string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if missed != nil && !r.whole {
		r.forNow("not all that it read was seen: %v", missed)
	}
	if r.pid == 0 && !r.whole {
		r.forNow("none of the programs that ran for it is called nix")
	}
	if moment != "" {
		r.forNow("%s", moment)
	}
	var env []inputs.Input
	if r.pure {
		r.files = nil
	}
	for _, file := range r.files {
		m := r.mentions(file)
		if m.other != "" {
			r.forNow("%s has %s", file, m.other)
		}
		if r.fetches && len(m.unlocked) > 0 {
			r.forNow("%s has %s, without a hash", file, m.unlocked[0])
		}
		for _, name := range m.env {
			in := inputs.Input{Path: variables + name}
			if !r.has[in] {
				r.has[in] = true
				env = append(env, in)
			}
		}
	}
	for _, entry := range search {
		if r.fetches && strings.Contains(entry, ":") {
			r.forNow("the search path has %s", entry)
		}
	}
	// A variable may have been read before anything else.
	r.order, r.env = append(env, r.order...), len(env)
}

// upTo is how much had been read when the answer of that number had been given.
func (r *reading) upTo(answer int) int {
	if n, ok := r.behind[strconv.Itoa(answer)]; ok {
		return n + r.env
	}
	return len(r.order)
}

// A table has what is known of the inputs of all evaluators of a network.
type table struct {
	mu     sync.Mutex
	stamps map[inputs.Input]inputs.Stamp // as first seen
	unsure map[inputs.Input]bool         // those that changed as they were first seen
	read   map[string]mentions           // of files
}

// look returns the stamp of in, which was taken when it was looked at first.
func (t *table) look(in inputs.Input) inputs.Stamp {
	t.mu.Lock()
	defer t.mu.Unlock()
	stamp, ok := t.stamps[in]
	if !ok {
		stamp = in.Stamp()
		t.stamps[in] = stamp
		if !stamp.Settled(time.Now()) {
			t.unsure[in] = true
		}
	}
	return stamp
}

// stateOf returns the state of in as evaluators have read it. It is an error if
// that cannot be known, since it has changed.
func (t *table) stateOf(in inputs.Input) (string, error) {
	state, err := stateOf(in)
	in.Path = strings.TrimPrefix(in.Path, settings)
	t.mu.Lock()
	defer t.mu.Unlock()
	stamp, ok := t.stamps[in]
	switch {
	case err != nil:
		return "", err
	case ok && (t.unsure[in] || stamp != in.Stamp()):
		return "", fmt.Errorf("%s changed while it was read", in.Path)
	}
	return state, nil
}

// Inputs that are no files of the expressions': their paths begin with one of these.
const (
	variables = "$" // $NAME: a variable of the environment
	programs  = "!" // !/lib/libc.so.6: what Nix reads as it starts
	settings  = "+" // +/etc/nix/registry.json: what Nix reads before it evaluates
	dated     = "@" // @1735689600 /folder: when the newest of what it has was modified
)

// stateOf returns the state of an input now. That of a store path is whether it
// is there, since it is never another; that of a variable is its value; what
// belongs to a program is known by size and time, as large libraries do.
func stateOf(in inputs.Input) (string, error) {
	if path, ok := strings.CutPrefix(in.Path, programs); ok {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return inputs.Absent, nil
		case info.IsDir():
			return "folder", nil
		}
		return fmt.Sprint(info.Mode().Type(), info.Size(), info.ModTime().UnixNano()), nil
	}
	if path, ok := strings.CutPrefix(in.Path, settings); ok {
		in.Path = path
		return in.State()
	}
	if stated, ok := strings.CutPrefix(in.Path, dated); ok {
		seconds, folder, _ := strings.Cut(stated, " ")
		at, _, err := newest(folder)
		if err == nil && fmt.Sprint(at.Unix()) != seconds {
			err = fmt.Errorf("what is in %s was modified", folder)
		}
		return "", err
	}
	if name, ok := strings.CutPrefix(in.Path, variables); ok {
		if value, ok := os.LookupEnv(name); ok {
			return "value " + inputs.Digest(value), nil
		}
		return inputs.Absent, nil
	}
	if place(in.Path) == inStore && filepath.Dir(in.Path) == store.Dir {
		info, err := os.Lstat(in.Path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return inputs.Absent, nil
		case err != nil || info.Mode()&os.ModeSymlink == 0:
			return "there", nil
		}
	}
	return in.State()
}

// mentions returns what a file of Nix mentions.
func (t *table) mentions(file string) mentions {
	t.mu.Lock()
	defer t.mu.Unlock()
	m, ok := t.read[file]
	if !ok {
		text, err := os.ReadFile(file)
		if m = mentioned(text); err != nil {
			m.other = "what could not be read again"
		}
		t.read[file] = m
	}
	return m
}

// stateDir is where Nix has its state.
const stateDir = "/nix/var/nix"

// storeInput returns the input for path in the store: the store path it is in.
// It is false where a link leads out of the store, or nowhere.
func storeInput(path string) (inputs.Input, bool) {
	for at := path; ; at = filepath.Dir(at) {
		real, err := filepath.EvalSymlinks(at)
		if err == nil && inputs.Below(real, store.Dir) {
			break
		}
		if _, there := os.Lstat(at); err == nil || there == nil {
			return inputs.Input{}, false
		}
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(path, store.Dir+"/"), "/")
	return inputs.Input{Path: store.Dir + "/" + name}, true
}

// Kinds of places.
const (
	anywhere    = iota
	inStore     // immutable
	nixOwn      // Nix' database, locks and caches: no expression reads them
	nixFetches  // Nix' cache of what was fetched
	ofTheMoment // the kernel's
)

// place returns the kind of place that path is in.
func place(path string) int {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if inputs.Below(path, dir) && !inputs.Below(path, "/dev/shm") { // files like any other
			return ofTheMoment
		}
	}
	if rest, ok := strings.CutPrefix(path, store.Dir+"/"); ok {
		// Derivations are written, and whether those of an answer are there is asked
		// for by themselves.
		name, _, _ := strings.Cut(rest, "/")
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".drv") || strings.HasSuffix(name, ".lock") || strings.HasSuffix(name, ".chroot") {
			return nixOwn
		}
		return inStore
	}
	for _, dir := range []string{"db", "temproots", "gc.lock", "daemon-socket", "userpool", "userpool2", "current-load"} {
		if inputs.Below(path, stateDir+"/"+dir) {
			return nixOwn
		}
	}
	// Wherever Nix keeps its cache of fetches, what is found there may be too old a moment later.
	if strings.HasPrefix(filepath.Base(path), "fetcher-cache-v") {
		return nixFetches
	}
	cache := filepath.Join(cacheHome(), "nix")
	if rest, ok := strings.CutPrefix(path, cache+"/"); ok {
		for _, name := range []string{"git", "hg", "tarball", "flake-registry"} {
			if strings.HasPrefix(rest, name) {
				return nixFetches
			}
		}
		if strings.HasPrefix(rest, "eval-cache") || strings.HasPrefix(rest, "binary-cache") {
			return nixOwn
		}
	}
	return anywhere
}

// cacheHome is where programs keep caches (XDG base directory specification).
func cacheHome() string {
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return dir
	}
	return filepath.Join(os.Getenv("HOME"), ".cache")
}

// ofTheRuntime tells whether path is one that the evaluator's own libraries read
// while it evaluates: its collector of garbage, and what starts processes. What
// else /proc/self has leads to other files, as cwd does, or says what is not known
// otherwise, as environ does.
func ofTheRuntime(path string) bool {
	if name, ok := strings.CutPrefix(path, "/proc/self"); ok {
		switch name {
		case "", "/cgroup", "/exe", "/fd", "/maps", "/mountinfo", "/mounts", "/ns/mnt", "/ns/user", "/root", "/stat", "/status", "/task":
			return true
		}
		return false
	}
	for _, dir := range []string{"/proc/stat", "/proc/mounts", "/sys/devices/system/cpu", "/dev/null", "/dev/urandom", "/dev/random", "/dev/tty", "/dev/pts", "/dev/ptmx"} {
		if inputs.Below(path, dir) {
			return true
		}
	}
	return false
}
