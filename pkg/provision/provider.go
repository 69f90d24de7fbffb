package provision

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"nx/pkg/state"
	"nx/pkg/target"
)

// A Ref names a machine or a resource of a network.
type Ref struct{ Type, Name string }

// String is the name of a machine, and "sshKeyPairs.ssh-key" for a resource.
func (r Ref) String() string {
	if r.Type == state.Machines {
		return r.Name
	}
	return r.Type + "." + r.Name
}

// A Thing is a machine or a resource as the network wants it.
type Thing struct {
	Ref
	Provider string // who makes it: a machine's deployment.targetEnv, a resource's type
	Tags     []string

	// Config is a machine's config.deployment or a resource's attributes. An option
	// that names another thing is a [Reference]. It is empty when only the state
	// knows the thing.
	Config json.RawMessage

	Err error // why the network could not say it
}

// A Reference is what an option has that names another thing, as
// keyPair = resources.sshKeyPairs.web does.
type Reference struct {
	Resource struct {
		Type string `json:"type"`
		Name string `json:"name"`
	} `json:"resource"`

	// ID and Outputs are those of the thing, empty before it is made.
	ID      string          `json:"id"`
	Outputs json.RawMessage `json:"outputs"`
}

// Ref is what r names.
func (r Reference) Ref() Ref { return Ref{r.Resource.Type, r.Resource.Name} }

// A Property is one of those by which a thing that was made can be told from what
// the network wants.
type Property struct {
	Name  string // as the option: "size"
	Value any    // as JSON has it; a zero value or an empty list is like none

	// Default says that the value is the provider's choice, not the network's: it
	// counts when the thing is made, and is no reason to change one that is there.
	Default bool

	// Effect is what it takes to change it, where the network says so; with "" the
	// [Maker] is asked.
	Effect Effect
}

// An Effect is what it takes to change a property of a thing that is there.
type Effect string

// The effects, from the least to the greatest.
const (
	InPlace  Effect = "in place"
	Reboots  Effect = "reboot"
	Replaces Effect = "replace"
)

// A Difference is a property that is to become another.
type Difference struct {
	Name   string          `json:"name"`
	From   json.RawMessage `json:"from,omitempty"`
	To     json.RawMessage `json:"to,omitempty"`
	Effect Effect          `json:"effect,omitempty"`
}

// A State is whether a machine is there and runs. That of a resource is Up or Missing.
type State string

// The states of machines.
const (
	Up          State = "up"
	Stopped     State = "stopped"
	Unreachable State = "unreachable" // it is there, but does not answer
	Missing     State = "missing"
)

// Facts are what a provider knows of a thing. What is empty is not known, and
// what was known of it stays.
type Facts struct {
	ID    string // the provider's name for it
	State State

	// Outputs are an object: what the network may refer to of a resource; of a
	// machine, members of its record's machine, such as publicIPv4, publicIPv6,
	// privateIPv4, region and authorizedKeys. No secret, no absolute path.
	Outputs json.RawMessage

	// Properties are those that the provider could see, by name, as [Property] has them.
	Properties map[string]any

	// Target is where ssh reaches a machine. Without host keys it is trusted as the
	// user's known_hosts has it.
	Target target.Target

	// Injected says that the machine presents [Work.HostKey] until it gets its own.
	Injected bool

	// Secrets are kept encrypted: private keys, by their names.
	Secrets map[string]string
}

// Known is what is remembered of a thing.
type Known struct {
	Thing
	ID         string // the provider's; "" when its creation was begun and not seen to end
	Token      string // what it is found by when there is no ID
	State      State
	Properties map[string]json.RawMessage
	Outputs    json.RawMessage
	Secret     func(name string) (string, error)
}

// Work is a thing to be made or changed.
type Work struct {
	Known
	Want map[string]json.RawMessage // the properties to have

	// Again says that it may have been made already, by a run that did not live to
	// see it: it is to be looked for by its token first.
	Again bool

	// HostKey is the key that a machine is to present at first.
	HostKey HostKey

	// Remember is to be called as soon as something is known that would be lost
	// with this process, the ID above all. What it was given is on the disk when it
	// returns nil.
	Remember func(Facts) error
}

// A HostKey is an ed25519 key pair of a machine's ssh server.
type HostKey struct {
	Private string // OpenSSH's form, "-----BEGIN OPENSSH PRIVATE KEY-----\n…"
	Public  string // "ssh-ed25519 AAAA…"
}

// A Maker makes the machines of one deployment.targetEnv, or the resources of one
// type. Its methods are called concurrently, for one thing by one at a time. When
// their context is done they return as soon as what they have asked for is answered.
//
// Errors say in one line what the provider said. One that wraps [ErrNotMade] says
// that nothing was made.
type Maker interface {
	// Properties returns what the network wants of the thing, in the order in which
	// people want to read it. It asks nobody. An option that is misspelt or of the
	// wrong form is an error.
	Properties(t Thing) ([]Property, error)

	// Effect tells what it takes to change a property; a value that is not there is nil.
	Effect(property string, from, to json.RawMessage) Effect

	// Create makes the thing and returns when it is up; for a machine that is when
	// it has its address, not when it answers. Called again after whatever ended it,
	// with [Work.Again], it finds what it made: it never makes a second one. What it finds
	// may have been made as the network wanted it then, which its Properties say.
	Create(ctx context.Context, w *Work) (Facts, error)

	// Update brings properties of a thing that is there to what w wants.
	Update(ctx context.Context, w *Work, changes []Difference) (Facts, error)

	// Read asks how things are, with as few questions as can be, and calls tell once
	// for each with its index. A thing that is not there is [Missing], not an error.
	Read(ctx context.Context, known []Known, tell func(i int, f Facts, err error))

	// Destroy removes the thing. What is not there is destroyed already.
	Destroy(ctx context.Context, k Known) error
}

// Powered is a [Maker] whose machines can be switched on and off. Each returns when
// it is so.
type Powered interface {
	Start(ctx context.Context, k Known) (Facts, error)
	Stop(ctx context.Context, k Known) (Facts, error)
	Reboot(ctx context.Context, k Known) (Facts, error)
}

// A Local [Maker] has its things on this computer: to read them costs nothing, and
// apply does it always.
type Local interface{ Local() }

// A Completer is a [Maker] whose things need more than the network says.
type Completer interface {
	// Complete returns the thing with what it lacks, chosen among all things of the
	// network, and things that are to be made for it. Several machines may ask for
	// the same one.
	Complete(t Thing, all []Thing) (Thing, []Thing, error)
}

// Existing describes machines that are there already, and that nobody makes.
type Existing interface {
	// Describe returns what the network says of the machine and asks nobody.
	Describe(t Thing) (Facts, error)

	// Check asks how it is. An error beside a state says why it is so.
	Check(ctx context.Context, t Thing) (Facts, error)
}

// ErrNotMade is in the error of a [Maker] that was refused what it asked for: there
// is nothing that could be lost.
var ErrNotMade = errors.New("nothing was made")

// TryAgain is how often, and after what time each, a maker looks for what an
// interrupted run may have asked for, before it takes it for not made: lists of what
// there is lag behind creation.
const (
	TryAgain      = 4
	TryAgainAfter = 3 * time.Second
)
