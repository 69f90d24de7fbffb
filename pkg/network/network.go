// Package network reads the user's network files: what machines and resources
// they define, how those are deployed, and the derivation of each system. Files
// of NixOps, morph, colmena and nixus are networks, and flakes.
//
// The files are evaluated by Nix with the expressions in nix/, which are part of
// the binary; this package asks the questions and reads the answers. It knows no
// record: what the world knows goes in as [Facts], what the network says comes
// out as plain values.
package network

import (
	"context"
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

	"nx/pkg/store"
)

// A Network is a list of network files and how they are to be evaluated.
type Network struct {
	Files  []string // in order; later ones add to earlier ones; or a flake reference
	Format string   // one of Formats; empty: what the files show
	// OverrideInputs are names of a flake's inputs and the flakes to use instead.
	OverrideInputs [][2]string
	Args           []string // for nix-instantiate: --arg, --argstr, -I, --option, with their values
	Name           string   // the deployment's; empty: that of the first file's folder
	UUID           string   // the deployment's; empty: derived from its name
	Jobs           int      // evaluators at a time, at most; 0: DefaultJobs

	// MaxMemory bounds each evaluator, in bytes: one that had more in use is ended
	// after the machine it crossed that with. 0: what the machine has for each.
	MaxMemory int64

	// Private is a folder of which nothing belongs into the Nix store.
	Private string

	ShowTrace bool // an error's trace is logged whole, not only what it has in the user's files

	Nix   Evaluator
	Cache *Cache // nil: nothing is remembered, nor is it seen what is read
	Log   *slog.Logger

	warned  sync.Once
	locking sync.Mutex
	locked  *lockedFlake // what Nix found a flake to be
}

// An Evaluator runs Nix' evaluator.
type Evaluator interface {
	// Instantiate runs nix-instantiate with args, and with env over this
	// process's environment, and hands each line of its standard error to line,
	// without the newline, as it comes, with the id of the process. Where saw is
	// not nil, it is called for each path that the process and its children ask the
	// state of, with negative flags, or open to read, with those of open(2), while
	// they wait; unseen says why it was not called, or not for all. The error says how the process ended, not what it wrote; it
	// wraps the [*exec.ExitError] where it has one.
	Instantiate(ctx context.Context, args, env []string, line func(line string, pid int), saw func(path string, flags, thread int)) (unseen, err error)
	// EvalFlake runs "nix eval" with args in the same way.
	EvalFlake(ctx context.Context, args, env []string, line func(line string, pid int), saw func(path string, flags, thread int)) (unseen, err error)
	// Traces tells whether saw is called at all.
	Traces() bool
	// Identity returns a text that another installation or version of Nix has not.
	Identity() (string, error)
	// Invalid returns those of paths that are not in the store.
	Invalid(ctx context.Context, paths ...store.Path) ([]store.Path, error)
	// FlakeMetadata runs "nix flake metadata" with args in the same way and returns
	// what it prints.
	FlakeMetadata(ctx context.Context, args []string, line func(line string), saw func(path string, flags, thread int)) (out []byte, unseen, err error)
}

// About is what the files say of the network as a whole.
type About struct {
	Form           string // one of Formats
	Description    string
	EnableRollback bool
	Nixpkgs        string   // the folder of the nixpkgs in use; empty for a flake
	Own            string   // a flake's own folder in the store
	SearchPath     []string // Nix', without the names that entries are found by
	Machines       []string // names, sorted
	Resources      []struct{ Type, Name string }
	Warnings       []string // what the files ask for and do not get
}

// A Description is what a network defines, as provisioning needs it.
type Description struct {
	Name, UUID     string // the deployment's
	Description    string
	EnableRollback bool
	Machines       []Machine
	Resources      []Resource
}

// A Machine is one machine's provisioning part. With Err set, nothing but Name
// is valid; the error has a method Log() string with Nix' own words.
type Machine struct {
	Name       string
	Deployment json.RawMessage // {"targetEnv": …, "targetHost": …, "digitalOcean": {…}}; no key contents
	Target     json.RawMessage // as a System's
	Tags       []string
	Err        error
}

// A Resource is one definition of resources.<type>.<name>.
type Resource struct {
	Type, Name string
	Config     json.RawMessage // the attributes as the network gives them, "name" among them
	Err        error
}

// A System is one machine's evaluation. With Err set, nothing but Name is valid;
// the error has a method Log() string with Nix' own words.
type System struct {
	Name       string
	DrvPath    store.Path
	Platform   string          // "x86_64-linux": what the derivation is built on
	Target     json.RawMessage // {"host": …, "port": …, "user": …, "sudo": […]}; sudo is for whoever is not root
	Tags       []string
	Deployment json.RawMessage // what later stages need of config.deployment; no key contents
	Known      bool            // from an earlier evaluation, whose inputs are the same
	Clean      bool            // its evaluation is seen to have opened nothing in Network.Private; only with a cache
	OfOthers   bool            // what is known of other machines has a part in the derivation
	Err        error
}

