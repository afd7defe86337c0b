package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"bk.build/bk/layout/mirror"
)

// syncFlags are those of "bk registry sync".
type syncFlags struct {
	reach
	destination       string
	dryRun, keepGoing bool
	jobs              int
	format            string
}

func newRegistrySync(e *env) *cobra.Command {
	var f syncFlags
	cmd := &cobra.Command{
		Use:   "sync FILE",
		Short: "Mirror images by a list",
		Long: `Mirror the images of a YAML list to a registry or an OCI layout. FILE is in bk's
format (docs/sync.md) or in that of "skopeo sync"; "-" is standard input.

  destination: registry.example/mirror
  images:
    - source: docker.io/library/alpine
      tags: ["3.*", "!*-rc*"]
      semver: ">=3.18"
      platforms: [linux/amd64, linux/arm64]
      referrers: true

What the destination has is not copied again, so a run that was cut off goes on
where it stopped. Nothing is removed. A line is printed for every image that was
copied, or, with --dry-run, that would be copied or is up to date.`,
		Example: "  bk registry sync --dry-run mirror.yaml\n  bk registry sync --keep-going --jobs 8 mirror.yaml\n  bk registry sync --destination oci:/media/usb/images mirror.yaml",
		Args:    cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.destination, "destination", "", "mirror to `PLACE`, a registry's prefix or oci:DIR, and not to the list's destination")
	flags.BoolVar(&f.dryRun, "dry-run", false, "copy nothing, print what would be copied")
	flags.BoolVar(&f.keepGoing, "keep-going", false, "copy what can be copied when there are errors")
	flags.IntVar(&f.jobs, "jobs", 0, "copy at most `N` images at a time (0: 3)")
	flags.StringVar(&f.format, "format", "", formatHelp)
	f.register(flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.jobs < 0 {
			return usagef(cmd, "jobs %d: must not be negative", f.jobs)
		}
		return f.run(cmd.Context(), e, args[0])
	}
	return cmd
}

func (f *syncFlags) run(ctx context.Context, e *env, name string) (err error) {
	list, err := f.read(e, name)
	if err != nil {
		return err
	}
	p := e.places(&f.reach, false)
	defer p.close(&err)
	opts := mirror.Options{Places: &p.Opener, DryRun: f.dryRun, KeepGoing: f.keepGoing, Jobs: f.jobs}
	if !f.dryRun {
		opts.Done = func(i mirror.Item) {
			if i.State != mirror.UpToDate {
				e.print("%s %s\n", i.State, printable(i.Source))
			}
		}
	}
	rep, err := mirror.Run(ctx, list, opts)
	if printed := f.report(e, rep); printed != nil {
		return printed
	}
	return err
}

// read reads the list.
func (f *syncFlags) read(e *env, name string) (*mirror.List, error) {
	var b []byte
	var err error
	if name == "-" {
		b, err = io.ReadAll(io.LimitReader(e.stdin, mirror.MaxList+1))
	} else {
		b, err = readSmall(name, mirror.MaxList)
	}
	if err != nil {
		return nil, err
	}
	list, err := mirror.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if f.destination != "" {
		list.Destination = f.destination
	}
	return list, nil
}

// report prints the items, and a summary for people.
func (f *syncFlags) report(e *env, rep *mirror.Report) error {
	verb, n := "copied", rep.Count(mirror.Copied)
	if f.dryRun {
		verb, n = "to copy", rep.Count(mirror.Copy)
	}
	e.print("%d %s (%s), %d up to date, %d failed", n, verb, size(rep.Bytes), rep.Count(mirror.UpToDate), rep.Count(mirror.Failed))
	if left := rep.Count(mirror.Pending); left > 0 {
		e.print(", %d not reached", left)
	}
	e.print("\n")
	return printAs(e.stdout, f.format, rep, func(w io.Writer) error {
		for _, i := range rep.Items {
			if i.State == mirror.Failed || i.State == mirror.Pending || i.State == mirror.UpToDate && !f.dryRun {
				continue
			}
			if _, err := fmt.Fprintf(w, "%s %s %s %s\n", i.State, printable(i.Source), printable(i.Destination), i.Digest); err != nil {
				return err
			}
		}
		return nil
	})
}
