package credentials

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
)

// What is stored is found again under every spelling, and gone when it is
// erased; the file is its owner's alone.
func TestStore(t *testing.T) {
	h := newHome(t)
	k := h.keychain()
	for i, name := range []string{"a.example", "a.example/team", "b.example:5000", "docker.io", "https://c.example/v2/", "docker.io/team"} {
		auth := authn.AuthConfig{Username: "me", Password: fmt.Sprint("pass:\n<&> ", i)}
		stored, err := k.Store(t.Context(), name, auth)
		if want := (Stored{Where: h.dir + "/.docker/config.json", Plain: true}); err != nil || stored != want {
			t.Fatalf("Store(%q) = %+v, %v; want %+v", name, stored, err, want)
		}
		c, err := k.Find(t.Context(), name)
		if c == nil || err != nil {
			t.Fatalf("Find(%q) = %v, %v", name, c, err)
		}
		if got, err := c.Authorization(); err != nil || got.Password != auth.Password {
			t.Errorf("Find(%q) = %v, %v", name, got, err)
		}
	}
	if fi, err := os.Stat(h.dir + "/.docker/config.json"); err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", fi.Mode(), err)
	}
	var doc struct{ Auths map[string]any }
	if err := json.Unmarshal([]byte(h.read(".docker/config.json")), &doc); err != nil || doc.Auths["https://index.docker.io/v1/"] == nil || len(doc.Auths) != 6 {
		t.Errorf("the file has %v, %v", doc.Auths, err)
	}
	names, err := k.Logins()
	if want := []string{"a.example", "a.example/team", "b.example:5000", "c.example", "docker.io", "docker.io/team"}; err != nil || !cmp.Equal(names, want) {
		t.Errorf("Logins() = %q, %v; want %q", names, err, want)
	}
	for i, name := range names {
		from, err := k.Erase(t.Context(), name)
		if want := []string{h.dir + "/.docker/config.json"}; err != nil || !cmp.Equal(from, want) {
			t.Errorf("Erase(%q) = %q, %v; want %q", name, from, err, want)
		}
		if rest, err := k.Logins(); err != nil || len(rest) != len(names)-i-1 {
			t.Errorf("Logins() after Erase(%q) = %q, %v", name, rest, err)
		}
	}
	if from, err := k.Erase(t.Context(), "a.example"); err != nil || len(from) != 0 {
		t.Errorf("Erase of nothing = %q, %v", from, err)
	}
}

// Everything else in the file stays as it is, in its order; entries that mean
// the same become one.
func TestStoreKeepsTheRest(t *testing.T) {
	h := newHome(t)
	h.write(".docker/config.json", `{"HttpHeaders":{"X":"<&>"},"unknown":[1.50,1e400,12345678901234567890],
		"auths":{"https://a.example/v1/":{"auth":"b2xkOjE="},"a.example":{"auth":"b2xkOjE=","email":"me@example"},"b.example":{"auth":"Yjox","x":null}},"currentContext":"c"}`)
	if _, err := h.keychain().Store(t.Context(), "a.example", authn.AuthConfig{Username: "me", Password: "new"}); err != nil {
		t.Fatal(err)
	}
	want := `{
	"HttpHeaders": {
		"X": "<&>"
	},
	"unknown": [
		1.50,
		1e400,
		12345678901234567890
	],
	"auths": {
		"a.example": {
			"email": "me@example",
			"auth": "bWU6bmV3"
		},
		"b.example": {
			"auth": "Yjox",
			"x": null
		}
	},
	"currentContext": "c"
}
`
	if diff := cmp.Diff(want, h.read(".docker/config.json")); diff != "" {
		t.Error(diff)
	}
	if _, err := h.keychain().Store(t.Context(), "a.example", authn.AuthConfig{Username: "me", IdentityToken: "T"}); err != nil {
		t.Fatal(err)
	}
	if got, err := h.find("a.example"); got != "token:T" || err != nil {
		t.Errorf("Find = %q, %v; want the identity token", got, err)
	}
}

// A helper keeps the secret, the file only says that it does.
func TestStoreInHelper(t *testing.T) {
	h := newHome(t, "one", "store")
	h.write(".docker/config.json", `{"auths":{"a.example/x":{"auth":"b2xkOjE="}},"credHelpers":{"one.example":"one"},"credsStore":"store"}`)
	k := h.keychain()
	for name, helper := range map[string]string{"a.example/x": "store", "a.example": "store", "one.example": "one", "one.example/x": "store", "docker.io": "store"} {
		stored, err := k.Store(t.Context(), name, authn.AuthConfig{Username: "me", Password: "hunter2 " + name})
		if want := (Stored{Where: "docker-credential-" + helper}); err != nil || stored != want {
			t.Errorf("Store(%q) = %+v, %v; want %+v", name, stored, err, want)
		}
		if got, err := h.find(name); got != "me:hunter2 "+name || err != nil {
			t.Errorf("Find(%q) = %q, %v", name, got, err)
		}
	}
	if _, err := k.Store(t.Context(), "token.example", authn.AuthConfig{IdentityToken: "T"}); err != nil {
		t.Error(err)
	}
	if got, err := h.find("token.example"); got != "token:T" || err != nil {
		t.Errorf("Find = %q, %v; want the identity token", got, err)
	}
	if text := h.read(".docker/config.json"); strings.Contains(text, `"auth"`) || !strings.Contains(text, `"a.example/x": {}`) {
		t.Errorf("the file has %s", text)
	}
	from, err := k.Erase(t.Context(), "a.example/x")
	if want := []string{"docker-credential-store"}; err != nil || !cmp.Equal(from, want) {
		t.Errorf("Erase = %q, %v; want %q", from, err, want)
	}
	if got, err := h.find("a.example/x"); got != "me:hunter2 a.example" || err != nil {
		t.Errorf("Find = %q, %v; want that of the host", got, err)
	}
	// Without the program nothing is stored, and no plain entry stays.
	h.write(".docker/config.json", `{"auths":{"a.example":{"auth":"b2xkOjE="}},"credsStore":"missing"}`)
	if _, err := k.Store(t.Context(), "a.example", authn.AuthConfig{Username: "me", Password: "hunter2"}); err == nil || !strings.Contains(err.Error(), "docker-credential-missing is not installed") {
		t.Errorf("Store: %v", err)
	}
	from, err = k.Erase(t.Context(), "a.example")
	if err == nil || len(from) != 1 || strings.Contains(h.read(".docker/config.json"), "a.example") {
		t.Errorf("Erase = %q, %v", from, err)
	}
}

