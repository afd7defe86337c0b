package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

const (
	firstDelay = 200 * time.Millisecond
	maxDelay   = 10 * time.Second
	// maxRetryAfter is the longest wait that a registry may ask for; longer
	// ones are reported instead.
	maxRetryAfter = 2 * time.Minute
)

// retrier is the stage that sends a request again after a temporary failure.
// It does so with every request that can be repeated: its body can be had
// again, and twice is the same as once. That is not so of a part of an upload,
// whose sender looks first what has arrived.
type retrier struct {
	inner  http.RoundTripper
	client *Client
	host   string
}

// RoundTrip returns the first response that is final, or the last one.
func (r *retrier) RoundTrip(req *http.Request) (*http.Response, error) {
	attempts := termsOf(req.Context()).attempts
	if attempts <= 0 {
		attempts = r.client.attempts()
	}
	if req.Method == http.MethodPatch || hasBody(req) && req.GetBody == nil {
		attempts = 1
	}
	for try := 1; ; try++ {
		resp, err := r.inner.RoundTrip(req)
		delay, again := backoff(try), false
		if err != nil {
			again = temporary(err)
		} else if temporaryStatus(resp.StatusCode) {
			delay, again = retryAfter(resp.Header, delay)
		}
		if try > 1 && err == nil && req.Method == http.MethodDelete && resp.StatusCode == http.StatusNotFound {
			resp.StatusCode = http.StatusAccepted // an earlier attempt has done it
		}
		if !again || try >= attempts || req.Context().Err() != nil {
			return resp, err
		}
		if resp != nil {
			err = fmt.Errorf("the answer is %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
			drain(resp)
		}
		r.client.again(req.Method+" "+req.URL.Path+" at "+shortHost(r.host), withoutURL(err), try, delay)
		if err := r.client.sleep(req.Context(), delay); err != nil {
			return nil, err
		}
		if req, err = rewound(req); err != nil {
			return nil, err
		}
	}
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// rewound is a request that can be sent again.
func rewound(req *http.Request) (*http.Request, error) {
	if !hasBody(req) {
		return req, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Body = body
	return req, nil
}

// drain ends a response whose body does not matter, so that its connection can
// be used again.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}

// backoff is how long to wait after the try-th failure: doubling, with jitter
// so that clients don't come back all at once.
func backoff(try int) time.Duration {
	d := firstDelay << min(try-1, 16)
	d = min(d, maxDelay)
	return d/2 + rand.N(d/2+1)
}

// retryAfter is how long the server wants to be left alone (RFC 9110, 10.2.3),
// at least d. False: longer than anybody wants to wait.
func retryAfter(h http.Header, d time.Duration) (time.Duration, bool) {
	v := h.Get("Retry-After")
	if v == "" {
		return d, true
	}
	asked := time.Duration(0)
	if s, err := strconv.ParseInt(v, 10, 64); err == nil {
		asked = time.Duration(min(max(s, 0), 1<<30)) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		asked = time.Until(at)
	}
	return max(d, asked), asked <= maxRetryAfter
}

// temporaryStatus says whether a status may be another one soon.
func temporaryStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusInsufficientStorage:
		return false
	}
	return code >= 500
}

// temporary says whether a failure to get a response may go away: resets,
// timeouts, refused connections; not certificates, unknown names or what the
// caller gave up.
func temporary(err error) bool {
	var (
		cert   *tls.CertificateVerificationError
		record tls.RecordHeaderError
		dns    *net.DNSError
	)
	switch {
	case errors.Is(err, errRefused), errors.Is(err, context.Canceled):
		return false
	case errors.Is(err, errStalled):
		return true
	case errors.As(err, &cert), errors.As(err, &record):
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	}
	return true
}
