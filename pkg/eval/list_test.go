package eval_test

import (
	"slices"
	"strings"
	"testing"

	"nx/pkg/eval"
)

func TestList(t *testing.T) {
	standIn(t)
	n := write(t, `{ b.deployment.tags = [ "x" "a" ]; a.deployment.targetUser = "root"; broken.deployment.tags = throw "no"; }`)
	hosts, err := eval.List(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range hosts {
		if r.Failed() {
			// Later versions of Nix know the line, too.
			message, _, _ := strings.Cut(r.Message(), n.Files[0]+":")
			got = append(got, r.Name()+": "+strings.TrimSuffix(message, n.Files[0]))
			continue
		}
		got = append(got, string(r.Bytes()))
	}
	want := []string{
		`{"nx":1,"kind":"host","name":"a","target":{"host":"a","user":"root"}}`,
		`{"nx":1,"kind":"host","name":"b","tags":["a","x"],"target":{"host":"b","user":"root"}}`,
		"broken: evaluate configuration: no, at ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("list\n got %q\nwant %q", got, want)
	}
}
