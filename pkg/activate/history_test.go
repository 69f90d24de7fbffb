package activate_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"nx/pkg/activate"
)

// What a host did is told by the host, and undone under the same protocol.
func TestHistory(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	reset(t, s.h, s.old)
	a := activate.Activator{Action: activate.Switch, By: "anna@laptop", Dial: dial}
	first := s.system("first", nil)
	second := s.system("second", map[string]string{"say": "two units wait"})
	bad := s.system("bad", map[string]string{"test": "2", "say": "\x1b[31mno"})
	runWith(t, &a, s.record(t, first, ample))
	runWith(t, &a, s.record(t, second, ample))
	runWith(t, &a, s.record(t, bad, ample))

	r := s.record(t, second, ample)
	check(t, a.Status(context.Background(), r))
	got := r.Get("status")
	if got.Get("running").Str != string(second) || got.Get("default").Str != string(second) || got.Get("generation").Int() != 3 ||
		!got.Get("upToDate").Bool() || got.Get("bootUnsure").Bool() || got.Get("failedUnits").Raw != "[]" {
		t.Errorf("status %s", got.Raw)
	}
	var past []string
	for _, d := range got.Get("deployments").Array() {
		system := d.Get("system").Str
		past = append(past, strings.Join([]string{system[strings.LastIndex(system, "-")+1:], d.Get("action").Str, d.Get("result").Str, d.Get("by").Str}, " "))
	}
	if got, want := strings.Join(past, ", "), "first switch activated anna@laptop, second switch activated anna@laptop, bad switch rolled-back anna@laptop"; got != want {
		t.Errorf("deployments\n got %s\nwant %s", got, want)
	}
	r = s.record(t, first, ample)
	if check(t, a.Status(context.Background(), r)); r.Get("status").Get("upToDate").Bool() {
		t.Error("another system is up to date")
	}

	var out bytes.Buffer
	check(t, a.PrintLog("", &out)(context.Background(), r))
	if got := out.String(); !strings.HasPrefix(got, "h1> no\n") {
		t.Errorf("log %q", got)
	}
	out.Reset()
	second1 := got.Get("deployments").Array()[1].Get("id").Str
	check(t, a.PrintLog(second1, &out)(context.Background(), r))
	if got := out.String(); !strings.Contains(got, "h1> two units wait\n") {
		t.Errorf("log %q", got)
	}
	for _, id := range []string{"../..", "x"} {
		if err := a.PrintLog(id, &out)(context.Background(), r); err == nil {
			t.Errorf("%s has a log", id)
		}
	}

	for _, tt := range []struct {
		name            string
		to              int
		result, err, on string
	}{
		{name: "one back", result: "activated", on: "first"},
		{name: "back to the newest", to: 3, result: "activated", on: "second"},
		{name: "to a certain one", to: 1, result: "activated", on: "old"},
		{name: "further than there are", result: "failed", err: "roll back: the host has no generation before the present one; it has 1, 2, 3", on: "old"},
		{name: "to none", to: 7, result: "failed", err: "roll back to generation 7: the host has 1, 2, 3", on: "old"},
	} {
		r := runRollBack(t, &a, s, tt.to)
		if r.result != tt.result || r.message != tt.err {
			t.Errorf("%s: %+v", tt.name, r)
		}
		if got := look(t, s.h, first); got.running != tt.on || got.profile != tt.on || got.boot != tt.on || got.generations != 3 || got.left != "" {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
	r = s.record(t, second, ample)
	check(t, a.Diff(context.Background(), r))
	if got := r.Get("diff"); !strings.Contains(got.Raw, `{"packages":[{"name":"nixos-system-old","before":[""],"after":[],"size":-`) || got.Get("packages.#").Int() != 2 {
		t.Errorf("diff %s", got.Raw)
	}
	r = s.record(t, "/nix/store/00000000000000000000000000000000-x", ample)
	if err := a.Diff(context.Background(), r); err == nil || !strings.Contains(err.Error(), "it is not on ") {
		t.Errorf("diff to what is not there: %v", err)
	}
	r = s.record(t, first, ample)
	check(t, a.Generations(context.Background(), r))
	list := r.Get("generations").Array()
	if len(list) != 3 || list[0].Get("system").Str != string(s.old) || !list[0].Get("current").Bool() || list[2].Get("system").Str != string(second) || list[2].Get("current").Bool() {
		t.Errorf("generations %s", r.Get("generations").Raw)
	}
}

type rolledBack struct{ result, message string }

func runRollBack(t testing.TB, a *activate.Activator, s *stand, to int) rolledBack {
	t.Helper()
	r := s.record(t, s.old, ample)
	err := a.RollBack(to)(context.Background(), r)
	got := rolledBack{result: r.Get("activation").Get("result").Str}
	if err != nil {
		got.message = err.Error()
	}
	if r.Get("activation").Get("action").Str != "rollback" {
		t.Errorf("activation %s", r.Get("activation").Raw)
	}
	return got
}

// Old generations go when they are not wanted any more, old deployments by themselves.
func TestKeep(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	reset(t, s.h, s.old)
	exec(t, s.h, "mkdir -p /var/lib/nx/deployments; cd /var/lib/nx/deployments; for i in $(seq 100 250); do mkdir 20000101-000$i; done")
	a := activate.Activator{Action: activate.Switch, Keep: "+2", Dial: dial}
	for _, name := range []string{"first", "second", "third"} {
		if r := runWith(t, &a, s.record(t, s.system(name, nil), ample)); r.Failed() {
			t.Fatal(r.Message())
		}
	}
	got := look(t, s.h, s.old)
	if got.generations != 2 || got.boot != "third" || !strings.HasSuffix(got.calls, "test third,boot third,boot third") {
		t.Errorf("state %+v", got)
	}
	if got := strings.TrimSpace(exec(t, s.h, "ls /var/lib/nx/deployments | wc -l")); got != "100" {
		t.Errorf("%s deployments", got)
	}
}
