package dofake

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

var volumeRoutes = map[string]handler{
	"GET /v2/volumes":                                 listVolumes,
	"POST /v2/volumes":                                createVolume,
	"GET /v2/volumes/{volume_id}":                     withVolume(getVolume),
	"DELETE /v2/volumes/{volume_id}":                  withVolume(deleteVolume),
	"POST /v2/volumes/{volume_id}/actions":            withVolume(actOnVolume),
	"GET /v2/volumes/{volume_id}/actions/{action_id}": withVolume(getVolumeAction),
}

// A volume is a block device beside the droplets.
type volume struct {
	id, name, region, description string
	size                          int // GiB
	created                       time.Time
	tags                          []string
	filesystem, label             string
	droplet                       *droplet // that it is attached to
}

func (v *volume) attach(d *droplet) {
	v.droplet = d
	d.Volumes = append(d.Volumes, v.id)
}

// detach takes the volume from a droplet, when it is attached to that one.
func (v *volume) detach(d *droplet) {
	if v.droplet == d {
		v.droplet = nil
		d.Volumes = without(d.Volumes, v.id)
	}
}

func (v *volume) show() object {
	droplets := []int{}
	if v.droplet != nil {
		droplets = append(droplets, v.droplet.ID)
	}
	region, _ := findRegion(v.region)
	return object{
		"id": v.id, "name": v.name, "description": v.description, "size_gigabytes": v.size,
		"created_at": v.created.UTC().Format(time.RFC3339), "tags": orNone(v.tags), "droplet_ids": droplets,
		"region": showRegion(region), "filesystem_type": v.filesystem, "filesystem_label": v.label,
	}
}

// volume finds a volume by its id.
func (a *API) volume(id string) *volume {
	i := slices.IndexFunc(a.volumes, func(v *volume) bool { return v.id == id })
	if i < 0 {
		return nil
	}
	return a.volumes[i]
}

func withVolume(f func(*API, *query, *volume) reply) handler {
	return func(a *API, q *query) reply {
		if v := a.volume(q.path("volume_id")); v != nil {
			return f(a, q, v)
		}
		return notFound()
	}
}

func listVolumes(a *API, q *query) reply {
	var chosen []*volume
	for _, v := range a.volumes {
		if (!q.query.Has("name") || v.name == q.query.Get("name")) && (!q.query.Has("region") || v.region == q.query.Get("region")) {
			chosen = append(chosen, v)
		}
	}
	return paginate(q, "volumes", chosen, (*volume).show)
}

func createVolume(a *API, q *query) reply {
	var in struct {
		Name        string   `json:"name"`
		Region      string   `json:"region"`
		Description string   `json:"description"`
		Size        int      `json:"size_gigabytes"`
		Tags        []string `json:"tags"`
		Filesystem  string   `json:"filesystem_type"`
		Label       string   `json:"filesystem_label"`
	}
	if r := q.decode(&in); r.status != 0 {
		return r
	}
	if _, ok := findRegion(in.Region); !ok {
		return unprocessable("region is not available")
	}
	if slices.ContainsFunc(a.volumes, func(v *volume) bool { return v.name == in.Name && v.region == in.Region }) {
		return fail(http.StatusConflict, "conflict", "a volume with this name already exists in the region")
	}
	a.addTags(in.Tags)
	v := &volume{
		id:   fmt.Sprintf("506f78a4-e098-11e5-ad9f-%012x", a.newID()),
		name: in.Name, region: in.Region, description: in.Description, size: in.Size, created: time.Now(),
		tags: in.Tags, filesystem: in.Filesystem, label: in.Label,
	}
	a.volumes = append(a.volumes, v)
	return reply{status: http.StatusCreated, body: object{"volume": v.show()}}
}

func getVolume(_ *API, _ *query, v *volume) reply {
	return reply{status: http.StatusOK, body: object{"volume": v.show()}}
}

func deleteVolume(a *API, _ *query, v *volume) reply {
	if v.droplet != nil {
		return fail(http.StatusConflict, "conflict", "volume is attached to a droplet")
	}
	a.volumes = slices.DeleteFunc(a.volumes, func(o *volume) bool { return o == v })
	return reply{status: http.StatusNoContent}
}

func actOnVolume(a *API, q *query, v *volume) reply {
	var in struct {
		Type    string `json:"type"`
		Droplet int    `json:"droplet_id"`
	}
	if r := q.decode(&in); r.status != 0 {
		return r
	}
	d := a.droplet(strconv.Itoa(in.Droplet))
	if d == nil {
		return notFound()
	}
	if a.settle(d.pending); d.pending != nil {
		return unprocessable("Droplet already has a pending event.")
	}
	var effect func()
	switch in.Type {
	case "attach":
		switch {
		case v.droplet != nil:
			return unprocessable("This volume is already attached")
		case v.region != d.Region:
			return unprocessable("volume and droplet must be in the same region")
		}
		effect = func() { v.attach(d) }
	case "detach":
		if v.droplet != d {
			return unprocessable("Attachment not found")
		}
		effect = func() { v.detach(d) }
	default:
		return unprocessable("The fake has no action %s.", in.Type)
	}
	act := a.begin(d, in.Type+"_volume", a.opt.Action, effect)
	act.of = "volume"
	return reply{status: http.StatusAccepted, body: object{"action": act.show()}}
}

func getVolumeAction(a *API, q *query, _ *volume) reply { return getAction(a, q) }
