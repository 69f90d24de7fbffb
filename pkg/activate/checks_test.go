package activate_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"nx/pkg/activate"
	"nx/pkg/record"
)

// Checks are asked from here and on the host; what fails them is no system to stay on.
func TestChecks(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	var asked atomic.Int32
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" && asked.Add(1) < 3 || r.URL.Path == "/broken" {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer web.Close()
	_, port, err := net.SplitHostPort(web.Listener.Addr().String())
	check(t, err)
	at := `"host":"127.0.0.1","port":` + port
	for _, tt := range []struct {
		name       string
		deployment string // members of the record's deployment
		result     string
		err        string
		checks     string
		calls      string
	}{
		{name: "all kinds pass", result: "activated", calls: "test new,boot new",
			deployment: `"healthChecks":{"cmd":[{"cmd":["test","-e","/run/current-system"],"description":"it runs"}],"http":[{` + at + `,"path":"/"}],"tcp":[{` + at + `}]}`,
			checks:     `[{"kind":"cmd","description":"it runs","passed":true},{"kind":"http","description":"http://127.0.0.1:PORT/","passed":true},{"kind":"tcp","description":"127.0.0.1:PORT","passed":true}]`},
		{name: "it needs a while", result: "activated", calls: "test new,boot new",
			deployment: `"healthChecks":{"http":[{` + at + `,"path":"/slow","period":0.1}]}`,
			checks:     `[{"kind":"http","description":"http://127.0.0.1:PORT/slow","passed":true}]`},
		{name: "its retries are used up", result: "rolled-back", calls: "test new,test old",
			deployment: `"healthChecks":{"http":[{` + at + `,"path":"/broken","period":0.1,"retries":2,"description":"the shop"}]}`,
			err:        `check "the shop" failed: status 502 Bad Gateway; the host runs /nix/store/`,
			checks:     `[{"kind":"http","description":"the shop","passed":false,"error":"status 502 Bad Gateway"}]`},
		{name: "its time is up", result: "rolled-back", calls: "test new,test old",
			deployment: `"healthChecks":{"cmd":[{"cmd":["sh","-c","echo no >&2; exit 3"]}]}`,
			err:        `check "sh -c echo no >&2; exit 3" failed: exit status 3: no; the host runs`,
			checks:     `[{"kind":"cmd","description":"sh -c echo no >&2; exit 3","passed":false,"error":"exit status 3: no"}]`},
		{name: "a command hangs", result: "rolled-back", calls: "test new,test old",
			deployment: `"healthChecks":{"cmd":[{"cmd":["sleep","1000"],"timeout":0.5,"retries":0}]}`,
			err:        `check "sleep 1000" failed: no answer within 500ms`,
			checks:     `[{"kind":"cmd","description":"sleep 1000","passed":false,"error":"no answer within 500ms"}]`},
		{name: "before anything is changed", result: "failed",
			deployment: `"preDeployChecks":{"tcp":[{"host":"127.0.0.1","port":1,"retries":0,"description":"the database"}]}`,
			err:        `connection refused; nothing was changed`},
		{name: "a secret header", result: "failed",
			deployment: `"healthChecks":{"http":[{` + at + `,"headers":{"X-Key":{"option":"a.b"}}}]}`, err: "read header X-Key: a record has no secrets"},
		{name: "no port", result: "failed", deployment: `"healthChecks":{"tcp":[{"host":"127.0.0.1"}]}`, err: `"deployment.healthChecks.tcp[0]": port 0 is no port`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			reset(t, s.h, s.old)
			r := s.record(t, s.system("new", nil), ample)
			check(t, r.Set("deployment", json.RawMessage(`{"activation":{"confirmTimeout":8},`+tt.deployment+`}`)))
			r = runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, r)
			got := r.Get("activation")
			if got.Get("result").String() != tt.result || !strings.Contains(r.Message(), tt.err) || (tt.err == "") == r.Failed() {
				t.Errorf("%s", r.Bytes())
			}
			if want := strings.ReplaceAll(tt.checks, "PORT", port); tt.checks != "" && got.Get("checks").Raw != want {
				t.Errorf("checks\n got %s\nwant %s", got.Get("checks").Raw, want)
			}
			if got := look(t, s.h, s.old).calls; got != tt.calls {
				t.Errorf("switch-to-configuration was called for %q, want %q", got, tt.calls)
			}
		})
	}
	t.Run("alone", func(t *testing.T) {
		r := hostRecord(t, s.h, s.old)
		check(t, r.Set("deployment", json.RawMessage(`{"healthChecks":{"cmd":[{"cmd":["true"]},{"cmd":["false"],"retries":0}]}}`)))
		a := activate.Activator{Dial: dial}
		if err := a.Check(context.Background(), r); err == nil {
			t.Error("no error")
		} else {
			r.Fail(record.Activate, err)
		}
		if got := r.Get("activation").Raw; got != `{"action":"check","result":"failed","checks":[{"kind":"cmd","description":"true","passed":true},{"kind":"cmd","description":"false","passed":false,"error":"exit status 1"}]}` {
			t.Errorf("got %s", got)
		}
		if r.Message() != `check "false" failed: exit status 1` {
			t.Errorf("error %q", r.Message())
		}
	})
}

