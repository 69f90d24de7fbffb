package dofake

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

var dropletRoutes = map[string]handler{
	"GET /v2/droplets":                                  listDroplets,
	"POST /v2/droplets":                                 createDroplets,
	"DELETE /v2/droplets":                               deleteDroplets,
	"GET /v2/droplets/{droplet_id}":                     withDroplet(getDroplet),
	"DELETE /v2/droplets/{droplet_id}":                  withDroplet(deleteDroplet),
	"GET /v2/droplets/{droplet_id}/actions":             withDroplet(listDropletActions),
	"POST /v2/droplets/{droplet_id}/actions":            withDroplet(actOnDroplet),
	"GET /v2/droplets/{droplet_id}/actions/{action_id}": getAction,
	"GET /v2/actions/{action_id}":                       getAction,
}

// A Droplet is one, as tests and the hooks Boot and Halt see it.
type Droplet struct {
	ID                      int
	Name                    string
	Region, Size, Image     string // slugs; of an image without one the id
	Disk                    int    // GiB; a size does not say it when only memory and processors were changed
	Tags                    []string
	SSHKeys                 []string // the public keys that it was created with
	UserData                string
	VPC                     string   // id
	Volumes                 []string // ids
	IPv6, Monitoring        bool
	Status                  string // "new", "active" or "off"
	PublicIPv4, PrivateIPv4 string // "" as long as it is new
	PublicIPv6              string // "" without IPv6
}

// A droplet is one, with what the account must know beside.
type droplet struct {
	Droplet
	created time.Time
	pending *action       // what is being done to it
	hidden  int           // lists by tag that it is still missing from
	last    chan struct{} // closed when the last hook called for it has returned
	address string        // that Boot gave it
}

// An action is something that is done to a droplet or volume.
type action struct {
	id        int
	kind      string // such as "power_on"
	droplet   *droplet
	region    string
	of        string // "droplet" or "volume"
	begun     time.Time
	completed time.Time
	status    string // "in-progress", "completed" or "errored"

	pace   Pace
	looks  int   // how many answers showed it
	hooks  int   // how many are in work
	err    error // of a hook
	effect func()
}

// Droplets returns the account's droplets in the order of their creation. It counts
// as no request and no look.
func (a *API) Droplets() []Droplet {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []Droplet{}
	for _, d := range a.droplets {
		all = append(all, d.copy())
	}
	return all
}

func (d *droplet) copy() Droplet {
	c := d.Droplet
	c.Tags, c.SSHKeys, c.Volumes = slices.Clone(c.Tags), slices.Clone(c.SSHKeys), slices.Clone(c.Volumes)
	return c
}

// droplet finds a droplet by its id.
func (a *API) droplet(id string) *droplet {
	i := slices.IndexFunc(a.droplets, func(d *droplet) bool { return strconv.Itoa(d.ID) == id })
	if i < 0 {
		return nil
	}
	return a.droplets[i]
}

func withDroplet(f func(*API, *query, *droplet) reply) handler {
	return func(a *API, q *query) reply {
		if d := a.droplet(q.path("droplet_id")); d != nil {
			return f(a, q, d)
		}
		return notFound()
	}
}

