package digitalocean_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/digitalocean/godo"

	"nx/pkg/provision"
	"nx/pkg/provision/conformance"
	"nx/pkg/provision/digitalocean"
	"nx/pkg/provision/digitalocean/dofake"
	"nx/pkg/provision/keypair"
	"nx/pkg/state"
)

const (
	token      = "dop_v1_0123456789abcdef"
	deployment = "0e9dd6b1-1111-4222-8333-444455556666"
	publicKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKwk1o0oJXr0p0aR9o4dJ1bP0m0b7vYbJ8yq3V5o7c1Z ssh-key"
)

// TestMachines holds that droplets do what every provider's machines must do, also where
// lists show late what there is.
func TestMachines(t *testing.T) {
	conformance.Run(t, func(t *testing.T) conformance.World {
		return newWorld(t, dofake.Options{TagLag: 3, Droplet: dofake.Pace{Looks: 1}, Action: dofake.Pace{Looks: 1}})
	})
}

// TestKeys holds the same of the account's ssh keys.
func TestKeys(t *testing.T) {
	conformance.Run(t, func(t *testing.T) conformance.World { return &keyWorld{newWorld(t, dofake.Options{})} })
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
	key, _, err := w.admin.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "mine", PublicKey: publicKey})
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

func (w *world) provider(base http.RoundTripper) *digitalocean.Provider {
	return &digitalocean.Provider{Token: token, Deployment: deployment, API: "https://api.example.org", Transport: base}
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

func (w *world) Traits() conformance.Traits {
	return conformance.Traits{Type: state.Machines, Provider: "digitalOcean", Costly: true}
}

func (w *world) Maker(l *conformance.Line) provision.Maker {
	return w.provider(l.Transport(w.api.Transport()))
}

func (w *world) Others(l *conformance.Line) map[string]provision.Maker {
	return map[string]provision.Maker{
		keypair.Type: keypair.Provider{}, digitalocean.KeyType: w.provider(l.Transport(w.api.Transport())).Keys(),
	}
}

func (w *world) Things(v conformance.Variant, names ...string) []provision.Thing {
	more := map[conformance.Variant]map[string]any{
		conformance.First:    {"volumes": nil},
		conformance.Changed:  {"size": "s-1vcpu-2gb", "tags": []string{"db", "new"}, "volumes": []string{"logs", "data"}},
		conformance.Replaced: {"volumes": nil, "vpc": "default-ams3"},
		conformance.Misspelt: {"szie": "s-1vcpu-1gb"},
	}[v]
	// They get their keys as a network's do.
	more["keyPair"], more["accountKey"] = nil, nil
	all := []provision.Thing{{Ref: provision.Ref{Type: keypair.Type, Name: "admin"}, Provider: keypair.Type, Config: json.RawMessage("{}")}}
	for _, name := range names {
		all = append(all, w.machine(name, more))
	}
	return all
}

func (w *world) Count() int { return len(w.api.Droplets()) }

func (w *world) Misbehave(f conformance.Fault) (string, bool) {
	return w.misbehave(f, "POST /v2/droplets")
}

// misbehave has a quota refuse one operation.
func (w *world) misbehave(f conformance.Fault, create string) (said string, ok bool) {
	switch f {
	case conformance.Unauthorised:
		w.api.On(dofake.Always("", dofake.Unauthorized))
		return "DigitalOcean says: Unable to authenticate you", true
	case conformance.Quota:
		w.api.On(dofake.Always(create, dofake.Quota))
		return "DigitalOcean says: creating this/these droplet(s) will exceed your droplet limit", true
	case conformance.RateLimit:
		done := false
		w.api.On(func(dofake.Request) dofake.Fault {
			if done {
				return dofake.Fault{}
			}
			done = true
			return dofake.RateLimited(int(conformance.RetryAfter / time.Second))
		})
	case conformance.Slow:
		w.api.On(dofake.Always("", dofake.Fault{Delay: 55 * time.Second}))
	default:
		w.api.On(nil)
	}
	return "", true
}

func (w *world) Remove(id string) bool {
	n, err := strconv.Atoi(id)
	if err == nil {
		_, err = w.admin.Droplets.Delete(w.t.Context(), n)
	}
	return err == nil
}

func (w *world) Tamper(id string) (string, bool) {
	n, err := strconv.Atoi(id)
	if err == nil {
		_, _, err = w.admin.DropletActions.Rename(w.t.Context(), n, "other")
	}
	for range 2 { // the first look sees the action in work
		if err == nil {
			_, _, err = w.admin.Droplets.Get(w.t.Context(), n)
		}
	}
	return "name", err == nil
}

// A keyWorld is the part of the account where ssh keys are.
type keyWorld struct{ *world }

func (w *keyWorld) Traits() conformance.Traits {
	return conformance.Traits{Type: digitalocean.KeyType, Provider: digitalocean.KeyType, Lacks: map[conformance.Trait]string{
		conformance.Changed: "a key is what it is",
		conformance.Drift:   "a key is what it is",
	}}
}

func (w *keyWorld) Maker(l *conformance.Line) provision.Maker {
	return w.provider(l.Transport(w.api.Transport())).Keys()
}

func (w *keyWorld) Others(*conformance.Line) map[string]provision.Maker {
	return map[string]provision.Maker{keypair.Type: keypair.Provider{}}
}

// Things are keys of key pairs: each of its own, and of another one when it is replaced.
func (w *keyWorld) Things(v conformance.Variant, names ...string) []provision.Thing {
	if v == conformance.Changed {
		return nil
	}
	var all []provision.Thing
	for _, name := range names {
		option, pairs := "keyPair", []string{name, name + "-again"}
		pair := pairs[0]
		switch v {
		case conformance.Misspelt:
			option = "keyPiar"
		case conformance.Replaced:
			pair = pairs[1]
		}
		all = append(all, w.key(name, map[string]any{option: reference(keypair.Type, pair, "", nil)}))
		for _, pair := range pairs {
			all = append(all, provision.Thing{Ref: provision.Ref{Type: keypair.Type, Name: pair}, Provider: keypair.Type, Config: json.RawMessage("{}")})
		}
	}
	return all
}

func (w *keyWorld) key(name string, options map[string]any) provision.Thing {
	config, err := json.Marshal(options)
	if err != nil {
		w.t.Fatal(err)
	}
	return provision.Thing{Ref: provision.Ref{Type: digitalocean.KeyType, Name: name}, Provider: digitalocean.KeyType, Config: config}
}

func (w *keyWorld) Count() int { return len(w.api.Keys()) - 1 } // one was there before

func (w *keyWorld) Misbehave(f conformance.Fault) (string, bool) {
	return w.misbehave(f, "POST /v2/account/keys")
}

func (w *keyWorld) Remove(id string) bool {
	n, err := strconv.Atoi(id)
	if err == nil {
		_, err = w.admin.Keys.DeleteByID(w.t.Context(), n)
	}
	return err == nil
}

func (w *keyWorld) Tamper(string) (string, bool) { return "", false }
