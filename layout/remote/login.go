package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Login checks credentials for a registry ("HOST[:PORT]", or a part of it,
// "HOST/PATH"): it shows them as the registry wants to see them, and is an error
// when they are not accepted. Nothing is stored. A registry that asks nobody
// accepts anything.
func (c *Client) Login(ctx context.Context, registry string, auth authn.AuthConfig) error {
	host, path, _ := strings.Cut(registry, "/")
	own := c.loginClient(auth)
	e, err := own.registry(host, registry)
	if err == nil {
		err = e.login(ctx, path)
	}
	own.Close()
	err = fail("log in to", registry, e, err)
	if failed, ok := err.(*Error); ok && errors.Is(err, fs.ErrPermission) {
		failed.Hint = "" // it is about credentials that are stored
	}
	return err
}

// loginClient is a client with one key.
func (c *Client) loginClient(auth authn.AuthConfig) *Client {
	return &Client{Insecure: c.Insecure, CertDirs: c.CertDirs, Keychain: oneKey{auth}, Hosts: c.Hosts, Attempts: c.Attempts,
		StallTimeout: c.StallTimeout, Notify: c.Notify, UserAgent: c.UserAgent, wait: c.wait}
}

// oneKey gives the same credentials to everybody who asks.
type oneKey struct{ auth authn.AuthConfig }

func (k oneKey) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(k.auth), nil
}

func (e *endpoint) login(ctx context.Context, path string) error {
	if err := e.host.probe(ctx); err != nil {
		return withoutURL(err)
	}
	c := call{method: http.MethodGet, scopes: []string{}, ok: ok200}
	if path != "" {
		c.scopes = []string{scope(path, "pull")}
	}
	if e.host.challenge().scheme == "" {
		e.host.client.notify("registry %s asks for no credentials", shortHost(e.host.name))
	}
	resp, err := e.do(ctx, c)
	switch status(err) {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("the credentials are not accepted: %w", err)
	}
	if err != nil {
		return err
	}
	drain(resp)
	if e.host.challenge().scheme != "" && e.bouncer.used() == nil {
		return errors.New("the registry did not look at the credentials")
	}
	return nil
}
