package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// artifact stores a manifest of layers.
func (m *memory) artifact(t *testing.T, layers ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return m.document(t, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x",
		Config: m.blob(t, ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: layers,
	})
}

func (m *memory) titled(t *testing.T, title, content string) ocispec.Descriptor {
	t.Helper()
	desc := m.blob(t, "text/plain", []byte(content))
	desc.Annotations = map[string]string{ocispec.AnnotationTitle: title}
	return desc
}

// directory stores a packed directory made of raw headers.
func (m *memory) directory(t *testing.T, title string, headers ...tar.Header) ocispec.Descriptor {
	t.Helper()
	var plain, packed bytes.Buffer
	tw := tar.NewWriter(&plain)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Size = "evil", 4
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	zw := gzip.NewWriter(&packed)
	if _, err := zw.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	desc := m.blob(t, ocispec.MediaTypeImageLayerGzip, packed.Bytes())
	desc.Annotations = map[string]string{
		ocispec.AnnotationTitle: title, annotationUnpack: "true",
		annotationDigest: digest.FromBytes(plain.Bytes()).String(),
	}
	return desc
}

// Nothing is written outside of the output directory, nothing is left in it when
// the artifact is refused, and what lies beside it keeps its content: whatever
// titles and tars say.
func TestPullHostile(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}
	}
	dir := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	m := newMemory()
	wrong := m.directory(t, "d", dir("d"))
	wrong.Annotations[annotationDigest] = digest.FromString("else").String()
	notDigest := m.directory(t, "d", dir("d"))
	notDigest.Annotations[annotationDigest] = "sha256:../x"
	notTar := m.titled(t, "d", "no tar")
	notTar.Annotations[annotationUnpack] = "true"
	tests := []struct {
		name   string
		layers []ocispec.Descriptor
	}{
		{"absolute title", []ocispec.Descriptor{m.titled(t, "/tmp/evil", "x")}},
		{"climbing title", []ocispec.Descriptor{m.titled(t, "../victim", "x")}},
		{"hidden climb", []ocispec.Descriptor{m.titled(t, "a/../../victim", "x")}},
		{"dot title", []ocispec.Descriptor{m.titled(t, ".", "x")}},
		{"slash at the end", []ocispec.Descriptor{m.titled(t, "a/", "x")}},
		{"backslash", []ocispec.Descriptor{m.titled(t, `..\victim`, "x")}},
		{"control character", []ocispec.Descriptor{m.titled(t, "a\x1b[2J", "x")}},
		{"twice", []ocispec.Descriptor{m.titled(t, "a", "x"), m.titled(t, "a", "y")}},
		{"through a file", []ocispec.Descriptor{m.titled(t, "a", "x"), m.titled(t, "a/b", "y")}},
		{"through a link out", []ocispec.Descriptor{m.titled(t, "out/victim", "y")}},
		{"entry outside of the title", []ocispec.Descriptor{m.directory(t, "d", dir("d"), file("e/x"))}},
		{"absolute entry", []ocispec.Descriptor{m.directory(t, "d", file("/victim"))}},
		{"climbing entry", []ocispec.Descriptor{m.directory(t, "d", file("d/../../victim"))}},
		{"absolute link", []ocispec.Descriptor{m.directory(t, "d", link("d/l", "/etc"))}},
		{"climbing link", []ocispec.Descriptor{m.directory(t, "d", link("d/l", "../victim"))}},
		{"chain of links", []ocispec.Descriptor{m.directory(t, "d", link("d/a", "."), link("d/b", "a/.."), file("d/b/victim"))}},
		{"through a link", []ocispec.Descriptor{m.directory(t, "d", dir("d/s"), link("d/l", "s"), file("d/l/x"))}},
		{"hard link out", []ocispec.Descriptor{m.directory(t, "d", hard("d/l", "../victim"))}},
		{"hard link to what is there", []ocispec.Descriptor{m.directory(t, "d", hard("d/l", "mine"))}},
		{"hard link to a symbolic one", []ocispec.Descriptor{m.directory(t, "d", link("d/a", "b"), hard("d/l", "d/a"))}},
		{"device", []ocispec.Descriptor{m.directory(t, "d", tar.Header{Typeflag: tar.TypeChar, Name: "d/x", Devmajor: 1, Devminor: 3})}},
		{"fifo", []ocispec.Descriptor{m.directory(t, "d", tar.Header{Typeflag: tar.TypeFifo, Name: "d/x"})}},
		{"whiteout", []ocispec.Descriptor{m.directory(t, "d", file("d/.wh.mine"))}},
		{"root is a link", []ocispec.Descriptor{m.directory(t, "d", link("d", "out"))}},
		{"file in place of a directory", []ocispec.Descriptor{m.directory(t, "d", dir("d/x"), file("d/x"))}},
		{"into a link", []ocispec.Descriptor{m.directory(t, "out", dir("out"), file("out/victim"))}},
		{"wrong tar digest", []ocispec.Descriptor{wrong}},
		{"no digest", []ocispec.Descriptor{notDigest}},
		{"no tar", []ocispec.Descriptor{notTar}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := tree{"victim": "safe", "out/mine": "mine", "out/out": "-> .."}.write(t, t.TempDir())
			before := readTree(t, base)
			desc := m.artifact(t, tt.layers...)
			if _, err := Pull(t.Context(), m, desc, filepath.Join(base, "out"), PullOptions{}); err == nil {
				t.Error("Pull has no error")
			}
			after := readTree(t, base)
			if tt.name == "through a file" { // found when the first has its name
				delete(after, "out/a")
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("Pull changed (-before +after):\n%s", diff)
			}
		})
	}
}

