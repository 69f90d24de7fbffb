package exec_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"nx/pkg/provision"
	"nx/pkg/provision/exec"
	"nx/pkg/state"
)

// known is web of the README, made by a shell script.
func known(t *testing.T, script string) provision.Known {
	t.Helper()
	thing := things(t, state.Machines, map[string]any{"command": []string{"sh", "-c", script}}, "web")[0]
	return provision.Known{Thing: thing, ID: "4711", Token: "nx-3f6ma2"}
}

func TestBadAnswers(t *testing.T) {
	tests := []struct{ name, script, want string }{
		{"no JSON", `echo hello`, `line 1: it is no JSON object: "hello"`},
		{"no object", `echo '[1]'`, `line 1: it is no JSON object: "[1]"`},
		{"two values", `echo '{} {}'`, `line 1: it is no JSON object: "{} {}"`},
		{"no UTF-8", `echo; printf '"\377"'`, `line 2: it is no UTF-8`},
		{"two results", `echo '{"state":"up"}'; echo '{"state":"up"}'`, `line 2: it says more than one result`},
		{"a line without an end", `head -c 600000 /dev/zero | tr '\0' x; sleep 1000`, `line 1: it is longer than 524288 bytes`},
		{"nothing", `:`, `it ended without a result`},
		{"messages only", `echo '{"message":"I will"}'`, `it ended without a result`},
		{"an exit status", `echo one >&2; echo no such region >&2; exit 3`, `exit status 3: no such region`},
		{"an exit status behind a result", `echo '{"state":"up"}'; exit 3`, `exit status 3`},
		{"a long complaint", `head -c 2000000 /dev/zero | tr '\0' x >&2; echo >&2; echo so >&2; exit 1`, `exit status 1: so`},
		{"killed", `kill -9 $$`, `signal: killed`},
		{"an error", `printf '%s\n' '{"error":"quota:\n  none left","hint":"ask"}'; exit 1`, `quota: none left`},
		{"an error without a text", `echo '{"error":""}'`, `it says an error without a text`},
		{"no state", `echo '{}'`, `it says no state`},
		{"another state", `echo '{"state":"off"}'`, `state is "off", and known are "up", "stopped", "unreachable", "missing"`},
		{"another id", `echo '{"state":"up","id":"4712"}'`, `it says the id "4712", and it is "4711"`},
		{"an id that is a number", `echo '{"state":"up","id":4711}'`, `line 1: id is of the wrong form: number`},
		{"an id for a terminal", `echo '{"state":"up","id":"\u001b[1m"}'`, `id "\x1b[1m" is longer than 256 bytes or not plain text`},
		{"an option for a host", `echo '{"state":"up","target":{"host":"-oProxyCommand=x"}}'`, `target.host "-oProxyCommand=x" must not be empty or start with '-'`},
		{"outputs that are none", `echo '{"state":"up","outputs":[]}'`, `line 1: outputs is of the wrong form: array`},
		{"outputs that a record has", `echo '{"state":"up","outputs":{"state":1}}'`, `outputs.state: a machine has that already`},
		{"to remember a reading", `echo '{"remember":{"id":"4711"}}'; sleep 1000`, `line 1: it says to remember something, and was asked to read`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &exec.Provider{Root: t.TempDir()}
			p.Read(t.Context(), []provision.Known{known(t, tt.script)}, func(_ int, f provision.Facts, err error) {
				if want := "run sh read: " + tt.want; err == nil || err.Error() != want {
					t.Errorf("it is\n%v, and the error\n%v\nwant\n%s", f, err, want)
				}
			})
		})
	}
}

