package main

import (
	"context"

	"github.com/spf13/cobra"

	"bk.build/bk/layout"
	"bk.build/bk/layout/edit"
)

func newImageFlatten(e *env) *cobra.Command {
	var ed editing
	var c compressing
	cmd := &cobra.Command{
		Use:   "flatten IMAGE [DEST]",
		Short: "Make one layer of all layers of an image",
		Long: `Make one layer of all layers of an image, without what later layers replace or
remove. The configuration stays but for its history.
` + editHelp + placesHelp + lookHelp,
		Example: `  bk image flatten app app:flat
  bk image flatten --compression zstd docker://registry.example/team/app:v1 oci:out:flat`,
		Args: cobra.RangeArgs(1, 2),
	}
	c.register(cmd.Flags(), "gzip", "pack the layer as `TYPE` gzip, zstd or uncompressed")
	ed.register(cmd.Flags(), e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		compression, err := c.compression(cmd.Flags())
		if err != nil {
			return usage(cmd, err)
		}
		return ed.run(cmd, e, args, func(ctx context.Context, _ *places, img *image, out *layout.Dir) (*edit.Result, error) {
			return edit.Flatten(ctx, img.Reader, img.desc, out, edit.FlattenOptions{Compression: *compression})
		})
	}
	return cmd
}
