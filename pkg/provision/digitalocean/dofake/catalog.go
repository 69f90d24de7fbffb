package dofake

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

var catalogRoutes = map[string]handler{
	"GET /v2/regions": func(_ *API, q *query) reply { return paginate(q, "regions", regions, showRegion) },
	"GET /v2/sizes":   func(_ *API, q *query) reply { return paginate(q, "sizes", sizes, size.show) },
	"GET /v2/images":  listImages,
	"GET /v2/images/{image_id}": func(_ *API, q *query) reply {
		if i, ok := findImage(q.path("image_id")); ok {
			return reply{status: http.StatusOK, body: object{"image": i.show()}}
		}
		return notFound()
	},
	"GET /v2/vpcs": func(_ *API, q *query) reply { return paginate(q, "vpcs", vpcs, vpc.show) },
	"GET /v2/vpcs/{vpc_id}": func(_ *API, q *query) reply {
		if v, ok := findVPC(q.path("vpc_id")); ok {
			return reply{status: http.StatusOK, body: object{"vpc": v.show()}}
		}
		return notFound()
	},
}

// made is when all was made that was there before the account.
const made = "2020-01-01T00:00:00Z"

// A region is a data centre.
type region struct {
	slug, name string
	available  bool
}

var regions = []region{
	{"ams3", "Amsterdam 3", true},
	{"fra1", "Frankfurt 1", true},
	{"nyc3", "New York 3", true},
	{"sfo1", "San Francisco 1", false},
}

func findRegion(slug string) (region, bool) {
	i := slices.IndexFunc(regions, func(r region) bool { return r.slug == slug })
	if i < 0 {
		return region{}, false
	}
	return regions[i], true
}

func showRegion(r region) object {
	slugs := []string{}
	for _, s := range sizes {
		if slices.Contains(s.regions, r.slug) {
			slugs = append(slugs, s.slug)
		}
	}
	return object{
		"slug": r.slug, "name": r.name, "available": r.available, "sizes": slugs,
		"features": []string{"backups", "ipv6", "metadata", "install_agent", "storage", "image_transfer"},
	}
}

// A size is what a droplet may be as.
type size struct {
	slug                string
	memory, vcpus, disk int // MiB, count, GiB
	regions             []string
}

var sizes = []size{
	{"s-1vcpu-512mb-10gb", 512, 1, 10, []string{"ams3", "fra1", "nyc3"}},
	{"s-1vcpu-1gb", 1024, 1, 25, []string{"ams3", "fra1", "nyc3"}},
	{"s-1vcpu-2gb", 2048, 1, 50, []string{"ams3", "fra1", "nyc3"}},
	{"s-2vcpu-2gb", 2048, 2, 60, []string{"ams3", "fra1", "nyc3"}},
	{"s-2vcpu-4gb", 4096, 2, 80, []string{"ams3", "fra1", "nyc3"}},
	{"s-4vcpu-8gb", 8192, 4, 160, []string{"nyc3"}},
}

func findSize(slug string) (size, bool) {
	i := slices.IndexFunc(sizes, func(s size) bool { return s.slug == slug })
	if i < 0 {
		return size{}, false
	}
	return sizes[i], true
}

func (s size) show() object {
	return object{
		"slug": s.slug, "memory": s.memory, "vcpus": s.vcpus, "disk": s.disk, "transfer": 1.0,
		"price_monthly": 6.0, "price_hourly": 0.00893, "regions": s.regions, "available": true, "description": "Basic",
		"disk_info": []object{{"type": "local", "size": object{"amount": s.disk, "unit": "gib"}}},
	}
}

// An image is what a droplet starts from. A custom one has no slug.
type image struct {
	id                       int
	slug, name, distribution string
	minDisk                  int // GiB
	regions                  []string
}

var images = []image{
	{63663980, "ubuntu-24-04-x64", "24.04 (LTS) x64", "Ubuntu", 7, []string{"ams3", "fra1", "nyc3", "sfo1"}},
	{72067660, "debian-12-x64", "12 x64", "Debian", 7, []string{"ams3", "fra1", "nyc3", "sfo1"}},
	{72067661, "debian-13-x64", "13 x64", "Debian", 7, []string{"ams3", "fra1", "nyc3", "sfo1"}},
	{82067001, "", "nixos", "Unknown", 20, []string{"ams3"}},
}

// findImage finds an image by its id or slug.
func findImage(identifier string) (image, bool) {
	i := slices.IndexFunc(images, func(i image) bool {
		return strconv.Itoa(i.id) == identifier || i.slug != "" && i.slug == identifier
	})
	if i < 0 {
		return image{}, false
	}
	return images[i], true
}

func (i image) show() object {
	o := object{
		"id": i.id, "name": i.name, "type": "base", "distribution": i.distribution, "slug": i.slug, "public": true,
		"regions": i.regions, "created_at": made, "min_disk_size": i.minDisk, "size_gigabytes": 2.36, "tags": []string{},
		"status": "available",
	}
	if i.slug == "" {
		o["slug"], o["public"], o["type"] = nil, false, "custom"
	}
	return o
}

func listImages(_ *API, q *query) reply {
	var chosen []image
	for _, i := range images {
		kind := q.query.Get("type") // every image here is a distribution, or somebody's own
		if q.query.Get("private") == "true" && i.slug != "" || kind == "application" || kind == "distribution" && i.slug == "" ||
			q.query.Has("tag_name") {
			continue
		}
		chosen = append(chosen, i)
	}
	return paginate(q, "images", chosen, image.show)
}

// A vpc is a private network within a region.
type vpc struct {
	id, name, region, ipRange string
	byDefault                 bool // droplets of the region that name none are in it
}

var vpcs = []vpc{
	{"5a4981aa-9653-4bd1-bef5-d6bff52042e4", "default-ams3", "ams3", "10.110.0.0/16", true},
	{"e0fe0f4d-596a-465e-a902-571ce57b79fa", "default-fra1", "fra1", "10.111.0.0/16", true},
	{"d455e75d-4858-4eec-8c95-da2f0a5f93a7", "default-nyc3", "nyc3", "10.112.0.0/16", true},
	{"9423cbad-9211-442f-820b-ef6915e99b5f", "backend", "ams3", "10.120.0.0/16", false},
}

func findVPC(id string) (vpc, bool) {
	i := slices.IndexFunc(vpcs, func(v vpc) bool { return v.id == id })
	if i < 0 {
		return vpc{}, false
	}
	return vpcs[i], true
}

// vpcOf returns the VPC that droplets of a region are in that name none.
func vpcOf(region string) vpc {
	i := slices.IndexFunc(vpcs, func(v vpc) bool { return v.region == region && v.byDefault })
	if i < 0 {
		panic(fmt.Sprintf("dofake: region %s has no VPC", region))
	}
	return vpcs[i]
}

func (v vpc) show() object {
	return object{
		"id": v.id, "urn": "do:vpc:" + v.id, "name": v.name, "description": "", "region": v.region,
		"ip_range": v.ipRange, "default": v.byDefault, "created_at": made,
	}
}
