package digitalocean

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/digitalocean/godo"
	"nx/pkg/provision"
)

// pageSize is the most that the API gives at once.
const pageSize = 200

// A client asks one account.
type client struct {
	api   *godo.Client
	token string
	tag   string // of the deployment's droplets; "" when it has none yet
	log   *slog.Logger
	watch watch

	one       chan struct{}     // has one place: for who reads what is below, or asks for it
	vpcs      map[string]string // ids by name; nil before they are asked for
	volumeIDs map[string]string // by region and name
}

// A tokenError says that the account is not known that something is in.
type tokenError struct{ ref provision.Ref }

func (e *tokenError) Error() string {
	return fmt.Sprintf("ask DigitalOcean about %s: there is no token", e.ref)
}

// Hint says where it is looked for. It is never remembered.
func (e *tokenError) Hint() string {
	return "set " + TokenVariable + ", or deployment.digitalOcean.authToken in a network that is named by -f"
}

// client returns who asks the account that t is in. The network may have its token.
func (p *Provider) client(t provision.Thing, token string) (*client, error) {
	token = strings.TrimSpace(cmp.Or(p.Token, token))
	switch {
	case token == "":
		return nil, &tokenError{t.Ref}
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, fmt.Errorf("ask DigitalOcean about %s: the token has characters that none can have", t.Ref)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.clients[token]; c != nil {
		return c, nil
	}
	base, log := p.Transport, p.Log
	if base == nil {
		base = http.DefaultTransport
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	tag := ""
	if p.Deployment != "" {
		tag = "nx:" + p.Deployment
	}
	c, err := newClient(p.API, token, tag, base, log)
	if err != nil {
		return nil, err
	}
	if p.clients == nil {
		p.clients = map[string]*client{}
	}
	p.clients[token] = c
	return c, nil
}

func newClient(api, token, tag string, base http.RoundTripper, log *slog.Logger) (*client, error) {
	c := &client{one: make(chan struct{}, 1), token: token, tag: tag, log: log, volumeIDs: map[string]string{}}
	c.watch.look = c.look
	var err error
	c.api, err = godo.New(&http.Client{Transport: &transport{base: base, token: token, log: log}}, godo.SetUserAgent("nx"))
	if err == nil && api != "" {
		err = godo.SetBaseURL(strings.TrimSuffix(api, "/") + "/")(c.api)
	}
	if err != nil {
		return nil, fmt.Errorf("ask DigitalOcean at %s: %w", api, err)
	}
	return c, nil
}

// A refusal is what the API answered instead of doing what it was asked.
type refusal struct {
	what    string // verb and object
	status  int
	message string
}

func (e *refusal) Error() string { return fmt.Sprintf("%s: DigitalOcean says: %s", e.what, e.message) }

// Hint says what may be done about it.
func (e *refusal) Hint() string {
	switch {
	case e.status == http.StatusUnauthorized:
		return "DIGITAL_OCEAN_AUTH_TOKEN, or deployment.digitalOcean.authToken, must be a token of the account that has not expired"
	case e.status == http.StatusForbidden:
		return "the token needs the scopes to read, create, update and delete droplets, and to read and create ssh keys and tags"
	case strings.Contains(e.message, "droplet limit"):
		return "destroy droplets that are not needed, or ask DigitalOcean for a higher limit"
	}
	return ""
}

// explain is an error of the API in one line that begins with verb and object. No
// token is in it, even if the API were to repeat it.
func (c *client) explain(err error, what string, args ...any) error {
	what = fmt.Sprintf(what, args...)
	var answer *godo.ErrorResponse
	if errors.As(err, &answer) {
		message := strings.ReplaceAll(answer.Message, c.token, "…")
		message = strings.Join(strings.Fields(message), " ")
		if len(message) > 300 { // a page of HTML, of something in between
			message = strings.ToValidUTF8(message[:300], "") + "…"
		}
		status := answer.Response.StatusCode
		return &refusal{what, status, cmp.Or(message, http.StatusText(status), strconv.Itoa(status))}
	}
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err // method and address are known
	}
	return fmt.Errorf("%s: ask DigitalOcean: %w", what, err)
}

// status is how the API answered, 0 when it did not.
func status(err error) int {
	var answer *godo.ErrorResponse
	if errors.As(err, &answer) {
		return answer.Response.StatusCode
	}
	return 0
}

// unknown tells whether what was asked for may have been done in spite of the error.
func unknown(err error) bool {
	s := status(err)
	return err != nil && !unsent(err) && (s == 0 || s >= http.StatusInternalServerError)
}

// all returns the items on all pages of a list.
func all[T any](list func(*godo.ListOptions) ([]T, *godo.Response, error)) ([]T, error) {
	var items []T
	for opt := (&godo.ListOptions{Page: 1, PerPage: pageSize}); ; opt.Page++ {
		page, resp, err := list(opt)
		if err != nil {
			return nil, err
		}
		items = append(items, page...)
		if resp.Links == nil || resp.Links.IsLastPage() {
			return items, nil
		}
	}
}

// get returns a droplet, nil when there is none of that id.
func (c *client) get(ctx context.Context, id int) (*godo.Droplet, error) {
	d, _, err := c.api.Droplets.Get(ctx, id)
	switch {
	case status(err) == http.StatusNotFound:
		return nil, nil
	case err != nil:
		return nil, c.explain(err, "read droplet %d", id)
	}
	return d, nil
}

// tagged returns all droplets with a tag.
func (c *client) tagged(ctx context.Context, tag string) ([]godo.Droplet, error) {
	found, err := all(func(o *godo.ListOptions) ([]godo.Droplet, *godo.Response, error) {
		return c.api.Droplets.ListByTag(ctx, tag, o)
	})
	if err != nil {
		return nil, c.explain(err, "list droplets with tag %s", tag)
	}
	return found, nil
}

// find looks for the droplet that has token as one of its tags, patiently: what was
// asked for just now may not be seen yet, least of all by its tag. It returns nil when
// there is none.
func (c *client) find(ctx context.Context, name, token string) (*godo.Droplet, error) {
	for try := 1; ; try++ {
		named, err := all(func(o *godo.ListOptions) ([]godo.Droplet, *godo.Response, error) {
			return c.api.Droplets.ListByName(ctx, name, o)
		})
		if err != nil {
			return nil, c.explain(err, "list droplets with name %s", name)
		}
		found := slices.DeleteFunc(named, func(d godo.Droplet) bool { return !has(d.Tags, token) })
		if len(found) == 0 {
			if found, err = c.tagged(ctx, token); err != nil {
				return nil, err
			}
		}
		switch {
		case len(found) == 1:
			return &found[0], nil
		case len(found) > 1:
			return nil, fmt.Errorf("find droplet with tag %s: there are %d, and one of them has this id: %d", token, len(found), found[0].ID)
		case try == provision.TryAgain:
			return nil, nil
		}
		if err := pause(ctx, provision.TryAgainAfter); err != nil {
			return nil, err
		}
	}
}

// has tells whether a droplet has a tag. Tags that differ in nothing but case are one,
// and the account has it as it was written first.
func has(tags []string, tag string) bool {
	return slices.ContainsFunc(tags, func(t string) bool { return strings.EqualFold(t, tag) })
}

// alone waits until nobody else asks for what all want to know.
func (c *client) alone(ctx context.Context) error {
	select {
	case c.one <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// vpc returns the id of a VPC that is given by id or name, and "" for "".
func (c *client) vpc(ctx context.Context, vpc string) (string, error) {
	if vpc == "" || uuid.MatchString(vpc) {
		return vpc, nil
	}
	if err := c.alone(ctx); err != nil {
		return "", err
	}
	defer func() { <-c.one }()
	if c.vpcs == nil {
		list, err := all(func(o *godo.ListOptions) ([]*godo.VPC, *godo.Response, error) { return c.api.VPCs.List(ctx, o) })
		if err != nil {
			return "", c.explain(err, "find VPC %s", vpc)
		}
		c.vpcs = map[string]string{}
		for _, v := range list {
			c.vpcs[v.Name] = v.ID
		}
	}
	if id, ok := c.vpcs[vpc]; ok {
		return id, nil
	}
	return "", fmt.Errorf("find VPC %s: the account has %q", vpc, slices.Sorted(maps.Keys(c.vpcs)))
}

// volumes returns the ids of volumes in a region that are given by id or name.
func (c *client) volumes(ctx context.Context, region string, names []string) (map[string]string, error) {
	if err := c.alone(ctx); err != nil {
		return nil, err
	}
	defer func() { <-c.one }()
	ids := map[string]string{}
	for _, name := range names {
		if uuid.MatchString(name) {
			ids[name] = name
			continue
		}
		place := region + "/" + name
		if id, ok := c.volumeIDs[place]; ok {
			ids[name] = id
			continue
		}
		found, _, err := c.api.Storage.ListVolumes(ctx, &godo.ListVolumeParams{Name: name, Region: region})
		if err != nil {
			return nil, c.explain(err, "find volume %s", name)
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("find volume %s: the account has %d of that name in region %s", name, len(found), region)
		}
		c.volumeIDs[place] = found[0].ID
		ids[name] = found[0].ID
	}
	return ids, nil
}