func createDroplets(a *API, q *query) reply {
	var in struct {
		Name       string            `json:"name"`
		Names      []string          `json:"names"`
		Region     string            `json:"region"`
		Size       string            `json:"size"`
		Image      json.RawMessage   `json:"image"`
		SSHKeys    []json.RawMessage `json:"ssh_keys"`
		IPv6       bool              `json:"ipv6"`
		Monitoring bool              `json:"monitoring"`
		Tags       []string          `json:"tags"`
		UserData   string            `json:"user_data"`
		Volumes    []string          `json:"volumes"`
		VPC        string            `json:"vpc_uuid"`
	}
	if r := q.decode(&in); r.status != 0 {
		return r
	}
	names := in.Names
	if in.Name != "" {
		names = []string{in.Name}
	}
	if len(a.droplets)+len(names) > a.opt.DropletLimit {
		return unprocessable(quota)
	}
	size, ok := findSize(in.Size)
	if !ok {
		return unprocessable("You specified an invalid size for Droplet creation.")
	}
	image, ok := findImage(unquote(in.Image))
	if !ok {
		return unprocessable("You specified an invalid image for Droplet creation.")
	}
	region, ok := findRegion(in.Region)
	switch {
	case !ok:
		return unprocessable("You specified an invalid region for Droplet creation.")
	case !region.available:
		return unprocessable("Region is not available")
	case !slices.Contains(size.regions, region.slug):
		return unprocessable("Size is not available in this region.")
	case !slices.Contains(image.regions, region.slug):
		return unprocessable("The image you specified is not available in the selected region, you can transfer it to this region from the images pages.")
	case size.disk < image.minDisk:
		return unprocessable("The image you specified requires a larger disk than the selected size has.")
	case len(in.UserData) > 64<<10:
		return unprocessable("User data is too large")
	}
	var keys []string
	for _, raw := range in.SSHKeys {
		k := a.key(unquote(raw))
		if k == nil {
			return unprocessable("%s are invalid key identifiers for Droplet creation.", unquote(raw))
		}
		keys = append(keys, k.text)
	}
	network := vpcOf(region.slug)
	if in.VPC != "" {
		if network, ok = findVPC(in.VPC); !ok || network.region != region.slug {
			return unprocessable("VPC UUID is invalid")
		}
	}
	for _, id := range in.Volumes {
		v := a.volume(id)
		switch {
		case v == nil || v.region != region.slug:
			return unprocessable("Failed to resolve volume %s", id)
		case len(names) > 1 || v.droplet != nil:
			return unprocessable("This volume is already attached")
		}
	}
	for _, tag := range in.Tags {
		if strings.Trim(tag, tagLetters) != "" || tag == "" || len(tag) > 255 {
			return unprocessable("Tag name is invalid")
		}
	}
	a.addTags(in.Tags)

	var shown, links []object
	for _, name := range names {
		d := &droplet{
			Droplet: Droplet{
				ID: a.newID(), Name: name, Region: region.slug, Size: size.slug, Image: unquote(in.Image), Disk: size.disk,
				Tags: slices.Compact(slices.Sorted(slices.Values(in.Tags))), SSHKeys: keys, UserData: in.UserData, VPC: network.id,
				IPv6: in.IPv6, Monitoring: in.Monitoring, Status: "new",
			},
			created: time.Now(), hidden: a.opt.TagLag,
		}
		a.droplets = append(a.droplets, d)
		for _, id := range in.Volumes {
			a.volume(id).attach(d)
		}
		act := a.begin(d, "create", a.opt.Droplet, func() {
			d.Status = "active"
			a.address(d)
		})
		a.boot(act)
		shown = append(shown, a.showDroplet(d))
		links = append(links, object{
			"id": act.id, "rel": "create", "href": fmt.Sprintf("%s/v2/actions/%d", q.url, act.id),
		})
	}
	body := object{"links": object{"actions": links}}
	if in.Name != "" {
		body["droplet"] = shown[0]
	} else {
		body["droplets"] = shown
	}
	return reply{status: http.StatusAccepted, body: body}
}

// tagLetters are what a tag is made of, as the description's schema "tags" has it.
const tagLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-:"

