package main

import (
	"github.com/spf13/cobra"

	"bk.build/bk/layout/place"
)

func newPush(e *env) *cobra.Command {
	var m move
	cmd := &cobra.Command{
		Use:   "push NAME [DEST]",
		Short: "Push an image of the store to a registry",
		Long: `Push an image of the store, with all its platforms, to the registry that its
name says, or to DEST. NAME may be another place, such as oci:DIR; then DEST is
needed.`,
		Example: `  bk push registry.example/team/app:v1
  bk push app registry.example/team/app:v2
  bk push oci:out registry.example/team/app:v3`,
		Args: cobra.RangeArgs(1, 2),
	}
	m.register(cmd.Flags(), e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from, err := place.Parse(args[0])
		if err != nil {
			return usage(cmd, err)
		}
		if from.Kind == place.Bare {
			from.Kind = place.Store
		}
		to := place.Place{Kind: place.Registry, Rest: from.Rest}
		switch {
		case len(args) == 2:
			if to, err = place.Parse(args[1]); err != nil {
				return usage(cmd, err)
			}
		case from.Kind != place.Store:
			return usagef(cmd, "%s has no name in a registry: name a destination", args[0])
		}
		return m.run(cmd.Context(), e, []trip{{from: from.String(), to: to.String()}})
	}
	return cmd
}
