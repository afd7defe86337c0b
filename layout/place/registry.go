package place

import (
	"bytes"
	"context"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/remote"
)

// registry reads one repository.
type registry struct {
	client *remote.Client
	name   string
}

func (r registry) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	res, err := r.client.Resolve(ctx, ref, nil)
	return res.Descriptor, err
}

func (r registry) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if layout.IsIndex(desc.MediaType) || layout.IsManifest(desc.MediaType) {
		res, err := r.client.Resolve(ctx, r.name+"@"+desc.Digest.String(), nil)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(res.Raw)), nil
	}
	return r.client.Blob(ctx, r.name, desc)
}
