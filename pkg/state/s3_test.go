package state

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"nx/pkg/state/s3fake"
)

// A server is S3 in this process, with one bucket, shop. It lets a test see and bend
// each request.
type server struct {
	url string
	s3  http.Handler

	mu      sync.Mutex
	counts  map[string]int // by METHOD KEY
	before  func(http.ResponseWriter, *http.Request) (answered bool)
	forgets func(*http.Request) bool // whether the request is done and its answer lost
}

// newServer returns a new server with an empty bucket. With NXTEST_S3=URL it stands
// before the one there, which takes the key "id" with the secret "secret":
//
//	ROOT_ACCESS_KEY=id ROOT_SECRET_KEY=secret versitygw --port 127.0.0.1:7070 posix "$(mktemp -d)"
func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{counts: map[string]int{}}
	there := os.Getenv("NXTEST_S3")
	if there == "" {
		s.s3 = must(s3fake.New("shop"))(t)
	} else {
		to := must(url.Parse(there))(t)
		s.s3 = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // which is signed
		}}
	}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.url = h.URL
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ENDPOINT_URL": s.url, "AWS_ENDPOINT_URL_S3": "", "AWS_MAX_ATTEMPTS": "1",
	} {
		t.Setenv(name, value)
	}
	if there != "" {
		b := must(newBucket(t.Context(), inBucket))(t)
		if _, err := b.client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &b.name}); err != nil && status(err) != http.StatusConflict {
			t.Fatal(err)
		}
		for _, key := range []string{b.key, b.lockKey()} {
			must(b.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: &key}))(t)
		}
		s.count()
	}
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.counts[r.Method+" "+strings.TrimPrefix(r.URL.Path, "/shop/")]++
	answered := s.before != nil && s.before(w, r)
	forgotten := s.forgets != nil && s.forgets(r)
	s.mu.Unlock()
	switch {
	case forgotten:
		s.s3.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case !answered:
		s.s3.ServeHTTP(w, r)
	}
}

// bend lets before answer requests from now on, where it wants to.
func (s *server) bend(before func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

// count returns how many requests there were, and forgets them.
func (s *server) count() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := s.counts
	s.counts = map[string]int{}
	return counts
}

const inBucket = "s3://shop/team/state.json"

