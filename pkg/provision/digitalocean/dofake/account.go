package dofake

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

var accountRoutes = map[string]handler{
	"GET /v2/account":                              getAccount,
	"GET /v2/account/keys":                         listKeys,
	"POST /v2/account/keys":                        createKey,
	"GET /v2/account/keys/{ssh_key_identifier}":    withKey(getKey),
	"PUT /v2/account/keys/{ssh_key_identifier}":    withKey(renameKey),
	"DELETE /v2/account/keys/{ssh_key_identifier}": withKey(deleteKey),

	"GET /v2/tags":                       listTags,
	"POST /v2/tags":                      createTag,
	"GET /v2/tags/{tag_id}":              withTag(getTag),
	"DELETE /v2/tags/{tag_id}":           withTag(deleteTag),
	"POST /v2/tags/{tag_id}/resources":   withTag(tagResources),
	"DELETE /v2/tags/{tag_id}/resources": withTag(untagResources),
}

func getAccount(a *API, _ *query) reply {
	return reply{status: http.StatusOK, body: object{"account": object{
		"droplet_limit": a.opt.DropletLimit, "floating_ip_limit": 3, "email": "team@example.org",
		"name": "Team", "uuid": "b6fr89dbf6d9156cace5f3c78dc9851d957381ef", "email_verified": true,
		"status": "active", "status_message": "",
	}}}
}

// A key is a public key that droplets may be created with.
type key struct {
	id          int
	fingerprint string // MD5, such as "3b:16:…"
	name, text  string
}

func (k *key) show() object {
	return object{"id": k.id, "fingerprint": k.fingerprint, "name": k.name, "public_key": k.text}
}

// Keys returns the names of the account's keys in the order in which they were added. It
// counts as no request.
func (a *API) Keys() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for _, k := range a.keys {
		names = append(names, k.name)
	}
	return names
}

func listKeys(a *API, q *query) reply { return paginate(q, "ssh_keys", a.keys, (*key).show) }

func createKey(a *API, q *query) reply {
	var in struct {
		Name   string `json:"name"`
		Public string `json:"public_key"`
	}
	if r := q.decode(&in); r.status != 0 {
		return r
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(in.Public))
	if err != nil {
		return unprocessable("Key invalid, key should be of the format `type key [comment]`")
	}
	k := &key{name: in.Name, text: in.Public, fingerprint: ssh.FingerprintLegacyMD5(public)}
	if a.key(k.fingerprint) != nil {
		return unprocessable("SSH Key is already in use on your account")
	}
	k.id = a.newID()
	a.keys = append(a.keys, k)
	return reply{status: http.StatusCreated, body: object{"ssh_key": k.show()}}
}

// key finds a key by its id or fingerprint.
func (a *API) key(identifier string) *key {
	for _, k := range a.keys {
		if strconv.Itoa(k.id) == identifier || k.fingerprint == identifier {
			return k
		}
	}
	return nil
}

func withKey(f func(*API, *query, *key) reply) handler {
	return func(a *API, q *query) reply {
		if k := a.key(q.path("ssh_key_identifier")); k != nil {
			return f(a, q, k)
		}
		return notFound()
	}
}

func getKey(_ *API, _ *query, k *key) reply {
	return reply{status: http.StatusOK, body: object{"ssh_key": k.show()}}
}

func renameKey(_ *API, q *query, k *key) reply {
	var in struct {
		Name string `json:"name"`
	}
	if r := q.decode(&in); r.status != 0 {
		return r
	}
	k.name = in.Name
	return reply{status: http.StatusOK, body: object{"ssh_key": k.show()}}
}

func deleteKey(a *API, _ *query, k *key) reply {
	a.keys = slices.DeleteFunc(a.keys, func(o *key) bool { return o == k })
	return reply{status: http.StatusNoContent}
}

func (a *API) showTag(name string) object {
	droplets, volumes := object{"count": 0}, object{"count": 0}
	for _, d := range a.droplets {
		if slices.Contains(d.Tags, name) {
			droplets["count"] = droplets["count"].(int) + 1
			droplets["last_tagged_uri"] = fmt.Sprintf("https://api.digitalocean.com/v2/droplets/%d", d.ID)
		}
	}
	for _, v := range a.volumes {
		if slices.Contains(v.tags, name) {
			volumes["count"] = volumes["count"].(int) + 1
			volumes["last_tagged_uri"] = "https://api.digitalocean.com/v2/volumes/" + v.id
		}
	}
	return object{"name": name, "resources": object{
		"count":    droplets["count"].(int) + volumes["count"].(int),
		"droplets": droplets, "volumes": volumes,
	}}
}

// addTags makes the tags that the account does not have yet. Tags differ in more than
// case.
func (a *API) addTags(names []string) {
	for _, name := range names {
		if !slices.ContainsFunc(a.tags, func(t string) bool { return strings.EqualFold(t, name) }) {
			a.tags = append(a.tags, name)
		}
	}
}

func listTags(a *API, q *query) reply { return paginate(q, "tags", a.tags, a.showTag) }

func createTag(a *API, q *query) reply {
	var in struct {
		Name string `json:"name"`
	}
	if r := q.decode(&in); r.status != 0 {
		return r
	}
	a.addTags([]string{in.Name})
	return reply{status: http.StatusCreated, body: object{"tag": a.showTag(in.Name)}}
}

func withTag(f func(*API, *query, string) reply) handler {
	return func(a *API, q *query) reply {
		if name := q.path("tag_id"); slices.Contains(a.tags, name) {
			return f(a, q, name)
		}
		return notFound()
	}
}

func getTag(a *API, _ *query, name string) reply {
	return reply{status: http.StatusOK, body: object{"tag": a.showTag(name)}}
}

func deleteTag(a *API, _ *query, name string) reply {
	a.tags = slices.DeleteFunc(a.tags, func(t string) bool { return t == name })
	for _, d := range a.droplets {
		d.Tags = without(d.Tags, name)
	}
	for _, v := range a.volumes {
		v.tags = without(v.tags, name)
	}
	return reply{status: http.StatusNoContent}
}

func tagResources(a *API, q *query, name string) reply {
	return a.changeTags(q, func(tags []string) []string {
		if slices.Contains(tags, name) {
			return tags
		}
		return append(slices.Clone(tags), name)
	})
}

func untagResources(a *API, q *query, name string) reply {
	return a.changeTags(q, func(tags []string) []string { return without(tags, name) })
}

// changeTags changes the tags of the resources that the query names: all or none.
func (a *API) changeTags(q *query, change func(tags []string) []string) reply {
	var in struct {
		Resources []struct {
			ID   string `json:"resource_id"`
			Type string `json:"resource_type"`
		} `json:"resources"`
	}
	if r := q.decode(&in); r.status != 0 {
		return r
	}
	var tags []*[]string
	for _, resource := range in.Resources {
		switch d, v := a.droplet(resource.ID), a.volume(resource.ID); {
		case resource.Type == "droplet" && d != nil:
			tags = append(tags, &d.Tags)
		case resource.Type == "volume" && v != nil:
			tags = append(tags, &v.tags)
		default:
			return notFound()
		}
	}
	for _, t := range tags {
		*t = change(*t)
	}
	return reply{status: http.StatusNoContent}
}

// without returns list without one string. It does not change list.
func without(list []string, s string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(o string) bool { return o == s })
}
