package layout

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func descriptorOf(content string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(content), Size: int64(len(content))}
}

// index.json names images as BuildKit's exporter does.
func TestNamedDescriptor(t *testing.T) {
	for name, want := range map[string]map[string]string{
		"docker.io/library/app:v1": {AnnotationImageName: "docker.io/library/app:v1", ocispec.AnnotationRefName: "v1"},
		"host:5000/a/b:v1":         {AnnotationImageName: "host:5000/a/b:v1", ocispec.AnnotationRefName: "v1"},
		"host:5000/a/b":            {AnnotationImageName: "host:5000/a/b", ocispec.AnnotationRefName: "host:5000/a/b"},
		"v1":                       {ocispec.AnnotationRefName: "v1"},
		"":                         nil,
	} {
		desc := descriptorOf("x")
		if diff := cmp.Diff(want, NamedDescriptor(name, desc).Annotations); diff != "" {
			t.Errorf("NamedDescriptor(%q): %s", name, diff)
		}
	}
	old := descriptorOf("x")
	old.Annotations = map[string]string{"k": "v", ocispec.AnnotationRefName: "old"}
	got := NamedDescriptor("new", old)
	if got.Annotations["k"] != "v" || got.Annotations[ocispec.AnnotationRefName] != "new" || old.Annotations[ocispec.AnnotationRefName] != "old" {
		t.Errorf("annotations %v of %v", got.Annotations, old.Annotations)
	}
}

// A name leads to what it was set to last; others stay; nothing is written when
// nothing changes.
func TestSetRef(t *testing.T) {
	d := newLayout(t)
	a, b := descriptorOf("a"), descriptorOf("b")
	set := func(name string, desc ocispec.Descriptor) {
		t.Helper()
		if err := d.SetRef(name, desc); err != nil {
			t.Fatal(err)
		}
	}
	set("docker.io/library/app:v1", a)
	set("docker.io/library/other:v1", a)
	set("docker.io/library/app:v1", b)
	set("v1", b)
	set("", a)
	before, err := os.Stat(filepath.Join(d.Path(), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	long := time.Unix(1000, 0)
	if err := os.Chtimes(d.Path(), long, long); err != nil {
		t.Fatal(err)
	}
	set("docker.io/library/app:v1", b)
	set("", b)
	if dir, err := os.Stat(d.Path()); err != nil || !dir.ModTime().Equal(long) {
		t.Errorf("a file was made in the layout though nothing changed (%v)", err)
	}
	after, err := os.Stat(filepath.Join(d.Path(), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("index.json was written though nothing changed")
	}
	for ref, want := range map[string]ocispec.Descriptor{"app:v1": b, "other:v1": a, "docker.io/library/app:v1": b} {
		if got, err := d.Resolve(ref); err != nil || got.Digest != want.Digest {
			t.Errorf("Resolve(%q) = %s, %v; want %s", ref, got.Digest, err, want.Digest)
		}
	}
	if err := d.RemoveRef("app:v1"); err != nil {
		t.Error(err)
	}
	if _, err := d.Resolve("docker.io/library/app:v1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resolve after RemoveRef: %v", err)
	}
	if err := d.RemoveRef("app:v1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("RemoveRef twice: %v", err)
	}
	if got, err := d.Resolve("other:v1"); err != nil || got.Digest != a.Digest {
		t.Errorf("Resolve(other:v1) = %v, %v", got, err)
	}
	bad := descriptorOf("x")
	bad.Digest = "sha256:../x"
	if err := d.SetRef("bad", bad); err == nil {
		t.Error("SetRef of an invalid digest succeeds")
	}
}

// Resolve finds by name, tag, digest and by there being one, and says what
// there is when it doesn't.
func TestResolve(t *testing.T) {
	d := newLayout(t)
	if _, err := d.Resolve(""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resolve in an empty layout: %v", err)
	}
	one := putImage(t, d, "linux", "amd64")
	two := putImage(t, d, "linux", "arm64")
	unnamed := putImage(t, d, "linux", "s390x")
	if err := d.SetRef("docker.io/library/one:v1", one); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Resolve(""); err != nil || got.Digest != one.Digest {
		t.Errorf(`Resolve("") = %v, %v`, got, err)
	}
	if err := d.SetRef("example.com:5000/two:v1", two); err != nil {
		t.Fatal(err)
	}
	if err := d.SetRef("edge", two); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]digest.Digest{
		"one:v1":                         one.Digest,
		"docker.io/library/one:v1":       one.Digest,
		"index.docker.io/library/one:v1": one.Digest,
		"example.com:5000/two:v1":        two.Digest,
		"edge":                           two.Digest,
		two.Digest.String():              two.Digest,
		"x@" + two.Digest.String():       two.Digest,
		unnamed.Digest.String():          unnamed.Digest,
	} {
		got, err := d.Resolve(ref)
		if err != nil || got.Digest != want || got.MediaType != ocispec.MediaTypeImageManifest || got.Size == 0 {
			t.Errorf("Resolve(%q) = %+v, %v; want %s", ref, got, err, want)
		}
	}
	for ref, want := range map[string]string{
		"":                                 "ambiguous",
		"v1":                               "ambiguous: name one of docker.io/library/one:v1, example.com:5000/two:v1",
		"three":                            "the layout has docker.io/library/one:v1, example.com:5000/two:v1, edge",
		digest.FromString("none").String(): "file does not exist",
	} {
		_, err := d.Resolve(ref)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Resolve(%q): %v; want %q", ref, err, want)
		}
	}
	layer := putLayer(t, d, "f", "x").Descriptor
	if _, err := d.Resolve(layer.Digest.String()); err == nil {
		t.Error("a layer's digest resolves to an image")
	}
}

