package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"nx/pkg/provision"
	"nx/pkg/record"
	"nx/pkg/state"
)

const name = "web1"

// declarations holds what a world says that it lacks against it.
func declarations(d *deployment) {
	for trait, why := range d.traits.Lacks {
		if why == "" {
			d.t.Errorf("that %q is lacking has no reason", trait)
		}
	}
	lacks := func(trait Trait, lacking bool) {
		if _, declared := d.traits.Lacks[trait]; declared != lacking {
			d.t.Errorf("that it lacks %q is declared: %v, and so it is: %v", trait, declared, lacking)
		}
	}
	for _, v := range []Variant{Changed, Replaced} {
		lacks(v, d.world.Things(v, name) == nil)
	}
	for _, v := range []Variant{First, Misspelt} {
		if d.world.Things(v, name) == nil {
			d.t.Errorf("%q is no network, and every provider has one", v)
		}
	}
	line := d.must(First)
	lacks(Outside, d.world.Count() == 0)
	lacks(Questions, line.asked() == 0)
	if id := d.entry().ID; d.has(Outside) {
		property, ok := d.world.Tamper(id)
		lacks(Drift, !ok)
		if ok == (property == "") {
			d.t.Errorf("what was tampered with is called %q", property)
		}
		if !d.world.Remove(id) {
			d.t.Errorf("%s cannot be removed", id)
		}
	} else {
		lacks(Drift, true)
	}
	for _, f := range []Fault{Unauthorised, Quota, RateLimit, Slow} {
		_, ok := d.world.Misbehave(f)
		lacks(f, !ok)
	}
}

// options are read strictly, and without asking.
func options(d *deployment) {
	line := &Line{}
	m := d.world.Maker(line)
	wanted := d.properties(m, First)
	if again := d.properties(m, First); !bytes.Equal(asJSON(again), asJSON(wanted)) {
		d.t.Errorf("properties are %s, and then %s", asJSON(wanted), asJSON(again))
	}
	for _, p := range wanted {
		if e := m.Effect(p.Name, nil, asJSON(p.Value)); !slices.Contains([]provision.Effect{provision.InPlace, provision.Reboots, provision.Replaces}, e) {
			d.t.Errorf("the effect of %s is %q", p.Name, e)
		}
	}
	_, err := m.Properties(d.thing(Misspelt, name))
	d.oneLine("a misspelt option", err)
	if n := line.asked(); n > 0 {
		d.t.Errorf("to read options it asks %d questions", n)
	}
	_, err = d.apply(cut{}, d.world.Things(Misspelt, name), provision.Allow{}, false)
	d.oneLine("apply with a misspelt option", err)
	d.count(0)
}

// createTwice calls Create again as for a run that did not live to see it.
func createTwice(d *deployment) {
	w := d.work(name)
	m := d.world.Maker(&Line{})
	first, err := m.Create(d.t.Context(), w)
	if err != nil {
		d.t.Fatal(err)
	}
	d.facts(first)
	for _, id := range []string{"", first.ID} {
		w.Again, w.ID = true, id
		again, err := d.world.Maker(&Line{}).Create(d.t.Context(), w)
		if err != nil {
			d.t.Fatalf("again, when %q is remembered: %v", id, err)
		}
		if again.ID != first.ID {
			d.t.Errorf("it is %s, and then %s", first.ID, again.ID)
		}
		d.facts(again)
	}
	d.count(1)
}

// destroyTwice destroys what is there, what is there no longer, and what never was.
func destroyTwice(d *deployment) {
	m := d.world.Maker(&Line{})
	w := d.work(name)
	if err := m.Destroy(d.t.Context(), w.Known); err != nil {
		d.t.Errorf("what was never made: %v", err)
	}
	f, err := m.Create(d.t.Context(), w)
	if err != nil {
		d.t.Fatal(err)
	}
	k := d.known(w, f)
	for range 2 {
		if err := m.Destroy(d.t.Context(), k); err != nil {
			d.t.Error(err)
		}
		d.count(0)
	}
	// The network is not there, nor the ID.
	w = d.work("web2")
	if _, err := m.Create(d.t.Context(), w); err != nil {
		d.t.Fatal(err)
	}
	w.Config = nil
	if err := m.Destroy(d.t.Context(), w.Known); err != nil {
		d.t.Error(err)
	}
	d.count(0)
}

