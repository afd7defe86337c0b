package main

import (
	"github.com/spf13/cobra"

	"bk.build/bk/layout/place"
)

func newPull(e *env) *cobra.Command {
	var m move
	cmd := &cobra.Command{
		Use:   "pull NAME...",
		Short: "Pull images from registries into the store",
		Long: `Pull images, with all their platforms, from registries into the store, where they
have the same names. What the store has is not fetched again.`,
		Example: `  bk pull docker.io/library/alpine:3
  bk pull --platform linux/amd64 registry.example/team/app:v1`,
		Args: cobra.MinimumNArgs(1),
	}
	m.register(cmd.Flags(), e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var trips []trip
		for _, arg := range args {
			from, err := place.Parse(arg)
			if err != nil {
				return usage(cmd, err)
			}
			if from.Kind != place.Bare && from.Kind != place.Registry {
				return usagef(cmd, "%q is not in a registry: bk copy brings it from there", arg)
			}
			to := place.Place{Kind: place.Store, Rest: from.Rest}
			from.Kind = place.Registry
			trips = append(trips, trip{from: from.String(), to: to.String()})
		}
		return m.run(cmd.Context(), e, trips)
	}
	return cmd
}
