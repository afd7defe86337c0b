package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"bk.build/bk/layout"
	"bk.build/bk/layout/remote/credentials"
	"bk.build/bk/layout/remote/hosts"
)

// Client speaks to registries. The zero value works; it is safe for concurrent
// use and keeps connections and tokens, so one serves a whole build. Its fields
// are set before its first use.
type Client struct {
	// Insecure lists registries ("host" or "host:port", exactly as references
	// name them) that may be spoken to in plain HTTP, or with a certificate
	// that nobody vouches for.
	Insecure []string
	// CertDirs are directories with a subdirectory HOST or HOST:PORT for each
	// registry that has certificates of its own, as Docker has them: *.crt are
	// authorities to trust, *.cert with *.key are shown to the registry. nil:
	// /etc/docker/certs.d, /etc/containers/certs.d, and the same below the user's
	// ~/.config.
	CertDirs []string
	// Keychain gives credentials, asked with the whole repository; nil: see
	// [credentials.Keychain]. It is asked when a registry wants to see some. An
	// Authenticator with a method Source() string says where its
	// credentials come from, for messages.
	Keychain authn.Keychain
	// Hosts says where repositories are to be had; nil: at the registry that
	// their name begins with. What is read comes from the first place that has
	// it.
	Hosts *hosts.Config
	// Attempts is how often a request is sent before a temporary failure is
	// final. 0: 5.
	Attempts int
	// StallTimeout is how long a registry may be silent: before it answers,
	// while it sends, and while it takes what is sent. The end of an upload, at
	// which registries hash it once more, may take ten times as long. 0: 60
	// seconds.
	StallTimeout time.Duration
	// Concurrency bounds the blobs that are read from one registry at a time,
	// and those that are written. A reader counts until it is at its end or
	// closed. 0: 8.
	Concurrency int
	// ChunkSize is how many bytes of a blob are uploaded in one request when the
	// blob is larger than that. 0: 64 MiB.
	ChunkSize int64
	// State is a directory in which unfinished uploads are remembered, so that
	// another process goes on with them. Empty: they are not.
	State string
	// Notify gets a line for people each time something is tried again or
	// elsewhere: what, why, after how long. It is called from many goroutines.
	// nil: nobody is told.
	Notify func(string)
	// UserAgent is how the client introduces itself. Empty: "bk".
	UserAgent string

	wait      func(context.Context, time.Duration) error // nil: sleep; tests replace it
	own       credentials.Keychain
	mu        sync.Mutex
	repos     map[string]*Repository
	endpoints map[hosts.Endpoint]*endpoint
	servers   map[string]*host
	pools     map[string]*http.Transport // see pool
}

// Repository returns the repository that ref ("[REGISTRY/]NAME[:TAG][@DIGEST]",
// with Docker's defaults) is in, and the tag or digest that it ends with:
// the digest when it has both, "latest" when it has neither. Nothing is asked
// of the registry.
func (c *Client) Repository(ref string) (repo *Repository, id string, err error) {
	parsed, err := parseReference(ref)
	if err != nil {
		return nil, "", err
	}
	return c.repository(parsed.Context()), parsed.Identifier(), nil
}

func (c *Client) repository(repo name.Repository) *Repository {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.repos == nil {
		c.repos = map[string]*Repository{}
	}
	r := c.repos[repo.Name()]
	if r == nil {
		r = newRepository(c, repo)
		c.repos[repo.Name()] = r
	}
	return r
}

// parseReference parses ref, with Docker's defaults.
func parseReference(ref string) (name.Reference, error) {
	host, _, _ := strings.Cut(layout.NormalizeName(ref), "/")
	if host == "localhost" {
		return nil, fmt.Errorf("image reference %q: a registry on localhost needs a port, as in localhost:5000/app", ref)
	}
	parsed, err := name.ParseReference(ref)
	if err == nil && !validName(parsed.Context().RepositoryStr()) {
		err = errors.New("parts of a name begin and end with letters or digits")
	}
	if err != nil {
		return nil, fmt.Errorf("image reference %q is not valid: want [REGISTRY/]NAME[:TAG][@DIGEST], the name in lower case: %w", ref, err)
	}
	return parsed, nil
}

// notify tells people something.
func (c *Client) notify(format string, args ...any) {
	if c.Notify != nil {
		c.Notify(fmt.Sprintf(format, args...))
	}
}

// again tells that something is tried again.
func (c *Client) again(what string, why error, try int, d time.Duration) {
	c.notify("%s: %v; trying again in %v (%d of %d)", what, why, d.Round(10*time.Millisecond), try+1, c.attempts())
}

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

func (c *Client) concurrency() int {
	if c.Concurrency <= 0 {
		return 8
	}
	return c.Concurrency
}

func (c *Client) chunkSize() int64 {
	if c.ChunkSize <= 0 {
		return 64 << 20
	}
	return c.ChunkSize
}

func (c *Client) userAgent() string {
	if c.UserAgent == "" {
		return "bk"
	}
	return c.UserAgent
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

// insecure says whether a registry is listed as insecure.
func (c *Client) insecure(registry string) bool {
	return slices.Contains(c.Insecure, registry) || slices.Contains(c.Insecure, shortHost(registry))
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

// shortHost is a registry's name as people write it.
func shortHost(registry string) string {
	if registry == name.DefaultRegistry {
		return "docker.io"
	}
	return registry
}
