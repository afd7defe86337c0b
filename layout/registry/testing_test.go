package registry

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// newRegistry serves an empty layout called "images".
func newRegistry(t testing.TB, opts Options) *Registry {
	t.Helper()
	dir, err := layout.Create(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, dir, opts)
}

func serve(t testing.TB, dir *layout.Dir, opts Options) *Registry {
	t.Helper()
	r, err := New(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A client speaks to a handler without a network.
type client struct {
	t testing.TB
	h http.Handler
}

// do sends a request; headers are pairs.
func (c client) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	c.t.Helper()
	return c.send(method, path, strings.NewReader(body), headers...)
}

func (c client) send(method, path string, body io.Reader, headers ...string) *httptest.ResponseRecorder {
	c.t.Helper()
	req := httptest.NewRequest(method, "http://registry"+path, body)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	c.h.ServeHTTP(rec, req)
	return rec
}

// want is do for a request that must be answered with a status.
func (c client) want(status int, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	c.t.Helper()
	rec := c.do(method, path, body, headers...)
	if rec.Code != status {
		c.t.Fatalf("%s %s = %d, want %d: %s", method, path, rec.Code, status, rec.Body)
	}
	return rec
}

// code returns the error code of an answer.
func code(rec *httptest.ResponseRecorder) string {
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(rec.Body.Bytes(), &doc) != nil || len(doc.Errors) != 1 || doc.Errors[0].Message == "" {
		return "not an error: " + rec.Body.String()
	}
	return doc.Errors[0].Code
}

// blob pushes a blob.
func (c client) blob(repo, content string) ocispec.Descriptor {
	c.t.Helper()
	desc := descriptorOf("application/octet-stream", content)
	c.want(http.StatusCreated, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+desc.Digest.String(), content)
	return desc
}

// put pushes a document under a tag or, with an empty one, its digest.
func (c client) put(repo, tag, mediaType string, v any) ocispec.Descriptor {
	c.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		c.t.Fatal(err)
	}
	desc := descriptorOf(mediaType, string(b))
	ref := tag
	if ref == "" {
		ref = desc.Digest.String()
	}
	c.want(http.StatusCreated, "PUT", "/v2/"+repo+"/manifests/"+ref, string(b), "Content-Type", mediaType)
	return desc
}

// image pushes an image of one layer with the content.
func (c client) image(repo, tag, content string) ocispec.Descriptor {
	c.t.Helper()
	return c.put(repo, tag, ocispec.MediaTypeImageManifest, c.manifest(repo, content))
}

// manifest pushes the blobs of an image.
func (c client) manifest(repo, content string) ocispec.Manifest {
	c.t.Helper()
	config, layer := c.blob(repo, "{}"), c.blob(repo, content)
	config.MediaType, layer.MediaType = ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayer
	return ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{layer},
	}
}

// index pushes an index of manifests.
func (c client) index(repo, tag string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	c.t.Helper()
	return c.put(repo, tag, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	})
}

// artifact pushes a manifest with a subject.
func (c client) artifact(repo, tag, artifactType string, subject ocispec.Descriptor, content string) ocispec.Descriptor {
	c.t.Helper()
	m := c.manifest(repo, content)
	m.Config.MediaType = ocispec.MediaTypeEmptyJSON
	m.ArtifactType, m.Subject = artifactType, &subject
	m.Annotations = map[string]string{"content": content}
	return c.put(repo, tag, ocispec.MediaTypeImageManifest, m)
}

// entryNames returns the names of the entries of index.json in their order; "-" is
// an entry without one.
func entryNames(t testing.TB, dir *layout.Dir) (list []string) {
	t.Helper()
	index, err := dir.Index()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range index.Manifests {
		name := e.Annotations[layout.AnnotationImageName]
		if name == "" {
			name = e.Annotations[ocispec.AnnotationRefName]
		}
		if name == "" {
			name = "-"
		}
		list = append(list, name)
	}
	return list
}

func descriptorOf(mediaType, content string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
}

// digests lists those of descriptors.
func digests(list ...ocispec.Descriptor) (out []digest.Digest) {
	for _, d := range list {
		out = append(out, d.Digest)
	}
	return out
}

// decode reads an answer's JSON.
func decode[T any](t testing.TB, rec *httptest.ResponseRecorder) (v T) {
	t.Helper()
	if err := json.NewDecoder(bytes.NewReader(rec.Body.Bytes())).Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, rec.Body)
	}
	return v
}

// settle makes index.json so old that what was read of it is kept.
func settle(t testing.TB, reg *Registry) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(reg.dir.Path(), "index.json"), old, old); err != nil {
		t.Fatal(err)
	}
}
