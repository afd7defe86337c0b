package remote

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// tokenServer gives out tokens, on a port of its own, for a registry that wants
// them: a token is what it allows, in plain text, and good until it is revoked.
type tokenServer struct {
	*httptest.Server
	registry *fakeRegistry

	mu       sync.Mutex
	asked    []string // "METHOD scopes user"
	oauth    bool     // identity tokens are taken
	life     int
	revoked  int // tokens below this number are not good any more
	issued   int
	deny     string // no token for scopes with this in it
	password string
}

func newTokenServer(t *testing.T) *tokenServer {
	t.Helper()
	s := &tokenServer{registry: newRegistry(t), password: "secret"}
	s.Server = httptest.NewServer(http.HandlerFunc(s.give))
	t.Cleanup(s.Close)
	s.registry.inject(s.check)
	return s
}

// give answers a request for a token.
func (s *tokenServer) give(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	scopes := r.URL.Query()["scope"]
	user, pass, _ := r.BasicAuth()
	if r.Method == http.MethodPost {
		if !s.oauth {
			w.WriteHeader(404)
			return
		}
		scopes = strings.Fields(r.PostFormValue("scope"))
		if r.PostFormValue("grant_type") == "refresh_token" {
			user, pass = "identity", r.PostFormValue("refresh_token")
		}
	}
	s.asked = append(s.asked, r.Method+" "+strings.Join(scopes, " ")+" "+user)
	if user != "" && pass != s.password || s.deny != "" && strings.Contains(strings.Join(scopes, " "), s.deny) {
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
		return
	}
	s.issued++
	json.NewEncoder(w).Encode(map[string]any{"token": fmt.Sprintf("%d|%s", s.issued, strings.Join(scopes, "|")), "expires_in": s.life})
}

