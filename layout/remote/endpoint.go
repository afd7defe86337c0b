package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"bk.build/bk/layout/remote/hosts"
)

// maxURL bounds an address that a registry names, in bytes.
const maxURL = 16 << 10

// An endpoint is a repository at one place, and the way there.
type endpoint struct {
	host    *host
	path    string // the repository's name at the registry
	mirror  bool
	bouncer *bouncer
	http    *http.Client
	broken  atomic.Bool // a mirror that did not answer is not asked again
}

// endpoint returns the way to a place.
func (c *Client) endpoint(where hosts.Endpoint) (*endpoint, error) {
	where.Source = ""
	c.mu.Lock()
	e := c.endpoints[where]
	c.mu.Unlock()
	if e != nil {
		return e, nil
	}
	repo, err := name.NewRepository(where.Registry + "/" + where.Repository)
	switch {
	case err != nil:
	case shortHost(repo.RegistryStr()) != shortHost(where.Registry):
		err = errors.New("a registry's name has a dot or a port")
	case !validName(repo.RepositoryStr()):
		err = errors.New("parts of a name begin and end with letters or digits")
	}
	if err != nil {
		return nil, fmt.Errorf("%s/%s is not a valid repository: %w", where.Registry, where.Repository, err)
	}
	e, err = c.way(repo.Registry, where.Insecure, repo.RepositoryStr(), repo)
	if err != nil {
		return nil, err
	}
	e.mirror = where.Mirror
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.endpoints[where]; e != nil {
		return e, nil
	}
	if c.endpoints == nil {
		c.endpoints = map[hosts.Endpoint]*endpoint{}
	}
	c.endpoints[where] = e
	return e, nil
}

// way makes the way to a repository; "": to the registry itself. The keychain is
// asked for key.
func (c *Client) way(reg name.Registry, insecure bool, path string, key authn.Resource) (*endpoint, error) {
	h, err := c.host(reg, insecure)
	if err != nil {
		return nil, err
	}
	e := &endpoint{host: h, path: path, bouncer: &bouncer{host: h, where: key}}
	e.http = &http.Client{Transport: e.bouncer, CheckRedirect: limitRedirects}
	return e, nil
}

// A call is a request about an endpoint's repository.
type call struct {
	method string
	path   string   // below /v2/NAME/
	query  string   // raw
	url    *url.URL // instead of path and query: where an earlier answer leads to
	header http.Header
	// body is sent once; doc as often as it takes.
	body   io.Reader
	size   int64
	doc    []byte
	scopes []string // default: to pull
	ok     []int    // statuses that are no error
	slow   bool     // the registry has much to do before it answers
}

// do sends a request and turns an answer that is an error into one. The caller
// closes the body.
func (e *endpoint) do(ctx context.Context, c call) (*http.Response, error) {
	if err := e.host.probe(ctx); err != nil {
		return nil, withoutURL(err)
	}
	req, err := e.request(ctx, c)
	if err != nil {
		return nil, err
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	if !slices.Contains(c.ok, resp.StatusCode) {
		defer resp.Body.Close()
		answer := readAnswer(resp)
		if e.host.challenge().scheme == "bearer" {
			answer.Scopes = e.bouncer.scopes(req.Context())
		}
		return nil, answer
	}
	return resp, nil
}

func (e *endpoint) request(ctx context.Context, c call) (*http.Request, error) {
	t := terms{scopes: c.scopes}
	if t.scopes == nil {
		t.scopes = []string{e.scope("pull")}
	}
	if e.mirror {
		t.attempts = min(2, e.host.client.attempts())
	}
	if c.slow {
		t.patience = 10 * e.host.client.stallTimeout()
	}
	body := c.body
	if c.doc != nil {
		body = bytes.NewReader(c.doc)
	}
	req, err := http.NewRequestWithContext(withTerms(ctx, t), c.method, e.url(c).String(), body)
	if err != nil {
		return nil, withoutURL(err)
	}
	if c.doc == nil && c.body != nil {
		req.ContentLength = c.size
		req.GetBody = nil
	}
	if c.header != nil {
		req.Header = c.header.Clone()
	}
	req.Header.Set("User-Agent", e.host.client.userAgent())
	return req, nil
}

// url is the address of what a call is about.
func (e *endpoint) url(c call) *url.URL {
	if c.url != nil {
		return c.url
	}
	path := "/v2/"
	if e.path != "" {
		path += e.path + "/"
	}
	return &url.URL{Scheme: e.host.origin(), Host: e.host.name, Path: path + c.path, RawQuery: c.query}
}

// scope is what a token must allow for some actions on the repository.
func (e *endpoint) scope(what ...string) string { return scope(e.path, what...) }

// follow resolves an address in the answer to a request for from. It must have no
// credentials in it.
func follow(from *url.URL, to string) (*url.URL, error) {
	if len(to) > maxURL {
		return nil, fmt.Errorf("%w: the registry names an address of %d bytes", errRefused, len(to))
	}
	u, err := from.Parse(to)
	if err != nil {
		return nil, fmt.Errorf("the registry names an address that is no URL: %s", printable(to, 200))
	}
	if to == "" || u.Host == "" {
		return nil, errors.New("the registry does not say where to go on")
	}
	if u.User != nil {
		return nil, fmt.Errorf("%w: the registry names an address with credentials", errRefused)
	}
	return u, nil
}

// noteBroken says that a place that failed is not asked again.
func (e *endpoint) noteBroken(repo string, err error) {
	if status(err) != http.StatusNotFound && !e.broken.Swap(true) {
		e.host.client.notify("mirror %s/%s of %s: %v; going on without it", shortHost(e.host.name), e.path, repo, err)
	}
}

// waitAfter is how long to wait after the try-th failure. False: longer than
// anybody wants to.
func waitAfter(err error, try int) (time.Duration, bool) {
	var ae *AnswerError
	if errors.As(err, &ae) && ae.after != nil {
		return retryAfter(ae.after, backoff(try))
	}
	return backoff(try), true
}