// A hostile or torn index.json is an error and not a crash, and is not
// overwritten by SetRef.
func TestBadIndex(t *testing.T) {
	for name, content := range map[string]string{
		"empty":          "",
		"not JSON":       "{",
		"no manifests":   `{"schemaVersion":2}`,
		"manifest":       `{"schemaVersion":2,"config":{},"layers":[]}`,
		"duplicate":      `{"schemaVersion":2,"manifests":[],"manifests":[]}`,
		"other case":     `{"schemaVersion":2,"manifests":[],"Manifests":[]}`,
		"invalid digest": `{"schemaVersion":2,"manifests":[{"mediaType":"a","digest":"sha256:..","size":1}]}`,
		"trailing":       `{"schemaVersion":2,"manifests":[]} {}`,
		"huge":           `{"schemaVersion":2,"manifests":[]` + strings.Repeat(" ", MaxManifest) + "}",
	} {
		t.Run(name, func(t *testing.T) {
			d := newLayout(t)
			path := filepath.Join(d.Path(), "index.json")
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Index(); err == nil {
				t.Error("Index accepts it")
			}
			if err := d.SetRef("x", descriptorOf("x")); err == nil {
				t.Error("SetRef accepts it")
			}
			if b, _ := os.ReadFile(path); string(b) != content {
				t.Error("index.json was changed")
			}
			if rep, err := d.Verify(t.Context(), 1, true); err != nil || len(rep.Problems) != 1 {
				t.Errorf("Verify = %v, %v", rep.Problems, err)
			}
		})
	}
}

// Names are spelled out as Docker does.
func TestNormalizeName(t *testing.T) {
	for in, want := range map[string]string{
		"app":                    "docker.io/library/app:latest",
		"app:v1":                 "docker.io/library/app:v1",
		"me/app":                 "docker.io/me/app:latest",
		"docker.io/app":          "docker.io/library/app:latest",
		"index.docker.io/me/app": "docker.io/me/app:latest",
		"host:5000/app":          "host:5000/app:latest",
		"host.example/app:v1":    "host.example/app:v1",
		"localhost/app":          "localhost/app:latest",
		"app@sha256:abc":         "docker.io/library/app@sha256:abc",
		"host:5000/a/b:v1@sha:1": "host:5000/a/b:v1@sha:1",
	} {
		if got := NormalizeName(in); got != want {
			t.Errorf("NormalizeName(%q) = %q, want %q", in, got, want)
		}
		if again := NormalizeName(want); again != want {
			t.Errorf("NormalizeName(%q) = %q, want the same", want, again)
		}
	}
}

// An update whose change fails leaves index.json alone and gives the error
// back; one that succeeds is seen by the next reader.
func TestUpdate(t *testing.T) {
	d := newLayout(t)
	want := errors.New("not today")
	err := d.Update(func(index *ocispec.Index) error {
		index.Manifests = append(index.Manifests, descriptorOf("a"))
		return want
	})
	if !errors.Is(err, want) {
		t.Errorf("Update = %v, want %v", err, want)
	}
	if index, err := d.Index(); err != nil || len(index.Manifests) != 0 {
		t.Errorf("after a failed update: %v, %v", index.Manifests, err)
	}
	runs := 0
	err = d.Update(func(index *ocispec.Index) error {
		runs++
		index.Manifests = append(index.Manifests, descriptorOf("a"))
		return nil
	})
	if index, errIndex := d.Index(); err != nil || errIndex != nil || len(index.Manifests) != 1 || runs != 1 {
		t.Errorf("after %d runs of an update: %v, %v, %v", runs, index.Manifests, err, errIndex)
	}
}

// What readers would refuse is not written: the layout stays readable.
func TestIndexFull(t *testing.T) {
	d := newLayout(t)
	fill := func(n int) error {
		return d.Update(func(index *ocispec.Index) error {
			index.Manifests = slices.Repeat([]ocispec.Descriptor{descriptorOf("a")}, n)
			return nil
		})
	}
	if err := fill(maxEntries); err != nil {
		t.Fatal(err)
	}
	if err := fill(maxEntries + 1); !errors.Is(err, ErrIndexFull) {
		t.Errorf("one entry too many: %v, want %v", err, ErrIndexFull)
	}
	err := d.Update(func(index *ocispec.Index) error {
		index.Annotations = map[string]string{"k": strings.Repeat("v", MaxManifest)}
		return nil
	})
	if !errors.Is(err, ErrIndexFull) {
		t.Errorf("too large: %v, want %v", err, ErrIndexFull)
	}
	if index, err := d.Index(); err != nil || len(index.Manifests) != maxEntries {
		t.Errorf("%d entries, %v", len(index.Manifests), err)
	}
}
