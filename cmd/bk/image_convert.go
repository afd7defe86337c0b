package main

import (
	"context"

	"github.com/spf13/cobra"

	"bk.build/bk/layout"
	"bk.build/bk/layout/edit"
)

func newImageConvert(e *env) *cobra.Command {
	var ed editing
	var c compressing
	var opts edit.ConvertOptions
	cmd := &cobra.Command{
		Use:   "convert IMAGE [DEST]",
		Short: "Change an image's media types or the compression of its layers",
		Long: `Change the media types of an image between OCI's and Docker's, or pack its layers
with another compression. What is in the layers, their diffIDs and the configuration
stay, byte for byte. Layers that need no other compression are not read. What cannot
be expressed is said.
` + editHelp + placesHelp + lookHelp,
		Example: `  bk image convert --media-types docker app oci:out:docker
  bk image convert --compression zstd --compression-level 19 app registry.example/team/app:zstd`,
		Args: cobra.RangeArgs(1, 2),
	}
	cmd.Flags().StringVar(&opts.MediaTypes, "media-types", "", "write documents of `FAMILY` oci or docker (default: as they are)")
	c.register(cmd.Flags(), "", "pack layers as `TYPE` gzip, zstd or uncompressed (default: as they are)")
	cmd.Flags().BoolVar(&opts.Force, "force", false, "pack layers anew also when they have the compression")
	ed.register(cmd.Flags(), e)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if opts.Compression, err = c.compression(cmd.Flags()); err != nil {
			return usage(cmd, err)
		}
		switch {
		case opts.MediaTypes != "" && opts.MediaTypes != edit.OCI && opts.MediaTypes != edit.Docker:
			return usagef(cmd, "--media-types %q: want oci or docker", opts.MediaTypes)
		case opts.MediaTypes == "" && opts.Compression == nil:
			return usagef(cmd, "nothing to convert: give --media-types or --compression")
		case opts.Force && opts.Compression == nil:
			return usagef(cmd, "--force needs --compression")
		}
		return ed.run(cmd, e, args, func(ctx context.Context, _ *places, img *image, out *layout.Dir) (*edit.Result, error) {
			return edit.Convert(ctx, img.Reader, img.desc, out, opts)
		})
	}
	return cmd
}
