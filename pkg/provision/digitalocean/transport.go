package digitalocean

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// answerTime is how long one request may take. The slowest, creating a droplet,
	// takes a few seconds.
	answerTime = time.Minute

	// attempts is how often a request is made that fails by no fault of its own.
	attempts = 4
)

// A transport has requests carry the token, keeps within the rate limit and makes
// again what may be made again. It is one account's, so that all who ask wait when one
// is told to.
type transport struct {
	base  http.RoundTripper
	token string
	log   *slog.Logger

	mu    sync.Mutex
	until time.Time // nothing is asked before
}

// RoundTrip implements [http.RoundTripper]. A request that changes something is not
// given up on when its context ends but only while it waits for its turn: whoever asked
// for something has to see what became of it.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := false
	for attempt := 1; ; {
		if err := t.turn(r.Context()); err != nil {
			return nil, whether(sent, err)
		}
		resp, err := t.once(r)
		if err == nil && resp.StatusCode == http.StatusTooManyRequests {
			t.hold(resp.Header)
			continue // it had no effect, so it may always be made again
		}
		sent = sent || !unconnected(err)
		switch {
		case attempt == attempts || !repeatable(r) || r.Context().Err() != nil:
			return resp, whether(sent, err)
		case err == nil && resp.StatusCode < http.StatusInternalServerError:
			return resp, nil
		}
		if err := pause(r.Context(), time.Second<<(attempt-1)); err != nil {
			return nil, whether(sent, err)
		}
		attempt++
	}
}

// An unsentError is that of a request that had no effect, since it was not made.
type unsentError struct{ error }

func (e *unsentError) Unwrap() error { return e.error }

// whether returns err as that of a request that may have had an effect if it was sent.
func whether(sent bool, err error) error {
	if sent || err == nil {
		return err
	}
	return &unsentError{err}
}

// unconnected tells whether a request failed before there was anybody to send it to.
func unconnected(err error) bool {
	var at *net.OpError
	var other *tls.CertificateVerificationError
	return errors.As(err, &at) && at.Op == "dial" || errors.As(err, &other)
}

func unsent(err error) bool {
	var e *unsentError
	return errors.As(err, &e)
}

// repeatable tells whether a request may be made twice when it is not known whether
// the first had an effect. Tags are sets, and a key that is there is not made again.
func repeatable(r *http.Request) bool {
	return r.Method != http.MethodPost ||
		strings.HasSuffix(r.URL.Path, "/v2/account/keys") || strings.Contains(r.URL.Path, "/v2/tags")
}

// once makes a request and reads its answer whole.
func (t *transport) once(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	if r.Method != http.MethodGet {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("no answer after %s", answerTime))
	defer cancel()
	out := r.Clone(ctx)
	out.Header.Set("Authorization", "Bearer "+t.token)
	if r.GetBody != nil {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		out.Body = body
	}
	resp, err := t.base.RoundTrip(out)
	if err != nil {
		return nil, cause(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, cause(ctx, err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// cause is why a request failed, in our words where it was we who gave up.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// turn waits until something may be asked.
func (t *transport) turn(ctx context.Context) error {
	for {
		t.mu.Lock()
		wait := time.Until(t.until)
		t.mu.Unlock()
		if wait <= 0 {
			return cause(ctx, ctx.Err())
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// hold has everybody wait as long as the API says that they must.
func (t *transport) hold(h http.Header) {
	wait := time.Second
	if s, err := strconv.Atoi(h.Get("Retry-After")); err == nil {
		wait = max(wait, time.Duration(s)*time.Second)
	} else if reset, err := strconv.ParseInt(h.Get("Ratelimit-Reset"), 10, 64); err == nil && h.Get("Ratelimit-Remaining") == "0" {
		wait = max(wait, time.Until(time.Unix(reset, 0)))
	}
	until := time.Now().Add(wait)
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Now().After(t.until) { // who is told first, says it
		t.log.Warn("DigitalOcean's rate limit is reached: waiting", "wait", wait.Round(time.Second).String())
	}
	if until.After(t.until) {
		t.until = until
	}
}

// pause waits for d, or less when ctx ends: then it returns why.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
