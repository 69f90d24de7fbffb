package dofake

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// complaints is a [Failer] that keeps what it is told.
type complaints []string

func (c *complaints) Errorf(format string, args ...any) {
	*c = append(*c, fmt.Sprintf(format, args...))
}

// send sends one request to a within the process.
func send(t *testing.T, a *API, method, path, body string, header http.Header) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://api.example.org"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer secret")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for name, values := range header {
		r.Header[name] = values
	}
	resp, err := a.Transport().RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestStrayingClient holds that a request that the description does not allow has no
// effect, is answered with an error and fails the test.
func TestStrayingClient(t *testing.T) {
	const droplet = `"region":"ams3","size":"s-1vcpu-1gb","image":"debian-13-x64"`
	tests := []struct {
		name         string
		method, path string
		body         string
		header       http.Header
		status       int
		want         string // substring of the complaint; "" for a request that is right
	}{
		{name: "right", method: "POST", path: "/v2/droplets", body: `{"name":"a",` + droplet + `}`, status: 202},
		{name: "right, many", method: "POST", path: "/v2/droplets", body: `{"names":["a","b"],` + droplet + `}`, status: 202},
		{name: "no such operation", method: "GET", path: "/v2/nothing", status: 404, want: "no such operation"},
		{name: "wrong method", method: "PUT", path: "/v2/droplets", status: 404, want: "no such operation"},
		{name: "no token", method: "GET", path: "/v2/account", header: http.Header{"Authorization": nil}, status: 400, want: "no bearer token"},
		{name: "page too long", method: "GET", path: "/v2/droplets?per_page=201", status: 400, want: "per_page"},
		{name: "unknown parameter", method: "GET", path: "/v2/droplets?tag=x", status: 400, want: `query has "tag"`},
		{name: "id no number", method: "GET", path: "/v2/droplets/web1", status: 400, want: "droplet_id"},
		{name: "volume no uuid", method: "GET", path: "/v2/volumes/data", status: 400, want: "volume_id"},
		{name: "no name", method: "POST", path: "/v2/droplets", body: `{` + droplet + `}`, status: 400, want: "name"},
		{name: "name with a space", method: "POST", path: "/v2/droplets", body: `{"name":"a b",` + droplet + `}`, status: 400, want: "regular expression"},
		{name: "null keys", method: "POST", path: "/v2/droplets", body: `{"name":"a","ssh_keys":null,` + droplet + `}`, status: 400, want: "ssh_keys"},
		{name: "volume as an object", method: "POST", path: "/v2/droplets", body: `{"name":"a","volumes":[{"id":"x"}],` + droplet + `}`, status: 400, want: "volumes"},
		{name: "misspelt member", method: "POST", path: "/v2/droplets", body: `{"name":"a","userdata":"x",` + droplet + `}`, status: 400, want: ".userdata"},
		{name: "misspelt member within", method: "POST", path: "/v2/tags/x/resources", body: `{"resources":[{"id":"1"}]}`, status: 400, want: ".resources[0].id"},
		{name: "no JSON", method: "POST", path: "/v2/droplets", body: `{`, status: 400, want: "decode"},
		{name: "unknown action", method: "POST", path: "/v2/droplets/1/actions", body: `{"type":"explode"}`, status: 400, want: "type"},
		{name: "read-only member", method: "POST", path: "/v2/account/keys", body: `{"id":1,"name":"a","public_key":"b"}`, status: 400, want: "readOnly"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var told complaints
			a := New(&told, Options{})
			status, answer := send(t, a, tt.method, tt.path, tt.body, tt.header)
			if status != tt.status {
				t.Errorf("got %d %s, want %d", status, answer, tt.status)
			}
			if tt.want == "" && len(told) != 0 || tt.want != "" && (len(told) != 1 || !strings.Contains(told[0], tt.want)) {
				t.Errorf("complaints: got %q, want %q", told, tt.want)
			}
			if tt.want != "" && len(a.Droplets()) != 0 {
				t.Errorf("droplets: got %+v, want none", a.Droplets())
			}
		})
	}
}

// TestStrayingFake holds that an answer of the fake that the description does not
// allow does not pass: it fails the test, and its client gets an error.
func TestStrayingFake(t *testing.T) {
	account := getAccount(&API{}, nil).body.(object)["account"].(object)
	with := func(name string, value any) reply {
		changed := object{}
		for k, v := range account {
			changed[k] = v
		}
		if changed[name] = value; value == nil {
			delete(changed, name)
		}
		return reply{status: http.StatusOK, body: object{"account": changed}}
	}
	tests := []struct {
		name   string
		answer reply
		want   string // substring of the complaint; "" for an answer that is right
	}{
		{"right", with("droplet_limit", 3), ""},
		{"wrong type", with("droplet_limit", "3"), "droplet_limit"},
		{"missing member", with("status", nil), "status"},
		{"no such value", with("status", "happy"), "status"},
		{"unknown member", with("colour", "red"), ".account.colour"},
		{"error without its id", reply{status: http.StatusForbidden, body: object{"message": "no"}}, "id"},
		{"not JSON", reply{status: http.StatusOK, header: http.Header{"Content-Type": {"text/html"}}, body: object{}}, "Content-Type"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var told complaints
			a := New(&told, Options{})
			a.routes["GET /v2/account"] = func(*API, *query) reply { return tt.answer }
			status, answer := send(t, a, "GET", "/v2/account", "", nil)
			if tt.want == "" {
				if status != http.StatusOK || len(told) != 0 {
					t.Errorf("got %d %s, complaints %q", status, answer, told)
				}
				return
			}
			if status != http.StatusInternalServerError {
				t.Errorf("got %d %s, want 500", status, answer)
			}
			if len(told) != 1 || !strings.Contains(told[0], "answer of the fake") || !strings.Contains(told[0], tt.want) {
				t.Errorf("complaints: got %q, want %q", told, tt.want)
			}
		})
	}
	t.Run("body where none is", func(t *testing.T) {
		var told complaints
		a := New(&told, Options{})
		a.addTags([]string{"x"})
		a.routes["DELETE /v2/tags/{tag_id}"] = func(*API, *query) reply {
			return reply{status: http.StatusNoContent, body: object{}}
		}
		if send(t, a, "DELETE", "/v2/tags/x", "", nil); len(told) != 1 || !strings.Contains(told[0], "should have none") {
			t.Errorf("complaints: got %q", told)
		}
	})
}

// TestRoutes holds that the fake has no operation that the description lacks.
func TestRoutes(t *testing.T) {
	d, err := load()
	if err != nil {
		t.Fatal(err)
	}
	for op := range New(t, Options{}).routes {
		method, path, _ := strings.Cut(op, " ")
		if item := d.doc.Paths.Value(path); item == nil || item.GetOperation(method) == nil {
			t.Errorf("%s: the description has no such operation", op)
		}
	}
}