// readMany reads things of which one is gone.
func readMany(d *deployment) {
	m := d.world.Maker(&Line{})
	var known []provision.Known
	for _, n := range []string{"web1", "web2", "web3"} {
		w := d.work(n)
		f, err := m.Create(d.t.Context(), w)
		if err != nil {
			d.t.Fatal(err)
		}
		known = append(known, d.known(w, f))
	}
	want := []provision.State{provision.Up, provision.Up, provision.Up}
	if d.has(Outside) {
		if err := m.Destroy(d.t.Context(), known[1]); err != nil {
			d.t.Fatal(err)
		}
		want[1] = provision.Missing
	}
	told := map[int]int{}
	m.Read(d.t.Context(), known, func(i int, f provision.Facts, err error) {
		if told[i]++; told[i] > 1 {
			d.t.Errorf("of %d it is told %d times", i, told[i])
		}
		if err != nil || f.State != want[i] {
			d.t.Errorf("%s is %q (%v), want %q", known[i].Name, f.State, err, want[i])
		}
		if f.State != provision.Missing {
			if f.ID != "" && f.ID != known[i].ID {
				d.t.Errorf("%s was made as %s and is %s", known[i].Name, known[i].ID, f.ID)
			}
			d.facts(f)
		}
	})
	if len(told) != len(known) {
		d.t.Errorf("it is told of %d, want %d", len(told), len(known))
	}
	m.Read(d.t.Context(), nil, func(int, provision.Facts, error) { d.t.Error("of nothing it is told something") })
}

// applyTwice asks nothing the second time, and all again when it is told to.
func applyTwice(d *deployment) {
	things := d.world.Things(First, "web1", "web2")
	if _, err := d.apply(cut{}, things, provision.Allow{}, false); err != nil {
		d.t.Fatal(err)
	}
	d.count(2)
	before := d.remembered()
	line, err := d.apply(cut{}, things, provision.Allow{}, false)
	if err != nil {
		d.t.Error(err)
	}
	if _, local := d.world.Maker(&Line{}).(provision.Local); line.asked() > 0 && !local {
		d.t.Errorf("with nothing to do it asks %d questions", line.asked())
	}
	if _, err := d.apply(cut{}, things, provision.Allow{}, true); err != nil {
		d.t.Error(err)
	}
	if d.traits.machine() {
		if err := d.check(things); err != nil {
			d.t.Errorf("check: %v", err)
		}
	}
	for n, e := range d.remembered() {
		was := before[n]
		was.Reached, e.Reached = nil, nil // by ssh: the provider has no part in that
		if !bytes.Equal(asJSON(was), asJSON(e)) {
			d.t.Errorf("%s was\n%s\nand is\n%s", n, asJSON(was), asJSON(e))
		}
	}
	d.count(2)
	if _, err := d.destroy(cut{}); err != nil {
		d.t.Error(err)
	}
	d.nothing()
}

// update brings a thing to what the network wants, by hand and by apply.
func update(d *deployment) {
	d.must(First)
	id := d.entry().ID
	line := d.must(Changed)
	if d.has(Questions) && line.asked() == 0 {
		d.t.Error("to change it it asks nothing")
	}
	if now := d.entry().ID; now != id {
		d.t.Errorf("it was %s and is %s after a change", id, now)
	}
	d.as(Changed)
	d.must(First)
	d.as(First)
	d.count(1)
}

// updateGone changes what somebody destroyed: it is an error, and makes nothing.
func updateGone(d *deployment) {
	d.must(First)
	if !d.has(Outside) || !d.world.Remove(d.entry().ID) {
		return
	}
	if _, local := d.world.Maker(&Line{}).(provision.Local); local {
		return // apply sees it before
	}
	_, err := d.apply(cut{}, d.world.Things(Changed, name), allowAll, false)
	d.oneLine("a change of what is gone", err)
	d.count(0)
	d.must(Changed) // apply has looked, or looks now
	d.as(Changed)
}

// replace is refused, and then allowed.
func replace(d *deployment) {
	d.must(First)
	id := d.entry().ID
	_, err := d.apply(cut{}, d.world.Things(Replaced, name), provision.Allow{Reboot: true}, false)
	d.oneLine("a replacement", err)
	if e := d.entry(); e.ID != id {
		d.t.Errorf("it was %s and is %s", id, e.ID)
	}
	d.as(First)
	d.must(Replaced)
	d.as(Replaced)
	d.count(1)
}

