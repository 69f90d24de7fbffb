package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"nx/pkg/inputs"
	"nx/pkg/store"
)

// A lockedFlake is what Nix made of a flake and its inputs, once for all
// evaluators of a run.
type lockedFlake struct {
	Locks json.RawMessage `json:"locks"` // as its lock file would be
	Dir   string          `json:"dir"`   // where in its source the flake is
	Trees map[string]tree `json:"trees"` // by the nodes of Locks
	// Changed: Locks is not what the lock file has. Nix gives such a flake no
	// revision, since it is not what it is there.
	Changed bool `json:"changed"`

	said    []byte   // Nix' own words for it
	reading *reading // what that depends on, nil where nothing is remembered
	unseen  error    // why not all of that was seen
	moment  string   // why it is for now only; empty: it is not

	root    string            // the flake's own node of Locks
	folders map[string]string // that Trees are of, where they are here
	source  string            // the flake's own source in the store
	local   string            // the folder that is a copy of, if it is one here
}

// A tree is a source that was a folder, as a flake sees it: the attributes that
// Nix gives it (emitTreeAttrs in its primops/fetchTree.cc). The narHash says where
// in the store it is.
type tree struct {
	NarHash          string `json:"narHash"`
	LastModified     int64  `json:"lastModified"`     // seconds since 1970
	LastModifiedDate string `json:"lastModifiedDate"` // "20261120132218", UTC
	Rev              string `json:"rev,omitempty"`
	ShortRev         string `json:"shortRev,omitempty"`
	RevCount         int64  `json:"revCount,omitempty"`
}

func (t *tree) modified(seconds int64) {
	t.LastModified, t.LastModifiedDate = seconds, time.Unix(seconds, 0).UTC().Format("20060102150405")
}

// lock has Nix find the flake and its inputs, once for a Network, and makes ready
// who asks it.
func (s *session) lock(ctx context.Context) error {
	s.finding.Do(func() {
		s.locking.Lock()
		defer s.locking.Unlock()
		if s.locked == nil {
			s.unfound = s.find(ctx)
		}
		if s.unfound != nil {
			return
		}
		s.source, s.local = s.locked.source, s.locked.local
		if s.moment == "" {
			s.moment = s.locked.moment
		}
		if !s.locked.byNix() {
			ours := filepath.Join(s.dir, "nix")
			s.unfound = os.Rename(filepath.Join(ours, "flake-locked.nix"), filepath.Join(ours, "flake.nix"))
		}
	})
	return s.unfound
}

// find sets s.locked.
func (s *session) find(ctx context.Context) error {
	folder, query := localFlake(s.flake)
	l, err := s.resolve(ctx, s.flake, s.read(folder))
	if err != nil && folder != "" && strings.Contains(err.Error(), sealBroken) {
		// Nx keeps its own in the flake's folder: all else there is the flake.
		read := s.read(folder)
		var copied string
		var modified time.Time
		if copied, modified, err = s.copyWithoutOwn(ctx, folder, read, err); err == nil {
			if l, err = s.resolve(ctx, pathURL(copied)+query, read); err == nil {
				own := l.Trees[l.root]
				own.modified(modified.Unix())
				l.Trees[l.root] = own
				read.dated(folder, modified)
			}
		}
	}
	var failed *EvalError
	if errors.As(err, &failed) {
		s.show(failed, s.log())
	}
	if err != nil {
		return err
	}
	if folder != "" && l.local == "" {
		l.local = folder
	}
	s.locked = l
	return nil
}

// byNix tells whether each evaluator finds the flake and its inputs by itself, at
// once and all of them the same: by its lock file and by revisions. Else it is
// given what was found: Nix copies an input that is a folder to the store in
// each process that has it, which takes it most of a minute for nixpkgs, and
// inputs that no lock file has may be others a moment later.
func (l *lockedFlake) byNix() bool { return !l.Changed && len(l.Trees) == 0 }

// What Nix says of inputs that it does not find in the lock file as they are
// asked for.
var (
	unlocked = regexp.MustCompile(`^• (?:Added|Updated) input '([^']*)':`)
	unsaved  = "warning: not writing modified lock file of flake '"
	dirty    = "warning: Git tree '"
)

