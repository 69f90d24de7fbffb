package dofake_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/godo"
	"golang.org/x/crypto/ssh"

	"nx/pkg/provision/digitalocean/dofake"
)

// client returns godo as a client of api within the process.
func client(t *testing.T, api *dofake.API) *godo.Client {
	t.Helper()
	return clientAt(t, "https://api.example.org/", "secret", &http.Client{Transport: api.Transport()})
}

func clientAt(t *testing.T, url, token string, h *http.Client) *godo.Client {
	t.Helper()
	c, err := godo.New(h, godo.SetBaseURL(url), godo.SetRequestHeaders(map[string]string{"Authorization": "Bearer " + token}))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func publicKey(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) + " test"
}

// create is a request that a new account grants.
func create(name string, tags ...string) *godo.DropletCreateRequest {
	return &godo.DropletCreateRequest{
		Name: name, Region: "ams3", Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-13-x64"},
		SSHKeys: []godo.DropletCreateSSHKey{}, Tags: tags,
	}
}

func must[T any](t *testing.T) func(v T, _ *godo.Response, err error) T {
	return func(v T, _ *godo.Response, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// refused fails the test unless err is the API's refusal with that status and text.
func refused(t *testing.T, err error, status int, text string) {
	t.Helper()
	var refusal *godo.ErrorResponse
	if !errors.As(err, &refusal) || refusal.Response.StatusCode != status || !strings.Contains(refusal.Message, text) {
		t.Errorf("got error %v, want %d %q", err, status, text)
	}
}

func TestAccountAndKeys(t *testing.T) {
	api := dofake.New(t, dofake.Options{Token: "secret", DropletLimit: 7})
	c, ctx := client(t, api), t.Context()
	if got := must[*godo.Account](t)(c.Account.Get(ctx)); got.DropletLimit != 7 || got.Status != "active" {
		t.Errorf("account: got %+v", got)
	}

	text := publicKey(t)
	k := must[*godo.Key](t)(c.Keys.Create(ctx, &godo.KeyCreateRequest{Name: "deploy", PublicKey: text}))
	_, _, err := c.Keys.Create(ctx, &godo.KeyCreateRequest{Name: "other", PublicKey: text})
	refused(t, err, 422, "SSH Key is already in use on your account")
	_, _, err = c.Keys.Create(ctx, &godo.KeyCreateRequest{Name: "bad", PublicKey: "ssh-ed25519 x"})
	refused(t, err, 422, "Key invalid")
	if got := must[*godo.Key](t)(c.Keys.GetByFingerprint(ctx, k.Fingerprint)); got.ID != k.ID || got.PublicKey != text {
		t.Errorf("by fingerprint: got %+v, want %+v", got, k)
	}
	must[*godo.Key](t)(c.Keys.UpdateByID(ctx, k.ID, &godo.KeyUpdateRequest{Name: "renamed"}))
	if got := must[*godo.Key](t)(c.Keys.GetByID(ctx, k.ID)); got.Name != "renamed" {
		t.Errorf("renamed: got %+v", got)
	}
	if got := must[[]godo.Key](t)(c.Keys.List(ctx, nil)); len(got) != 1 || got[0].ID != k.ID {
		t.Errorf("list: got %+v", got)
	}
	if _, err := c.Keys.DeleteByID(ctx, k.ID); err != nil {
		t.Error(err)
	}
	_, _, err = c.Keys.GetByID(ctx, k.ID)
	refused(t, err, 404, "could not be found")
}

func TestDroplets(t *testing.T) {
	api := dofake.New(t, dofake.Options{
		Droplet: dofake.Pace{Looks: 2}, Action: dofake.Pace{Looks: 1}, DropletLimit: 2,
	})
	c, ctx := client(t, api), t.Context()
	k := must[*godo.Key](t)(c.Keys.Create(ctx, &godo.KeyCreateRequest{Name: "deploy", PublicKey: publicKey(t)}))

	in := create("web1", "nx", "web")
	in.SSHKeys = []godo.DropletCreateSSHKey{{ID: k.ID}}
	in.IPv6, in.Monitoring, in.UserData, in.VPCUUID = true, true, "#cloud-config\n{}\n", "9423cbad-9211-442f-820b-ef6915e99b5f"
	d, resp, err := c.Droplets.Create(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if d.Status != "new" || !d.Locked || len(d.Networks.V4) != 0 {
		t.Errorf("created: got status %s, locked %v, addresses %v", d.Status, d.Locked, d.Networks.V4)
	}
	id := d.ID
	if len(resp.Links.Actions) != 1 {
		t.Fatalf("created: got links %+v", resp.Links)
	}
	for i, want := range []string{"in-progress", "in-progress", "completed"} {
		if got := must[*godo.Action](t)(c.Actions.Get(ctx, resp.Links.Actions[0].ID)); got.Status != want || got.Type != "create" {
			t.Errorf("look %d: got %s %s, want %s", i, got.Type, got.Status, want)
		}
	}
	d = must[*godo.Droplet](t)(c.Droplets.Get(ctx, id))
	v4, _ := d.PublicIPv4()
	private, _ := d.PrivateIPv4()
	v6, _ := d.PublicIPv6()
	if d.Status != "active" || !strings.HasPrefix(v4, "198.18.") || !strings.HasPrefix(private, "10.120.") || !strings.HasPrefix(v6, "2001:db8:") {
		t.Errorf("active: got %s %q %q %q", d.Status, v4, private, v6)
	}
	if d.Region.Slug != "ams3" || d.Image.Slug != "debian-13-x64" || d.SizeSlug != "s-1vcpu-1gb" || d.VPCUUID != in.VPCUUID ||
		!slices.Equal(d.Tags, []string{"nx", "web"}) || !slices.Contains(d.Features, "monitoring") {
		t.Errorf("active: got %+v", d)
	}
	if got := api.Droplets()[0]; got.UserData != in.UserData || !slices.Equal(got.SSHKeys, []string{k.PublicKey}) {
		t.Errorf("what only the account knows: got %+v", got)
	}

	act := func(got *godo.Action, _ *godo.Response, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for got.Status == "in-progress" {
			got = must[*godo.Action](t)(c.DropletActions.Get(ctx, id, got.ID))
		}
		if got.Status != "completed" {
			t.Errorf("got %+v", got)
		}
	}
	_, _, err = c.DropletActions.Resize(ctx, id, "s-1vcpu-2gb", false)
	refused(t, err, 422, "must be powered off")
	act(c.DropletActions.PowerOff(ctx, id))
	act(c.DropletActions.Resize(ctx, id, "s-1vcpu-2gb", true))
	_, _, err = c.DropletActions.Resize(ctx, id, "s-1vcpu-1gb", false)
	refused(t, err, 422, "can not decrease")
	act(c.DropletActions.PowerOn(ctx, id))
	_, _, err = c.DropletActions.PowerOn(ctx, id)
	refused(t, err, 422, "already powered on")
	act(c.DropletActions.Reboot(ctx, id))
	act(c.DropletActions.PowerCycle(ctx, id))
	act(c.DropletActions.Shutdown(ctx, id))
	act(c.DropletActions.Rename(ctx, id, "web2"))
	d = must[*godo.Droplet](t)(c.Droplets.Get(ctx, id))
	if again, _ := d.PublicIPv4(); d.Name != "web2" || d.Status != "off" || d.SizeSlug != "s-1vcpu-2gb" || d.Disk != 50 || again != v4 {
		t.Errorf("after the actions: got %+v", d)
	}
	var kinds []string
	for _, a := range must[[]godo.Action](t)(c.Droplets.Actions(ctx, id, nil)) {
		kinds = append(kinds, a.Type)
	}
	if want := []string{"rename", "shutdown", "power_cycle", "reboot", "power_on", "resize", "power_off", "create"}; !slices.Equal(kinds, want) {
		t.Errorf("actions: got %v, want %v", kinds, want)
	}

	other := must[*godo.Droplet](t)(c.Droplets.Create(ctx, create("db1", "nx")))
	_, _, err = c.DropletActions.EnableIPv6(ctx, other.ID)
	refused(t, err, 422, "pending event")
	if got := must[[]godo.Droplet](t)(c.Droplets.ListByName(ctx, "DB1", nil)); len(got) != 1 || got[0].ID != other.ID {
		t.Errorf("by name: got %+v", got)
	}
	_, _, err = c.Droplets.Create(ctx, create("db2"))
	refused(t, err, 422, "will exceed your droplet limit")
	must[*godo.Droplet](t)(c.Droplets.Get(ctx, other.ID)) // the second look
	act2 := must[*godo.Droplet](t)(c.Droplets.Get(ctx, other.ID))
	if act2.Status != "active" || len(act2.Networks.V6) != 0 {
		t.Errorf("db1: got %s %v", act2.Status, act2.Networks)
	}
	id = other.ID
	act(c.DropletActions.EnableIPv6(ctx, id))
	if d := must[*godo.Droplet](t)(c.Droplets.Get(ctx, id)); len(d.Networks.V6) != 1 {
		t.Errorf("enable_ipv6: got %+v", d.Networks)
	}

	if _, err := c.Droplets.Delete(ctx, id); err != nil {
		t.Error(err)
	}
	_, err = c.Droplets.Delete(ctx, id)
	refused(t, err, 404, "could not be found")
	if _, err := c.Droplets.DeleteByTag(ctx, "web"); err != nil {
		t.Error(err)
	}
	if got := must[[]godo.Droplet](t)(c.Droplets.List(ctx, nil)); len(got) != 0 {
		t.Errorf("all deleted: got %+v", got)
	}
}

func TestCreateRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(*godo.DropletCreateRequest)
		want   string
	}{
		{"size", func(r *godo.DropletCreateRequest) { r.Size = "huge" }, "You specified an invalid size for Droplet creation."},
		{"image", func(r *godo.DropletCreateRequest) { r.Image.Slug = "ubuntu-16-04-x64" }, "You specified an invalid image for Droplet creation."},
		{"region", func(r *godo.DropletCreateRequest) { r.Region = "moon1" }, "You specified an invalid region for Droplet creation."},
		{"region closed", func(r *godo.DropletCreateRequest) { r.Region = "sfo1" }, "Region is not available"},
		{"size elsewhere", func(r *godo.DropletCreateRequest) { r.Size = "s-4vcpu-8gb" }, "Size is not available in this region."},
		{"image elsewhere", func(r *godo.DropletCreateRequest) { r.Region, r.Image.Slug, r.Image.ID = "fra1", "", 82067001 }, "not available in the selected region"},
		{"disk too small", func(r *godo.DropletCreateRequest) {
			r.Size, r.Image.Slug, r.Image.ID = "s-1vcpu-512mb-10gb", "", 82067001
		}, "requires a larger disk"},
		{"key", func(r *godo.DropletCreateRequest) { r.SSHKeys = []godo.DropletCreateSSHKey{{ID: 99}} }, "99 are invalid key identifiers"},
		{"vpc of another region", func(r *godo.DropletCreateRequest) { r.VPCUUID = "d455e75d-4858-4eec-8c95-da2f0a5f93a7" }, "VPC UUID is invalid"},
		{"tag", func(r *godo.DropletCreateRequest) { r.Tags = []string{"a.b"} }, "Tag name is invalid"},
		{"user data", func(r *godo.DropletCreateRequest) { r.UserData = strings.Repeat("x", 64<<10+1) }, "too large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			api := dofake.New(t, dofake.Options{})
			in := create("web1")
			tt.change(in)
			_, _, err := client(t, api).Droplets.Create(t.Context(), in)
			refused(t, err, 422, tt.want)
			if got := api.Droplets(); len(got) != 0 {
				t.Errorf("droplets: got %+v, want none", got)
			}
		})
	}
}

