package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"bk.build/bk/layout"
	"bk.build/bk/layout/place"
)

func newImageValidate(e *env) *cobra.Command {
	var r reach
	var opts layout.CheckOptions
	var format, platform string
	cmd := &cobra.Command{
		Use:   "validate IMAGE",
		Short: "Check all digests, sizes, diffIDs and media types of an image",
		Long: `Check an image, or all images of an index, or of an OCI layout when none is named:
that every document and blob has its digest and size, that layers are tars of the
compression that their media type says and have the diffIDs of the configuration,
and that what documents say about each other is so. All problems are printed.

` + placesHelp + lookHelp + `
Exit codes: 0 no problems, 1 problems, 2 wrong usage.`,
		Example: `  bk image validate oci:out
  bk image validate --fast docker://registry.example/team/app:v1`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.Flags().StringVar(&platform, "platform", "", "check only the image for `OS/ARCH`")
	cmd.Flags().BoolVar(&opts.Fast, "fast", false, "read documents only, and ask whether blobs are there")
	cmd.Flags().IntVar(&opts.Jobs, "jobs", 0, "read at most `N` blobs at a time (0: 4)")
	r.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if opts.Jobs < 0 {
			return usagef(cmd, "jobs %d: must not be negative", opts.Jobs)
		}
		list, err := e.validate(cmd.Context(), &r, args[0], platform, opts)
		if err != nil {
			return err
		}
		if err := printEach(e.stdout, format, list, func(w io.Writer) error { return printValidations(w, list) }); err != nil {
			return err
		}
		for _, v := range list {
			if len(v.Problems) > 0 {
				return errFound
			}
		}
		return nil
	}
	return cmd
}

// validation is what was checked of one image.
type validation struct {
	Name      string        `json:"name"`
	Digest    string        `json:"digest"`
	Documents int           `json:"documents"`
	Blobs     int           `json:"blobs"`
	Bytes     int64         `json:"bytes"` // that were read
	Elsewhere int           `json:"elsewhere"`
	Problems  []problemInfo `json:"problems"`
}

type problemInfo struct {
	Digest  string `json:"digest"`
	Problem string `json:"problem"`
}

// validate checks the image that an argument names, or all of a layout.
func (e *env) validate(ctx context.Context, r *reach, arg, platform string, opts layout.CheckOptions) (list []validation, err error) {
	p := e.places(r, true)
	defer p.close(&err)
	args, err := e.entries(arg, platform)
	if err != nil {
		return nil, err
	}
	for _, arg := range args {
		v, err := p.validate(ctx, arg, platform, opts)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// entries lists the images of a layout that is named without a reference; else
// it is the argument.
func (e *env) entries(arg, platform string) ([]string, error) {
	at, err := place.Parse(arg)
	if err != nil || at.Kind != place.Layout || platform != "" {
		return []string{arg}, err
	}
	dir, err := layout.Open(at.Rest)
	if err != nil {
		return []string{arg}, nil // it has a reference, or the error comes again
	}
	index, err := dir.Index()
	if err != nil {
		return nil, err
	}
	if len(index.Manifests) == 0 {
		return nil, fmt.Errorf("%s has no images", arg)
	}
	var args []string
	for _, desc := range index.Manifests {
		args = append(args, arg+":"+desc.Digest.String())
	}
	return args, nil
}

func (p *places) validate(ctx context.Context, arg, platform string, opts layout.CheckOptions) (v validation, err error) {
	img, err := p.narrow(ctx, arg, platform)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	c, err := layout.Check(ctx, img.Reader, img.desc, opts)
	if err != nil {
		return v, err
	}
	v = validation{
		Name: orDefault(entryName(img.desc), img.Name), Digest: img.desc.Digest.String(),
		Documents: c.Documents, Blobs: c.Blobs, Bytes: c.Bytes, Elsewhere: c.Elsewhere, Problems: []problemInfo{},
	}
	for _, problem := range c.Problems {
		v.Problems = append(v.Problems, problemInfo{problem.Where, problem.Err.Error()})
	}
	return v, nil
}

func printValidations(w io.Writer, list []validation) error {
	for _, v := range list {
		var more string
		if v.Elsewhere > 0 {
			more = fmt.Sprintf(", %s not distributed", plural(v.Elsewhere, "layer"))
		}
		result := "no problems found"
		if n := len(v.Problems); n > 0 {
			result = plural(n, "problem")
		}
		if _, err := fmt.Fprintf(w, "%s %s: %s, %s, %s read%s: %s\n", printable(v.Name), v.Digest,
			plural(v.Documents, "document"), plural(v.Blobs, "blob"), size(v.Bytes), more, result); err != nil {
			return err
		}
		for _, p := range v.Problems {
			if _, err := fmt.Fprintf(w, "  %s: %s\n", p.Digest, printable(strings.ReplaceAll(p.Problem, "\n", "; "))); err != nil {
				return err
			}
		}
	}
	return nil
}
