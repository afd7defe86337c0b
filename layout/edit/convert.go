package edit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
	"bk.build/bk/layout/transfer"
)

// Families of media types.
const (
	OCI    = "oci"    // of image-spec
	Docker = "docker" // of Docker's image manifest version 2, schema 2
)

// ConvertOptions configures Convert. The zero value changes nothing.
type ConvertOptions struct {
	// MediaTypes is the family of media types that the result has, OCI or
	// Docker; empty: each document's own.
	MediaTypes string
	// Compression of all layers; nil leaves them as they are. Layers that have
	// the type already stay, whatever their level, unless Force is set.
	Compression *layer.Compression
	Force       bool
	// Jobs is the number of workers that compress a layer; 0 or less: one for
	// each CPU.
	Jobs int
}

// layersAtATime bounds the layers of an image that are recompressed at once.
const layersAtATime = 2

// Convert writes an image, or each image of an index, with other media types or
// another compression. The tars of the layers, and so the diffIDs and the
// configuration, stay byte for byte; layers that need no other compression are
// not read. Artifacts and attestations stay as they are, and so does a document
// in which nothing changes. New documents and layers are written to out; the
// result depends on the image and the options alone.
func Convert(ctx context.Context, src transfer.Reader, desc ocispec.Descriptor, out *layout.Dir, opts ConvertOptions) (*Result, error) {
	if opts.MediaTypes != "" && opts.MediaTypes != OCI && opts.MediaTypes != Docker {
		return nil, fmt.Errorf("media types %q: want %s or %s", opts.MediaTypes, OCI, Docker)
	}
	if opts.Compression != nil {
		if err := opts.Compression.Validate(); err != nil {
			return nil, fmt.Errorf("convert %s: %w", desc.Digest, err)
		}
	}
	e := newEditor(out, src)
	if opts.MediaTypes != "" {
		docker := opts.MediaTypes == Docker
		e.docker = &docker
	}
	e.image = func(ctx context.Context, desc ocispec.Descriptor, m ocispec.Manifest) (ocispec.Descriptor, error) {
		return e.convert(ctx, desc, m, opts)
	}
	return e.run(ctx, "convert", desc)
}

// convert rewrites one manifest.
func (e *editor) convert(ctx context.Context, desc ocispec.Descriptor, m ocispec.Manifest, opts ConvertOptions) (ocispec.Descriptor, error) {
	docker := desc.MediaType == layout.MediaTypeDockerManifest
	if e.docker != nil {
		docker = *e.docker
	}
	layers, err := e.convertLayers(ctx, m, docker, opts)
	if err != nil {
		return desc, err
	}
	mediaType, configType := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig
	if docker {
		mediaType, configType = layout.MediaTypeDockerManifest, layout.MediaTypeDockerConfig
	}
	if mediaType == desc.MediaType && configType == m.Config.MediaType && slices.EqualFunc(layers, m.Layers, sameLayer) {
		return desc, nil
	}
	m.MediaType, m.Config.MediaType, m.Layers = mediaType, configType, layers
	if docker {
		e.dropForDocker(desc, &m)
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return desc, err
	}
	return e.out.PutBytes(mediaType, b)
}

func sameLayer(a, b ocispec.Descriptor) bool {
	return a.Digest == b.Digest && a.MediaType == b.MediaType
}

// dropForDocker takes out what Docker's manifests cannot say.
func (e *editor) dropForDocker(desc ocispec.Descriptor, m *ocispec.Manifest) {
	lost := len(m.Annotations) > 0 || m.ArtifactType != "" || m.Subject != nil || len(m.Config.Annotations) > 0
	m.Annotations, m.ArtifactType, m.Subject, m.Config.Annotations = nil, "", nil, nil
	for i := range m.Layers {
		l := &m.Layers[i]
		lost = lost || len(l.Annotations) > 0
		l.Annotations = nil
		if l.MediaType == layout.MediaTypeDockerLayerZstd {
			e.note("%s: Docker's schema does not define layers in zstd; BuildKit, containerd and podman read them, older Docker engines do not", desc.Digest)
		}
	}
	if lost {
		e.note("%s: Docker's manifests have no annotations, artifact type or subject: they are left out", desc.Digest)
	}
}