// removed is missing, and made again only when that is allowed.
func removed(d *deployment) {
	d.must(First)
	if !d.world.Remove(d.entry().ID) {
		d.t.Fatal("it cannot be removed")
	}
	_, err := d.apply(cut{}, d.world.Things(First, name), provision.Allow{Reboot: true}, true)
	d.oneLine("apply", err)
	if err != nil && !strings.Contains(err.Error(), "missing") {
		d.t.Errorf("apply says %q, want that it is missing", err)
	}
	if s := d.entry().State; s != string(provision.Missing) {
		d.t.Errorf("it is remembered as %q", s)
	}
	d.count(0)
	if d.traits.machine() {
		d.oneLine("check", d.check(nil))
	}
	d.must(First)
	d.as(First)
	d.count(1)
}

// tampered is seen by Read, and mended by the next apply.
func tampered(d *deployment) {
	d.must(First)
	property, ok := d.world.Tamper(d.entry().ID)
	if !ok {
		d.t.Fatal("nobody can change it")
	}
	if d.traits.machine() {
		err := d.check(d.world.Things(First, name))
		d.oneLine("check", err)
		if err != nil && !strings.Contains(err.Error(), property+" is ") {
			d.t.Errorf("check says %q, want that %s is another", err, property)
		}
		d.must(First)
	} else if _, err := d.apply(cut{}, d.world.Things(First, name), allowAll, true); err != nil {
		d.t.Error(err)
	}
	d.as(First)
	d.count(1)
}

// switched is stopped, seen to be so, and started by apply.
func switched(d *deployment) {
	if _, ok := d.world.Maker(&Line{}).(provision.Powered); !ok || !d.traits.machine() {
		return
	}
	d.must(First)
	id := d.entry().ID
	known := provision.Known{Thing: d.thing(First, name), ID: id, Token: d.entry().Token, Outputs: d.entry().Outputs}
	if err := json.Unmarshal(d.entry().Properties, &known.Properties); err != nil && d.entry().Properties != nil {
		d.t.Fatal(err)
	}
	known.Config = nil
	power := d.world.Maker(&Line{}).(provision.Powered)
	for range 2 {
		if f, err := power.Stop(d.t.Context(), known); err != nil || f.State != provision.Stopped {
			d.t.Fatalf("stop: it is %q: %v", f.State, err)
		}
	}
	err := d.check(nil)
	d.oneLine("check", err)
	if err != nil && !strings.Contains(err.Error(), "stopped") {
		d.t.Errorf("check says %q, want that it is stopped", err)
	}
	d.must(First) // starts it
	d.as(First)
	for _, f := range []func(context.Context, provision.Known) (provision.Facts, error){power.Start, power.Reboot} {
		if f, err := f(d.t.Context(), known); err != nil || f.State != provision.Up {
			d.t.Errorf("it is %q: %v", f.State, err)
		}
	}
	if e := d.entry(); e.ID != id {
		d.t.Errorf("it was %s and is %s", id, e.ID)
	}
	d.count(1)
}

// unauthorised makes nothing, forgets nothing, and takes nothing for missing.
func unauthorised(d *deployment) {
	said := d.misbehave(Unauthorised)
	_, err := d.apply(cut{}, d.world.Things(First, name), provision.Allow{}, false)
	d.says(said, err)
	d.nothing()
	d.misbehave("")
	d.must(First)
	d.misbehave(Unauthorised)
	_, err = d.apply(cut{}, d.world.Things(First, name), allowAll, true)
	d.says(said, err)
	d.misbehave("")
	d.as(First)
	d.misbehave(Unauthorised)
	if _, err = d.destroy(cut{}); err == nil {
		d.t.Error("destroy has no error")
	}
	d.misbehave("")
	d.count(1)
	if _, err := d.destroy(cut{}); err != nil {
		d.t.Error(err)
	}
	d.nothing()
}

