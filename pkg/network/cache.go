package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"nx/pkg/inputs"
	"nx/pkg/store"
)

// A Cache remembers what evaluations answered and what they had read, so that
// nothing is evaluated when nothing is different: all files by their contents,
// what was looked for and was not there, the variables that the files mention,
// and what the network was called with. It is exact: what cannot be known to be
// the same is evaluated.
type Cache struct {
	Dir string // has a file for each way of calling a network; empty: nothing is remembered beyond this process

	mu     sync.Mutex
	pages  map[string]*page
	used   map[part]int // how far, at most
	missed error
}

// A part is one reading of a page: of this process, or else one that is remembered.
type part struct {
	page       *page
	reading    *reading
	remembered int
}

// Inputs returns all that was read for the answers that were given, sorted. The
// error says that it is not known: evaluators cannot be traced here.
func (c *Cache) Inputs() ([]inputs.Input, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.missed != nil {
		return nil, fmt.Errorf("list what the evaluation read: %w", c.missed)
	}
	all := map[inputs.Input]bool{}
	for of, upTo := range c.used {
		for _, in := range of.page.inputsOf(remembered{reading: of.reading, Reading: of.remembered, UpTo: upTo}) {
			if filepath.IsAbs(in.Path) && place(in.Path) == anywhere {
				all[in] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b inputs.Input) int { return strings.Compare(a.Path, b.Path) }), nil
}

// use notes that a was given. c.mu is held.
func (c *Cache) use(p *page, a remembered) {
	if c.used == nil {
		c.used = map[part]int{}
	}
	of := part{page: p, reading: a.reading, remembered: a.Reading}
	c.used[of] = max(c.used[of], a.UpTo)
}

// kept is how many bytes the pages have at most: the oldest go. Who evaluates each
// host by itself, as make does, has a page for each host's record.
const kept = 64 << 20

// A page has the answers of one network called in one way. Its JSON is the file.
type page struct {
	Version  int
	Inputs   []inputs.Input // each once
	States   []string       // of Inputs
	Readings [][][2]int     // of evaluators: ranges of Inputs, [first, behind the last], in the order they were read
	Answers  map[string]remembered

	cache *Cache
	file  string
	*table
	changed map[string]inputs.Input // of answers that do not hold any more: what is different
	fresh   []*reading
	told    bool // which answers cannot be remembered
	stale   bool // the file is not what this is
}

// pageVersion is raised when the file's meaning or that of an answer changes in
// a way that the key does not have.
const pageVersion = 1

// A remembered is one answer.
type remembered struct {
	Reading int
	UpTo    int             // how many inputs of the reading it depends on
	Text    json.RawMessage // as the evaluator gave it
	Said    []string        `json:",omitempty"` // by the evaluator, for people

	reading *reading // if it is of this process
	number  int      // among those of its evaluator
}

// open returns the page of key, with only those answers that hold now.
func (c *Cache) open(key string) *page {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.pages[key]; ok {
		return p
	}
	p := &page{cache: c}
	if c.Dir != "" {
		p.file = filepath.Join(c.Dir, inputs.Digest(key)[:32]+".json")
		p.load()
	}
	if p.Answers == nil {
		p.Answers = map[string]remembered{}
	}
	p.table = &table{stamps: map[inputs.Input]inputs.Stamp{}, unsure: map[inputs.Input]bool{}, read: map[string]mentions{}}
	if c.pages == nil {
		c.pages = map[string]*page{}
	}
	c.pages[key] = p
	return p
}

// load reads the file and forgets the answers that do not hold any more. A file
// that cannot be read, or is of another version, is no page.
func (p *page) load() {
	b, err := os.ReadFile(p.file)
	if err != nil || json.Unmarshal(b, p) != nil || p.Version != pageVersion || !p.whole() {
		*p = page{cache: p.cache, file: p.file}
		return
	}
	for i, in := range p.Inputs {
		p.Inputs[i].Path = unquoted(in.Path)
	}
	now := time.Now()
	_ = os.Chtimes(p.file, now, now) // the oldest go first
	same := p.same()
	p.changed = map[string]inputs.Input{}
	// As far as each reading holds.
	holds := make([]int, len(p.Readings))
	first := make([]inputs.Input, len(p.Readings))
	for i, ranges := range p.Readings {
	reading:
		for _, r := range ranges {
			for j := r[0]; j < r[1]; j++ {
				if !same[j] {
					first[i] = p.Inputs[j]
					break reading
				}
				holds[i]++
			}
		}
	}
	for key, a := range p.Answers {
		if a.UpTo > holds[a.Reading] {
			p.changed[key] = first[a.Reading]
			delete(p.Answers, key)
		}
	}
}

// quoted returns path as JSON can have it: a name need not be UTF-8. None of those
// that are begins with a quotation mark.
func quoted(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	return strconv.Quote(path)
}

// unquoted is the inverse of quoted.
func unquoted(path string) string {
	if name, err := strconv.Unquote(path); err == nil {
		return name
	}
	return path
}

// whole tells whether all references in a page lead to something.
func (p *page) whole() bool {
	if len(p.States) != len(p.Inputs) {
		return false
	}
	lengths := make([]int, len(p.Readings))
	for i, ranges := range p.Readings {
		for _, r := range ranges {
			if r[0] < 0 || r[1] < r[0] || r[1] > len(p.Inputs) {
				return false
			}
			lengths[i] += r[1] - r[0]
		}
	}
	for _, a := range p.Answers {
		if a.Reading < 0 || a.Reading >= len(lengths) || a.UpTo < 0 || a.UpTo > lengths[a.Reading] {
			return false
		}
	}
	return true
}

// same tells of each input whether its state is the one it was.
func (p *page) same() []bool {
	same := make([]bool, len(p.Inputs))
	inParallel(len(same), func(i int) {
		state, err := stateOf(p.Inputs[i])
		same[i] = err == nil && state == p.States[i]
	})
	return same
}

// inParallel calls f for each number below n, on all processors.
func inParallel(n int, f func(i int)) {
	var all errgroup.Group
	all.SetLimit(runtime.NumCPU())
	const chunk = 512
	for from := 0; from < n; from += chunk {
		all.Go(func() error {
			for i := from; i < min(from+chunk, n); i++ {
				f(i)
			}
			return nil
		})
	}
	_ = all.Wait()
}

// key returns what an answer about it is kept under.
func (it item) key(answer string) string {
	return strings.Join([]string{answer, it.Kind, it.Type, it.Name}, " ")
}

// recall returns the answer about it, if one holds.
func (p *page) recall(answer string, it item) (remembered, bool) {
	p.cache.mu.Lock()
	defer p.cache.mu.Unlock()
	a, ok := p.Answers[it.key(answer)]
	if ok {
		p.cache.use(p, a)
	}
	return a, ok
}

// inputsOf returns what a depends on.
func (p *page) inputsOf(a remembered) []inputs.Input {
	if a.reading != nil {
		return a.reading.order[:a.UpTo]
	}
	return p.reading(a.Reading)[:a.UpTo]
}

// reading returns the inputs of the remembered reading i.
func (p *page) reading(i int) []inputs.Input {
	var of []inputs.Input
	for _, r := range p.Readings[i] {
		of = append(of, p.Inputs[r[0]:r[1]]...)
	}
	return of
}

// forget drops the answer about it, which turned out not to do.
func (p *page) forget(answer string, it item) {
	p.cache.mu.Lock()
	defer p.cache.mu.Unlock()
	delete(p.Answers, it.key(answer))
	p.stale = true
}

// keep takes the answers of an evaluator that has ended. It returns why they are
// for now only, or "".
func (p *page) keep(r *reading, answers map[string]remembered) string {
	p.cache.mu.Lock()
	defer p.cache.mu.Unlock()
	p.cache.use(p, remembered{reading: r, UpTo: len(r.order)})
	if r.why != "" {
		return r.why
	}
	for key, a := range answers {
		a.UpTo = r.upTo(a.number)
		a.reading = r
		p.Answers[key] = a
	}
	p.fresh = append(p.fresh, r)
	p.stale = true
	return ""
}

// save writes the page, if it is not what the file has. It returns the reasons
// why answers of this process were left out.
func (p *page) save() (left []error, err error) {
	p.cache.mu.Lock()
	defer p.cache.mu.Unlock()
	if p.file == "" || !p.stale {
		return nil, nil
	}
	w := &page{Version: pageVersion, Answers: map[string]remembered{}}
	at := map[inputs.Input]int{}
	known := map[inputs.Input]string{}
	for i, in := range p.Inputs {
		known[in] = p.States[i]
	}
	fresh := map[inputs.Input]string{}
	for _, r := range p.fresh {
		for _, in := range r.order {
			fresh[in] = ""
		}
	}
	bad := p.states(fresh)
	// add adds a reading: its inputs as far as answers need them and differs is false
	// of them, and the answers given until there. It returns the inputs that cut
	// answers off.
	add := func(order []inputs.Input, states map[inputs.Input]string, differs func(inputs.Input) bool, is func(remembered) bool) (cut []inputs.Input) {
		need := -1
		for _, a := range p.Answers {
			if is(a) {
				need = max(need, a.UpTo)
			}
		}
		if need < 0 {
			return nil
		}
		var ranges [][2]int
		written := 0
		for _, in := range order[:need] {
			if differs(in) {
				break
			}
			i, ok := at[in]
			if !ok {
				i = len(w.Inputs)
				at[in] = i
				w.Inputs = append(w.Inputs, inputs.Input{Path: quoted(in.Path), List: in.List})
				w.States = append(w.States, states[in])
			}
			if n := len(ranges); n > 0 && ranges[n-1][1] == i {
				ranges[n-1][1]++
			} else {
				ranges = append(ranges, [2]int{i, i + 1})
			}
			written++
		}
		w.Readings = append(w.Readings, ranges)
		for key, a := range p.Answers {
			switch {
			case !is(a):
			case a.UpTo > written:
				cut = append(cut, order[written])
			default:
				a.Reading = len(w.Readings) - 1
				w.Answers[key] = a
			}
		}
		return cut
	}
	// What was read anew is as it is now.
	for _, r := range p.fresh {
		cut := add(r.order, fresh, func(in inputs.Input) bool { return bad[in] != nil },
			func(a remembered) bool { return a.reading == r })
		for _, in := range cut {
			left = append(left, bad[in])
		}
	}
	// What is remembered held as this process began; of two states of one input only
	// one is now's.
	changed := func(in inputs.Input) bool { s, ok := fresh[in]; return ok && s != known[in] }
	for i := range p.Readings {
		add(p.reading(i), known, changed, func(a remembered) bool { return a.reading == nil && a.Reading == i })
	}
	if p.stale = false; p.told {
		left = nil
	}
	p.told = p.told || len(left) > 0
	b, err := json.Marshal(w)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(p.file), 0o700)
	}
	if err == nil {
		err = renameio.WriteFile(p.file, b, 0o600, renameio.WithTempDir(filepath.Dir(p.file)))
	}
	if err == nil {
		err = prune(filepath.Dir(p.file), kept)
	}
	if err != nil {
		return left, fmt.Errorf("remember evaluation: %w", err)
	}
	return left, nil
}