// check is the registry's side.
func (s *tokenServer) check(w http.ResponseWriter, r *http.Request, _ int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	need := "pull"
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		need = "push"
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
	scope := "repository:" + name + ":" + need
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	number, allowed, _ := strings.Cut(token, "|")
	n := 0
	fmt.Sscan(number, &n)
	if ok && n > s.revoked && (name == "" || covers(strings.Split(allowed, "|"), []string{scope})) {
		return false
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="reg,istry",scope="%s"`, s.URL, scope))
	w.WriteHeader(401)
	return true
}

func (s *tokenServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

// A token server on another port of this machine is asked once for all that is
// done with a repository, whoever does it and how often; another repository
// needs another token.
func TestTokenScopes(t *testing.T) {
	s := newTokenServer(t)
	c := newClient(nil)
	c.Keychain = oneKey{authConfig("me", "secret")}
	r := testRepository(t, c, s.registry.host+"/app")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { putBlobErr(t, r, random(100+i)) })
	}
	wg.Wait()
	putImage(t, r, describeBlob(random(100)), nil, "", "v1")
	if _, err := r.Resolve(t.Context(), "v1"); err != nil {
		t.Fatal(err)
	}
	pushed(t, r, random(101))
	if got := s.requests(); !slices.Equal(got, []string{"GET repository:app:pull,push me"}) {
		t.Errorf("the token server was asked %q", got)
	}
	again, _, err := c.Repository(s.registry.host + "/app@" + describeBlob(nil).Digest.String())
	if err != nil || again != r {
		t.Errorf("another object for the same repository: %v", err)
	}
	other := testRepository(t, c, s.registry.host+"/other")
	if ok, err := other.Mount(t.Context(), describeBlob(random(100)), r.Name()); ok || err != nil {
		t.Errorf("Mount = %v, %v", ok, err)
	}
	putBlob(t, other, random(100))
	if got := s.requests(); !slices.Equal(got, []string{"GET repository:app:pull repository:other:pull,push me"}) {
		t.Errorf("the token server was asked %q for a mount and a push", got)
	}
	// That a repository cannot be mounted from is no reason not to push.
	s.deny = "closed"
	if ok, err := other.Mount(t.Context(), describeBlob(random(50)), s.registry.host+"/closed"); ok || err != nil {
		t.Errorf("Mount from a closed repository = %v, %v", ok, err)
	}
	s.requests()
	if ok, err := other.Mount(t.Context(), describeBlob(random(51)), s.registry.host+"/closed"); ok || err != nil || len(s.requests()) > 0 {
		t.Errorf("Mount from a closed repository again = %v, %v", ok, err)
	}
	putBlob(t, other, random(50))
}

func putBlobErr(t *testing.T, r *Repository, b []byte) {
	if err := r.PutBlob(t.Context(), describeBlob(b), bytes.NewReader(b)); err != nil {
		t.Error(err)
	}
}

// A token that ends is replaced, in the middle of an upload too, whose body is
// not sent on from where the refused request had read it.
func TestTokenRefresh(t *testing.T) {
	s := newTokenServer(t)
	c := newClient(nil)
	c.ChunkSize = 1 << 20
	c.Keychain = oneKey{authConfig("me", "secret")}
	r := testRepository(t, c, s.registry.host+"/app")
	b := random(3<<20 + 1)
	n := 0
	s.registry.inject(func(w http.ResponseWriter, r *http.Request, k int) bool {
		if r.Method == http.MethodPatch {
			s.mu.Lock()
			if n++; n == 2 {
				s.revoked = s.issued
				io.CopyN(io.Discard, r.Body, 1<<19)
			}
			s.mu.Unlock()
		}
		return s.check(w, r, k)
	})
	if err := r.PutBlob(t.Context(), describeBlob(b), bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	pushed(t, r, b)
	s.mu.Lock()
	s.revoked = s.issued
	s.mu.Unlock()
	s.requests()
	pushed(t, r, b)
	putImage(t, r, describeBlob(b), nil, "", "v1")
	if got := s.requests(); len(got) != 2 { // to pull, and then to push
		t.Errorf("the token server was asked %q", got)
	}
	s.life = 1
	s.revoked = s.issued
	for range 2 {
		if _, err := r.Resolve(t.Context(), "v1"); err != nil {
			t.Fatal(err)
		}
	}
}

// A registry that calls its repositories otherwise in its scopes says so, and
// gets a token for that.
func TestTokenOtherScope(t *testing.T) {
	s := newTokenServer(t)
	s.registry.putImageDirect(t, s)
	s.registry.inject(func(w http.ResponseWriter, r *http.Request, k int) bool {
		if r.URL.Path != "/v2/" && !strings.Contains(r.Header.Get("Authorization"), "repository:tenant/app:pull") {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",scope="repository:tenant/app:pull nonsense"`, s.URL))
			w.WriteHeader(401)
			return true
		}
		return false
	})
	c := newClient(nil)
	for range 2 {
		if _, err := c.Resolve(t.Context(), s.registry.host+"/app:v1", nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.requests(); !slices.Equal(got, []string{"GET repository:app:pull repository:tenant/app:pull "}) {
		t.Errorf("the token server was asked %q", got)
	}
}

// putImageDirect puts an image into the registry while it asks for no tokens.
func (f *fakeRegistry) putImageDirect(t *testing.T, s *tokenServer) {
	f.inject(nil)
	f.putImage(t, "v1", "amd64")
	f.inject(s.check)
}

// An identity token is exchanged by OAuth 2, or as a password where the server
// does not know that.
func TestIdentityToken(t *testing.T) {
	for _, oauth := range []bool{true, false} {
		s := newTokenServer(t)
		s.oauth = oauth
		c := newClient(nil)
		c.Keychain = oneKey{authn.AuthConfig{IdentityToken: "secret"}}
		putBlob(t, testRepository(t, c, s.registry.host+"/app"), random(10))
		want := "GET repository:app:pull,push <token>"
		if oauth {
			want = "POST repository:app:pull,push identity"
		}
		if got := s.requests(); !slices.Equal(got, []string{want}) {
			t.Errorf("the token server was asked %q, want %q", got, want)
		}
	}
	s := newTokenServer(t)
	c := newClient(nil)
	c.Keychain = oneKey{authn.AuthConfig{RegistryToken: "7|repository:app:pull,push"}}
	putBlob(t, testRepository(t, c, s.registry.host+"/app"), random(10))
	if got := s.requests(); len(got) != 0 {
		t.Errorf("the token server was asked %q in spite of a token", got)
	}
}

// A refusal says what was asked for, as whom, with whose credentials, and what to
// do; never the password.
func TestTokenRefused(t *testing.T) {
	s := newTokenServer(t)
	for _, tt := range []struct {
		key  authn.Keychain
		want []string
	}{
		{sourced{authConfig("me", "hunter2")}, []string{"repository:app:pull,push", `user me (from /etc/keys)`, "bk login " + s.registry.host, "who are you?"}},
		{oneKey{authn.AuthConfig{IdentityToken: "hunter2"}}, []string{"the stored token", "bk login"}},
	} {
		c := newClient(nil)
		c.Keychain = tt.key
		err := testRepository(t, c, s.registry.host+"/app").PutBlob(t.Context(), describeBlob(nil), bytes.NewReader(nil))
		if !errors.Is(err, fs.ErrPermission) || strings.Contains(err.Error(), "hunter2") {
			t.Fatalf("PutBlob: %v", err)
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("PutBlob: %v, want %q", err, want)
			}
		}
	}
}

