// Package digitalocean is the provider of droplets, DigitalOcean's machines:
// deployment.targetEnv = "digitalOcean", or "droplet" as NixOps 2's plugin calls it.
// README.md tells the options and what is asked of the account. The API is spoken
// through godo, the provider's own client.
package digitalocean

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/godo"

	"nx/pkg/provision"
	"nx/pkg/target"
)

// Environment variables.
const (
	TokenVariable = "DIGITAL_OCEAN_AUTH_TOKEN" // the account's token, as NixOps has it
	APIVariable   = "DIGITALOCEAN_API_URL"     // another API than DigitalOcean's own, as for its provider for Terraform
)

// defaultImage is what a droplet starts from when the network does not say.
const defaultImage = "debian-13-x64"

// A Provider makes the droplets of one deployment.
type Provider struct {
	Token      string            // the account's; "" when each machine's authToken has it. It wins over these
	Deployment string            // the state's UUID, by which the deployment's droplets are told from others
	API        string            // the URL of another API than DigitalOcean's own; may be ""
	Transport  http.RoundTripper // nil for [http.DefaultTransport]
	Log        *slog.Logger      // may be nil

	mu      sync.Mutex
	clients map[string]*client // by token
}

// options are deployment.digitalOcean or deployment.droplet.
type options struct {
	AuthToken  string               `json:"authToken"`
	Region     string               `json:"region"`     // slug: "ams3"
	Size       string               `json:"size"`       // slug: "s-1vcpu-1gb"
	Image      identifier           `json:"image"`      // slug, or the id of one's own
	EnableIPv6 bool                 `json:"enableIpv6"` //
	VPC        string               `json:"vpc"`        // id or name; "" for the region's own
	Volumes    []string             `json:"volumes"`    // ids or names
	Tags       []string             `json:"tags"`
	Monitoring bool                 `json:"monitoring"`
	KeyPair    *provision.Reference `json:"keyPair"` // resources.sshKeyPairs.x

	// AccountKey is the key pair's public half in the account; [Provider.Complete] adds it.
	AccountKey *provision.Reference `json:"accountKey"`
}

// An identifier is a slug, or a number written as one or in quotes.
type identifier string

// UnmarshalJSON takes a string or a number.
func (i *identifier) UnmarshalJSON(b []byte) error {
	var n json.Number
	if err := json.Unmarshal(b, (*string)(i)); err == nil {
		return nil
	}
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	*i = identifier(n.String())
	return nil
}

// MarshalJSON writes a number where it is one, as the API wants it.
func (i identifier) MarshalJSON() ([]byte, error) {
	if n, err := strconv.Atoi(string(i)); err == nil {
		return json.Marshal(n)
	}
	return json.Marshal(string(i))
}

func read(t provision.Thing) (options, error) {
	var o options
	err := t.DecodeStrict(t.Provider, &o)
	return o, err
}

// The names of properties.
const (
	nameOf     = "name"
	regionOf   = "region"
	sizeOf     = "size"
	imageOf    = "image"
	ipv6Of     = "enableIpv6"
	vpcOf      = "vpc"
	volumesOf  = "volumes"
	tagsOf     = "tags"
	monitoring = "monitoring"
)

var tagForm = regexp.MustCompile(`^[a-zA-Z0-9_:-]{1,255}$`)

// Properties returns what the options say.
func (p *Provider) Properties(t provision.Thing) ([]provision.Property, error) {
	o, err := read(t)
	if err != nil {
		return nil, err
	}
	for _, required := range []struct{ name, value string }{{regionOf, o.Region}, {sizeOf, o.Size}} {
		if required.value == "" {
			return nil, fmt.Errorf("read options: deployment.%s.%s is missing", t.Provider, required.name)
		}
	}
	if o.KeyPair != nil && o.KeyPair.Resource.Type != keyPairs {
		return nil, fmt.Errorf("read options: deployment.%s.keyPair is resources.%s, and none of %s", t.Provider, o.KeyPair.Ref(), keyPairs)
	}
	for _, tag := range o.Tags {
		if !tagForm.MatchString(tag) {
			return nil, fmt.Errorf("read options: deployment.%s.tags: %q is no tag: it has others than letters, digits, ':', '-' and '_', or none", t.Provider, tag)
		}
	}
	return []provision.Property{
		{Name: nameOf, Value: hostName(t.Name)},
		{Name: regionOf, Value: o.Region},
		{Name: sizeOf, Value: o.Size},
		{Name: imageOf, Value: string(cmp.Or(o.Image, defaultImage)), Default: o.Image == ""},
		{Name: ipv6Of, Value: o.EnableIPv6},
		{Name: vpcOf, Value: o.VPC, Default: o.VPC == ""}, // the region's own
		{Name: volumesOf, Value: set(o.Volumes)},
		{Name: tagsOf, Value: set(o.Tags)},
		// The agent is part of what a droplet starts from; it cannot be asked for later.
		{Name: monitoring, Value: o.Monitoring, Default: true},
	}, nil
}

