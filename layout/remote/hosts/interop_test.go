package hosts

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A visited list records which repositories a client asks which server for.
type visited struct {
	mu   sync.Mutex
	list []string
}

func (v *visited) serve(t *testing.T) (host string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if repo, _, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/"); ok {
			v.mu.Lock()
			v.list = append(v.list, r.Host+" "+repo)
			v.mu.Unlock()
		}
		if r.URL.Path != "/v2/" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// The same file sends skopeo to the same places in the same order.
func TestSkopeo(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not installed")
	}
	var v visited
	a, b, c := v.serve(t), v.serve(t), v.serve(t)
	home := t.TempDir()
	write(t, home, ".config/containers/registries.conf", fmt.Sprintf(`
[[registry]]
prefix = "example.com/foo"
location = "%[1]s/bar"
insecure = true
[[registry.mirror]]
location = "%[2]s/always"
insecure = true
[[registry.mirror]]
location = "%[3]s"
insecure = true
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "%[3]s/tags"
insecure = true
pull-from-mirror = "tag-only"

[[registry]]
prefix = "example.com/foo/deep"
location = "%[1]s/d"
insecure = true
mirror-by-digest-only = true
[[registry.mirror]]
location = "%[2]s/deep"
insecure = true

[[registry]]
prefix = "*.wild.example"
location = "%[3]s/wild"
insecure = true

[[registry]]
prefix = "docker.io"
location = "%[1]s"
insecure = true
`, a, b, c))
	conf, err := Load(DefaultPaths(func(name string) string {
		if name == "HOME" {
			return home
		}
		return ""
	}))
	if err != nil {
		t.Fatal(err)
	}
	const digest = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, name := range []string{
		"example.com/foo/x", "example.com/foo/deep/x/y", "example.com/foo/deeper/x",
		"a.wild.example/x", "a.b.wild.example/x/y", "docker.io/library/alpine", "docker.io/me/app",
	} {
		for _, suffix := range []string{":v1", digest} {
			v.list = nil
			cmd := exec.Command(skopeo, "inspect", "--raw", "docker://"+name+suffix)
			cmd.Env = append(os.Environ(), "HOME="+home)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatal("skopeo found an image in an empty registry")
			}
			var want []string
			list, err := conf.Endpoints(name, suffix == digest)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				want = append(want, e.Registry+" "+e.Repository)
			}
			if !slices.Equal(v.list, want) {
				t.Errorf("skopeo asks for %s%s at %q, Endpoints says %q\n%s", name, suffix, v.list, want, out)
			}
		}
	}
}