func TestBadCreations(t *testing.T) {
	tests := []struct {
		name, script, want string
		notMade            bool
	}{
		{"no id", `echo '{"target":{"host":"h"}}'`, `it says no id`, false},
		{"no address", `echo '{"id":"1"}'`, `it says no target.host: where ssh reaches the machine`, false},
		{"missing", `echo '{"id":"1","state":"missing"}'`, `it says that what it made is missing`, false},
		{"two ids", `echo '{"remember":{"id":"1"}}'; echo '{"id":"2"}'`, `it says the id "2", and it is "1"`, false},
		{"two ids to remember", `echo '{"remember":{"id":"1"}}'; echo '{"remember":{"id":"2"}}'`, `line 2: it says the id "2", and it is "1"`, false},
		{"refused", `echo '{"error":"no","made":false}'`, `no`, true},
		{"failed", `echo '{"error":"no"}'`, `no`, false},
		{"made what was not asked for", `echo '{"error":"no","made":true}'`, `no`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := known(t, tt.script)
			k.ID = ""
			_, err := (&exec.Provider{Root: t.TempDir()}).Create(t.Context(), &provision.Work{Known: k, Remember: func(provision.Facts) error { return nil }})
			if want := "run sh create: " + tt.want; err == nil || err.Error() != want {
				t.Errorf("the error is\n%v\nwant\n%s", err, want)
			}
			if got := errors.Is(err, provision.ErrNotMade); got != tt.notMade {
				t.Errorf("that nothing was made is said: %v, want %v", got, tt.notMade)
			}
		})
	}
	_, err := (&exec.Provider{Root: t.TempDir()}).Create(t.Context(), &provision.Work{Known: provision.Known{
		Thing: things(t, state.Machines, map[string]any{"command": []string{"./none.sh"}}, "web")[0]}})
	if want := "run ./none.sh create: fork/exec ./none.sh: no such file or directory"; err == nil || err.Error() != want || !errors.Is(err, provision.ErrNotMade) {
		t.Errorf("the error is\n%v\nwant\n%s", err, want)
	}
}

// rootOfMortal names the folder of a provider in a process that a test kills.
const rootOfMortal = "NXTEST_EXEC_ROOT"

func TestMain(m *testing.M) {
	if root, ok := os.LookupEnv(rootOfMortal); ok {
		thing := provision.Thing{Ref: provision.Ref{Type: state.Machines, Name: "web"},
			Config: json.RawMessage(`{"exec":{"command":["sh","-c","exec 3>alive; echo $$ >&3; read nothing <never"]}}`)}
		(&exec.Provider{Root: root}).Read(context.Background(), []provision.Known{{Thing: thing}}, func(int, provision.Facts, error) {})
		return
	}
	os.Exit(m.Run())
}