// convertLayers returns the new descriptors of a manifest's layers.
func (e *editor) convertLayers(ctx context.Context, m ocispec.Manifest, docker bool, opts ConvertOptions) ([]ocispec.Descriptor, error) {
	made := slices.Clone(m.Layers)
	var todo []int
	for i, l := range m.Layers {
		if e.docker != nil {
			made[i].MediaType = layout.LayerMediaType(l.MediaType, docker)
		}
		switch {
		case opts.Compression == nil || layout.LayerCompression(l.MediaType) == kind(*opts.Compression) && !opts.Force:
		case layout.IsForeign(l.MediaType):
			e.note("layer %s is not distributed (%s) and stays as it is", l.Digest, l.MediaType)
		case !layout.IsLayer(l.MediaType):
			e.note("layer %s has the media type %q, which is not that of a tar, and stays as it is", l.Digest, l.MediaType)
		default:
			todo = append(todo, i)
		}
	}
	if len(todo) == 0 {
		return made, nil
	}
	ids, err := e.diffIDs(ctx, m)
	if err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(layersAtATime)
	for _, i := range todo {
		g.Go(func() (err error) {
			made[i], err = e.repack(gctx, m.Layers[i], ids[i], docker, opts)
			return err
		})
	}
	return made, g.Wait()
}

// kind is the type of a compression.
func kind(c layer.Compression) string {
	if c.Type == "" {
		return layer.Gzip
	}
	return c.Type
}

// diffIDs reads those of a manifest's layers.
func (e *editor) diffIDs(ctx context.Context, m ocispec.Manifest) ([]digest.Digest, error) {
	b, err := transfer.ReadDocument(ctx, e.src, m.Config, layout.MaxConfig)
	if err != nil {
		return nil, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(b, &config); err != nil {
		return nil, fmt.Errorf("parse config %s: %w", m.Config.Digest, err)
	}
	if len(config.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("config %s has %d diffIDs, the manifest %d layers", m.Config.Digest, len(config.RootFS.DiffIDs), len(m.Layers))
	}
	return config.RootFS.DiffIDs, nil
}

// repack compresses a layer anew.
func (e *editor) repack(ctx context.Context, desc ocispec.Descriptor, diffID digest.Digest, docker bool, opts ConvertOptions) (ocispec.Descriptor, error) {
	made, err := e.repackBlob(ctx, desc, diffID, opts)
	if err != nil {
		return desc, fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	made.MediaType = opts.Compression.MediaType(docker)
	made.Platform, made.ArtifactType = desc.Platform, desc.ArtifactType
	made.Annotations = maps.Clone(desc.Annotations)
	maps.DeleteFunc(made.Annotations, func(k, _ string) bool { return aboutPacking(k) })
	if len(made.Annotations) != len(desc.Annotations) {
		e.note("layer %s could be pulled file by file (eStargz or zstd:chunked), the new one cannot", desc.Digest)
	}
	if len(made.Annotations) == 0 {
		made.Annotations = nil
	}
	return made, nil
}

// aboutPacking says whether an annotation describes the compressed bytes.
func aboutPacking(key string) bool {
	return strings.HasPrefix(key, "containerd.io/snapshot/stargz/") || strings.HasPrefix(key, "io.github.containers.zstd-chunked.") ||
		key == "io.containers.estargz.uncompressed-size"
}

func (e *editor) repackBlob(ctx context.Context, desc ocispec.Descriptor, diffID digest.Digest, opts ConvertOptions) (made ocispec.Descriptor, err error) {
	in, err := e.src.Open(ctx, desc)
	if err != nil {
		return made, err
	}
	defer in.Close()
	plain, err := layer.Decompress(in)
	if err != nil {
		return made, err
	}
	defer plain.Close()
	w, err := e.out.NewHashedBlob()
	if err != nil {
		return made, err
	}
	defer w.Close()
	packed, err := layer.Repack(ctx, w, plain, *opts.Compression, opts.Jobs)
	if err != nil {
		return made, err
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // its end verifies it
		return made, err
	}
	if err := checkDiffID(packed.DiffID, diffID); err != nil {
		return made, err
	}
	if _, _, err := w.Commit(packed.Digest, packed.Size); err != nil {
		return made, err
	}
	return ocispec.Descriptor{Digest: packed.Digest, Size: packed.Size}, nil
}

func checkDiffID(got, want digest.Digest) error {
	switch {
	case want.Algorithm() != digest.SHA256:
		return fmt.Errorf("diffID %q: only those of sha256 can be checked here: %w", string(want), errors.ErrUnsupported)
	case got != want:
		return fmt.Errorf("%w: its diffID is %s, the config says %s", layer.ErrInvalid, got, want)
	}
	return nil
}
