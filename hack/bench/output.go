//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An output is the images of an OCI layout, with their layers.
type output struct{ images [][]ocispec.Descriptor }

// readOutput reads a layout and makes sure that every layer is there.
func readOutput(dir string) (*output, error) {
	var top ocispec.Index
	if err := readJSON(filepath.Join(dir, ocispec.ImageIndexFile), &top); err != nil {
		return nil, err
	}
	o := &output{}
	return o, o.add(dir, top.Manifests)
}

func (o *output) add(dir string, descs []ocispec.Descriptor) error {
	for _, d := range descs {
		if d.Annotations["vnd.docker.reference.type"] != "" {
			continue // attestations
		}
		var m struct {
			Manifests, Layers []ocispec.Descriptor
		}
		if err := readJSON(blob(dir, d), &m); err != nil {
			return err
		}
		if err := o.add(dir, m.Manifests); err != nil {
			return err
		}
		if len(m.Manifests) > 0 {
			continue
		}
		for _, l := range m.Layers {
			if info, err := os.Stat(blob(dir, l)); err != nil || info.Size() != l.Size {
				return fmt.Errorf("layer %s is not whole in the output", l.Digest)
			}
		}
		o.images = append(o.images, m.Layers)
	}
	return nil
}

func blob(dir string, d ocispec.Descriptor) string {
	return filepath.Join(dir, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded())
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// check makes sure that a builder did what the scenario asks for, and in a later
// phase that it used what it had when nothing changed, and noticed what did.
func (o *output) check(s *scenario, p *phase, before *output) error {
	if len(o.images) != s.images() {
		return fmt.Errorf("the output has %d images, want %d", len(o.images), s.images())
	}
	want := "gzip"
	if s.compression != "" {
		want = s.compression
	}
	for _, layers := range o.images {
		if len(layers) == 0 || len(layers) < s.layers {
			return fmt.Errorf("the image has %d layers, want %d or more", len(layers), s.layers)
		}
		if last := layers[len(layers)-1]; !strings.HasSuffix(last.MediaType, want) {
			return fmt.Errorf("the last layer is %s, want %s", last.MediaType, want)
		}
	}
	if before == nil {
		return nil
	}
	if same := o.sameLayers(before); same != (p.change == nil) {
		return errors.New("the layers' digests are the same after a change, or differ without one")
	}
	return nil
}

func (o *output) sameLayers(other *output) bool {
	return slices.EqualFunc(o.images, other.images, func(a, b []ocispec.Descriptor) bool {
		return slices.EqualFunc(a, b, func(x, y ocispec.Descriptor) bool { return x.Digest == y.Digest })
	})
}
