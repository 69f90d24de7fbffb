package provision_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"nx/pkg/network"
	"nx/pkg/provision"
	"nx/pkg/provision/keypair"
	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/target"
)

// A sky is a cloud in memory, whose machines and resources have the properties of
// their option "sky". It says what it was asked.
type sky struct {
	mu       sync.Mutex
	things   map[string]*skyThing // by id
	asked    []string
	cloud    map[string]error // by id: why nobody can see it
	identity string           // the file that lets into its machines
	enter    func(op string)  // called in the middle of each operation
}

type skyThing struct {
	token   string
	stopped bool
	has     map[string]json.RawMessage
}

func (s *sky) ask(op, name string) *sky {
	if s.enter != nil {
		s.enter(op + " " + name)
	}
	s.mu.Lock()
	s.asked = append(s.asked, op+" "+name)
	if s.things == nil {
		s.things = map[string]*skyThing{}
	}
	return s
}

// questions returns what was asked since the last call.
func (s *sky) questions() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := strings.Join(s.asked, ", ")
	s.asked = nil
	return asked
}

func (s *sky) Properties(t provision.Thing) ([]provision.Property, error) {
	var options map[string]any
	if t.Type == state.Machines {
		var all struct {
			Sky map[string]any `json:"sky"`
		}
		if err := t.Decode(&all); err != nil {
			return nil, err
		}
		options = all.Sky
	} else if err := json.Unmarshal(t.Config, &options); err != nil {
		return nil, err
	}
	var all []provision.Property
	for _, name := range []string{"size", "region", "net", "peer"} {
		v := options[name]
		if ref, ok := v.(map[string]any); ok { // a reference is its ID
			v = ref["id"]
		}
		all = append(all, provision.Property{Name: name, Value: v})
	}
	return append(all, provision.Property{Name: "image", Value: "debian", Default: true}), nil
}

func (s *sky) Effect(property string, _, _ json.RawMessage) provision.Effect {
	switch property {
	case "size":
		return provision.Reboots
	case "region":
		return provision.Replaces
	}
	return provision.InPlace
}

func (s *sky) Create(_ context.Context, w *provision.Work) (provision.Facts, error) {
	defer s.ask("create", w.Name).mu.Unlock()
	if string(w.Want["region"]) == `"nowhere"` {
		return provision.Facts{}, fmt.Errorf("create: no such region: %w", provision.ErrNotMade)
	}
	if w.Again {
		for id, t := range s.things {
			if t.token == w.Token {
				return s.facts(id, w.Name), nil
			}
		}
	}
	id := "id-" + w.Name
	for s.things[id] != nil {
		id += "x"
	}
	s.things[id] = &skyThing{token: w.Token, has: w.Want}
	if err := w.Remember(provision.Facts{ID: id}); err != nil {
		return provision.Facts{}, err
	}
	return s.facts(id, w.Name), nil
}

func (s *sky) facts(id, name string) provision.Facts {
	f := provision.Facts{ID: id, State: provision.Up, Properties: map[string]any{}}
	if s.things[id].stopped {
		f.State = provision.Stopped
	}
	for name, v := range s.things[id].has {
		f.Properties[name] = v
	}
	f.Outputs, _ = json.Marshal(map[string]string{"privateIPv4": "10.0.0." + fmt.Sprint(len(name))})
	f.Target = target.Target{Host: name + ".sky.example", IdentityFile: s.identity}
	return f
}

func (s *sky) Update(_ context.Context, w *provision.Work, changes []provision.Difference) (provision.Facts, error) {
	defer s.ask("update", w.Name).mu.Unlock()
	for _, d := range changes {
		s.things[w.ID].has[d.Name] = d.To
	}
	return s.facts(w.ID, w.Name), nil
}

func (s *sky) Read(_ context.Context, known []provision.Known, tell func(int, provision.Facts, error)) {
	defer s.ask("read", fmt.Sprint(len(known))).mu.Unlock()
	for i, k := range known {
		if err := s.cloud[k.ID]; err != nil {
			tell(i, provision.Facts{}, err)
			continue
		}
		if s.things[k.ID] == nil {
			tell(i, provision.Facts{State: provision.Missing}, nil)
			continue
		}
		tell(i, s.facts(k.ID, k.Name), nil)
	}
}

func (s *sky) Destroy(_ context.Context, k provision.Known) error {
	defer s.ask("destroy", k.Name).mu.Unlock()
	delete(s.things, k.ID)
	return nil
}

func (s *sky) power(op string, stopped bool) func(context.Context, provision.Known) (provision.Facts, error) {
	return func(_ context.Context, k provision.Known) (provision.Facts, error) {
		defer s.ask(op, k.Name).mu.Unlock()
		s.things[k.ID].stopped = stopped
		return s.facts(k.ID, k.Name), nil
	}
}

func (s *sky) Start(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return s.power("start", false)(ctx, k)
}

func (s *sky) Stop(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return s.power("stop", true)(ctx, k)
}

