package state

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
)

// A bucket is a state in an object of S3, and its lock in KEY.lock beside it. Both rely
// on conditional writes (Amazon S3 User Guide, "How to prevent object overwrites with
// conditional writes"): PutObject with If-None-Match "*" makes an object if there is
// none, with If-Match replaces the one that has that ETag.
type bucket struct {
	location string
	client   *s3.Client
	name     string
	key      string
	poll     time.Duration // between looks at a lock that another has

	id     string   // of our lock
	unsure []string // sums of what was sent and may yet be written
}

const (
	lockPoll  = 2 * time.Second
	releasing = 10 * time.Second // is how long the removal of a lock may take
)

func newBucket(ctx context.Context, location string) (*bucket, error) {
	b, endpoint, region, err := parseLocation(location)
	if err != nil {
		return nil, err
	}
	c, err := config.LoadDefaultConfig(ctx, config.WithRegion(region), config.WithLogger(logging.Nop{}))
	if err != nil {
		return nil, &hinted{fmt.Errorf("read configuration of AWS: %w", err), "correct AWS_PROFILE, or the files in ~/.aws"}
	}
	b.client = s3.NewFromConfig(c, func(o *s3.Options) {
		if endpoint != "" {
			o.BaseEndpoint = &endpoint
		}
		if o.BaseEndpoint != nil { // another server than Amazon's
			o.UsePathStyle = true
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
			o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
			if o.Region == "" {
				o.Region = "us-east-1"
			}
		}
	})
	if b.client.Options().Region == "" {
		return nil, &hinted{errors.New("the region is not known"), "add ?region=R to it, or set AWS_REGION"}
	}
	if _, err := c.Credentials.Retrieve(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &hinted{fmt.Errorf("find credentials: %w", plainly(err)),
			"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; those of a login are renewed by aws sso login"}
	}
	return b, nil
}

// parseLocation reads s3://BUCKET/KEY?endpoint=URL&region=NAME.
func parseLocation(location string) (b *bucket, endpoint, region string, err error) {
	u, err := url.Parse(location)
	if err != nil {
		return nil, "", "", errors.New("it is no URL")
	}
	b = &bucket{location: location, name: u.Host, key: strings.TrimPrefix(u.Path, "/"), poll: lockPoll}
	switch q, err := url.ParseQuery(u.RawQuery); {
	case u.User != nil:
		return nil, "", "", &hinted{errors.New("it has credentials in it"), "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"}
	case err != nil || u.Fragment != "" || b.name == "" || b.key == "" || strings.HasSuffix(b.key, "/"):
		return nil, "", "", errors.New("it is not as s3://BUCKET/KEY, with ?region=R or ?endpoint=URL where needed")
	default:
		for name, values := range q {
			if !slices.Contains([]string{"endpoint", "region"}, name) || len(values) != 1 {
				return nil, "", "", fmt.Errorf("parameter %q: there are endpoint and region, each once", name)
			}
		}
		endpoint, region = q.Get("endpoint"), q.Get("region")
	}
	if e, err := url.Parse(endpoint); endpoint != "" && (err != nil || e.Host == "" || e.Scheme != "http" && e.Scheme != "https") {
		return nil, "", "", fmt.Errorf("endpoint %q is not as https://HOST", endpoint)
	}
	return b, endpoint, region, nil
}

func (b *bucket) String() string { return b.location }

func (b *bucket) lockKey() string { return b.key + ".lock" }

func (b *bucket) get(ctx context.Context) (object, error) {
	o, err := b.read(ctx, b.key)
	if err != nil {
		return object{}, b.explain(ctx, err)
	}
	o.exposed = errInBucket
	return o, nil
}

var errInBucket = &hinted{errors.New("secrets would be in the clear in a bucket, which is for others to read"), "have them sealed: --age-recipient R or NX_AGE_RECIPIENTS"}

