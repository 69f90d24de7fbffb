// Package eval is the stage that evaluates the network: each host of the input
// gets its system's derivation, how it is reached, its tags, and what the later
// stages need of its configuration.
//
// The network is pkg/network's; this package says what of the stream goes into
// an evaluation and what of the evaluation goes into the stream.
package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/tidwall/gjson"

	"nx/pkg/inputs"
	"nx/pkg/network"
	"nx/pkg/record"
	"nx/pkg/store"
)

// A Store is the part of the local Nix store that this stage needs.
type Store interface {
	// AddRoot makes link a symlink to p that keeps p's closure.
	AddRoot(ctx context.Context, link string, p store.Path) error
	// Sources returns what derivations need that no derivation makes: files and
	// folders that evaluation copied into the store.
	Sources(ctx context.Context, drvs ...store.Path) ([]store.Path, error)
}

// An Evaluator is one run of the stage.
type Evaluator struct {
	Network *network.Network
	Store   Store
	Root    string       // the folder that has .nx
	RootDir string       // holds a link to each host's derivation, named like the host
	Log     *slog.Logger // nil discards

	// Chooses, when set, says that the hosts are all those of the network that a
	// selection chooses, by tags that the network was asked for lightly: it
	// tells whether a host with these tags is one of them.
	Chooses func(name string, tags []string) bool

	// Keep, when set, gets the contents of those keys that are in the network, by
	// hosts and keys' names, when all hosts of a whole input are evaluated and before
	// Run returns. Its error is the tool's.
	Keep func(texts map[string]map[string]string) error

	facts network.Facts
}

// Fact takes what r knows of the world. It is called for every record of the
// input, chosen or not, before Run's input ends: each address may matter to any host.
func (e *Evaluator) Fact(r *record.Record) {
	switch r.Kind() {
	case record.KindHost:
		machine, target := r.Get("machine"), r.Get("target")
		f := network.MachineFacts{
			Provider:       text(machine.Get("provider")),
			PublicIPv4:     text(machine.Get("publicIPv4")),
			PublicIPv6:     text(machine.Get("publicIPv6")),
			PrivateIPv4:    text(machine.Get("privateIPv4")),
			PrivateIPv6:    text(machine.Get("privateIPv6")),
			TargetHost:     text(target.Get("host")),
			HostKeys:       keys(target.Get("hostKeys")),
			AuthorizedKeys: keys(machine.Get("authorizedKeys")),
			StateVersion:   text(machine.Get("stateVersion")),
		}
		if reflect.ValueOf(f).IsZero() {
			return
		}
		if e.facts.Machines == nil {
			e.facts.Machines = map[string]network.MachineFacts{}
		}
		e.facts.Machines[r.Name()] = f
	case record.KindResource:
		outputs := r.Get("outputs")
		if !outputs.IsObject() {
			return
		}
		if e.facts.Resources == nil {
			e.facts.Resources = map[string]map[string]json.RawMessage{}
		}
		if e.facts.Resources[r.Type()] == nil {
			e.facts.Resources[r.Type()] = map[string]json.RawMessage{}
		}
		e.facts.Resources[r.Type()][r.Name()] = json.RawMessage(outputs.Raw)
	}
}

// keys returns the public keys of a list: its strings of one line.
func keys(list gjson.Result) (keys []string) {
	for _, v := range list.Array() {
		if key := text(v); key != "" && !strings.ContainsAny(key, "\r\n") {
			keys = append(keys, key)
		}
	}
	return keys
}

// text returns a string's value; what is no string is no address.
func text(v gjson.Result) string {
	if v.Type != gjson.String {
		return ""
	}
	return v.Str
}

// Run reads all hosts, since each one's facts may matter to every other, has
// them evaluated, and emits each as soon as it is. An error of the network as a
// whole is returned.
func (e *Evaluator) Run(ctx context.Context, in iter.Seq2[*record.Record, error], emit func(*record.Record)) error {
	if e.Log == nil {
		e.Log = slog.New(slog.DiscardHandler)
	}
	hosts := map[string]*record.Record{}
	var names []string
	for r, err := range in {
		if err != nil {
			return nil // stream.Run has it
		}
		hosts[r.Name()] = r
		names = append(names, r.Name())
	}
	if len(names) == 0 {
		return e.keep(ctx, nil, nil)
	}
	// The evaluation of one host may keep others' in memory, so the order is
	// part of the outcome where that runs out.
	slices.Sort(names)
	// The evaluators do not wait for what is asked of the store.
	systems := make(chan network.System, len(names))
	var waiting []*record.Record // for their texts
	var applied sync.WaitGroup
	applied.Go(func() {
		for s := range systems {
			for _, s := range e.check(ctx, gather(s, systems)) {
				r := hosts[s.Name]
				if err := e.apply(ctx, r, s); err != nil {
					r.Fail(record.Eval, err)
				} else if e.Keep != nil && hasTexts(r) {
					waiting = append(waiting, r)
					continue
				}
				emit(r)
			}
		}
	})
	err := e.Network.Evaluate(ctx, names, e.facts, func(s network.System) { systems <- s })
	close(systems)
	applied.Wait()
	if err != nil {
		return err
	}
	return e.keep(ctx, waiting, emit)
}

