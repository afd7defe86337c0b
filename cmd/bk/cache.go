package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"bk.build/bk/builder"
)

func newCache(e *env) *cobra.Command {
	return group("cache", "Show, shrink and check the store", "  bk cache du\n  bk cache prune --keep-storage 10GB",
		newCacheLs(e), newCacheDu(e), newCachePrune(e), newCacheVerify(e))
}

// cacheEntry is one line of "bk cache ls".
type cacheEntry struct {
	Kind     string    `json:"kind"`
	ID       string    `json:"id"`
	Size     int64     `json:"size"`
	LastUsed time.Time `json:"lastUsed"`
	InUse    bool      `json:"inUse"` // an image that has a name needs it
}

func entries(usage []builder.Usage) []cacheEntry {
	list := []cacheEntry{}
	for _, u := range usage {
		list = append(list, cacheEntry{Kind: u.Kind, ID: u.ID, Size: u.Size, LastUsed: u.LastUsed.UTC(), InUse: u.Shared})
	}
	return list
}

func newCacheLs(e *env) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List what the store holds, least recently used first",
		Example: "  bk cache ls\n  bk cache ls --format json",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.RunE = func(*cobra.Command, []string) error {
		usage, err := e.diskUsage()
		if err != nil {
			return err
		}
		list := entries(usage)
		return printEach(e.stdout, format, list, func(w io.Writer) error { return cacheTable(w, list) })
	}
	return cmd
}

func (e *env) diskUsage() ([]builder.Usage, error) {
	root, err := e.store()
	if err != nil {
		return nil, err
	}
	return builder.DiskUsage(root)
}

func cacheTable(w io.Writer, list []cacheEntry) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, "KIND\tID\tSIZE\tLAST USED\tIN USE")
	for _, c := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%t\n", c.Kind, c.ID, size(c.Size), ago(c.LastUsed), c.InUse)
	}
	return t.Flush()
}

// cacheUse is what "bk cache du" shows: sums in bytes.
type cacheUse struct {
	Root        string           `json:"root"`
	Size        int64            `json:"size"`
	Reclaimable int64            `json:"reclaimable"`
	Kinds       map[string]int64 `json:"kinds"`
}

func newCacheDu(e *env) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "du",
		Short:   "Show how much disk the store takes",
		Example: "  bk cache du\n  bk cache du --format '{{.Reclaimable}}'",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.RunE = func(*cobra.Command, []string) error {
		usage, err := e.diskUsage()
		if err != nil {
			return err
		}
		use := cacheUse{Kinds: map[string]int64{}}
		use.Root, _ = e.store()
		for _, u := range usage {
			use.Size += u.Size
			use.Kinds[u.Kind] += u.Size
			if !u.Shared {
				use.Reclaimable += u.Size
			}
		}
		return printAs(e.stdout, format, use, use.print)
	}
	return cmd
}

func (u cacheUse) print(w io.Writer) error {
	p := &lines{w: w}
	p.add("Store", u.Root)
	p.add("Layers", size(u.Kinds["layer"]))
	p.add("Blobs", size(u.Kinds["blob"]))
	p.add("Cache mounts", size(u.Kinds["mount"]))
	p.add("Total", size(u.Size))
	p.add("Reclaimable", size(u.Reclaimable))
	return p.err
}

func newCachePrune(e *env) *cobra.Command {
	var keep, format string
	var older time.Duration
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Remove what no named image needs",
		Long:    "Remove what no named image needs, least recently used first. Builds that use the\nstore are waited for.",
		Example: "  bk cache prune --keep-storage 10GB --older-than 24h",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&keep, "keep-storage", "", "stop when the store takes no more than `SIZE`")
	cmd.Flags().DurationVar(&older, "older-than", 0, "spare what was used within `TIME`, such as 24h")
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		opts := builder.PruneOptions{OlderThan: older}
		if keep != "" {
			n, err := units.FromHumanSize(keep)
			if err != nil || n <= 0 {
				return usagef(cmd, "keep-storage %q: want a size, such as 10GB", keep)
			}
			opts.Keep = n
		}
		return e.prune(cmd.Context(), opts, format)
	}
	return cmd
}

func (e *env) prune(ctx context.Context, opts builder.PruneOptions, format string) error {
	root, err := e.store()
	if err != nil {
		return err
	}
	opts.Wait = func() { e.print("Waiting for builds that use the store...\n") }
	gone, err := builder.Prune(ctx, root, opts)
	list := entries(gone)
	print := func(w io.Writer) error {
		var total int64
		for _, c := range list {
			total += c.Size
			fmt.Fprintf(w, "%s %s\n", c.Kind, c.ID)
		}
		_, err := fmt.Fprintf(w, "Removed %s: %s\n", plural(len(list), "object"), size(total))
		return err
	}
	return errors.Join(err, printEach(e.stdout, format, list, print))
}

func newCacheVerify(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "verify",
		Short:   "Read the whole store again and compare it with its digests",
		Example: "  bk cache verify",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			root, err := e.store()
			if err != nil {
				return err
			}
			problems, err := builder.VerifyStore(cmd.Context(), root)
			for _, p := range problems {
				e.print("%s\n", p)
			}
			if err != nil {
				return err
			}
			if len(problems) > 0 {
				return fmt.Errorf("store %s: %s", root, count(len(problems), "problem", "found"))
			}
			_, err = fmt.Fprintf(e.stdout, "store %s: no problems found\n", root)
			return err
		},
	}
}