// quota is one clear line, and leaves nothing.
func quota(d *deployment) {
	said := d.misbehave(Quota)
	_, err := d.apply(cut{}, d.world.Things(First, name), provision.Allow{}, false)
	d.says(said, err)
	d.nothing()
	_, err = d.world.Maker(&Line{}).Create(d.t.Context(), d.work(name))
	if !errors.Is(err, provision.ErrNotMade) {
		d.t.Errorf("create: %v, want that nothing was made", err)
	}
	d.misbehave("")
	d.must(First)
	d.as(First)
	d.count(1)
}

// rateLimit is waited for.
func rateLimit(d *deployment) {
	d.misbehave(RateLimit)
	start := time.Now()
	d.must(First)
	d.as(First)
	d.count(1)
	if took := time.Since(start); !d.traits.RealTime && took < RetryAfter {
		d.t.Errorf("it asks again after %s, and was told to wait for %s", took, RetryAfter)
	}
	// Whoever waits can be interrupted.
	if _, err := d.destroy(cut{}); err != nil {
		d.t.Error(err)
	}
	d.misbehave(RateLimit)
	start = time.Now()
	c := cut{1, hangUp}
	line, err := d.apply(c, d.world.Things(First, name), provision.Allow{}, false)
	d.cutShort(c, line, err)
	if took := time.Since(start); !d.traits.RealTime && took >= RetryAfter {
		d.t.Errorf("it was interrupted at once, and ended after %s", took)
	}
	d.misbehave("")
	d.must(First)
	d.count(1)
}

// slow is waited for, too.
func slow(d *deployment) {
	d.misbehave(Slow)
	d.must(First)
	d.as(First)
	d.count(1)
	if _, err := d.destroy(cut{}); err != nil {
		d.t.Error(err)
	}
	d.nothing()
}

// created goes on after a process that was cut.
func created(d *deployment, c cut) bool {
	line, err := d.apply(c, d.world.Things(First, name), provision.Allow{}, false)
	d.cutShort(c, line, err)
	if n := d.world.Count(); n > 0 && len(d.remembered()) == 0 {
		d.t.Errorf("%s: %d are there, and the state knows none", c, n)
	}
	if _, err := d.apply(cut{}, d.world.Things(First, name), provision.Allow{}, false); err != nil {
		d.t.Errorf("%s, and again: %v", c, err)
	}
	d.count(1)
	d.as(First)
	return line.wasCut()
}

// createdOtherwise is what was wanted last: the network became another after a process
// that was cut.
func createdOtherwise(d *deployment, c cut) bool {
	line, err := d.apply(c, d.world.Things(First, name), provision.Allow{}, false)
	d.cutShort(c, line, err)
	d.must(Changed)
	d.count(1)
	d.as(Changed)
	return line.wasCut()
}

// createdTwo are two, which a process that was cut has made at once.
func createdTwo(d *deployment, c cut) bool {
	things := d.world.Things(First, name, "web2")
	line, err := d.apply(c, things, provision.Allow{}, false)
	d.cutShort(c, line, err)
	if _, err := d.apply(cut{}, things, provision.Allow{}, false); err != nil {
		d.t.Errorf("%s, and again: %v", c, err)
	}
	d.count(2)
	d.settled(things)
	return line.wasCut()
}

// createdAndDestroyed removes what a process that was cut has made.
func createdAndDestroyed(d *deployment, c cut) bool {
	line, err := d.apply(c, d.world.Things(First, name), provision.Allow{}, false)
	d.cutShort(c, line, err)
	if _, err := d.destroy(cut{}); err != nil {
		d.t.Errorf("%s, and destroyed: %v", c, err)
	}
	d.nothing()
	return line.wasCut()
}

// destroyed is gone after the second process at the latest.
func destroyed(d *deployment, c cut) bool {
	d.must(First)
	line, err := d.destroy(c)
	d.cutShort(c, line, err)
	if _, err := d.destroy(cut{}); err != nil {
		d.t.Errorf("%s, and again: %v", c, err)
	}
	d.nothing()
	return line.wasCut()
}

// destroyedAndApplied is one again: whoever destroyed it was cut, and somebody applies.
func destroyedAndApplied(d *deployment, c cut) bool {
	d.must(First)
	line, err := d.destroy(c)
	d.cutShort(c, line, err)
	d.must(First)
	d.count(1)
	d.as(First)
	return line.wasCut()
}