// A file that cannot be understood is not written to, nor are credentials that
// could not be read back.
func TestStoreRefuses(t *testing.T) {
	h := newHome(t)
	ok := authn.AuthConfig{Username: "me", Password: "hunter2"}
	for _, content := range []string{"{", "[]", `{"auths":[]}`, `{"auths":{},"auths":{}}`, `{"auths":{"a.example":1}}`, `{} {}`, `{"auths":{"a":{},"a":{}}}`} {
		h.write(".docker/config.json", content)
		if _, err := h.keychain().Store(t.Context(), "a.example", ok); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Store to %q: %v", content, err)
		}
		if got := h.read(".docker/config.json"); got != content {
			t.Errorf("%q became %q", content, got)
		}
	}
	h.write(".docker/config.json", "")
	for _, auth := range []authn.AuthConfig{{}, {Username: "me"}, {Password: "x"}, {Username: "a:b", Password: "x"}} {
		if _, err := h.keychain().Store(t.Context(), "a.example", auth); err == nil {
			t.Errorf("Store of %q:%q", auth.Username, auth.Password)
		}
	}
	h.vars = map[string]string{}
	if _, err := h.keychain().Store(t.Context(), "a.example", ok); err == nil || !strings.Contains(err.Error(), "DOCKER_CONFIG") {
		t.Errorf("Store without a home: %v", err)
	}
}

// A file that is a link to somewhere stays one.
func TestStoreThroughLink(t *testing.T) {
	h := newHome(t)
	target := h.write("dotfiles/docker.json", "{}")
	link := filepath.Join(h.dir, ".docker", "config.json")
	if err := errors.Join(os.Mkdir(filepath.Dir(link), 0o700), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.keychain().Store(t.Context(), "a.example", authn.AuthConfig{Username: "me", Password: "x"}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Lstat(link); err != nil || fi.Mode().Type() != os.ModeSymlink || !strings.Contains(h.read("dotfiles/docker.json"), "a.example") {
		t.Errorf("the link became %v, %v", fi.Mode(), err)
	}
}

// Logins at the same moment lose nothing, and leave nothing behind.
func TestStoreAtOnce(t *testing.T) {
	h := newHome(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := h.keychain().Store(t.Context(), fmt.Sprint(i, ".example"), authn.AuthConfig{Username: "me", Password: "x"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if names, err := h.keychain().Logins(); err != nil || len(names) != 20 {
		t.Errorf("Logins() = %q, %v; want 20", names, err)
	}
	if files, err := os.ReadDir(h.dir + "/.docker"); err != nil || len(files) != 1 {
		t.Errorf("the directory has %v, %v", files, err)
	}
}

// A login changes one entry of a file and nothing else, whatever the file holds.
func FuzzStore(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://a.example/v1/":{"auth":"b2xkOjE="},"b":{"x":[1e400]}},"credsStore":"x","n":-0.10}`))
	f.Add([]byte(`{"auths":null,"\u0061":{"a":"\ud800"}}`))
	f.Add([]byte(" "))
	f.Fuzz(func(t *testing.T, b []byte) {
		before, err := parseObject(b)
		if _, bad := parse("f", b); err != nil || bad != nil {
			return
		}
		doc, _ := parseObject(b)
		if err := doc.setAuth("a.example", entry{Auth: "bWU6bmV3"}); err != nil {
			return
		}
		b, err = doc.encode()
		if err != nil {
			t.Fatal(err)
		}
		file, err := parse("f", b)
		if err != nil || file.auths["a.example"].Auth != "bWU6bmV3" {
			t.Fatalf("the entry is not there: %v\n%s", err, b)
		}
		after, err := parseObject(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range before.members {
			var old, now bytes.Buffer
			if err := errors.Join(json.Compact(&old, m.value), json.Compact(&now, after.get(m.key))); err != nil {
				t.Fatal(err)
			}
			if m.key != "auths" && old.String() != now.String() {
				t.Errorf("%q was %s and is %s", m.key, &old, &now)
			}
		}
	})
}
