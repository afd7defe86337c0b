package registry

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func hashOf(t testing.TB, password string) string {
	t.Helper()
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// writeUsers replaces a file of users.
func writeUsers(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// Each request needs a user of the file and the user's password, as the file is
// at that time.
func TestUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	writeUsers(t, path, "# people\n\nann:"+hashOf(t, "one")+"\nbob:"+hashOf(t, "two:three")+"\n")
	var seen string
	c := client{t, newRegistry(t, Options{Htpasswd: path, Log: func(r Request) { seen = r.User }})}
	check := func(status int, headers ...string) {
		t.Helper()
		rec := c.want(status, "GET", "/v2/", "", headers...)
		if status != http.StatusUnauthorized {
			return
		}
		if !strings.HasPrefix(rec.Header().Get("WWW-Authenticate"), "Basic realm=") || code(rec) != codeUnauthorized {
			t.Errorf("%v %s", rec.Header(), rec.Body)
		}
	}
	check(401)
	check(401, "Authorization", "Bearer x")
	check(401, "Authorization", "Basic !")
	for range 2 { // the second is remembered
		check(200, "Authorization", basic("ann", "one"))
		check(200, "Authorization", basic("bob", "two:three"))
	}
	if seen != "bob" {
		t.Errorf("logged user %q", seen)
	}
	for _, a := range []string{basic("ann", "two:three"), basic("ann", ""), basic("", ""), basic("eve", "one"), basic("annone", ""), basic("ann:one", "x")} {
		check(401, "Authorization", a)
	}
	c.want(401, "PUT", "/v2/a/manifests/v1", "{}")
	c.want(401, "GET", "/v2/!", "") // nothing is told before
	writeUsers(t, path, "ann:"+hashOf(t, "new password")+"\n")
	check(401, "Authorization", basic("ann", "one"))
	check(401, "Authorization", basic("bob", "two:three"))
	check(200, "Authorization", basic("ann", "new password"))
	// A file that cannot be understood lets nobody in.
	writeUsers(t, path, "ann:plain\n")
	c.want(500, "GET", "/v2/", "", "Authorization", basic("ann", "new password"))
	os.Remove(path)
	c.want(500, "GET", "/v2/", "", "Authorization", basic("ann", "new password"))
}

// A password that was right is not hashed again with each request, until the
// file changes.
func TestVerifiedUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	writeUsers(t, path, "ann:"+hashOf(t, "one")+"\n")
	reg := newRegistry(t, Options{Htpasswd: path})
	c := client{t, reg}
	c.want(200, "GET", "/v2/", "", "Authorization", basic("ann", "one"))
	reg.users.hashes["ann"] = []byte("not a hash any more: nobody looks at it")
	c.want(200, "GET", "/v2/", "", "Authorization", basic("ann", "one"))
	c.want(401, "GET", "/v2/", "", "Authorization", basic("ann", "two"))
	for i := range 3 * maxVerified {
		reg.users.remember("ann", reg.users.hashes["ann"], [32]byte{byte(i), byte(i >> 8)})
	}
	if n := len(reg.users.verified); n > maxVerified {
		t.Errorf("%d passwords are remembered", n)
	}
}

// Only hashes that are worth something are taken.
func TestParseUsers(t *testing.T) {
	good := hashOf(t, "x")
	for _, bad := range []string{
		"ann", ":" + good, "ann:", "ann:plain", "ann:$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/",
		"ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "ann:$2y$99$" + strings.Repeat("a", 53), "ok:" + good + "\nann:plain",
		strings.Repeat("#", maxUsers+1),
	} {
		if got, err := parseUsers([]byte(bad)); err == nil {
			t.Errorf("parseUsers(%.40q) = %v", bad, got)
		}
	}
	if _, err := New(newRegistry(t, Options{}).dir, Options{Htpasswd: "/none"}); err == nil {
		t.Error("a registry without its users")
	}
}

func FuzzUsers(f *testing.F) {
	f.Add([]byte("ann:" + hashOf(f, "x") + "\n"))
	f.Add([]byte("# x\n\n:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		users, err := parseUsers(b)
		for name, hash := range users {
			if err == nil && (name == "" || len(hash) < 59) {
				t.Errorf("%q: %q", name, hash)
			}
		}
	})
}