func TestPages(t *testing.T) {
	api := dofake.New(t, dofake.Options{})
	c, ctx := client(t, api), t.Context()
	names := make([]string, 9)
	for batch := range 5 {
		for i := range names {
			names[i] = fmt.Sprintf("m%d", batch*len(names)+i)
		}
		must[[]godo.Droplet](t)(c.Droplets.CreateMultiple(ctx, &godo.DropletMultiCreateRequest{
			Names: names, Region: "ams3", Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-13-x64"},
			SSHKeys: []godo.DropletCreateSSHKey{}, Tags: []string{"all"},
		}))
	}
	api.ForgetRequests()
	var got []string
	for opt := (&godo.ListOptions{PerPage: 20}); ; opt.Page++ {
		page, resp, err := c.Droplets.ListByTag(ctx, "all", opt)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Meta.Total != 45 {
			t.Errorf("total: got %d, want 45", resp.Meta.Total)
		}
		for _, d := range page {
			got = append(got, d.Name)
		}
		if resp.Links.IsLastPage() {
			break
		}
		if opt.Page, err = resp.Links.CurrentPage(); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 45 || got[0] != "m0" || got[44] != "m44" {
		t.Errorf("got %v", got)
	}
	if n := api.Counts()["GET /v2/droplets"]; n != 3 {
		t.Errorf("requests: got %d, want 3", n)
	}
}

func TestTags(t *testing.T) {
	api := dofake.New(t, dofake.Options{TagLag: 2})
	c, ctx := client(t, api), t.Context()
	d := must[*godo.Droplet](t)(c.Droplets.Create(ctx, create("web1", "nx")))
	for i, want := range []int{0, 0, 1} {
		if got := must[[]godo.Droplet](t)(c.Droplets.ListByTag(ctx, "nx", nil)); len(got) != want {
			t.Errorf("list %d by tag: got %d droplets, want %d", i, len(got), want)
		}
	}

	resources := []godo.Resource{{ID: fmt.Sprint(d.ID), Type: godo.DropletResourceType}}
	_, err := c.Tags.TagResources(ctx, "late", &godo.TagResourcesRequest{Resources: resources})
	refused(t, err, 404, "could not be found")
	must[*godo.Tag](t)(c.Tags.Create(ctx, &godo.TagCreateRequest{Name: "late"}))
	if _, err := c.Tags.TagResources(ctx, "late", &godo.TagResourcesRequest{Resources: resources}); err != nil {
		t.Fatal(err)
	}
	if got := must[*godo.Tag](t)(c.Tags.Get(ctx, "late")); got.Resources.Droplets.Count != 1 {
		t.Errorf("tag: got %+v", got.Resources)
	}
	if got := must[[]godo.Tag](t)(c.Tags.List(ctx, nil)); len(got) != 2 {
		t.Errorf("tags: got %+v", got)
	}
	if _, err := c.Tags.UntagResources(ctx, "nx", &godo.UntagResourcesRequest{Resources: resources}); err != nil {
		t.Fatal(err)
	}
	if got := must[*godo.Droplet](t)(c.Droplets.Get(ctx, d.ID)); !slices.Equal(got.Tags, []string{"late"}) {
		t.Errorf("tags of the droplet: got %v", got.Tags)
	}
	if _, err := c.Tags.Delete(ctx, "late"); err != nil {
		t.Fatal(err)
	}
	if got := api.Droplets()[0].Tags; len(got) != 0 {
		t.Errorf("tags after the tag's end: got %v", got)
	}
}

func TestVolumes(t *testing.T) {
	api := dofake.New(t, dofake.Options{Action: dofake.Pace{Looks: 1}})
	c, ctx := client(t, api), t.Context()
	d := must[*godo.Droplet](t)(c.Droplets.Create(ctx, create("db1")))
	in := &godo.VolumeCreateRequest{Region: "ams3", Name: "data", SizeGigaBytes: 10}
	v := must[*godo.Volume](t)(c.Storage.CreateVolume(ctx, in))
	_, _, err := c.Storage.CreateVolume(ctx, in)
	refused(t, err, 409, "already exists")
	must[*godo.Volume](t)(c.Storage.CreateVolume(ctx, &godo.VolumeCreateRequest{Region: "fra1", Name: "data", SizeGigaBytes: 10}))
	found := must[[]godo.Volume](t)(c.Storage.ListVolumes(ctx, &godo.ListVolumeParams{Name: "data", Region: "ams3"}))
	if len(found) != 1 || found[0].ID != v.ID {
		t.Errorf("by name: got %+v", found)
	}

	act := must[*godo.Action](t)(c.StorageActions.Attach(ctx, v.ID, d.ID))
	for act.Status == "in-progress" {
		act = must[*godo.Action](t)(c.StorageActions.Get(ctx, v.ID, act.ID))
	}
	_, _, err = c.StorageActions.Attach(ctx, v.ID, d.ID)
	refused(t, err, 422, "already attached")
	if got := must[*godo.Droplet](t)(c.Droplets.Get(ctx, d.ID)); !slices.Equal(got.VolumeIDs, []string{v.ID}) {
		t.Errorf("volumes of the droplet: got %v", got.VolumeIDs)
	}
	_, err = c.Storage.DeleteVolume(ctx, v.ID)
	refused(t, err, 409, "attached")
	act = must[*godo.Action](t)(c.StorageActions.DetachByDropletID(ctx, v.ID, d.ID))
	for act.Status == "in-progress" {
		act = must[*godo.Action](t)(c.Actions.Get(ctx, act.ID))
	}
	if got := must[*godo.Volume](t)(c.Storage.GetVolume(ctx, v.ID)); len(got.DropletIDs) != 0 {
		t.Errorf("detached: got %+v", got)
	}
	_, _, err = c.StorageActions.DetachByDropletID(ctx, v.ID, d.ID)
	refused(t, err, 422, "Attachment not found")
	if _, err := c.Storage.DeleteVolume(ctx, v.ID); err != nil {
		t.Error(err)
	}
}

func TestCatalog(t *testing.T) {
	c, ctx := client(t, dofake.New(t, dofake.Options{})), t.Context()
	if got := must[[]godo.Region](t)(c.Regions.List(ctx, nil)); len(got) != 4 || !slices.Contains(got[0].Sizes, "s-1vcpu-1gb") {
		t.Errorf("regions: got %+v", got)
	}
	if got := must[[]godo.Size](t)(c.Sizes.List(ctx, nil)); len(got) != 6 {
		t.Errorf("sizes: got %+v", got)
	}
	if got := must[[]godo.Image](t)(c.Images.ListDistribution(ctx, nil)); len(got) != 3 {
		t.Errorf("distributions: got %+v", got)
	}
	if got := must[[]godo.Image](t)(c.Images.ListUser(ctx, nil)); len(got) != 1 || got[0].Slug != "" {
		t.Errorf("own images: got %+v", got)
	}
	image := must[*godo.Image](t)(c.Images.GetBySlug(ctx, "debian-13-x64"))
	if got := must[*godo.Image](t)(c.Images.GetByID(ctx, image.ID)); got.Name != "13 x64" {
		t.Errorf("image: got %+v", got)
	}
	vpcs := must[[]*godo.VPC](t)(c.VPCs.List(ctx, nil))
	if got := must[*godo.VPC](t)(c.VPCs.Get(ctx, vpcs[0].ID)); got.RegionSlug != "ams3" || !got.Default {
		t.Errorf("vpc: got %+v", got)
	}
}

func TestPaceAndLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := dofake.New(t, dofake.Options{
			Latency: 300 * time.Millisecond, Droplet: dofake.Pace{Time: 20 * time.Second}, MinuteLimit: 5, HourLimit: 8,
		})
		c, ctx, began := client(t, api), t.Context(), time.Now()
		d := must[*godo.Droplet](t)(c.Droplets.Create(ctx, create("web1")))
		if took := time.Since(began); took != 300*time.Millisecond {
			t.Errorf("a request took %v", took)
		}
		<-time.After(19 * time.Second)
		if d := must[*godo.Droplet](t)(c.Droplets.Get(ctx, d.ID)); d.Status != "new" {
			t.Errorf("too early: got %s", d.Status)
		}
		<-time.After(time.Second)
		d, resp, err := c.Droplets.Get(ctx, d.ID)
		if err != nil || d.Status != "active" {
			t.Fatalf("in time: got %v, %v", d, err)
		}
		if resp.Rate.Limit != 8 || resp.Rate.Remaining != 5 || !resp.Rate.Reset.Equal(godo.Timestamp{Time: began.Add(time.Hour).Truncate(time.Second)}) {
			t.Errorf("rate: got %+v", resp.Rate)
		}

		for range 2 {
			must[*godo.Account](t)(c.Account.Get(ctx))
		}
		_, resp, err = c.Account.Get(ctx)
		refused(t, err, 429, "API rate limit exceeded.")
		if got := resp.Header.Get("Retry-After"); got != "39" {
			t.Errorf("Retry-After: got %s", got)
		}
		<-time.After(39 * time.Second)
		must[*godo.Account](t)(c.Account.Get(ctx))
		<-time.After(time.Minute)
		for range 2 {
			must[*godo.Account](t)(c.Account.Get(ctx))
		}
		<-time.After(10 * time.Minute)
		_, _, err = c.Account.Get(ctx)
		refused(t, err, 429, "API rate limit exceeded.")

		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		if _, _, err := c.Account.Get(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a slow request: got %v", err)
		}
	})
}

