package digitalocean_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/godo"

	"nx/pkg/provision"
	"nx/pkg/provision/digitalocean"
	"nx/pkg/provision/digitalocean/dofake"
	"nx/pkg/provision/keypair"
)

var hostKey = provision.HostKey{
	Private: "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
	Public:  "ssh-ed25519 AAAAhost",
}

// work is what the core asks for to have a machine made; what is remembered of it
// goes into the work itself.
func work(t *testing.T, p provision.Maker, thing provision.Thing) *provision.Work {
	t.Helper()
	list, err := p.Properties(thing)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]json.RawMessage{}
	for _, property := range list {
		raw, err := json.Marshal(property.Value)
		if err != nil {
			t.Fatal(err)
		}
		want[property.Name] = raw
	}
	w := &provision.Work{Want: want, HostKey: hostKey}
	w.Known = provision.Known{Thing: thing, Token: "nx-token-" + strings.ReplaceAll(thing.Name, "_", "-"), Properties: want}
	w.Remember = func(f provision.Facts) error {
		w.ID = f.ID
		return nil
	}
	return w
}

// make has a machine made and returns what is known of it then.
func makeOne(t *testing.T, p provision.Maker, thing provision.Thing) provision.Known {
	t.Helper()
	w := work(t, p, thing)
	f, err := p.Create(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	k := w.Known
	k.ID, k.State, k.Outputs = f.ID, f.State, f.Outputs
	return k
}

func TestCreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dofake.Options{})
		p := w.provider(w.api.Transport())
		began := time.Now()
		f, err := p.Create(t.Context(), work(t, p, w.machine("web_1", map[string]any{"enableIpv6": true, "monitoring": true})))
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 23*time.Second {
			t.Errorf("a droplet that is up after 20s took %v", took)
		}
		d := w.api.Droplets()[0]
		if d.Name != "web-1" || d.Region != "ams3" || d.Size != "s-1vcpu-1gb" || d.Image != "debian-13-x64" || !d.IPv6 || !d.Monitoring ||
			d.VPC != "9423cbad-9211-442f-820b-ef6915e99b5f" || len(d.Volumes) != 1 || !slices.Equal(d.SSHKeys, []string{publicKey}) ||
			!slices.Equal(d.Tags, []string{"nx-token-web-1", "nx:" + deployment, "web"}) {
			t.Errorf("droplet: got %+v", d)
		}

		head, body, _ := strings.Cut(d.UserData, "\n")
		var config map[string]any
		if err := json.Unmarshal([]byte(body), &config); err != nil || head != "#cloud-config" {
			t.Errorf("user data: got %q, %v", d.UserData, err)
		}
		if want := map[string]any{"ssh_deletekeys": true, "ssh_keys": map[string]any{
			"ed25519_private": hostKey.Private, "ed25519_public": hostKey.Public + "\n",
		}}; !reflect.DeepEqual(config, want) {
			t.Errorf("user data: got %v, want %v", config, want)
		}

		want := fmt.Sprintf(`{"authorizedKeys":["%s"],"privateIPv4":"%s","publicIPv4":"%s","publicIPv6":"%s","region":"ams3","volumes":{"data":"%s"},"vpc":"%s"}`,
			publicKey, d.PrivateIPv4, d.PublicIPv4, d.PublicIPv6, d.Volumes[0], d.VPC)
		if string(f.Outputs) != want {
			t.Errorf("outputs:\n got %s\nwant %s", f.Outputs, want)
		}
		if f.Target.Host != d.PublicIPv4 || f.Target.IdentityFile != provision.IdentityFile("ssh-key") || !f.Injected {
			t.Errorf("target: got %+v, injected %v", f.Target, f.Injected)
		}
		counts := w.api.Counts()
		looks := counts["GET /v2/droplets/{droplet_id}"]
		delete(counts, "GET /v2/droplets/{droplet_id}")
		if want := map[string]int{"GET /v2/vpcs": 1, "GET /v2/volumes": 1, "POST /v2/droplets": 1}; !maps.Equal(counts, want) || looks > 11 {
			t.Errorf("requests: got %v and %d looks, want %v", counts, looks, want)
		}
	})
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name   string
		more   map[string]any
		fault  func(dofake.Request) dofake.Fault
		token  string
		want   string
		hint   string
		asking bool // the API is asked
	}{
		{name: "token", fault: dofake.Always("", dofake.Unauthorized),
			want: "find VPC backend: DigitalOcean says: Unable to authenticate you", hint: "must be a token of the account that has not expired"},
		{name: "scopes", fault: dofake.Always("", dofake.Forbidden),
			want: "find VPC backend: DigitalOcean says: You are not authorized to perform this operation", hint: "the token needs the scopes"},
		{name: "no token", token: "-", want: "ask DigitalOcean about web1: there is no token", hint: "set DIGITAL_OCEAN_AUTH_TOKEN"},
		{name: "token of two lines", token: "a\nb", want: "ask DigitalOcean about web1: the token has characters that none can have"},
		{name: "quota", fault: dofake.Always("POST /v2/droplets", dofake.Quota),
			want: "create droplet web1, size s-1vcpu-1gb, region ams3, image debian-13-x64: DigitalOcean says: creating this/these droplet(s) will exceed your droplet limit",
			hint: "ask DigitalOcean for a higher limit"},
		{name: "size", more: map[string]any{"size": "huge"},
			want: "create droplet web1, size huge, region ams3, image debian-13-x64: DigitalOcean says: You specified an invalid size for Droplet creation."},
		{name: "region", more: map[string]any{"region": "moon1", "volumes": nil},
			want: "create droplet web1, size s-1vcpu-1gb, region moon1, image debian-13-x64: DigitalOcean says: You specified an invalid region for Droplet creation."},
		{name: "image", more: map[string]any{"image": 99},
			want: "create droplet web1, size s-1vcpu-1gb, region ams3, image 99: DigitalOcean says: You specified an invalid image for Droplet creation."},
		{name: "vpc", more: map[string]any{"vpc": "nowhere"},
			want: `find VPC nowhere: the account has ["backend" "default-ams3" "default-fra1" "default-nyc3"]`},
		{name: "volume", more: map[string]any{"volumes": []string{"nothing"}},
			want: "find volume nothing: the account has 0 of that name in region ams3"},
		{name: "key", more: map[string]any{"accountKey": reference(digitalocean.KeyType, "ssh-key", "7", nil)},
			want: "create droplet web1, size s-1vcpu-1gb, region ams3, image debian-13-x64: DigitalOcean says: 7 are invalid key identifiers for Droplet creation."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, dofake.Options{})
				w.api.On(tt.fault)
				p := w.provider(w.api.Transport())
				if tt.token != "" {
					p.Token = strings.Trim(tt.token, "-")
				}
				_, err := p.Create(t.Context(), work(t, p, w.machine("web1", tt.more)))
				if err == nil || err.Error() != tt.want {
					t.Errorf("error:\n got %v\nwant %s", err, tt.want)
				}
				if !errors.Is(err, provision.ErrNotMade) {
					t.Error("it does not say that nothing was made")
				}
				var hinted interface{ Hint() string }
				if got := ""; tt.hint != "" && (!errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), tt.hint)) {
					t.Errorf("hint: got %q, want %q", got, tt.hint)
				}
				if len(w.api.Droplets()) != 0 {
					t.Errorf("droplets: got %+v", w.api.Droplets())
				}
			})
		})
	}
}

