package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"bk.build/bk/layout/place"
)

func newImageTag(e *env) *cobra.Command {
	var r reach
	cmd := &cobra.Command{
		Use:   "tag IMAGE NAME...",
		Short: "Give an image further names",
		Long: `Give an image further names in the place where it is: the store, a registry
(docker://REF) or an OCI layout (oci:DIR:REF). Nothing but the names is written.`,
		Example: `  bk image tag app:1 app:latest registry.example/team/app:1
  bk image tag docker://registry.example/team/app:1 stable
  bk image tag oci:out:v1 latest`,
		Args: cobra.MinimumNArgs(2),
	}
	r.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		from, err := place.Parse(args[0])
		if err != nil {
			return usage(cmd, err)
		}
		if from.Kind == place.Bare {
			from.Kind = place.Store
		}
		p := e.places(&r, true)
		defer p.close(&err)
		for _, name := range args[1:] {
			line, err := p.tag(cmd.Context(), from, name)
			if err != nil {
				return fmt.Errorf("tag %s as %s: %w", args[0], name, err)
			}
			if _, err := fmt.Fprintln(e.stdout, line); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}
