package network

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"nx/pkg/inputs"
	"nx/pkg/record"
)

//go:embed nix/*.nix
var expressions embed.FS

// A session is one folder with nx's own expressions, and the questions asked of
// them. Where the folder is enters no derivation.
type session struct {
	*Network
	dir        string
	cwd        string // the working directory
	files      []string
	flake      string // the reference, if the network is one
	name, uuid string
	facts      Facts
	expression string   // of a query
	nixpkgs    string   // known after about
	own        string   // a flake's folder in the store, known after about
	search     []string // Nix' search path, known after about
	moment     string   // why answers are for now only, whatever is read
	source     string   // the source in the store that a flake is in, if local is set
	local      string   // the folder here that source is a copy of
	finding    sync.Once
	unfound    error // why the flake could not be found
	mark       string
	limits     limits
	asked      atomic.Int32
	paging     sync.Mutex
	opened     *page    // for facts, once it was asked for
	clean      sync.Map // names of machines evaluated with nothing opened in Private
}

// An item is what one answer is about.
type item struct {
	Kind string `json:"kind"` // network, machine, resource, query
	Type string `json:"type"` // a resource's
	Name string `json:"name"`
}

// A request is what nix/main.nix reads.
type request struct {
	Mark       string            `json:"mark"`     // what an answer begins with
	Answered   string            `json:"answered"` // what a file is called that is looked for behind an answer, before its number
	Answer     string            `json:"answer"`   // what to say of machines and resources: see nix/form.nix
	Items      []item            `json:"items"`
	Files      []string          `json:"files"`
	Format     string            `json:"format"`
	System     string            `json:"system,omitempty"` // for a flake: this machine's
	Deployment map[string]string `json:"deployment"`
	Facts      Facts             `json:"facts"`
	Locked     *lockedFlake      `json:"locked,omitempty"` // for a flake that is called by us
	Expression string            `json:"-"`                // of a query; in a file of its own
}

func (n *Network) open() (*session, error) {
	if len(n.Files) == 0 {
		return nil, errors.New("read network: no file is named")
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("read network: %w", err)
	}
	s := &session{Network: n, mark: "@nx-" + rand.Text() + " ", cwd: cwd}
	for _, file := range n.Files {
		if isFlake(file, n.Format) {
			if err := s.openFlake(file); err != nil {
				return nil, err
			}
			break
		}
		abs, err := filepath.Abs(file)
		if err != nil {
			return nil, fmt.Errorf("read network %s: %w", file, err)
		}
		info, err := os.Stat(abs)
		if err != nil {
			return nil, fmt.Errorf("read network %s: %w", file, err)
		}
		if info.IsDir() {
			abs = filepath.Join(abs, "default.nix") // as Nix' import has it
		}
		s.files = append(s.files, abs)
	}
	if s.flake == "" {
		if len(n.OverrideInputs) > 0 {
			return nil, fmt.Errorf("read network %s: it is no flake, whose input %s could be another", n.Files[0], n.OverrideInputs[0][0])
		}
		s.name, s.uuid = n.deployment(filepath.Dir(s.files[0]))
	}
	dir, err := os.MkdirTemp("", "nx-eval-")
	if err != nil {
		return nil, fmt.Errorf("write nix expressions: %w", err)
	}
	s.dir = dir
	if err := os.CopyFS(dir, expressions); err != nil {
		s.close()
		return nil, fmt.Errorf("write nix expressions: %w", err)
	}
	return s, nil
}

func (s *session) close() {
	s.remember()
	if err := os.RemoveAll(s.dir); err != nil {
		s.log().Warn("remove nix expressions", "error", err)
	}
}

func (s *session) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

func (s *session) about(ctx context.Context) (*About, error) {
	if s.wholeTrees() {
		if err := s.lock(ctx); err != nil {
			return nil, fmt.Errorf("read network %s: %w", s.Files[0], err)
		}
	}
	a := &About{}
	var failed error
	take := func(_ item, answer []byte, err error) {
		if failed = err; err == nil {
			failed = json.Unmarshal(answer, a)
		}
		s.nixpkgs, s.own, s.search = a.Nixpkgs, a.Own, a.SearchPath
		var wrong *json.UnmarshalTypeError
		if errors.As(failed, &wrong) {
			failed = fmt.Errorf("network.%s is a %s, not a %s", wrong.Field, wrong.Value, wrong.Type.Kind())
		}
	}
	s.ask(ctx, "", s.tellKnown("", []item{{Kind: "network"}}, take), take)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, fmt.Errorf("read network %s: %w", s.Files[0], failed)
	}
	for _, name := range a.Machines {
		if err := record.CheckName(name); err != nil {
			return nil, fmt.Errorf("read network %s: machine: %w", s.Files[0], err)
		}
	}
	s.warned.Do(func() {
		for _, w := range a.Warnings {
			s.log().Warn(w)
		}
	})
	return a, nil
}

