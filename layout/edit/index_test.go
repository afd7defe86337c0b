package edit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// listLayout returns an empty layout and the place that it is.
func listLayout(t *testing.T) (*layout.Dir, *transfer.Dir) {
	t.Helper()
	d, err := layout.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return d, transfer.Layout(d)
}

// listImage writes an image without layers for a platform.
func listImage(t *testing.T, d *layout.Dir, platform, marker string, docker bool) ocispec.Descriptor {
	t.Helper()
	p, err := platforms.Parse(platform)
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(ocispec.Image{Platform: p, Author: marker})
	if err != nil {
		t.Fatal(err)
	}
	desc, _, err := d.WriteImage(layout.ImageSpec{Config: config, Docker: docker})
	if err != nil {
		t.Fatal(err)
	}
	desc.Platform = nil // it is to be read from the config
	return desc
}

// showList writes a list as one line: platforms, or artifact types, and the first
// digits of digests.
func showList(l *List) string {
	var out []string
	for _, e := range l.Manifests() {
		what := e.ArtifactType
		if e.Platform != nil {
			what = platforms.FormatAll(*e.Platform)
		}
		out = append(out, what)
	}
	return strings.Join(out, " ")
}

func listEntries(t *testing.T, r transfer.Reader, desc ocispec.Descriptor) []ocispec.Descriptor {
	t.Helper()
	list, err := Entries(t.Context(), r, desc)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A list of images from several places has their platforms, what indexes hold is
// in it without the indexes, and everything is where the list is.
func TestListCreate(t *testing.T) {
	a, aPlace := listLayout(t)
	b, bPlace := listLayout(t)
	amd := listImage(t, a, "linux/amd64", "", false)
	arm := listImage(t, b, "linux/arm/v7", "", false)
	riscv := listImage(t, b, "linux/riscv64", "", false)
	about := listImage(t, b, "unknown/unknown", "", false)
	about.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	about.Annotations = map[string]string{layout.AnnotationReferenceType: "attestation-manifest", annotationAbout: riscv.Digest.String()}
	inner, err := b.WriteIndex([]ocispec.Descriptor{riscv, about}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := b.WriteIndex([]ocispec.Descriptor{arm, inner}, nil, false)
	if err != nil {
		t.Fatal(err)
	}

	l := NewList(false)
	var parts []Part
	for _, src := range []Part{{aPlace, amd}, {bPlace, outer}} {
		entries := listEntries(t, src.Reader, src.Desc)
		if replaced, err := l.Add(entries...); err != nil || len(replaced) > 0 {
			t.Fatalf("Add replaces %v, %v", replaced, err)
		}
		for _, e := range entries {
			parts = append(parts, Part{src.Reader, e})
		}
	}
	if got, want := showList(l), "linux/amd64 linux/arm/v7 linux/riscv64 unknown/unknown"; got != want {
		t.Errorf("list %q, want %q", got, want)
	}
	if err := l.Annotate(map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	c, cPlace := listLayout(t)
	desc, err := l.Write(t.Context(), cPlace, parts, []string{"v1"}, transfer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := layout.Validate(t.Context(), c, desc); err != nil {
		t.Error(err)
	}
	again, err := ReadList(t.Context(), cPlace, desc)
	if err != nil || showList(again) != showList(l) || again.index.Annotations["k"] != "v" {
		t.Errorf("read again: %+v, %v", again, err)
	}

	// Removing an image removes what is about it.
	found, err := again.Find("linux/riscv64")
	if err != nil || !slices.Equal(found, []digest.Digest{riscv.Digest}) {
		t.Fatalf("Find = %v, %v", found, err)
	}
	if err := again.Remove(found...); err != nil || showList(again) != "linux/amd64 linux/arm/v7" {
		t.Errorf("Remove leaves %q, %v", showList(again), err)
	}
}

// One platform is in a list once: the new image takes the old one's place.
func TestListReplace(t *testing.T) {
	d, place := listLayout(t)
	old := listImage(t, d, "linux/arm64", "old", false)
	l := NewList(false)
	for _, desc := range []ocispec.Descriptor{old, listImage(t, d, "linux/amd64", "", false)} {
		if _, err := l.Add(listEntries(t, place, desc)...); err != nil {
			t.Fatal(err)
		}
	}
	young := listEntries(t, place, listImage(t, d, "linux/arm64/v8", "new", false))
	replaced, err := l.Add(young...)
	if err != nil || len(replaced) != 1 || replaced[0].Digest != old.Digest {
		t.Errorf("Add replaces %v, %v; want %s", replaced, err, old.Digest)
	}
	if got := l.Manifests(); len(got) != 2 || got[0].Digest != young[0].Digest {
		t.Errorf("list %v, want the new image first", got)
	}
	if replaced, err := l.Add(young...); err != nil || len(replaced) != 0 || len(l.Manifests()) != 2 {
		t.Errorf("adding it again replaces %v, %v", replaced, err)
	}
}

// Entries are found by digest or platform and changed; two never get one
// platform.
func TestListChange(t *testing.T) {
	d, place := listLayout(t)
	l := NewList(false)
	amd, arm := listImage(t, d, "linux/amd64", "", false), listImage(t, d, "linux/arm64", "", false)
	for _, desc := range []ocispec.Descriptor{amd, arm} {
		if _, err := l.Add(listEntries(t, place, desc)...); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Change(arm.Digest, Change{Arch: "amd64"}); err == nil || !strings.Contains(err.Error(), amd.Digest.String()) {
		t.Errorf("Change to a platform that is there: %v", err)
	}
	c := Change{OS: "windows", Arch: "amd64", OSVersion: "10.0.1", OSFeatures: []string{"win32k"}, Annotations: map[string]string{"a": "b"}}
	if err := l.Change(arm.Digest, c); err != nil {
		t.Fatal(err)
	}
	e := l.Manifests()[1]
	want := "&{amd64 windows 10.0.1 [win32k] } map[a:b]"
	if got := fmt.Sprint(e.Platform, e.Annotations); got != want {
		t.Errorf("entry %s, want %s", got, want)
	}
	if found, err := l.Find("windows/amd64"); err != nil || len(found) != 1 {
		t.Errorf("Find = %v, %v", found, err)
	}
	for what, want := range map[string]string{
		"linux/s390x": "no entry linux/s390x; it has linux/amd64", "x": "neither a digest nor a platform",
		digest.FromString("x").String(): "no entry",
	} {
		if _, err := l.Find(what); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Find(%q) = %v, want %q", what, err, want)
		}
	}
	if err := l.Change(digest.FromString("x"), c); err == nil {
		t.Error("Change of nothing has no error")
	}
	if err := l.Remove(digest.FromString("x")); err == nil {
		t.Error("Remove of nothing has no error")
	}
}

// Docker's lists stay Docker's, and don't get what they have no field for.
func TestListDocker(t *testing.T) {
	d, place := listLayout(t)
	l := NewList(true)
	if _, err := l.Add(listEntries(t, place, listImage(t, d, "linux/amd64", "", true))...); err != nil {
		t.Fatal(err)
	}
	desc, err := l.Write(t.Context(), place, nil, []string{"v1"}, transfer.Options{})
	if err != nil || desc.MediaType != layout.MediaTypeDockerIndex {
		t.Fatalf("Write = %v, %v", desc, err)
	}
	again, err := ReadList(t.Context(), place, desc)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Annotate(map[string]string{"a": "b"}); err == nil {
		t.Error("Annotate of Docker's list has no error")
	}
	if err := again.Change(again.Manifests()[0].Digest, Change{Annotations: map[string]string{"a": "b"}}); err == nil {
		t.Error("annotating an entry of Docker's list has no error")
	}
	if err := again.Change(again.Manifests()[0].Digest, Change{Variant: "v2"}); err != nil {
		t.Error(err)
	}
	image := again.Manifests()[0]
	if _, err := ReadList(t.Context(), place, image); err == nil || !strings.Contains(err.Error(), "single image") {
		t.Errorf("ReadList of an image: %v", err)
	}
}
