package deliver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"nx/pkg/deliver"
	"nx/pkg/keys"
	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/target"
	"nx/pkg/testhost"
)

// keyed is a host's record with ten keys.
func keyed(t testing.TB, h *testhost.Host, path store.Path, more string) *record.Record {
	t.Helper()
	r := hostRecord(t, h, path)
	declared := map[string]any{}
	for i := range 10 {
		declared[fmt.Sprintf("key-%d", i)] = map[string]any{"source": map[string]any{"eval": "x"}, "name": fmt.Sprintf("k%d", i), "destDir": "/run/keys",
			"user": "root", "group": "root", "permissions": "0400", "uploadAt": "pre-activation"}
	}
	if more != "" {
		declared["more"] = map[string]any{"source": map[string]any{"eval": "x"}, "name": more, "destDir": "/var/keys", "user": "root", "group": "root", "permissions": "0440"}
	}
	check(t, r.Set("deployment", map[string]any{"keys": declared}))
	return r
}

func reads(ctx context.Context, host *record.Record, k *keys.Key) ([]byte, error) {
	if k.Name == "unreadable" {
		return nil, errors.New("open secrets/x: no such file or directory")
	}
	return []byte(host.Name() + " " + k.ID), nil
}

// All keys of a host go over the connection that its closure goes over, in two round
// trips, and nothing that is used changes.
func TestKeysAreStaged(t *testing.T) {
	h := testhost.Start(t, 1)[0]
	path := localStore(t)
	c := courier(t, func(event) {})
	check(t, c.Host(t.Context(), hostRecord(t, h, path)))

	dial, trips, dials := c.Dial, &trips{}, 0
	c.Dial = func(ctx context.Context, to target.Target) (deliver.Conn, error) {
		dials++
		conn, err := dial(ctx, to)
		return tripConn{conn, trips}, err
	}
	c.Keys = reads
	r := keyed(t, h, path, "")
	check(t, c.Host(t.Context(), r))
	if n := 2 + trips.n; n > 7 || dials != 1 {
		t.Errorf("%d round trips on %d connections for ten keys", n, dials)
	}
	if got := r.Get("copied").Raw; got != `{"storePath":"`+string(path)+`","keys":["key-0","key-1","key-2","key-3","key-4","key-5","key-6","key-7","key-8","key-9"]}` {
		t.Errorf("copied %s", got)
	}
	if got := inside(t, h, "ls /run/keys 2>/dev/null; stat -c %a /run/nx/keys; cd /run/nx/keys/"+path.Base()+"; cat 0 9; wc -l <manifest"); got != "700\nh1 key-0h1 key-910\n" && got != "700\nh1 key-0h1 key-910" {
		t.Errorf("staged %q", got)
	}
	if strings.Contains(string(r.Bytes()), "h1 key") {
		t.Error("contents are in the record")
	}
	trips.n, dials = 0, 0
	check(t, c.InstallKeys(t.Context(), keyed(t, h, path, ""), false))
	if n := 1 + trips.n; n > 4 || dials != 1 {
		t.Errorf("at once: %d round trips on %d connections", n, dials)
	}
	// A host that declares none says so; one that is left alone, and one of which
	// nothing is known, say nothing.
	none := hostRecord(t, h, path)
	check(t, none.Set("deployment", map[string]any{"keys": map[string]any{}}))
	check(t, c.Host(t.Context(), none))
	alone, unknown := keyed(t, h, path, ""), hostRecord(t, h, path)
	check(t, c.Host(t.Context(), unknown))
	c.Keys = nil
	check(t, c.Host(t.Context(), alone))
	for r, want := range map[*record.Record]string{none: `[]`, alone: "", unknown: ""} {
		if got := r.Get("copied").Get("keys").Raw; got != want {
			t.Errorf("copied.keys is %q, want %q", got, want)
		}
	}
}

func TestKeysFail(t *testing.T) {
	h := testhost.Start(t, 1)[0]
	path := localStore(t)
	addUser(t, h, "joe", "trusted-users = joe")
	c := courier(t, func(event) {})
	c.Keys = reads
	user := func(r *record.Record, members ...record.Member) *record.Record {
		check(t, r.Merge("target", append(members, record.Member{Key: "user", Value: "joe"})...))
		return r
	}
	for name, tt := range map[string]struct {
		r         *record.Record
		err, hint string
	}{
		"unreadable": {keyed(t, h, path, "unreadable"), "read key more: open secrets/x: no such file or directory", ""},
		"malformed":  {keyed(t, h, path, "a/b"), `deployment.keys.more: name "a/b" is no name of a file`, ""},
		"no root":    {user(keyed(t, h, path, "")), "stage keys: mkdir: ", `keys are installed by root, which user "joe" has to become: set target.sudo, such as ["sudo"]`},
	} {
		err := c.Host(t.Context(), tt.r)
		if err == nil || !strings.HasPrefix(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %s", name, err, tt.err)
		}
		var hinted interface{ Hint() string }
		if hint := ""; errors.As(err, &hinted) {
			hint = hinted.Hint()
			if hint != tt.hint {
				t.Errorf("%s: hint %q", name, hint)
			}
		} else if tt.hint != "" {
			t.Errorf("%s: no hint", name)
		}
	}
}

// Keys are brought at once, to all of a fleet, each over one connection; those that
// are there do not go again.
func TestKeysAtOnce(t *testing.T) {
	const n = 20
	hosts := testhost.Start(t, n)
	path := localStore(t)
	var mu sync.Mutex
	var events []string
	c := courier(t, func(e event) {
		mu.Lock()
		defer mu.Unlock()
		if e.what == "installed keys" || e.what == "connecting" {
			events = append(events, strings.TrimSpace(e.what+" "+e.attrs["sent"]))
		}
	})
	c.Keys = reads
	var wg sync.WaitGroup
	all := func(more string, prune bool) {
		events = nil
		for _, h := range hosts {
			wg.Go(func() {
				if err := c.InstallKeys(context.Background(), keyed(t, h, path, more), prune); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		slices.Sort(events)
	}
	for _, tt := range []struct {
		more  string
		prune bool
		sent  int
		there string
	}{{"more", false, 11, "more"}, {"more", false, 0, "more"}, {"", false, 0, "more"}, {"", true, 0, ""}} {
		all(tt.more, tt.prune)
		want := append(slices.Repeat([]string{"connecting"}, n), slices.Repeat([]string{fmt.Sprintf("installed keys %d", tt.sent)}, n)...)
		if !slices.Equal(events, want) {
			t.Errorf("%q, want %q", events, want)
		}
		for _, h := range hosts {
			if got := inside(t, h, "cat /run/keys/k0 /run/keys/k9; ls /var/keys 2>/dev/null || :"); strings.TrimSpace(got) != h.Name+" key-0"+h.Name+" key-9"+tt.there {
				t.Errorf("%s has %q", h.Name, got)
			}
		}
	}
}
