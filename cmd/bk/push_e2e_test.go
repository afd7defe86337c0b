//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bk.build/bk/hack/registry"
)

// watchedRegistry is a real registry behind a proxy that notes requests.
type watchedRegistry struct {
	host string

	mu       sync.Mutex
	requests []string      // "METHOD PATH?QUERY STATUS"
	uploaded chan struct{} // closed when a blob was uploaded
}

func newWatchedRegistry(t *testing.T, o registry.Options) *watchedRegistry {
	t.Helper()
	w := &watchedRegistry{uploaded: make(chan struct{})}
	target, err := url.Parse("http://" + registry.StartWith(t, o))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(r *http.Response) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.requests = append(w.requests, fmt.Sprintf("%s %s %d", r.Request.Method, r.Request.URL.RequestURI(), r.StatusCode))
		if r.Request.Method == http.MethodPut && strings.Contains(r.Request.URL.Path, "/blobs/") && r.StatusCode == http.StatusCreated {
			select {
			case <-w.uploaded:
			default:
				close(w.uploaded)
			}
		}
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/uploaded" {
			select {
			case <-w.uploaded:
			case <-time.After(30 * time.Second):
				rw.WriteHeader(http.StatusTeapot)
			}
			return
		}
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	w.host = strings.TrimPrefix(server.URL, "http://")
	return w
}

// seen counts the requests that contain all parts.
func (w *watchedRegistry) seen(parts ...string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
next:
	for _, r := range w.requests {
		for _, p := range parts {
			if !strings.Contains(r, p) {
				continue next
			}
		}
		n++
	}
	return n
}

func (w *watchedRegistry) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = nil
}

const pushContext = `
-- Dockerfile --
FROM scratch
COPY a /
COPY b /
-- a --
one
-- b --
two
`

// --push brings all platforms to every name, tags last, and leaves no name in
// the store.
func TestBuildPush(t *testing.T) {
	w := newWatchedRegistry(t, registry.Options{})
	s := newSite(t, pushContext)
	one, two, other := w.host+"/team/app:1", w.host+"/team/app:2", w.host+"/other/app:1"
	o := s.build("--platform=linux/amd64,linux/arm64", "--push", "-t", one, "-t", two, "-t", other, "--metadata-file", s.path("meta"))
	var meta struct {
		Digest string `json:"containerimage.digest"`
	}
	if err := json.Unmarshal([]byte(s.read("meta")), &meta); err != nil || meta.Digest == "" {
		t.Fatalf("metadata %q: %v\n%s", s.read("meta"), err, o.stderr)
	}
	for i, name := range []string{one, two, other} {
		dir := fmt.Sprintf("out%d", i)
		s.must("copy", name, "oci:"+s.path(dir)+":x")
		got := s.must("image", "inspect", "--format", "{{.Digest}} {{len .Images}}", "oci:"+s.path(dir)+":x")
		if strings.TrimSpace(got.stdout) != meta.Digest+" 2" {
			t.Errorf("%s is %q, want %s with 2 images", name, got.stdout, meta.Digest)
		}
	}
	if got := s.must("image", "ls", "-q"); got.stdout != "" {
		t.Errorf("the store has names: %q", got.stdout)
	}
	if n := w.seen("POST /v2/other/app", "from=team"); n == 0 {
		t.Error("nothing is mounted from the first repository")
	}
	w.mu.Lock()
	last := w.requests[:0:0]
	for _, r := range w.requests {
		if strings.HasPrefix(r, "PUT /v2/team/app/") {
			last = append(last, r)
		}
	}
	w.mu.Unlock()
	if len(last) < 2 || !strings.Contains(last[len(last)-2]+last[len(last)-1], "/manifests/1") {
		t.Errorf("the tags are not last: %q", last)
	}

	// Again: nothing moves but the tags.
	w.forget()
	s.build("--platform=linux/amd64,linux/arm64", "--push", "-t", one)
	if n := w.seen("/blobs/uploads/"); n != 0 {
		t.Errorf("%d uploads of what is there", n)
	}
}

// A base that is in the same registry is mounted from where it is, and its layers
// are never downloaded.
func TestBuildPushMountsBase(t *testing.T) {
	w := newWatchedRegistry(t, registry.Options{})
	s := newSite(t, pushContext)
	s.build("--push", "-t", w.host+"/base:1")
	w.forget()
	app := newSite(t, fmt.Sprintf("-- Dockerfile --\nFROM %s/base:1\nLABEL a=b\nCOPY --link c /\n-- c --\nthree\n", w.host))
	app.build("--push", "-t", w.host+"/app:1")
	if n := w.seen("POST /v2/app/", "mount=", "from=base", " 201"); n != 2 {
		t.Errorf("%d layers are mounted, want 2: %q", n, w.requests)
	}
	if n := w.seen("GET /v2/base/blobs/"); n != 1 { // the configuration
		t.Errorf("%d blobs of the base are read, want 1: %q", n, w.requests)
	}
	app.must("image", "inspect", w.host+"/app:1")
	app.verify()
}