// Commands before and after an activation run here and on the host, in their order,
// and only around one.
func TestHooks(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	notes := filepath.Join(t.TempDir(), "notes")
	here := func(word string) string {
		return `{"cmd":["sh","-c","echo ` + word + ` $NX_HOST $NX_RESULT >> ` + notes + `"]}`
	}
	const there = `{"cmd":["sh","-c","readlink -f /run/current-system | sed s,.*-,, >> /var/log/hooks"],"on":"host"}`
	for _, tt := range []struct {
		name, hooks string
		files       map[string]string
		result, err string
		here, there string // what they noted
	}{
		{name: "activated", hooks: `"before":[` + here("drain") + `,` + there + `],"after":["db",` + there + `,` + here("undrain") + `]`,
			result: "activated", here: "drain h1,undrain h1 activated", there: "old,new"},
		{name: "unchanged", hooks: `"before":[` + here("drain") + `],"after":[` + here("undrain") + `]`, result: "unchanged"},
		{name: "rolled back", hooks: `"before":[` + here("drain") + `],"after":[` + here("undrain") + `],"onRollback":[` + here("undo") + `]`,
			files: map[string]string{"test": "2"}, result: "rolled-back", err: "its activation script failed", here: "drain h1,undo h1 rolled-back"},
		{name: "before fails", hooks: `"before":[{"cmd":["false"]},` + here("drain") + `]`, result: "failed", err: `run "false" before: exit status 1; nothing was changed`},
		{name: "before hangs", hooks: `"before":[{"cmd":["sleep","1000"],"timeout":0.2}]`, result: "failed", err: `run "sleep 1000" before: no end within 200ms; nothing was changed`},
		{name: "after fails", hooks: `"after":[{"cmd":["false"],"on":"host"}]`, result: "activated", err: `run "false" after: exit status 1; the host runs the new system`},
		{name: "nowhere", hooks: `"after":[{"cmd":["false"],"on":"moon"}]`, result: "failed", err: `on is "moon", neither host nor deployer`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			path := s.old
			if reset(t, s.h, s.old); tt.result != "unchanged" {
				path = s.system("new", tt.files)
			}
			exec(t, s.h, "rm -f /var/log/hooks")
			os.Remove(notes)
			r := s.record(t, path, ample)
			check(t, r.Set("deployment", json.RawMessage(`{"activation":{"confirmTimeout":60,`+tt.hooks+`}}`)))
			r = runWith(t, &activate.Activator{Action: activate.Switch, Dial: dial}, r)
			if got := r.Get("activation").Get("result").Str; got != tt.result || !strings.Contains(r.Message(), tt.err) || (tt.err == "") == r.Failed() {
				t.Errorf("%s", r.Bytes())
			}
			b, _ := os.ReadFile(notes)
			lines := strings.Split(strings.TrimSpace(string(b)), "\n")
			for i := range lines {
				lines[i] = strings.TrimSpace(lines[i])
			}
			if got := strings.Join(lines, ","); got != tt.here {
				t.Errorf("noted here %q, want %q", got, tt.here)
			}
			if got := strings.TrimSpace(exec(t, s.h, "paste -sd, /var/log/hooks 2> /dev/null || :")); got != tt.there {
				t.Errorf("noted there %q, want %q", got, tt.there)
			}
		})
	}
}