// read returns the bytes and the ETag of an object, which is zero when there is none.
func (b *bucket) read(ctx context.Context, key string) (object, error) {
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: &key})
	if code(err) == "NoSuchKey" {
		return object{}, nil
	}
	if err != nil {
		return object{}, err
	}
	defer out.Body.Close()
	data, err := io.ReadAll(out.Body)
	return object{data: data, version: aws.ToString(out.ETag)}, err
}

// write makes an object, or replaces the one that has the ETag version.
func (b *bucket) write(ctx context.Context, key string, data []byte, version string) (string, error) {
	in := &s3.PutObjectInput{Bucket: &b.name, Key: &key, Body: bytes.NewReader(data), ContentType: aws.String("application/json")}
	if version == "" {
		in.IfNoneMatch = aws.String("*")
	} else {
		in.IfMatch = &version
	}
	out, err := b.client.PutObject(ctx, in)
	if err != nil {
		return "", err
	}
	return aws.ToString(out.ETag), nil
}

func (b *bucket) put(ctx context.Context, data []byte, version string, private bool) (string, error) {
	if private {
		return "", errInBucket
	}
	switch h, lock, err := b.holder(ctx); {
	case err != nil:
		return "", b.explain(ctx, err)
	case lock.version == "":
		return "", lost(errLost)
	case h.ID != b.id:
		return "", lost(fmt.Errorf("%w: %s has it", errLost, h))
	}
	for {
		etag, err := b.write(ctx, b.key, data, version)
		if err == nil {
			b.unsure = nil
			return etag, nil
		}
		// It may be written though the answer says otherwise or is lost: of this try,
		// of one of the SDK's before it, or of an earlier call.
		now, readErr := b.read(ctx, b.key)
		ours := func(data []byte) bool { return slices.Contains(b.unsure, sum(data)) }
		switch {
		case readErr == nil && now.version != "" && bytes.Equal(now.data, data):
			b.unsure = nil
			return now.version, nil
		case readErr == nil && now.version != version && ours(now.data):
			version, b.unsure = now.version, nil
		case readErr == nil && now.version != version:
			return "", lost(errChanged)
		case readErr == nil && status(err) == http.StatusConflict: // with another request, which did not win
			if err := b.pause(ctx); err != nil {
				return "", err
			}
		default:
			b.unsure = append(b.unsure, sum(data))
			return "", b.explain(ctx, err)
		}
	}
}

func (b *bucket) lock(ctx context.Context, wait func(Holder)) error {
	me := self()
	body, err := b.acquire(ctx, me, wait)
	if err == nil {
		err = b.probe(ctx, body)
	}
	if err != nil && body != nil {
		// It may be ours. When that cannot be asked any more, who comes next is told
		// whose it is.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasing)
		defer cancel()
		_ = b.release(ctx, me.ID)
	}
	if err == nil {
		b.id = me.ID
	}
	return err
}

// acquire makes the lock, and returns its bytes, also with an error when it may be
// there nonetheless.
func (b *bucket) acquire(ctx context.Context, me Holder, wait func(Holder)) ([]byte, error) {
	for told := false; ; {
		me.Since = self().Since
		body, err := json.Marshal(me)
		if err != nil {
			return nil, err
		}
		body = append(body, '\n')
		if _, err = b.write(ctx, b.lockKey(), body, ""); err == nil {
			return body, nil
		}
		if !refused(err) {
			return body, b.explain(ctx, err)
		}
		h, lock, err := b.holder(ctx)
		switch {
		case err != nil:
			return body, b.explain(ctx, err)
		case h.ID == me.ID: // the answer to a try before this one was lost
			return body, nil
		case lock.version != "" && !told:
			told = true
			wait(h)
		}
		if err := b.pause(ctx); err != nil {
			return nil, err
		}
	}
}

// probe finds out whether the server does as conditions say: one that does not know
// them would let two lock at once.
func (b *bucket) probe(ctx context.Context, lock []byte) error {
	_, err := b.write(ctx, b.lockKey(), lock, `"00000000000000000000000000000000"`)
	switch {
	case err == nil, status(err) == http.StatusNotImplemented:
		return &hinted{errors.New("the server has no conditional writes"), "use one that has, such as Amazon S3 or versitygw, or keep the state in a file"}
	case refused(err):
		return nil
	}
	return b.explain(ctx, err)
}

