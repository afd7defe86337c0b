package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

// A host is a registry as the client speaks to it.
type host struct {
	client  *Client
	name    string // "host[:port]", as in URLs
	plain   bool   // plain HTTP is allowed
	inner   http.RoundTripper
	reading chan struct{} // one element for each blob that is being read
	writing chan struct{}
	probing chan struct{} // held while the registry is asked what it speaks

	mu     sync.Mutex
	scheme string // empty: not known yet
	asks   challenge
	tokens []*token
}

// host returns the state that all repositories of a registry share.
func (c *Client) host(reg name.Registry, insecure bool) (*host, error) {
	insecure = insecure || c.insecure(reg.Name())
	key := fmt.Sprint(reg.Name(), insecure)
	c.mu.Lock()
	h := c.servers[key]
	c.mu.Unlock()
	if h != nil {
		return h, nil
	}
	g, err := c.guard(reg.Name(), insecure)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.servers[key]; h != nil {
		return h, nil
	}
	if c.servers == nil {
		c.servers = map[string]*host{}
	}
	h = &host{
		client: c, name: reg.Name(), plain: g.plain,
		reading: make(chan struct{}, c.concurrency()),
		writing: make(chan struct{}, c.concurrency()),
		probing: make(chan struct{}, 1),
	}
	h.inner = &retrier{inner: &patience{inner: g, limit: c.stallTimeout()}, client: c, host: h.name}
	c.servers[key] = h
	return h, nil
}

// guard makes the innermost stage for a registry.
func (c *Client) guard(registry string, insecure bool) (*guard, error) {
	local := isLoopback(hostname(registry))
	own, err := c.pool(registry, insecure, true)
	if err != nil {
		return nil, err
	}
	others, err := c.pool("", false, local)
	if err != nil {
		return nil, err
	}
	return &guard{own: own, others: others, registry: registry, local: local, plain: local || insecure}, nil
}

// pool returns the connections to a registry; "": to other hosts, which may be
// on this machine when local is true.
func (c *Client) pool(registry string, insecure, local bool) (*http.Transport, error) {
	key := registry
	if insecure || registry == "" && local {
		key += " relaxed"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pools == nil {
		c.pools = map[string]*http.Transport{}
	}
	if c.pools[key] == nil {
		conf, err := c.tlsConfig(registry, insecure)
		if err != nil {
			return nil, err
		}
		c.pools[key] = newTransport(conf, local)
	}
	return c.pools[key], nil
}

// probe asks the registry, once, whether it speaks TLS and what it wants to
// see (distribution-spec, "Determining Support").
func (h *host) probe(ctx context.Context) error {
	if h.known() {
		return nil
	}
	if err := acquire(ctx, h.probing); err != nil {
		return err
	}
	defer release(h.probing)
	if h.known() {
		return nil
	}
	scheme := "https"
	asks, err := h.ping(withTerms(ctx, terms{attempts: h.firstAttempts()}), scheme)
	var cert *tls.CertificateVerificationError
	if err != nil && status(err) == 0 && h.plain && ctx.Err() == nil && !errors.As(err, &cert) {
		scheme = "http"
		asks, err = h.ping(ctx, scheme)
	}
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scheme, h.asks = scheme, asks
	return nil
}

// firstAttempts is how often TLS is tried: once where plain HTTP comes next.
func (h *host) firstAttempts() int {
	if h.plain {
		return 1
	}
	return 0
}

// ping asks the registry what it wants to see.
func (h *host) ping(ctx context.Context, scheme string) (challenge, error) {
	u := url.URL{Scheme: scheme, Host: h.name, Path: "/v2/"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return challenge{}, err
	}
	req.Header.Set("User-Agent", h.client.userAgent())
	resp, err := h.inner.RoundTrip(req)
	if err != nil {
		return challenge{}, err
	}
	defer drain(resp)
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return parseChallenges(resp.Header), nil
	case temporaryStatus(resp.StatusCode):
		return challenge{}, readAnswer(resp)
	}
	return challenge{}, nil
}

func (h *host) known() bool { return h.origin() != "" }

// origin is the scheme that the registry speaks; empty: not known yet.
func (h *host) origin() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.scheme
}

// owns says whether a URL is the registry's own.
func (h *host) owns(u *url.URL) bool {
	scheme := h.origin()
	return scheme != "" && u.Scheme == scheme && sameHost(scheme, u.Host, h.name)
}

// sameHost compares two "host[:port]" of one scheme.
func sameHost(scheme, a, b string) bool {
	port := map[string]string{"https": ":443", "http": ":80"}[scheme]
	return a == b || a == b+port || a+port == b
}

// challenge is what the registry wants to see.
func (h *host) challenge() challenge {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asks
}

// learn replaces the challenge.
func (h *host) learn(ch challenge) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asks = ch
}

// acquire takes one of a bounded number of places.
func acquire(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func release(places chan struct{}) { <-places }

// terms are how a request is sent, beside what is in it.
type terms struct {
	scopes   []string      // what a token must allow
	attempts int           // 0: the client's
	patience time.Duration // for the answer; 0: the client's
}

type termsKey struct{}

func withTerms(ctx context.Context, t terms) context.Context {
	return context.WithValue(ctx, termsKey{}, t)
}

func termsOf(ctx context.Context) terms {
	t, _ := ctx.Value(termsKey{}).(terms)
	return t
}
