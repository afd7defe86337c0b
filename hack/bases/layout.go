//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// epoch is the time of everything in a base.
var epoch = time.Unix(0, 0).UTC()

// A file is one entry of a layer before it is written.
type file struct {
	tar.Header
	content []byte
}

// A layer is a blob of the layout.
type layer struct {
	descriptor ocispec.Descriptor
	diffID     digest.Digest
	createdBy  string
}

// An image is what one architecture of a base consists of.
type image struct {
	arch   string
	env    []string
	cmd    []string
	layers []layer
}

// A layoutWriter fills a new OCI layout. It is kept independent of the
// product's own packages, so that tests don't judge bk by bk's output.
type layoutWriter struct{ dir string }

func newLayout(dir string) (*layoutWriter, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, err
	}
	w := &layoutWriter{dir}
	return w, w.json("oci-layout", ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// addLayer packs what emit writes as a gzipped tar.
func (w *layoutWriter) addLayer(createdBy string, emit func(*tar.Writer) error) (layer, error) {
	tmp, err := os.CreateTemp(w.dir, "layer-")
	if err != nil {
		return layer{}, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	blob, diff := sha256.New(), sha256.New()
	gz := gzip.NewWriter(io.MultiWriter(tmp, blob))
	tw := tar.NewWriter(io.MultiWriter(gz, diff))
	if err := emit(tw); err != nil {
		return layer{}, err
	}
	if err := tw.Close(); err != nil {
		return layer{}, err
	}
	if err := gz.Close(); err != nil {
		return layer{}, err
	}
	size, err := tmp.Seek(0, io.SeekCurrent)
	if err != nil {
		return layer{}, err
	}
	d := digest.NewDigest(digest.SHA256, blob)
	if err := os.Chmod(tmp.Name(), 0o644); err != nil {
		return layer{}, err
	}
	return layer{
		descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: size},
		diffID:     digest.NewDigest(digest.SHA256, diff),
		createdBy:  createdBy,
	}, os.Rename(tmp.Name(), w.blob(d))
}

// addFiles packs files, sorted by name, as a layer.
func (w *layoutWriter) addFiles(createdBy string, files []file) (layer, error) {
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.Name, b.Name) })
	return w.addLayer(createdBy, func(tw *tar.Writer) error {
		for _, f := range files {
			h := f.Header
			h.ModTime, h.Format, h.Size = epoch, tar.FormatPAX, int64(len(f.content))
			if err := tw.WriteHeader(&h); err != nil {
				return fmt.Errorf("write %s: %w", h.Name, err)
			}
			if _, err := tw.Write(f.content); err != nil {
				return fmt.Errorf("write %s: %w", h.Name, err)
			}
		}
		return nil
	})
}

// finish writes configs, manifests, the index of all images and index.json
// with the tag latest.
func (w *layoutWriter) finish(images []*image) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, img := range images {
		desc, err := w.addImage(img)
		if err != nil {
			return err
		}
		index.Manifests = append(index.Manifests, desc)
	}
	desc, err := w.addJSON(ocispec.MediaTypeImageIndex, index)
	if err != nil {
		return err
	}
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: "latest"}
	return w.json(ocispec.ImageIndexFile, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{desc},
	})
}

func (w *layoutWriter) addImage(img *image) (ocispec.Descriptor, error) {
	platform := ocispec.Platform{OS: "linux", Architecture: img.arch}
	if img.arch == "arm64" {
		platform.Variant = "v8"
	}
	config := ocispec.Image{
		Created:  &epoch,
		Platform: platform,
		Config:   ocispec.ImageConfig{Env: img.env, Cmd: img.cmd},
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range img.layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		config.History = append(config.History, ocispec.History{Created: &epoch, CreatedBy: l.createdBy})
		manifest.Layers = append(manifest.Layers, l.descriptor)
	}
	var err error
	if manifest.Config, err = w.addJSON(ocispec.MediaTypeImageConfig, config); err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := w.addJSON(ocispec.MediaTypeImageManifest, manifest)
	desc.Platform = &platform
	return desc, err
}

func (w *layoutWriter) addJSON(mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := digest.FromBytes(data)
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	return desc, os.WriteFile(w.blob(d), data, 0o644)
}

func (w *layoutWriter) json(name string, v any) error {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(w.dir, name), b.Bytes(), 0o644)
}

func (w *layoutWriter) blob(d digest.Digest) string {
	return filepath.Join(w.dir, "blobs", string(d.Algorithm()), d.Encoded())
}
