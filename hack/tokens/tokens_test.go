package tokens

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"bk.build/bk/hack/registry"
)

// fetch asks for a token and returns the answer and its status.
func fetch(t *testing.T, req *http.Request) (map[string]any, int) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := map[string]any{}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer, resp.StatusCode
}

func get(t *testing.T, s *Server, user, password, scope string) (map[string]any, int) {
	t.Helper()
	q := url.Values{"service": {service}, "scope": {scope}, "offline_token": {"true"}}
	req, err := http.NewRequest(http.MethodGet, s.Realm+"?"+q.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	return fetch(t, req)
}

func post(t *testing.T, s *Server, form url.Values) (map[string]any, int) {
	t.Helper()
	form.Set("service", service)
	req, err := http.NewRequest(http.MethodPost, s.Realm, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return fetch(t, req)
}

// use asks the registry for the tags of a repository: 404 says that it let the
// token pass.
func use(t *testing.T, addr, repo string, token any) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/v2/"+repo+"/tags/list", nil)
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := token.(string); ok {
		req.Header.Set("Authorization", "Bearer "+s)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// The registry takes tokens of both forms for what they were made for, and
// nothing else; wrong passwords get none. Both major releases of the registry do.
func TestRegistry(t *testing.T) {
	for _, program := range []string{"", "docker-registry"} {
		t.Run("registry "+program, func(t *testing.T) { testRegistry(t, program) })
	}
}

func testRegistry(t *testing.T, program string) {
	s := Start(t, Options{
		Users: map[string]string{"me": "secret"},
		Allow: func(user, name, action string) bool { return user == "me" || name == "public" && action == "pull" },
	})
	addr := registry.StartWith(t, registry.Options{Program: program, Token: s.Registry()})
	if got := use(t, addr, "app", nil); got != http.StatusUnauthorized {
		t.Errorf("without token: %d", got)
	}
	answer, status := get(t, s, "me", "secret", "repository:app:pull,push")
	if status != http.StatusOK || use(t, addr, "app", answer["token"]) != http.StatusNotFound {
		t.Errorf("GET = %v, %d", answer, status)
	}
	if got := use(t, addr, "other", answer["token"]); got != http.StatusUnauthorized {
		t.Errorf("another repository: %d", got)
	}
	for _, form := range []url.Values{
		{"grant_type": {"password"}, "username": {"me"}, "password": {"secret"}, "scope": {"repository:app:pull"}},
		{"grant_type": {"refresh_token"}, "refresh_token": {answer["refresh_token"].(string)}, "scope": {"repository:app:pull"}},
	} {
		if a, status := post(t, s, form); status != http.StatusOK || use(t, addr, "app", a["access_token"]) != http.StatusNotFound {
			t.Errorf("POST %v = %v, %d", form, a, status)
		}
	}
	if a, _ := get(t, s, "", "", "repository:app:pull repository:public:pull,push"); use(t, addr, "app", a["token"]) != http.StatusUnauthorized ||
		use(t, addr, "public", a["token"]) != http.StatusNotFound {
		t.Errorf("anonymous: %v", a)
	}
	if _, status := get(t, s, "me", "wrong", "repository:app:pull"); status != http.StatusUnauthorized {
		t.Errorf("wrong password: %d", status)
	}
	if _, status := post(t, s, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"wrong"}}); status != http.StatusUnauthorized {
		t.Errorf("wrong refresh token: %d", status)
	}
	var users []string
	for _, r := range s.Requests() {
		users = append(users, r.Method+" "+r.Grant+" "+r.User)
	}
	want := []string{"GET  me", "POST password me", "POST refresh_token me", "GET  ", "GET  me", "POST refresh_token "}
	if !slices.Equal(users, want) || len(s.Requests()) != 0 {
		t.Errorf("Requests() = %q, want %q", users, want)
	}
}

// A token has an end.
func TestLifetime(t *testing.T) {
	s := Start(t, Options{Users: map[string]string{"me": "secret"}, Lifetime: -2 * time.Minute})
	addr := registry.StartWith(t, registry.Options{Token: s.Registry()})
	a, _ := get(t, s, "me", "secret", "repository:app:pull")
	if got := use(t, addr, "app", a["token"]); got != http.StatusUnauthorized {
		t.Errorf("an old token: %d", got)
	}
}