// resolve asks Nix what ref and its inputs are. What Nix reads for that goes to
// read.
func (s *session) resolve(ctx context.Context, ref string, read *reading) (*lockedFlake, error) {
	_, others := splitArgs(s.Args)
	args := []string{"--json", "--no-write-lock-file", "--show-trace", ref}
	for _, o := range s.OverrideInputs {
		args = append(args, "--override-input", o[0], o[1])
	}
	l := &lockedFlake{Trees: map[string]tree{}, folders: map[string]string{}, reading: read}
	began := time.Now()
	var unlockedInputs []string
	var said transcript
	out, unseen, err := s.Nix.FlakeMetadata(ctx, append(args, others...), func(line string) {
		switch m := unlocked.FindStringSubmatch(line); {
		case said.add(line):
		case m != nil:
			unlockedInputs = append(unlockedInputs, m[1])
		case strings.HasPrefix(line, unsaved):
			l.Changed = true
		case strings.HasPrefix(line, dirty):
			s.log().Warn(strings.TrimPrefix(line, "warning: "))
		case !lockNotice(line):
			s.log().Info("output", "line", line)
		}
	}, read.listen())
	l.unseen = unseen
	if err != nil && !said.empty() {
		// Nix says where in its copy of the flake the error is.
		s.source, s.local = s.sourceIn(strings.Join(said.lines, "\n"))
		return nil, s.failure(&said)
	} else if err != nil {
		return nil, fmt.Errorf("lock inputs: %w", err)
	}
	for _, line := range said.reset() {
		s.log().Info("output", "line", line)
	}
	if err := l.take(out, unlockedInputs, s.OverrideInputs); err != nil {
		return nil, fmt.Errorf("lock inputs: read what nix flake metadata says: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(l.folders)) {
		read.dated(l.folders[name], began)
	}
	if left := s.notChosen(unlockedInputs); len(left) > 0 {
		s.log().Warn("inputs of the flake are not in its lock file, so they are what they are now: "+strings.Join(left, ", "),
			"hint", "nix flake lock writes down what they are")
	}
	return l, nil
}

// notChosen returns those of inputs that nobody has overridden, and no inputs of
// theirs.
func (s *session) notChosen(inputs []string) []string {
	return slices.DeleteFunc(slices.Clone(inputs), func(input string) bool {
		of := func(name string) bool { return strings.HasPrefix(input, name+"/") }
		return slices.ContainsFunc(inputs, of) ||
			slices.ContainsFunc(s.OverrideInputs, func(o [2]string) bool { return input == o[0] || of(o[0]) })
	})
}

// sourceFile matches the name of a file in a source in the store.
var sourceFile = regexp.MustCompile(`(` + store.Dir + `/[^/\s]+-source)/([^\s:']+)`)

// sourceIn returns which source that text names is a copy of the flake's folder,
// or of one above it, and of which: the same file is there.
func (s *session) sourceIn(text string) (source, local string) {
	folder, _ := localFlake(s.flake)
	if folder == "" {
		return "", ""
	}
	for _, m := range sourceFile.FindAllStringSubmatch(text, -1) {
		copied, err := os.ReadFile(m[0])
		if err != nil {
			continue
		}
		for dir := folder; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
			if own, err := os.ReadFile(filepath.Join(dir, m[2])); err == nil && bytes.Equal(own, copied) {
				return m[1], dir
			}
		}
	}
	return "", ""
}

// lockedInput is what Nix has locked an input to, as far as it matters here.
type lockedInput struct {
	Type, Path, URL, Dir, NarHash, Rev string
	RevCount, LastModified             int64
}

// take takes what "nix flake metadata --json" prints, and which inputs Nix did
// not find in the lock file.
func (l *lockedFlake) take(out []byte, unlocked []string, overridden [][2]string) error {
	var m struct {
		Path   string
		Locked lockedInput
		Locks  json.RawMessage
	}
	if err := json.Unmarshal(out, &m); err != nil {
		return err
	}
	var locks struct {
		Root  string
		Nodes map[string]node
	}
	if err := json.Unmarshal(m.Locks, &locks); err != nil {
		return err
	}
	l.said = out
	l.Locks, l.Dir, l.root, l.source = m.Locks, m.Locked.Dir, locks.Root, m.Path
	if folder, ok := strings.CutPrefix(m.Locked.URL, "file://"); ok && m.Locked.Type == "git" {
		l.local = folder
	}
	own := locks.Nodes[l.root]
	own.Locked = m.Locked
	locks.Nodes[l.root] = own
	for name, n := range locks.Nodes {
		if in := n.Locked; in.Type == "path" && in.NarHash != "" && n.Parent == nil {
			t := tree{NarHash: in.NarHash, Rev: in.Rev, ShortRev: in.Rev[:min(len(in.Rev), 7)], RevCount: in.RevCount}
			t.modified(in.LastModified)
			l.Trees[name] = t
			if filepath.IsAbs(in.Path) && !inputs.Below(in.Path, store.Dir) {
				l.folders[name] = in.Path
			}
		}
	}
	// That Nix reads a folder is seen; elsewhere may be something else a moment later.
	for _, input := range unlocked {
		if slices.ContainsFunc(overridden, func(o [2]string) bool { return input == o[0] && fixed(o[1]) }) {
			continue
		}
		n := at(locks.Nodes, l.root, input)
		if n.Locked.Type != "path" && (n.Locked.Type != "git" || !checkedOut(n.Locked.URL)) {
			l.moment = "the flake has no lock for its input " + input
		}
	}
	return nil
}

// A node is an input in a lock file.
type node struct {
	Locked lockedInput
	Parent json.RawMessage            // of one that is a folder of another's source
	Inputs map[string]json.RawMessage // of a node, if it is a text
}

