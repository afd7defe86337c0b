package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
)

// dockerManifestFile lists the images of a docker-archive.
const dockerManifestFile = "manifest.json"

// Bounds on a docker-archive.
const (
	maxImages      = 10_000
	maxImageLayers = 10_000   // of one image, as in a manifest
	maxConfigs     = 64 << 20 // bytes of all configurations
)

// dockerImage is an image in manifest.json: files of the archive.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// parseDockerManifest parses manifest.json.
func parseDockerManifest(b []byte) ([]dockerImage, error) {
	if err := layout.CheckJSON(b, "Config", "RepoTags", "Layers"); err != nil {
		return nil, err
	}
	var images []dockerImage
	if err := json.Unmarshal(b, &images); err != nil {
		return nil, err
	}
	if len(images) == 0 || len(images) > maxImages {
		return nil, fmt.Errorf("it lists %d images, want 1 to %d", len(images), maxImages)
	}
	layers := 0
	for i, img := range images {
		layers += len(img.Layers)
		if img.Config == "" {
			return nil, fmt.Errorf("image %d has no Config", i)
		}
		if len(img.Layers) > maxImageLayers || layers > maxFiles {
			return nil, fmt.Errorf("image %d has more layers than can be read: %d", i, len(img.Layers))
		}
		for _, tag := range img.RepoTags {
			if err := checkRepoTag(tag); err != nil {
				return nil, fmt.Errorf("image %d: %w", i, err)
			}
		}
	}
	return images, nil
}

// checkRepoTag refuses a name that cannot be one. The rest of a reference's
// grammar does not matter to reading.
func checkRepoTag(tag string) error {
	name := tag[strings.LastIndex(tag, "/")+1:]
	if len(tag) > 512 || !plain(tag) || strings.Contains(tag, " ") || !strings.Contains(name, ":") {
		return fmt.Errorf("RepoTag %.512q is no name with a tag", tag)
	}
	return nil
}

// loadDocker makes a manifest for each image of a docker-archive that has no
// OCI layout.
func (a *Archive) loadDocker(ctx context.Context) error {
	b, err := a.document(dockerManifestFile, layout.MaxManifest)
	if err != nil {
		return err
	}
	images, err := parseDockerManifest(b)
	if err != nil {
		return fmt.Errorf("%s: %w", dockerManifestFile, err)
	}
	l := dockerLoader{a: a, packed: map[int64]packedLayer{}}
	for _, img := range images {
		desc, err := l.image(ctx, img)
		if err != nil {
			return fmt.Errorf("image %s: %w", imageName(img), err)
		}
		if len(img.RepoTags) == 0 {
			a.index = append(a.index, layout.NamedDescriptor("", desc))
		}
		for _, tag := range img.RepoTags {
			a.index = append(a.index, layout.NamedDescriptor(layout.NormalizeName(tag), desc))
		}
	}
	return nil
}

// imageName names an image in messages.
func imageName(img dockerImage) string {
	if len(img.RepoTags) > 0 {
		return img.RepoTags[0]
	}
	return fmt.Sprintf("%.128q", img.Config)
}

// dockerLoader reads the images of one archive.
type dockerLoader struct {
	a       *Archive
	configs int64                 // bytes read
	packed  map[int64]packedLayer // by offset: compressed layers that were read
}

type packedLayer struct {
	desc   ocispec.Descriptor
	diffID digest.Digest
}

// image makes the manifest of an image.
func (l *dockerLoader) image(ctx context.Context, img dockerImage) (ocispec.Descriptor, error) {
	config, diffIDs, err := l.config(img.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if len(diffIDs) != len(img.Layers) {
		return ocispec.Descriptor{}, fmt.Errorf("it has %d layers, its config %s has %d diff_ids", len(img.Layers), config.Digest, len(diffIDs))
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: layout.MediaTypeDockerManifest,
		Config:    config,
		Layers:    make([]ocispec.Descriptor, 0, len(diffIDs)),
	}
	for i, name := range img.Layers {
		desc, err := l.layer(ctx, name, diffIDs[i])
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("layer %d: %w", i, err)
		}
		m.Layers = append(m.Layers, desc)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	l.a.docs[desc.Digest] = b
	return desc, nil
}

// config reads an image's configuration.
func (l *dockerLoader) config(name string) (ocispec.Descriptor, []digest.Digest, error) {
	e, err := l.a.table.follow(name)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("config: %w", err)
	}
	if l.configs += e.size; l.configs > maxConfigs {
		return ocispec.Descriptor{}, nil, fmt.Errorf("the configs of its images have more than %d bytes", maxConfigs)
	}
	b, err := l.a.document(name, layout.MaxConfig)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("config: %w", err)
	}
	diffIDs, err := parseDiffIDs(b)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("config %.128q: %w", name, err)
	}
	desc := ocispec.Descriptor{MediaType: layout.MediaTypeDockerConfig, Digest: digest.FromBytes(b), Size: e.size}
	return desc, diffIDs, l.place(desc, e)
}

