// Package dofake is an account at DigitalOcean for tests: keys, droplets, their
// actions, tags, volumes and VPCs behind the provider's HTTP API, as the provider's
// own description of it, digitalocean.json, has them. Every request and every answer
// is held against that description. A client that strays from it gets an error and
// fails the test; so does the fake itself.
//
// What a real account does and a description does not say is here too: droplets and
// actions take their time, listing by tag lags behind, requests are limited by the
// minute and the hour, and a test may have any request refused, delayed or cut off.
package dofake

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Options say how an account is. The zero value is one that takes no time.
type Options struct {
	Token        string // what requests must carry; "" for any
	DropletLimit int    // how many droplets it may have; 0 for 1000

	Latency time.Duration // of each request, before it takes effect
	Droplet Pace          // from creation until a droplet is active
	Action  Pace          // from any other action until it is completed
	TagLag  int           // a new droplet is missing from this many lists by tag

	HourLimit   int // requests within an hour; 0 for the real 5000
	MinuteLimit int // requests within a minute; 0 for the real 250

	// Boot gives a droplet a machine: it is called when a droplet is created or
	// started, and the droplet is not active before it returns. The address becomes
	// the droplet's public one, unless it is "". An error fails the action and
	// leaves the droplet as it was. Halt is called when it is stopped or deleted.
	// Both are called from goroutines of their own, for one droplet one after the
	// other; [API.Wait] waits for them. Either may be nil.
	Boot func(Droplet) (ipv4 string, err error)
	Halt func(Droplet)
}

// A Pace says when something that was begun is done: when both have passed.
type Pace struct {
	Time  time.Duration
	Looks int // answers that show it as not done yet
}

// Never is the pace of what is never done.
var Never = Pace{Looks: 1 << 30}

// A Failer is told of requests and answers that the description does not allow. It
// is a [testing.TB], except where straying is what is tested.
type Failer interface {
	Errorf(format string, args ...any)
}

// An API is one account. It is an [http.Handler], for an [httptest.Server], and has a
// [API.Transport] for clients within the process.
type API struct {
	opt    Options
	failer Failer
	mux    *http.ServeMux
	routes map[string]handler // by operation, such as "GET /v2/droplets/{droplet_id}"

	hooks sync.WaitGroup // Boot and Halt in work

	mu       sync.Mutex
	on       func(Request) Fault
	log      []Request
	counts   map[string]int
	taken    []time.Time // when requests within the last hour came
	lastID   int
	keys     []*key
	droplets []*droplet
	actions  []*action
	tags     []string
	volumes  []*volume
}

// A handler answers one operation. It is called with the account locked and the
// request found to be as the description says.
type handler func(a *API, q *query) reply

// A query is a request on its way through a handler.
type query struct {
	path  func(name string) string // a part of the path, by its name in the description
	query url.Values
	body  []byte
	url   string // scheme and host, for links
}

// decode reads the body into v. The description has judged it already.
func (q *query) decode(v any) reply {
	if err := json.Unmarshal(q.body, v); err != nil {
		return fail(http.StatusBadRequest, "bad_request", err.Error())
	}
	return reply{}
}

// A reply is a handler's answer: body is marshalled, nil is none.
type reply struct {
	status int
	header http.Header
	body   any
}

// with adds headers to an answer.
func (r reply) with(h http.Header) reply {
	all := http.Header{}
	maps.Copy(all, h)
	maps.Copy(all, r.header)
	r.header = all
	return r
}

// fail is a refusal, in the form of the description's schema "error".
func fail(status int, id, message string) reply {
	return reply{status: status, body: object{"id": id, "message": message}}
}

func unprocessable(format string, args ...any) reply {
	return fail(http.StatusUnprocessableEntity, "unprocessable_entity", fmt.Sprintf(format, args...))
}

func notFound() reply {
	return fail(http.StatusNotFound, "not_found", "The resource you were accessing could not be found.")
}