// states finds the states of what was read and returns the errors of those that
// are not known.
func (p *page) states(of map[inputs.Input]string) map[inputs.Input]error {
	all := slices.Collect(maps.Keys(of))
	states, errs := make([]string, len(all)), make([]error, len(all))
	inParallel(len(all), func(i int) { states[i], errs[i] = p.stateOf(all[i]) })
	bad := map[inputs.Input]error{}
	for i, in := range all {
		if of[in] = states[i]; errs[i] != nil {
			bad[in] = errs[i]
		}
	}
	return bad
}

// prune removes the pages that were not used for the longest time, so that those
// in dir have no more than so many bytes.
func prune(dir string, bytes int64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	type aged struct {
		name  string
		at    time.Time
		bytes int64
	}
	var pages []aged
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), ".json") {
			pages = append(pages, aged{e.Name(), info.ModTime(), info.Size()})
		}
	}
	slices.SortFunc(pages, func(a, b aged) int { return b.at.Compare(a.at) })
	for _, old := range pages {
		if bytes -= old.bytes; bytes >= 0 {
			continue
		}
		if err := os.Remove(filepath.Join(dir, old.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// ownVariables begin the names of the environment that Nix and git read themselves.
var ownVariables = []string{"NIX_", "_NIX_", "XDG_", "GIT_", "HOME=", "USER=", "http_proxy=", "https_proxy="}

// key is all that an answer depends on and that is not an input: how the network
// is called, and by whom. None of it is in clear in the name of the page.
func (s *session) key() (string, error) {
	nix, err := s.Nix.Identity()
	if err != nil {
		return "", err
	}
	var env []string
	for _, variable := range os.Environ() {
		if slices.ContainsFunc(ownVariables, func(start string) bool { return strings.HasPrefix(variable, start) }) {
			env = append(env, variable)
		}
	}
	given, _ := splitArgs(s.Args)
	for _, a := range given {
		if a[0] == "--arg" {
			m := mentioned([]byte(a[2]))
			for _, name := range m.env {
				env = append(env, name+"="+os.Getenv(name))
			}
			if m.other != "" {
				s.moment = "--arg " + a[1] + " has " + m.other
			}
		}
	}
	slices.Sort(env)
	files := map[string]string{}
	if err := fs.WalkDir(expressions, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := expressions.ReadFile(name)
		files[name] = string(b)
		return err
	}); err != nil {
		return "", err
	}
	// Nix resolves what is relative by the folder itself, not by the links to it.
	cwd, err := filepath.EvalSymlinks(s.cwd)
	if err != nil {
		return "", err
	}
	facts, err := json.Marshal(s.facts)
	// Quoted, since JSON has one text for all bytes that are no text.
	return fmt.Sprintf("%q", []any{nix, nixSystem(), env, files, s.cwd, cwd, s.files, s.flake, s.Format, s.OverrideInputs, s.Args, s.name, s.uuid, string(facts)}), err
}

// page returns what is remembered of this session's questions, nil if nothing is.
func (s *session) page() *page {
	if s.Cache == nil || s.wholeTrees() && s.locked == nil {
		return nil
	}
	s.paging.Lock()
	defer s.paging.Unlock()
	if s.opened != nil {
		return s.opened
	}
	key, err := s.key()
	if err != nil {
		s.log().Warn("evaluations are not remembered", "error", err)
		return nil
	}
	if s.wholeTrees() {
		key += string(s.locked.said)
	}
	s.opened = s.Cache.open(key)
	return s.opened
}

// A memory takes the answers of one evaluator, and what it had read before each.
// A nil one takes nothing.
type memory struct {
	*session
	page    *page
	asked   string // which answer
	reading *reading
	answers map[string]remembered
	said    []string // since the last answer
}

// memorize returns what remembers one evaluator's answers, nil where they are for
// this moment or for nobody else.
func (s *session) memorize(answer string) *memory {
	p := s.page()
	if p == nil || s.expression != "" || answer == secretly {
		return nil
	}
	m := &memory{session: s, page: p, asked: answer, answers: map[string]remembered{}, reading: s.reading(p)}
	if s.flake != "" && s.locked.reading != nil {
		m.reading.after(s.locked.reading)
	}
	return m
}

// reading returns what takes what an evaluator reads.
func (s *session) reading(p *page) *reading {
	return &reading{table: p.table, own: s.dir, private: s.Private, answered: s.answered(), pure: s.pure(), whole: s.wholeTrees(),
		seen: map[string]bool{}, has: map[inputs.Input]bool{}, behind: map[string]int{}}
}

// answered is what the files are called that are looked for behind each answer,
// before its number.
func (s *session) answered() string { return "answered-" + strings.TrimSpace(s.mark) + "-" }

// saw is what an evaluator tells what it reads.
func (m *memory) saw() func(path string, flags, thread int) {
	if m == nil {
		return nil
	}
	return m.reading.saw
}

// evaluating is what Nix says at verbosity 1 of each file that it evaluates (2.8 to 2.26).
const evaluating = "evaluating file '"

// evaluates takes what Nix says only because it is asked to say more: of each file
// that it is evaluated, and which of a flake are copied. It is false for other lines.
func (m *memory) evaluates(line string) bool {
	if m == nil {
		return false
	}
	if file, ok := strings.CutPrefix(line, evaluating); ok {
		m.reading.evaluated(strings.TrimSuffix(file, "'"))
		return true
	}
	return copying.MatchString(line)
}

// copying is what Nix says at verbosity 1 of a flake (2.8, 2.26).
var copying = regexp.MustCompile(`^copying '.*'(?: to the store)?\.\.\.$`)

// saidLines is how much of what is said about one item is said again.
const saidLines = 100

func (m *memory) say(line string) {
	if m != nil && len(m.said) < saidLines {
		m.said = append(m.said, line)
	}
}

// take tells whether the evaluator has been clean.
func (m *memory) take(it item, answer string) bool {
	if m == nil {
		return false
	}
	if credential.MatchString(answer) {
		m.said = nil
		return m.reading.clean()
	}
	m.answers[it.key(m.asked)] = remembered{Text: json.RawMessage(answer), Said: m.said, number: len(m.answers)}
	m.said = nil
	return m.reading.clean()
}

// credential finds what a provider takes for a proof of who asks, among a machine's
// options. It is written down nowhere.
var credential = regexp.MustCompile(`"(?:authToken|apiToken|accessKey|secretAccessKey|robotPass|password)":"[^"]`)

// keep is called when the evaluator has ended.
func (m *memory) keep(unseen error) {
	if m == nil {
		return
	}
	m.page.cache.mu.Lock()
	if m.page.cache.missed == nil {
		m.page.cache.missed = unseen
	}
	m.page.cache.mu.Unlock()
	m.reading.done(unseen, m.search, m.moment)
	if why := m.page.keep(m.reading, m.answers); why != "" {
		m.log().Debug("the evaluation is not remembered", "reason", why)
	}
}

// remember writes down what evaluators answered.
func (s *session) remember() {
	if s.Cache == nil {
		return
	}
	s.Cache.mu.Lock()
	pages := slices.Collect(maps.Values(s.Cache.pages))
	s.Cache.mu.Unlock()
	for _, p := range pages {
		left, err := p.save()
		for _, why := range left {
			s.log().Debug("the evaluation is not remembered", "reason", why)
		}
		if err != nil {
			s.log().Warn(err.Error())
		}
	}
}

// A recollection is an answer that needs no evaluation.
type recollection struct {
	item
	answer []byte
	said   []string
}

// recall returns the answers that hold still, and the items that are to be asked for.
func (s *session) recall(answer string, items []item) (known []recollection, rest []item) {
	p := s.page()
	if p == nil {
		return nil, items
	}
	for _, it := range items {
		if a, ok := p.recall(answer, it); ok {
			known = append(known, recollection{it, a.Text, a.Said})
			continue
		}
		rest = append(rest, it)
		if in, ok := p.changed[it.key(answer)]; ok {
			s.logger(it).Debug("changed since it was evaluated", "input", in.Path)
		}
	}
	return known, rest
}

// tellKnown tells the answers that hold still, and returns the items that are to
// be asked for.
func (s *session) tellKnown(answer string, items []item, tell func(it item, answer []byte, err error)) (rest []item) {
	known, rest := s.recall(answer, items)
	for _, k := range known {
		tell(k.item, k.answer, nil)
	}
	return rest
}

// recallSystems is recall for derivations, which must still be there.
func (s *session) recallSystems(ctx context.Context, items []item) (known []System, rest []item) {
	recalled, rest := s.recall(wholly, items)
	if len(recalled) == 0 {
		return nil, rest
	}
	var drvs []store.Path
	for _, r := range recalled {
		sys, err := parseSystem(r.Name, r.answer)
		if err == nil {
			drvs = append(drvs, sys.DrvPath)
		}
		sys.Known, sys.Err = true, err
		known = append(known, sys)
	}
	invalid, err := s.Nix.Invalid(ctx, drvs...)
	i := 0
	for j, sys := range known {
		if err != nil || sys.Err != nil || slices.Contains(invalid, sys.DrvPath) {
			s.page().forget(wholly, recalled[j].item)
			s.log().Debug("the derivation is gone: evaluating", "host", sys.Name)
			rest = append(rest, recalled[j].item)
			continue
		}
		for _, line := range recalled[j].said {
			s.logger(recalled[j].item).Info("output", "line", line)
		}
		known[i] = sys
		i++
	}
	return known[:i], rest
}
