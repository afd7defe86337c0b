package registry

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// The names of a layout's entries are repositories and tags: the registry's host
// goes away, Docker's default too, and a tag alone is in the repository that is
// called as the directory is.
func TestPlaces(t *testing.T) {
	for _, tt := range []struct {
		name, ref string
		want      []place
	}{
		{"docker.io/library/app:latest", "latest", []place{{"app", "latest", false}, {"library/app", "latest", true}}},
		{"index.docker.io/library/app:v1", "v1", []place{{"app", "v1", false}, {"library/app", "v1", true}}},
		{"docker.io/team/app:v1", "v1", []place{{"team/app", "v1", false}}},
		{"docker.io/library/a/b:v1", "v1", []place{{"library/a/b", "v1", false}}},
		{"localhost:5000/team/app:v1", "v1", []place{{"team/app", "v1", false}}},
		{"localhost/app:v1", "v1", []place{{"app", "v1", false}}},
		{"127.0.0.1:5000/library/app:v1", "v1", []place{{"library/app", "v1", false}}},
		{"team/app:v1", "v1", []place{{"team/app", "v1", false}}},
		{"app:v1", "v1", []place{{"app", "v1", false}}},
		{"host:5000/app", "", []place{{"app", "latest", false}}},
		{"", "v1", []place{{"base", "v1", false}}},
		{"", "example.com/app:v1", []place{{"app", "v1", false}}},
		{"", "", nil},
		{"", "a b", nil},
		{"example.com/App:v1", "v1", nil},
		{"example.com/app:v1\nX: y", "v1", nil},
		{"example.com/../app:v1", "v1", nil},
		{"app@" + abc, "", nil},
		{"example.com/", "", nil},
	} {
		e := ocispec.Descriptor{Annotations: map[string]string{layout.AnnotationImageName: tt.name, ocispec.AnnotationRefName: tt.ref}}
		got := names{base: "base"}.places(e)
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(place{})); diff != "" {
			t.Errorf("places of %q, %q: %s", tt.name, tt.ref, diff)
		}
	}
}

// A directory's name becomes a repository's name.
func TestBaseName(t *testing.T) {
	for path, want := range map[string]string{
		"/srv/images": "images", "/srv/My Images!": "my-images", "/srv/a.b_c": "a.b_c", "/srv/__": "layout", "/": "layout", "/x/..": "layout",
		"/srv/Ünïx": "n-x",
	} {
		if got, err := baseName(path); err != nil || got != want {
			t.Errorf("baseName(%q) = %q, %v, want %q", path, got, err, want)
		}
	}
}

// What others have put into a layout, before or while it is served, can be
// pulled under each of its names, and a push takes these names over.
func TestForeignEntries(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	first := c.image("x", "", "first")
	for _, name := range []string{"docker.io/library/app:latest", "localhost:5000/team/app:v1", "v2"} {
		if err := reg.dir.SetRef(name, first); err != nil {
			t.Fatal(err)
		}
	}
	pulled := func(want ocispec.Descriptor, paths ...string) {
		t.Helper()
		for _, path := range paths {
			rec := c.want(http.StatusOK, "GET", "/v2/"+path, "")
			if got := rec.Header().Get("Docker-Content-Digest"); got != want.Digest.String() {
				t.Errorf("%s is %s, want %s", path, got, want.Digest)
			}
		}
	}
	pulled(first, "app/manifests/latest", "library/app/manifests/latest", "team/app/manifests/v1", "images/manifests/v2")
	second := c.image("app", "latest", "second")
	c.image("images", "v2", "second")
	pulled(second, "app/manifests/latest", "library/app/manifests/latest", "images/manifests/v2")
	pulled(first, "team/app/manifests/v1")
	want := []string{"docker.io/library/app:latest", "localhost:5000/team/app:v1", "v2"}
	if diff := cmp.Diff(want, entryNames(t, reg.dir)[1:]); diff != "" { // the first has no name
		t.Error(diff)
	}
	if desc, err := reg.dir.Resolve("app"); err != nil || desc.Digest != second.Digest {
		t.Errorf("the layout's app is %s, %v, want %s", desc.Digest, err, second.Digest)
	}
	repos := decode[struct{ Repositories []string }](t, c.want(http.StatusOK, "GET", "/v2/_catalog", ""))
	if diff := cmp.Diff([]string{"app", "images", "team/app"}, repos.Repositories); diff != "" {
		t.Errorf("catalog: %s", diff)
	}
	// A change that another program makes is seen at once.
	if err := reg.dir.RemoveRef("v2"); err != nil {
		t.Fatal(err)
	}
	c.want(http.StatusNotFound, "GET", "/v2/images/manifests/v2", "")
}

// index.json is read again when it has changed, and only then.
func TestViewCache(t *testing.T) {
	reg := newRegistry(t, Options{})
	client{t, reg}.image("r", "v1", "x")
	settle(t, reg)
	view := func() *view {
		t.Helper()
		v, err := reg.current()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	first := view()
	if view() != first {
		t.Error("read again though it has not changed")
	}
	client{t, reg}.image("r", "v2", "x")
	if second := view(); second == first || len(second.tags["r"]) != 2 {
		t.Errorf("tags %v", second.tags["r"])
	}
	// Read at the time of a change, another change could look the same.
	file, err := os.Lstat(filepath.Join(reg.dir.Path(), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]bool{-time.Millisecond: false, 0: false, racy: false, racy + 1: true, time.Hour: true} {
		c := viewCache{file: file, read: file.ModTime().Add(after)}
		if got := c.fresh(file); got != want {
			t.Errorf("read %v after a change, fresh = %v", after, got)
		}
	}
}
