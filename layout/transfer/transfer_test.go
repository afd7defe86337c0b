package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
)

func newDir(t testing.TB, name string) *layout.Dir {
	t.Helper()
	d, err := layout.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func putJSON(t testing.TB, d *layout.Dir, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := d.PutBytes(mediaType, b)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// putImage writes an image of one layer with the given content.
func putImage(t testing.TB, d *layout.Dir, arch string, content []byte) ocispec.Descriptor {
	t.Helper()
	var packed bytes.Buffer
	entries := func(yield func(*layer.Entry, error) bool) {
		yield(&layer.Entry{Path: "file", Type: layer.Regular, Mode: 0o644, Size: int64(len(content)), Content: layer.Bytes(content)}, nil)
	}
	p, err := layer.Pack(t.Context(), &packed, entries, layer.PackOptions{Compression: layer.Compression{Type: layer.Gzip}})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := d.PutBytes(ocispec.MediaTypeImageLayerGzip, packed.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}})
	if err != nil {
		t.Fatal(err)
	}
	desc, _, err := d.WriteImage(layout.ImageSpec{Config: config, Layers: []layout.LayerBlob{{Descriptor: blob, DiffID: p.DiffID}}})
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// putIndex writes an index of two platforms and an attestation of the first.
func putIndex(t testing.TB, d *layout.Dir) ocispec.Descriptor {
	t.Helper()
	a, b := putImage(t, d, "amd64", []byte("a")), putImage(t, d, "arm64", []byte("b"))
	a.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	b.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	att := putArtifact(t, d, nil, "statement")
	att.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	att.Annotations = map[string]string{layout.AnnotationReferenceType: "attestation-manifest", annotationReference: a.Digest.String()}
	desc, err := d.WriteIndex([]ocispec.Descriptor{a, b, att}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// putArtifact writes a manifest with an artifact type, about a subject.
func putArtifact(t testing.TB, d *layout.Dir, subject *ocispec.Descriptor, content string) ocispec.Descriptor {
	t.Helper()
	blob, err := d.PutBytes("text/plain", []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	empty, err := d.PutBytes(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	return putJSON(t, d, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/x-test", Config: empty, Layers: []ocispec.Descriptor{blob}, Subject: subject,
		Annotations: map[string]string{"k": content},
	})
}

// states collects the last state of every blob.
type states struct {
	mu sync.Mutex
	m  map[digest.Digest]State
}

func (s *states) note(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[digest.Digest]State{}
	}
	s.m[e.Desc.Digest] = e.State
}

func (s *states) count(want State) int {
	n := 0
	for _, got := range maps.All(s.m) {
		if got == want {
			n++
		}
	}
	return n
}

// streamed hides what a Reader can do beside reading, so that content streams.
type streamed struct{ Reader }

// An index is copied with all its images, once; a second copy moves nothing.
func TestCopy(t *testing.T) {
	src := newDir(t, "src")
	index := putIndex(t, src)
	dst := newDir(t, "dst")
	var first, second states
	if err := Copy(t.Context(), Layout(dst), streamed{Layout(src)}, index, []string{"v1", "v2"}, Options{Progress: first.note}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"v1", "v2"} {
		got, err := dst.Resolve(name)
		if err != nil || got.Digest != index.Digest {
			t.Errorf("Resolve(%s) = %v, %v", name, got, err)
		}
	}
	if err := layout.Validate(t.Context(), dst, index); err != nil {
		t.Error(err)
	}
	if n := first.count(Copied); n != 6 { // two configs and layers, an empty config and a statement
		t.Errorf("%d blobs copied, want 6: %v", n, first.m)
	}
	if err := Copy(t.Context(), Layout(dst), streamed{Layout(src)}, index, []string{"v3"}, Options{Progress: second.note}); err != nil {
		t.Fatal(err)
	}
	if len(second.m) != 0 {
		t.Errorf("the second copy looks at blobs: %v", second.m)
	}
}

// Between two layouts files are linked, not read.
func TestCopyLinks(t *testing.T) {
	src, dst := newDir(t, "src"), newDir(t, "dst")
	index := putIndex(t, src)
	var s states
	if err := Copy(t.Context(), Layout(dst), Layout(src), index, nil, Options{Progress: s.note}); err != nil {
		t.Fatal(err)
	}
	if s.count(Linked) != 6 || s.count(Copied) != 0 {
		t.Errorf("states %v", s.m)
	}
}

// A manifest whose layer is missing in the destination is copied again: having
// the document is not having the image.
func TestCopyCompletes(t *testing.T) {
	src, dst := newDir(t, "src"), newDir(t, "dst")
	img := putImage(t, src, "amd64", []byte("content"))
	if err := Copy(t.Context(), Layout(dst), Layout(src), img, []string{"v1"}, Options{}); err != nil {
		t.Fatal(err)
	}
	blobs, err := src.Closure(img)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if layout.IsLayer(b.MediaType) {
			if err := dst.Remove(b.Digest); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := Copy(t.Context(), Layout(dst), Layout(src), img, []string{"v1"}, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := layout.Validate(t.Context(), dst, img); err != nil {
		t.Error(err)
	}
}

// broken is a Reader whose blobs break off after some bytes.
type broken struct {
	Reader
	after int64
	opens int
	moved int64
}

func (b *broken) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := b.Reader.Open(ctx, desc)
	if err != nil || !layout.IsLayer(desc.MediaType) {
		return r, err
	}
	b.opens++
	limit := b.after
	if b.opens > 1 {
		limit = 1 << 40
	}
	return &brokenReader{b: b, r: r, left: limit}, nil
}

type brokenReader struct {
	b    *broken
	r    io.ReadCloser
	left int64
}

func (r *brokenReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := r.r.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	r.b.moved += int64(n)
	return n, err
}

func (r *brokenReader) Seek(off int64, whence int) (int64, error) {
	return r.r.(io.Seeker).Seek(off, whence)
}

func (r *brokenReader) Close() error { return r.r.Close() }

// A copy of a large blob that broke off goes on where it stopped, and the names
// appear only when all is there.
func TestCopyResumes(t *testing.T) {
	src, dst := newDir(t, "src"), newDir(t, "dst")
	content := make([]byte, 3*resumeSize)
	for i := range content {
		content[i] = byte(i * i >> 7 * (i | 1) >> 3)
	}
	random := digest.FromBytes(content)
	for i := 0; i < len(content); i += len(random) { // does not compress
		random = digest.FromBytes([]byte(random))
		copy(content[i:], random.Encoded())
	}
	img := putImage(t, src, "amd64", content)
	b := &broken{Reader: Layout(src), after: 10 << 20}
	err := Copy(t.Context(), Layout(dst), b, img, []string{"v1"}, Options{})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("Copy: %v", err)
	}
	if _, err := dst.Resolve("v1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resolve after a broken copy: %v", err)
	}
	if err := Copy(t.Context(), Layout(dst), b, img, []string{"v1"}, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := layout.Validate(t.Context(), dst, img); err != nil {
		t.Error(err)
	}
	var size int64
	blobs, _ := src.Closure(img)
	for _, d := range blobs {
		if layout.IsLayer(d.MediaType) {
			size = d.Size
		}
	}
	if b.opens != 2 || b.moved != size {
		t.Errorf("%d bytes moved in %d reads, want %d in 2", b.moved, b.opens, size)
	}
}

// What an earlier copy has left is not trusted: when it is damaged, the blob is
// read again from the start.
func TestCopyResumesDamaged(t *testing.T) {
	src, dst := newDir(t, "src"), newDir(t, "dst")
	content := make([]byte, 2*resumeSize)
	blob, err := src.PutBytes("application/octet-stream", content)
	if err != nil {
		t.Fatal(err)
	}
	w, err := dst.ResumeBlob(blob)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte{1}, 2<<20)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := NewCopier(Layout(dst), Options{}).Blob(t.Context(), streamed{Layout(src)}, blob); err != nil {
		t.Fatal(err)
	}
	r, err := dst.OpenBlob(blob)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); err != nil {
		t.Error(err)
	}
}

// Two processes that write one blob do not disturb each other.
func TestResumeBlobBusy(t *testing.T) {
	dst := newDir(t, "dst")
	content := make([]byte, 4<<20)
	desc := ocispec.Descriptor{MediaType: "x/y", Digest: digest.FromBytes(content), Size: int64(len(content))}
	var writers []*layout.BlobWriter
	for range 2 {
		w, err := dst.ResumeBlob(desc)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if w.Size() != 0 {
			t.Errorf("a new blob has %d bytes", w.Size())
		}
		writers = append(writers, w)
	}
	for _, w := range writers {
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.Commit(desc.Digest, desc.Size); err != nil {
			t.Error(err)
		}
	}
}

// What refers to an image goes along: by subject, also to what refers, and by
// cosign's tags.
func TestCopyReferrers(t *testing.T) {
	src, dst := newDir(t, "src"), newDir(t, "dst")
	index := putIndex(t, src)
	images, err := layout.Images(index, src.ReadBlob)
	if err != nil {
		t.Fatal(err)
	}
	sbom := putArtifact(t, src, &index, "sbom")
	signature := putArtifact(t, src, &sbom, "signature of the sbom")
	child := putArtifact(t, src, &images[0], "of a child")
	tagged := putArtifact(t, src, nil, "cosign")
	other := putArtifact(t, src, &tagged, "not reached but by the tag")
	tag := fallbackTag(index.Digest) + ".sig"
	for _, d := range []ocispec.Descriptor{sbom, signature, child, other} {
		if err := src.SetRef("", d); err != nil {
			t.Fatal(err)
		}
	}
	for name, desc := range map[string]ocispec.Descriptor{"example.com/app:v1": index, "example.com/app:" + tag: tagged} {
		if err := src.SetRef(name, desc); err != nil {
			t.Fatal(err)
		}
	}
	opts := Options{Referrers: true, From: "example.com/app:v1"}
	if err := Copy(t.Context(), Layout(dst), Layout(src), index, []string{"example.com/copy:v2"}, opts); err != nil {
		t.Fatal(err)
	}
	got, err := dst.Resolve("example.com/copy:" + tag)
	if err != nil || got.Digest != tagged.Digest {
		t.Errorf("cosign's tag leads to %v, %v", got, err)
	}
	for subject, want := range map[digest.Digest]ocispec.Descriptor{
		index.Digest: sbom, sbom.Digest: signature, images[0].Digest: child, tagged.Digest: other,
	} {
		list, err := Layout(dst).Referrers(t.Context(), subject)
		if err != nil || len(list) != 1 || list[0].Digest != want.Digest || list[0].ArtifactType != "application/x-test" || list[0].Annotations["k"] == "" {
			t.Errorf("Referrers(%s) = %v, %v; want %s", subject, list, err, want.Digest)
		}
	}
}

// Only what is for the platforms is copied, and what says something about it.
func TestNarrow(t *testing.T) {
	src := newDir(t, "src")
	index := putIndex(t, src)
	amd64 := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm64 := ocispec.Platform{OS: "linux", Architecture: "arm64"}
	for _, tt := range []struct {
		want   []ocispec.Platform
		images []string
		error  string
	}{
		{nil, []string{"amd64", "arm64", "unknown"}, ""},
		{[]ocispec.Platform{arm64}, []string{"arm64"}, ""},
		{[]ocispec.Platform{amd64, arm64}, []string{"amd64", "arm64", "unknown"}, ""},
		{[]ocispec.Platform{{OS: "linux", Architecture: "s390x"}}, nil, "no image for platform linux/s390x"},
	} {
		r, desc, err := Narrow(t.Context(), Layout(src), index, tt.want)
		if tt.error != "" {
			if err == nil || !strings.Contains(err.Error(), tt.error) {
				t.Errorf("Narrow(%v): %v", tt.want, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		dst := newDir(t, "dst")
		if err := Copy(t.Context(), Layout(dst), r, desc, []string{"x"}, Options{}); err != nil {
			t.Fatal(err)
		}
		var got []string
		list := []ocispec.Descriptor{desc}
		if layout.IsIndex(desc.MediaType) {
			list, err = layout.Children(desc, dst.ReadBlob)
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range list {
			got = append(got, m.Platform.Architecture)
		}
		if !slices.Equal(got, tt.images) {
			t.Errorf("Narrow(%v) has %v, want %v", tt.want, got, tt.images)
		}
	}
	single := putImage(t, src, "arm64", []byte("single"))
	if _, _, err := Narrow(t.Context(), Layout(src), single, []ocispec.Platform{amd64}); err == nil {
		t.Error("an image for arm64 is taken for amd64")
	}
	if _, _, err := Narrow(t.Context(), Layout(src), single, []ocispec.Platform{arm64}); err != nil {
		t.Error(err)
	}
}

// lying gives other bytes than the digest's; the copy notices, and nothing is
// stored.
type lying struct{ Reader }

func (l lying) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if layout.IsLayer(desc.MediaType) {
		return nil, &layout.CorruptError{Digest: desc.Digest, Reason: "has 1 byte, want 2"}
	}
	return l.Reader.Open(ctx, desc)
}

// A copy that fails leaves no name and says which blob it was.
func TestCopyFails(t *testing.T) {
	src, dst := newDir(t, "src"), newDir(t, "dst")
	img := putImage(t, src, "amd64", []byte("x"))
	err := Copy(t.Context(), Layout(dst), lying{Layout(src)}, img, []string{"v1"}, Options{})
	var corrupt *layout.CorruptError
	if !errors.As(err, &corrupt) {
		t.Errorf("Copy: %v", err)
	}
	if _, err := dst.Resolve("v1"); err == nil {
		t.Error("the name is there")
	}
}

// Names beside a name are in the same repository.
func TestSibling(t *testing.T) {
	for ref, want := range map[string]string{
		"": "T", "v1": "T", "localhost:5000/a/b:v1": "localhost:5000/a/b:T", "localhost:5000/a": "localhost:5000/a:T",
		"docker.io/library/app:latest@sha256:00": "docker.io/library/app:T", "sha256:00": "T",
	} {
		if got := sibling(ref, "T"); got != want {
			t.Errorf("sibling(%q) = %q, want %q", ref, got, want)
		}
	}
}
