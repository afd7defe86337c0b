package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"bk.build/bk/layout"
)

// Client reads from registries. The zero value works; it is safe for concurrent
// use and keeps connections and tokens, so one serves a whole build.
type Client struct {
	// Insecure lists registries ("host" or "host:port", exactly as references
	// name them) that may be spoken to in plain HTTP, or with a certificate
	// that nobody vouches for.
	Insecure []string
	// CertDirs are directories with a subdirectory HOST or HOST:PORT for each
	// registry that has certificates of its own, as Docker has them: *.crt are
	// authorities to trust, *.cert with *.key are shown to the registry. nil:
	// /etc/docker/certs.d and /etc/containers/certs.d.
	CertDirs []string
	// Keychain gives credentials; nil: the configuration of Docker or Podman.
	Keychain authn.Keychain
	// Attempts is how often a request is sent before a temporary failure is
	// final. 0: 5.
	Attempts int
	// StallTimeout is how long a registry may be silent. 0: 60 seconds.
	StallTimeout time.Duration

	wait     func(context.Context, time.Duration) error // nil: sleep; tests replace it
	mu       sync.Mutex
	sessions map[string]*session
	pools    map[string]*http.Transport // by registry; "" for all other hosts
}

// A session is an authenticated connection to one repository.
type session struct {
	mu     sync.Mutex // held while the connection is authenticated
	client *http.Client
	repo   name.Repository
	scheme string
	// auth is looked up once; keyErr says why configured credentials could not
	// be read.
	auth   authn.Authenticator
	keyErr error
}

// reference parses ref, with Docker's defaults, and returns its canonical name.
func (c *Client) reference(ref string) (name.Reference, string, error) {
	full := layout.NormalizeName(ref)
	host, _, _ := strings.Cut(full, "/")
	if host == "localhost" {
		return nil, "", fmt.Errorf("image reference %q: a registry on localhost needs a port, as in localhost:5000/app", ref)
	}
	var opts []name.Option
	if slices.Contains(c.Insecure, host) {
		opts = append(opts, name.Insecure)
	}
	parsed, err := name.ParseReference(ref, opts...)
	if err != nil {
		return nil, "", fmt.Errorf("image reference %q is not valid: want [REGISTRY/]NAME[:TAG][@DIGEST], the name in lower case: %w", ref, err)
	}
	return parsed, full, nil
}

// session returns the authenticated session of a repository and makes it on
// first use.
func (c *Client) session(ctx context.Context, repo name.Repository) (*session, error) {
	c.mu.Lock()
	if c.sessions == nil {
		c.sessions = map[string]*session{}
	}
	s := c.sessions[repo.Name()]
	if s == nil {
		s = &session{repo: repo}
		c.sessions[repo.Name()] = s
	}
	c.mu.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s, nil
	}
	return s, c.authenticate(ctx, s)
}

// authenticate asks the registry what it wants to see and gets a token.
func (c *Client) authenticate(ctx context.Context, s *session) error {
	if s.auth == nil {
		s.auth, s.keyErr = c.credentials(ctx, s.repo)
	}
	g, err := c.guard(s.repo.Registry)
	if err != nil {
		return err
	}
	inner := &retrier{inner: g, attempts: c.attempts(), wait: c.sleep}
	rt, err := transport.NewWithContext(ctx, s.repo.Registry, s.auth, inner, []string{s.repo.Scope(transport.PullScope)})
	if err != nil {
		return withoutURL(err)
	}
	s.scheme = "https"
	if g.plain {
		s.scheme = "http" // the transport corrects it to what answered
	}
	s.client = &http.Client{Transport: rt, CheckRedirect: limitRedirects}
	return nil
}

// credentials looks a repository up in the keychain. When that fails, for
// example because a credential helper is not installed, access is anonymous and
// the error is kept for the hint.
func (c *Client) credentials(ctx context.Context, repo name.Repository) (authn.Authenticator, error) {
	keychain := c.Keychain
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	auth, err := authn.Resolve(ctx, keychain, repo)
	if err == nil && auth == authn.Anonymous && repo.RegistryStr() == name.DefaultRegistry {
		auth, err = authn.Resolve(ctx, keychain, hubAlias{}) // what Podman calls it
	}
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			err = fmt.Errorf("the credential helper is not installed: %w", err)
		}
		return authn.Anonymous, err
	}
	return auth, nil
}

// hubAlias is Docker Hub under the name that Podman's login stores.
type hubAlias struct{}

func (hubAlias) String() string      { return "docker.io" }
func (hubAlias) RegistryStr() string { return "docker.io" }

func (c *Client) attempts() int {
	if c.Attempts <= 0 {
		return 5
	}
	return c.Attempts
}

func (c *Client) stallTimeout() time.Duration {
	if c.StallTimeout <= 0 {
		return time.Minute
	}
	return c.StallTimeout
}

// sleep waits for d or until ctx ends.
func (c *Client) sleep(ctx context.Context, d time.Duration) error {
	if c.wait != nil {
		return c.wait(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// guard makes the innermost stage for a registry.
func (c *Client) guard(reg name.Registry) (*guard, error) {
	own, err := c.pool(reg.Name())
	if err != nil {
		return nil, err
	}
	others, err := c.pool("")
	if err != nil {
		return nil, err
	}
	local := isLoopback(hostname(reg.Name()))
	return &guard{
		own:      own,
		others:   others,
		registry: reg.Name(),
		local:    local,
		plain:    local || slices.Contains(c.Insecure, reg.Name()),
	}, nil
}

// pool returns the connections to a registry; "": to other hosts.
func (c *Client) pool(registry string) (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pools == nil {
		c.pools = map[string]*http.Transport{}
	}
	if c.pools[registry] == nil {
		conf, err := c.tlsConfig(registry)
		if err != nil {
			return nil, err
		}
		c.pools[registry] = newTransport(conf, c.stallTimeout())
	}
	return c.pools[registry], nil
}

// Close closes idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.pools {
		t.CloseIdleConnections()
	}
}

// hostname is the host of "host[:port]", without brackets.
func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}
