//go:build linux

package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
)

// builtImage is one platform's image of a layout.
type builtImage struct {
	dir      *layout.Dir
	manifest ocispecs.Manifest
	config   ocispecs.Image
	raw      []byte // of config
}

// theImage returns the only image of a layout, whose every digest, size and
// diffID it checks.
func theImage(t *testing.T, path string) builtImage {
	t.Helper()
	images := imagesOf(t, path, "")
	if len(images) != 1 {
		t.Fatalf("%s has %d images, want 1", path, len(images))
	}
	return images[0]
}

// imagesOf returns the images that a reference leads to in a layout, one for
// each platform, all of them checked.
func imagesOf(t *testing.T, path, ref string) []builtImage {
	t.Helper()
	dir, err := layout.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := dir.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := layout.Validate(t.Context(), dir, desc); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	list, err := layout.Images(desc, dir.ReadBlob)
	if err != nil {
		t.Fatal(err)
	}
	var images []builtImage
	for _, d := range list {
		image := builtImage{dir: dir}
		readDocument(t, dir, d, &image.manifest)
		image.raw = readDocument(t, dir, image.manifest.Config, &image.config)
		images = append(images, image)
	}
	return images
}

func readDocument(t *testing.T, dir *layout.Dir, desc ocispecs.Descriptor, into any) []byte {
	t.Helper()
	b, err := dir.ReadBlob(desc, layout.MaxManifest)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// files lists the paths of the image's n-th layer from the top, sorted.
func (b builtImage) files(t *testing.T, n int) []string {
	t.Helper()
	desc := b.manifest.Layers[len(b.manifest.Layers)-1-n]
	blob, err := b.dir.OpenBlob(desc)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	r, err := layer.Decompress(blob)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	names := []string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}
