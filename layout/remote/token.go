package remote

import (
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

	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	// maxToken bounds the answer of a token server, in bytes; tokens go into a
	// header, which servers bound to less.
	maxToken = 128 << 10
	// maxTokens is how many tokens are kept for a registry.
	maxTokens = 256
	// tokenLife is how long a token is good for when its server does not say.
	tokenLife = time.Minute
)

// A token allows some scopes to an identity. One that many requests wait for is
// fetched once.
type token struct {
	owner  string // the identity's key, and where the token is from
	scopes []string
	busy   chan struct{} // held while the token is fetched

	// Under the host's lock:
	value          string
	fetched, until time.Time
}

// token returns a token for the scopes: one that is there, or a new one.
func (h *host) token(ctx context.Context, id *identity, ask challenge, scopes []string) (string, error) {
	scopes = mergeScopes(scopes)
	t, value := h.findToken(id.key()+" "+ask.realm+" "+ask.params["service"], scopes)
	if value != "" {
		return value, nil
	}
	if err := acquire(ctx, t.busy); err != nil {
		return "", err
	}
	defer release(t.busy)
	h.mu.Lock()
	value = t.valid()
	h.mu.Unlock()
	if value != "" {
		return value, nil
	}
	value, life, err := h.fetchToken(ctx, id, ask, scopes)
	if err != nil {
		return "", &TokenError{Realm: realmHost(ask.realm), Scopes: scopes, Err: err}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t.value, t.fetched = value, time.Now()
	t.until = t.fetched.Add(life)
	return value, nil
}

// valid returns the token while it is good.
func (t *token) valid() string {
	if t.value == "" || time.Now().After(t.until) {
		return ""
	}
	return t.value
}

// findToken returns the token of exactly these scopes, or the value of one that
// allows more.
func (h *host) findToken(owner string, scopes []string) (*token, string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var exact *token
	for _, t := range h.tokens {
		if t.owner != owner || !covers(t.scopes, scopes) {
			continue
		}
		if v := t.valid(); v != "" {
			return t, v
		}
		if slices.Equal(t.scopes, scopes) {
			exact = t
		}
	}
	if exact == nil {
		exact = &token{owner: owner, scopes: scopes, busy: make(chan struct{}, 1)}
		if len(h.tokens) >= maxTokens {
			h.tokens = slices.Delete(h.tokens, 0, maxTokens/2)
		}
		h.tokens = append(h.tokens, exact)
	}
	return exact, ""
}

// forget drops the tokens that a request could have shown which was refused, and
// was begun at the given time.
func (h *host) forget(scopes []string, begun time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.tokens {
		if t.fetched.Before(begun) && covers(t.scopes, scopes) {
			t.value = ""
		}
	}
}

// fetchToken asks the server that the registry names (distribution: token and
// oauth2 specifications).
func (h *host) fetchToken(ctx context.Context, id *identity, ask challenge, scopes []string) (string, time.Duration, error) {
	realm, err := h.checkRealm(ask.realm, id)
	if err != nil {
		return "", 0, err
	}
	ctx = withTerms(ctx, terms{})
	if id.conf.IdentityToken != "" {
		value, life, err := h.refreshToken(ctx, realm, id.conf, ask, scopes)
		switch status(err) {
		case http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
			// A server that knows no OAuth 2.
		default:
			return value, life, err
		}
	}
	q := realm.Query()
	if service := ask.params["service"]; service != "" {
		q.Set("service", service)
	}
	for _, s := range scopes {
		q.Add("scope", s)
	}
	conf := id.conf
	if conf.Username == "" && conf.IdentityToken != "" {
		conf.Username = "<token>"
	}
	if conf.Password == "" {
		conf.Password = conf.IdentityToken
	}
	if conf.Username != "" {
		q.Set("account", conf.Username)
	}
	realm.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return "", 0, err
	}
	switch {
	case conf.Username != "" || conf.Password != "":
		req.SetBasicAuth(conf.Username, conf.Password)
	case conf.Auth != "":
		req.Header.Set("Authorization", "Basic "+conf.Auth)
	}
	return h.askToken(req)
}

// refreshToken buys a token with an identity token.
func (h *host) refreshToken(ctx context.Context, realm *url.URL, conf authn.AuthConfig, ask challenge, scopes []string) (string, time.Duration, error) {
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {conf.IdentityToken},
		"client_id":     {"bk"},
		"service":       {ask.params["service"]},
	}
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return h.askToken(req)
}

// checkRealm parses the address of a token server. Credentials go there
// encrypted, or in plain text where the registry's own answers come so.
func (h *host) checkRealm(realm string, id *identity) (*url.URL, error) {
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%w: the registry names the token server %s, which is no http or https URL", errRefused, printable(realm, 200))
	}
	if u.User != nil {
		return nil, fmt.Errorf("%w: the registry names a token server with credentials in its URL", errRefused)
	}
	here := isLoopback(hostname(h.name)) && isLoopback(u.Hostname())
	if u.Scheme == "http" && h.origin() != "http" && !here && !id.anonymous() {
		return nil, fmt.Errorf("%w: the registry asks for credentials to be sent to %s in plain text", errRefused, u.Host)
	}
	return u, nil
}

func realmHost(realm string) string {
	u, err := url.Parse(realm)
	if err != nil {
		return ""
	}
	return u.Host
}

// askToken sends a request to a token server and reads its answer.
func (h *host) askToken(req *http.Request) (string, time.Duration, error) {
	req.Header.Set("User-Agent", h.client.userAgent())
	client := http.Client{Transport: h.inner, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Scheme != req.URL.Scheme || next.URL.Host != req.URL.Host {
			return fmt.Errorf("%w: the token server redirects to %s", errRefused, next.URL.Host)
		}
		return limitRedirects(next, via)
	}}
	resp, err := client.Do(req)
	if err != nil {
		return "", 0, withoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", 0, readAnswer(resp)
	}
	var answer struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxToken+1))
	if err != nil {
		return "", 0, fmt.Errorf("read the answer: %w", err)
	}
	if len(b) > maxToken {
		return "", 0, fmt.Errorf("the answer has more than %d bytes", maxToken)
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return "", 0, fmt.Errorf("parse the answer: %w", err)
	}
	value := answer.Token
	if value == "" {
		value = answer.AccessToken
	}
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", 0, errors.New("the answer has no token that can be used")
	}
	return value, lifetime(answer.ExpiresIn), nil
}

// lifetime is how long a token is used that is good for some seconds.
func lifetime(seconds float64) time.Duration {
	life := tokenLife
	if seconds >= 1 {
		life = time.Duration(min(seconds, 24*3600) * float64(time.Second))
	}
	return life * 9 / 10
}