// keep evaluates the texts of the hosts' keys and emits the hosts.
func (e *Evaluator) keep(ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error {
	if e.Keep == nil {
		return nil
	}
	kept := map[string]map[string]string{}
	if len(hosts) > 0 {
		byName := map[string]*record.Record{}
		for _, r := range hosts {
			byName[r.Name()] = r
		}
		var mu sync.Mutex
		err := e.Network.Texts(ctx, slices.Sorted(maps.Keys(byName)), e.facts, func(name string, texts map[string]string, err error) {
			mu.Lock()
			defer mu.Unlock()
			r := byName[name]
			if err != nil {
				r.Reset(record.Eval)
				r.Fail(record.Eval, err)
			} else {
				kept[name] = texts
			}
			emit(r)
		})
		if err != nil {
			return err
		}
	}
	return e.Keep(kept)
}

// gather returns first and what else is there already.
func gather(first network.System, rest <-chan network.System) []network.System {
	all := []network.System{first}
	for {
		select {
		case s, ok := <-rest:
			if !ok {
				return all
			}
			all = append(all, s)
		default:
			return all
		}
	}
}

// check asks the store about all systems at once, since most of their sources are
// the same, and about each if anything is wrong. It is not asked about those whose
// evaluation is seen not to have opened anything of nx's own folder, nor about
// those that are known from an earlier one, which was checked then.
func (e *Evaluator) check(ctx context.Context, systems []network.System) []network.System {
	var drvs []store.Path
	for _, s := range systems {
		if s.Err == nil && !s.Known && !s.Clean {
			drvs = append(drvs, s.DrvPath)
		}
	}
	if len(drvs) == 0 || e.checkSources(ctx, drvs...) == nil {
		return systems
	}
	for i, s := range systems {
		if s.Err == nil && !s.Known && !s.Clean {
			systems[i].Err = e.checkSources(ctx, s.DrvPath)
		}
	}
	return systems
}

// apply writes an evaluation into the host's record.
func (e *Evaluator) apply(ctx context.Context, r *record.Record, s network.System) error {
	if s.Err != nil {
		return s.Err
	}
	if err := e.checkTags(r, s); err != nil {
		return err
	}
	if err := e.Store.AddRoot(ctx, filepath.Join(e.RootDir, s.Name), s.DrvPath); err != nil {
		return err
	}
	did := "evaluated"
	if s.Known {
		did = "unchanged"
	}
	e.Log.Info(did, "host", s.Name, "drv", string(s.DrvPath))
	if s.OfOthers {
		e.Log.Debug("facts about other hosts are part of its configuration: it changes when they do", "host", s.Name)
	}
	if err := mergeTarget(r, s.Target); err != nil {
		return err
	}
	if err := r.AddTags(s.Tags...); err != nil {
		return err
	}
	deployment, err := e.fromRoot(s.Deployment)
	if err != nil {
		return err
	}
	for _, m := range []record.Member{
		{Key: "system", Value: s.Platform},
		{Key: "drvPath", Value: s.DrvPath},
		{Key: "deployment", Value: deployment},
	} {
		if err := r.Set(m.Key, m.Value); err != nil {
			return err
		}
	}
	return nil
}

// checkTags takes the tags of a whole evaluation for true where the host was chosen
// by those of a light one. A configuration may look at what only NixOS' modules
// set, with a default for where there is nothing (config.x or d, options ? x), and
// then says something else without them. A host that is not to be chosen fails.
func (e *Evaluator) checkTags(r *record.Record, s network.System) error {
	if e.Chooses == nil {
		return nil
	}
	lightly, tags := r.Tags(), slices.Compact(slices.Sorted(slices.Values(s.Tags)))
	if slices.Equal(lightly, tags) {
		return nil
	}
	r.Delete("tags")
	if err := r.AddTags(tags...); err != nil {
		return err
	}
	if !e.Chooses(s.Name, tags) {
		return &tagsError{lightly, tags}
	}
	e.Log.Warn((&tagsError{lightly, tags}).differ(), "host", s.Name, "hint", tagsHint)
	return nil
}

// A tagsError says that a host was chosen by tags that it does not have.
type tagsError struct{ lightly, tags []string }

func (e *tagsError) differ() string {
	return fmt.Sprintf("the tags that it was chosen by are %s, but its configuration has %s", listed(e.lightly), listed(e.tags))
}

func (e *tagsError) Error() string { return "choose host: " + e.differ() }
func (e *tagsError) Hint() string  { return tagsHint }

const tagsHint = "--on reads tags without NixOS' modules: let deployment.tags not depend on whether options or values are there"

func listed(tags []string) string {
	if len(tags) == 0 {
		return "none"
	}
	return strings.Join(tags, " ")
}

// fromRoot returns a deployment with the names of files below the root relative to
// it: where the user's checkout is has no place in a record. The files are
// machinesFile and those of keys, none of which may be in the Nix store in clear.
func (e *Evaluator) fromRoot(deployment json.RawMessage) (json.RawMessage, error) {
	root, err := filepath.Abs(e.Root)
	if err != nil {
		return nil, fmt.Errorf("find files from the root: %w", err)
	}
	roots := []string{root}
	// Nix resolves links on the way to a file, some versions more than others.
	if resolved, err := filepath.EvalSymlinks(root); err == nil {
		roots = append(roots, resolved)
	}
	var members map[string]any
	numbers := json.NewDecoder(bytes.NewReader(deployment))
	numbers.UseNumber()
	if err := numbers.Decode(&members); err != nil {
		return nil, fmt.Errorf("read deployment: %w", err)
	}
	relative(members, "machinesFile", roots)
	keys, _ := members["keys"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		key, _ := keys[name].(map[string]any)
		source, _ := key["source"].(map[string]any)
		file, _ := source["file"].(string)
		if _, encrypted := source["decrypt"]; !encrypted && inputs.Below(filepath.Clean(file), store.Dir) {
			return nil, &publicKeyError{name, file}
		}
		relative(source, "file", roots)
	}
	var b bytes.Buffer
	w := json.NewEncoder(&b) // sorted, as Nix has them
	w.SetEscapeHTML(false)
	if err := w.Encode(members); err != nil {
		return nil, fmt.Errorf("write deployment: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// relative makes the file that a member of set names relative to the first of roots
// that it is below.
func relative(set map[string]any, member string, roots []string) {
	file, _ := set[member].(string)
	if !filepath.IsAbs(file) {
		return
	}
	for _, root := range roots {
		if below, err := filepath.Rel(root, file); err == nil && filepath.IsLocal(below) {
			set[member] = below
			return
		}
	}
	set[member] = filepath.Clean(file) // it is elsewhere, under a name of its own
}

// A publicKeyError says that a key's file is in the Nix store, for all to read.
type publicKeyError struct{ name, file string }

func (e *publicKeyError) Error() string {
	return fmt.Sprintf("evaluate deployment.keys.%s: its file is in the Nix store: %s", e.name, e.file)
}

func (e *publicKeyError) Hint() string {
	return "all may read what is there, and a flake is there as a whole: name the file by a text, its absolute path, or in a NixOps network one that starts at --root; " +
		`or have it printed, as by keyCommand = [ "cat" "FILE" ], which runs in --root; or encrypt it, and set decrypt where there is that option`
}

// checkSources refuses systems that have something of nx's own folder among their
// sources. An evaluation that copies the folder as it is fails by itself
// (network.Seal); this finds it behind a filter, such as lib.cleanSource, and
// files of it that were named one by one. What Nix copied is in the store then,
// and the error says how to get it out.
func (e *Evaluator) checkSources(ctx context.Context, drvs ...store.Path) error {
	root, err := filepath.Abs(e.Root)
	if err != nil {
		return fmt.Errorf("check sources: %w", err)
	}
	sources, err := e.Store.Sources(ctx, drvs...)
	if err != nil {
		return err
	}
	ours, err := ownFiles(filepath.Join(root, ".nx"))
	if err != nil {
		return fmt.Errorf("check sources: %w", err)
	}
	for _, p := range sources {
		info, err := os.Lstat(string(p))
		switch {
		case err != nil:
			return fmt.Errorf("check sources: %w", err)
		case info.IsDir() && holds(string(p), root), info.Mode().IsRegular() && isOneOf(string(p), info, ours):
			return &leakError{p}
		}
	}
	return nil
}

// holds tells whether source is a copy of a folder with .nx in it: root or one
// above it. An empty .nx is no copy of what nx keeps there.
func holds(source, root string) bool {
	for dir, below := root, ""; dir != filepath.Dir(dir); dir, below = filepath.Dir(dir), filepath.Join(filepath.Base(dir), below) {
		if entries, err := os.ReadDir(filepath.Join(source, below, ".nx")); err == nil && len(entries) > 0 {
			return true
		}
	}
	return false
}

// ownFiles returns the files of nx's folder that are not for all to read, by size.
func ownFiles(dir string) (map[int64][]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ours := map[int64][]string{}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() && info.Size() > 0 && info.Mode().Perm()&0o077 == 0 {
			ours[info.Size()] = append(ours[info.Size()], filepath.Join(dir, entry.Name()))
		}
	}
	return ours, nil
}

// isOneOf tells whether file has the contents of one of ours.
func isOneOf(file string, info fs.FileInfo, ours map[int64][]string) bool {
	for _, name := range ours[info.Size()] {
		a, aerr := os.ReadFile(file)
		b, berr := os.ReadFile(name)
		if aerr == nil && berr == nil && bytes.Equal(a, b) {
			return true
		}
	}
	return false
}

// A leakError says that nx's own folder is in the Nix store, for all to read.
type leakError struct{ source store.Path }

func (e *leakError) Error() string {
	return fmt.Sprintf("evaluate configuration: it copies .nx into the Nix store, as %s", e.source)
}

func (e *leakError) Hint() string {
	return fmt.Sprintf("leave .nx out of that source, then delete what is there: nix-store --delete %s", e.source)
}
