// Package s3fake is S3 in this process, for tests: gofakes3 with its one fault in
// conditional requests corrected.
package s3fake

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// New returns a server with one empty bucket. It does one thing at a time, and removes
// only what has the ETag that it is asked to remove, where gofakes3 removes anything.
func New(bucket string) (http.Handler, error) {
	backend := s3mem.New()
	if err := backend.CreateBucket(bucket); err != nil {
		return nil, err
	}
	fake := gofakes3.New(backend).Server()
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if match := r.Header.Get("If-Match"); r.Method == http.MethodDelete && match != "" {
			now := httptest.NewRecorder()
			fake.ServeHTTP(now, httptest.NewRequest(http.MethodHead, r.URL.Path, nil))
			if now.Header().Get("ETag") != match {
				Refuse(w, http.StatusPreconditionFailed, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
				return
			}
		}
		fake.ServeHTTP(w, r)
	}), nil
}

// Refuse answers with an error as S3 does.
func Refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
}