// openBucket opens the state in the bucket, and looks at its lock without a pause.
func openBucket(t *testing.T, o Options) (*State, error) {
	t.Helper()
	b, err := newBucket(t.Context(), inBucket)
	if err != nil {
		t.Fatal(err)
	}
	b.poll = time.Millisecond
	s, err := open(t.Context(), b, o)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestBucketRequests(t *testing.T) {
	server := newServer(t)
	check := func(what string, want map[string]int) {
		t.Helper()
		if got := server.count(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s takes %v, want %v", what, got, want)
		}
	}
	s := must(openBucket(t, free(t)))(t)
	check("Open", map[string]int{"PUT team/state.json.lock": 2, "GET team/state.json": 1})
	for range 2 {
		if err := s.Put(Entry{Type: Machines, Name: "web", Provider: "p"}); err != nil {
			t.Fatal(err)
		}
	}
	check("a Put, and one that changes nothing,", map[string]int{"GET team/state.json.lock": 1, "PUT team/state.json": 1})
	again := must(Read(t.Context(), inBucket, Options{}))(t)
	if _, ok := again.Get(Machines, "web"); !ok || again.UUID() != s.UUID() {
		t.Errorf("read again: %+v", again.All())
	}
	check("Read", map[string]int{"GET team/state.json": 1})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	check("Close", map[string]int{"GET team/state.json.lock": 1, "DELETE team/state.json.lock": 1})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	check("a second Close", map[string]int{})
}

func TestLocation(t *testing.T) {
	newServer(t)
	tests := []struct {
		location, wantErr string
	}{
		{"", "open state : its location is empty"},
		{"gs://bucket/key", "neither a file nor s3://BUCKET/KEY"},
		{"s3:/bucket/key", "neither a file nor s3://BUCKET/KEY"},
		{"s3://bucket", "not as s3://BUCKET/KEY"},
		{"s3:///key", "not as s3://BUCKET/KEY"},
		{"s3://bucket/folder/", "not as s3://BUCKET/KEY"},
		{"s3://bucket/key#x", "not as s3://BUCKET/KEY"},
		{"s3://bucket/key?zone=x", `parameter "zone": there are endpoint and region, each once`},
		{"s3://bucket/key?region=a&region=b", `parameter "region"`},
		{"s3://bucket/key?endpoint=localhost:1", `endpoint "localhost:1" is not as https://HOST`},
		{"s3://id:secret@bucket/key", "it has credentials in it"},
	}
	for _, tt := range tests {
		if _, err := Open(t.Context(), tt.location, Options{}); err == nil || !strings.Contains(err.Error(), tt.wantErr) {
			t.Errorf("Open(%q): %v, want %q", tt.location, err, tt.wantErr)
		}
	}
	b := must(newBucket(t.Context(), "s3://b.example/a/b?endpoint=https://s3.example.org&region=eu"))(t)
	if o := b.client.Options(); b.name != "b.example" || b.key != "a/b" || *o.BaseEndpoint != "https://s3.example.org" || o.Region != "eu" || !o.UsePathStyle {
		t.Errorf("%+v, %+v", b, o)
	}
	t.Setenv("AWS_ENDPOINT_URL", "")
	if _, err := newBucket(t.Context(), "s3://b/a"); !strings.Contains(hintOf(err), "?region=R") {
		t.Errorf("without a region: %v", err)
	}
	b = must(newBucket(t.Context(), "s3://b/a?region=eu-west-1"))(t)
	if o := b.client.Options(); o.BaseEndpoint != nil || o.Region != "eu-west-1" || o.UsePathStyle {
		t.Errorf("of Amazon: %+v", o)
	}
}

// What goes wrong with an account is one line, with what the server said and what to do.
func TestBucketRefused(t *testing.T) {
	server := newServer(t)
	tests := []struct {
		name           string
		status         int
		code, message  string
		want, wantHint string
	}{
		{"denied", 403, "AccessDenied", "Access Denied", "AccessDenied: Access Denied", "s3:ListBucket for bucket shop"},
		{"another time", 403, "RequestTimeTooSkewed", "The difference is too large.", "RequestTimeTooSkewed: The difference is too large.", "this computer's clock"},
		{"expired", 400, "ExpiredToken", "The provided token has expired.", "ExpiredToken: The provided token has expired.", "aws sso login"},
		{"unknown key", 403, "InvalidAccessKeyId", "The AWS Access Key Id\nyou provided does not exist", "InvalidAccessKeyId: The AWS Access Key Id you provided does not exist", "correct the credentials"},
		{"no bucket", 404, "NoSuchBucket", "The specified bucket does not exist", "NoSuchBucket: The specified bucket does not exist", "make the bucket"},
		{"elsewhere", 301, "PermanentRedirect", "Use the specified endpoint", "PermanentRedirect: Use the specified endpoint", "?region=R"},
		{"no conditions", 501, "NotImplemented", "A header you provided implies functionality that is not implemented", "NotImplemented: A header", ""},
		{"down", 503, "SlowDown", "Please reduce your request rate", "SlowDown: Please reduce your request rate", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server.bend(func(w http.ResponseWriter, _ *http.Request) bool {
				s3fake.Refuse(w, tt.status, tt.code, tt.message)
				return true
			})
			_, err := openBucket(t, free(t))
			if err == nil || !strings.HasPrefix(err.Error(), "lock state "+inBucket+": "+tt.want) || strings.Contains(err.Error(), "\n") || !strings.Contains(hintOf(err), tt.wantHint) {
				t.Errorf("Open: %v (hint %q), want %q (hint %q)", err, hintOf(err), tt.want, tt.wantHint)
			}
			_, err = Read(t.Context(), inBucket, Options{})
			if err == nil || !strings.HasPrefix(err.Error(), "read state "+inBucket+": "+tt.want) || !strings.Contains(hintOf(err), tt.wantHint) {
				t.Errorf("Read: %v (hint %q), want %q (hint %q)", err, hintOf(err), tt.want, tt.wantHint)
			}
		})
	}
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	if _, err := Read(t.Context(), inBucket, Options{}); err == nil || err.Error() != "read state "+inBucket+": dial tcp 127.0.0.1:1: connect: connection refused" {
		t.Errorf("nobody listens: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	_, err := Read(t.Context(), inBucket, Options{})
	if err == nil || !strings.Contains(err.Error(), "find credentials: ") || !strings.Contains(hintOf(err), "AWS_ACCESS_KEY_ID") || strings.Contains(err.Error(), "\n") {
		t.Errorf("without credentials: %v", err)
	}
	t.Logf("without credentials: %v", err)
}

// A server that ignores conditions would let two have the lock.
func TestBucketWithoutConditions(t *testing.T) {
	if os.Getenv("NXTEST_S3") != "" {
		t.Skip("SKIPPED: conditions are signed, and cannot be taken out of a request")
	}
	server := newServer(t)
	server.bend(func(_ http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("If-Match")
		r.Header.Del("If-None-Match")
		return false
	})
	if _, err := openBucket(t, free(t)); err == nil || !strings.Contains(err.Error(), "the server has no conditional writes") {
		t.Errorf("Open: %v", err)
	}
	if got := server.count(); got["DELETE team/state.json.lock"] != 1 {
		t.Errorf("the lock is left: %v", got)
	}
}

// Whoever lost the lock writes nothing more, whether or not the other has written yet.
func TestForcedUnlock(t *testing.T) {
	newServer(t)
	if _, err := Unlock(t.Context(), inBucket); !errors.Is(err, errUnlocked) {
		t.Errorf("Unlock of what is not locked: %v", err)
	}
	first := must(openBucket(t, free(t)))(t)
	if err := first.Put(Entry{Type: Machines, Name: "web", Provider: "p"}); err != nil {
		t.Fatal(err)
	}
	me := self()
	if h, err := Unlock(t.Context(), inBucket); err != nil || h.Owner != me.Owner || h.PID != me.PID {
		t.Errorf("Unlock = %s, %v, want %s", h, err, me)
	}
	put := func(want string) {
		t.Helper()
		err := first.Put(Entry{Type: Machines, Name: "db", Provider: "p"})
		if err == nil || !strings.HasPrefix(err.Error(), "remember machines db: write state "+inBucket+": its lock was taken away"+want) || !strings.Contains(hintOf(err), "run this again") {
			t.Errorf("Put: %v (hint %q)", err, hintOf(err))
		}
		if _, ok := first.Get(Machines, "db"); ok {
			t.Error("what was not written is remembered")
		}
	}
	put("")
	second := must(openBucket(t, free(t)))(t)
	put(": " + me.Owner)
	if err := second.Put(Entry{Type: Machines, Name: "web", Provider: "q"}); err != nil {
		t.Error(err)
	}
	put(": " + me.Owner)
	if err := first.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := second.Put(Entry{Type: Machines, Name: "cache", Provider: "q"}); err != nil {
		t.Errorf("the first has unlocked the second: %v", err)
	}
	if e, _ := must(Read(t.Context(), inBucket, Options{}))(t).Get(Machines, "web"); e.Provider != "q" {
		t.Errorf("the bucket has %+v", e)
	}
}

// A lock that does not say whose it is stays one, and can be forced.
func TestStrangeLock(t *testing.T) {
	newServer(t)
	b := must(newBucket(t.Context(), inBucket))(t)
	must(b.write(t.Context(), b.lockKey(), []byte("mine"), ""))(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Open(ctx, inBucket, Options{Wait: func(h Holder) {
		if h.String() != "somebody" {
			t.Errorf("Open waits for %s", h)
		}
		cancel()
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Open: %v", err)
	}
	if h, err := Unlock(t.Context(), inBucket); err != nil || h != (Holder{}) {
		t.Errorf("Unlock = %+v, %v", h, err)
	}
	must(openBucket(t, free(t)))(t)
}

// What was done though its answer is lost is found done, by the SDK's next try or by ours.
func TestLostAnswers(t *testing.T) {
	for _, attempts := range []string{"1", "2"} {
		t.Run(attempts+" attempts", func(t *testing.T) {
			server := newServer(t)
			t.Setenv("AWS_MAX_ATTEMPTS", attempts)
			lose := func(what string) {
				server.mu.Lock()
				defer server.mu.Unlock()
				server.forgets = func(r *http.Request) bool {
					lost := r.Method+" "+r.URL.Path == what
					if lost {
						server.forgets = nil
					}
					return lost
				}
			}
			lose("PUT /shop/team/state.json.lock")
			s, err := openBucket(t, free(t))
			if attempts == "1" {
				if err == nil {
					t.Fatal("Open succeeds though it heard nothing of its lock")
				}
				s, err = openBucket(t, free(t)) // it is not left
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"web", "db"} {
				lose("PUT /shop/team/state.json")
				if err := s.Put(Entry{Type: Machines, Name: name, Provider: "p"}); err != nil {
					t.Error(err)
				}
			}
			if err := s.Put(Entry{Type: Machines, Name: "cache", Provider: "p"}); err != nil {
				t.Error(err)
			}
			if n := len(must(Read(t.Context(), inBucket, Options{}))(t).All()); n != 3 {
				t.Errorf("there are %d machines, want 3", n)
			}
		})
	}
}

// After a write of which nothing could be learned, memory has what was before it; and
// whether or not it was done, the next write is.
func TestUnsureWrites(t *testing.T) {
	for _, done := range []bool{true, false} {
		t.Run(fmt.Sprint("done ", done), func(t *testing.T) {
			server := newServer(t)
			s := must(openBucket(t, free(t)))(t)
			put := func(name string) error { return s.Put(Entry{Type: Machines, Name: name, Provider: "p"}) }
			if err := put("web"); err != nil {
				t.Fatal(err)
			}
			down := false
			server.bend(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, ".lock") {
					return false
				}
				if r.Method == "PUT" && done && !down {
					server.s3.ServeHTTP(httptest.NewRecorder(), r)
				}
				down = true
				s3fake.Refuse(w, 500, "InternalError", "We encountered an internal error")
				return true
			})
			for _, name := range []string{"db", "cache"} {
				if err := put(name); err == nil || !strings.Contains(err.Error(), "InternalError: We encountered an internal error") {
					t.Errorf("Put: %v", err)
				}
			}
			server.bend(nil)
			if n := len(s.All()); n != 1 {
				t.Errorf("memory has %d machines, want the one that is known to be written", n)
			}
			if err := put("queue"); err != nil {
				t.Errorf("the next Put: %v", err)
			}
			want := must(json.Marshal(s.All()))(t)
			if got := must(json.Marshal(must(Read(t.Context(), inBucket, Options{}))(t).All()))(t); !bytes.Equal(got, want) {
				t.Errorf("the bucket has %s, want %s", got, want)
			}
		})
	}
}

// A conflict with a request of somebody else at the same time is tried again.
func TestBucketConflict(t *testing.T) {
	server := newServer(t)
	seen := map[string]bool{}
	server.bend(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "PUT" || seen[r.URL.Path] {
			return false
		}
		seen[r.URL.Path] = true
		_, _ = io.Copy(io.Discard, r.Body)
		s3fake.Refuse(w, 409, "ConditionalRequestConflict", "The conditional request cannot succeed due to a conflicting operation")
		return true
	})
	s := must(openBucket(t, free(t)))(t)
	if err := s.Put(Entry{Type: Machines, Name: "web", Provider: "p"}); err != nil {
		t.Error(err)
	}
	if len(seen) != 2 {
		t.Errorf("there were conflicts about %v, want the state and its lock", seen)
	}
}

// A server may know conditions for writing alone.
func TestUnlockWithoutConditions(t *testing.T) {
	server := newServer(t)
	server.bend(func(w http.ResponseWriter, r *http.Request) bool {
		refused := r.Method == "DELETE" && r.Header.Get("If-Match") != ""
		if refused {
			s3fake.Refuse(w, 501, "NotImplemented", "A header you provided implies functionality that is not implemented")
		}
		return refused
	})
	for range 2 {
		s := must(openBucket(t, free(t)))(t)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