func TestFaults(t *testing.T) {
	api := dofake.New(t, dofake.Options{Token: "secret"})
	c, ctx := client(t, api), t.Context()
	const op = "POST /v2/droplets"
	for _, tt := range []struct {
		fault  dofake.Fault
		status int
		text   string
	}{
		{dofake.Unauthorized, 401, "Unable to authenticate you"},
		{dofake.Forbidden, 403, "not authorized"},
		{dofake.NotFound, 404, "could not be found"},
		{dofake.Quota, 422, "creating this/these droplet(s) will exceed your droplet limit"},
		{dofake.RateLimited(7), 429, "rate limit"},
		{dofake.ServerError, 500, "Server was unable"},
		{dofake.Unavailable, 503, "Unavailable"},
	} {
		api.On(dofake.Always(op, tt.fault))
		_, resp, err := c.Droplets.Create(ctx, create("web1"))
		refused(t, err, tt.status, tt.text)
		if got := resp.Header.Get("Retry-After"); (got == "7") != (tt.status == 429) {
			t.Errorf("%d: got Retry-After %q", tt.status, got)
		}
	}
	if got := api.Droplets(); len(got) != 0 {
		t.Fatalf("after refusals: got %+v", got)
	}

	api.ForgetRequests()
	api.On(dofake.Nth(op, 1, dofake.CutBefore))
	if _, _, err := c.Droplets.Create(ctx, create("web1")); err == nil || len(api.Droplets()) != 0 {
		t.Errorf("cut before: got error %v, droplets %v", err, api.Droplets())
	}
	seen := 0
	fault := dofake.CutAfter
	fault.After = func() { seen = len(api.Droplets()) }
	api.On(dofake.Nth(op, 2, fault))
	if _, _, err := c.Droplets.Create(ctx, create("web1")); err == nil || seen != 1 {
		t.Errorf("cut after: got error %v, droplets %v", err, api.Droplets())
	}
	must[*godo.Droplet](t)(c.Droplets.Create(ctx, create("web2")))
	log := api.Requests()
	if len(log) != 3 || log[2].Op != op || log[2].Nth != 3 || !strings.Contains(log[2].Body, `"name":"web2"`) || log[2].URL != "/v2/droplets" {
		t.Errorf("log: got %+v", log)
	}

	api.On(nil)
	_, _, err := clientAt(t, "https://api.example.org/", "other", &http.Client{Transport: api.Transport()}).Account.Get(ctx)
	refused(t, err, 401, "Unable to authenticate you")
}

