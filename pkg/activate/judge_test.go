package activate

import (
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"nx/pkg/record"
	"nx/pkg/store"
)

const system = store.Path("/nix/store/00000000000000000000000000000000-nixos-system-web1")

func newOutput(text string) *output {
	o := &output{log: slog.New(slog.DiscardHandler)}
	o.Write([]byte(text))
	o.end(true)
	return o
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
	f.Add("switch", "running /nix/store/x\ndefault \ntested 0\nprofile 0\nboot 0\ndone\ndefault "+string(system)+"\ngeneration 3\nend\n", "")
	f.Add("switch", "running a\ntested 2\nrolling-back why\nrolled-back 0\nrunning a\nend\n", "no\n")
	f.Add("switch", "running a\nrolling-back why\nrebooted b\nrunning b\ndefault b\nend\n", "no\n")
	f.Add("boot", "running \nprofile 0\nboot 1\nback 1\nuncommitted full\nend\n", "full\n")
	f.Add("test", "running a\ntested 4\nfailed-unit a.service\ndone\nend", "")
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
			if !fs.has("end") || err != nil || fs.has("rolling-back") || got.Result == Activated && !fs.has("done") ||
				got.Result == Activated && Action(action) != Test && fs.value("default") != string(system) {
				t.Errorf("%q: %s, %v", stdout, got.Result, err)
			}
		case RolledBack:
			if err == nil || !fs.has("end") || fs.value("running") != fs.first("running") && !fs.has("rebooted") {
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

func TestCompare(t *testing.T) {
	got := compare(parse(`running x
closure /run/current-system
path 100 /nix/store/00000000000000000000000000000000-glibc-2.33
path 30 /nix/store/00000000000000000000000000000000-hello-2.10
path 1 /nix/store/00000000000000000000000000000000-etc
path 7 /nix/store/00000000000000000000000000000000-python3-3.9-doc
path 5 /nix/store/00000000000000000000000000000000-unit-a.service
path broken
closure /nix/store/00000000000000000000000000000000-nixos
path 100 /nix/store/00000000000000000000000000000000-glibc-2.33
path 120 /nix/store/00000000000000000000000000000000-glibc-2.35
path 30 /nix/store/00000000000000000000000000000000-hello-2.12
path 2 /nix/store/11111111111111111111111111111111-etc
path 9 /nix/store/00000000000000000000000000000000-nginx-1.22
path 5 /nix/store/00000000000000000000000000000000-unit-a.service
`))
	want := Diff{Size: 123, Before: 143, Packages: []PackageDiff{
		{Name: "glibc", Before: []string{"2.33"}, After: []string{"2.33", "2.35"}, Size: 120},
		{Name: "hello", Before: []string{"2.10"}, After: []string{"2.12"}},
		{Name: "nginx", Before: []string{}, After: []string{"1.22"}, Size: 9},
		{Name: "python3", Before: []string{"3.9-doc"}, After: []string{}, Size: -7},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}