// TestStoppedMeanwhile holds that a droplet which was being made, and which somebody has
// stopped since, is started.
func TestStoppedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dofake.Options{})
		p := w.provider(w.api.Transport())
		in := work(t, p, w.machine("web1", nil))
		if _, err := p.Create(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Stop(t.Context(), in.Known); err != nil {
			t.Fatal(err)
		}
		in.Again = true
		f, err := p.Create(t.Context(), in)
		if d := w.api.Droplets(); err != nil || f.State != provision.Up || len(d) != 1 || d[0].Status != "active" {
			t.Errorf("got %+v, %v, droplets %+v", f, err, d)
		}
	})
}

// away is an API that nobody can connect to; after that many requests that do not get
// through for another reason.
type away struct{ lost int }

func (a *away) RoundTrip(*http.Request) (*http.Response, error) {
	if a.lost > 0 {
		a.lost--
		return nil, io.ErrUnexpectedEOF
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
}

// TestUnreachable holds that what was asked of nobody is known not to be made, and that
// what somebody may have heard is not.
func TestUnreachable(t *testing.T) {
	for _, tt := range []struct {
		name    string
		away    away
		notMade bool
		want    string
	}{
		{"from the first", away{0}, true, "dial tcp: connection refused"},
		{"from the second", away{1}, false, "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, dofake.Options{})
				_, err := w.provider(&tt.away).Create(t.Context(), work(t, w.provider(&tt.away), w.machine("web1", map[string]any{"vpc": "", "volumes": nil})))
				if err == nil || !strings.HasSuffix(err.Error(), tt.want) || errors.Is(err, provision.ErrNotMade) != tt.notMade {
					t.Errorf("droplet: got %v", err)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dofake.Options{})
		keys := w.provider(&away{}).Keys()
		key := provision.Thing{Ref: provision.Ref{Type: digitalocean.KeyType, Name: "k"}, Provider: digitalocean.KeyType,
			Config: json.RawMessage(`{"keyPair":{"resource":{"type":"sshKeyPairs","name":"k"},"id":"k","outputs":{"publicKey":"` + publicKey + `"}}}`)}
		_, err := keys.Create(t.Context(), &provision.Work{Known: provision.Known{Thing: key, Token: "nx-t"}})
		if want := "find ssh key k: ask DigitalOcean: dial tcp: connection refused"; err == nil || err.Error() != want || !errors.Is(err, provision.ErrNotMade) {
			t.Errorf("key: got %v, want %s", err, want)
		}
	})
}

// TestAuthToken holds that the network may have the token, and the environment's wins.
func TestAuthToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dofake.Options{})
		p := w.provider(w.api.Transport())
		p.Token = ""
		makeOne(t, p, w.machine("web1", map[string]any{"authToken": token, "volumes": nil}))
		p.Token = token
		makeOne(t, p, w.machine("web2", map[string]any{"authToken": "wrong", "volumes": nil}))
	})
}

