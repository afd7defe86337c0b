package archive

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// ExportDir puts the image or index desc of the store into the OCI layout
// directory dir, which is made when it does not exist; what is in an existing
// layout stays. Names are as for [layout.Dir.SetRef]; without any the image is
// called "latest". index.json is written last, so a failed export leaves no
// entry without its blobs.
func ExportDir(ctx context.Context, store *layout.Dir, desc ocispec.Descriptor, names []string, dir string) error {
	blobs, err := store.Closure(desc)
	if err != nil {
		return fmt.Errorf("export %s to %s: %w", desc.Digest, dir, err)
	}
	dst, err := layout.Create(dir)
	if err != nil {
		return err
	}
	defer dst.Tidy()
	for _, blob := range blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := dst.LinkFrom(store, blob); err != nil {
			return fmt.Errorf("export %s to %s: %w", desc.Digest, dir, err)
		}
	}
	if len(names) == 0 {
		names = []string{"latest"}
	}
	return dst.SetRefs(names, desc)
}
