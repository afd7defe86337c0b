package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// image is a base image that was resolved to one platform's manifest.
type image struct {
	top    digest.Digest // of what the reference names: an index or a manifest
	config []byte
	layers []*origin
}

// maxDocument bounds manifests and configurations.
const maxDocument = 8 << 20

// place is where the blobs of an image are.
type place struct {
	// read returns a small document, verified.
	read func(ctx context.Context, desc ocispecs.Descriptor) ([]byte, error)
	// open streams a blob, verified.
	open func(ctx context.Context, desc ocispecs.Descriptor) (io.ReadCloser, error)
	// link puts a blob into the store without reading it; nil when remote.
	link func(desc ocispecs.Descriptor) error
	// repository is that of a remote place, "registry/repository".
	repository string
}

// layoutPlace is an OCI layout directory.
func (b *build) layoutPlace(dir *layout.Dir) place {
	p := place{
		read: func(_ context.Context, desc ocispecs.Descriptor) ([]byte, error) {
			return dir.ReadBlob(desc, maxDocument)
		},
		open: func(_ context.Context, desc ocispecs.Descriptor) (io.ReadCloser, error) {
			return dir.OpenBlob(desc)
		},
		link: func(desc ocispecs.Descriptor) error { return b.store.LinkFrom(dir, desc) },
	}
	return p
}

// load reads the manifest and the configuration of an image.
func (p place) load(ctx context.Context, top digest.Digest, desc ocispecs.Descriptor) (*image, error) {
	dt, err := p.read(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", desc.Digest, err)
	}
	m, err := layout.ParseManifest(desc.MediaType, dt)
	if err != nil {
		return nil, fmt.Errorf("parse manifest %s: %w", desc.Digest, err)
	}
	config, err := p.read(ctx, m.Config)
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", m.Config.Digest, err)
	}
	var c ocispecs.Image
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("parse configuration %s: %w", m.Config.Digest, err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("manifest %s has %d layers, its configuration %d", desc.Digest, len(m.Layers), len(c.RootFS.DiffIDs))
	}
	img := &image{top: top, config: config}
	for i, l := range m.Layers {
		diffID := c.RootFS.DiffIDs[i]
		if err := errors.Join(diffID.Validate(), l.Digest.Validate()); err != nil {
			return nil, fmt.Errorf("layer %d of manifest %s: %w", i, desc.Digest, err)
		}
		img.layers = append(img.layers, p.origin(l, diffID))
	}
	return img, nil
}

func (p place) origin(desc ocispecs.Descriptor, diffID digest.Digest) *origin {
	o := &origin{blob: layout.LayerBlob{Descriptor: desc, DiffID: diffID}, repository: p.repository}
	o.open = func(ctx context.Context) (io.ReadCloser, error) { return p.open(ctx, desc) }
	if p.link != nil {
		o.link = func() error { return p.link(desc) }
	}
	return o
}

// layoutImage resolves an image in an OCI layout directory.
func (b *build) layoutImage(dir *layout.Dir, ref string, platform *ocispecs.Platform) (*image, error) {
	top, err := dir.Resolve(ref)
	if err != nil {
		return nil, err
	}
	desc, err := dir.Platform(top, wanted(platform))
	if err != nil {
		return nil, err
	}
	return b.layoutPlace(dir).load(b.ctx, top.Digest, desc)
}

func wanted(p *ocispecs.Platform) ocispecs.Platform {
	if p == nil {
		return platforms.DefaultSpec()
	}
	return platforms.Normalize(*p)
}

// remoteImage resolves an image in a registry. What it reads is kept in the
// store, so that the same digest is not asked for again.
func (b *build) remoteImage(ref string, platform *ocispecs.Platform) (*image, error) {
	p := wanted(platform)
	r, err := b.remote.Resolve(b.ctx, ref, &p)
	if err != nil {
		return nil, err
	}
	for _, doc := range []struct {
		mediaType string
		data      []byte
	}{{r.Descriptor.MediaType, r.Raw}, {r.Manifest.MediaType, r.ManifestRaw}, {ocispecs.MediaTypeImageConfig, r.Config}} {
		if _, err := b.store.PutBytes(doc.mediaType, doc.data); err != nil {
			return nil, err
		}
	}
	return b.registryPlace(r.Name).load(b.ctx, r.Descriptor.Digest, r.Manifest)
}

// registryPlace reads documents from the store, and blobs too when they are
// there, else from the registry.
func (b *build) registryPlace(name string) place {
	return place{
		repository: repositoryOf(name),
		read: func(_ context.Context, desc ocispecs.Descriptor) ([]byte, error) {
			return b.store.ReadBlob(desc, maxDocument)
		},
		open: func(ctx context.Context, desc ocispecs.Descriptor) (io.ReadCloser, error) {
			if r, err := b.store.OpenBlob(desc); err == nil {
				return r, nil
			}
			return b.remote.Blob(ctx, name, desc)
		},
	}
}

// storedImage finds an image in the store: by the name it was tagged with, or
// by digest when its documents were read before.
func (b *build) storedImage(ref string, platform *ocispecs.Platform) (*image, error) {
	name := ref
	if _, dgst, ok := strings.Cut(ref, "@"); ok {
		name = dgst
	}
	top, err := b.store.Resolve(name)
	if err != nil {
		return nil, err
	}
	desc, err := b.store.Platform(top, wanted(platform))
	if err != nil {
		return nil, err
	}
	repository, _, _ := strings.Cut(ref, "@")
	return b.registryPlace(repository).load(b.ctx, top.Digest, desc)
}

// image resolves a base image once for each platform. The kind is docker-image
// or oci-layout; store is the layout's id.
func (b *build) image(kind, ref, store, mode string, platform *ocispecs.Platform) (*image, error) {
	name := strings.Join([]string{kind, ref, store, mode, platforms.FormatAll(wanted(platform))}, " ")
	return b.images.do(name, func() (*image, error) {
		if kind == kindLayout {
			return b.ociLayout(ref, store, platform)
		}
		if mode != pb.AttrImageResolveModeForcePull || strings.Contains(ref, "@") {
			img, err := b.storedImage(ref, platform)
			if err == nil || !errors.Is(err, fs.ErrNotExist) {
				return img, err
			}
		}
		return b.remoteImage(ref, platform)
	})
}

// ociLayout resolves NAME@DIGEST in one of the layouts that the options name.
func (b *build) ociLayout(ref, store string, platform *ocispecs.Platform) (*image, error) {
	path, ok := b.opts.Layouts[store]
	if !ok {
		return nil, fmt.Errorf("no OCI layout was given for %q", store)
	}
	dir, err := layout.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open OCI layout: %w", err)
	}
	_, dgst, _ := strings.Cut(ref, "@")
	img, err := b.layoutImage(dir, dgst, platform)
	if err != nil {
		return nil, fmt.Errorf("OCI layout %s: %w", path, err)
	}
	return img, nil
}