// A link that takes the place of a file is replaced, not followed.
func TestPullReplacesLinks(t *testing.T) {
	m := newMemory()
	base := tree{"victim": "safe", "out/f": "-> ../victim"}.write(t, t.TempDir())
	desc := m.artifact(t, m.titled(t, "f", "new"))
	if _, err := Pull(t.Context(), m, desc, filepath.Join(base, "out"), PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tree{"victim": "safe", "out/f": "new"}, readTree(t, base)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// With KeepOld nothing is replaced, and nothing is written beside what is kept.
func TestPullKeepOld(t *testing.T) {
	m := newMemory()
	src := tree{"d/a": "new", "f": "new"}.write(t, t.TempDir())
	p := push(t, m, Spec{Files: parseFiles(t, src, "f", "d")})
	out := tree{"d/a": "old", "d/b": "old"}.write(t, t.TempDir())
	if _, err := Pull(t.Context(), m, p.Desc, out, PullOptions{KeepOld: true}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Pull = %v, want fs.ErrExist", err)
	}
	if diff := cmp.Diff(tree{"d/a": "old", "d/b": "old"}, readTree(t, out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := os.Remove(filepath.Join(out, "d/a")); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(t.Context(), m, p.Desc, out, PullOptions{KeepOld: true}); err != nil {
		t.Error(err)
	}
}

// Layers without a title are reported, not guessed; the current directory can be
// packed and pulled; an index needs a platform.
func TestPullForms(t *testing.T) {
	m := newMemory()
	untitled := m.blob(t, "text/plain", []byte("x"))
	res, err := Pull(t.Context(), m, m.artifact(t, untitled), t.TempDir(), PullOptions{})
	if err != nil || len(res.Skipped) != 1 || len(res.Files) != 0 {
		t.Errorf("Pull = %+v, %v; want one skipped layer", res, err)
	}

	want := tree{"a": "a", "b/c": "c"}
	p := push(t, m, Spec{Files: parseFiles(t, want.write(t, t.TempDir()), ".")})
	out := t.TempDir()
	if _, err := Pull(t.Context(), m, p.Desc, out, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, readTree(t, out)); diff != "" {
		t.Errorf("pulled (-want +got):\n%s", diff)
	}

	linux := &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	entry := p.Desc
	entry.Platform = linux
	index := m.document(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{entry}})
	if _, err := Pull(t.Context(), m, index, t.TempDir(), PullOptions{}); err == nil || !strings.Contains(err.Error(), "platform") {
		t.Errorf("Pull of an index = %v, want an error", err)
	}
	if _, err := Pull(t.Context(), m, index, t.TempDir(), PullOptions{Platform: linux}); err != nil {
		t.Error(err)
	}
}

// No tar makes the unpacker write outside of its directory.
func FuzzUnpack(f *testing.F) {
	m := newMemory()
	t := &testing.T{}
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "d/x", Mode: 0o644}, {Typeflag: tar.TypeSymlink, Name: "d/l", Linkname: "../x"},
		{Typeflag: tar.TypeLink, Name: "d/l", Linkname: "d/x"}, {Typeflag: tar.TypeDir, Name: "d/../x/"},
	} {
		f.Add(m.blobs[m.directory(t, "d", h).Digest])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		base := t.TempDir()
		root, err := os.OpenRoot(base)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_ = unpack(bytes.NewReader(b), root, "d", planned{prefix: "d"}) // most are refused
		for name := range readTree(t, base) {
			if name != "d/" && !strings.HasPrefix(name, "d/") {
				t.Errorf("wrote %q", name)
			}
		}
	})
}
