package archive

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// ExportDir puts the image or index desc of src into the OCI layout directory
// dir, which is made when it does not exist; what is in an existing layout
// stays. Names are as for [layout.Dir.SetRef]; without any the image is called
// "latest". index.json is written last, so a failed export leaves no entry
// without its blobs.
func ExportDir(ctx context.Context, src transfer.Reader, desc ocispec.Descriptor, names []string, dir string) error {
	dst, err := layout.Create(dir)
	if err != nil {
		return err
	}
	defer dst.Tidy()
	if len(names) == 0 {
		names = []string{"latest"}
	}
	if err := transfer.Copy(ctx, transfer.Layout(dst), src, desc, names, transfer.Options{}); err != nil {
		return fmt.Errorf("export %s to %s: %w", desc.Digest, dir, err)
	}
	return nil
}
