package main

import (
	"github.com/spf13/cobra"

	"bk.build/bk/layout/edit"
)

func newManifestCreate(e *env) *cobra.Command {
	var f listFlags
	var docker, artifacts bool
	var annotations []string
	cmd := &cobra.Command{
		Use:   "create LIST IMAGE...",
		Short: "Create an index of images",
		Long: `Create an index of images from any places, in the order given. Their platforms are
read from their configurations; of an index, all images are taken. A later image
for the same platform replaces an earlier one, and a list that is there already is
replaced.

` + listHelp,
		Example: `  bk manifest create registry.example/app:v1 registry.example/app:v1-amd64 registry.example/app:v1-arm64
  bk manifest create --annotation org.opencontainers.image.version=1 oci:out:v1 oci:amd64 store:app-arm64`,
		Args: cobra.MinimumNArgs(2),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&annotations, "annotation", nil, "annotate the index with `KEY=VALUE`")
	flags.BoolVar(&docker, "docker", false, "make a manifest list of Docker's media type instead of an OCI index")
	flags.BoolVar(&artifacts, "artifact", false, "take what has no platform too")
	f.register(flags, e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := listTarget(cmd, args[0]); err != nil {
			return err
		}
		all, err := annotationPairs("annotation", annotations)
		if err != nil {
			return usage(cmd, err)
		}
		list := edit.NewList(docker)
		if err := list.Annotate(all); err != nil {
			return usage(cmd, err)
		}
		return f.changeList(cmd.Context(), e, args[0], list, func(j *listJob) error {
			for _, arg := range args[1:] {
				if err := j.add(cmd.Context(), arg, edit.Change{}, artifacts); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmd
}

func newManifestAdd(e *env) *cobra.Command {
	var f listFlags
	var c changeFlags
	var artifacts bool
	cmd := &cobra.Command{
		Use:   "add LIST IMAGE",
		Short: "Add an image to an index",
		Long: `Add an image to an index, or all images of another index. One that has the platform
of an entry replaces it.

` + listHelp,
		Example: `  bk manifest add registry.example/app:v1 oci:out:riscv64
  bk manifest add --os linux --arch arm --variant v7 registry.example/app:v1 registry.example/app:v1-arm
  bk manifest add --artifact registry.example/app:v1 registry.example/app:v1-docs`,
		Args: cobra.ExactArgs(2),
	}
	c.register(cmd.Flags(), "the image")
	cmd.Flags().BoolVar(&artifacts, "artifact", false, "add an artifact, which has no platform")
	f.register(cmd.Flags(), e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		change, err := c.change()
		if err != nil {
			return usage(cmd, err)
		}
		if err := listTarget(cmd, args[0]); err != nil {
			return err
		}
		return f.changeList(cmd.Context(), e, args[0], nil, func(j *listJob) error {
			return j.add(cmd.Context(), args[1], change, artifacts)
		})
	}
	return cmd
}
