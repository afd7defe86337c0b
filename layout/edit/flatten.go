package edit

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
	"bk.build/bk/layout/transfer"
	"bk.build/bk/layout/view"
)

// FlattenOptions configures Flatten. The zero value packs with gzip.
type FlattenOptions struct {
	Compression layer.Compression
	// Jobs is the number of workers that compress; 0 or less: one for each CPU.
	Jobs int
}

// Flatten makes one layer of all layers of an image, or of each image of an
// index: what a container would see, without what lower layers have that upper
// ones replace or remove. The configuration stays but for its history, which has
// one entry. The result depends on the image and on the compression alone.
//
// What is new is written to out. Attestations of an index are left out, as they
// are about other layers, and annotations that name a base image are removed.
func Flatten(ctx context.Context, src transfer.Reader, desc ocispec.Descriptor, out *layout.Dir, opts FlattenOptions) (*Result, error) {
	if err := opts.Compression.Validate(); err != nil {
		return nil, fmt.Errorf("flatten %s: %w", desc.Digest, err)
	}
	e := newEditor(out, src)
	e.dropAttestations = true
	e.image = func(ctx context.Context, desc ocispec.Descriptor, _ ocispec.Manifest) (ocispec.Descriptor, error) {
		return e.flatten(ctx, desc, opts)
	}
	return e.run(ctx, "flatten", desc)
}

func (e *editor) flatten(ctx context.Context, desc ocispec.Descriptor, opts FlattenOptions) (ocispec.Descriptor, error) {
	img, err := view.Open(ctx, e.src, desc, nil)
	if err != nil {
		return desc, err
	}
	if img.Config.OS == "windows" {
		return desc, fmt.Errorf("image %s is for Windows, whose layers cannot be merged as files", desc.Digest)
	}
	docker := desc.MediaType == layout.MediaTypeDockerManifest
	blob, err := e.pack(ctx, img, docker, opts)
	if err != nil {
		return desc, err
	}
	config, err := withHistory(img.RawConfig, []ocispec.History{{
		Created: img.Config.Created, CreatedBy: "bk image flatten",
		Comment: fmt.Sprintf("%d layers of %s", len(img.Manifest.Layers), desc.Digest),
	}})
	if err != nil {
		return desc, fmt.Errorf("config of %s: %w", desc.Digest, err)
	}
	annotations := maps.Clone(img.Manifest.Annotations)
	delete(annotations, ocispec.AnnotationBaseImageName)
	delete(annotations, ocispec.AnnotationBaseImageDigest)
	made, _, err := e.out.WriteImage(layout.ImageSpec{Config: config, Layers: []layout.LayerBlob{blob}, Annotations: annotations, Docker: docker})
	return made, err
}

// pack writes the one layer.
func (e *editor) pack(ctx context.Context, img *view.Image, docker bool, opts FlattenOptions) (layout.LayerBlob, error) {
	w, err := e.out.NewHashedBlob()
	if err != nil {
		return layout.LayerBlob{}, err
	}
	defer w.Close()
	packed, err := layer.Pack(ctx, w, img.Entries(ctx), layer.PackOptions{Compression: opts.Compression, Root: true, Jobs: opts.Jobs})
	if err != nil {
		return layout.LayerBlob{}, err
	}
	if _, _, err := w.Commit(packed.Digest, packed.Size); err != nil {
		return layout.LayerBlob{}, err
	}
	return layout.LayerBlob{
		Descriptor: ocispec.Descriptor{MediaType: opts.Compression.MediaType(docker), Digest: packed.Digest, Size: packed.Size},
		DiffID:     packed.DiffID,
	}, nil
}

// withHistory replaces the history of a configuration; all else stays, also what
// nobody here knows.
func withHistory(config []byte, history []ocispec.History) ([]byte, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, err
	}
	var err error
	if fields["history"], err = json.Marshal(history); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}