// Facts are what is known of the world and goes into the evaluation.
type Facts struct {
	Machines  map[string]MachineFacts               `json:"machines,omitempty"`
	Resources map[string]map[string]json.RawMessage `json:"resources,omitempty"` // outputs by type and name
}

// MachineFacts are what is known of a machine. What is empty is not known.
type MachineFacts struct {
	Provider       string   `json:"provider,omitempty"` // who made it, as deployment.targetEnv
	PublicIPv4     string   `json:"publicIPv4,omitempty"`
	PublicIPv6     string   `json:"publicIPv6,omitempty"`
	PrivateIPv4    string   `json:"privateIPv4,omitempty"`
	PrivateIPv6    string   `json:"privateIPv6,omitempty"`
	TargetHost     string   `json:"targetHost,omitempty"`
	HostKeys       []string `json:"hostKeys,omitempty"`       // "ssh-ed25519 AAAA…"
	AuthorizedKeys []string `json:"authorizedKeys,omitempty"` // root's, of its provider's making; of the same form
	StateVersion   string   `json:"stateVersion,omitempty"`   // "20.09"
}

// About evaluates no machine: it is the cheap question that finds out whether
// the files can be read at all, and the error of one that cannot.
func (n *Network) About(ctx context.Context) (*About, error) {
	s, err := n.open()
	if err != nil {
		return nil, err
	}
	defer s.close()
	return s.about(ctx)
}

// ready opens the network and reads what it is as a whole; what is asked of the
// session then is evaluated with facts. The caller closes it.
func (n *Network) ready(ctx context.Context, facts Facts) (*session, *About, error) {
	s, err := n.open()
	if err != nil {
		return nil, nil, err
	}
	about, err := s.about(ctx)
	if err != nil {
		s.close()
		return nil, nil, err
	}
	s.facts, s.opened = facts, nil
	return s, about, nil
}

// Describe returns every machine and resource of the network with what
// provisioning needs to know. The error is for the network as a whole.
func (n *Network) Describe(ctx context.Context, facts Facts) (*Description, error) {
	s, about, err := n.ready(ctx, facts)
	if err != nil {
		return nil, err
	}
	defer s.close()
	d := &Description{Name: s.name, UUID: s.uuid, Description: about.Description, EnableRollback: about.EnableRollback}
	d.Machines, d.Resources = s.describe(ctx, about)
	return d, ctx.Err()
}

// Evaluate instantiates the systems of the named machines and calls done for
// each as soon as it is evaluated, from several goroutines, in any order. The
// error is for the network as a whole; then machines may be left out.
func (n *Network) Evaluate(ctx context.Context, names []string, facts Facts, done func(System)) error {
	s, about, err := n.ready(ctx, facts)
	if err != nil {
		return err
	}
	defer s.close()
	items := about.items(names, func(name string, err error) { done(System{Name: name, Err: err}) })
	system := func(it item, answer []byte, err error) {
		sys := System{Name: it.Name, Err: err}
		if err == nil {
			sys, err = parseSystem(it.Name, answer)
			if err != nil {
				sys = System{Name: it.Name, Err: fmt.Errorf("read evaluation: %w", err)}
			}
			sys.Clean = s.isClean(it.Name)
		}
		done(sys)
	}
	known, items := s.recallSystems(ctx, items)
	for _, sys := range known {
		done(sys)
	}
	s.askAll(ctx, wholly, items, system)
	return ctx.Err()
}

// items are the named machines; none is called for those that the network lacks.
func (a *About) items(names []string, none func(name string, err error)) (items []item) {
	for _, name := range names {
		if slices.Contains(a.Machines, name) {
			items = append(items, item{Kind: "machine", Name: name})
		} else {
			none(name, fmt.Errorf("evaluate configuration: the network has no machine %q", name))
		}
	}
	return items
}

// wholly is the answer that has a machine's derivation.
const wholly = "system"

func parseSystem(name string, answer []byte) (System, error) {
	var a struct {
		DrvPath, System    string
		Target, Deployment json.RawMessage
		Tags               []string
		OfOthers           bool
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return System{}, err
	}
	drv, err := store.ParseDerivation(a.DrvPath)
	return System{Name: name, DrvPath: drv, Platform: a.System, Target: a.Target, Tags: a.Tags, Deployment: a.Deployment, OfOthers: a.OfOthers}, err
}

// deployment returns the name and UUID of the deployment whose first file is in folder.
func (n *Network) deployment(folder string) (name, uuid string) {
	name, uuid = n.Name, n.UUID
	if name == "" {
		name = filepath.Base(folder)
	}
	if uuid == "" {
		uuid = uuid5(name)
	}
	return name, uuid
}

// urlSpace is the name space for URLs of RFC 9562, section 6.6.
const urlSpace = "\x6b\xa7\xb8\x11\x9d\xad\x11\xd1\x80\xb4\x00\xc0\x4f\xd4\x30\xc8"

// uuid5 returns the UUID of a deployment that no state has given one: the same
// name has the same everywhere (RFC 9562, section 5.5).
func uuid5(name string) string {
	sum := sha1.Sum([]byte(urlSpace + "nx:" + name))
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