// A registry that refuses a token says what the token was for.
func TestTokenTooWeak(t *testing.T) {
	s := newTokenServer(t)
	s.registry.inject(func(w http.ResponseWriter, r *http.Request, k int) bool {
		if r.Method == http.MethodPost {
			http.Error(w, `{"errors":[{"code":"DENIED","message":"read only"}]}`, http.StatusForbidden)
			return true
		}
		return s.check(w, r, k)
	})
	c := newClient(nil)
	err := testRepository(t, c, s.registry.host+"/app").PutBlob(t.Context(), describeBlob(nil), bytes.NewReader(nil))
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "DENIED: read only") || !strings.Contains(err.Error(), "for repository:app:pull,push as nobody") {
		t.Errorf("PutBlob: %v", err)
	}
}

type sourced struct{ auth authn.AuthConfig }

func (s sourced) Resolve(authn.Resource) (authn.Authenticator, error) { return s, nil }
func (s sourced) Authorization() (*authn.AuthConfig, error)           { return &s.auth, nil }
func (s sourced) Source() string                                      { return "/etc/keys" }

// What a registry says about its token server, and what that one answers, is not
// trusted: no password goes to where it should not, no answer is too large.
func TestHostileRealm(t *testing.T) {
	got := ""
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got += r.Header.Get("Authorization")
		io.WriteString(w, `{"token":"T"}`)
	}))
	defer other.Close()
	answer := func(w http.ResponseWriter, r *http.Request) {}
	realm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }))
	defer realm.Close()
	say := func(s string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, s) }
	}
	for name, tt := range map[string]struct {
		realm  string
		answer func(http.ResponseWriter, *http.Request)
		want   string
	}{
		"link-local":       {realm: "http://169.254.169.254/token", want: "link-local"},
		"old spelling":     {realm: "http://2852039166/token", want: "link-local"},
		"file":             {realm: "file:///etc/passwd", want: "no http or https URL"},
		"nothing":          {realm: "token", want: "no http or https URL"},
		"with credentials": {realm: "http://u:p@127.0.0.1:1/", want: "with credentials"},
		"redirect": {answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}, want: "redirects to"},
		"endless":     {answer: say(`{"token":"` + strings.Repeat("x", maxToken) + `"}`), want: "more than"},
		"no token":    {answer: say(`{}`), want: "no token"},
		"two lines":   {answer: say(`{"token":"a\r\nX: y"}`), want: "no token"},
		"no JSON":     {answer: say(`<html>`), want: "parse the answer"},
		"another one": {answer: say(`{"access_token":"T"}`), want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newRegistry(t)
			f.putImage(t, "v1", "amd64")
			to := tt.realm
			if to == "" {
				to, answer = realm.URL, tt.answer
			}
			f.inject(func(w http.ResponseWriter, r *http.Request, _ int) bool {
				if r.Header.Get("Authorization") == "Bearer T" {
					return false
				}
				w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", to))
				w.WriteHeader(401)
				return true
			})
			c := newClient(nil)
			c.Keychain = oneKey{authConfig("me", "secret")}
			_, err := c.Resolve(t.Context(), f.host+"/app:v1", nil)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Resolve: %v, want %q", err, tt.want)
			}
		})
	}
	if got != "" {
		t.Errorf("another host got %q", got)
	}
}

