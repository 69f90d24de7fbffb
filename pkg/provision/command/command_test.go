package command_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nx/pkg/provision"
	"nx/pkg/provision/command"
	"nx/pkg/provision/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, func(t *testing.T) conformance.World { return world{t, t.TempDir()} })
}

// A world of scripts is the folder that they are run in. A script can be refused there.
type world struct {
	t    *testing.T
	root string
}

func (world) Traits() conformance.Traits {
	const nobody = "a script asks whom it likes"
	return conformance.Traits{Type: command.Type, Provider: command.Type, Lacks: map[conformance.Trait]string{
		conformance.Outside:      "what was printed is in the state",
		conformance.Questions:    nobody,
		conformance.Drift:        "what was printed was printed",
		conformance.Replaced:     "a script can be run again",
		conformance.Unauthorised: nobody,
		conformance.RateLimit:    nobody,
		conformance.Slow:         nobody,
	}}
}

func (w world) Maker(*conformance.Line) provision.Maker { return &command.Provider{Root: w.root} }

func (world) Others(*conformance.Line) map[string]provision.Maker { return nil }

func (world) Things(v conformance.Variant, names ...string) []provision.Thing {
	options, ok := map[conformance.Variant]string{
		conformance.First:    `{"script":"[ ! -e full ] || { echo disk is full >&2; exit 1; }; echo first"}`,
		conformance.Changed:  `{"script":"echo changed"}`,
		conformance.Misspelt: `{"scirpt":"echo first"}`,
	}[v]
	if !ok {
		return nil
	}
	var all []provision.Thing
	for _, name := range names {
		all = append(all, thing(name, options))
	}
	return all
}

func thing(name, options string) provision.Thing {
	return provision.Thing{Ref: provision.Ref{Type: command.Type, Name: name}, Provider: command.Type, Config: json.RawMessage(options)}
}

func (world) Count() int { return 0 }

func (w world) Misbehave(f conformance.Fault) (string, bool) {
	full := filepath.Join(w.root, "full")
	switch f {
	case conformance.Quota:
		if err := os.WriteFile(full, nil, 0o600); err != nil {
			w.t.Fatal(err)
		}
		return "exit status 1: disk is full", true
	case "":
		if err := os.Remove(full); err != nil {
			w.t.Fatal(err)
		}
		return "", true
	}
	return "", false
}

func (world) Remove(string) bool { return false }

func (world) Tamper(string) (string, bool) { return "", false }

// A script's output is what the network may refer to.
func TestOutput(t *testing.T) {
	p := &command.Provider{Root: t.TempDir()}
	tests := []struct{ name, script, want, wantErr string }{
		{"text", `printf 'a\nb'`, `{"value":"a\nb"}`, ""},
		{"nothing", `:`, `{"value":""}`, ""},
		{"in $out", `echo kept >$out/x; cat $out/x`, `{"value":"kept\n"}`, ""},
		{"where it runs", `pwd`, `{"value":"` + p.Root + `\n"}`, ""},
		{"no text", `printf '\377'`, "", "what it prints is no UTF-8"},
		{"without an end", `yes`, "", "what it prints is longer than 262144 bytes"},
		{"an error", `echo one >&2; echo two >&2; exit 3`, "", "exit status 3: two"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			script, err := json.Marshal(tt.script)
			if err != nil {
				t.Fatal(err)
			}
			k := provision.Known{Thing: thing("x", `{"script":`+string(script)+`}`)}
			f, err := p.Create(t.Context(), &provision.Work{Known: k, Want: map[string]json.RawMessage{"script": script}})
			if tt.wantErr == "" && (err != nil || string(f.Outputs) != tt.want) {
				t.Errorf("outputs are %s (%v), want %s", f.Outputs, err, tt.want)
			}
			if tt.wantErr != "" && (err == nil || !strings.HasSuffix(err.Error(), tt.wantErr) || !errors.Is(err, provision.ErrNotMade)) {
				t.Errorf("the error is %v, want %s", err, tt.wantErr)
			}
		})
	}
}
