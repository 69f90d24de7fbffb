package digitalocean_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"nx/pkg/provision"
	"nx/pkg/provision/digitalocean"
	"nx/pkg/provision/digitalocean/dofake"
	"nx/pkg/provision/keypair"
	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/target"
)

// An answering machine says that it has made a host key.
type answering struct{ key string }

func (a answering) Run(_ context.Context, _ string, _ io.Reader, stdout, _ io.Writer) (int, error) {
	return 0, json.NewEncoder(stdout).Encode(map[string]string{"key": a.key, "os": "debian"})
}

func (answering) Close() error { return nil }

// A fleet is a network of n droplets and their key pair.
type fleet struct {
	b    *testing.B
	api  *dofake.API
	root string
	n    int
}

func newFleet(b *testing.B, n int, o dofake.Options) *fleet {
	o.Token = token
	return &fleet{b, dofake.New(b, o), b.TempDir(), n}
}

// process has a provisioner of its own do something, as one run of nx-provision does, and
// returns how long it took and how often the API was asked.
func (f *fleet) process(do func(p *provision.Provisioner, hosts []*record.Record, emit func(*record.Record)) error) (time.Duration, int) {
	f.b.Helper()
	s, err := state.Open(f.b.Context(), filepath.Join(f.root, state.Path), state.Options{})
	if err != nil {
		f.b.Fatal(err)
	}
	defer s.Close()
	droplets := &digitalocean.Provider{Token: token, Deployment: deployment, API: "https://api.example.org", Transport: f.api.Transport()}
	private, err := provision.NewPrivateKey("own")
	if err != nil {
		f.b.Fatal(err)
	}
	public, err := provision.PublicKey(private)
	if err != nil {
		f.b.Fatal(err)
	}
	p := &provision.Provisioner{
		State:     s,
		Machines:  map[string]provision.Maker{"digitalOcean": droplets},
		Resources: map[string]provision.Maker{keypair.Type: keypair.Provider{}, digitalocean.KeyType: droplets.Keys()},
		Things:    []provision.Thing{{Ref: provision.Ref{Type: keypair.Type, Name: "admin"}, Provider: keypair.Type, Config: json.RawMessage("{}")}},
		Dial:      func(context.Context, target.Target) (provision.Conn, error) { return answering{public}, nil },
		Root:      f.root,
		Jobs:      64,
	}
	for i := range f.n {
		p.Things = append(p.Things, provision.Thing{Ref: provision.Ref{Type: state.Machines, Name: fmt.Sprintf("m%d", i)}, Provider: "digitalOcean",
			Config: json.RawMessage(`{"targetEnv":"digitalOcean","digitalOcean":{"region":"ams3","size":"s-1vcpu-1gb"}}`)})
	}
	hosts, err := p.Wanted()
	if err != nil {
		f.b.Fatal(err)
	}
	f.api.ForgetRequests()
	began := time.Now()
	var mu sync.Mutex
	var failed []string
	if err := do(p, hosts, func(r *record.Record) {
		mu.Lock()
		defer mu.Unlock()
		if r.Failed() {
			failed = append(failed, r.Message())
		}
	}); err != nil {
		f.b.Fatal(err)
	}
	took := time.Since(began)
	if len(failed) > 0 {
		f.b.Fatal(strings.Join(failed, "\n"))
	}
	return took, len(f.api.Requests())
}

func (f *fleet) apply() (time.Duration, int) {
	return f.process(func(p *provision.Provisioner, hosts []*record.Record, emit func(*record.Record)) error {
		return p.Apply(f.b.Context(), hosts, true, emit)
	})
}

// BenchmarkApply says how many times as long as one machine fifty take to be made, where
// each answer takes 300 ms and a droplet 20 s, within the provider's real limits; and
// what it costs to find that there is nothing to do for two hundred, and to ask how they are.
func BenchmarkApply(b *testing.B) {
	slow := dofake.Options{Latency: 300 * time.Millisecond, Droplet: dofake.Pace{Time: 20 * time.Second}}
	quick := dofake.Options{Droplet: dofake.Pace{Looks: 1}, MinuteLimit: 1 << 30, HourLimit: 1 << 30}
	for b.Loop() {
		one, _ := newFleet(b, 1, slow).apply()
		fifty, asked := newFleet(b, 50, slow).apply()
		b.ReportMetric(one.Seconds(), "s/1")
		b.ReportMetric(fifty.Seconds(), "s/50")
		b.ReportMetric(fifty.Seconds()/one.Seconds(), "50/1")
		b.ReportMetric(float64(asked), "requests/50")

		many := newFleet(b, 200, quick)
		many.apply()
		again, asked := many.apply()
		b.ReportMetric(again.Seconds(), "s/200-again")
		b.ReportMetric(float64(asked), "requests/200-again")
		_, asked = many.process(func(p *provision.Provisioner, hosts []*record.Record, emit func(*record.Record)) error {
			return p.Check(b.Context(), hosts, true, emit)
		})
		b.ReportMetric(float64(asked), "requests/200-check")
	}
}