// TestUnknownOutcome holds that a droplet is not asked for again before it was looked
// for, when the answer to the first request was lost.
func TestUnknownOutcome(t *testing.T) {
	for name, fault := range map[string]dofake.Fault{
		"cut before": dofake.CutBefore, "cut after": dofake.CutAfter, "server error": dofake.ServerError, "unavailable": dofake.Unavailable,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, dofake.Options{TagLag: 2})
				w.api.On(dofake.Nth("POST /v2/droplets", 1, fault))
				p := w.provider(w.api.Transport())
				makeOne(t, p, w.machine("web1", nil))
				if n := len(w.api.Droplets()); n != 1 {
					t.Errorf("got %d droplets", n)
				}
			})
		})
	}
}

// TestInterruptedAsking holds that the answer to what was asked for is waited for,
// whatever happens meanwhile: it has the id.
func TestInterruptedAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dofake.Options{})
		p := w.provider(w.api.Transport())
		reason := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		w.api.On(dofake.Nth("POST /v2/droplets", 1, dofake.Fault{After: func() { cancel(reason) }}))
		in := work(t, p, w.machine("web1", nil))
		if _, err := p.Create(ctx, in); !errors.Is(err, reason) {
			t.Errorf("got error %v", err)
		}
		if in.ID != strconv.Itoa(w.api.Droplets()[0].ID) {
			t.Errorf("remembered is %q, want %q", in.ID, strconv.Itoa(w.api.Droplets()[0].ID))
		}
	})
}

