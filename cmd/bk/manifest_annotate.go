package main

import (
	"context"
	"errors"
	"fmt"

	digest "github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bk.build/bk/layout/edit"
)

// changeFlags are what an entry of a list says.
type changeFlags struct {
	edit.Change
	annotations []string
}

func (c *changeFlags) register(set *pflag.FlagSet, what string) {
	set.SortFlags = false
	set.StringVar(&c.OS, "os", "", "`OS` of "+what)
	set.StringVar(&c.Arch, "arch", "", "`ARCH`itecture of "+what)
	set.StringVar(&c.Variant, "variant", "", "`VARIANT` of the architecture")
	set.StringVar(&c.OSVersion, "os-version", "", "`VERSION` of the OS")
	set.StringSliceVar(&c.OSFeatures, "os-features", nil, "`FEATURE,...` that the image needs of the OS")
	set.StringArrayVar(&c.annotations, "annotation", nil, "annotate the entry with `KEY=VALUE`")
}

func (c *changeFlags) change() (change edit.Change, err error) {
	change = c.Change
	change.Annotations, err = annotationPairs("annotation", c.annotations)
	return change, err
}

func newManifestAnnotate(e *env) *cobra.Command {
	var f listFlags
	var c changeFlags
	var index []string
	cmd := &cobra.Command{
		Use:   "annotate LIST [IMAGE|DIGEST|PLATFORM]",
		Short: "Change what an index says about an image, or about itself",
		Long: `Change what an index says about one of its entries, which is named by digest, by
platform or by an image of this digest; or, with --index-annotation, about itself.

` + listHelp,
		Example: `  bk manifest annotate --os-version 10.0.20348.2582 registry.example/app:v1 windows/amd64
  bk manifest annotate --annotation stage=beta oci:out:v1 linux/riscv64
  bk manifest annotate --index-annotation org.opencontainers.image.version=1 registry.example/app:v1`,
		Args: cobra.RangeArgs(1, 2),
	}
	c.register(cmd.Flags(), "the entry")
	cmd.Flags().StringArrayVar(&index, "index-annotation", nil, "annotate the index with `KEY=VALUE`")
	f.register(cmd.Flags(), e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		change, err := c.change()
		if err != nil {
			return usage(cmd, err)
		}
		onIndex, err := annotationPairs("index-annotation", index)
		if err != nil {
			return usage(cmd, err)
		}
		if len(args) == 1 && len(onIndex) == 0 {
			return usagef(cmd, "name an entry, or give --index-annotation")
		}
		if err := listTarget(cmd, args[0]); err != nil {
			return err
		}
		return f.changeList(cmd.Context(), e, args[0], nil, func(j *listJob) error {
			if err := j.list.Annotate(onIndex); err != nil || len(args) == 1 {
				return err
			}
			entry, err := j.find(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			return j.list.Change(entry, change)
		})
	}
	return cmd
}

// find returns the entry that a digest, a platform or an image means.
func (j *listJob) find(ctx context.Context, what string) (digest.Digest, error) {
	found, err := j.list.Find(what)
	if errors.Is(err, edit.ErrSelector) {
		img, err := j.image(ctx, what)
		if err != nil {
			return "", err
		}
		defer img.Close()
		found, err = j.list.Find(img.desc.Digest.String())
		if err != nil {
			return "", err
		}
		return found[0], nil
	}
	if err != nil {
		return "", err
	}
	if len(found) > 1 {
		return "", fmt.Errorf("%q means %d entries: name one by its digest, of %v", what, len(found), found)
	}
	return found[0], nil
}

func newManifestRm(e *env) *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:     "rm LIST DIGEST|PLATFORM...",
		Aliases: []string{"remove"},
		Short:   "Remove images from an index",
		Long: `Remove images from an index, by digest or platform, with BuildKit's attestations
about them. The images themselves stay where they are.

` + listHelp,
		Example: "  bk manifest rm registry.example/app:v1 linux/386 linux/s390x\n  bk manifest rm oci:out:v1 sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		Args:    cobra.MinimumNArgs(2),
	}
	f.register(cmd.Flags(), e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := listTarget(cmd, args[0]); err != nil {
			return err
		}
		return f.changeList(cmd.Context(), e, args[0], nil, func(j *listJob) error {
			for _, what := range args[1:] {
				found, err := j.list.Find(what)
				if err == nil {
					err = j.list.Remove(found...)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
			}
			return nil
		})
	}
	return cmd
}