// at returns the node that an input is, by names of inputs between slashes, an
// empty one where there is none.
func at(nodes map[string]node, root, input string) node {
	n := nodes[root]
	for name := range strings.SplitSeq(input, "/") {
		var next string
		if json.Unmarshal(n.Inputs[name], &next) != nil {
			return node{}
		}
		n = nodes[next]
	}
	return n
}

// localFlake returns the folder that a reference names, and the rest of it, empty
// if it names none.
func localFlake(ref string) (folder, query string) {
	folder, query, found := strings.Cut(ref, "?")
	if found {
		query = "?" + query
	}
	if path, ok := strings.CutPrefix(folder, "path:"); ok {
		var err error
		if folder, err = url.PathUnescape(path); err != nil {
			return "", ""
		}
	}
	if !filepath.IsAbs(folder) {
		return "", ""
	}
	return filepath.Clean(folder), query
}

// copyWithoutOwn copies folder into the store as Nix copies a flake's, but without
// the folders of nx in it, and returns where the copy is and when the newest of
// what it has was modified. Where there is none of nx's, the error is cause.
func (s *session) copyWithoutOwn(ctx context.Context, folder string, read *reading, cause error) (copied string, modified time.Time, err error) {
	modified, own, err := newest(folder)
	if err != nil {
		return "", modified, fmt.Errorf("copy flake: %w", err)
	}
	if own == nil {
		return "", modified, cause
	}
	var names strings.Builder
	for _, name := range own {
		names.WriteString(" " + nixString(name))
	}
	var said transcript
	unseen, err := s.Nix.Instantiate(ctx, []string{"--eval", "--read-write-mode", "--expr", fmt.Sprintf(
		`builtins.trace (%s + builtins.path { name = "source"; path = %s; filter = name: _: !(builtins.elem name [%s ]); }) null`,
		nixString(s.mark), nixString(folder), names.String())}, nil, func(line string, _ int) {
		if _, path, ok := strings.Cut(line, s.mark); ok {
			copied = path
		} else {
			said.add(line)
		}
	}, read.listen())
	if unseen != nil {
		read.forNow("not all that it read was seen: %v", unseen)
	}
	if err != nil && !said.empty() {
		err = s.failure(&said)
	}
	if err != nil {
		return "", modified, fmt.Errorf("copy flake: %w", err)
	}
	s.log().Debug("the flake's folder is copied without " + strings.Join(own, ", "))
	return copied, modified, nil
}

// newest returns when the newest file or folder below folder was modified, as Nix
// has it for a flake that is a folder, and which folders in it are nx's own, of
// which nothing counts.
func newest(folder string) (modified time.Time, own []string, err error) {
	err = filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Name() == filepath.Dir(sealName) {
			if _, err := os.Lstat(filepath.Join(name, filepath.Base(sealName))); err == nil {
				own = append(own, name)
				return fs.SkipDir
			}
		}
		info, err := entry.Info()
		if err == nil && info.ModTime().After(modified) {
			modified = info.ModTime()
		}
		return err
	})
	return modified, own, err
}

// dated lets r depend on when what is in folder was modified, which a flake knows.
// It began to be read at a time.
func (r *reading) dated(folder string, began time.Time) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at, _, err := newest(folder)
	if err == nil && at.After(began) {
		err = fmt.Errorf("what is in %s was modified as it was read", folder)
	}
	if err != nil {
		r.forNow("%v", err)
	}
	r.add(inputs.Input{Path: fmt.Sprintf("%s%d %s", dated, at.Unix(), folder)})
}

// read returns what takes what Nix reads to find a flake, in folder if it is
// local; nil if nobody wants to know.
func (s *session) read(folder string) *reading {
	p := s.page()
	if p == nil {
		return nil
	}
	r := s.reading(p)
	r.from = folder
	return r
}

// pure tells whether the network is evaluated without the outside world, as a
// flake is unless an option says else.
func (s *session) pure() bool { return s.flake != "" && !slices.Contains(s.Args, "pure-eval") }

// wholeTrees tells whether what an evaluation reads is known without seeing it:
// a flake's can read nothing but its source and those of its inputs, whose hashes
// Nix says.
func (s *session) wholeTrees() bool { return s.Cache != nil && s.pure() && !s.Nix.Traces() }

// listen is saw, nil for nil.
func (r *reading) listen() func(path string, flags, thread int) {
	if r == nil {
		return nil
	}
	return r.saw
}

// after lets r depend on all that before did, first.
func (r *reading) after(before *reading) {
	before.mu.Lock()
	defer before.mu.Unlock()
	if before.table != r.table {
		before.table.mu.Lock()
		defer before.table.mu.Unlock()
		r.table.mu.Lock()
		defer r.table.mu.Unlock()
	}
	for _, in := range before.order {
		r.add(in)
		if stamp, ok := before.stamps[in]; ok && before.table != r.table {
			r.stamps[in], r.unsure[in] = stamp, before.unsure[in]
		}
	}
	if before.why != "" {
		r.forNow("%s", before.why)
	}
}
