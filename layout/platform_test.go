package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// entry is an index entry that leads nowhere: selection reads no manifests that
// say their platform.
func entry(platform string) ocispec.Descriptor {
	desc := descriptorOf(platform)
	p := platforms.MustParse(platform)
	desc.Platform = &p
	return desc
}

// The best image for a platform is selected, by containerd's rules.
func TestPlatform(t *testing.T) {
	d := newLayout(t)
	attestation := entry("linux/amd64")
	attestation.Digest = descriptorOf("attestation").Digest
	attestation.Annotations = map[string]string{AnnotationReferenceType: "attestation-manifest"}
	unknown := entry("linux/arm64")
	unknown.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	inner, err := d.WriteIndex([]ocispec.Descriptor{entry("linux/riscv64"), entry("windows/amd64")}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	configured := putImage(t, d, "linux", "ppc64le")
	configured.Platform = nil
	list, err := d.WriteIndex([]ocispec.Descriptor{
		attestation, unknown, entry("linux/386"), entry("linux/amd64"), entry("linux/arm/v6"), entry("linux/arm/v7"),
		inner, configured, {MediaType: "application/x-other", Digest: someDigest, Size: 1},
	}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for want, platform := range map[string]string{
		"linux/amd64":   "linux/amd64",
		"linux/386":     "linux/386",
		"linux/arm/v7":  "linux/arm/v7",
		"linux/arm/v6":  "linux/arm/v6",
		"linux/riscv64": "linux/riscv64",
		"windows/amd64": "windows/amd64",
	} {
		got, err := d.Platform(list, platforms.MustParse(platform))
		if err != nil || got.Digest != descriptorOf(want).Digest {
			t.Errorf("Platform(%s) = %v, %v; want %s", platform, got, err, want)
		}
	}
	if got, err := d.Platform(list, platforms.MustParse("linux/ppc64le")); err != nil || got.Digest != configured.Digest || got.Platform.Architecture != "ppc64le" {
		t.Errorf("Platform(linux/ppc64le) = %v, %v; want that of the config", got, err)
	}
	if got, err := d.Platform(list, platforms.MustParse("linux/arm64")); err != nil || got.Digest != descriptorOf("linux/arm/v7").Digest {
		t.Errorf("Platform(linux/arm64) = %v, %v; want arm/v7, which it runs", got, err)
	}
	_, err = d.Platform(list, platforms.MustParse("linux/s390x"))
	want := "no image for platform linux/s390x; available platforms: linux/386, linux/amd64, linux/arm/v6, linux/arm/v7, linux/ppc64le, linux/riscv64, windows/amd64"
	if err == nil || err.Error() != want || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Platform(linux/s390x): %v, want %s", err, want)
	}
	if got, err := d.Platform(configured, platforms.MustParse("linux/s390x")); err != nil || got.Digest != configured.Digest {
		t.Errorf("Platform of a manifest = %v, %v", got, err)
	}
	images, err := Images(list, d.ReadBlob)
	if err != nil || len(images) != 7 {
		t.Errorf("Images = %d, %v; want 7", len(images), err)
	}
}

// Nested indexes end somewhere, whether deep or wide.
func TestNestedIndexes(t *testing.T) {
	d := newLayout(t)
	list := putImage(t, d, "linux", "amd64")
	for depth := range maxNesting + 3 {
		var err error
		if list, err = d.WriteIndex([]ocispec.Descriptor{list}, nil, false); err != nil {
			t.Fatal(err)
		}
		_, errP := d.Platform(list, platforms.MustParse("linux/amd64"))
		_, errC := d.Closure(list)
		if fine := depth <= maxNesting-2; fine && (errP != nil || errC != nil) {
			t.Errorf("depth %d: %v, %v", depth, errP, errC)
		} else if depth > maxNesting && (errP == nil || errC == nil) {
			t.Errorf("depth %d: %v, %v; want errors", depth, errP, errC)
		}
	}
	// 17 * 17 indexes that all say something else.
	var wide []ocispec.Descriptor
	for i := range 17 {
		var inner []ocispec.Descriptor
		for j := range 17 {
			leaf, err := d.WriteIndex(nil, map[string]string{"n": fmt.Sprint(i, j)}, false)
			if err != nil {
				t.Fatal(err)
			}
			inner = append(inner, leaf)
		}
		desc, err := d.WriteIndex(inner, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		wide = append(wide, desc)
	}
	list, err := d.WriteIndex(wide, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Platform(list, platforms.MustParse("linux/amd64")); err == nil || !strings.Contains(err.Error(), "256 indexes") {
		t.Errorf("Platform of a wide tree: %v", err)
	}
}

// The closure lists every blob once, children first, and refuses one digest
// under two meanings.
func TestClosure(t *testing.T) {
	d := newLayout(t)
	shared := putLayer(t, d, "f", "shared")
	a := putImage(t, d, "linux", "amd64", shared, putLayer(t, d, "g", "a"))
	b := putImage(t, d, "linux", "arm64", shared)
	list, err := d.WriteIndex([]ocispec.Descriptor{a, b}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := d.Closure(list)
	if err != nil || len(blobs) != 7 || blobs[6].Digest != list.Digest {
		t.Fatalf("Closure = %d blobs, %v; want 2 layers, 2 configs, 2 manifests, the index last", len(blobs), err)
	}
	asLayer := a
	asLayer.MediaType = ocispec.MediaTypeImageLayer
	confused, err := d.WriteIndex([]ocispec.Descriptor{a, asLayer}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Closure(confused); err == nil || !strings.Contains(err.Error(), "ambiguous") {
		t.Errorf("Closure of one blob as manifest and as layer: %v", err)
	}
	asIndex := a
	asIndex.MediaType = ocispec.MediaTypeImageIndex
	if _, err := d.Closure(asIndex); err == nil {
		t.Error("Closure of a manifest as index succeeds")
	}
}
