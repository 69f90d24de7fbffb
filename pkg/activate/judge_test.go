package activate

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"nx/pkg/record"
	"nx/pkg/store"
)

const system = store.Path("/nix/store/00000000000000000000000000000000-nixos-system-web1")

func newOutput(text string) *output {
	o := &output{log: slog.New(slog.DiscardHandler)}
	o.Write([]byte(text))
	o.end()
	return o
}

func TestFailedUnits(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{name: "none", text: "starting\n"},
		{name: "one", text: "warning: the following units failed: a.service\n", want: []string{"a.service"}},
		{name: "several", text: "x\nwarning: the following units failed: a.service, b@c.service\n× a.service - A\n", want: []string{"a.service", "b@c.service"}},
		{name: "the last list counts", text: "warning: the following units failed: a.service\nwarning: the following units failed: b.service",
			want: []string{"b.service"}},
	} {
		if got := newOutput(tt.text).failedUnits(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// The last of the output is kept, by whole lines, whatever is written.
func TestOutputKeepsTheEnd(t *testing.T) {
	o := newOutput(strings.Repeat("0123456789\n", record.MaxLog/4) + strings.Repeat("x", 3*maxLine) + "\xff\nend")
	got := o.tail()
	if len(got) > record.MaxLog || !strings.HasPrefix(got, "0123456789\n") || !strings.HasSuffix(got, "x\uFFFD\nend\n") || o.last() != "end" {
		t.Errorf("kept %d bytes: %.20q…%q", len(got), got, got[max(0, len(got)-20):])
	}
}

// Whatever a host says, success is only what it brought to an end without a failing step.
func FuzzJudge(f *testing.F) {
	f.Add("switch", "running /nix/store/x\ndefault \nbegin\ntest 0\nprofile 0\nboot 0\ngeneration 3\nend\n", "")
	f.Add("boot", "running \nprofile 0\nboot 1\nwhy full\nback 1\nend\n", "full\n")
	f.Add("test", "running a\ntest 4\nend", "warning: the following units failed: a.service, b")
	f.Add("dry-activate", "running a\nunchanged\ngeneration x\n", "")
	f.Fuzz(func(t *testing.T, action, stdout, stderr string) {
		fs := parse(stdout)
		got, err := judge(Action(action), system, fs, newOutput(stderr))
		switch got.Result {
		case Unchanged:
			if !fs.has("unchanged") || err != nil {
				t.Errorf("%q: unchanged, %v", stdout, err)
			}
		case Activated, Dry:
			tested, set := fs.code("test") == 0, fs.code("profile") == 0 && fs.code("boot") == 0
			ok := map[Action]bool{Switch: tested && set, Boot: set, Test: tested, DryActivate: tested}
			if known, is := ok[Action(action)]; !fs.has("end") || err != nil || is && !known {
				t.Errorf("%q: %s, %v", stdout, got.Result, err)
			}
		case Failed, Unknown:
			if err == nil || strings.TrimSpace(err.Error()) == "" {
				t.Errorf("%q: %s without an error", stdout, got.Result)
			}
		default:
			t.Errorf("%q: result %q", stdout, got.Result)
		}
	})
}