// object is a JSON object of an answer.
type object = map[string]any

// New returns an empty account. What strays from the description is reported to f.
func New(f Failer, o Options) *API {
	if o.DropletLimit == 0 {
		o.DropletLimit = 1000
	}
	if o.HourLimit == 0 {
		o.HourLimit = 5000
	}
	if o.MinuteLimit == 0 {
		o.MinuteLimit = 250
	}
	a := &API{
		opt: o, failer: f, mux: http.NewServeMux(), routes: map[string]handler{},
		counts: map[string]int{}, lastID: 3164000,
	}
	maps.Copy(a.routes, accountRoutes)
	maps.Copy(a.routes, dropletRoutes)
	maps.Copy(a.routes, volumeRoutes)
	maps.Copy(a.routes, catalogRoutes)
	for op := range a.routes {
		a.mux.HandleFunc(op, func(w http.ResponseWriter, r *http.Request) { a.serve(op, w, r) })
	}
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.failer.Errorf("dofake: %s %s: the fake has no such operation", r.Method, r.URL)
		write(w, notFound())
	})
	return a
}

// ServeHTTP answers a request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

func (a *API) serve(op string, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client went away
	}
	r.Body = io.NopCloser(bytes.NewReader(body))

	fault := a.note(op, r, body)
	if !pause(r.Context(), a.opt.Latency+fault.Delay) {
		panic(http.ErrAbortHandler)
	}
	description, err := load()
	if err != nil {
		a.failer.Errorf("dofake: %v", err)
		write(w, fail(http.StatusInternalServerError, "server_error", err.Error()))
		return
	}
	if fault.cut == cutBefore {
		panic(http.ErrAbortHandler)
	}

	judge, err := description.request(op, r, body)
	var answer reply
	if err != nil {
		a.failer.Errorf("dofake: %s %s: the description does not allow this request: %v\n%s", r.Method, r.URL, err, body)
		answer = fail(http.StatusBadRequest, "bad_request", err.Error())
	} else {
		answer = a.answer(op, r, body, fault)
	}
	if answer.body != nil {
		answer = answer.with(http.Header{"Content-Type": {"application/json"}})
	}
	if judge != nil {
		if err := judge.answer(answer); err != nil {
			text, _ := json.Marshal(answer.body)
			a.failer.Errorf("dofake: %s %s: the description does not allow this answer of the fake: %v\n%d %s", r.Method, r.URL, err, answer.status, text)
			answer = fail(http.StatusInternalServerError, "server_error", err.Error())
		}
	}

	if fault.After != nil {
		fault.After()
	}
	if fault.cut == cutAfter {
		panic(http.ErrAbortHandler)
	}
	write(w, answer)
}

// answer does what the request asks for, unless something stands against it.
func (a *API) answer(op string, r *http.Request, body []byte, fault Fault) reply {
	a.mu.Lock()
	defer a.mu.Unlock()
	limits, refusal := a.limit(time.Now())
	var answer reply
	switch {
	case refusal != nil:
		answer = *refusal
	case fault.status != 0:
		answer = fault.reply()
	case !a.known(r.Header.Get("Authorization")):
		answer = fail(http.StatusUnauthorized, "Unauthorized", "Unable to authenticate you")
	default:
		scheme := "http"
		if r.TLS != nil || r.URL.Scheme == "https" {
			scheme = "https"
		}
		answer = a.routes[op](a, &query{
			path: r.PathValue, query: r.URL.Query(), body: body, url: scheme + "://" + r.Host,
		})
	}
	return answer.with(limits)
}

func (a *API) known(authorization string) bool {
	if a.opt.Token == "" {
		return authorization != ""
	}
	return authorization == "Bearer "+a.opt.Token
}