// Layers are uploaded while later steps run: this step ends only when one is.
func TestBuildPushWhileBuilding(t *testing.T) {
	needContainers(t)
	w := newWatchedRegistry(t, registry.Options{})
	s := newSite(t, fmt.Sprintf("-- Dockerfile --\nFROM busybox\nCOPY a /\nRUN wget -q -O /dev/null http://%s/uploaded\n-- a --\none\n", w.host))
	s.build(base(t, "busybox"), "--network=host", "--push", "-t", w.host+"/app:1")
}

// An output of type image is in the store too; by digest no tag is written.
func TestBuildPushOutputs(t *testing.T) {
	w := newWatchedRegistry(t, registry.Options{})
	s := newSite(t, pushContext)
	name := w.host + "/app:1"
	s.build("-o", "type=image,push=true,push-by-digest=true,name-canonical=true,name="+name, "--iidfile", s.path("iid"))
	got := s.must("image", "ls", "--format", "{{.Name}}")
	if !strings.Contains(got.stdout, name) || !strings.Contains(got.stdout, w.host+"/app@sha256:") {
		t.Errorf("names in the store: %q", got.stdout)
	}
	dgst := strings.TrimSpace(s.must("image", "ls", "-q").stdout)
	dgst, _, _ = strings.Cut(dgst, "\n")
	if w.seen("PUT /v2/app/manifests/sha256:") == 0 || w.seen("PUT /v2/app/manifests/1") != 0 {
		t.Errorf("requests %q", w.requests)
	}
	if o := s.run("copy", name, "oci:"+s.path("out")); o.code == 0 {
		t.Error("there is a tag")
	}
	s.must("copy", w.host+"/app@"+dgst, "oci:"+s.path("out2"))
}

// A push that is refused fails the build with the registry's reason, and no tag
// is written.
func TestBuildPushRefused(t *testing.T) {
	w := newWatchedRegistry(t, registry.Options{ReadOnly: true})
	s := newSite(t, pushContext)
	o := s.run("build", ".", "--push", "-t", w.host+"/app:1")
	if o.code != 1 || !strings.Contains(o.stderr, w.host) {
		t.Errorf("exit code %d: %s", o.code, o.stderr)
	}
	if w.seen("PUT", "/manifests/") != 0 {
		t.Errorf("requests %q", w.requests)
	}
	o = s.run("build", ".", "--push")
	if o.code != 2 || !strings.Contains(o.stderr, "a push needs a name") {
		t.Errorf("exit code %d: %s", o.code, o.stderr)
	}
}

// What was built into the store is pushed later, and pulled by another.
func TestPushPull(t *testing.T) {
	w := newWatchedRegistry(t, registry.Options{})
	s := newSite(t, pushContext)
	name := w.host + "/app:1"
	s.build("--platform=linux/amd64,linux/arm64", "-t", name)
	pushed := s.must("push", "-q", name)
	if !strings.HasPrefix(pushed.stdout, w.host+"/app@sha256:") {
		t.Errorf("push prints %q", pushed.stdout)
	}
	other := s.in("other")
	pulled := other.must("pull", "-q", name)
	if pulled.stdout != pushed.stdout {
		t.Errorf("pull prints %q, push %q", pulled.stdout, pushed.stdout)
	}
	other.must("image", "inspect", name)
	other.verify()
	w.forget()
	other.must("pull", name)
	if n := w.seen("/blobs/"); n != 0 {
		t.Errorf("%d blobs are asked for again", n)
	}
	other.must("push", "oci:"+filepath.Join(other.root)+":"+name, w.host+"/third/app:2", "--platform=linux/arm64", "--digestfile", s.path("digest"))
	if b, err := os.ReadFile(s.path("digest")); err != nil || !strings.HasPrefix(string(b), "sha256:") {
		t.Errorf("digest file %q, %v", b, err)
	}
	got := s.must("image", "inspect", "--format", "{{(index .Images 0).Platform}}", w.host+"/third/app:2")
	if strings.TrimSpace(got.stdout) != "linux/arm64" {
		t.Errorf("platform %q", got.stdout)
	}
}