// unquote returns what a JSON string or number says.
func unquote(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// address gives a droplet the addresses that it does not have yet, out of ranges that
// no one has: 198.18.0.0/15 (RFC 2544) and 2001:db8::/32 (RFC 3849).
func (a *API) address(d *droplet) {
	n := d.ID - 3164000
	if d.PublicIPv4 == "" {
		d.PublicIPv4 = fmt.Sprintf("198.18.%d.%d", n>>8&255, n&255)
	}
	if d.address != "" {
		d.PublicIPv4 = d.address
	}
	if d.PrivateIPv4 == "" {
		v, _ := findVPC(d.VPC)
		d.PrivateIPv4 = fmt.Sprintf("%s%d.%d", strings.TrimSuffix(v.ipRange, "0.0/16"), n>>8&255, n&255)
	}
	if d.IPv6 && d.PublicIPv6 == "" {
		d.PublicIPv6 = fmt.Sprintf("2001:db8:0:1010::%x", n)
	}
}

func (a *API) showDroplet(d *droplet) object {
	size, _ := findSize(d.Size)
	image, _ := findImage(d.Image)
	region, _ := findRegion(d.Region)
	features := []string{"private_networking"}
	if d.IPv6 {
		features = append(features, "ipv6")
	}
	if d.Monitoring {
		features = append(features, "monitoring")
	}
	v4, v6 := []object{}, []object{}
	if d.PublicIPv4 != "" {
		v4 = append(v4,
			object{"ip_address": d.PrivateIPv4, "netmask": "255.255.0.0", "gateway": "", "type": "private"},
			object{"ip_address": d.PublicIPv4, "netmask": "255.255.240.0", "gateway": "198.18.0.1", "type": "public"})
	}
	if d.PublicIPv6 != "" {
		v6 = append(v6, object{"ip_address": d.PublicIPv6, "netmask": 64, "gateway": "2001:db8:0:1010::1", "type": "public"})
	}
	return object{
		"id": d.ID, "name": d.Name, "memory": size.memory, "vcpus": size.vcpus, "disk": d.Disk,
		"disk_info": []object{{"type": "local", "size": object{"amount": d.Disk, "unit": "gib"}}},
		"locked":    d.pending != nil, "status": d.Status, "kernel": nil, "created_at": d.created.UTC().Format(time.RFC3339),
		"features": features, "backup_ids": []int{}, "next_backup_window": nil, "snapshot_ids": []int{},
		"image": image.show(), "volume_ids": orNone(d.Volumes), "size": size.show(), "size_slug": d.Size,
		"networks": object{"v4": v4, "v6": v6}, "region": showRegion(region), "tags": orNone(d.Tags), "vpc_uuid": d.VPC,
	}
}

// orNone returns list, which is never nil: the API has no null lists of strings.
func orNone(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func listDroplets(a *API, q *query) reply {
	tag, name := q.query.Get("tag_name"), q.query.Get("name")
	if tag != "" && name != "" {
		return unprocessable("name and tag_name cannot be combined")
	}
	var chosen []*droplet
	for _, d := range a.droplets {
		switch {
		case name != "" && !strings.EqualFold(d.Name, name), tag != "" && !slices.Contains(d.Tags, tag),
			q.query.Get("type") == "gpus":
		case tag != "" && d.hidden > 0:
			d.hidden--
		default:
			chosen = append(chosen, d)
		}
	}
	return paginate(q, "droplets", chosen, func(d *droplet) object {
		a.look(d.pending)
		return a.showDroplet(d)
	})
}

func getDroplet(a *API, _ *query, d *droplet) reply {
	a.look(d.pending)
	return reply{status: http.StatusOK, body: object{"droplet": a.showDroplet(d)}}
}

func deleteDroplet(a *API, _ *query, d *droplet) reply {
	a.remove(d)
	return reply{status: http.StatusNoContent}
}

func deleteDroplets(a *API, q *query) reply {
	for _, d := range slices.Clone(a.droplets) {
		if slices.Contains(d.Tags, q.query.Get("tag_name")) {
			a.remove(d)
		}
	}
	return reply{status: http.StatusNoContent}
}

// remove deletes a droplet. Its volumes stay.
func (a *API) remove(d *droplet) {
	a.droplets = slices.DeleteFunc(a.droplets, func(o *droplet) bool { return o == d })
	for _, v := range a.volumes {
		v.detach(d)
	}
	if d.pending != nil {
		d.pending.status, d.pending.completed = "errored", time.Now()
	}
	if a.opt.Halt != nil {
		a.hook(d, a.opt.Halt)
	}
}

func listDropletActions(a *API, q *query, d *droplet) reply {
	var all []*action
	for _, act := range slices.Backward(a.actions) { // the newest first
		if act.droplet == d && act.of == "droplet" {
			all = append(all, act)
		}
	}
	return paginate(q, "actions", all, func(act *action) object {
		a.look(act)
		return act.show()
	})
}

func getAction(a *API, q *query) reply {
	i := slices.IndexFunc(a.actions, func(act *action) bool { return strconv.Itoa(act.id) == q.path("action_id") })
	if i < 0 {
		return notFound()
	}
	act := a.actions[i]
	if of := q.path("droplet_id"); of != "" && of != strconv.Itoa(act.droplet.ID) {
		return notFound()
	}
	a.look(act)
	return reply{status: http.StatusOK, body: object{"action": act.show()}}
}

func (act *action) show() object {
	region, _ := findRegion(act.region)
	o := object{
		"id": act.id, "status": act.status, "type": act.kind, "started_at": act.begun.UTC().Format(time.RFC3339),
		"completed_at": nil, "resource_id": act.droplet.ID, "resource_type": "droplet",
		"region": showRegion(region), "region_slug": act.region,
	}
	if act.of == "volume" {
		// Volumes have no number. What is done to them shows their region only.
		o["resource_id"], o["resource_type"] = nil, "backend"
	}
	if !act.completed.IsZero() {
		o["completed_at"] = act.completed.UTC().Format(time.RFC3339)
	}
	return o
}

func actOnDroplet(a *API, q *query, d *droplet) reply {
	var in struct {
		Type string `json:"type"`
		Name string `json:"name"`
		Size string `json:"size"`
		Disk bool   `json:"disk"`
	}
	if r := q.decode(&in); r.status != 0 {
		return r
	}
	if a.settle(d.pending); d.pending != nil {
		return unprocessable("Droplet already has a pending event.")
	}
	up := func() { d.Status = "active"; a.address(d) }
	var effect func()
	switch in.Type {
	case "power_on":
		if d.Status == "active" {
			return unprocessable("Droplet is already powered on.")
		}
		effect = up
	case "power_off", "shutdown":
		if d.Status == "off" {
			return unprocessable("Droplet is already powered off.")
		}
		effect = func() { d.Status = "off" }
	case "reboot", "power_cycle":
		if d.Status == "off" {
			return unprocessable("Droplet is powered off.")
		}
		effect = up
	case "rename":
		effect = func() { d.Name = in.Name }
	case "enable_ipv6":
		effect = func() { d.IPv6 = true; a.address(d) }
	case "resize":
		size, ok := findSize(in.Size)
		switch {
		case !ok:
			return unprocessable("You specified an invalid size.")
		case d.Status != "off":
			return unprocessable("Droplet must be powered off before it can be resized.")
		case !slices.Contains(size.regions, d.Region):
			return unprocessable("Size is not available in this region.")
		case size.disk < d.Disk:
			return unprocessable("Size can not decrease size of Droplet's disk image")
		}
		effect = func() {
			d.Size = size.slug
			if in.Disk {
				d.Disk = size.disk
			}
		}
	default:
		return unprocessable("The fake has no action %s.", in.Type)
	}
	act := a.begin(d, in.Type, a.opt.Action, effect)
	switch in.Type {
	case "power_on":
		a.boot(act)
	case "power_off", "shutdown":
		a.halt(act)
	case "reboot", "power_cycle":
		a.halt(act)
		a.boot(act)
	}
	return reply{status: http.StatusCreated, body: object{"action": act.show()}}
}

// begin begins an action on a droplet. When it is done, effect happens.
func (a *API) begin(d *droplet, kind string, pace Pace, effect func()) *action {
	act := &action{
		id: a.newID(), kind: kind, droplet: d, region: d.Region, of: "droplet",
		begun: time.Now(), status: "in-progress", pace: pace, effect: effect,
	}
	a.actions = append(a.actions, act)
	d.pending = act
	return act
}

// look counts an answer that shows an action, and finishes the action when it is time.
func (a *API) look(act *action) {
	a.settle(act)
	if act != nil {
		act.looks++
	}
}

// settle finishes an action when it is time.
func (a *API) settle(act *action) {
	if act == nil || act.status != "in-progress" || act.hooks > 0 ||
		act.looks < act.pace.Looks || time.Since(act.begun) < act.pace.Time {
		return
	}
	act.completed = time.Now()
	if act.droplet.pending == act {
		act.droplet.pending = nil
	}
	if act.err != nil {
		act.status = "errored"
		return
	}
	act.status = "completed"
	act.effect()
}

// boot has an action wait for the hook Boot to make the droplet's machine.
func (a *API) boot(act *action) {
	if a.opt.Boot == nil {
		return
	}
	a.during(act, func(d Droplet) error {
		address, err := a.opt.Boot(d)
		a.mu.Lock()
		defer a.mu.Unlock()
		act.droplet.address = address
		return err
	})
}

// halt has an action wait for the hook Halt to stop the droplet's machine.
func (a *API) halt(act *action) {
	if a.opt.Halt == nil {
		return
	}
	a.during(act, func(d Droplet) error {
		a.opt.Halt(d)
		return nil
	})
}

// during has an action wait for a hook.
func (a *API) during(act *action, f func(Droplet) error) {
	act.hooks++
	a.hook(act.droplet, func(d Droplet) {
		err := f(d)
		a.mu.Lock()
		defer a.mu.Unlock()
		act.hooks--
		act.err = cmp.Or(act.err, err)
	})
}

// hook calls f without the account's lock, after the hooks of the same droplet that
// were called before.
func (a *API) hook(d *droplet, f func(Droplet)) {
	before, done := d.last, make(chan struct{})
	d.last = done
	a.hooks.Go(func() {
		defer close(done)
		if before != nil {
			<-before
		}
		a.mu.Lock()
		shown := d.copy()
		a.mu.Unlock()
		f(shown)
	})
}
