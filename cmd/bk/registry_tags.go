package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"bk.build/bk/layout/place"
	"bk.build/bk/layout/transfer"
)

func newRegistryTags(e *env) *cobra.Command {
	var format string
	var r reach
	cmd := &cobra.Command{
		Use:   "tags REPOSITORY",
		Short: "List the tags of a repository",
		Long: `List the tags of a repository, sorted. With oci:DIR or store: instead, the names of
an OCI layout or of the store.`,
		Example: "  bk registry tags docker.io/library/alpine\n  bk registry tags --format json registry.example/team/app",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	r.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		arg := args[0]
		if arg == "store:" {
			arg = "store:*" // any name: only the place counts
		} else if _, err := place.Parse(arg); err != nil {
			return usage(cmd, err)
		}
		p := e.places(&r, false)
		defer p.close(&err)
		src, err := p.Source(cmd.Context(), arg)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, src.Close()) }()
		l, ok := src.Reader.(transfer.Lister)
		if !ok {
			return fmt.Errorf("%s has no tags", args[0])
		}
		tags, err := l.Tags(cmd.Context())
		if err != nil {
			return err
		}
		return printEach(e.stdout, format, tags, func(w io.Writer) error { return printLines(w, tags) })
	}
	return cmd
}
