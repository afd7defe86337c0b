package layout

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// newLayout returns an empty layout of ours.
func newLayout(t testing.TB) *Dir {
	t.Helper()
	d, err := Create(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// put stores bytes as a blob.
func put(t testing.TB, d *Dir, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	desc, err := d.PutBytes(mediaType, b)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// putJSON stores a document.
func putJSON(t testing.TB, d *Dir, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return put(t, d, mediaType, b)
}

// putLayer stores a gzip layer with one file.
func putLayer(t testing.TB, d *Dir, name, content string) LayerBlob {
	t.Helper()
	plain := tarOf(t, name, content)
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	if _, err := zw.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return LayerBlob{
		Descriptor: put(t, d, ocispec.MediaTypeImageLayerGzip, packed.Bytes()),
		DiffID:     digest.FromBytes(plain),
	}
}

func tarOf(t testing.TB, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}
	if err := tw.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// putImage stores an image of one layer for a platform.
func putImage(t testing.TB, d *Dir, os, arch string, layers ...LayerBlob) ocispec.Descriptor {
	t.Helper()
	if layers == nil {
		layers = []LayerBlob{putLayer(t, d, "platform", os+"/"+arch)}
	}
	config, err := json.Marshal(map[string]any{"os": os, "architecture": arch, "config": map[string]any{}})
	if err != nil {
		t.Fatal(err)
	}
	desc, _, err := d.WriteImage(ImageSpec{Config: config, Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// blobFile is where a blob is, for tests that spoil it.
func blobFile(t testing.TB, d *Dir, dg digest.Digest) string {
	t.Helper()
	path, err := d.BlobPath(dg)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// overwrite replaces a blob's file with other content.
func overwrite(t testing.TB, d *Dir, dg digest.Digest, content string) {
	t.Helper()
	path := blobFile(t, d, dg)
	os.Remove(path)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func timeAt(s string) *time.Time {
	tm, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return &tm
}