// limit counts a request that came now and returns the headers that say how many are
// left, and the refusal when none is.
func (a *API) limit(now time.Time) (http.Header, *reply) {
	a.taken = slices.DeleteFunc(a.taken, func(t time.Time) bool { return now.Sub(t) >= time.Hour })
	lastMinute := slices.DeleteFunc(slices.Clone(a.taken), func(t time.Time) bool { return now.Sub(t) >= time.Minute })

	var refusal *reply
	var retry time.Time
	switch {
	case len(a.taken) >= a.opt.HourLimit:
		retry = a.taken[0].Add(time.Hour)
	case len(lastMinute) >= a.opt.MinuteLimit:
		retry = lastMinute[0].Add(time.Minute)
	default:
		a.taken = append(a.taken, now)
	}
	if !retry.IsZero() {
		wait := (retry.Sub(now) + time.Second - 1) / time.Second
		r := rateLimited(int(wait))
		refusal = &r
	}
	h := http.Header{}
	h.Set("Ratelimit-Limit", strconv.Itoa(a.opt.HourLimit))
	h.Set("Ratelimit-Remaining", strconv.Itoa(a.opt.HourLimit-len(a.taken)))
	h.Set("Ratelimit-Reset", strconv.FormatInt(a.taken[0].Add(time.Hour).Unix(), 10))
	return h, refusal
}

func write(w http.ResponseWriter, answer reply) {
	maps.Copy(w.Header(), answer.header)
	w.WriteHeader(answer.status)
	if answer.body != nil {
		// An error is a client that went away, or a fake that the answer's judge has
		// caught already.
		_ = json.NewEncoder(w).Encode(answer.body)
	}
}

// pause waits for d, or less when ctx ends: then it returns false.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Transport calls the account within the process. It needs no network, so it works
// inside a bubble of testing/synctest, where all waiting takes no time.
func (a *API) Transport() http.RoundTripper { return transport{a} }

type transport struct{ api *API }

// RoundTrip implements [http.RoundTripper]. A request that is cut off ends in
// [io.ErrUnexpectedEOF].
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	in.RequestURI = in.URL.RequestURI()
	if in.Host == "" {
		in.Host = in.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	answer := httptest.NewRecorder()
	done := make(chan error, 1)
	go func() {
		defer func() {
			switch p := recover(); p {
			case nil:
				done <- nil
			case http.ErrAbortHandler:
				done <- io.ErrUnexpectedEOF
			default:
				panic(p)
			}
			in.Body.Close()
		}()
		t.api.ServeHTTP(answer, in)
	}()
	select {
	case err := <-done:
		if err != nil {
			return nil, err
		}
		resp := answer.Result()
		resp.Request = r
		return resp, nil
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
}

// Wait waits for the hooks Boot and Halt that are in work.
func (a *API) Wait() { a.hooks.Wait() }

func (a *API) newID() int {
	a.lastID++
	return a.lastID
}

// paginate answers a list: the page of items that the query asks for, under name,
// with the links and the total of the description's schemas "pagination" and "meta".
func paginate[T any](q *query, name string, items []T, show func(T) object) reply {
	number := func(key string, otherwise int) int {
		if n, err := strconv.Atoi(q.query.Get(key)); err == nil {
			return n // within its bounds, or the description would have refused it
		}
		return otherwise
	}
	size, page := number("per_page", 20), number("page", 1)
	last := max(1, (len(items)+size-1)/size)
	pages := object{}
	link := func(rel string, page int) {
		v := maps.Clone(q.query)
		v.Set("page", strconv.Itoa(page))
		pages[rel] = q.url + "/v2/" + name + "?" + v.Encode()
	}
	if page > 1 {
		link("first", 1)
		link("prev", page-1)
	}
	if page < last {
		link("next", page+1)
		link("last", last)
	}
	links := object{}
	if len(pages) > 0 {
		links["pages"] = pages
	}
	shown := []object{}
	for _, item := range items[min(len(items), (page-1)*size):min(len(items), page*size)] {
		shown = append(shown, show(item))
	}
	return reply{status: http.StatusOK, body: object{name: shown, "links": links, "meta": object{"total": len(items)}}}
}
