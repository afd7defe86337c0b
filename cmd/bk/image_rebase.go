package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"bk.build/bk/layout"
	"bk.build/bk/layout/edit"
	"bk.build/bk/layout/place"
)

func newImageRebase(e *env) *cobra.Command {
	var ed editing
	var from, to string
	cmd := &cobra.Command{
		Use:   "rebase IMAGE [DEST]",
		Short: "Put an image on another base without building it again",
		Long: `Put an image on another base: the layers of the old base are replaced by those of
the new one. The layers above stay as they are, and are not read; that is right only
for layers that would come out the same on the new base.

Without --old-base and --new-base it is the base that the image's annotations name,
which was at their digest then and is at their name now.
` + editHelp + placesHelp + lookHelp,
		Example: `  bk image rebase --old-base debian:12.1 --new-base debian:12.2 app
  bk image rebase docker://registry.example/team/app:v1 docker://registry.example/team/app:v1-patched`,
		Args: cobra.RangeArgs(1, 2),
	}
	cmd.Flags().StringVar(&from, "old-base", "", "the `IMAGE` that it was built on (default: as annotated)")
	cmd.Flags().StringVar(&to, "new-base", "", "the `IMAGE` that it is put on (default: as annotated)")
	ed.register(cmd.Flags(), e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return ed.run(cmd, e, args, func(ctx context.Context, p *places, img *image, out *layout.Dir) (result *edit.Result, err error) {
			from, to, err := img.bases(ctx, from, to)
			if err != nil {
				return nil, err
			}
			old, err := p.image(ctx, from)
			if err != nil {
				return nil, fmt.Errorf("old base: %w", err)
			}
			defer func() { err = errors.Join(err, old.Close()) }()
			base, err := p.image(ctx, to)
			if err != nil {
				return nil, fmt.Errorf("new base: %w", err)
			}
			p.later(base.Close) // the result reads from it
			return edit.Rebase(ctx, img.Reader, img.desc, out,
				edit.Base{Reader: old.Reader, Descriptor: old.desc},
				edit.Base{Reader: base.Reader, Descriptor: base.desc, Name: baseName(base, to)})
		})
	}
	return cmd
}

// later calls f when the places are closed.
func (p *places) later(f func() error) { p.release = append(p.release, f) }

// bases fills in what the annotations say of the bases.
func (i *image) bases(ctx context.Context, from, to string) (string, string, error) {
	if from != "" && to != "" {
		return from, to, nil
	}
	name, dg, err := edit.BaseOf(ctx, i.Reader, i.desc)
	if err != nil {
		return "", "", err
	}
	if to == "" {
		if name == "" {
			return "", "", errors.New("the image has no annotation that names its base: give --new-base")
		}
		to = name
	}
	if from == "" {
		if name == "" || dg == "" {
			return "", "", errors.New("the image has no annotations with the name and the digest of its base: give --old-base")
		}
		from = withoutTag(name) + "@" + dg.String()
	}
	return from, to, nil
}

// withoutTag is a reference without its tag and digest. It may be any text.
func withoutTag(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if n := strings.LastIndex(name, ":"); n > strings.LastIndex(name, "/") {
		name = name[:n]
	}
	return name
}

// baseName is the name of a base for the annotation: only a registry's is a name
// elsewhere too.
func baseName(base *image, arg string) string {
	if at, err := place.Parse(arg); err != nil || at.Kind != place.Bare && at.Kind != place.Registry && at.Kind != place.Store {
		return ""
	}
	return base.Name
}