func (s *sky) Reboot(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return s.power("reboot", false)(ctx, k)
}

// under is a deployment whose machines and resources of type nets are in the sky.
func under(t *testing.T, s *sky, things ...provision.Thing) *provision.Provisioner {
	t.Helper()
	p := deployment(t, t.TempDir(), things...)
	p.Machines["sky"], p.Resources["nets"] = s, s
	return p
}

func net(name, config string) provision.Thing {
	return provision.Thing{Ref: provision.Ref{Type: "nets", Name: name}, Provider: "nets", Config: json.RawMessage(config)}
}

func cloudy(name, options string) provision.Thing {
	return machine(name, `{"targetEnv":"sky","sky":`+options+`}`)
}

// apply applies and returns the records.
func apply(t *testing.T, p *provision.Provisioner) string {
	t.Helper()
	return run(t, must[[]*record.Record](t)(p.Wanted()), all(p.Apply))
}

// wantText compares a text, of which got may have more around it.
func wantText(t *testing.T, what, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%s\n got %s\nwant %s in it", what, got, w)
		}
	}
}

const toNet = `{"resource":{"type":"nets","name":"lan"}}`

func TestApplyInOrder(t *testing.T) {
	s := &sky{}
	p := under(t, s, cloudy("web", `{"net":`+toNet+`}`), net("lan", `{"peer":{"resource":{"type":"nets","name":"wan"}}}`), net("wan", `{}`), machine("old", `{}`))
	got := apply(t, p)
	if q := s.questions(); q != "create wan, create lan, create web" {
		t.Errorf("the sky was asked to %s", q)
	}
	wantText(t, "apply writes", got,
		`"name":"web","target":{"host":"web.sky.example"},"machine":{"provider":"sky","id":"id-web","state":"up","privateIPv4":"10.0.0.3"}}`,
		`{"nx":1,"kind":"resource","type":"nets","name":"lan","outputs":{"privateIPv4":"10.0.0.3"}}`, `"name":"old","target":{"host":"old"}`)
	if net := s.things["id-web"].has["net"]; string(net) != `"id-lan"` {
		t.Errorf("web is made with net %s", net)
	}

	// Again, there is nothing to do and nobody is asked.
	if again := apply(t, p); again != got {
		t.Errorf("again, apply writes\n%s\nwant\n%s", again, got)
	}
	if q := s.questions(); q != "" {
		t.Errorf("with nothing to do the sky was asked to %s", q)
	}
}

// Who watches sees how far the work is, though records come at the end.
func TestApplyTells(t *testing.T) {
	var said bytes.Buffer
	p := under(t, &sky{}, cloudy("web", `{"net":`+toNet+`}`), net("lan", `{}`))
	p.Log = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
	apply(t, p)
	wantText(t, "apply says", said.String(), "msg=making done=0 all=2\n", "msg=making done=1 all=2\n", "msg=making done=2 all=2\n")
	said.Reset()
	run(t, must[[]*record.Record](t)(p.Made()), all(p.Destroy))
	wantText(t, "destroy says", said.String(), "msg=destroying done=0 all=2\n", "msg=destroying done=2 all=2\n")
}

// What does not depend on each other is made at the same time, whatever it is.
func TestApplyAtOnce(t *testing.T) {
	var arrived sync.WaitGroup
	arrived.Add(3)
	s := &sky{enter: func(string) { arrived.Done(); arrived.Wait() }}
	wantText(t, "apply writes", apply(t, under(t, s, cloudy("a", `{}`), cloudy("b", `{}`), net("lan", `{}`))), `"name":"a"`, `"name":"b"`, `"name":"lan"`)
}

func TestApplyFails(t *testing.T) {
	s := &sky{}
	p := under(t, s, cloudy("web", `{"net":`+toNet+`}`), cloudy("db", `{}`), cloudy("lost", `{"net":{"resource":{"type":"nets","name":"none"}}}`), net("lan", `{"region":"nowhere"}`))
	got := apply(t, p)
	wantText(t, "apply writes", got,
		`"name":"lan","error":{"stage":"provision","message":"create: no such region: nothing was made"}`,
		`"name":"web","error":{"stage":"provision","message":"it needs nets.lan: create: no such region: nothing was made"}`,
		`"name":"lost","error":{"stage":"provision","message":"it needs nets.none: the network has none of that name"}`,
		`"name":"db","target"`)
	if _, ok := p.State.Get("nets", "lan"); ok {
		t.Error("what was refused is remembered")
	}
}

func unknown(what string) error { return &network.EvalError{Message: what + " is not known"} }