// Effect tells what the API can change of a droplet.
func (p *Provider) Effect(property string, _, to json.RawMessage) provision.Effect {
	switch {
	case property == sizeOf:
		return provision.Reboots
	case property == nameOf, property == volumesOf, property == tagsOf, property == ipv6Of && to != nil:
		return provision.InPlace
	}
	return provision.Replaces
}

// keyPairs is the type of the resources that let somebody in, and keyPair the name of
// the one that NixOps asked for.
const (
	keyPairs = "sshKeyPairs"
	keyPair  = "ssh-key"
)

// Complete has a machine whose options name no key pair let in the only one of the
// network, or the one that is called as NixOps asked for; and has the public half of
// the key pair added to the account.
func (p *Provider) Complete(t provision.Thing, all []provision.Thing) (provision.Thing, []provision.Thing, error) {
	o, err := read(t)
	if err != nil || len(t.Config) == 0 {
		return t, nil, err
	}
	if o.KeyPair == nil {
		if o.KeyPair, err = choose(t, all); err != nil {
			return t, nil, err
		}
	}
	key := provision.Thing{Ref: provision.Ref{Type: KeyType, Name: o.KeyPair.Resource.Name}, Provider: KeyType}
	if key.Config, err = json.Marshal(keyOptions{o.AuthToken, *o.KeyPair}); err == nil {
		t.Config, err = withOptions(t.Config, t.Provider, map[string]any{"keyPair": o.KeyPair, "accountKey": reference(key.Ref)})
	}
	if err != nil {
		return t, nil, fmt.Errorf("choose key pair: %w", err)
	}
	return t, []provision.Thing{key}, nil
}

// choose returns the key pair that lets us into a machine that names none.
func choose(t provision.Thing, all []provision.Thing) (*provision.Reference, error) {
	var names []string
	for _, other := range all {
		if other.Type == keyPairs {
			names = append(names, other.Name)
		}
	}
	switch {
	case len(names) == 1:
		r := reference(provision.Ref{Type: keyPairs, Name: names[0]})
		return &r, nil
	case slices.Contains(names, keyPair):
		r := reference(provision.Ref{Type: keyPairs, Name: keyPair})
		return &r, nil
	}
	slices.Sort(names)
	return nil, &keyPairError{t.Provider, names}
}

// A keyPairError says that it is not known who is let into a machine.
type keyPairError struct {
	env   string
	names []string // of the key pairs that there are
}

func (e *keyPairError) Error() string {
	if len(e.names) == 0 {
		return "choose key pair: the network has none"
	}
	return fmt.Sprintf("choose key pair: the network has %q", e.names)
}

// Hint says what to write.
func (e *keyPairError) Hint() string {
	if len(e.names) == 0 {
		return fmt.Sprintf("write resources.%s.%s = { };", keyPairs, keyPair)
	}
	return fmt.Sprintf("write deployment.%s.keyPair = resources.%s.%s;", e.env, keyPairs, e.names[0])
}

func reference(to provision.Ref) (r provision.Reference) {
	r.Resource.Type, r.Resource.Name = to.Type, to.Name
	return r
}

// withOptions returns a machine's options with more of them.
func withOptions(config json.RawMessage, env string, more map[string]any) (json.RawMessage, error) {
	deployment, own := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &deployment); err != nil {
		return nil, err
	}
	if raw, ok := deployment[env]; ok {
		if err := json.Unmarshal(raw, &own); err != nil {
			return nil, err
		}
	}
	var err error
	for name, value := range more {
		if own[name], err = json.Marshal(value); err != nil {
			return nil, err
		}
	}
	if deployment[env], err = json.Marshal(own); err != nil {
		return nil, err
	}
	return json.Marshal(deployment)
}

