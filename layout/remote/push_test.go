package remote

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	realregistry "bk.build/bk/hack/registry"
	"bk.build/bk/layout"
	ourregistry "bk.build/bk/layout/registry"
)

// servers are the registries that everything must work with.
var servers = map[string]func(*testing.T) string{
	"distribution":          func(t *testing.T) string { return realregistry.Start(t) },
	"docker-registry":       distribution,
	"ggcr":                  func(t *testing.T) string { return ggcr(t) },
	"ours":                  ours,
	"ggcr with a referrers": func(t *testing.T) string { return ggcr(t, registry.WithReferrersSupport(true)) },
}

// ours is a layout that is served as a registry.
func ours(t *testing.T) string {
	t.Helper()
	dir, err := layout.Create(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := ourregistry.New(dir, ourregistry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func ggcr(t *testing.T, opts ...registry.Option) string {
	t.Helper()
	s := httptest.NewServer(registry.New(append(opts, registry.Logger(log.New(io.Discard, "", 0)))...))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// random is content that nobody has.
func random(n int) []byte {
	b := make([]byte, n)
	seed := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	seed.Read(b)
	return b
}

func describeBlob(b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// testRepository returns a repository of a client with small chunks.
func testRepository(t *testing.T, c *Client, ref string) *Repository {
	t.Helper()
	r, _, err := c.Repository(ref)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func putBlob(t *testing.T, r *Repository, b []byte) ocispec.Descriptor {
	t.Helper()
	desc := describeBlob(b)
	if err := r.PutBlob(t.Context(), desc, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return desc
}

// putImage pushes an image of one layer, with a subject when that is not nil.
func putImage(t *testing.T, r *Repository, layer ocispec.Descriptor, subject *ocispec.Descriptor, artifactType string, tags ...string) ocispec.Descriptor {
	t.Helper()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: putBlob(t, r, []byte(`{"os":"linux","architecture":"amd64"}`)), Layers: []ocispec.Descriptor{layer},
		Subject: subject, Annotations: map[string]string{"k": artifactType},
	}
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := r.PutManifest(t.Context(), desc, b, tags...); err != nil {
		t.Fatal(err)
	}
	return desc
}

// Images, in one piece and in chunks, under tags and without, go to every
// registry and come back; blobs are found, mounted, and removed.
func TestPush(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			host := start(t)
			c := newClient(nil)
			c.ChunkSize = 1 << 20
			c.Notify = func(s string) { t.Log(s) }
			r := testRepository(t, c, host+"/me/app")
			for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, 3<<20 + 7} {
				b := random(size)
				desc := describeBlob(b)
				if has, err := r.Has(t.Context(), desc); has || err != nil {
					t.Fatalf("Has before = %v, %v", has, err)
				}
				if err := r.PutBlob(t.Context(), desc, bytes.NewReader(b)); err != nil {
					t.Fatalf("PutBlob of %d bytes: %v", size, err)
				}
				if has, err := r.Has(t.Context(), desc); !has || err != nil {
					t.Fatalf("Has after = %v, %v", has, err)
				}
				// Again, from a source that cannot go back.
				if err := r.PutBlob(t.Context(), desc, io.MultiReader(bytes.NewReader(b))); err != nil && size < 3<<20 {
					t.Fatalf("PutBlob of %d bytes again: %v", size, err)
				}
				rd, err := r.Open(t.Context(), desc)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(rd); err != nil || !bytes.Equal(got, b) {
					t.Errorf("Open of %d bytes = %d bytes, %v", size, len(got), err)
				}
				rd.Close()
			}
			layer := putBlob(t, r, random(100))
			img := putImage(t, r, layer, nil, "", "v1", "", "latest")
			untagged := putImage(t, r, layer, nil, "a/b")
			for _, id := range []string{"v1", "latest", img.Digest.String()} {
				if got, err := r.Resolve(t.Context(), id); err != nil || got.Digest != img.Digest || got.Size != img.Size || got.MediaType != img.MediaType {
					t.Errorf("Resolve(%s) = %+v, %v", id, got, err)
				}
			}
			if tags, err := r.Tags(t.Context()); err != nil || fmt.Sprint(tags) != "[latest v1]" {
				t.Errorf("Tags = %v, %v", tags, err)
			}
			if has, err := r.Has(t.Context(), untagged); !has || err != nil {
				t.Errorf("Has(untagged) = %v, %v", has, err)
			}
			if _, err := r.Resolve(t.Context(), "none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Resolve(none): %v", err)
			}
			other := testRepository(t, c, host+"/me/other")
			mounted, err := other.Mount(t.Context(), layer, r.Origins(layer)[0])
			if err != nil || mounted == strings.HasPrefix(name, "ggcr") {
				t.Errorf("Mount = %v, %v", mounted, err)
			}
			if mounted, err := other.Mount(t.Context(), layer, "elsewhere.example/x"); mounted || err != nil {
				t.Errorf("Mount from another registry = %v, %v", mounted, err)
			}
			missing := describeBlob(random(50))
			if mounted, err := other.Mount(t.Context(), missing, r.Name()); mounted || err != nil {
				t.Errorf("Mount of nothing = %v, %v", mounted, err)
			}
			putBlob(t, other, random(50)) // into the upload that the mount began
			if repos, err := c.Catalog(t.Context(), host, "me/a"); err != nil || fmt.Sprint(repos) != "[me/app]" {
				t.Errorf("Catalog = %v, %v", repos, err)
			}
		})
	}
}

// Referrers are found of every registry, with their artifactType and
// annotations, and are gone when they are deleted.
func TestReferrers(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			c := newClient(nil)
			r := testRepository(t, c, start(t)+"/me/app")
			layer := putBlob(t, r, random(100))
			img := putImage(t, r, layer, nil, "", "v1")
			if list, err := r.Referrers(t.Context(), img.Digest); err != nil || len(list) != 0 {
				t.Errorf("Referrers of an image without = %v, %v", list, err)
			}
			sig := putImage(t, r, layer, &img, "my/signature")
			plain := putImage(t, r, layer, &img, "")
			list, err := r.Referrers(t.Context(), img.Digest)
			got := map[digest.Digest]string{}
			for _, d := range list {
				got[d.Digest] = d.ArtifactType + " " + d.Annotations["k"]
			}
			want := map[digest.Digest]string{sig.Digest: "my/signature my/signature", plain.Digest: ocispec.MediaTypeImageConfig + " "}
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("Referrers = %v, %v; want %v", got, err, want)
			}
		})
	}
}
