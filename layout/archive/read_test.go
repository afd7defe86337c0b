package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

var (
	_ transfer.Reader = (*Archive)(nil)
	_ transfer.Lister = (*Archive)(nil)
)

// member is one entry of a tar that a test makes.
type member struct {
	name, content, link string
	header              func(*tar.Header)
}

func makeTar(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: 0o644, Size: int64(len(m.content))}
		if m.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, m.link
		}
		if strings.HasSuffix(m.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if m.header != nil {
			m.header(h)
		}
		err := tw.WriteHeader(h)
		if err == nil && h.Size > 0 {
			_, err = io.WriteString(tw, m.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeFile(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func openArchive(t testing.TB, b []byte) (*Archive, error) {
	t.Helper()
	a, err := Open(t.Context(), writeFile(t, b))
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, err
}

// copyOut copies an image into a new layout and validates it there.
func copyOut(t *testing.T, src transfer.Reader, desc ocispec.Descriptor) *layout.Dir {
	t.Helper()
	d := newStore(t)
	if err := transfer.Copy(t.Context(), transfer.Layout(d), src, desc, []string{"v1"}, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := layout.Validate(t.Context(), d, desc); err != nil {
		t.Error(err)
	}
	return d
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(b, nil)
}

// What WriteOCI writes is read by every name that it has, packed or not, and is
// the same image.
func TestOpenOCI(t *testing.T) {
	store := newStore(t)
	list := putIndex(t, store, putImage(t, store, "amd64"), putImage(t, store, "arm64"))
	var b bytes.Buffer
	if err := WriteOCI(t.Context(), &b, transfer.Layout(store), list, []string{"docker.io/library/app:v1"}); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"plain": b.Bytes(), "gzip": gzipped(t, b.Bytes()), "zstd": zstded(t, b.Bytes())} {
		t.Run(name, func(t *testing.T) {
			a, err := openArchive(t, content)
			if err != nil {
				t.Fatal(err)
			}
			for _, ref := range []string{"", "v1", "app:v1", "docker.io/library/app:v1", list.Digest.String()} {
				if got, err := a.Resolve(t.Context(), ref); err != nil || got.Digest != list.Digest {
					t.Errorf("Resolve(%q) = %v, %v", ref, got.Digest, err)
				}
			}
			child, err := layout.Children(list, store.ReadBlob)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := a.Resolve(t.Context(), child[0].Digest.String()); err != nil || got.Digest != child[0].Digest || got.MediaType != child[0].MediaType {
				t.Errorf("Resolve(a manifest of the index) = %v, %v", got, err)
			}
			if _, err := a.Resolve(t.Context(), "v2"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "app:v1") {
				t.Errorf("Resolve(v2): %v", err)
			}
			if tags, err := a.Tags(t.Context()); err != nil || !slices.Equal(tags, []string{"docker.io/library/app:v1"}) {
				t.Errorf("Tags = %q, %v", tags, err)
			}
			copyOut(t, a, list)
		})
	}
}

// Referrers are the entries of index.json with a subject.
func TestOpenReferrers(t *testing.T) {
	store := newStore(t)
	img := putImage(t, store, "amd64")
	sbom := putReferrer(t, store, img)
	if err := store.SetRef("v1", img); err != nil {
		t.Fatal(err)
	}
	index, err := store.Index()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := writeLayout(t.Context(), &b, transfer.Layout(store), index.Manifests); err != nil {
		t.Fatal(err)
	}
	a, err := openArchive(t, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Referrers(t.Context(), img.Digest)
	if err != nil || len(got) != 1 || got[0].Digest != sbom.Digest || got[0].ArtifactType != "application/vnd.example.sbom" || got[0].Annotations["a"] != "b" {
		t.Errorf("Referrers = %+v, %v", got, err)
	}
	if got, err := a.Referrers(t.Context(), sbom.Digest); err != nil || len(got) != 0 {
		t.Errorf("Referrers of the SBOM = %+v, %v", got, err)
	}
	if _, err := a.Resolve(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "ambiguous") {
		t.Errorf("Resolve of one of two: %v", err)
	}
}

// tarOf is a layer with one file.
func tarOf(t testing.TB, name, content string) string {
	return string(makeTar(t, member{name: name, content: content}))
}

// dockerConfig is a configuration with the given layers.
func dockerConfig(layers ...string) string {
	ids := []string{}
	for _, l := range layers {
		ids = append(ids, digest.FromString(l).String())
	}
	b, err := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "config": map[string]any{"Labels": map[string]string{"a": "1", "A": "2"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func dockerManifestOf(images ...dockerImage) member {
	b, err := json.Marshal(images)
	if err != nil {
		panic(err)
	}
	return member{name: dockerManifestFile, content: string(b)}
}

// An archive of docker save before it knew OCI layouts: a folder for each layer,
// links between images that share one, several images. Manifests are made from
// it, of plain layers.
func TestOpenDocker(t *testing.T) {
	one, two := tarOf(t, "a", "one"), tarOf(t, "b", "two")
	app, base := dockerConfig(one, two), dockerConfig(one)
	a, err := openArchive(t, makeTar(t,
		member{name: "aa/"}, member{name: "aa/VERSION", content: "1.0"}, member{name: "aa/layer.tar", content: one},
		member{name: "bb/layer.tar", content: two},
		member{name: "cc/layer.tar", link: "../aa/layer.tar"},
		member{name: "app.json", content: app}, member{name: "base.json", content: base},
		dockerManifestOf(dockerImage{"app.json", []string{"app:v1", "host:5000/app:v2"}, []string{"aa/layer.tar", "bb/layer.tar"}},
			dockerImage{"base.json", nil, []string{"cc/layer.tar"}}),
		member{name: "repositories", content: "{}"}))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := a.Resolve(t.Context(), "app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if other, err := a.Resolve(t.Context(), "host:5000/app:v2"); err != nil || other.Digest != desc.Digest {
		t.Errorf("the other name: %v, %v", other, err)
	}
	if _, err := a.Resolve(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "ambiguous: name one of docker.io/library/app:v1, host:5000/app:v2, sha256:") {
		t.Errorf("one of two images: %v", err)
	}
	d := copyOut(t, a, desc)
	b, err := d.ReadBlob(desc, layout.MaxManifest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := layout.ParseManifest(layout.MediaTypeDockerManifest, b)
	if err != nil {
		t.Fatal(err)
	}
	if m.Config.Digest != digest.FromString(app) || m.Layers[1].Digest != digest.FromString(two) || m.Layers[0].MediaType != layout.MediaTypeDockerLayer {
		t.Errorf("the manifest: %s", b)
	}
	baseDesc, err := a.Resolve(t.Context(), a.index[2].Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	copyOut(t, a, baseDesc)
}

// Some tools compress the layers of a docker-archive. They stay as they are and
// must hold what the configuration says.
func TestOpenDockerCompressed(t *testing.T) {
	one, two := tarOf(t, "a", "one"), tarOf(t, "b", "two")
	packed, zpacked := gzipped(t, []byte(one)), zstded(t, []byte(two))
	image := dockerImage{"c.json", []string{"app:v1"}, []string{"sha256:1.tar.gz", "2.tar.zst"}}
	members := []member{
		{name: "c.json", content: dockerConfig(one, two)}, dockerManifestOf(image),
		{name: "sha256:1.tar.gz", content: string(packed)}, {name: "2.tar.zst", content: string(zpacked)},
	}
	a, err := openArchive(t, makeTar(t, members...))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := a.Resolve(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	d := copyOut(t, a, desc)
	if !d.Has(digest.FromBytes(packed)) || !d.Has(digest.FromBytes(zpacked)) {
		t.Error("the layers are not those of the archive")
	}
	members[0].content = dockerConfig(two, two)
	if _, err := openArchive(t, makeTar(t, members...)); err == nil || !strings.Contains(err.Error(), "it has diffID "+digest.FromString(one).String()) {
		t.Errorf("another layer than the config says: %v", err)
	}
}

// A layer that is not what its config says is noticed when it is read, also
// after a seek back.
func TestOpenDockerWrongLayer(t *testing.T) {
	one := tarOf(t, "a", "one")
	a, err := openArchive(t, makeTar(t, member{name: "l.tar", content: tarOf(t, "a", "two")}, member{name: "c.json", content: dockerConfig(one)},
		dockerManifestOf(dockerImage{"c.json", []string{"app:v1"}, []string{"l.tar"}})))
	if err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: layout.MediaTypeDockerLayer, Digest: digest.FromString(one), Size: int64(len(one))}
	r, err := a.Open(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 {
		var corrupt *layout.CorruptError
		if _, err := io.Copy(io.Discard, r); !errors.As(err, &corrupt) {
			t.Errorf("read: %v", err)
		}
		r.(io.Seeker).Seek(0, io.SeekStart)
	}
	desc.Size++
	if _, err := a.Open(t.Context(), desc); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another size: %v", err)
	}
}

// From a pipe an archive is spooled; nothing of that stays.
func TestReadPipe(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	store := newStore(t)
	img := putImage(t, store, "amd64")
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(WriteOCI(t.Context(), pw, transfer.Layout(store), img, nil)) }()
	a, err := Read(t.Context(), "standard input", pr)
	if err != nil {
		t.Fatal(err)
	}
	copyOut(t, a, img)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Read(t.Context(), "standard input", strings.NewReader("no archive")); err == nil {
		t.Error("Read of text")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, "x", strings.NewReader("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if got := entries(t, os.Getenv("TMPDIR")); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

// What is no image archive is said to be what it is.
func TestOpenRefuses(t *testing.T) {
	one := tarOf(t, "a", "one")
	config := member{name: "c.json", content: dockerConfig(one)}
	layer := member{name: "l.tar", content: one}
	image := dockerManifestOf(dockerImage{"c.json", []string{"app:v1"}, []string{"l.tar"}})
	header := member{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}
	text := func(s string) member { return member{name: dockerManifestFile, content: s} }
	for _, tt := range []struct {
		what    string
		members []member
		want    string
	}{
		{"another tar", []member{layer}, "it is no image archive"},
		{"absolute name", []member{{name: "/etc/passwd", content: "x"}}, `"/etc/passwd" has an absolute name`},
		{"name that leads out", []member{{name: "a/../../b", content: "x"}}, "leads out of the archive"},
		{"name with newline", []member{{name: "a\nb", content: "x"}}, `"a\nb" has a name with control characters`},
		{"long name", []member{{name: strings.Repeat("a/", 3000) + "a"}}, "has a name of 6001 bytes"},
		{"file twice", []member{layer, image, {name: "./l.tar", content: "x"}}, `"l.tar" is there twice`},
		{"link out", []member{config, image, {name: "l.tar", link: "../etc/passwd"}}, "leads out of the archive"},
		{"absolute link", []member{config, image, {name: "l.tar", link: "/etc/passwd"}}, "leads out of the archive"},
		{"links in a circle", []member{config, image, {name: "l.tar", link: "m.tar"}, {name: "m.tar", link: "l.tar"}}, "more than 8 links"},
		{"link to nothing", []member{config, image, {name: "l.tar", link: "none"}}, "not in the archive"},
		{"hard link", []member{config, image, {name: "l.tar", header: func(h *tar.Header) { h.Typeflag, h.Linkname = tar.TypeLink, "c.json" }}}, "not a regular file"},
		{"device", []member{config, image, {name: "l.tar", header: func(h *tar.Header) { h.Typeflag = tar.TypeChar }}}, "not a regular file"},
		{"no layer", []member{config, image}, `"l.tar" is not in the archive`},
		{"no config", []member{layer, image}, `"c.json" is not in the archive`},
		{"config is no JSON", []member{{name: "c.json", content: "x"}, layer, image}, "invalid character"},
		{"config with a field twice", []member{{name: "c.json", content: `{"os":"a","os":"b"}`}, layer, image}, "there twice"},
		{"config without rootfs", []member{{name: "c.json", content: "{}"}, layer, image}, "no rootfs"},
		{"missing diff_ids", []member{{name: "c.json", content: dockerConfig()}, layer, image}, "1 layers, its config sha256:"},
		{"extra diff_ids", []member{{name: "c.json", content: dockerConfig(one, one)}, layer, image}, "has 2 diff_ids"},
		{"a diff_id that is none", []member{{name: "c.json", content: `{"rootfs":{"diff_ids":["../../x"]}}`}, layer, image}, `diffID "../../x"`},
		{"manifest with a field twice", []member{text(`[{"Config":"a","Config":"b"}]`)}, "there twice"},
		{"manifest with a field in other case", []member{text(`[{"config":"a"}]`)}, "differs from a known one by case"},
		{"manifest of nothing", []member{text(`[]`)}, "it lists 0 images"},
		{"manifest without config", []member{text(`[{"Layers":[]}]`)}, "no Config"},
		{"manifest with a bad name", []member{text(`[{"Config":"c","RepoTags":["a:b\n"]}]`)}, "no name with a tag"},
		{"layout of the future", []member{{name: "oci-layout", content: `{"imageLayoutVersion":"2.0.0"}`}}, "not supported"},
		{"layout without index", []member{header}, `"index.json" is not in the archive`},
		{"index that is a manifest", []member{header, {name: "index.json", content: `{"schemaVersion":2,"config":{},"layers":[]}`}}, "ambiguous document"},
		{"index with ../ in a digest", []member{header, {name: "index.json", content: `{"schemaVersion":2,"manifests":[{"mediaType":"a","size":1,"digest":"sha256:../../../x"}]}`}}, "digest"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			_, err := openArchive(t, makeTar(t, tt.members...))
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("Open: %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := Open(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "it is a directory") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for content, want := range map[string]string{"": "it is no image archive", "text": "truncated", strings.Repeat("x", 1024): "it is not a tar", "\xfd7zXZ\x00": "compressed with xz"} {
		if _, err := openArchive(t, []byte(content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.10q: %v, want %q", content, err, want)
		}
	}
}

// A tar that was cut anywhere gives an error or, when only padding is missing,
// the complete image.
func TestOpenTruncated(t *testing.T) {
	one := tarOf(t, "a", "one")
	full := makeTar(t, member{name: "l.tar", content: one}, member{name: "c.json", content: dockerConfig(one)},
		dockerManifestOf(dockerImage{"c.json", nil, []string{"l.tar"}}))
	for n := 0; n < len(full); n += 100 {
		a, err := openArchive(t, full[:n])
		if err == nil {
			desc, err := a.Resolve(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			copyOut(t, a, desc)
		}
		if err == nil && n < len(full)-1024-512 {
			t.Errorf("%d of %d bytes are accepted", n, len(full))
		}
	}
}
