package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"bk.build/bk/layout/layer"
	"bk.build/bk/layout/view"
)

func newImageExport(e *env) *cobra.Command {
	var l look
	var output string
	cmd := &cobra.Command{
		Use:   "export IMAGE",
		Short: "Write all files of an image as a tar or into a directory",
		Long: `Write all files of an image, as a container would see them, as one tar; the same
image gives the same bytes. Into an existing directory they are unpacked: owners,
devices and all attributes need root there.

` + placesHelp + lookHelp,
		Example: `  bk image export -o app.tar app
  bk image export --platform linux/arm64 docker://alpine:3 | tar -t
  mkdir rootfs && bk image export -o rootfs app`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVarP(&output, "output", "o", stdout, "write to `FILE` or an existing directory (\"-\": standard output)")
	l.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if output == stdout && isTerminal(e.stdout) {
			return usagef(cmd, "standard output is a terminal: name a file with -o")
		}
		return l.with(cmd.Context(), e, args[0], func(v *view.Image, _ string) error {
			if fi, err := os.Stat(output); output != stdout && err == nil && fi.IsDir() {
				return e.unpack(cmd.Context(), v, output)
			}
			return e.writeTo(output, func(w io.Writer) error {
				_, err := layer.Pack(cmd.Context(), w, v.Entries(cmd.Context()), layer.PackOptions{
					Compression: layer.Compression{Type: layer.Uncompressed}, Root: true,
				})
				return err
			})
		})
	}
	return cmd
}

// unpack writes the files of an image into a directory.
func (e *env) unpack(ctx context.Context, v *view.Image, dir string) error {
	done, err := layer.Apply(ctx, v.Entries(ctx), dir, layer.ApplyOptions{Export: true})
	if err != nil {
		return err
	}
	for _, lost := range done.Lost {
		e.print("WARNING: not written: %s\n", printable(lost))
	}
	return nil
}