// A machine whose options look at what is known of another is made when it is.
func TestApplyInRounds(t *testing.T) {
	s := &sky{}
	p := under(t, s)
	asked := 0
	p.Describe = func(_ context.Context, facts network.Facts) ([]provision.Thing, error) {
		asked++
		web := provision.Thing{Ref: provision.Ref{Type: state.Machines, Name: "web"}, Err: unknown("networking.privateIPv4 of db")}
		if f, ok := facts.Machines["db"]; ok {
			web = cloudy("web", `{"peer":"`+f.PrivateIPv4+`"}`)
		}
		db := provision.Thing{Ref: provision.Ref{Type: state.Machines, Name: "db"}, Err: unknown("resources.nets.lan.privateIPv4")}
		if _, ok := facts.Resources["nets"]["lan"]; ok {
			db = cloudy("db", `{}`)
		}
		return []provision.Thing{web, db, net("lan", `{}`)}, nil
	}
	p.Things = must[[]provision.Thing](t)(p.Describe(t.Context(), network.Facts{}))
	got := apply(t, p)
	if q := s.questions(); q != "create lan, create db, create web" {
		t.Errorf("the sky was asked to %s, and apply writes\n%s", q, got)
	}
	if peer := s.things["id-web"].has["peer"]; string(peer) != `"10.0.0.2"` {
		t.Errorf("web is made with peer %s", peer)
	}
	if asked != 4 {
		t.Errorf("the network was asked %d times, want 4: at first, and after each of three was made", asked)
	}
	p.Things = must[[]provision.Thing](t)(p.Describe(t.Context(), p.Facts()))
	asked = 0
	apply(t, p)
	if q := s.questions(); q != "" || asked != 0 {
		t.Errorf("again, the sky was asked to %s, and the network %d times", q, asked)
	}
}

// An address that is not known yet is null, which an option may refuse: that is an error
// only when nothing more is learned.
func TestApplyOverNull(t *testing.T) {
	s := &sky{}
	p := under(t, s)
	p.Describe = func(_ context.Context, facts network.Facts) ([]provision.Thing, error) {
		fails := func(name string) provision.Thing {
			return provision.Thing{Ref: provision.Ref{Type: state.Machines, Name: name}, Err: &network.EvalError{Message: "value is null while a string was expected"}}
		}
		proxy := fails("proxy")
		if f, ok := facts.Machines["web"]; ok {
			proxy = machine("proxy", `{"targetHost":"`+f.PrivateIPv4+`"}`)
		}
		return []provision.Thing{fails("broken"), cloudy("user", `{"peer":{"resource":{"type":"machines","name":"broken"}}}`), proxy, cloudy("web", `{}`)}, nil
	}
	p.Things = must[[]provision.Thing](t)(p.Describe(t.Context(), network.Facts{}))
	for _, step := range must[[]provision.Step](t)(p.Plan(t.Context(), func(string) bool { return true }, true)) {
		var hinted interface{ Hint() string }
		if step.Name == "proxy" && (!errors.As(step.Err, &hinted) || !strings.Contains(hinted.Hint(), "not known yet is null")) {
			t.Errorf("plan says of proxy %v", step.Err)
		}
	}
	wantText(t, "apply writes", apply(t, p),
		`"name":"broken","error":{"stage":"provision","message":"evaluate configuration: value is null while a string was expected"`,
		`"name":"user","error":{"stage":"provision","message":"it needs broken: evaluate configuration: value is null while a string was expected"`,
		`"name":"proxy","target":{"host":"10.0.0.3"}`, `"name":"web","target"`)
}

func TestApplyInACircle(t *testing.T) {
	for _, tt := range []struct {
		name   string
		things []provision.Thing
		want   string
	}{
		{"of facts", []provision.Thing{
			{Ref: provision.Ref{Type: state.Machines, Name: "a"}, Err: unknown("networking.privateIPv4 of b")},
			{Ref: provision.Ref{Type: state.Machines, Name: "b"}, Err: unknown("networking.privateIPv4 of a")},
		}, "order what needs what: a needs b needs a"},
		{"of references", []provision.Thing{
			net("lan", `{"peer":{"resource":{"type":"nets","name":"wan"}}}`),
			net("wan", `{"peer":`+toNet+`}`),
			cloudy("a", `{"net":`+toNet+`}`),
		}, "order what needs what: nets.lan needs nets.wan needs nets.lan"},
		{"of its own", []provision.Thing{
			{Ref: provision.Ref{Type: state.Machines, Name: "a"}, Err: unknown("networking.privateIPv4 of a")},
		}, "order what needs what: a needs a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &sky{}
			wantText(t, "apply writes", apply(t, under(t, s, tt.things...)), `"name":"a","error":{"stage":"provision","message":"`+tt.want+`"}`)
			if q := s.questions(); q != "" {
				t.Errorf("the sky was asked to %s", q)
			}
		})
	}
}

// Options that are others each time they are looked at have an end, too.
func TestApplyNeverSettles(t *testing.T) {
	s := &sky{}
	p := under(t, s)
	n := 0
	p.Describe = func(context.Context, network.Facts) ([]provision.Thing, error) {
		n++
		return []provision.Thing{cloudy("web", fmt.Sprintf(`{"peer":"%d"}`, n)), net(fmt.Sprintf("n%d", n), `{}`)}, nil
	}
	p.Things = must[[]provision.Thing](t)(p.Describe(t.Context(), network.Facts{}))
	apply(t, p)
	if n < 20 || n > 25 {
		t.Errorf("the network was asked %d times", n)
	}
}

