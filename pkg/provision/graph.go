package provision

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"nx/pkg/network"
	"nx/pkg/state"
)

// maxRounds is how often the network is asked again with what was learned. Who needs
// more has options that change each other without an end.
const maxRounds = 20

// A graph is what is done in one run: things, each behind what it refers to. One
// goroutine has it; the things are worked on by others.
type graph struct {
	p      *Provisioner
	chosen func(Thing) bool // of the network's things; what they need comes with them; nil: the network is not asked
	all    map[Ref]Thing    // the network's things, complete, and what those need
	nodes  map[Ref]*node
	facts  network.Facts // that all is from
	rounds int

	destroys bool // things go behind those that need them

	failed func(*node) // is told of each that failed, once
	done   func(*node) // is told of each that is done; may be nil
}

// A node is one thing in a graph.
type node struct {
	thing Thing
	needs []Ref
	state nodeState
	next  *Thing // what the network has come to want while the node was running
	err   error
}

type nodeState int

const (
	waiting nodeState = iota
	running
	done
	failed
)

// newGraph is the graph of the network's things that chosen chooses.
func (p *Provisioner) newGraph(chosen func(Thing) bool) *graph {
	g := &graph{p: p, chosen: chosen, nodes: map[Ref]*node{}, facts: p.Facts()}
	g.load(p.Things)
	return g
}

// load takes what the network wants: at first, and again when more is known.
func (g *graph) load(things []Thing) {
	g.all = map[Ref]Thing{}
	var extra []Thing
	for _, t := range things {
		t, more, err := g.p.complete(t, things)
		if t.Err == nil {
			t.Err = err
		}
		g.all[t.Ref] = t
		extra = append(extra, more...)
	}
	for _, t := range extra {
		if _, ok := g.all[t.Ref]; !ok {
			g.all[t.Ref] = t
		}
	}
	seen := map[Ref]bool{}
	for _, t := range things {
		if g.chosen(t) {
			g.add(g.all[t.Ref], seen)
		}
	}
}

// add puts t and what it needs into the graph.
func (g *graph) add(t Thing, seen map[Ref]bool) {
	if seen[t.Ref] {
		return
	}
	seen[t.Ref] = true
	n := g.nodes[t.Ref]
	switch {
	case n == nil:
		n = &node{thing: t}
		g.nodes[t.Ref] = n
	case n.state == waiting, n.state == done && !n.thing.same(t):
		n.thing, n.state = t, waiting
	case n.state == running && !n.thing.same(t):
		n.next = &t
	}
	n.needs = append(references(t.Config), missing(t.Err)...)
	for _, ref := range n.needs {
		// A machine is made when it is chosen, not because another looks at it.
		if needed, ok := g.all[ref]; ok && (ref.Type != state.Machines || g.chosen(needed)) {
			g.add(needed, seen)
		}
	}
}

func (t Thing) same(o Thing) bool {
	return string(t.Config) == string(o.Config) && (t.Err == nil) == (o.Err == nil)
}

// work has ensure called for each thing, once what it needs is there. It ends when all
// are done or failed, or ctx is done and what was running has returned.
func (g *graph) work(ctx context.Context, ensure func(context.Context, Thing) error) {
	type result struct {
		node *node
		err  error
	}
	results := make(chan result)
	slots := make(chan struct{}, max(g.p.Jobs, 1))
	active := 0
	for {
		g.tell(ctx)
		for _, ref := range slices.SortedFunc(maps.Keys(g.nodes), compareRefs) {
			n := g.nodes[ref]
			if n.state != waiting || ctx.Err() != nil {
				continue
			}
			ready, err := g.ready(n, false)
			if err != nil {
				g.end(n, err)
			}
			if !ready {
				continue
			}
			n.state = running
			t := n.thing
			t.Config = resolve(t.Config, g.p.made)
			active++
			go func() {
				slots <- struct{}{}
				err := ensure(ctx, t)
				<-slots
				results <- result{n, err}
			}()
		}
		if active == 0 {
			if ctx.Err() == nil && g.learn(ctx) {
				continue
			}
			break
		}
		r := <-results
		active--
		n := r.node
		switch {
		case r.err != nil:
			g.end(n, r.err)
		case n.next != nil:
			n.thing, n.next, n.state = *n.next, nil, waiting
		default:
			n.state = done
			if g.done != nil {
				g.done(n)
			}
		}
		// Who could not be described for want of this need not wait for all the others.
		if ctx.Err() == nil && n.state == done && g.awaited(n.thing.Ref) {
			g.learn(ctx)
		}
	}
	g.giveUp(ctx)
	g.tell(ctx)
}

// tell says how far the work is, for who watches: records are written when nothing more
// is learned.
func (g *graph) tell(ctx context.Context) {
	doing, ended := "making", 0
	if g.destroys {
		doing = "destroying"
	}
	for _, n := range g.nodes {
		if n.state == done || n.state == failed {
			ended++
		}
	}
	g.p.log().Log(ctx, watching, doing, "done", ended, "all", len(g.nodes))
}

