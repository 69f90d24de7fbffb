package digitalocean_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/godo"

	"nx/pkg/provision"
	"nx/pkg/provision/digitalocean"
	"nx/pkg/provision/digitalocean/dofake"
	"nx/pkg/provision/providertest"
	"nx/pkg/state"
)

const (
	token      = "dop_v1_0123456789abcdef"
	deployment = "0e9dd6b1-1111-4222-8333-444455556666"
	publicKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKwk1o0oJXr0p0aR9o4dJ1bP0m0b7vYbJ8yq3V5o7c1Z ssh-key"
)

// TestMachines holds that droplets do what every provider's machines must do.
func TestMachines(t *testing.T) {
	providertest.Run(t, synctest.Test, func(t *testing.T) providertest.World { return newWorld(t, dofake.Options{}) })
}

// TestMachinesWhereListsLag holds the same of an account that shows late what it has.
func TestMachinesWhereListsLag(t *testing.T) {
	providertest.Run(t, synctest.Test, func(t *testing.T) providertest.World { return newWorld(t, dofake.Options{TagLag: 3}) })
}

// TestKeys holds the same of the account's ssh keys.
func TestKeys(t *testing.T) {
	providertest.Run(t, synctest.Test, func(t *testing.T) providertest.World { return keyWorld{newWorld(t, dofake.Options{})} })
}

// A world is a fake account.
type world struct {
	t       *testing.T
	api     *dofake.API
	admin   *godo.Client // somebody else
	options map[string]any
}

func newWorld(t *testing.T, o dofake.Options) *world {
	o.Token = token
	if o.Droplet == (dofake.Pace{}) {
		o.Droplet = dofake.Pace{Time: 20 * time.Second}
	}
	if o.Action == (dofake.Pace{}) {
		o.Action = dofake.Pace{Time: 5 * time.Second}
	}
	if o.MinuteLimit == 0 {
		o.MinuteLimit, o.HourLimit = 1<<30, 1<<30 // many things happen here in an hour
	}
	w := &world{t: t, api: dofake.New(t, o)}
	var err error
	w.admin, err = godo.New(&http.Client{Transport: w.api.Transport()}, godo.SetBaseURL("https://api.example.org/"),
		godo.SetRequestHeaders(map[string]string{"Authorization": "Bearer " + token}))
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := w.admin.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "ssh-key", PublicKey: publicKey})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"data", "logs"} {
		if _, _, err := w.admin.Storage.CreateVolume(t.Context(), &godo.VolumeCreateRequest{Region: "ams3", Name: name, SizeGigaBytes: 10}); err != nil {
			t.Fatal(err)
		}
	}
	w.options = map[string]any{
		"region": "ams3", "size": "s-1vcpu-1gb", "volumes": []string{"data"}, "tags": []string{"web"}, "vpc": "backend",
		"keyPair":    reference("sshKeyPairs", "ssh-key", "ssh-key", map[string]string{"publicKey": publicKey}),
		"accountKey": reference(digitalocean.KeyType, "ssh-key", strconv.Itoa(key.ID), nil),
	}
	w.api.ForgetRequests()
	return w
}

func reference(typ, name, id string, outputs any) map[string]any {
	return map[string]any{"resource": map[string]string{"type": typ, "name": name}, "id": id, "outputs": outputs}
}

// dying passes requests through a process of the suite.
type dying struct {
	base http.RoundTripper
	p    *providertest.Process
}

