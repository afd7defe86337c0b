//go:build linux

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A result is what a build wrote: one image per platform.
type result struct {
	images map[string]*image // "linux/arm64/v8", or "" without an index
	index  bool
}

type image struct {
	config  map[string]any // without created, history and rootfs
	history []ocispec.History
	layers  int
	diffIDs []digest.Digest
	tree    *tree             // nil when read from a record
	files   map[string]string // path -> description; see tree.lines
}

// text returns the content of a small text file.
func (i *image) text(path string) string {
	if i.tree == nil || i.tree.nodes[path] == nil {
		return ""
	}
	return i.tree.nodes[path].text
}

// load reads an OCI layout, with its own code from end to end.
func load(dir string, known content) (*result, error) {
	var top ocispec.Index
	if err := readJSON(filepath.Join(dir, ocispec.ImageIndexFile), &top); err != nil {
		return nil, err
	}
	if len(top.Manifests) != 1 {
		return nil, fmt.Errorf("%s/index.json has %d manifests, want 1", dir, len(top.Manifests))
	}
	r := &result{images: map[string]*image{}}
	desc := top.Manifests[0]
	if desc.MediaType == ocispec.MediaTypeImageManifest {
		img, err := loadImage(dir, desc, known)
		r.images[""] = img
		return r, err
	}
	r.index = true
	var index ocispec.Index
	if err := readBlob(dir, desc, &index); err != nil {
		return nil, err
	}
	for _, m := range index.Manifests {
		if m.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
			continue
		}
		img, err := loadImage(dir, m, known)
		if err != nil {
			return nil, err
		}
		r.images[platform(m.Platform)] = img
	}
	return r, nil
}

func platform(p *ocispec.Platform) string {
	if p == nil {
		return "no platform"
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

func loadImage(dir string, desc ocispec.Descriptor, known content) (*image, error) {
	var manifest ocispec.Manifest
	if err := readBlob(dir, desc, &manifest); err != nil {
		return nil, err
	}
	var typed ocispec.Image
	img := &image{layers: len(manifest.Layers), tree: newTree()}
	if err := readBlob(dir, manifest.Config, &typed); err != nil {
		return nil, err
	}
	if err := readBlob(dir, manifest.Config, &img.config); err != nil {
		return nil, err
	}
	for _, k := range []string{"created", "history", "rootfs"} {
		delete(img.config, k)
	}
	img.history, img.diffIDs = typed.History, typed.RootFS.DiffIDs
	if len(typed.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, fmt.Errorf("%d diff ids for %d layers", len(typed.RootFS.DiffIDs), len(manifest.Layers))
	}
	for i, l := range manifest.Layers {
		if err := applyLayer(dir, l, typed.RootFS.DiffIDs[i], img.tree); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	img.files = img.tree.lines(known)
	return img, nil
}

// applyLayer unpacks one layer and verifies both of its digests.
func applyLayer(dir string, desc ocispec.Descriptor, diffID digest.Digest, t *tree) error {
	f, err := os.Open(blobPath(dir, desc.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	blob := desc.Digest.Verifier()
	compressed := bufio.NewReader(io.TeeReader(f, blob))
	plain, err := decompress(compressed)
	if err != nil {
		return err
	}
	diff := diffID.Verifier()
	packed := io.TeeReader(plain, diff)
	if err := t.apply(packed); err != nil {
		return err
	}
	for _, rest := range []io.Reader{packed, compressed} { // what is after the tar's end counts in the digests
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return err
		}
	}
	if !blob.Verified() || !diff.Verified() {
		return fmt.Errorf("%s: blob matches its digest: %v, tar matches its diff id: %v", desc.Digest, blob.Verified(), diff.Verified())
	}
	return nil
}

func decompress(r *bufio.Reader) (io.Reader, error) {
	magic, _ := r.Peek(4)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(r)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return r, nil
}

func readBlob(dir string, desc ocispec.Descriptor, v any) error {
	data, err := os.ReadFile(blobPath(dir, desc.Digest))
	if err != nil {
		return err
	}
	if got := digest.FromBytes(data); got != desc.Digest || int64(len(data)) != desc.Size {
		return fmt.Errorf("blob %s has digest %s and %d bytes, want %d", desc.Digest, got, len(data), desc.Size)
	}
	return json.Unmarshal(data, v)
}

func readJSON(name string, v any) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

func blobPath(dir string, d digest.Digest) string {
	return filepath.Join(dir, "blobs", string(d.Algorithm()), d.Encoded())
}