// ready tells whether all that n needs is there. An error says that it will not be. Over
// says that nothing more will be learned.
func (g *graph) ready(n *node, over bool) (bool, error) {
	if n.thing.Err != nil {
		if len(missing(n.thing.Err)) == 0 && (over || !evaluated(n.thing.Err)) {
			return false, n.thing.Err
		}
		for _, ref := range missing(n.thing.Err) {
			if err := g.hopeless(ref); err != nil {
				return false, g.needError(ref, err)
			}
		}
		return false, nil // until the network is asked again
	}
	for _, ref := range n.needs {
		if needed := g.nodes[ref]; needed != nil {
			if needed.state == failed {
				return false, g.needError(ref, needed.err)
			}
			if needed.state != done {
				return false, nil
			}
		} else if err := g.hopeless(ref); err != nil {
			return false, g.needError(ref, err)
		}
	}
	return true, nil
}

// hopeless says why a thing is not there and will not be, if that is so.
func (g *graph) hopeless(ref Ref) error {
	if n := g.nodes[ref]; n != nil {
		if n.state == failed {
			return n.err
		}
		return nil
	}
	if e, ok := g.p.entry(ref); ok && e.Intent != creating {
		return nil
	}
	if _, ok := g.all[ref]; !ok {
		return errors.New("the network has none of that name")
	}
	return errors.New("it is not made yet, and not among the machines that --on chooses")
}

// awaited tells whether something waits to be described until more is known of ref.
func (g *graph) awaited(ref Ref) bool {
	for _, n := range g.nodes {
		if n.state == waiting && slices.Contains(missing(n.thing.Err), ref) {
			return true
		}
	}
	return false
}

// learn asks the network again if more is known than when it was asked last, and
// tells whether it did.
func (g *graph) learn(ctx context.Context) bool {
	facts := g.p.Facts()
	if g.p.Describe == nil || g.chosen == nil || reflect.DeepEqual(facts, g.facts) {
		return false
	}
	if g.rounds++; g.rounds > maxRounds {
		g.fail(fmt.Errorf("ask the network again: after %d times its options are still other ones", maxRounds))
		return false
	}
	g.p.log().Info("asking the network again, with what was learned")
	things, err := g.p.Describe(ctx, facts)
	if err != nil {
		g.fail(err)
		return false
	}
	g.facts = facts
	g.load(things)
	return true
}

// fail ends what waits.
func (g *graph) fail(err error) {
	for _, n := range g.nodes {
		if n.state == waiting {
			g.end(n, err)
		}
	}
}

// end ends a thing that failed.
func (g *graph) end(n *node, err error) {
	n.state, n.err = failed, err
	if g.failed != nil {
		g.failed(n)
	}
}

// giveUp says of what still waits why it does.
func (g *graph) giveUp(ctx context.Context) {
	if ctx.Err() != nil {
		g.fail(fmt.Errorf("%w before anything was done with it", context.Cause(ctx)))
		return
	}
	// First those that are in the way of others.
	for ended := true; ended; {
		ended = false
		for _, ref := range slices.SortedFunc(maps.Keys(g.nodes), compareRefs) {
			if n := g.nodes[ref]; n.state == waiting {
				if _, err := g.ready(n, true); err != nil {
					g.end(n, err)
					ended = true
				}
			}
		}
	}
	needs := map[Ref][]Ref{}
	for ref, n := range g.nodes {
		if n.state == waiting {
			needs[ref] = n.needs
		}
	}
	if circle := cycle(needs); circle != nil {
		g.fail(&cycleError{circle})
		return
	}
	for _, n := range g.nodes {
		if n.state == waiting {
			err := n.thing.Err
			if err == nil {
				err = errors.New("what it needs was not made")
			}
			g.end(n, err)
		}
	}
}

// needError is why a thing that has ref in its way cannot be made, or not go.
func (g *graph) needError(ref Ref, cause error) error {
	if g.destroys {
		return &leftError{ref}
	}
	return &needError{ref, cause}
}

// A needError is why a thing cannot be made: another was not.
type needError struct {
	needed Ref
	cause  error
}

func (e *needError) Error() string { return fmt.Sprintf("it needs %s: %v", e.needed, e.cause) }
func (e *needError) Unwrap() error { return e.cause }

// Hint is none: that of the cause is said with the other's error.
func (e *needError) Hint() string { return "" }

// A leftError is why a thing cannot go: another that needs it did not.
type leftError struct{ user Ref }

func (e *leftError) Error() string {
	return fmt.Sprintf("destroy it: %s needs it, and is still there", e.user)
}

// A cycleError names things of which each needs the next.
type cycleError struct{ circle []Ref }

func (e *cycleError) Error() string {
	names := make([]string, len(e.circle))
	for i, ref := range e.circle {
		names[i] = ref.String()
	}
	return "order what needs what: " + strings.Join(names, " needs ")
}

func (e *cycleError) Hint() string {
	return "one of them has to do without the other's address or output, or be made by hand first"
}

// evaluated tells whether err is that of an evaluation. Such a one may pass when more is
// known: addresses that are not known yet are null, which not all options take.
func evaluated(err error) bool {
	var e *network.EvalError
	return errors.As(err, &e)
}

// missing are the things of which the network does not know enough to say what it
// wants, as far as err tells.
func missing(err error) []Ref {
	var unknown *network.EvalError
	if !errors.As(err, &unknown) {
		return nil
	}
	typ, name, ok := unknown.Unknown()
	if !ok {
		return nil
	}
	return []Ref{{typ, name}}
}