func (d dying) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	err = d.p.Ask(func() error {
		resp, err = d.base.RoundTrip(r)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (w *world) provider(base http.RoundTripper) *digitalocean.Provider {
	return &digitalocean.Provider{Token: token, Deployment: deployment, API: "https://api.example.org", Transport: base}
}

func (w *world) Maker(p *providertest.Process) provision.Maker {
	return w.provider(dying{w.api.Transport(), p})
}

// machine is a machine with options more than the world's; nil is one less.
func (w *world) machine(name string, more map[string]any) provision.Thing {
	options := maps.Clone(w.options)
	maps.Copy(options, more)
	maps.DeleteFunc(options, func(_ string, v any) bool { return v == nil })
	config, err := json.Marshal(map[string]any{"targetEnv": "digitalOcean", "digitalOcean": options})
	if err != nil {
		w.t.Fatal(err)
	}
	return provision.Thing{Ref: provision.Ref{Type: state.Machines, Name: name}, Provider: "digitalOcean", Config: config}
}

func (w *world) Thing() provision.Thing { return w.machine("web_1", nil) }

func (w *world) IDs() []string {
	var ids []string
	for _, d := range w.api.Droplets() {
		ids = append(ids, strconv.Itoa(d.ID))
	}
	return ids
}

func (w *world) Lose() {
	for _, d := range w.api.Droplets() {
		if _, err := w.admin.Droplets.Delete(w.t.Context(), d.ID); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) Refuse(r providertest.Refusal) { w.api.On(faults(r, "POST /v2/droplets")) }

// faults are what a refusal is here; quota counts for one operation.
func faults(r providertest.Refusal, create string) func(dofake.Request) dofake.Fault {
	switch r {
	case providertest.Unauthorized:
		return dofake.Always("", dofake.Unauthorized)
	case providertest.Quota:
		return dofake.Always(create, dofake.Quota)
	case providertest.RateLimit:
		return func(r dofake.Request) dofake.Fault {
			if r.Nth%2 == 1 { // each operation's first, third, …
				return dofake.RateLimited(17)
			}
			return dofake.Fault{}
		}
	case providertest.Slow:
		return dofake.Always("", dofake.Fault{Delay: 20 * time.Second})
	}
	return nil
}

func (w *world) Changes() []provision.Thing {
	return []provision.Thing{
		w.machine("web_2", map[string]any{"tags": []string{"db", "new"}, "enableIpv6": true}),
		w.machine("web_1", map[string]any{"volumes": []string{"logs"}}),
		w.machine("web_1", map[string]any{"size": "s-1vcpu-2gb"}),
	}
}

func (w *world) Drift() (string, any) {
	for _, d := range w.api.Droplets() {
		if _, _, err := w.admin.DropletActions.Rename(w.t.Context(), d.ID, "other"); err != nil {
			w.t.Fatal(err)
		}
	}
	time.Sleep(10 * time.Second)
	return "name", "other"
}

func (w *world) Secrets() []string { return []string{token, "PRIVATE KEY"} }

// A keyWorld is the part of the account where ssh keys are.
type keyWorld struct{ *world }

func (w keyWorld) Maker(p *providertest.Process) provision.Maker {
	return w.provider(dying{w.api.Transport(), p}).Keys()
}

// another is the public key of a pair that the account does not have.
const another = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAqvDxq0pF8sqHqSdXfZ4pZkK8jS6K7yF6m1bqvV9r2Q other"

func (w keyWorld) Thing() provision.Thing {
	config, err := json.Marshal(map[string]any{"keyPair": reference("sshKeyPairs", "other", "other", map[string]string{"publicKey": another})})
	if err != nil {
		w.t.Fatal(err)
	}
	return provision.Thing{Ref: provision.Ref{Type: digitalocean.KeyType, Name: "other"}, Provider: digitalocean.KeyType, Config: config}
}

func (w keyWorld) keys() []godo.Key {
	all, _, err := w.admin.Keys.List(context.Background(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(k godo.Key) bool { return k.Name == "ssh-key" })
}

func (w keyWorld) IDs() []string {
	w.api.On(nil)
	var ids []string
	for _, k := range w.keys() {
		ids = append(ids, fmt.Sprint(k.ID))
	}
	return ids
}

func (w keyWorld) Lose() {
	for _, k := range w.keys() {
		if _, err := w.admin.Keys.DeleteByID(w.t.Context(), k.ID); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w keyWorld) Refuse(r providertest.Refusal) { w.api.On(faults(r, "POST /v2/account/keys")) }

func (w keyWorld) Changes() []provision.Thing { return nil }

func (w keyWorld) Drift() (string, any) { return "", nil }