// A program does not outlive the process that has started it: the next one would look
// in vain for what it is about to make.
func TestKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED, needs Linux")
	}
	root := t.TempDir()
	for _, name := range []string{"alive", "never"} {
		if err := syscall.Mkfifo(filepath.Join(root, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	nx := osexec.Command(os.Args[0])
	nx.Env = append(os.Environ(), rootOfMortal+"="+root)
	if err := nx.Start(); err != nil {
		t.Fatal(err)
	}
	alive, err := os.Open(filepath.Join(root, "alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	in := bufio.NewReader(alive)
	line, err := in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	if err := nx.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = nx.Wait() // it was killed
	if err := alive.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("the program lives on: %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	tests := []struct{ name, typ, options, want string }{
		{"no command", state.Machines, `{"size":1}`, `deployment.exec.command: it names no program`},
		{"no list", state.Machines, `{"command":"./cloud.sh"}`, `deployment.exec.command: it is no list of strings`},
		{"misspelt", state.Machines, `{"command":["x"],"region":"a","replaceOn":["regoin"]}`, `deployment.exec.replaceOn: it has no "regoin"`},
		{"its own", state.Machines, `{"command":["x"],"replaceOn":["command"]}`, `deployment.exec.replaceOn: it has no "command"`},
		{"a resource that reboots", exec.Env, `{"command":["x"],"a":1,"rebootOn":["a"]}`, `resources.exec.web.rebootOn: only a machine reboots`},
		{"outputs that are no names", exec.Env, `{"command":["x"],"outputs":{}}`, `resources.exec.web.outputs: it is no list of strings`},
		{"no set", state.Machines, `7`, `deployment.exec: json: cannot unmarshal number into Go value of type map[string]json.RawMessage`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := (&exec.Provider{}).Properties(things(t, tt.typ, json.RawMessage(tt.options), "web")[0])
			if want := "read options: " + tt.want; err == nil || err.Error() != want {
				t.Errorf("the error is\n%v\nwant\n%s", err, want)
			}
		})
	}
}

// What the network says that a change takes is what it takes.
func TestEffects(t *testing.T) {
	thing := things(t, state.Machines, json.RawMessage(`{"command":["x"],"a":1,"b":[],"c":{},"d":"","replaceOn":["c","b"],"rebootOn":["a","b"]}`), "web")[0]
	properties, err := (&exec.Provider{}).Properties(thing)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range properties {
		got = append(got, p.Name+":"+string(p.Effect))
	}
	if want := "command: a:reboot b:replace c:replace d:in place"; strings.Join(got, " ") != want {
		t.Errorf("the effects are\n%s\nwant\n%s", strings.Join(got, " "), want)
	}
}

// The README's requests are what a program reads.
func TestReadmeRequests(t *testing.T) {
	root := t.TempDir()
	p := &exec.Provider{Root: root}
	web := known(t, `cat >>requests; echo '{"id":"4711","state":"up","target":{"host":"h"}}'`)
	web.Properties = map[string]json.RawMessage{"command": json.RawMessage(`["x"]`), "region": json.RawMessage(`"ams"`), "size": json.RawMessage(`4`)}
	web.Outputs = json.RawMessage(`{"publicIPv4":"192.0.2.7"}`)
	address := web
	address.Thing = things(t, exec.Env, map[string]any{"command": []string{"sh", "-c", `cat >>requests; echo '{"id":"9"}'`}}, "address")[0]
	address.ID, address.Token, address.Outputs = "", "nx-x4w7qb", nil
	create := web
	create.ID, create.Outputs = "", nil
	remember := func(provision.Facts) error { return nil }
	size := func(n string) map[string]json.RawMessage {
		return map[string]json.RawMessage{"region": json.RawMessage(`"ams"`), "size": json.RawMessage(n)}
	}
	var errs []error
	run := func(_ provision.Facts, err error) { errs = append(errs, err) }
	run(p.Create(t.Context(), &provision.Work{Known: create, Want: size("2"), Remember: remember,
		HostKey: provision.HostKey{Private: "-----BEGIN OPENSSH PRIVATE KEY-----\n…", Public: "ssh-ed25519 AAAA…"}}))
	run(p.Create(t.Context(), &provision.Work{Known: address, Again: true, Remember: remember,
		Want: map[string]json.RawMessage{"name": json.RawMessage(`"nixops-4ba1-address"`), "region": json.RawMessage(`"ams"`)}}))
	run(p.Update(t.Context(), &provision.Work{Known: web, Want: size("4"), Remember: remember}, []provision.Difference{{Name: "command"}, {Name: "size"}}))
	p.Read(t.Context(), []provision.Known{web}, func(_ int, f provision.Facts, err error) { run(f, err) })
	run(p.Stop(t.Context(), web))
	run(provision.Facts{}, p.Destroy(t.Context(), create))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "requests"))
	if want := exec.ReadmeBlock(t, "json request"); err != nil || string(got) != want {
		t.Errorf("it reads (%v)\n%s\nwant\n%s", err, got, want)
	}
	// Another program alone is no change.
	if _, err := p.Update(t.Context(), &provision.Work{Known: known(t, "exit 1")}, []provision.Difference{{Name: "command"}}); err != nil {
		t.Error(err)
	}
}

// What a program says is shown: its messages, and what it writes to stderr.
func TestShown(t *testing.T) {
	var shown bytes.Buffer
	p := &exec.Provider{Root: t.TempDir(), Log: slog.New(slog.NewTextHandler(&shown, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))}
	k := known(t, `printf '%s\n' '{"message":"one\ntwo","other":1}'; echo three >&2; echo '{"state":"up"}'`)
	p.Read(t.Context(), []provision.Known{k}, func(_ int, f provision.Facts, err error) {
		if err != nil || f.State != provision.Up {
			t.Errorf("it is %q: %v", f.State, err)
		}
	})
	for _, want := range []string{"level=INFO msg=\"one two\" host=web\n", "level=INFO msg=output host=web line=three\n"} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("shown is\n%s\nwant\n%s", shown.String(), want)
		}
	}
}

