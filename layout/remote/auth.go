package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// An identity is who asks: the credentials for a repository, and where they are
// from.
type identity struct {
	conf   authn.AuthConfig
	source string // "" when not known
	err    error  // why configured credentials could not be read
}

func (id *identity) anonymous() bool { return id.conf == authn.AuthConfig{} }

// key tells identities apart without being a secret.
func (id *identity) key() string {
	h := sha256.New()
	for _, s := range []string{id.conf.Username, id.conf.Password, id.conf.Auth, id.conf.IdentityToken, id.conf.RegistryToken} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// String describes the identity without its secrets.
func (id *identity) String() string {
	s := "the stored token"
	switch {
	case id.anonymous():
		return "nobody"
	case id.conf.Username != "":
		s = "user " + printable(id.conf.Username, 64)
	}
	if id.source != "" {
		s += " (from " + printable(id.source, 200) + ")"
	}
	return s
}

// credentials looks a repository up in the keychain. When that fails, for
// example because a credential helper is not installed, access is anonymous and
// the error is kept for the hint.
func (c *Client) credentials(ctx context.Context, where authn.Resource) *identity {
	auth, err := authn.Resolve(ctx, c.keychain(), where)
	var conf *authn.AuthConfig
	if err == nil {
		conf, err = authn.Authorization(ctx, auth)
	}
	if err != nil {
		return &identity{err: err}
	}
	id := &identity{}
	if conf != nil {
		id.conf = *conf
	}
	if s, ok := auth.(interface{ Source() string }); ok {
		id.source = s.Source()
	}
	return id
}

// keychain is the one that was configured, or that of Docker, Podman and
// Kubernetes.
func (c *Client) keychain() authn.Keychain {
	if c.Keychain != nil {
		return c.Keychain
	}
	return &c.own
}

// A bouncer is the stage that shows credentials: to the registry itself, and as
// long as no redirect led away from it. What it shows is what the registry asks
// for, on the first request as well as in the middle of anything; a request
// that is refused is sent once more with fresh credentials, unless its body has
// been read and cannot be had again.
type bouncer struct {
	host  *host
	where authn.Resource // what the keychain is asked for

	mu   sync.Mutex
	id   *identity // nil: to be looked up
	last *identity // for messages; nil: never looked up
	// more are scopes that the registry wants of a token beside those that the
	// specification has it want.
	more []string
}

// RoundTrip sends req with credentials.
func (b *bouncer) RoundTrip(req *http.Request) (*http.Response, error) {
	if !b.host.owns(req.URL) || b.strayed(req) {
		return b.host.inner.RoundTrip(req)
	}
	for again := false; ; again = true {
		begun := time.Now()
		shown, err := b.authorization(req.Context())
		if err != nil {
			if req.Body != nil {
				req.Body.Close()
			}
			return nil, err
		}
		out := req
		if shown != "" {
			out = req.Clone(req.Context())
			out.Header.Set("Authorization", shown)
		}
		resp, err := b.host.inner.RoundTrip(out)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || again {
			return resp, err
		}
		if !b.refused(req.Context(), resp, shown, begun) || hasBody(req) && req.GetBody == nil {
			return resp, nil
		}
		drain(resp)
		if req, err = rewound(req); err != nil {
			return nil, err
		}
	}
}

// strayed says whether redirects led to this request over another host.
func (b *bouncer) strayed(req *http.Request) bool {
	for resp := req.Response; resp != nil && resp.Request != nil; resp = resp.Request.Response {
		if !b.host.owns(resp.Request.URL) {
			return true
		}
	}
	return false
}

// who returns the credentials.
func (b *bouncer) who(ctx context.Context) *identity {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.id == nil {
		b.id = b.host.client.credentials(ctx, b.where)
		b.last = b.id
	}
	return b.id
}

// used returns the credentials that were shown last; nil: none were asked for.
func (b *bouncer) used() *identity {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// authorization is the header that answers the registry's challenge; empty:
// none.
func (b *bouncer) authorization(ctx context.Context) (string, error) {
	ask := b.host.challenge()
	if ask.scheme == "" {
		return "", nil
	}
	id := b.who(ctx)
	switch {
	case id.conf.RegistryToken != "":
		return "Bearer " + id.conf.RegistryToken, nil
	case ask.scheme == "bearer":
		t, err := b.host.token(ctx, id, ask, b.scopes(ctx))
		if err != nil {
			return "", err
		}
		return "Bearer " + t, nil
	case id.conf.Username != "" || id.conf.Password != "":
		req := http.Request{Header: http.Header{}}
		req.SetBasicAuth(id.conf.Username, id.conf.Password)
		return req.Header.Get("Authorization"), nil
	case id.conf.Auth != "":
		return "Basic " + id.conf.Auth, nil
	}
	return "", nil
}

// refused takes note of a 401 after what was shown, and says whether there is
// something else to show.
func (b *bouncer) refused(ctx context.Context, resp *http.Response, shown string, begun time.Time) bool {
	before := b.host.challenge()
	ask := parseChallenges(resp.Header)
	if ask.scheme != "" {
		b.host.learn(ask)
	}
	wasToken := strings.HasPrefix(shown, "Bearer ")
	if wasToken {
		b.host.forget(b.scopes(ctx), begun)
	}
	b.learn(ctx, ask)
	b.mu.Lock()
	old := b.last
	b.id = nil // the keychain may have a newer password
	b.mu.Unlock()
	if ask.scheme == "" {
		return wasToken && (old == nil || old.conf.RegistryToken == "")
	}
	if ask.scheme == "bearer" {
		return true
	}
	id := b.who(ctx)
	return !id.anonymous() && (before.scheme != ask.scheme || old == nil || id.key() != old.key())
}

// scopes are what a token must allow for a request.
func (b *bouncer) scopes(ctx context.Context) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return mergeScopes(append(b.more[:len(b.more):len(b.more)], termsOf(ctx).scopes...))
}

// learn takes note of the scopes that a registry names, which has names of its
// own for its repositories.
func (b *bouncer) learn(ctx context.Context, ask challenge) {
	have := b.scopes(ctx)
	for _, s := range strings.Fields(ask.params["scope"]) {
		if _, _, ok := cutScope(s); ok && !covers(have, []string{s}) && len(have) < maxScopes {
			b.mu.Lock()
			b.more = append(b.more, s)
			b.mu.Unlock()
			have = b.scopes(ctx)
		}
	}
}
