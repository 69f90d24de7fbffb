// Package conformance is the suite of tests that every provider passes. A provider's
// test says how its cloud is made and misbehaves, a [World], and calls [Run], which lets
// processes come, be killed and go in it: with the real [provision.Provisioner], a real
// state file, and by hand. What must hold is what the documentation of [provision.Maker]
// says, above all that of what is wanted there is one, and that it is known.
package conformance

import (
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"nx/pkg/provision"
	"nx/pkg/state"
)

// A World is the outside of a provider: a cloud, a folder, a program. It outlives the
// processes that ask it. Its methods but Maker and Others are not called while a process
// is there.
type World interface {
	Traits() Traits

	// Maker is the provider as a new process has it. It asks by the line only.
	Maker(l *Line) provision.Maker

	// Others make what else the things need, by resource type; nil when nothing.
	Others(l *Line) map[string]provision.Maker

	// Things are a network: a machine or resource of the provider for each of names, with
	// what it needs. It is nil for a variant that the provider cannot have.
	Things(v Variant, names ...string) []provision.Thing

	// Count is how many things of the provider there are, by whomever they were made.
	Count() int

	// Misbehave lets the world be as f says from now on, for good with "". With an error
	// that people are to be told, said is a part of what they read of it.
	Misbehave(f Fault) (said string, ok bool)

	// Remove and Tamper do behind our back what somebody can in the cloud's console:
	// destroy a thing, and change one of its properties that Update can mend. Tamper
	// returns the property's name.
	Remove(id string) (ok bool)
	Tamper(id string) (property string, ok bool)
}

// Traits are what there is to know of a world before it is used. The suite runs all that
// is not declared as lacking, and holds the declarations against the world.
type Traits struct {
	Type     string // state.Machines, or the resources' type
	Provider string // the machines' deployment.targetEnv, or the resources' type

	// Lacks are what cannot be of this provider, and why.
	Lacks map[Trait]string

	// RealTime says that the world has processes which have a clock of their own. All
	// others are in a bubble of [synctest]: their waiting takes no time, and their questions
	// must not go through sockets.
	RealTime bool

	// Costly says that a world takes much of the computer: of the ways to be cut each step
	// suffers one, all of them in turn; with NXTEST_FAULTS=all each.
	Costly bool
}

func (t Traits) machine() bool { return t.Type == state.Machines }

// A Trait is what a provider may lack: a [Variant], a [Fault], or another.
type Trait string

// The traits that are no variant and no fault.
const (
	// Outside: things are anywhere but in the state. A provider without asks nobody.
	Outside Trait = "outside"

	// Questions: the provider asks by its line. One without can be killed between the
	// calls of its Maker only.
	Questions Trait = "questions"

	Drift Trait = "drift" // a property can change behind our back, and Read sees it
)

// A Variant is what the network wants of things.
type Variant = Trait

// The variants. No provider lacks the first and the last.
const (
	First    Variant = "first"    // as they are at first
	Changed  Variant = "changed"  // otherwise, so that Update can do it
	Replaced Variant = "replaced" // otherwise, so that they must be made anew
	Misspelt Variant = "misspelt" // with an option that is not there or of a wrong form
)

// A Fault is a way in which a world does not do what it is asked.
type Fault = Trait

// The faults.
const (
	Unauthorised Fault = "unauthorised" // it does not know who asks
	Quota        Fault = "quota"        // it makes nothing more
	RateLimit    Fault = "rate limit"   // its next answer is to come again after [RetryAfter]
	Slow         Fault = "slow"         // its answers, and its things until they are up, take minutes
)

// RetryAfter is for how long a world with a rate limit wants to be left alone.
const RetryAfter = 42 * time.Second

// Run runs the suite. It calls world for each of its tests, of which some run at once.
func Run(t *testing.T, world func(t *testing.T) World) {
	s := &suite{world: world, traits: world(t).Traits()}
	for _, tt := range []struct {
		name  string
		needs Trait // "" for none
		run   func(*testing.T)
	}{
		{"declarations", "", s.in(declarations)},
		{"options", "", s.in(options)},
		{"create twice is once", Outside, s.in(createTwice)},
		{"destroy twice is fine", "", s.in(destroyTwice)},
		{"read of many", "", s.in(readMany)},
		{"apply twice changes nothing", "", s.in(applyTwice)},
		{"update", Changed, s.in(update)},
		{"update of what is gone", Changed, s.in(updateGone)},
		{"replacement has to be allowed", Replaced, s.in(replace)},
		{"deleted behind our back", Outside, s.in(removed)},
		{"changed behind our back", Drift, s.in(tampered)},
		{"switch", Outside, s.in(switched)},
		{"unauthorised", Unauthorised, s.in(unauthorised)},
		{"quota", Quota, s.in(quota)},
		{"rate limit", RateLimit, s.in(rateLimit)},
		{"slow", Slow, s.in(slow)},
		{"create, cut", "", s.cuts(created)},
		{"create, cut, and wanted otherwise", Changed, s.cuts(createdOtherwise)},
		{"create of two, cut", "", s.cutAs(createdTwo, killAfter)},
		{"create and destroy, cut", "", s.cuts(createdAndDestroyed)},
		{"destroy, cut", "", s.cuts(destroyed)},
		{"destroy, cut, and applied", "", s.cuts(destroyedAndApplied)},
		{"update, cut", Changed, s.cuts(updated)},
		{"update, cut, and wanted as before", Changed, s.cuts(updatedBack)},
		{"replace, cut", Replaced, s.cuts(replaced)},
	} {
		if tt.needs == "" || s.has(tt.needs) {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				tt.run(t)
			})
		}
	}
}

type suite struct {
	world  func(t *testing.T) World
	traits Traits
}

func (s *suite) has(trait Trait) bool {
	_, lacks := s.traits.Lacks[trait]
	return !lacks
}

// in runs a test in a world of its own.
func (s *suite) in(test func(*deployment)) func(*testing.T) {
	run := func(t *testing.T) { test(newDeployment(t, s.world(t))) }
	if s.traits.RealTime {
		return run
	}
	return func(t *testing.T) { synctest.Test(t, run) }
}

// maxSteps is how many steps one verb may take with one thing. Who needs more asks in
// circles.
const maxSteps = 200

// cuts runs a test once for each step that it has and each way to be cut there. The test
// uses the cut that it gets for one process, and returns whether that came to it.
func (s *suite) cuts(test func(d *deployment, c cut) bool) func(*testing.T) {
	return s.cutAs(test, killBefore, killAfter, interrupt, lose)
}

// cutAs is cuts with some of the ways.
func (s *suite) cutAs(test func(d *deployment, c cut) bool, kinds ...cutKind) func(*testing.T) {
	return func(t *testing.T) {
		kinds := slices.DeleteFunc(kinds, func(k cutKind) bool { return k == lose && !s.has(Questions) })
		sparse := s.traits.Costly && os.Getenv("NXTEST_FAULTS") != "all"
		ended := map[cutKind]bool{}
		for at := 1; len(ended) < len(kinds); at++ {
			if at > maxSteps {
				t.Fatalf("after %d steps it is not done", maxSteps)
			}
			for i, kind := range kinds {
				if ended[kind] || sparse && i != at%len(kinds) {
					continue
				}
				c, more := cut{at, kind}, true
				if !t.Run(c.String(), s.in(func(d *deployment) { more = test(d, c) })) {
					more = more && at < 10 // the rest would say the same
				}
				if !more {
					ended[kind] = true
				}
			}
		}
	}
}
