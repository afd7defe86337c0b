package main

import (
	"io"

	"github.com/spf13/cobra"

	"bk.build/bk/layout/view"
)

func newImageCat(e *env) *cobra.Command {
	var l look
	var output string
	cmd := &cobra.Command{
		Use:   "cat IMAGE PATH",
		Short: "Print a file of an image",
		Long: `Print a file as the image has it. Symbolic links are followed within the image.
Layers are read from the top down, and none below the one that has the file.

` + placesHelp + lookHelp,
		Example: `  bk image cat app /etc/os-release
  bk image cat -o app.bin --platform linux/arm64 docker://registry.example/team/app:v1 /usr/bin/app`,
		Args: cobra.ExactArgs(2),
	}
	cmd.Flags().StringVarP(&output, "output", "o", stdout, "write to `FILE` (\"-\": standard output)")
	l.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return l.with(cmd.Context(), e, args[0], func(v *view.Image, _ string) error {
			return e.writeTo(output, func(w io.Writer) error { return v.Cat(cmd.Context(), args[1], w) })
		})
	}
	return cmd
}
