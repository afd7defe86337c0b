package main

import (
	"github.com/spf13/cobra"

	"bk.build/bk/layout/place"
)

func newCopy(e *env) *cobra.Command {
	var m move
	cmd := &cobra.Command{
		Use:     "copy SOURCE DEST",
		Aliases: []string{"cp"},
		Short:   "Copy an image or artifact from any place to any other",
		Long: `Copy an image, an index with all its platforms, or an artifact, from any place to
any other. What the destination has is not moved; blobs in another repository of
the same registry are mounted; a copy that broke off goes on where it stopped.

` + placesHelp + `
A reference alone is a registry's.`,
		Example: `  bk copy docker.io/library/alpine:3 registry.example/mirror/alpine:3
  bk copy --referrers ghcr.io/org/app:v1 oci:out:v1
  bk copy --platform linux/arm64 oci:out:v1 docker-archive:app.tar:app:v1`,
		Args: cobra.ExactArgs(2),
	}
	m.register(cmd.Flags(), e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, arg := range args {
			if _, err := place.Parse(arg); err != nil {
				return usage(cmd, err)
			}
		}
		return m.run(cmd.Context(), e, []trip{{from: args[0], to: args[1]}})
	}
	return cmd
}