// TestStale holds that a droplet which an earlier run asked for becomes what the network
// has come to want meanwhile, or that it is said why it cannot.
func TestStale(t *testing.T) {
	tests := []struct {
		more map[string]any
		want string
	}{
		{map[string]any{"size": "s-1vcpu-2gb", "tags": []string{"b"}, "volumes": []string{"logs"}, "enableIpv6": true}, ""},
		{map[string]any{"region": "fra1", "volumes": nil, "vpc": nil}, "with region ams3"},
		{map[string]any{"image": "debian-12-x64"}, "with image debian-13-x64"},
		{map[string]any{"vpc": "default-ams3"}, "with vpc 9423cbad-9211-442f-820b-ef6915e99b5f"},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, dofake.Options{})
				p := w.provider(w.api.Transport())
				ctx, cancel := context.WithCancelCause(t.Context())
				w.api.On(dofake.Nth("POST /v2/droplets", 1, dofake.Fault{After: func() { cancel(errors.New("interrupted")) }}))
				in := work(t, p, w.machine("web1", nil))
				if _, err := p.Create(ctx, in); err == nil {
					t.Fatal("it was not interrupted")
				}
				id := in.ID
				in = work(t, p, w.machine("web1", tt.more))
				in.ID, in.Again = id, true
				f, err := p.Create(t.Context(), in)
				if tt.want != "" {
					var hinted interface{ Hint() string }
					want := "create droplet web1: an earlier run made " + id + " " + tt.want
					if err == nil || err.Error() != want || !errors.As(err, &hinted) || hinted.Hint() != "run nx-provision destroy --on web1 first" {
						t.Errorf("got error %v, want %s", err, want)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				d := w.api.Droplets()[0]
				if d.Size != "s-1vcpu-2gb" || !d.IPv6 || !slices.Contains(d.Tags, "b") || slices.Contains(d.Tags, "web") || len(d.Volumes) != 1 ||
					d.Status != "active" || !strings.Contains(string(f.Outputs), `"logs":"`+d.Volumes[0]) {
					t.Errorf("got %+v, outputs %s", d, f.Outputs)
				}
			})
		})
	}
}

func TestNeverUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dofake.Options{Droplet: dofake.Never})
		p := w.provider(w.api.Transport())
		in := work(t, p, w.machine("web1", nil))
		_, err := p.Create(t.Context(), in)
		want := fmt.Sprintf("create droplet web1: wait for droplet %s: it is not ready after 10m0s: its status is new", strconv.Itoa(w.api.Droplets()[0].ID))
		if err == nil || err.Error() != want {
			t.Errorf("error:\n got %v\nwant %s", err, want)
		}
		if errors.Is(err, provision.ErrNotMade) || in.ID != strconv.Itoa(w.api.Droplets()[0].ID) {
			t.Errorf("the droplet is forgotten: remembered is %q", in.ID)
		}
	})
}

// TestCreationFails holds that an action that ended in an error is not waited for.
func TestCreationFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dofake.Options{Boot: func(dofake.Droplet) (string, error) { return "", errors.New("no machine") }})
		p := w.provider(w.api.Transport())
		began := time.Now()
		_, err := p.Create(t.Context(), work(t, p, w.machine("web1", nil)))
		if err == nil || !strings.Contains(err.Error(), "DigitalOcean could not do it: action") || time.Since(began) > time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// TestMany holds that many machines are waited for together, within the real limits.
func TestMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 50
		w := newWorld(t, dofake.Options{Latency: 300 * time.Millisecond, MinuteLimit: 250, HourLimit: 5000, TagLag: 2})
		p := w.provider(w.api.Transport())
		began := time.Now()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if _, err := p.Create(t.Context(), work(t, p, w.machine(fmt.Sprintf("m%d", i), map[string]any{"volumes": nil}))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took > 28*time.Second { // 1.4 times 20s
			t.Errorf("%d droplets took %v", n, took)
		}
		if got := len(w.api.Requests()); got > n+60 {
			t.Errorf("requests: got %d for %d droplets: %v", got, n, w.api.Counts())
		}
	})
}

