package credentials

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"bk.build/bk/hack/registry"
)

// peer returns a function that runs a program in a home.
func peer(t *testing.T, h *home, name string) func(args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(name + " is not installed")
	}
	return func(args ...string) (string, error) {
		cmd := exec.Command(path, args...)
		cmd.Stdin = strings.NewReader("secret\n")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		for k, v := range h.vars {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

// plainHome is a home in which the installed programs can be found.
func plainHome(t *testing.T) *home {
	path := os.Getenv("PATH")
	h := newHome(t)
	h.write("run/exists", "") // the directory of Podman's logins
	t.Setenv("PATH", path)
	return h
}

// What skopeo and podman store is found, for a registry and for a part of one.
func TestReadPeers(t *testing.T) {
	for _, program := range []string{"skopeo", "podman"} {
		t.Run(program, func(t *testing.T) {
			h := plainHome(t)
			run := peer(t, h, program)
			addr := registry.StartWith(t, registry.Options{Htpasswd: registry.Htpasswd(t, "me", "secret")})
			for _, name := range []string{addr, addr + "/team/app"} {
				if out, err := run("login", "--tls-verify=false", "-u", "me", "--password-stdin", name); err != nil {
					t.Fatalf("%s login %s: %v\n%s", program, name, err, out)
				}
			}
			for lookup, want := range map[string]string{addr: addr, addr + "/x": addr, addr + "/team/app": addr + "/team/app"} {
				c, err := h.keychain().Find(t.Context(), lookup)
				if c == nil || err != nil || c.Name != want || c.User != "me" {
					t.Errorf("Find(%q) = %v, %v; want the entry %q", lookup, c, err, want)
				}
			}
		})
	}
}

// What is stored is understood by skopeo, podman and docker; docker's logout
// removes it.
func TestPeersRead(t *testing.T) {
	h := plainHome(t)
	for _, name := range []string{"a.example:5000", "b.example/team", "docker.io"} {
		if _, err := h.keychain().Store(t.Context(), name, authn.AuthConfig{Username: "me", Password: "secret"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"skopeo", "podman"} {
		t.Run(program, func(t *testing.T) {
			run := peer(t, h, program)
			for _, name := range []string{"a.example:5000", "docker.io"} {
				if out, err := run("login", "--get-login", name); err != nil || strings.TrimSpace(out) != "me" {
					t.Errorf("%s login --get-login %s = %q, %v", program, name, out, err)
				}
			}
		})
	}
	t.Run("docker", func(t *testing.T) {
		run := peer(t, h, "docker")
		for _, args := range [][]string{{"logout", "a.example:5000"}, {"logout"}} {
			if out, err := run(args...); err != nil {
				t.Fatalf("docker %q: %v\n%s", args, err, out)
			}
		}
		names, err := h.keychain().Logins()
		if err != nil || len(names) != 1 || names[0] != "b.example/team" {
			t.Errorf("after docker's logout: %q, %v", names, err)
		}
	})
}
