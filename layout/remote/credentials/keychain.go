// Package credentials knows who logs in where: it reads what docker login,
// podman login and Kubernetes have left, asks credential helpers, and stores
// what bk login is told.
//
//	sources.go   the files, in order
//	file.go      a file -> entries
//	helper.go    docker-credential-* programs
//	cloud.go     helpers for the registries of clouds, when nothing is configured
//	store.go     Store and Erase
//
// For the repository host/a/b the names host/a/b, host/a and host are looked up,
// in this order, in the first file that has any of them. In a file, the entry of
// credHelpers comes before credsStore and that before auths. A file that cannot
// be read and a helper that fails do not stand in the way of the others; the
// error is returned when nothing is found.
//
// No secret is in an error or in what String returns.
package credentials

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Keychain finds credentials. The zero value works; it is safe for concurrent
// use. Files are read once, and again after Store and Erase; the answers of
// helper programs are kept for some minutes.
type Keychain struct {
	// Getenv gives environment variables. nil: os.Getenv.
	Getenv func(string) string
	// HelperTimeout is how long a helper program may take. 0: a minute.
	HelperTimeout time.Duration

	mu      sync.Mutex
	sources []source // nil: not read yet
	answers map[question]*answer
}

// A Credential is what was found. It is an authn.Authenticator.
type Credential struct {
	// Name is what it is for: "host" or "host/path".
	Name string
	// User is the name at the registry; it may be empty.
	User string

	source string
	auth   authn.AuthConfig
	ask    func(context.Context) (authn.AuthConfig, error) // nil: auth is for ever
}

var (
	_ authn.Keychain             = (*Keychain)(nil)
	_ authn.ContextKeychain      = (*Keychain)(nil)
	_ authn.Authenticator        = (*Credential)(nil)
	_ authn.ContextAuthenticator = (*Credential)(nil)
)

// Resolve is ResolveContext without a context.
func (k *Keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext returns the *Credential for a registry or repository. When
// there is none it returns authn.Anonymous, with an error when that may be
// because something could not be read: access may work all the same.
func (k *Keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	c, err := k.Find(ctx, r.String())
	if c == nil {
		return authn.Anonymous, err
	}
	return c, nil
}

// Find returns the credential for "host[:port]" or "host[:port]/path", or nil;
// see ResolveContext for its error.
func (k *Keychain) Find(ctx context.Context, name string) (*Credential, error) {
	names := parents(Canonical(name))
	var first error
	for _, s := range k.load() {
		err := s.err
		if err == nil {
			var c *Credential
			if c, err = k.lookup(ctx, s.file, names); c != nil {
				return c, nil
			}
		}
		if first == nil {
			first = err
		}
	}
	c, err := k.cloud(ctx, names[len(names)-1])
	if c != nil {
		return c, nil
	}
	if first == nil {
		first = err
	}
	return nil, first
}

// load reads the files.
func (k *Keychain) load() []source {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sources == nil {
		k.sources = append([]source{}, readSources(k.getenv)...)
	}
	return k.sources
}

// forget makes the next lookup read everything again.
func (k *Keychain) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sources, k.answers = nil, nil
}

// lookup returns the most specific credential of a file.
func (k *Keychain) lookup(ctx context.Context, f *file, names []string) (*Credential, error) {
	var first error
	for i, name := range names {
		isHost := i == len(names)-1
		c, err := k.entry(ctx, f, name, isHost)
		if c != nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// entry returns a file's credential for exactly this name.
func (k *Keychain) entry(ctx context.Context, f *file, name string, isHost bool) (*Credential, error) {
	helper, server, e, known := f.helper(name, isHost)
	var first error
	if helper != "" {
		var c *Credential
		if c, first = k.fromHelper(ctx, helper, server, name); c != nil {
			c.source += ", named by " + f.path
			return c, nil
		}
		if first != nil {
			first = fmt.Errorf("%s names a credential helper for %s: %w", f.path, name, first)
		}
	}
	if !known {
		return nil, first
	}
	auth, err := e.config()
	if err != nil {
		return nil, fmt.Errorf("%s: entry %q: %w", f.path, name, err)
	}
	if auth == (authn.AuthConfig{}) {
		return nil, first
	}
	return &Credential{Name: name, User: auth.Username, source: f.path, auth: auth}, nil
}

// fromHelper asks a program; nil: it has nothing.
func (k *Keychain) fromHelper(ctx context.Context, helper, server, name string) (*Credential, error) {
	ask := func(ctx context.Context) (authn.AuthConfig, error) {
		return k.ask(ctx, question{helper: helper, server: server})
	}
	auth, err := ask(ctx)
	if err != nil || auth == (authn.AuthConfig{}) {
		return nil, err
	}
	return &Credential{Name: name, User: auth.Username, source: programName(helper), auth: auth, ask: ask}, nil
}

// Authorization is AuthorizationContext without a context.
func (c *Credential) Authorization() (*authn.AuthConfig, error) {
	return c.AuthorizationContext(context.Background())
}

// AuthorizationContext returns the secret. One of a helper program is asked for
// again after some minutes, because clouds give such that end.
func (c *Credential) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	auth := c.auth
	if c.ask != nil {
		fresh, err := c.ask(ctx)
		if err != nil {
			return nil, err
		}
		if fresh != (authn.AuthConfig{}) {
			auth = fresh
		}
	}
	return &auth, nil
}

// Source is the file, or the helper program, that the credential is from.
func (c *Credential) Source() string { return c.source }

// String says where the credential is from and for whom: user "me" for quay.io
// from /root/.docker/config.json.
func (c *Credential) String() string {
	if c.User == "" {
		return fmt.Sprintf("a token for %s from %s", c.Name, c.source)
	}
	return fmt.Sprintf("user %q for %s from %s", c.User, c.Name, c.source)
}

// GoString is String, so that no way of printing shows the secret.
func (c *Credential) GoString() string { return c.String() }

func (k *Keychain) getenv(name string) string {
	if k.Getenv != nil {
		return k.Getenv(name)
	}
	return os.Getenv(name)
}

// parents returns a name and those it is below: a/b/c, a/b, a.
func parents(name string) []string {
	names := []string{name}
	for {
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return names
		}
		name = name[:i]
		names = append(names, name)
	}
}

// Canonical is the name of a registry, or of something in it, whatever program
// wrote it: without scheme, trailing slash and the API's version, the host in
// lower case, Docker Hub as docker.io.
func Canonical(name string) string {
	rest, isURL := strings.CutPrefix(name, "https://")
	if !isURL {
		rest, isURL = strings.CutPrefix(name, "http://")
	}
	host, path, _ := strings.Cut(rest, "/")
	host = strings.ToLower(host)
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		host = hub
	}
	// "host/v1" is a namespace, "host/v1/" and "https://host/v1" are the API.
	switch path {
	case "v1/", "v2/":
		path = ""
	case "v1", "v2":
		if isURL {
			path = ""
		}
	}
	path = strings.Trim(path, "/")
	if path == "" {
		return host
	}
	return host + "/" + path
}

const (
	hub    = "docker.io"
	hubKey = "https://index.docker.io/v1/" // of Docker Hub in Docker's files
)

// storageKey is how Docker's configuration writes a canonical name.
func storageKey(name string) string {
	if name == hub {
		return hubKey
	}
	return name
}
