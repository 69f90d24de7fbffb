package provision

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"nx/pkg/state"
)

// Decode reads the thing's options into v as [json.Unmarshal] does. A thing that only
// the state knows leaves v as it is.
func (t Thing) Decode(v any) error {
	if len(t.Config) == 0 {
		return nil
	}
	err := json.Unmarshal(t.Config, v)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Errorf("read options: deployment.%s is a %s", wrong.Field, wrong.Value)
	}
	if err != nil {
		return fmt.Errorf("read options: deployment: %w", err)
	}
	return nil
}

// DecodeStrict reads a machine's options deployment.env into v. An option that v does
// not have is an error: most likely it is misspelt.
func (t Thing) DecodeStrict(env string, v any) error {
	var all map[string]json.RawMessage
	if err := t.Decode(&all); err != nil {
		return err
	}
	return decodeStrict("deployment."+env, all[env], v)
}

// DecodeResource reads a resource's attributes into v, as DecodeStrict. Every resource
// may have a name.
func (t Thing) DecodeResource(v any) error {
	return decodeStrict("resources."+t.Ref.String(), t.Config, v)
}

func decodeStrict(what string, config json.RawMessage, v any) error {
	if len(config) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(config))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("read options: %s: %w", what, err)
	}
	return nil
}

// references are what the options of a thing refer to, sorted.
func references(config json.RawMessage) []Ref {
	var found []Ref
	walk(config, func(r Reference) *Reference {
		found = append(found, r.Ref())
		return nil
	})
	slices.SortFunc(found, compareRefs)
	return slices.Compact(found)
}

// resolve returns config with what made knows of the things that it refers to.
func resolve(config json.RawMessage, made func(Ref) (id string, outputs json.RawMessage)) json.RawMessage {
	return walk(config, func(r Reference) *Reference {
		r.ID, r.Outputs = made(r.Ref())
		return &r
	})
}

// walk calls each for every reference in config and returns config with those that
// each returns in their places.
func walk(config json.RawMessage, each func(Reference) *Reference) json.RawMessage {
	if !bytes.Contains(config, []byte(`"resource"`)) {
		return config
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(config))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return config // who reads it says what is wrong
	}
	var visit func(v any) any
	visit = func(v any) any {
		switch v := v.(type) {
		case []any:
			for i := range v {
				v[i] = visit(v[i])
			}
		case map[string]any:
			if r, ok := asReference(v); ok {
				if r := each(r); r != nil {
					return r
				}
				return v
			}
			for key := range v {
				v[key] = visit(v[key])
			}
		}
		return v
	}
	b, err := json.Marshal(visit(v))
	if err != nil {
		return config
	}
	return b
}

func asReference(v map[string]any) (r Reference, ok bool) {
	to, ok := v["resource"].(map[string]any)
	if !ok {
		return r, false
	}
	typ, ok1 := to["type"].(string)
	name, ok2 := to["name"].(string)
	r.Resource.Type, r.Resource.Name = typ, name
	return r, ok1 && ok2
}

// compareRefs orders resources by type and name, and machines behind them.
func compareRefs(a, b Ref) int {
	if am, bm := a.Type == state.Machines, b.Type == state.Machines; am != bm {
		if bm {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
}

// cycle returns the things of a circle among needs, beginning and ending with the
// same one, or nil.
func cycle(needs map[Ref][]Ref) []Ref {
	var order []Ref
	for r := range needs {
		order = append(order, r)
	}
	slices.SortFunc(order, compareRefs)
	done := map[Ref]bool{}
	var path []Ref
	var visit func(r Ref) []Ref
	visit = func(r Ref) []Ref {
		if i := slices.Index(path, r); i >= 0 {
			return append(slices.Clone(path[i:]), r)
		}
		if done[r] {
			return nil
		}
		done[r] = true
		path = append(path, r)
		defer func() { path = path[:len(path)-1] }()
		for _, n := range needs[r] {
			if found := visit(n); found != nil {
				return found
			}
		}
		return nil
	}
	for _, r := range order {
		if found := visit(r); found != nil {
			return found
		}
	}
	return nil
}