// updatedBack is as it was: a process that was to change it was cut, and the network has
// become what it was before.
func updatedBack(d *deployment, c cut) bool {
	d.must(First)
	line, err := d.apply(c, d.world.Things(Changed, name), allowAll, false)
	d.cutShort(c, line, err)
	d.must(First)
	d.count(1)
	d.as(First)
	return line.wasCut()
}

// updated is what was wanted after the second process at the latest.
func updated(d *deployment, c cut) bool {
	d.must(First)
	id := d.entry().ID
	line, err := d.apply(c, d.world.Things(Changed, name), allowAll, false)
	d.cutShort(c, line, err)
	d.must(Changed)
	d.count(1)
	d.as(Changed)
	if now := d.entry().ID; now != id {
		d.t.Errorf("%s: it was %s and is %s", c, id, now)
	}
	return line.wasCut()
}

// replaced is one, and what was wanted, after the second process at the latest.
func replaced(d *deployment, c cut) bool {
	d.must(First)
	line, err := d.apply(c, d.world.Things(Replaced, name), allowAll, false)
	d.cutShort(c, line, err)
	d.must(Replaced)
	d.count(1)
	d.as(Replaced)
	return line.wasCut()
}

var allowAll = provision.Allow{Recreate: true, Reboot: true}

func (d *deployment) has(trait Trait) bool {
	_, lacks := d.traits.Lacks[trait]
	return !lacks
}

// must brings the thing to a variant.
func (d *deployment) must(v Variant) *Line {
	d.t.Helper()
	line, err := d.apply(cut{}, d.world.Things(v, name), allowAll, false)
	if err != nil {
		d.t.Fatalf("apply of %q: %v", v, err)
	}
	return line
}

func (d *deployment) misbehave(f Fault) string {
	d.t.Helper()
	said, ok := d.world.Misbehave(f)
	if !ok {
		d.t.Fatalf("it cannot be %q", f)
	}
	return said
}

// cutShort looks at the error of a process that was cut.
func (d *deployment) cutShort(c cut, line *Line, err error) {
	d.t.Helper()
	switch {
	case !line.wasCut() && err != nil:
		d.t.Errorf("not %s: %v", c, err)
	case err != nil:
		d.oneLine(c.String(), err)
	}
}

// says looks for what the provider said.
func (d *deployment) says(said string, err error) {
	d.t.Helper()
	d.oneLine("it", err)
	if err != nil && (said == "" || !strings.Contains(err.Error(), said)) {
		d.t.Errorf("it says %q, want %q in it", err, said)
	}
}

// oneLine looks whether err is one line for people, or one for each thing that failed.
func (d *deployment) oneLine(what string, err error) {
	d.t.Helper()
	if err == nil {
		d.t.Errorf("%s has no error", what)
		return
	}
	for _, err := range joined(err) {
		if text := err.Error(); text == "" || strings.ContainsAny(text, "\n\r") || strings.TrimSpace(text) != text {
			d.t.Errorf("%s: the error is not one line: %q", what, text)
		}
		if strings.Contains(err.Error(), "PRIVATE KEY") {
			d.t.Errorf("%s: a private key is in the error", what)
		}
	}
}

// joined returns the errors that [errors.Join] has made err of.
func joined(err error) []error {
	several, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var lines []string
	var all []error
	for _, e := range several.Unwrap() {
		lines = append(lines, e.Error())
		all = append(all, joined(e)...)
	}
	if strings.Join(lines, "\n") != err.Error() {
		return []error{err}
	}
	return all
}

// count is how many there are to be.
func (d *deployment) count(want int) {
	d.t.Helper()
	if n := d.world.Count(); d.has(Outside) && n != want {
		d.t.Errorf("there are %d, want %d", n, want)
	}
}

// nothing is there or remembered.
func (d *deployment) nothing() {
	d.t.Helper()
	d.count(0)
	for n, e := range d.remembered() {
		d.t.Errorf("%s is remembered: %s", n, asJSON(e))
	}
}

// entry is what is remembered of the thing.
func (d *deployment) entry() state.Entry {
	d.t.Helper()
	e, ok := d.remembered()[name]
	if !ok {
		d.t.Fatalf("%s is not remembered", name)
	}
	return e
}

