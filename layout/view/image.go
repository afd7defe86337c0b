package view

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// Image is an image for one platform: its documents, and the place that its
// layers are read from. It is safe for concurrent use.
type Image struct {
	Descriptor ocispec.Descriptor // of the manifest
	Manifest   ocispec.Manifest
	Config     ocispec.Image
	RawConfig  []byte

	src transfer.Reader
}

// Open returns the image that desc, a manifest or an index in r, has for a
// platform. A nil platform is that of this host; when the index has no such and
// only one image, it is that one.
func Open(ctx context.Context, r transfer.Reader, desc ocispec.Descriptor, platform *ocispec.Platform) (*Image, error) {
	fetch := transfer.Fetch(ctx, r)
	m, err := choose(desc, platform, fetch)
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", desc.Digest, err)
	}
	img, err := load(r, m, fetch)
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", m.Digest, err)
	}
	return img, nil
}

// choose selects a manifest.
func choose(desc ocispec.Descriptor, platform *ocispec.Platform, fetch layout.Fetch) (ocispec.Descriptor, error) {
	if platform != nil {
		return layout.Select(desc, *platform, fetch)
	}
	m, err := layout.Select(desc, platforms.DefaultSpec(), fetch)
	var none *layout.PlatformError
	if !errors.As(err, &none) {
		return m, err
	}
	images, err := layout.Images(desc, fetch)
	if err == nil && len(images) == 1 {
		return images[0], nil
	}
	return m, errors.Join(err, fmt.Errorf("%w: choose one by its platform", none))
}

// load reads a manifest and its configuration.
func load(r transfer.Reader, desc ocispec.Descriptor, fetch layout.Fetch) (*Image, error) {
	img := &Image{Descriptor: desc, src: r}
	b, err := fetch(desc, layout.MaxManifest)
	if err != nil {
		return nil, err
	}
	if img.Manifest, err = layout.ParseManifest(desc.MediaType, b); err != nil {
		return nil, err
	}
	if t := img.Manifest.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != layout.MediaTypeDockerConfig {
		return nil, fmt.Errorf("it is an artifact (%s) and has no files", first(img.Manifest.ArtifactType, t))
	}
	if img.RawConfig, err = fetch(img.Manifest.Config, layout.MaxConfig); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(img.RawConfig, &img.Config); err != nil {
		return nil, fmt.Errorf("parse config %s: %w", img.Manifest.Config.Digest, err)
	}
	return img, img.checkLayers()
}

// checkLayers refuses what cannot be read as a stack of file trees.
func (m *Image) checkLayers() error {
	ids := m.Config.RootFS.DiffIDs
	if len(ids) != len(m.Manifest.Layers) {
		return fmt.Errorf("the config has %d diffIDs, the manifest %d layers", len(ids), len(m.Manifest.Layers))
	}
	for i, l := range m.Manifest.Layers {
		if !layout.IsLayer(l.MediaType) {
			return fmt.Errorf("layer %d has the media type %q, which is not that of a tar", i+1, l.MediaType)
		}
		if err := ids[i].Validate(); err != nil {
			return fmt.Errorf("layer %d: diffID %q: %w", i+1, string(ids[i]), err)
		}
	}
	return nil
}

// Platform is the platform of the configuration.
func (m *Image) Platform() string { return platforms.FormatAll(m.Config.Platform) }

// createdBy returns what the history says of each layer.
func (m *Image) createdBy() []string {
	texts := make([]string, len(m.Manifest.Layers))
	n := 0
	for _, h := range m.Config.History {
		if !h.EmptyLayer && n < len(texts) {
			texts[n] = h.CreatedBy
			n++
		}
	}
	return texts
}

// sameLayers counts the layers from the bottom that two images share.
func sameLayers(a, b []digest.Digest) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