// onMessage calls f at the first message of a program.
type onMessage struct {
	slog.Handler
	f func()
}

func (h onMessage) Enabled(context.Context, slog.Level) bool      { return true }
func (h onMessage) WithAttrs([]slog.Attr) slog.Handler            { return h }
func (h onMessage) Handle(_ context.Context, r slog.Record) error { h.f(); return nil }

// A program that is interrupted is told so, with all that it started.
func TestInterrupted(t *testing.T) {
	interrupted := errors.New("interrupted")
	for _, tt := range []struct {
		name, script string
		wantErr      bool
	}{
		{"hanging", `echo '{"message":"ready"}'; sleep 1000 & sleep 1000`, true},
		{"at a safe point", `trap 'echo "{\"state\":\"up\"}"; exit 0' TERM; echo '{"message":"ready"}'; while :; do :; done`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			p := &exec.Provider{Root: t.TempDir(), Log: slog.New(onMessage{f: func() { cancel(interrupted) }})}
			p.Read(ctx, []provision.Known{known(t, tt.script)}, func(_ int, f provision.Facts, err error) {
				if tt.wantErr != errors.Is(err, interrupted) || !tt.wantErr && f.State != provision.Up {
					t.Errorf("it is %q: %v", f.State, err)
				}
			})
			// No other is started then.
			p.Read(ctx, []provision.Known{known(t, `echo '{"state":"up"}'`)}, func(_ int, _ provision.Facts, err error) {
				if err == nil || err.Error() != "run sh read: interrupted" {
					t.Errorf("after that the error is %v", err)
				}
			})
		})
	}
}

// The README's program has what OpenTofu made.
func TestTofu(t *testing.T) {
	needJQ(t)
	root := t.TempDir()
	for name, text := range map[string]string{
		"tofu.sh": exec.ReadmeBlock(t, "sh tofu.sh"),
		"tofu":    "#!/bin/sh\n[ \"$*\" = 'output -json machines' ] && echo '{\"web\":{\"id\":4711,\"address\":\"192.0.2.7\"}}'\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", root+":"+os.Getenv("PATH"))
	p := &exec.Provider{Root: root}
	all := things(t, state.Machines, map[string]any{"command": []string{"./tofu.sh"}}, "web", "db")
	work := func(i int) *provision.Work {
		return &provision.Work{Known: provision.Known{Thing: all[i], Token: "nx-1"}, Remember: func(provision.Facts) error { return nil }}
	}
	f, err := p.Create(t.Context(), work(0))
	if err != nil || f.ID != "4711" || f.State != provision.Up || f.Target.Host != "192.0.2.7" || string(f.Outputs) != `{"publicIPv4":"192.0.2.7"}` {
		t.Errorf("it is %+v: %v", f, err)
	}
	_, err = p.Create(t.Context(), work(1))
	var hinted interface{ Hint() string }
	if !errors.Is(err, provision.ErrNotMade) || !errors.As(err, &hinted) || hinted.Hint() != "run tofu apply" {
		t.Errorf("one that it does not have: %v", err)
	}
	p.Read(t.Context(), []provision.Known{work(0).Known, work(1).Known}, func(i int, f provision.Facts, err error) {
		if want := []provision.State{provision.Up, provision.Missing}[i]; err != nil || f.State != want {
			t.Errorf("%s is %q: %v", all[i].Name, f.State, err)
		}
	})
	if err := p.Destroy(t.Context(), work(0).Known); err != nil {
		t.Error(err)
	}
}
