// Package tokens is a token server for tests: it signs tokens as the Docker
// token specification wants them, so that a real registry can be run with token
// authentication.
//
//	tokens := tokens.Start(t, tokens.Options{Users: map[string]string{"me": "secret"}})
//	addr := registry.StartWith(t, registry.Options{Token: tokens.Registry()})
//
// It answers both forms of a request: GET with basic authentication, and the
// POST of OAuth 2 with the grants "password" and "refresh_token". What was asked
// is counted, for tests of who asks how often for what.
package tokens

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bk.build/bk/hack/registry"
)

const (
	service = "test-registry"
	issuer  = "test-tokens"
)

// Options configures a server. The zero value knows no user and gives to
// everybody tokens that allow nothing.
type Options struct {
	// Users are names and passwords.
	Users map[string]string
	// Allow says whether a user ("": nobody) may do something, for example "pull"
	// in the repository "app"; the name of the catalog is "registry:catalog". nil:
	// users may do everything, nobody nothing.
	Allow func(user, name, action string) bool
	// Lifetime of tokens. 0: 5 minutes. The distribution registry takes tokens
	// for a minute longer, so one that is to be refused needs -2 minutes.
	Lifetime time.Duration
}

// A Server is a running token server.
type Server struct {
	// Realm is the URL of tokens, as registries name it.
	Realm string

	opts     Options
	signer   *signer
	mu       sync.Mutex
	requests []Request
	refresh  map[string]string // refresh token -> user
}

// A Request is what a client has asked for.
type Request struct {
	Method string   // GET, POST
	Grant  string   // of a POST: password, refresh_token
	User   string   // who the client says to be; "": nobody
	Scopes []string // "repository:app:pull"
	Status int      // of the answer
}

// Start runs a server until the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Lifetime == 0 {
		o.Lifetime = 5 * time.Minute
	}
	signer, err := newSigner(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{opts: o, signer: signer, refresh: map[string]string{}}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	// By name: clients are right to distrust a realm with a private address that
	// is not the registry's.
	s.Realm = "http://localhost" + h.URL[strings.LastIndexByte(h.URL, ':'):] + "/token"
	return s
}

// Registry says how a registry takes the tokens of this server.
func (s *Server) Registry() *registry.Token {
	return &registry.Token{Realm: s.Realm, Service: service, Issuer: issuer, CertFile: s.signer.certFile}
}

// Requests returns what was asked since the last call.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests
	s.requests = nil
	return r
}

// RefreshToken returns a token that stands for a user's password: what Docker's
// configuration calls an identity token.
func (s *Server) RefreshToken(user string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := rand.Text()
	s.refresh[token] = user
	return token
}

// ServeHTTP answers a request for a token.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req := Request{Method: r.Method, Status: http.StatusOK}
	var answer map[string]any
	switch {
	case r.URL.Path != "/token":
		req.Status = http.StatusNotFound
	case r.Method == http.MethodGet:
		answer = s.get(r, &req)
	case r.Method == http.MethodPost:
		answer = s.post(r, &req)
	default:
		req.Status = http.StatusMethodNotAllowed
	}
	s.mu.Lock()
	s.requests = append(s.requests, req)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if req.Status != http.StatusOK {
		answer = map[string]any{"errors": []any{map[string]any{"code": "UNAUTHORIZED", "message": http.StatusText(req.Status)}}}
	}
	w.WriteHeader(req.Status)
	_ = json.NewEncoder(w).Encode(answer)
}

// get answers the form of the Docker token specification.
func (s *Server) get(r *http.Request, req *Request) map[string]any {
	q := r.URL.Query()
	user, password, named := r.BasicAuth()
	req.User, req.Scopes = user, scopes(q["scope"])
	if named && !s.knows(user, password) {
		req.Status = http.StatusUnauthorized
		return nil
	}
	return s.answer(req, q, "token", named && q.Get("offline_token") == "true")
}

// post answers the form of OAuth 2.
func (s *Server) post(r *http.Request, req *Request) map[string]any {
	if err := r.ParseForm(); err != nil {
		req.Status = http.StatusBadRequest
		return nil
	}
	form := r.PostForm
	req.Grant, req.Scopes = form.Get("grant_type"), scopes(form["scope"])
	ok := false
	switch req.Grant {
	case "password":
		req.User = form.Get("username")
		ok = s.knows(req.User, form.Get("password"))
	case "refresh_token":
		s.mu.Lock()
		req.User, ok = s.refresh[form.Get("refresh_token")]
		s.mu.Unlock()
	}
	if !ok {
		req.Status = http.StatusUnauthorized
		return nil
	}
	return s.answer(req, form, "access_token", form.Get("access_type") == "offline")
}

func (s *Server) knows(user, password string) bool {
	want, ok := s.opts.Users[user]
	return ok && want == password
}

// answer makes a token for what the user may do of what was asked.
func (s *Server) answer(req *Request, params url.Values, field string, offline bool) map[string]any {
	if params.Get("service") != service {
		req.Status = http.StatusBadRequest
		return nil
	}
	now := time.Now()
	token, err := s.signer.sign(map[string]any{
		"iss": issuer, "aud": service, "sub": req.User, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Add(min(0, s.opts.Lifetime)).Unix(), "exp": now.Add(s.opts.Lifetime).Unix(),
		"access": s.grant(req.User, req.Scopes),
	})
	if err != nil {
		req.Status = http.StatusInternalServerError
		return nil
	}
	a := map[string]any{
		field: token, "expires_in": int(s.opts.Lifetime.Seconds()), "issued_at": now.UTC().Format(time.RFC3339),
		"scope": strings.Join(req.Scopes, " "),
	}
	if offline {
		a["refresh_token"] = s.RefreshToken(req.User)
	}
	return a
}

// grant returns the claim "access".
func (s *Server) grant(user string, asked []string) []any {
	access := []any{}
	for _, scope := range asked {
		kind, rest, _ := strings.Cut(scope, ":")
		i := strings.LastIndexByte(rest, ':')
		if i < 0 {
			continue
		}
		name := rest[:i]
		subject := name
		if kind != "repository" {
			subject = kind + ":" + name
		}
		actions := slices.DeleteFunc(strings.Split(rest[i+1:], ","), func(a string) bool { return !s.allowed(user, subject, a) })
		if len(actions) > 0 {
			access = append(access, map[string]any{"type": kind, "name": name, "actions": actions})
		}
	}
	return access
}

func (s *Server) allowed(user, name, action string) bool {
	if s.opts.Allow == nil {
		return user != ""
	}
	return s.opts.Allow(user, name, action)
}

// scopes splits the values of a parameter, each of which may hold several.
func scopes(values []string) []string {
	return strings.Fields(strings.Join(values, " "))
}
