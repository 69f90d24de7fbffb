package activate

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"nx/pkg/record"
	"nx/pkg/target"
)

// A check is something that must hold of a host: morph's cmd and http, and tcp
// and unit. It is tried again every period until it holds, its retries are used
// up, or the time is.
type check struct {
	kind        string // "cmd", "http", "tcp" or "unit"
	description string
	period      time.Duration
	timeout     time.Duration // of one try
	retries     int           // after the first try; -1 for as long as there is time

	argv     []string // cmd: run on the host, as root
	unit     string   // unit: must be active there
	host     string   // http and tcp: asked from here
	port     int
	url      string
	headers  map[string]string
	insecure bool // any certificate will do
}

// A Check is how one came out: a member of the record's "activation.checks".
type Check struct {
	Kind        string `json:"kind"`
	Description string `json:"description"`
	Passed      bool   `json:"passed"`
	Error       string `json:"error,omitempty"`
}

// Defaults of a check, morph's.
const (
	checkPeriod  = 2 * time.Second
	checkTimeout = 5 * time.Second
)

// checksOf reads a member of the record's deployment: "healthChecks" or "preDeployChecks".
func checksOf(r *record.Record, member string, host string) (checks []check, wrong error) {
	for _, kind := range []string{"cmd", "http", "tcp", "unit"} {
		r.Get("deployment").Get(member + "." + kind).ForEach(func(i, v gjson.Result) bool {
			c, err := parseCheck(kind, host, v)
			if err != nil {
				wrong = fmt.Errorf("%q: %w", fmt.Sprintf("deployment.%s.%s[%d]", member, kind, len(checks)), err)
			}
			checks = append(checks, c)
			return err == nil
		})
	}
	return checks, wrong
}

func parseCheck(kind, host string, v gjson.Result) (check, error) {
	c := check{kind: kind, description: v.Get("description").String(), host: host, period: checkPeriod, timeout: checkTimeout, retries: -1,
		port: int(v.Get("port").Int()), unit: v.Get("unit").String(), insecure: v.Get("insecureSSL").Bool()}
	for key, to := range map[string]*time.Duration{"period": &c.period, "timeout": &c.timeout} {
		if n := v.Get(key); n.Type == gjson.Number && n.Num > 0 {
			*to = time.Duration(n.Num * float64(time.Second))
		}
	}
	if n := v.Get("retries"); n.Type == gjson.Number {
		c.retries = int(n.Int())
	}
	if h := v.Get("host"); h.Type == gjson.String {
		c.host = h.Str
	}
	switch kind {
	case "cmd":
		v.Get("cmd").ForEach(func(_, word gjson.Result) bool {
			c.argv = append(c.argv, word.String())
			return true
		})
		if len(c.argv) == 0 {
			return c, fmt.Errorf("it has no cmd")
		}
	case "unit":
		if c.unit == "" || strings.HasPrefix(c.unit, "-") {
			return c, fmt.Errorf("%q is no unit", c.unit)
		}
	case "http":
		c.headers = map[string]string{}
		var secret string
		v.Get("headers").ForEach(func(name, value gjson.Result) bool {
			if value.Type != gjson.String {
				secret = name.Str
			}
			c.headers[name.Str] = value.Str
			return true
		})
		if secret != "" {
			return c, &failure{verb: "read header " + secret, cause: "a record has no secrets, so it only names the option that has it",
				hint: "leave the header out, or make it a cmd check, which runs on the host and can read a key there"}
		}
		scheme := cmp.Or(v.Get("scheme").String(), "http")
		c.url = (&url.URL{Scheme: scheme, Host: net.JoinHostPort(c.host, strconv.Itoa(c.port)), Path: v.Get("path").String()}).String()
		fallthrough
	case "tcp":
		if c.port < 1 || c.port > 65535 {
			return c, fmt.Errorf("port %d is no port", c.port)
		}
	}
	if c.description == "" {
		c.description = strings.TrimSpace(strings.Join(c.argv, " ") + c.unit + c.url)
		if kind == "tcp" {
			c.description = net.JoinHostPort(c.host, strconv.Itoa(c.port))
		}
	}
	return c, nil
}

// An asRoot is a command as root on a host, and what it is told first on its stdin.
type asRoot = func(argv ...string) (as []string, password string)

// try does it once; conn is to the host.
func (c *check) try(ctx context.Context, conn Conn, as asRoot) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer within %v", c.timeout))
	defer cancel()
	err := c.once(ctx, conn, as)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *check) once(ctx context.Context, conn Conn, as asRoot) error {
	switch c.kind {
	case "http":
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
		if err != nil {
			return err
		}
		for name, value := range c.headers {
			if req.Header.Set(name, value); strings.EqualFold(name, "host") {
				req.Host = value
			}
		}
		// Each try asks anew: an old connection proves nothing.
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: c.insecure}}}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode < 200 || res.StatusCode > 299 {
			return fmt.Errorf("status %s", res.Status)
		}
		return nil
	case "tcp":
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(c.host, strconv.Itoa(c.port)))
		if err != nil {
			return err
		}
		return conn.Close()
	}
	argv := c.argv
	if c.kind == "unit" {
		argv = []string{"systemctl", "is-active", "--", c.unit}
	}
	// its stdin is empty, whatever sudo has left of ours
	argv, password := as(append([]string{"/bin/sh", "-c", `PATH=/run/wrappers/bin:/run/current-system/sw/bin:$PATH; export PATH; exec "$@" < /dev/null`, "nx-activate"}, argv...)...)
	line, err := target.Quote(argv...)
	if err != nil {
		return err
	}
	said := &output{log: slog.New(slog.DiscardHandler)}
	status, err := conn.Run(ctx, "exec "+line, strings.NewReader(password), said, said)
	said.end(true)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d%s", status, because(said.last()))
	}
	return err
}

// runChecks runs all of checks, at once, until each holds or cannot any more.
func runChecks(ctx context.Context, log *slog.Logger, checks []check, conn Conn, as asRoot) []Check {
	results := make([]Check, len(checks))
	var all sync.WaitGroup
	for i, c := range checks {
		all.Go(func() {
			results[i] = Check{Kind: c.kind, Description: c.description}
			for tries := 0; ; tries++ {
				err := c.try(ctx, conn, as)
				if err == nil {
					results[i].Passed, results[i].Error = true, ""
					log.Debug("check passed", "check", c.description)
					return
				}
				if ctx.Err() == nil || results[i].Error == "" {
					results[i].Error = record.OneLine(err.Error())
				}
				log.Debug("check failed", "check", c.description, "cause", err.Error())
				if tries == c.retries || wait(ctx, c.period) != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return results
}

// failed returns what did not hold, as the end of a message; "" when all did.
func failed(results []Check) string {
	var words []string
	for _, r := range results {
		if !r.Passed {
			words = append(words, fmt.Sprintf("check %q failed: %s", r.Description, r.Error))
		}
	}
	return strings.Join(words, "; ")
}