// A password goes to a token server encrypted, unless the registry itself speaks
// plain text, or both are on this machine.
func TestPlainRealm(t *testing.T) {
	me := &identity{conf: authConfig("me", "secret")}
	for _, tt := range []struct {
		registry, scheme, realm string
		who                     *identity
		ok                      bool
	}{
		{"reg.example", "https", "https://auth.example/token", me, true},
		{"reg.example", "https", "http://auth.example/token", me, false},
		{"reg.example", "https", "http://auth.example/token", &identity{}, true}, // the guard decides
		{"10.0.0.1:5000", "http", "http://10.0.0.2/token", me, true},
		{"127.0.0.1:5000", "https", "http://127.0.0.1:6000/token", me, true},
		{"127.0.0.1:5000", "https", "http://auth.example/token", me, false},
	} {
		h := &host{name: tt.registry, scheme: tt.scheme}
		if _, err := h.checkRealm(tt.realm, tt.who); (err == nil) != tt.ok {
			t.Errorf("%s://%s to %s: %v, want ok %v", tt.scheme, tt.registry, tt.realm, err, tt.ok)
		}
	}
}

// Credentials that came back by a redirect over another host are not shown.
func TestRedirectBack(t *testing.T) {
	f := newRegistry(t)
	desc := f.put(t, ocispec.MediaTypeImageLayer, []byte("0123456789"))
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, f.URL+"/v2/back", http.StatusFound)
	}))
	defer other.Close()
	shown := "nothing"
	f.inject(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		user, _, _ := r.BasicAuth()
		switch {
		case r.URL.Path == "/v2/back":
			shown = user
			io.WriteString(w, "0123456789")
		case user == "":
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(401)
		default:
			http.Redirect(w, r, other.URL, http.StatusFound)
		}
		return true
	})
	c := newClient(nil)
	c.Keychain = oneKey{authConfig("me", "secret")}
	if b, err := readBlob(t, c, f.host+"/app", desc); err != nil || string(b) != "0123456789" || shown != "" {
		t.Errorf("read %q, %v; the registry was shown %q", b, err, shown)
	}
}

// Login accepts what the registry accepts.
func TestLogin(t *testing.T) {
	s := newTokenServer(t)
	basic := newRegistry(t)
	basic.inject(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if _, pass, _ := r.BasicAuth(); pass == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(401)
		return true
	})
	open := newRegistry(t)
	c := newClient(nil)
	for _, tt := range []struct {
		registry, password string
		ok                 bool
	}{
		{s.registry.host, "secret", true},
		{s.registry.host + "/app", "secret", true},
		{s.registry.host, "wrong", false},
		{basic.host, "secret", true},
		{basic.host, "wrong", false},
		{open.host, "anything", true},
	} {
		err := c.Login(t.Context(), tt.registry, authConfig("me", tt.password))
		if (err == nil) != tt.ok || err != nil && (!errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "not accepted") || strings.Contains(err.Error(), "wrong")) {
			t.Errorf("Login(%s, %s): %v, want ok %v", tt.registry, tt.password, err, tt.ok)
		}
	}
}

// Challenges come in any form that HTTP allows.
func FuzzChallenges(f *testing.F) {
	for _, s := range []string{
		`Bearer realm="https://a/token",service="b,c",scope="repository:x:pull,push"`,
		`Basic realm="x", Bearer realm="https://a/\"t\""`, `Basic`, `Bearer`, `bearer REALM=a`, `Negotiate abc==, Basic realm=x`, `"`, `,,=,`, `a="`,
	} {
		f.Add(s)
	}
	want := map[string]string{
		`Bearer realm="https://a/token",service="b,c",scope="repository:x:pull,push"`: `bearer https://a/token b,c`,
		`Basic realm="x", Bearer realm="https://a/\"t\""`:                             `bearer https://a/"t" `,
		`Basic`:                          `basic  `,
		`Bearer`:                         `  `,
		`bearer REALM=a`:                 `bearer a `,
		`Negotiate abc==, Basic realm=x`: `basic  `,
	}
	f.Fuzz(func(t *testing.T, s string) {
		ch := parseChallenges(http.Header{"Www-Authenticate": {s}})
		if w, known := want[s]; known && fmt.Sprint(ch.scheme, " ", ch.realm, " ", ch.params["service"]) != w {
			t.Errorf("parseChallenges(%s) = %+v", s, ch)
		}
		if ch.scheme == "bearer" && ch.realm == "" {
			t.Errorf("parseChallenges(%q) has no realm", s)
		}
	})
}