func TestRead(t *testing.T) {
	tests := []struct {
		name     string
		machines int
		lose     int // how many are deleted behind our back
		foreign  int // how many lost our tag
		max      int // requests
	}{
		{"one", 1, 0, 0, 1},
		{"200", 200, 0, 0, 1},
		{"201", 201, 0, 0, 2},
		{"two gone", 200, 2, 0, 3},
		{"many gone", 200, 150, 0, 2},
		{"without tag", 200, 0, 50, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, dofake.Options{})
				p := w.provider(w.api.Transport())
				var known []provision.Known
				for i := range tt.machines {
					thing := w.machine(fmt.Sprintf("m%d", i), map[string]any{"vpc": nil})
					d, _, err := w.admin.Droplets.Create(t.Context(), &godo.DropletCreateRequest{
						Name: thing.Name, Region: "ams3", Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-13-x64"},
						SSHKeys: []godo.DropletCreateSSHKey{}, Tags: []string{"nx:" + deployment},
					})
					if err != nil {
						t.Fatal(err)
					}
					known = append(known, provision.Known{Thing: thing, ID: strconv.Itoa(d.ID)})
				}
				<-time.After(time.Minute)
				var resources []godo.Resource
				for i, k := range known {
					id, _ := strconv.Atoi(k.ID)
					if i < tt.lose {
						if _, err := w.admin.Droplets.Delete(t.Context(), id); err != nil {
							t.Fatal(err)
						}
					}
					if i < tt.foreign {
						resources = append(resources, godo.Resource{ID: k.ID, Type: godo.DropletResourceType})
					}
				}
				if len(resources) > 0 {
					if _, err := w.admin.Tags.UntagResources(t.Context(), "nx:"+deployment, &godo.UntagResourcesRequest{Resources: resources}); err != nil {
						t.Fatal(err)
					}
				}
				w.api.ForgetRequests()
				told := map[int]provision.State{}
				p.Read(t.Context(), known, func(i int, f provision.Facts, err error) {
					if err != nil {
						t.Error(err)
					}
					told[i] = f.State
				})
				for i := range known {
					want := provision.Up
					if i < tt.lose {
						want = provision.Missing
					}
					if told[i] != want {
						t.Errorf("%s: got %q, want %q", known[i].Name, told[i], want)
					}
				}
				if got := len(w.api.Requests()); got > tt.max {
					t.Errorf("requests: got %d, want at most %d: %v", got, tt.max, w.api.Counts())
				}
			})
		})
	}
}

// TestReadProperties holds what is seen of a droplet that others have changed.
func TestReadProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dofake.Options{Action: dofake.Pace{Looks: 1}})
		p, ctx := w.provider(w.api.Transport()), t.Context()
		k := makeOne(t, p, w.machine("web1", map[string]any{"tags": []string{"Web", "x"}}))
		id, _ := strconv.Atoi(k.ID)
		for _, err := range []error{
			second(w.admin.Tags.UntagResources(ctx, "x", &godo.UntagResourcesRequest{Resources: []godo.Resource{{ID: k.ID, Type: "droplet"}}})),
			third(w.admin.DropletActions.EnableIPv6(ctx, id)),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		var got provision.Facts
		for range 2 { // the first sees the action in work
			p.Read(ctx, []provision.Known{k}, func(_ int, f provision.Facts, err error) {
				if err != nil {
					t.Fatal(err)
				}
				got = f
			})
		}
		want := map[string]any{
			"name": "web1", "region": "ams3", "size": "s-1vcpu-1gb", "enableIpv6": true, "vpc": "backend",
			"volumes": []string{"data"}, "tags": []string{"Web"},
		}
		if !reflect.DeepEqual(got.Properties, want) {
			t.Errorf("properties:\n got %v\nwant %v", got.Properties, want)
		}

		// One that was made by hand has all that can be seen, for it is imported.
		k = provision.Known{Thing: k.Thing, ID: k.ID}
		p.Read(ctx, []provision.Known{k}, func(_ int, f provision.Facts, err error) { got = f })
		if got.Properties["image"] != "debian-13-x64" || got.Properties["vpc"] != "backend" {
			t.Errorf("imported: got %v", got.Properties)
		}
	})
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