// pause waits for the next look.
func (b *bucket) pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(b.poll):
		return nil
	}
}

// holder returns who has the lock, zero when what is there does not say, and its object.
func (b *bucket) holder(ctx context.Context) (h Holder, lock object, err error) {
	lock, err = b.read(ctx, b.lockKey())
	if json.Unmarshal(lock.data, &h) != nil {
		h = Holder{}
	}
	return h, lock, err
}

func (b *bucket) unlock(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, releasing, errSilent)
	defer cancel()
	return b.release(ctx, b.id)
}

// release removes the lock if it has the id.
func (b *bucket) release(ctx context.Context, id string) error {
	h, lock, err := b.holder(ctx)
	if err != nil || lock.version == "" || h.ID != id {
		return b.explain(ctx, err)
	}
	if err := b.remove(ctx, lock.version); !refused(err) {
		return b.explain(ctx, err)
	}
	return nil // it was taken away
}

// remove removes the lock that has the ETag version. A server that knows no conditions
// for this removes what is there.
func (b *bucket) remove(ctx context.Context, version string) error {
	key := b.lockKey()
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: &key, IfMatch: &version})
	if status(err) == http.StatusNotImplemented {
		_, err = b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: &key})
	}
	return err
}

func (b *bucket) force(ctx context.Context) (Holder, error) {
	h, lock, err := b.holder(ctx)
	switch {
	case err != nil:
		return h, b.explain(ctx, err)
	case lock.version == "":
		return h, errUnlocked
	}
	switch err := b.remove(ctx, lock.version); {
	case refused(err):
		return h, fmt.Errorf("%s unlocked it just now, and another may have it", h)
	case err != nil:
		return h, b.explain(ctx, err)
	}
	return h, nil
}

// refused says that a condition did not hold, or that somebody wrote at the same time.
func refused(err error) bool {
	s := status(err)
	return s == http.StatusPreconditionFailed || s == http.StatusConflict || s == http.StatusNotFound && code(err) != "NoSuchBucket"
}

// status returns the status of the HTTP response, 0 without one.
func status(err error) int {
	var response *awshttp.ResponseError
	if errors.As(err, &response) {
		return response.HTTPStatusCode()
	}
	return 0
}

// code returns S3's name for an error, such as "NoSuchKey" (Amazon S3 API Reference,
// "Error responses").
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// explain returns err in one line, with a hint where there is one.
func (b *bucket) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	hint := ""
	switch code(err) {
	case "AccessDenied", "AllAccessDisabled":
		hint = fmt.Sprintf("the credentials need s3:ListBucket for bucket %s, and s3:GetObject, s3:PutObject and s3:DeleteObject for %s and %s", b.name, b.key, b.lockKey())
	case "ExpiredToken", "RequestExpired", "TokenRefreshRequired":
		hint = "renew the credentials, as with aws sso login"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken":
		hint = "correct the credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or those of AWS_PROFILE"
	case "RequestTimeTooSkewed":
		hint = "set this computer's clock"
	case "NoSuchBucket":
		hint = "make the bucket, best with versioning, or correct its name"
	case "PermanentRedirect", "AuthorizationHeaderMalformed":
		hint = "name the bucket's region with ?region=R"
	}
	if err = plainly(err); hint != "" {
		return &hinted{err, hint}
	}
	return err
}

// plainly returns the cause of an error of the SDK, without its way there.
func plainly(err error) error {
	var api smithy.APIError
	var sent *url.Error
	switch {
	case errors.As(err, &api):
		return fmt.Errorf("%s: %s", api.ErrorCode(), strings.Join(strings.Fields(api.ErrorMessage()), " "))
	case strings.Contains(err.Error(), "no EC2 IMDS role found"): // the last place where the SDK looks
		return errors.New("there are none in the environment, in ~/.aws or of this machine")
	case errors.As(err, &sent):
		return sent.Err
	}
	return err
}
