package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containerd/platforms"
	"github.com/spf13/cobra"

	"bk.build/bk/layout"
	"bk.build/bk/layout/artifact"
	"bk.build/bk/layout/transfer"
)

// artifactPull are the flags of "bk artifact pull".
type artifactPull struct {
	reach
	dir, config, platform, format string
	keepOld                       bool
}

func newArtifactPull(e *env) *cobra.Command {
	var f artifactPull
	cmd := &cobra.Command{
		Use:   "pull REF",
		Short: "Pull an artifact's files",
		Long: `Pull an artifact's files into a directory, and print their paths. A file gets the
name that its layer has as title, and the content when all of the artifact is
there and verified; files that are there already are replaced. A packed directory
is unpacked, and its files are put among those that are there. Helm charts, Flux
artifacts and WebAssembly modules need no titles. Nothing is written outside of
the directory, whatever the artifact says.

` + artifactPlacesHelp,
		Example: `  bk artifact pull registry.example/team/conf:v1 -o out
  bk artifact pull oci://registry.example/charts/web:1.2.3
  bk artifact pull --config conf.json oci:out:v1`,
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVarP(&f.dir, "output", "o", ".", "write the files to `DIR`")
	flags.StringVar(&f.config, "config", "", "write the configuration to `FILE`")
	flags.BoolVar(&f.keepOld, "keep-old-files", false, "fail when a file is there already, and write none")
	flags.StringVar(&f.platform, "platform", "", "choose `OS/ARCH` of an index (default: this machine's)")
	flags.StringVar(&f.format, "format", "", formatHelp)
	f.register(flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), e, args[0]) }
	return cmd
}

func (f *artifactPull) run(ctx context.Context, e *env, ref string) (err error) {
	platform := platforms.DefaultSpec()
	if f.platform != "" {
		if platform, err = platforms.Parse(f.platform); err != nil {
			return fmt.Errorf("platform %q: %w", f.platform, err)
		}
	}
	p := e.places(&f.reach, false)
	defer p.close(&err)
	img, err := p.image(ctx, ref)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	res, err := artifact.Pull(ctx, img.Reader, img.desc, f.dir, artifact.PullOptions{Platform: &platform, KeepOld: f.keepOld})
	if err != nil {
		return err
	}
	if f.config != "" {
		b, err := transfer.ReadDocument(ctx, img.Reader, res.Manifest.Config, layout.MaxConfig)
		if err != nil {
			return fmt.Errorf("config: %w", err)
		}
		if err := writeText(f.config, string(b)); err != nil {
			return err
		}
	}
	for _, l := range res.Skipped {
		e.print("%s (%s) has no title and is not pulled\n", l.Digest, printable(l.MediaType))
	}
	return f.report(e, img.Name, res)
}

// report prints the paths of what was pulled.
func (f *artifactPull) report(e *env, name string, res *artifact.Result) error {
	r := newArtifactReport(name, res.Desc, res.Manifest)
	for _, p := range res.Files {
		file := newArtifactFile(p.Desc)
		file.Title, file.Path = p.Title, filepath.Join(f.dir, filepath.FromSlash(p.Title))
		r.Files = append(r.Files, file)
	}
	return printAs(e.stdout, f.format, r, func(w io.Writer) error {
		for _, file := range r.Files {
			if _, err := fmt.Fprintln(w, printable(file.Path)); err != nil {
				return err
			}
		}
		return nil
	})
}