// as looks whether the thing is remembered and there as a variant has it.
func (d *deployment) as(v Variant) {
	d.t.Helper()
	e := d.entry()
	if e.ID == "" || e.Intent != "" || e.State != string(provision.Up) {
		d.t.Errorf("it is remembered as %s", asJSON(e))
	}
	if d.traits.machine() && len(e.Secrets) > 0 {
		d.t.Errorf("the host key that it was given is remembered: %s", asJSON(e))
	}
	d.settled(d.world.Things(v, name))
}

// settled looks whether nothing is left to be done: by a plan after all was read, in a
// process of its own.
func (d *deployment) settled(things []provision.Thing) {
	d.t.Helper()
	_, err := d.process(cut{}, things, func(ctx context.Context, p *provision.Provisioner) error {
		p.Recheck = true
		steps, err := p.Plan(ctx, func(string) bool { return true }, true)
		for _, s := range steps {
			if s.Err != nil || s.Action != provision.Nothing {
				d.t.Errorf("%s of %s is left to be done: %v %s%s", s.Action, s.Ref, s.Err, s.Why, asJSON(s.Properties))
			}
		}
		return err
	})
	if err != nil {
		d.t.Error(err)
	}
}

// facts looks at what a provider tells of a thing that is there.
func (d *deployment) facts(f provision.Facts) {
	d.t.Helper()
	if f.State == "" {
		d.t.Error("what is there has no state")
	}
	var outputs map[string]json.RawMessage
	if err := json.Unmarshal(f.Outputs, &outputs); f.Outputs != nil && err != nil {
		d.t.Errorf("outputs are %s: %v", f.Outputs, err)
	}
	if bytes.Contains(f.Outputs, []byte("PRIVATE KEY")) || bytes.Contains(asJSON(f.Properties), []byte("PRIVATE KEY")) {
		d.t.Error("a private key is among the facts that anybody may read")
	}
	if d.traits.machine() && f.State == provision.Up && f.Target.Host == "" {
		d.t.Error("a machine that is up has no address")
	}
}

// thing is one of the world's.
func (d *deployment) thing(v Variant, name string) provision.Thing {
	d.t.Helper()
	for _, t := range d.world.Things(v, name) {
		if t.Provider == d.traits.Provider && t.Name == name {
			return t
		}
	}
	d.t.Fatalf("%q has no %s", v, name)
	return provision.Thing{}
}

func (d *deployment) properties(m provision.Maker, v Variant) []provision.Property {
	d.t.Helper()
	wanted, err := m.Properties(d.thing(v, name))
	if err != nil {
		d.t.Fatal(err)
	}
	return wanted
}

// work is what a maker gets to make a thing: what the thing needs is made.
func (d *deployment) work(name string) *provision.Work {
	d.t.Helper()
	c := &catcher{}
	_, err := d.process(cut{}, d.world.Things(First, name), func(ctx context.Context, p *provision.Provisioner) error {
		makers := p.Resources
		if d.traits.machine() {
			makers = p.Machines
		}
		c.Maker = makers[d.traits.Provider]
		makers[d.traits.Provider] = c
		hosts, err := p.Wanted()
		if err != nil {
			return err
		}
		return p.Apply(ctx, hosts, true, func(*record.Record) {})
	})
	if err != nil {
		d.t.Fatal(err)
	}
	if c.work == nil {
		d.t.Fatalf("%s is not to be made", name)
	}
	c.work.Remember = func(provision.Facts) error { return nil }
	return c.work
}

// A catcher is a maker that makes nothing and keeps what it got for it.
type catcher struct {
	provision.Maker
	work *provision.Work
}

func (c *catcher) Create(_ context.Context, w *provision.Work) (provision.Facts, error) {
	c.work = w
	return provision.Facts{}, provision.ErrNotMade
}

// Complete is that of the maker.
func (c *catcher) Complete(t provision.Thing, all []provision.Thing) (provision.Thing, []provision.Thing, error) {
	return c.Maker.(provision.Completer).Complete(t, all)
}

// known is what is remembered of a thing that was made.
func (d *deployment) known(w *provision.Work, f provision.Facts) provision.Known {
	d.facts(f)
	k := w.Known
	k.ID, k.State, k.Properties, k.Outputs = f.ID, f.State, w.Want, f.Outputs
	return k
}

func asJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return []byte(err.Error())
	}
	return b
}
