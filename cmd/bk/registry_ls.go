package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

func newRegistryLs(e *env) *cobra.Command {
	var format string
	var r reach
	cmd := &cobra.Command{
		Use:     "ls HOST[:PORT][/PREFIX]",
		Aliases: []string{"list", "catalog"},
		Short:   "List the repositories of a registry",
		Long: `List the repositories of a registry, or those whose names begin with PREFIX. Many
registries do not tell, such as Docker Hub, or tell an administrator only.`,
		Example: "  bk registry ls localhost:5000\n  bk registry ls --format json registry.example/team/",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	r.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		host, prefix, _ := strings.Cut(strings.TrimPrefix(args[0], "docker://"), "/")
		p := e.places(&r, false)
		defer p.close(&err)
		names, err := p.Remote.Catalog(cmd.Context(), host, prefix)
		if err != nil {
			return err
		}
		for i := range names {
			names[i] = host + "/" + names[i]
		}
		return printEach(e.stdout, format, names, func(w io.Writer) error { return printLines(w, names) })
	}
	return cmd
}

// printLines prints foreign names, each in a line.
func printLines(w io.Writer, lines []string) error {
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, printable(line)); err != nil {
			return err
		}
	}
	return nil
}
