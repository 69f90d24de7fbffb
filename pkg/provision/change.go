package provision

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"nx/pkg/state"
)

// What is remembered as asked of a provider and not yet seen done.
const (
	creating   = "create"
	updating   = "update"
	destroying = "destroy"
)

// An Action is what is to be done with a thing.
type Action string

// The actions.
const (
	Nothing Action = ""
	Create  Action = "create"
	Update  Action = "update"
	Replace Action = "replace" // destroy it and create another one
	Start   Action = "start"
	Destroy Action = "destroy"
)

// A Change is what is to be done with a thing, and why.
type Change struct {
	Ref
	Action     Action
	Properties []Difference // of a creation: all that are known, with no From
	Why        string       // what the properties do not say; "" when nothing
	Needs      string       // the flag without which it is not done: "--allow-recreate"; "" when none
}

// An Allow is what the user lets happen to things that are there.
type Allow struct {
	Recreate     bool // to be replaced
	Reboot       bool // to be rebooted
	KillObsolete bool // to be destroyed when the network has them no longer
}

// The flags that allow it.
const (
	allowRecreate = "--allow-recreate"
	allowReboot   = "--allow-reboot"
	killObsolete  = "--kill-obsolete"
)

func (a Allow) has(flag string) bool {
	return flag == "" || flag == allowRecreate && a.Recreate || flag == allowReboot && a.Reboot || flag == killObsolete && a.KillObsolete
}

// change compares what the network wants of t with what is remembered of it.
func change(m Maker, t Thing, e state.Entry, made bool) (Change, error) {
	c := Change{Ref: t.Ref}
	wanted, err := m.Properties(t)
	if err != nil {
		return c, err
	}
	if !made || e.Intent == creating {
		c.Action = Create
		for _, p := range wanted {
			if to := canonical(p.Value); to != nil {
				c.Properties = append(c.Properties, Difference{Name: p.Name, To: to})
			}
		}
		if made {
			c.Why = "its creation was begun"
		}
		return c, nil
	}
	if e.Intent == destroying {
		c.Action, c.Why = Replace, "its destruction was begun"
		return c, nil
	}
	if State(e.State) == Missing {
		c.Action, c.Needs, c.Why = Replace, allowRecreate, "it is missing"
		return c, nil
	}
	if c.Properties, err = differences(m, wanted, e.Properties); err != nil {
		return c, err
	}
	effects := map[Effect]bool{}
	for _, d := range c.Properties {
		effects[d.Effect] = true
	}
	switch {
	case effects[Replaces]:
		c.Action, c.Needs = Replace, allowRecreate
	case effects[Reboots]:
		c.Action, c.Needs = Update, allowReboot
		if State(e.State) == Stopped {
			c.Needs = "" // it does not run
		}
	case len(effects) > 0:
		c.Action = Update
	case State(e.State) == Stopped:
		c.Action, c.Why = Start, "it is stopped"
	}
	if e.Intent == updating && c.Action == Nothing {
		c.Action, c.Why = Update, "its change was begun"
	}
	if _, ok := e.Secrets[injectedKey]; ok && c.Why == "" {
		c.Why = "its first host key is to be replaced"
	}
	return c, nil
}

// differences are the properties that are not as the network wants them. What a
// provider chose itself stays as it was made.
func differences(m Maker, wanted []Property, has json.RawMessage) ([]Difference, error) {
	properties, err := object(has)
	if err != nil {
		return nil, fmt.Errorf("read the state's properties: %w", err)
	}
	var all []Difference
	for _, p := range wanted {
		from, to := canonical(properties[p.Name]), canonical(p.Value)
		if bytes.Equal(from, to) || p.Default && from != nil {
			continue
		}
		effect := p.Effect
		if effect == "" {
			effect = m.Effect(p.Name, from, to)
		}
		all = append(all, Difference{p.Name, from, to, effect})
	}
	// What a maker does not name it wants no longer.
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		from := canonical(properties[name])
		if from != nil && !slices.ContainsFunc(wanted, func(p Property) bool { return p.Name == name }) {
			all = append(all, Difference{name, from, nil, m.Effect(name, from, nil)})
		}
	}
	return all, nil
}

// values are the properties by name, without those that are like none.
func values(properties []Property) map[string]json.RawMessage {
	all := map[string]json.RawMessage{}
	for _, p := range properties {
		if v := canonical(p.Value); v != nil {
			all[p.Name] = v
		}
	}
	return all
}

// canonical is a value as JSON with one form, nil for null, "", 0, false, [] and {}.
func canonical(value any) json.RawMessage {
	b, err := json.Marshal(value)
	if err != nil {
		return nil
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return nil
	}
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		if v == "" {
			return nil
		}
	case json.Number:
		if v == "0" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	case []any:
		if len(v) == 0 {
			return nil
		}
	case map[string]any:
		if len(v) == 0 {
			return nil
		}
	}
	if b, err = json.Marshal(v); err != nil {
		return nil
	}
	return b
}

func object(raw json.RawMessage) (map[string]json.RawMessage, error) {
	all := map[string]json.RawMessage{}
	if len(raw) == 0 {
		return all, nil
	}
	err := json.Unmarshal(raw, &all)
	return all, err
}

// merge returns the object old with the members of more over it.
func merge(old, more json.RawMessage) (json.RawMessage, error) {
	all, err := object(old)
	if err != nil {
		return nil, err
	}
	over, err := object(more)
	if err != nil {
		return nil, err
	}
	maps.Copy(all, over)
	if len(all) == 0 {
		return nil, nil
	}
	return json.Marshal(all)
}

// A refusedError is a change that the user has to allow.
type refusedError struct{ change Change }

func (e *refusedError) Error() string {
	c := e.change
	what := map[Action]string{Replace: "destroy it and create it anew", Update: "reboot it", Destroy: "destroy it"}[c.Action]
	return fmt.Sprintf("%s %s: %s, and it is not allowed to %s", c.Action, c.Ref, c.reason(), what)
}

func (e *refusedError) Hint() string {
	if e.change.Needs == allowRecreate {
		return "all that is on it is lost with " + allowRecreate
	}
	return "say " + e.change.Needs
}

// reason is why, in words: "region is ams3 and is to be fra1".
func (c Change) reason() string {
	var why []string
	if c.Why != "" {
		why = append(why, c.Why)
	}
	for _, d := range c.Properties {
		why = append(why, fmt.Sprintf("%s is %s and is to be %s", d.Name, Text(d.From), Text(d.To)))
	}
	return strings.Join(why, ", ")
}

// Text is a property's value for people.
func Text(v json.RawMessage) string {
	var s string
	var list []string
	switch {
	case len(v) == 0:
		return "-"
	case json.Unmarshal(v, &s) == nil:
		return s
	case json.Unmarshal(v, &list) == nil:
		slices.Sort(list)
		return strings.Join(list, ",")
	}
	return string(v)
}

// A movedError says that the network names another provider than the machine has.
type movedError struct{ name, from, to string }

func (e *movedError) Error() string {
	return fmt.Sprintf("find provider of %s: it was made by %s, and deployment.targetEnv is now %q", e.name, e.from, e.to)
}

func (e *movedError) Hint() string {
	return "if it may go, run nx-provision destroy --on " + e.name + " first"
}
