package dofake

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// A Request is one that came, whatever became of it.
type Request struct {
	Op   string // method and path of the description, such as "GET /v2/droplets/{droplet_id}"
	Nth  int    // the how manieth of its Op, from 1
	URL  string // path and query
	Body string
}

// Action returns the type of an action that the request posts, such as "power_off",
// and "" for other requests.
func (r Request) Action() string {
	var body struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal([]byte(r.Body), &body)
	return body.Type
}

// A Fault is what becomes of one request. The zero value is nothing special.
type Fault struct {
	Delay time.Duration // waits this long before the request takes effect
	After func()        // is called once it has taken effect, before the answer

	status            int
	id, message       string
	retryAfterSeconds int
	cut               cut
}

type cut int

const (
	cutBefore cut = iota + 1
	cutAfter
)

// Faults. What they say is what the real API was seen to say.
var (
	// CutBefore ends the connection before the request takes effect, CutAfter after it
	// did: the client can not tell them apart.
	CutBefore = Fault{cut: cutBefore}
	CutAfter  = Fault{cut: cutAfter}

	Unauthorized = Fault{status: http.StatusUnauthorized, id: "Unauthorized", message: "Unable to authenticate you"}
	Forbidden    = Fault{status: http.StatusForbidden, id: "Forbidden", message: "You are not authorized to perform this operation"}
	NotFound     = Fault{status: http.StatusNotFound, id: "not_found", message: "The resource you were accessing could not be found."}
	Quota        = Fault{status: http.StatusUnprocessableEntity, id: "unprocessable_entity", message: quota}
	ServerError  = Fault{status: http.StatusInternalServerError, id: "server_error", message: "Server was unable to give you a response."}
	Unavailable  = Fault{status: http.StatusServiceUnavailable, id: "service_unavailable", message: "Service Unavailable"}
)

const quota = "creating this/these droplet(s) will exceed your droplet limit"

// RateLimited refuses the request until that many seconds have passed.
func RateLimited(retryAfterSeconds int) Fault {
	return Fault{
		status: http.StatusTooManyRequests, id: "too_many_requests",
		message: "API rate limit exceeded.", retryAfterSeconds: retryAfterSeconds,
	}
}

func (f Fault) reply() reply {
	answer := fail(f.status, f.id, f.message)
	if f.retryAfterSeconds > 0 {
		answer.header = http.Header{"Retry-After": {strconv.Itoa(f.retryAfterSeconds)}}
	}
	return answer
}

func rateLimited(seconds int) reply { return RateLimited(seconds).reply() }

// On has f say what becomes of each request from now on; nil is nothing special. It
// is called before the request takes effect, for one request at a time.
func (a *API) On(f func(Request) Fault) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.on = f
}

// Nth has the nth request of an operation, from 1, suffer a fault.
func Nth(op string, nth int, f Fault) func(Request) Fault {
	return func(r Request) Fault {
		if r.Op == op && r.Nth == nth {
			return f
		}
		return Fault{}
	}
}

// Always has each request of an operation suffer a fault, of any operation when op is "".
func Always(op string, f Fault) func(Request) Fault {
	return func(r Request) Fault {
		if op == "" || r.Op == op {
			return f
		}
		return Fault{}
	}
}

// note writes a request into the log and asks what becomes of it.
func (a *API) note(op string, r *http.Request, body []byte) Fault {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[op]++
	q := Request{Op: op, Nth: a.counts[op], URL: r.URL.RequestURI(), Body: string(body)}
	a.log = append(a.log, q)
	if a.on == nil {
		return Fault{}
	}
	return a.on(q)
}

// Requests returns what came, in order.
func (a *API) Requests() []Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.log)
}

// Counts returns how many requests of each operation came.
func (a *API) Counts() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.counts)
}

// ForgetRequests empties the log and the counts.
func (a *API) ForgetRequests() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log = nil
	clear(a.counts)
}