// hostName is a machine's name as the API takes it: as one of a host.
func hostName(name string) string {
	return strings.Trim(strings.ReplaceAll(name, "_", "-"), "-.")
}

// set returns the strings of a list without an order.
func set(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// clientOf returns who asks the account that a machine is in.
func (p *Provider) clientOf(t provision.Thing) (*client, error) {
	o, err := read(t)
	if err != nil {
		return nil, err
	}
	return p.client(t, o.AuthToken)
}

// A notMade error is one of a creation that had no effect.
type notMade struct{ error }

func (e notMade) Unwrap() []error { return []error{e.error, provision.ErrNotMade} }

// wanted are the properties of a droplet that is to be made or changed.
type wanted struct {
	Name       string     `json:"name"`
	Region     string     `json:"region"`
	Size       string     `json:"size"`
	Image      identifier `json:"image"`
	EnableIPv6 bool       `json:"enableIpv6"`
	VPC        string     `json:"vpc"`
	Volumes    []string   `json:"volumes"`
	Tags       []string   `json:"tags"`
	Monitoring bool       `json:"monitoring"`
}

func want(properties map[string]json.RawMessage) (w wanted, err error) {
	b, err := json.Marshal(properties)
	if err == nil {
		err = json.Unmarshal(b, &w)
	}
	if err != nil {
		err = fmt.Errorf("read properties: %w", err)
	}
	return w, err
}

// A creation is the body of POST /v2/droplets. godo's own has volumes in a form that
// the API's description no longer has.
type creation struct {
	Name       string     `json:"name"`
	Region     string     `json:"region"`
	Size       string     `json:"size"`
	Image      identifier `json:"image"`
	SSHKeys    []int      `json:"ssh_keys"`
	IPv6       bool       `json:"ipv6"`
	Monitoring bool       `json:"monitoring"`
	Tags       []string   `json:"tags"`
	UserData   string     `json:"user_data"`
	VPC        string     `json:"vpc_uuid,omitempty"`
	Volumes    []string   `json:"volumes,omitempty"`
}

// Create makes a droplet with two tags more than the network says: the deployment's,
// by which all are listed, and its own token, by which it is found again.
func (p *Provider) Create(ctx context.Context, w *provision.Work) (provision.Facts, error) {
	o, err := read(w.Thing)
	if err != nil {
		return provision.Facts{}, notMade{err}
	}
	c, err := p.client(w.Thing, o.AuthToken)
	if err != nil {
		return provision.Facts{}, notMade{err}
	}
	v, err := want(w.Want)
	if err != nil {
		return provision.Facts{}, notMade{err}
	}
	d, err := c.made(ctx, w)
	if err != nil {
		return provision.Facts{}, err
	}
	again, action := d != nil, 0
	if !again {
		if d, action, err = c.make(ctx, o, v, w); err != nil {
			return provision.Facts{}, err
		}
	}
	if err := w.Remember(provision.Facts{ID: strconv.Itoa(d.ID)}); err != nil {
		return provision.Facts{}, err
	}
	switch {
	case d.Status == "off": // it was made before, and somebody has stopped it
		d, err = c.powerOn(ctx, d)
	case !ready(d):
		d, err = c.await(ctx, d.ID, action, ready)
	}
	if err != nil {
		return provision.Facts{}, fmt.Errorf("create droplet %s: %w", w.Name, err)
	}
	volumes, err := c.volumes(ctx, v.Region, v.Volumes)
	if err == nil && again {
		d, err = c.mend(ctx, d, w.Known, v)
	}
	if err != nil {
		return provision.Facts{}, err
	}
	f, err := c.facts(d, w.Known, volumes)
	f.Injected = true
	if err == nil && o.KeyPair != nil {
		f.Target.IdentityFile = provision.IdentityFile(o.KeyPair.Resource.Name)
		f.Outputs, err = withAuthorizedKey(f.Outputs, *o.KeyPair)
	}
	return f, err
}

// mend brings a droplet that an earlier run asked for to what is wanted by now.
func (c *client) mend(ctx context.Context, d *godo.Droplet, k provision.Known, v wanted) (*godo.Droplet, error) {
	vpc, err := c.vpc(ctx, v.VPC)
	if err != nil {
		return nil, err
	}
	for _, fixed := range []struct {
		name, is, wanted string
	}{
		{regionOf, d.Region.Slug, v.Region},
		{imageOf, imageName(d, v.Image), string(v.Image)},
		{vpcOf, d.VPCUUID, cmp.Or(vpc, d.VPCUUID)},
	} {
		if fixed.is != fixed.wanted {
			return nil, &staleError{k.Name, d.ID, fixed.name, fixed.is}
		}
	}
	d, _, err = c.change(ctx, d, k, v, func(string) bool { return true })
	return d, err
}

// imageName is what a droplet started from: as wanted names it, if it is that one.
func imageName(d *godo.Droplet, wanted identifier) string {
	if d.Image == nil {
		return string(wanted)
	}
	if id := strconv.Itoa(d.Image.ID); id == string(wanted) {
		return id
	}
	return cmp.Or(d.Image.Slug, strconv.Itoa(d.Image.ID))
}

// A staleError is that of a droplet that an earlier run asked for, and that cannot
// become what is wanted by now.
type staleError struct {
	name         string
	id           int
	property, is string
}

func (e *staleError) Error() string {
	return fmt.Sprintf("create droplet %s: an earlier run made %d with %s %s", e.name, e.id, e.property, e.is)
}

// Hint says how to be rid of it.
func (e *staleError) Hint() string { return "run nx-provision destroy --on " + e.name + " first" }

// ready tells whether a droplet is up, with its addresses.
func ready(d *godo.Droplet) bool {
	address, _ := d.PublicIPv4()
	return d.Status == "active" && address != ""
}

// made returns the droplet that an earlier run made, and nil when there is none.
func (c *client) made(ctx context.Context, w *provision.Work) (*godo.Droplet, error) {
	if w.ID != "" {
		id, err := number(w.ID)
		if err != nil {
			return nil, err
		}
		d, err := c.get(ctx, id)
		if d != nil || err != nil {
			return d, err
		}
	}
	if !w.Again {
		return nil, nil
	}
	return c.find(ctx, hostName(w.Name), w.Token)
}

// make makes a droplet. When it is not known whether it was made, it is looked for,
// and asked for again when it is not there.
func (c *client) make(ctx context.Context, o options, v wanted, w *provision.Work) (*godo.Droplet, int, error) {
	body, err := c.creation(ctx, o, v, w)
	if err != nil {
		return nil, 0, notMade{err}
	}
	what := fmt.Sprintf("create droplet %s, size %s, region %s, image %s", body.Name, body.Size, body.Region, body.Image)
	for attempt := 1; ; attempt++ {
		var made struct {
			Droplet *godo.Droplet `json:"droplet"`
			Links   godo.Links    `json:"links"`
		}
		r, err := c.api.NewRequest(ctx, http.MethodPost, "v2/droplets", body)
		if err != nil {
			return nil, 0, notMade{err}
		}
		_, err = c.api.Do(ctx, r, &made)
		switch {
		case err == nil && made.Droplet != nil:
			action := 0
			if len(made.Links.Actions) > 0 {
				action = made.Links.Actions[0].ID
			}
			return made.Droplet, action, nil
		case err == nil:
			err = errors.New("the answer has no droplet")
		case !unknown(err):
			return nil, 0, notMade{c.explain(err, "%s", what)}
		}
		// The key that it presents is the same, whichever request made it.
		d, ferr := c.find(ctx, body.Name, w.Token)
		if d != nil {
			return d, 0, nil
		}
		if ferr != nil || attempt == attempts {
			return nil, 0, c.explain(err, "%s", what)
		}
	}
}

func (c *client) creation(ctx context.Context, o options, v wanted, w *provision.Work) (*creation, error) {
	if o.AccountKey == nil {
		return nil, &keyPairError{env: w.Provider}
	}
	key, err := strconv.Atoi(o.AccountKey.ID)
	if err != nil {
		return nil, fmt.Errorf("read %s: its id %q is no number", o.AccountKey.Ref(), o.AccountKey.ID)
	}
	body := &creation{
		Name: v.Name, Region: v.Region, Size: v.Size, Image: v.Image, IPv6: v.EnableIPv6, Monitoring: v.Monitoring,
		SSHKeys: []int{key}, Tags: append(slices.Clone(v.Tags), w.Token),
	}
	if c.tag != "" {
		body.Tags = append(body.Tags, c.tag)
	}
	if body.UserData, err = userData(w.HostKey); err != nil {
		return nil, err
	}
	if body.VPC, err = c.vpc(ctx, v.VPC); err != nil {
		return nil, err
	}
	ids, err := c.volumes(ctx, v.Region, v.Volumes)
	if err != nil {
		return nil, err
	}
	body.Volumes = slices.Sorted(maps.Values(ids))
	return body, nil
}

// withAuthorizedKey adds the key that was given to the machine to its outputs.
func withAuthorizedKey(outputs json.RawMessage, r provision.Reference) (json.RawMessage, error) {
	public, err := publicKey(r)
	if err != nil {
		return nil, err
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(outputs, &all); err != nil {
		return nil, err
	}
	if all["authorizedKeys"], err = json.Marshal([]string{public}); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

func number(id string) (int, error) {
	n, err := strconv.Atoi(id)
	if err != nil {
		return 0, fmt.Errorf("read droplet %q: its id is no number", id)
	}
	return n, nil
}

// facts are what is seen of a droplet. volumes are ids by the names that the network
// has for them.
func (c *client) facts(d *godo.Droplet, k provision.Known, volumes map[string]string) (provision.Facts, error) {
	f := provision.Facts{ID: strconv.Itoa(d.ID)}
	switch d.Status {
	case "active":
		f.State = provision.Up
	case "new":
		f.State = provision.Unreachable
	default:
		f.State = provision.Stopped
	}
	out := outputs{VPC: d.VPCUUID, Volumes: volumes}
	// The errors say that there is no list of addresses, as of a droplet that is new.
	out.PublicIPv4, _ = d.PublicIPv4()
	out.PublicIPv6, _ = d.PublicIPv6()
	out.PrivateIPv4, _ = d.PrivateIPv4()
	if d.Region != nil {
		out.Region = d.Region.Slug
	}
	f.Target = target.Target{Host: cmp.Or(out.PublicIPv4, out.PrivateIPv4)}
	var err error
	if f.Outputs, err = json.Marshal(out); err != nil {
		return f, fmt.Errorf("describe droplet %d: %w", d.ID, err)
	}
	f.Properties, err = c.properties(d, k, volumes)
	return f, err
}

// outputs are what is known of a droplet, for its record.
type outputs struct {
	PublicIPv4  string            `json:"publicIPv4,omitempty"`
	PublicIPv6  string            `json:"publicIPv6,omitempty"`
	PrivateIPv4 string            `json:"privateIPv4,omitempty"`
	Region      string            `json:"region,omitempty"`
	VPC         string            `json:"vpc,omitempty"`     // id
	Volumes     map[string]string `json:"volumes,omitempty"` // ids by name
}

// properties are a droplet's own, in the network's words.
func (c *client) properties(d *godo.Droplet, k provision.Known, volumes map[string]string) (map[string]any, error) {
	known, err := want(k.Properties)
	if err != nil {
		return nil, err
	}
	tags := slices.DeleteFunc(slices.Clone(d.Tags), func(t string) bool { return t == c.tag || t == k.Token })
	for i, tag := range tags {
		if j := slices.IndexFunc(known.Tags, func(t string) bool { return strings.EqualFold(t, tag) }); j >= 0 {
			tags[i] = known.Tags[j]
		}
	}
	names := map[string]string{}
	for name, id := range volumes {
		names[id] = name
	}
	attached := []string{}
	for _, id := range d.VolumeIDs {
		attached = append(attached, cmp.Or(names[id], id))
	}
	all := map[string]any{
		nameOf: d.Name, sizeOf: d.SizeSlug, ipv6Of: slices.Contains(d.Features, "ipv6"),
		tagsOf: set(tags), volumesOf: set(attached),
	}
	if d.Region != nil {
		all[regionOf] = d.Region.Slug
	}
	// What a droplet started from cannot change, but its slug is taken from an image
	// that is no longer offered.
	if known.Image == "" && d.Image != nil {
		all[imageOf] = cmp.Or(d.Image.Slug, strconv.Itoa(d.Image.ID))
	}
	if known.VPC == "" {
		return all, nil
	}
	// The network may have named it.
	if had := knownOutputs(k); known.VPC == d.VPCUUID || had.VPC == "" || had.VPC == d.VPCUUID {
		all[vpcOf] = known.VPC
	} else {
		all[vpcOf] = d.VPCUUID
	}
	return all, nil
}

// knownOutputs are what was seen of a droplet last.
func knownOutputs(k provision.Known) (o outputs) {
	_ = json.Unmarshal(k.Outputs, &o) // what has another form is not known
	return o
}

// Update changes a droplet, and starts it at the end if it does not run.
func (p *Provider) Update(ctx context.Context, w *provision.Work, changes []provision.Difference) (provision.Facts, error) {
	c, d, err := p.droplet(ctx, w.Known)
	if err != nil {
		return provision.Facts{}, err
	}
	v, err := want(w.Want)
	if err != nil {
		return provision.Facts{}, err
	}
	if d.Locked {
		// What an interrupted run has asked for is still being done.
		if d, err = c.await(ctx, d.ID, 0, func(d *godo.Droplet) bool { return !d.Locked }); err != nil {
			return provision.Facts{}, err
		}
	}
	changed := func(name string) bool {
		return slices.ContainsFunc(changes, func(c provision.Difference) bool { return c.Name == name })
	}
	d, volumes, err := c.change(ctx, d, w.Known, v, changed)
	if err != nil {
		return provision.Facts{}, err
	}
	k := w.Known
	k.Properties = w.Want
	f, err := c.facts(d, k, volumes)
	if err == nil && changed(tagsOf) {
		f.Properties[tagsOf] = v.Tags // d was seen before
	}
	return f, err
}

// change brings those properties of a droplet to what is wanted that changed tells, and
// starts it if it does not run. It returns the ids of its volumes.
func (c *client) change(ctx context.Context, d *godo.Droplet, k provision.Known, v wanted, changed func(name string) bool) (_ *godo.Droplet, volumes map[string]string, err error) {
	volumes = knownOutputs(k).Volumes
	if changed(nameOf) {
		d, err = c.bring(ctx, d, "rename", func(d *godo.Droplet) bool { return d.Name == v.Name },
			func(ctx context.Context) (*godo.Action, *godo.Response, error) {
				return c.api.DropletActions.Rename(ctx, d.ID, v.Name)
			})
	}
	if err == nil && changed(tagsOf) {
		err = c.retag(ctx, d, k, v.Tags)
	}
	if err == nil && changed(ipv6Of) && v.EnableIPv6 {
		d, err = c.bring(ctx, d, "enable IPv6 of", func(d *godo.Droplet) bool { return slices.Contains(d.Features, "ipv6") },
			func(ctx context.Context) (*godo.Action, *godo.Response, error) {
				return c.api.DropletActions.EnableIPv6(ctx, d.ID)
			})
	}
	if err == nil && changed(volumesOf) {
		d, volumes, err = c.attach(ctx, d, v)
	}
	if err == nil && changed(sizeOf) {
		d, err = c.resize(ctx, d, v.Size)
	}
	if err == nil {
		d, err = c.powerOn(ctx, d)
	}
	return d, volumes, err
}

// droplet finds one that was made.
func (p *Provider) droplet(ctx context.Context, k provision.Known) (*client, *godo.Droplet, error) {
	c, err := p.clientOf(k.Thing)
	if err != nil {
		return nil, nil, err
	}
	id, err := number(k.ID)
	if err != nil {
		return nil, nil, err
	}
	d, err := c.get(ctx, id)
	if err == nil && d == nil {
		err = fmt.Errorf("find droplet %d: %w", id, errGone)
	}
	return c, d, err
}

// retag gives a droplet other tags, beside those by which we know it.
func (c *client) retag(ctx context.Context, d *godo.Droplet, k provision.Known, tags []string) error {
	resources := []godo.Resource{{ID: strconv.Itoa(d.ID), Type: godo.DropletResourceType}}
	for _, tag := range tags {
		if has(d.Tags, tag) {
			continue
		}
		_, _, err := c.api.Tags.Create(ctx, &godo.TagCreateRequest{Name: tag})
		if err == nil {
			_, err = c.api.Tags.TagResources(ctx, tag, &godo.TagResourcesRequest{Resources: resources})
		}
		if err != nil {
			return c.explain(err, "give tag %s to droplet %d", tag, d.ID)
		}
	}
	for _, tag := range d.Tags {
		if has(tags, tag) || tag == c.tag || tag == k.Token {
			continue
		}
		if _, err := c.api.Tags.UntagResources(ctx, tag, &godo.UntagResourcesRequest{Resources: resources}); err != nil && status(err) != http.StatusNotFound {
			return c.explain(err, "take tag %s from droplet %d", tag, d.ID)
		}
	}
	return nil
}

// attach gives a droplet other volumes, and returns their ids.
func (c *client) attach(ctx context.Context, d *godo.Droplet, v wanted) (*godo.Droplet, map[string]string, error) {
	ids, err := c.volumes(ctx, v.Region, v.Volumes)
	if err != nil {
		return nil, nil, err
	}
	wanted := slices.Sorted(maps.Values(ids))
	for _, id := range d.VolumeIDs {
		if err == nil && !slices.Contains(wanted, id) {
			d, err = c.bring(ctx, d, "detach volume "+id+" from", func(d *godo.Droplet) bool { return !slices.Contains(d.VolumeIDs, id) },
				func(ctx context.Context) (*godo.Action, *godo.Response, error) {
					return c.api.StorageActions.DetachByDropletID(ctx, id, d.ID)
				})
		}
	}
	for _, id := range wanted {
		if err == nil {
			d, err = c.bring(ctx, d, "attach volume "+id+" to", func(d *godo.Droplet) bool { return slices.Contains(d.VolumeIDs, id) },
				func(ctx context.Context) (*godo.Action, *godo.Response, error) {
					return c.api.StorageActions.Attach(ctx, id, d.ID)
				})
		}
	}
	return d, ids, err
}

// resize gives a droplet other processors and memory. Its disk stays as it is, since
// one that has grown can never be made smaller again. When it is refused, one that ran
// is started again.
func (c *client) resize(ctx context.Context, d *godo.Droplet, size string) (*godo.Droplet, error) {
	right := func(d *godo.Droplet) bool { return d.SizeSlug == size }
	if right(d) {
		return d, nil
	}
	ran := ready(d)
	d, err := c.powerOff(ctx, d)
	if err != nil {
		return nil, err
	}
	resized, err := c.bring(ctx, d, "resize to "+size, right, func(ctx context.Context) (*godo.Action, *godo.Response, error) {
		return c.api.DropletActions.Resize(ctx, d.ID, size, false)
	})
	if err != nil && ran && ctx.Err() == nil {
		if _, serr := c.powerOn(ctx, d); serr != nil {
			err = fmt.Errorf("%w; and %w", err, serr)
		}
	}
	return resized, err
}

func (c *client) powerOn(ctx context.Context, d *godo.Droplet) (*godo.Droplet, error) {
	return c.bring(ctx, d, "power on", ready, func(ctx context.Context) (*godo.Action, *godo.Response, error) {
		return c.api.DropletActions.PowerOn(ctx, d.ID)
	})
}

// graceTime is how long a machine may take to shut down before its power is cut.
const graceTime = 2 * time.Minute

// powerOff has a machine shut down, and cuts its power when it does not.
func (c *client) powerOff(ctx context.Context, d *godo.Droplet) (*godo.Droplet, error) {
	off := func(d *godo.Droplet) bool { return d.Status == "off" }
	grace, cancel := context.WithTimeoutCause(ctx, graceTime, errLate)
	defer cancel()
	down, err := c.bring(grace, d, "shut down", off, func(ctx context.Context) (*godo.Action, *godo.Response, error) {
		return c.api.DropletActions.Shutdown(ctx, d.ID)
	})
	if err == nil || ctx.Err() != nil {
		return down, err
	}
	c.log.Warn("it does not shut down: its power is cut", "droplet", d.ID, "cause", err.Error())
	return c.bring(ctx, d, "power off", off, func(ctx context.Context) (*godo.Action, *godo.Response, error) {
		return c.api.DropletActions.PowerOff(ctx, d.ID)
	})
}

// Start switches a droplet on.
func (p *Provider) Start(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return p.power(ctx, k, (*client).powerOn)
}

// Stop shuts a droplet down. It costs as much as before.
func (p *Provider) Stop(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return p.power(ctx, k, (*client).powerOff)
}

// Reboot has a droplet shut down and start again.
func (p *Provider) Reboot(ctx context.Context, k provision.Known) (provision.Facts, error) {
	return p.power(ctx, k, func(c *client, ctx context.Context, d *godo.Droplet) (*godo.Droplet, error) {
		a, _, err := c.api.DropletActions.Reboot(ctx, d.ID)
		if err != nil {
			return nil, c.explain(err, "reboot droplet %d", d.ID)
		}
		return d, c.finish(ctx, a.ID)
	})
}

func (p *Provider) power(ctx context.Context, k provision.Known, do func(*client, context.Context, *godo.Droplet) (*godo.Droplet, error)) (provision.Facts, error) {
	c, d, err := p.droplet(ctx, k)
	if err == nil {
		d, err = do(c, ctx, d)
	}
	if err != nil {
		return provision.Facts{}, err
	}
	return c.facts(d, k, knownOutputs(k).Volumes)
}

// Read lists the deployment's droplets, and those by themselves that are not on the
// list; when these are many, all of the account.
func (p *Provider) Read(ctx context.Context, known []provision.Known, tell func(i int, f provision.Facts, err error)) {
	byClient := map[*client][]int{}
	for i, k := range known {
		c, err := p.clientOf(k.Thing)
		if err != nil {
			tell(i, provision.Facts{}, err)
			continue
		}
		byClient[c] = append(byClient[c], i)
	}
	for c, indices := range byClient {
		seen, err := c.read(ctx, known, indices)
		for _, i := range indices {
			switch d := seen[i]; {
			case err != nil:
				tell(i, provision.Facts{}, err)
			case d == nil:
				tell(i, provision.Facts{State: provision.Missing}, nil)
			default:
				f, err := c.facts(d, known[i], knownOutputs(known[i]).Volumes)
				if err == nil && len(known[i].Properties) == 0 {
					err = c.imported(ctx, d, known[i].Thing, f)
				}
				tell(i, f, err)
			}
		}
	}
}

// imported adds to what is seen of a droplet that is new to us what must be asked for:
// whether its VPC is the one that the network names.
func (c *client) imported(ctx context.Context, d *godo.Droplet, t provision.Thing, f provision.Facts) error {
	o, err := read(t)
	if err != nil || o.VPC == "" {
		return err
	}
	id, err := c.vpc(ctx, o.VPC)
	if f.Properties[vpcOf] = d.VPCUUID; id == d.VPCUUID {
		f.Properties[vpcOf] = o.VPC
	}
	return err
}

// read returns the droplets of those of known that are there.
func (c *client) read(ctx context.Context, known []provision.Known, indices []int) (map[int]*godo.Droplet, error) {
	seen := map[int]*godo.Droplet{}
	take := func(droplets []godo.Droplet) {
		for _, i := range indices {
			for _, d := range droplets {
				if known[i].ID == strconv.Itoa(d.ID) || known[i].ID == "" && has(d.Tags, known[i].Token) {
					seen[i] = &d
				}
			}
		}
	}
	if len(indices) > 1 && c.tag != "" {
		listed, err := c.tagged(ctx, c.tag)
		if err != nil {
			return nil, err
		}
		take(listed)
	}
	rest := slices.DeleteFunc(slices.Clone(indices), func(i int) bool { return seen[i] != nil })
	if len(rest) > 2 {
		listed, err := all(func(o *godo.ListOptions) ([]godo.Droplet, *godo.Response, error) { return c.api.Droplets.List(ctx, o) })
		if err != nil {
			return nil, c.explain(err, "list droplets")
		}
		take(listed)
		return seen, nil
	}
	for _, i := range rest {
		if known[i].ID == "" {
			found, err := c.tagged(ctx, known[i].Token)
			if err != nil {
				return nil, err
			}
			take(found)
			continue
		}
		id, err := number(known[i].ID)
		if err != nil {
			return nil, err
		}
		if seen[i], err = c.get(ctx, id); err != nil {
			return nil, err
		}
	}
	return seen, nil
}

// Destroy deletes a droplet, and the tag by which it was found. Its volumes stay.
func (p *Provider) Destroy(ctx context.Context, k provision.Known) error {
	c, err := p.clientOf(k.Thing)
	if err != nil {
		return err
	}
	id := 0
	if k.ID != "" {
		if id, err = number(k.ID); err != nil {
			return err
		}
	} else {
		d, err := c.find(ctx, hostName(k.Name), k.Token)
		if err != nil {
			return err
		}
		if d != nil {
			id = d.ID
		}
	}
	if id != 0 {
		if _, err := c.api.Droplets.Delete(ctx, id); err != nil && status(err) != http.StatusNotFound {
			return c.explain(err, "delete droplet %d", id)
		}
	}
	if k.Token == "" {
		return nil // it was imported
	}
	if _, err := c.api.Tags.Delete(ctx, k.Token); err != nil && status(err) != http.StatusNotFound {
		return c.explain(err, "delete tag %s", k.Token)
	}
	return nil
}

var _ interface {
	provision.Maker
	provision.Powered
	provision.Completer
} = (*Provider)(nil)