// TestServer holds that the fake is the same over a network.
func TestServer(t *testing.T) {
	api := dofake.New(t, dofake.Options{})
	server := httptest.NewServer(api)
	defer server.Close()
	c := clientAt(t, server.URL, "secret", server.Client())
	api.On(dofake.Nth("POST /v2/droplets", 1, dofake.CutAfter))
	if _, _, err := c.Droplets.Create(t.Context(), create("web1")); err == nil {
		t.Error("cut after: got no error")
	}
	if got := must[[]godo.Droplet](t)(c.Droplets.List(t.Context(), nil)); len(got) != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestBoot(t *testing.T) {
	var mu sync.Mutex
	var calls []string
	call := func(what string, d dofake.Droplet) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, what+" "+d.Name+" "+d.UserData)
	}
	release := make(chan struct{})
	api := dofake.New(t, dofake.Options{
		Boot: func(d dofake.Droplet) (string, error) {
			<-release
			call("boot", d)
			if d.Name == "bad" {
				return "", errors.New("no machine")
			}
			return "10.1.2.3", nil
		},
		Halt: func(d dofake.Droplet) { call("halt", d) },
	})
	c, ctx := client(t, api), t.Context()
	in := create("web1")
	in.UserData = "data"
	d := must[*godo.Droplet](t)(c.Droplets.Create(ctx, in))
	if got := must[*godo.Droplet](t)(c.Droplets.Get(ctx, d.ID)); got.Status != "new" {
		t.Errorf("before its machine is there: got %s", got.Status)
	}
	close(release)
	api.Wait()
	if got, _ := must[*godo.Droplet](t)(c.Droplets.Get(ctx, d.ID)).PublicIPv4(); got != "10.1.2.3" {
		t.Errorf("address: got %q", got)
	}
	must[*godo.Action](t)(c.DropletActions.PowerCycle(ctx, d.ID))
	api.Wait()
	if _, err := c.Droplets.Delete(ctx, d.ID); err != nil {
		t.Error(err)
	}
	api.Wait()
	want := []string{"boot web1 data", "halt web1 data", "boot web1 data", "halt web1 data"}
	if !slices.Equal(calls, want) {
		t.Errorf("hooks: got %q, want %q", calls, want)
	}

	bad, resp, err := c.Droplets.Create(ctx, create("bad"))
	if err != nil {
		t.Fatal(err)
	}
	api.Wait()
	if got := must[*godo.Action](t)(c.Actions.Get(ctx, resp.Links.Actions[0].ID)); got.Status != "errored" {
		t.Errorf("action: got %s, want errored", got.Status)
	}
	if got := must[*godo.Droplet](t)(c.Droplets.Get(ctx, bad.ID)); got.Status != "new" {
		t.Errorf("without a machine: got %s", got.Status)
	}
}
