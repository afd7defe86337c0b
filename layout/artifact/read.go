package artifact

import (
	"context"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout/transfer"
)

// readDocument returns the bytes of a small blob.
func readDocument(ctx context.Context, r transfer.Reader, desc ocispec.Descriptor, max int64) ([]byte, error) {
	if desc.Size > max {
		return nil, fmt.Errorf("read %s: it has %d bytes, at most %d are read", desc.Digest, desc.Size, max)
	}
	rc, err := r.Open(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(io.LimitReader(rc, max+1))
}