// TestResize holds that a droplet is shut down, resized and started, and its disk left
// alone; and that one which does not shut down has its power cut.
func TestResize(t *testing.T) {
	for name, stuck := range map[string]bool{"shuts down": false, "does not": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, dofake.Options{})
				p := w.provider(w.api.Transport())
				k := makeOne(t, p, w.machine("web1", nil))
				w.api.ForgetRequests()
				if stuck {
					w.api.On(func(r dofake.Request) dofake.Fault {
						if r.Action() == "shutdown" {
							return dofake.ServerError
						}
						return dofake.Fault{}
					})
				}
				k.Thing = w.machine("web1", map[string]any{"size": "s-2vcpu-4gb"})
				in := work(t, p, k.Thing)
				in.Known = k
				f, err := p.Update(t.Context(), in, []provision.Difference{{Name: "size", Effect: provision.Reboots}})
				if err != nil {
					t.Fatal(err)
				}
				d := w.api.Droplets()[0]
				if d.Size != "s-2vcpu-4gb" || d.Disk != 25 || d.Status != "active" || f.State != provision.Up || f.Properties["size"] != d.Size {
					t.Errorf("got %+v, facts %+v", d, f)
				}
				var actions []string
				for _, r := range w.api.Requests() {
					if a := r.Action(); a != "" && a != "shutdown" {
						actions = append(actions, a)
					}
				}
				want := []string{"resize", "power_on"}
				if stuck {
					want = []string{"power_off", "resize", "power_on"}
				}
				if !slices.Equal(actions, want) {
					t.Errorf("actions: got %v, want %v", actions, want)
				}
				if got := len(w.api.Requests()); !stuck && got > 14 {
					t.Errorf("requests: got %d: %v", got, w.api.Counts())
				}
			})
		})
	}
}

// A machine that is shut down for a size that it cannot have runs afterwards.
func TestResizeRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dofake.Options{})
		p := w.provider(w.api.Transport())
		k := makeOne(t, p, w.machine("web1", nil))
		k.Thing = w.machine("web1", map[string]any{"size": "s-none"})
		in := work(t, p, k.Thing)
		in.Known = k
		_, err := p.Update(t.Context(), in, []provision.Difference{{Name: "size", Effect: provision.Reboots}})
		want := fmt.Sprintf("resize to s-none droplet %s: DigitalOcean says: You specified an invalid size.", k.ID)
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		if d := w.api.Droplets()[0]; d.Size != "s-1vcpu-1gb" || d.Status != "active" {
			t.Errorf("got %+v", d)
		}
	})
}