// evaluate runs one evaluator over items and returns how many it answered. It
// returns errMemory when it ended it for the memory it had.
func (s *session) evaluate(ctx context.Context, answer string, items []item, tell func(it item, answer []byte, err error)) (int, error) {
	if s.flake != "" {
		if err := s.lock(ctx); err != nil {
			return 0, err
		}
	}
	run, args, err := s.command(request{Mark: s.mark, Answered: s.answered(), Answer: answer, Items: items, Files: s.files, Format: s.Format,
		Deployment: map[string]string{"name": s.name, "uuid": s.uuid}, Facts: s.facts, Expression: s.expression})
	if err != nil {
		return 0, fmt.Errorf("write evaluation request: %w", err)
	}
	answered := 0
	memory := s.memorize(answer)
	s.begin(answer, items[0])
	last := "" // what Nix said last: why it was aborted, when it was
	var said transcript
	child, end := context.WithCancelCause(ctx)
	defer end(nil)
	if memory != nil {
		args = append(args, "--verbose")
	}
	unseen, err := run(child, args, s.limits.env, func(line string, pid int) {
		if memory.evaluates(line) {
			return
		}
		if _, json, ok := strings.Cut(line, s.mark); ok && answered < len(items) {
			it := items[answered]
			answered++
			for _, line := range said.reset() {
				memory.say(line)
				s.logger(it).Info("output", "line", line)
			}
			if memory.take(it, json) {
				s.clean.Store(it.Name, true)
			}
			if s.limits.memory > 0 && answered < len(items) && peakMemory(pid) > s.limits.memory {
				end(errMemory)
			} else if answered < len(items) {
				s.begin(answer, items[answered])
			}
			tell(it, []byte(json), nil)
			return
		}
		if said.add(line) || answered == len(items) || s.flake != "" && lockNotice(line) {
			return
		}
		last = line
		memory.say(line)
		s.logger(items[answered]).Info("output", "line", line)
	}, memory.saw())
	if s.locked != nil {
		unseen = errors.Join(s.locked.unseen, unseen)
	}
	memory.keep(unseen)
	if context.Cause(child) == errMemory {
		return answered, errMemory
	}
	if err != nil && !said.empty() {
		failed := s.failure(&said)
		if err = failed; answered < len(items) && answer != lightly {
			// Provisioning asks again when it is known.
			if _, _, unknown := failed.Unknown(); !unknown || answer == wholly {
				s.show(failed, s.logger(items[answered]))
			}
		}
	} else if err != nil && last != "" {
		err = fmt.Errorf("evaluate configuration: %w: %s", err, last)
	} else if err != nil {
		err = fmt.Errorf("evaluate configuration: %w", err)
	}
	return answered, err
}

func (s *session) isClean(name string) bool {
	_, ok := s.clean.Load(name)
	return ok
}

// show logs the trace of what will be the error of an item: whole where the user
// asks for it, else what it has in the user's files beyond the message.
func (s *session) show(e *EvalError, log *slog.Logger) {
	trace, level := e.own, slog.LevelInfo
	if s.ShowTrace {
		trace, level = e.whole, slog.LevelError
	} else if strings.Count(trace, "\n") <= 2 {
		return // the message, and its place
	}
	for line := range strings.Lines(trace) {
		log.Log(context.Background(), level, "output", "line", strings.TrimSuffix(line, "\n"))
	}
}

// begin announces that an evaluator has come to a machine's system: it evaluates
// one item after the other.
func (s *session) begin(answer string, it item) {
	if answer == wholly {
		s.logger(it).Info("evaluating")
	}
}

func (s *session) logger(it item) *slog.Logger {
	if it.Kind != "machine" {
		return s.log()
	}
	return s.log().With("host", it.Name)
}

// A runner is one of the methods of an Evaluator.
type runner func(ctx context.Context, args, env []string, line func(line string, pid int), saw func(path string, flags, thread int)) (unseen, err error)

// command writes r for the evaluator and returns what to run, with which arguments.
func (s *session) command(r request) (run runner, args []string, err error) {
	if s.flake != "" {
		args, err = s.flakeArgs(r)
		return s.Nix.EvalFlake, args, err
	}
	folder, err := s.write(r)
	args = append([]string{"--eval", "--read-write-mode", "--show-trace", filepath.Join(s.dir, "nix/main.nix"),
		"--argstr", "nxRequest", filepath.Join(folder, "request.json")}, s.Args...)
	if r.Expression != "" {
		// An argument's relative paths start at the working directory. The expression
		// may end in a comment.
		args = append(args, "--arg", "nxExpression", "{ nodes, resources, lib }: (\n"+r.Expression+"\n)")
	}
	return s.Nix.Instantiate, args, err
}

// write makes a folder of r, with the file request.json.
func (s *session) write(r request) (folder string, err error) {
	b, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	folder = filepath.Join(s.dir, fmt.Sprintf("request-%d", s.asked.Add(1)))
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", err
	}
	return folder, os.WriteFile(filepath.Join(folder, "request.json"), b, 0o600)
}

// foreign tells whether file is no file of the user's: nixpkgs', Nix' or ours.
func (s *session) foreign(file string) bool {
	if s.flake != "" {
		return s.foreignToFlake(file)
	}
	return !filepath.IsAbs(file) || inputs.Below(file, s.dir) || s.nixpkgs != "" && inputs.Below(file, s.nixpkgs)
}