func TestChanges(t *testing.T) {
	for _, tt := range []struct {
		name          string
		options       string // what they become
		allow         provision.Allow
		asked, record string
	}{
		{"in place", `{"size":"1","region":"ams","peer":"x"}`, provision.Allow{}, "update web", `"state":"up"`},
		{"reboot refused", `{"size":"2","region":"ams"}`, provision.Allow{}, "", `update web: size is 1 and is to be 2, and it is not allowed to reboot it`},
		{"reboot", `{"size":"2","region":"ams"}`, provision.Allow{Reboot: true}, "update web", `"state":"up"`},
		{"replace refused", `{"size":"1","region":"fra"}`, provision.Allow{Reboot: true, KillObsolete: true}, "", `replace web: region is ams and is to be fra, and it is not allowed to destroy it and create it anew`},
		{"replace", `{"size":"1","region":"fra"}`, provision.Allow{Recreate: true}, "destroy web, create web", `"state":"up"`},
		{"unset", `{"region":"ams"}`, provision.Allow{Reboot: true}, "update web", `"state":"up"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &sky{}
			p := under(t, s, cloudy("web", `{"size":"1","region":"ams"}`))
			apply(t, p)
			s.questions()
			p.Things, p.Allow = []provision.Thing{cloudy("web", tt.options)}, tt.allow
			got := apply(t, p)
			wantText(t, "apply writes", got, tt.record)
			if q := s.questions(); q != tt.asked {
				t.Errorf("the sky was asked to %q, want %q", q, tt.asked)
			}
			if len(s.things) != 1 {
				t.Errorf("%d machines are there", len(s.things))
			}
			if tt.asked == "" {
				return
			}
			apply(t, p)
			if q := s.questions(); q != "" {
				t.Errorf("again, the sky was asked to %q", q)
			}
		})
	}
}

func TestObsolete(t *testing.T) {
	s := &sky{}
	var said bytes.Buffer
	p := under(t, s, cloudy("web", `{"net":`+toNet+`}`), cloudy("db", `{}`), net("lan", `{}`))
	p.Log = slog.New(slog.NewTextHandler(&said, nil))
	apply(t, p)
	s.questions()
	p.Things = p.Things[1:2]
	p.Describe = func(context.Context, network.Facts) ([]provision.Thing, error) { return p.Things, nil }
	apply(t, p)
	if q := s.questions(); q != "" {
		t.Errorf("the sky was asked to %q", q)
	}
	wantText(t, "apply says", said.String(), `the network has it no longer, and it is still there" host=web`, `host=nets.lan`)
	p.Allow.KillObsolete = true
	apply(t, p)
	if q := s.questions(); q != "destroy web, destroy lan" {
		t.Errorf("the sky was asked to %q", q)
	}
	if len(s.things) != 1 || len(p.State.All()) != 1 {
		t.Errorf("%d things are there, %d remembered", len(s.things), len(p.State.All()))
	}
}

// A resource that nothing makes stops only who refers to it.
func TestUnmade(t *testing.T) {
	s := &sky{}
	var said bytes.Buffer
	bucket := provision.Thing{Ref: provision.Ref{Type: "s3Buckets", Name: "b"}, Provider: "s3Buckets"}
	p := under(t, s, cloudy("db", `{}`), bucket)
	p.Log = slog.New(slog.NewTextHandler(&said, nil))
	if got := apply(t, p); strings.Contains(got, "error") || strings.Contains(got, "s3Buckets") {
		t.Errorf("apply writes %s", got)
	}
	wantText(t, "apply says", said.String(), "it is not made: nothing makes resources.s3Buckets", "host=s3Buckets.b")
	p.Things = append(p.Things, cloudy("web", `{"net":{"resource":{"type":"s3Buckets","name":"b"}}}`))
	wantText(t, "apply writes", apply(t, p), `"name":"web","error":{"stage":"provision","message":"it needs s3Buckets.b: find provider: nothing makes resources.s3Buckets`)
	steps := must[[]provision.Step](t)(p.Plan(t.Context(), func(name string) bool { return name == "db" }, true))
	if len(steps) != 2 || !strings.HasPrefix(steps[1].Why, "nothing makes resources.s3Buckets") || steps[1].Err != nil {
		t.Errorf("plan: %+v", steps)
	}
}

// A resource stays as long as something needs it.
func TestDestroyInUse(t *testing.T) {
	s := &sky{}
	p := under(t, s, cloudy("web", `{"net":`+toNet+`}`), net("lan", `{}`))
	apply(t, p)
	if err := p.Forget("nets.lan"); err == nil || !strings.Contains(err.Error(), "web needs it") {
		t.Errorf("forget nets.lan: %v", err)
	}
	p.Things = p.Things[:1]
	p.Allow.KillObsolete = true
	hosts := must[[]*record.Record](t)(p.Wanted())
	if err := p.Apply(t.Context(), hosts, true, func(*record.Record) {}); err == nil || !strings.Contains(err.Error(), "1 of 1 are still there") {
		t.Errorf("apply without the resource that web needs: %v", err)
	}
	if len(s.things) != 2 {
		t.Errorf("%d things are there", len(s.things))
	}
	s.questions()
	run(t, must[[]*record.Record](t)(p.Made()), all(p.Destroy))
	if q := s.questions(); q != "destroy web, destroy lan" || len(p.State.All()) != 0 {
		t.Errorf("the sky was asked to %q; remembered are %v", q, p.State.All())
	}
}

// What cannot be destroyed keeps what it needs, says so once with what may help, and
// each thing is told of when it is gone, not when all are.
func TestDestroyFails(t *testing.T) {
	s := &sky{}
	var said bytes.Buffer
	p := under(t, s, cloudy("web", `{"net":`+toNet+`}`), cloudy("db", `{"net":`+toNet+`}`), net("lan", `{}`))
	p.Log = slog.New(slog.NewTextHandler(&said, nil))
	p.Jobs = 1
	apply(t, p)
	p.Machines["sky"] = stubborn{s}
	var lines []string
	hosts := must[[]*record.Record](t)(p.Made())
	err := p.Destroy(t.Context(), hosts, true, func(r *record.Record) {
		lines = append(lines, string(r.Bytes()))
		if r.Name() == "db" && len(s.things) != 2 {
			t.Errorf("db is told of when %d things are there", len(s.things))
		}
	})
	if err == nil || err.Error() != "destroy resources: 1 of 1 are still there" {
		t.Errorf("destroy: %v", err)
	}
	wantText(t, "destroy writes", strings.Join(lines, "\n"), `"name":"db","machine":{"provider":"sky","state":"missing"}}`,
		`"name":"web","error":{"stage":"provision","message":"destroy: it is locked"}}`)
	wantText(t, "destroy says", said.String(), `level=ERROR msg="destroy it: web needs it, and is still there" host=nets.lan`+"\n")
	wantText(t, "stop says", run(t, []*record.Record{must[*record.Record](t)(record.NewHost("web"))}, func(ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error {
		if err := p.Switch(ctx, hosts[0], provision.PowerOff); err != nil {
			hosts[0].Fail(record.Provision, err)
		}
		emit(hosts[0])
		return nil
	}), "stop machine: to destroy it was begun and not seen to end")
}

// Who is interrupted is told what is not known, and goes on with it the next time.
func TestDestroyInterrupted(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	s := &sky{}
	p := under(t, s, cloudy("web", `{}`))
	apply(t, p)
	s.enter = func(string) { stop(errors.New("interrupted")) }
	p.Machines["sky"] = stubborn{s}
	for _, r := range must[[]*record.Record](t)(p.Made()) {
		err := p.Destroy(ctx, []*record.Record{r}, true, func(r *record.Record) {
			wantText(t, "destroy writes", string(r.Bytes()), `"message":"destroy web: it may be there or not: destroy: it is locked"`)
		})
		if err != nil {
			t.Error(err)
		}
	}
	p.Machines["sky"] = s
	if e, _ := p.State.Get(state.Machines, "web"); e.Intent != "destroy" {
		t.Errorf("remembered is %+v", e)
	}
	if run(t, must[[]*record.Record](t)(p.Made()), all(p.Destroy)); len(p.State.All()) != 0 {
		t.Errorf("remembered are %v", p.State.All())
	}
}

// stubborn destroys all but web.
type stubborn struct{ *sky }

func (s stubborn) Destroy(ctx context.Context, k provision.Known) error {
	if k.Name == "web" {
		s.ask("destroy", k.Name).mu.Unlock()
		return errors.New("destroy: it is locked")
	}
	return s.sky.Destroy(ctx, k)
}

// --on makes what the chosen need, and no machine else.
func TestApplyChosen(t *testing.T) {
	s := &sky{}
	p := under(t, s, cloudy("web", `{"net":`+toNet+`}`), cloudy("db", `{}`), net("lan", `{}`), net("wan", `{}`),
		provision.Thing{Ref: provision.Ref{Type: state.Machines, Name: "app"}, Err: unknown("networking.privateIPv4 of db")})
	chosen := func(name string) string {
		return run(t, []*record.Record{must[*record.Record](t)(record.NewHost(name))}, func(ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error {
			return p.Apply(ctx, hosts, false, emit)
		})
	}
	chosen("web")
	if q := s.questions(); q != "create lan, create web" {
		t.Errorf("the sky was asked to %q", q)
	}
	wantText(t, "apply --on app writes", chosen("app"), "it needs db: it is not made yet, and not among the machines that --on chooses")
}

func TestPlan(t *testing.T) {
	s := &sky{}
	p := under(t, s, cloudy("web", `{"size":"1","region":"ams"}`), cloudy("same", `{}`), cloudy("stopped", `{}`), cloudy("gone", `{}`), net("lan", `{}`))
	apply(t, p)
	if _, err := s.Stop(t.Context(), provision.Known{ID: "id-stopped"}); err != nil {
		t.Fatal(err)
	}
	delete(s.things, "id-same") // which nobody has seen
	p.Things = []provision.Thing{cloudy("web", `{"size":"2","region":"fra"}`), cloudy("same", `{}`), cloudy("stopped", `{}`), cloudy("new", `{"size":"3","net":{"resource":{"type":"nets","name":"wan"}}}`),
		net("wan", `{}`), {Ref: provision.Ref{Type: state.Machines, Name: "late"}, Err: unknown("resources.nets.wan.privateIPv4")}, machine("old", `{}`), cloudy("bad", `3`)}
	e, _ := p.State.Get(state.Machines, "stopped")
	e.State = "stopped"
	if err := p.State.Put(e); err != nil {
		t.Fatal(err)
	}
	s.questions()
	before := fmt.Sprint(p.State.All())
	steps := must[[]provision.Step](t)(p.Plan(t.Context(), func(string) bool { return true }, true))
	var got strings.Builder
	for _, step := range steps {
		r := must[*record.Record](t)(p.Record(step))
		fmt.Fprintf(&got, "%s %s%s\n", step.Ref, r.Get("change").Raw, r.Message())
	}
	want := `nets.wan {"action":"create","properties":[{"name":"image","to":"debian"}]}
bad read options: deployment.sky is a number
late {"why":"known when nets.wan is made"}
new {"action":"create","properties":[{"name":"size","to":"3"},{"name":"image","to":"debian"}]}
old 
same 
stopped {"action":"start","why":"it is stopped"}
web {"action":"replace","properties":[{"name":"size","from":"1","to":"2","effect":"reboot"},{"name":"region","from":"ams","to":"fra","effect":"replace"}],"needs":"--allow-recreate"}
gone {"action":"destroy","why":"the network has it no longer","needs":"--kill-obsolete"}
nets.lan {"action":"destroy","why":"the network has it no longer","needs":"--kill-obsolete"}
`
	if got.String() != want {
		t.Errorf("Plan\n got %s\nwant %s", got.String(), want)
	}
	if q := s.questions(); q != "" || fmt.Sprint(p.State.All()) != before {
		t.Errorf("plan asked the sky to %q, and remembers %v", q, p.State.All())
	}
}

// A conn that does nothing.
type conn struct{ provision.Conn }

func (conn) Close() error { return nil }

// check tells what is not as it was made, and apply mends it.
func TestCheckAndMend(t *testing.T) {
	s := &sky{}
	p := under(t, s, cloudy("same", `{}`), cloudy("stopped", `{}`), cloudy("gone", `{}`), cloudy("other", `{"size":"1"}`), cloudy("never", `{}`), cloudy("deaf", `{}`))
	p.Dial = func(_ context.Context, to target.Target) (provision.Conn, error) {
		if to.Host == "deaf.sky.example" {
			return nil, errors.New("connect: no route to host")
		}
		return conn{}, nil
	}
	whole := p.Things
	p.Things = append(slices.Clone(whole[:4]), whole[5])
	apply(t, p)
	p.Things = whole
	s.things["id-stopped"].stopped = true
	delete(s.things, "id-gone")
	s.things["id-other"].has["size"] = json.RawMessage(`"9"`)
	s.questions()

	got := run(t, must[[]*record.Record](t)(p.All()), all(p.Check))
	wantText(t, "check writes", got,
		`"name":"same","target":{"host":"same.sky.example"},"machine":{"provider":"sky","id":"id-same","state":"up","privateIPv4":"10.0.0.4"}}`,
		`"state":"stopped","privateIPv4":"10.0.0.7"},"error":{"stage":"provision","message":"check machine: it is stopped"}}`,
		`"name":"gone","target":{"host":"gone.sky.example"},"machine":{"provider":"sky","id":"id-gone","state":"missing","privateIPv4":"10.0.0.4"},"error":{"stage":"provision","message":"check machine: it is missing"}}`,
		`"drift":[{"name":"size","from":"1","to":"9"}],"error":{"stage":"provision","message":"check: size is 9 and was 1"}}`,
		`"name":"never","machine":{"provider":"sky","state":"missing"},"error":{"stage":"provision","message":"check machine: it is missing"}}`,
		`"id":"id-deaf","state":"unreachable","privateIPv4":"10.0.0.4"},"error":{"stage":"provision","message":"connect: no route to host"}}`)
	if q := s.questions(); q != "read 5" {
		t.Errorf("check asked the sky to %q, want one question for all", q)
	}

	got = apply(t, p)
	wantText(t, "apply writes", got, `replace gone: it is missing, and it is not allowed to destroy it and create it anew`, `update other: size is 9 and is to be 1, and it is not allowed to reboot it`)
	if q := strings.Split(s.questions(), ", "); len(q) != 2 || !slices.Contains(q, "start stopped") || !slices.Contains(q, "create never") {
		t.Errorf("apply asked the sky to %q", q)
	}
	p.Allow = provision.Allow{Recreate: true, Reboot: true}
	apply(t, p)
	if q := strings.Split(s.questions(), ", "); len(q) != 3 || !slices.Contains(q, "destroy gone") || !slices.Contains(q, "create gone") || !slices.Contains(q, "update other") {
		t.Errorf("apply asked the sky to %q", q)
	}
	if got := run(t, must[[]*record.Record](t)(p.All()), all(p.Check)); strings.Count(got, `"error"`) != 1 {
		t.Errorf("after apply, check writes\n%s\nwant one that does not answer", got)
	}
}

// Recheck asks before it decides.
func TestRecheck(t *testing.T) {
	s := &sky{}
	p := under(t, s, cloudy("a", `{}`), cloudy("b", `{}`))
	apply(t, p)
	s.things["id-a"].stopped = true
	s.questions()
	p.Recheck = true
	apply(t, p)
	if q := s.questions(); q != "read 2, start a" {
		t.Errorf("the sky was asked to %q", q)
	}
}

// One thing that cannot be read stops no other.
func TestRecheckFails(t *testing.T) {
	s := &sky{}
	p := under(t, s, net("n", `{}`), cloudy("a", `{"net":{"resource":{"type":"nets","name":"n"}}}`), cloudy("b", `{}`), cloudy("c", `{}`))
	apply(t, p)
	s.things["id-b"].stopped = true
	s.cloud = map[string]error{"id-n": errors.New("fog"), "id-c": errors.New("rain")}
	s.questions()
	p.Recheck = true
	steps, err := p.Plan(t.Context(), func(string) bool { return true }, true)
	var got []string
	for _, step := range steps {
		got = append(got, fmt.Sprintf("%s: %s%v", step.Ref, step.Action, step.Err))
	}
	if want := "nets.n: read nets.n: fog|a: <nil>|b: start<nil>|c: read c: rain"; err != nil || strings.Join(got, "|") != want {
		t.Errorf("plan says %v\n%s\nwant\n%s", err, strings.Join(got, "|"), want)
	}
	wantText(t, "apply", apply(t, p), `"message":"read nets.n: fog"`, `"message":"it needs nets.n: read nets.n: fog"`, `"message":"read c: rain"`)
	wantText(t, "the questions", s.questions(), "start b")
	if s.things["id-b"].stopped {
		t.Error("b was not started")
	}
}

func TestPower(t *testing.T) {
	s := &sky{}
	p := under(t, s, cloudy("web", `{}`))
	apply(t, p)
	s.questions()
	var said bytes.Buffer
	p.Log = slog.New(slog.NewTextHandler(&said, nil))
	for what, want := range map[provision.Power]string{provision.PowerOff: "stopped", provision.Restart: "up", provision.PowerOn: "up"} {
		r := must[*record.Record](t)(record.NewHost("web"))
		if err := p.Switch(t.Context(), r, what); err != nil || r.Get("machine").Get("state").String() != want {
			t.Errorf("%s: %v, %s", what, err, r.Bytes())
		}
		if q := s.questions(); q != string(what)+" web" {
			t.Errorf("%s asked the sky to %q", what, q)
		}
	}
	wantText(t, "they say", said.String(), "msg=stopping host=web", "msg=stopped host=web took=", "msg=rebooted host=web took=", "msg=started host=web took=")
	if err := p.Switch(t.Context(), must[*record.Record](t)(record.NewHost("none")), provision.PowerOn); err == nil {
		t.Error("a machine that was never made was started")
	}
}

// Machines are reached with the key pair that lets them in, whatever that is called.
func TestRenameKeyPair(t *testing.T) {
	s := &sky{identity: provision.IdentityFile("admin")}
	pair := provision.Thing{Ref: provision.Ref{Type: keypair.Type, Name: "admin"}, Provider: keypair.Type}
	p := under(t, s, cloudy("web", `{}`), pair, net("admin", `{"peer":{"resource":{"type":"sshKeyPairs","name":"admin"}}}`))
	apply(t, p)
	before := must[[]byte](t)(os.ReadFile(filepath.Join(p.Root, ".nx/id/admin")))
	if err := p.Rename("sshKeyPairs.admin", "ops"); err != nil {
		t.Fatal(err)
	}
	if after := must[[]byte](t)(os.ReadFile(filepath.Join(p.Root, ".nx/id/ops"))); !bytes.Equal(after, before) {
		t.Error("the identity is another one")
	}
	wantText(t, "show writes", run(t, must[[]*record.Record](t)(p.All()), each(p.Show)), `"identityFile":".nx/id/ops"`)
	if _, ok := p.State.Get("nets", "ops"); !ok {
		t.Errorf("what was made for the key pair bears its old name: %v", p.MadeResources())
	}
}

// With nothing to do for many machines, nobody is asked.
func TestNothingToDo(t *testing.T) {
	s := &sky{}
	things := []provision.Thing{net("lan", `{}`)}
	for i := range 200 {
		things = append(things, cloudy(fmt.Sprintf("web%d", i), `{"net":`+toNet+`}`))
	}
	p := under(t, s, things...)
	apply(t, p)
	s.questions()
	if got := apply(t, p); strings.Count(got, `"state":"up"`) != 200 || strings.Contains(got, `"error"`) {
		t.Error("200 machines are not as they were made")
	}
	if q := s.questions(); q != "" {
		t.Errorf("with nothing to do the sky was asked to %s", q)
	}
}

// What a provider cannot say of a machine does not hide what is known of it.
func TestCheckUnknown(t *testing.T) {
	s := &sky{}
	p := under(t, s, cloudy("web", `{}`))
	apply(t, p)
	s.cloud = map[string]error{"id-web": errors.New("no answer")}
	wantText(t, "check writes", run(t, must[[]*record.Record](t)(p.All()), all(p.Check)),
		`"target":{"host":"web.sky.example"},"machine":{"provider":"sky","id":"id-web","privateIPv4":"10.0.0.3"},"error":{"stage":"provision","message":"no answer"}`)
}

func TestRenameForgetImport(t *testing.T) {
	s := &sky{}
	p := under(t, s, cloudy("web", `{"net":`+toNet+`}`), net("lan", `{}`))
	apply(t, p)
	s.questions()
	if err := errors.Join(p.Rename("web", "www"), p.Rename("nets.lan", "nets.home")); err != nil {
		t.Fatal(err)
	}
	p.Things = []provision.Thing{cloudy("www", `{"net":{"resource":{"type":"nets","name":"home"}}}`), net("home", `{}`)}
	wantText(t, "apply writes", apply(t, p), `"name":"www","target":{"host":"web.sky.example"},"machine":{"provider":"sky","id":"id-web"`)
	if q := s.questions(); q != "" {
		t.Errorf("after the renaming the sky was asked to %q", q)
	}
	if err := p.Rename("web", "x"); err == nil || !strings.Contains(err.Error(), `known are ["www" "nets.home"]`) {
		t.Errorf("rename of what is not there: %v", err)
	}
	if err := p.Forget("www"); err != nil {
		t.Fatal(err)
	}
	if len(s.things) != 2 || len(p.State.All()) != 1 {
		t.Errorf("forget left %d things, and %d are remembered", len(s.things), len(p.State.All()))
	}
	if _, err := p.Import(t.Context(), "sky", "id-none", "www", nil); err == nil || !strings.Contains(err.Error(), "sky has no id-none") {
		t.Errorf("import of what is not there: %v", err)
	}
	if _, err := p.Import(t.Context(), "sky", "id-web", "www", []string{"SHA256:x"}); err == nil || !strings.Contains(err.Error(), `"SHA256:x" is no`) {
		t.Errorf("import with a fingerprint for a key: %v", err)
	}
	if _, err := p.Import(t.Context(), keypair.Type, "admin", "admin", nil); err == nil || !strings.Contains(err.Error(), "sshKeyPairs has no admin") {
		t.Errorf("import of a key pair that is nowhere: %v", err)
	}
	if n := len(p.State.All()); n != 1 {
		t.Errorf("%d are remembered", n)
	}
	r, err := p.Import(t.Context(), "sky", "id-web", "www", []string{"ssh-ed25519 AAAA"})
	if err != nil {
		t.Fatal(err)
	}
	wantText(t, "import writes", string(r.Bytes()), `"target":{"host":"www.sky.example","hostKeys":["ssh-ed25519 AAAA"]}`, `"id":"id-web"`)
	s.questions()
	apply(t, p)
	if q := s.questions(); q != "" {
		t.Errorf("after the import the sky was asked to %q", q)
	}
	if _, err := p.Import(t.Context(), "sky", "id-web", "again", nil); err == nil || !strings.Contains(err.Error(), "remembered already, as www") {
		t.Errorf("import twice: %v", err)
	}
}

// Where a machine was reached is told to the later tools as long as it is to be
// reached otherwise.
func TestPreviousTarget(t *testing.T) {
	s := &sky{}
	p := under(t, s, cloudy("web", `{}`))
	p.Dial = func(context.Context, target.Target) (provision.Conn, error) { return conn{}, nil }
	apply(t, p)
	run(t, must[[]*record.Record](t)(p.All()), all(p.Check))
	p.Things = []provision.Thing{machine("web", `{"targetEnv":"sky","targetPort":2222}`)}
	wantText(t, "apply writes", apply(t, p), `"target":{"host":"web.sky.example","port":2222,"previous":{"host":"web.sky.example"}}`)
	run(t, must[[]*record.Record](t)(p.All()), all(p.Check))
	wantText(t, "after check, apply writes", apply(t, p), `"target":{"host":"web.sky.example","port":2222},`)
}
