package credentials

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	protocol "github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-containerregistry/pkg/authn"
)

// TestMain is a credential helper when it is called by the name of one.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); strings.HasPrefix(name, "docker-credential-") {
		log, err := os.OpenFile(os.Getenv("HELPER_DIR")+".log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			fmt.Fprintln(log, name, os.Args[1])
			log.Close()
		}
		protocol.Serve(files{os.Getenv("HELPER_DIR")})
		return
	}
	os.Exit(m.Run())
}

// files is a helper that keeps credentials in a directory.
type files struct{ dir string }

func (f files) path(server string) string {
	return filepath.Join(f.dir, base64.URLEncoding.EncodeToString([]byte(server)))
}

func (f files) Add(c *protocol.Credentials) error {
	return errors.Join(os.MkdirAll(f.dir, 0o700), os.WriteFile(f.path(c.ServerURL), []byte(c.Username+"\n"+c.Secret), 0o600))
}

func (f files) Delete(server string) error { return os.Remove(f.path(server)) }

func (f files) Get(server string) (string, string, error) {
	switch server {
	case "slow.example":
		time.Sleep(time.Minute)
	case "broken.example":
		return "", "", errors.New("the keyring is locked")
	case "loud.example":
		return strings.Repeat("x", maxAnswer), "", nil
	}
	b, err := os.ReadFile(f.path(server))
	if err != nil {
		return "", "", protocol.NewErrCredentialsNotFound()
	}
	user, secret, _ := strings.Cut(string(b), "\n")
	return user, secret, nil
}

func (f files) List() (map[string]string, error) { return nil, nil }

// A home is a user with nothing configured.
type home struct {
	t    testing.TB
	dir  string
	vars map[string]string
}

// newHome makes a home with the helpers that are named.
func newHome(t testing.TB, helpers ...string) *home {
	t.Helper()
	h := &home{t: t, dir: t.TempDir(), vars: map[string]string{}}
	h.vars["HOME"] = h.dir
	h.vars["XDG_RUNTIME_DIR"] = filepath.Join(h.dir, "run")
	bin := filepath.Join(h.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range helpers {
		if err := os.Symlink(self, filepath.Join(bin, "docker-credential-"+name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	t.Setenv("HELPER_DIR", filepath.Join(h.dir, "secrets"))
	return h
}

// write writes a file of the home.
func (h *home) write(name, content string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *home) read(name string) string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.dir, name))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

// give stores a credential in the helpers.
func (h *home) give(server, user, secret string) {
	h.t.Helper()
	if err := (files{filepath.Join(h.dir, "secrets")}).Add(&protocol.Credentials{ServerURL: server, Username: user, Secret: secret}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *home) keychain() *Keychain {
	return &Keychain{Getenv: func(name string) string { return h.vars[name] }}
}

// find looks a name up and returns "user:password", "token:..." or "".
func (h *home) find(name string) (string, error) {
	h.t.Helper()
	c, err := h.keychain().Find(h.t.Context(), name)
	if c == nil {
		return "", err
	}
	auth, authErr := c.Authorization()
	if authErr != nil {
		h.t.Fatal(authErr)
	}
	return secret(*auth), err
}

func secret(auth authn.AuthConfig) string {
	switch {
	case auth.IdentityToken != "":
		return "token:" + auth.IdentityToken
	case auth.RegistryToken != "":
		return "bearer:" + auth.RegistryToken
	}
	return auth.Username + ":" + auth.Password
}

// auths is a configuration with entries ("host", "user:password", ...).
func auths(entries ...string) string {
	var list []string
	for i := 0; i < len(entries); i += 2 {
		list = append(list, fmt.Sprintf("%q:{%q:%q}", entries[i], "auth", base64.StdEncoding.EncodeToString([]byte(entries[i+1]))))
	}
	return `{"auths":{` + strings.Join(list, ",") + `}}`
}