func TestProperties(t *testing.T) {
	w := newWorld(t, dofake.Options{})
	p := w.provider(nil)
	tests := []struct {
		name string
		more map[string]any
		want string
	}{
		{"no size", map[string]any{"size": nil}, "read options: deployment.digitalOcean.size is missing"},
		{"no region", map[string]any{"region": nil}, "read options: deployment.digitalOcean.region is missing"},
		{"tag", map[string]any{"tags": []string{"a.b"}}, `deployment.digitalOcean.tags: "a.b" is no tag`},
		{"misspelt", map[string]any{"sizes": "x"}, `deployment.digitalOcean: json: unknown field "sizes"`},
		{"key pair of another type", map[string]any{"keyPair": reference("ec2KeyPairs", "x", "", nil)}, "deployment.digitalOcean.keyPair is resources.ec2KeyPairs.x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := p.Properties(w.machine("web1", tt.more)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestEffect(t *testing.T) {
	p := &digitalocean.Provider{}
	yes := json.RawMessage("true")
	for property, want := range map[string]provision.Effect{
		"name": provision.InPlace, "tags": provision.InPlace, "volumes": provision.InPlace, "size": provision.Reboots,
		"region": provision.Replaces, "image": provision.Replaces, "vpc": provision.Replaces,
	} {
		if got := p.Effect(property, yes, yes); got != want {
			t.Errorf("%s: got %s, want %s", property, got, want)
		}
	}
	if on, off := p.Effect("enableIpv6", nil, yes), p.Effect("enableIpv6", yes, nil); on != provision.InPlace || off != provision.Replaces {
		t.Errorf("enableIpv6: got %s and %s", on, off)
	}
}

func TestComplete(t *testing.T) {
	pair := func(name string) provision.Thing {
		return provision.Thing{Ref: provision.Ref{Type: "sshKeyPairs", Name: name}, Provider: "sshKeyPairs"}
	}
	p := &digitalocean.Provider{}
	tests := []struct {
		name    string
		config  string
		all     []provision.Thing
		want    string // name of the key pair
		wantErr string
		hint    string
	}{
		{name: "the only one", config: `{"droplet":{"size":"x"}}`, all: []provision.Thing{pair("deploy")}, want: "deploy"},
		{name: "named", config: `{"droplet":{"keyPair":{"resource":{"type":"sshKeyPairs","name":"b"}}}}`, all: []provision.Thing{pair("a"), pair("b")}, want: "b"},
		{name: "as NixOps has it", config: `{"droplet":{}}`, all: []provision.Thing{pair("a"), pair("ssh-key")}, want: "ssh-key"},
		{name: "without options", config: `{}`, all: []provision.Thing{pair("a")}, want: "a"},
		{name: "none", config: `{"droplet":{}}`, wantErr: "choose key pair: the network has none", hint: "write resources.sshKeyPairs.ssh-key = { };"},
		{name: "several", config: `{"droplet":{}}`, all: []provision.Thing{pair("b"), pair("a")}, wantErr: `choose key pair: the network has ["a" "b"]`,
			hint: "write deployment.droplet.keyPair = resources.sshKeyPairs.a;"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			thing := provision.Thing{Ref: provision.Ref{Type: "machines", Name: "web1"}, Provider: "droplet", Config: json.RawMessage(tt.config)}
			got, more, err := p.Complete(thing, tt.all)
			if tt.wantErr != "" {
				var hinted interface{ Hint() string }
				if err == nil || err.Error() != tt.wantErr || !errors.As(err, &hinted) || hinted.Hint() != tt.hint {
					t.Errorf("got error %v, want %s, %s", err, tt.wantErr, tt.hint)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var config struct {
				Droplet struct{ KeyPair, AccountKey provision.Reference }
			}
			if err := json.Unmarshal(got.Config, &config); err != nil {
				t.Fatal(err)
			}
			key := provision.Ref{Type: digitalocean.KeyType, Name: tt.want}
			if config.Droplet.KeyPair.Ref() != (provision.Ref{Type: "sshKeyPairs", Name: tt.want}) || config.Droplet.AccountKey.Ref() != key {
				t.Errorf("config: got %s", got.Config)
			}
			if len(more) != 1 || more[0].Ref != key || !strings.Contains(string(more[0].Config), `"name":"`+tt.want+`"`) {
				t.Errorf("more: got %+v", more)
			}
		})
	}
}

// TestAdoptedKey holds that a key which was in the account before is used, and stays.
func TestAdoptedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &keyWorld{newWorld(t, dofake.Options{})}
		p := w.provider(w.api.Transport()).Keys()
		list, _, err := w.admin.Keys.List(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		pair := reference(keypair.Type, "ssh-key", "ssh-key", map[string]string{"publicKey": publicKey})
		k := makeOne(t, p, w.key("ssh-key", map[string]any{"keyPair": pair}))
		if k.ID != strconv.Itoa(list[0].ID) || !strings.Contains(string(k.Outputs), `"adopted":true`) {
			t.Errorf("got %s, %s, want %d", k.ID, k.Outputs, list[0].ID)
		}
		if err := p.Destroy(t.Context(), k); err != nil {
			t.Error(err)
		}
		if _, _, err := w.admin.Keys.GetByID(t.Context(), list[0].ID); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// TestRateLimit holds that all wait as long as the first one is told to, and that it is
// no longer than that.
func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dofake.Options{})
		p := w.provider(w.api.Transport())
		k := makeOne(t, p, w.machine("web1", nil))
		w.api.ForgetRequests()
		w.api.On(func(r dofake.Request) dofake.Fault {
			if r.Nth == 1 {
				return dofake.RateLimited(37)
			}
			return dofake.Fault{}
		})
		began := time.Now()
		p.Read(t.Context(), []provision.Known{k}, func(_ int, f provision.Facts, err error) {
			if err != nil || f.State != provision.Up {
				t.Errorf("got %s, %v", f.State, err)
			}
		})
		if took := time.Since(began); took != 37*time.Second || len(w.api.Requests()) != 2 {
			t.Errorf("took %v and %d requests, want 37s and 2", took, len(w.api.Requests()))
		}

		// Whoever has no patience left is not kept waiting, and has asked for nothing.
		w.api.On(dofake.Always("", dofake.RateLimited(3600)))
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("interrupted"))
		defer cancel()
		_, err := p.Create(ctx, work(t, p, w.machine("web2", map[string]any{"vpc": nil, "volumes": nil})))
		if !errors.Is(err, provision.ErrNotMade) || !strings.Contains(fmt.Sprint(err), "interrupted") {
			t.Errorf("got error %v", err)
		}
	})
}
