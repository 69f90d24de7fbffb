package provision_test

import (
	"encoding/json"
	"testing"

	"nx/pkg/provision"
	"nx/pkg/state"
)

// An open maker takes any option for a property, and lets the network say what it
// takes to change "region".
type open struct{ provision.Maker }

func (open) Properties(t provision.Thing) ([]provision.Property, error) {
	var options map[string]any
	err := t.Decode(&options)
	all := []provision.Property{}
	for name, v := range options {
		p := provision.Property{Name: name, Value: v}
		if name == "region" {
			p.Effect = provision.Replaces
		}
		all = append(all, p)
	}
	return all, err
}

func (open) Effect(string, json.RawMessage, json.RawMessage) provision.Effect {
	return provision.InPlace
}

// What was made with a property that the network does not name any longer is to lose
// it, and an effect that the network says goes before the maker's.
func TestProperties(t *testing.T) {
	tests := []struct{ name, made, options, want string }{
		{"the same", `{"size":"s"}`, `{"size":"s"}`, `null`},
		{"named no longer", `{"size":"s","color":"red"}`, `{"size":"s"}`, `[{"name":"color","from":"red","effect":"in place"}]`},
		{"like none", `{"size":"s","color":""}`, `{"size":"s"}`, `null`},
		{"as the network says", `{"region":"a"}`, `{"region":"b"}`, `[{"name":"region","from":"a","to":"b","effect":"replace"}]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ref := provision.Ref{Type: "open", Name: "x"}
			p := deployment(t, t.TempDir(), provision.Thing{Ref: ref, Provider: "open", Config: json.RawMessage(tt.options)})
			p.Resources["open"] = open{}
			if err := p.State.Put(state.Entry{Type: ref.Type, Name: ref.Name, Provider: "open", ID: "1", State: "up", Properties: json.RawMessage(tt.made)}); err != nil {
				t.Fatal(err)
			}
			steps, err := p.Plan(t.Context(), func(string) bool { return true }, true)
			if err != nil || len(steps) != 1 || steps[0].Err != nil {
				t.Fatalf("plan: %v, %v", steps, err)
			}
			if got, _ := json.Marshal(steps[0].Properties); string(got) != tt.want {
				t.Errorf("to be changed are\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}