// parseDiffIDs returns the layers that an image's configuration names.
func parseDiffIDs(b []byte) ([]digest.Digest, error) {
	if err := layout.CheckJSON(b); err != nil {
		return nil, err
	}
	var config struct {
		RootFS *struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(b, &config); err != nil {
		return nil, err
	}
	if config.RootFS == nil {
		return nil, errors.New("it has no rootfs, so it says nothing of the layers")
	}
	for _, dg := range config.RootFS.DiffIDs {
		if err := dg.Validate(); err != nil {
			return nil, fmt.Errorf("diffID %.128q: %w", string(dg), err)
		}
	}
	return config.RootFS.DiffIDs, nil
}

// layer describes a layer. The digest of a plain tar is the diffID, which holds
// for whoever reads it. One that is compressed, as some tools write it, is read
// to its end, because nothing says what its digest is.
func (l *dockerLoader) layer(ctx context.Context, name string, diffID digest.Digest) (ocispec.Descriptor, error) {
	e, err := l.a.table.follow(name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	magic := make([]byte, magicLen)
	n, err := io.NewSectionReader(l.a.file, e.off, e.size).Read(magic)
	if err != nil && err != io.EOF {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: layout.MediaTypeDockerLayer, Digest: diffID, Size: e.size}
	if compressionOf(magic[:n]) != "" {
		if desc, err = l.compressed(ctx, e, diffID); err != nil {
			return desc, fmt.Errorf("%.128q: %w", name, err)
		}
	}
	return desc, l.place(desc, e)
}

// compressed reads a compressed layer and checks its diffID.
func (l *dockerLoader) compressed(ctx context.Context, e entry, diffID digest.Digest) (ocispec.Descriptor, error) {
	p, ok := l.packed[e.off]
	if !ok {
		var err error
		if p, err = hashPacked(ctx, io.NewSectionReader(l.a.file, e.off, e.size), diffID.Algorithm()); err != nil {
			return p.desc, err
		}
		l.packed[e.off] = p
	}
	if p.diffID != diffID {
		return p.desc, fmt.Errorf("it has diffID %s, the config says %s", p.diffID, diffID)
	}
	return p.desc, nil
}

// hashPacked reads a compressed layer to its end.
func hashPacked(ctx context.Context, r *io.SectionReader, alg digest.Algorithm) (p packedLayer, err error) {
	magic := make([]byte, magicLen)
	if _, err := r.ReadAt(magic, 0); err != nil && err != io.EOF {
		return p, err
	}
	p.desc = ocispec.Descriptor{MediaType: layout.MediaTypeDockerLayerGzip, Size: r.Size()}
	if compressionOf(magic) == layer.Zstd {
		p.desc.MediaType = layout.MediaTypeDockerLayerZstd
	}
	packed, plain := digest.SHA256.Hash(), alg.Hash()
	in := io.TeeReader(r, packed)
	if err := unpackTo(ctx, plain, in); err != nil {
		return p, err
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // what the decompressor left
		return p, err
	}
	p.desc.Digest, p.diffID = digest.NewDigest(digest.SHA256, packed), digest.NewDigest(alg, plain)
	return p, nil
}

// place notes which file of the archive is a blob.
func (l *dockerLoader) place(desc ocispec.Descriptor, e entry) error {
	if old, ok := l.a.blobs[desc.Digest]; ok && old.size != e.size {
		return fmt.Errorf("blob %s is there twice, with %d and %d bytes", desc.Digest, old.size, e.size)
	} else if !ok {
		l.a.blobs[desc.Digest] = e
	}
	return nil
}
