package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bk.build/bk/layout/archive"
	"bk.build/bk/layout/view"
)

// look are the flags of the commands that look into one image.
type look struct {
	reach
	platform string
}

func (l *look) register(set *pflag.FlagSet) {
	set.StringVar(&l.platform, "platform", "", "look at the image for `OS/ARCH` (default: this host's)")
	l.reach.register(set)
}

// open opens the image that an argument names. The caller closes the second
// result.
func (l *look) open(ctx context.Context, p *places, arg string) (*view.Image, *image, error) {
	img, err := p.narrow(ctx, arg, l.platform)
	if err != nil {
		return nil, nil, err
	}
	v, err := view.Open(ctx, img.Reader, img.desc, nil)
	if err != nil {
		img.Close()
		return nil, nil, err
	}
	return v, img, nil
}

// with opens an image, calls f with it and its name, and closes everything.
func (l *look) with(ctx context.Context, e *env, arg string, f func(v *view.Image, name string) error) (err error) {
	p := e.places(&l.reach, true)
	defer p.close(&err)
	v, img, err := l.open(ctx, p, arg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	return f(v, img.Name)
}

func newImageLayers(e *env) *cobra.Command {
	var l look
	var format, html string
	var all bool
	cmd := &cobra.Command{
		Use:   "layers IMAGE",
		Short: "Show what each layer of an image holds, and what of it is wasted",
		Long: `Show what each layer of an image adds, changes and removes, and how many bytes of
it later layers replace or remove, so that they are moved and stored for nothing.
Every layer is read and compared with its digest and its diffID.

` + placesHelp + lookHelp,
		Example: `  bk image layers app
  bk image layers --html app.html docker://registry.example/team/app:v1
  bk image layers --format '{{.Efficiency}}' oci:out`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.Flags().StringVar(&html, "html", "", "write a page with a map of the files to `FILE` (\"-\": standard output)")
	cmd.Flags().BoolVar(&all, "all", false, "print commands in full, and up to 100 wasteful paths")
	l.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if html != "" && format != "" {
			return usagef(cmd, "--html cannot be combined with --format")
		}
		return l.with(cmd.Context(), e, args[0], func(v *view.Image, name string) error {
			layers, err := v.Layers(cmd.Context())
			if err != nil {
				return err
			}
			if html != "" {
				return e.writeTo(html, func(w io.Writer) error { return layers.WriteHTML(w, name) })
			}
			return printAs(e.stdout, format, layers, func(w io.Writer) error { return printLayers(w, layers, all) })
		})
	}
	return cmd
}

// writeTo writes to a file, or to standard output when its name is "-".
func (e *env) writeTo(file string, write func(io.Writer) error) error {
	if file == stdout {
		return write(e.stdout)
	}
	return archive.File(file, write)
}

// Bounds on what is printed for people.
const (
	shortWaste   = 10
	shortCommand = 60
)

// printLayers writes a table of the layers and one of the waste.
func printLayers(w io.Writer, l *view.Layers, all bool) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "LAYER\tDIGEST\tPACKED\tUNPACKED\tADDED\tCHANGED\tREMOVED\tWASTED\tCREATED BY")
	for i, y := range l.Layers {
		by := strings.Join(strings.Fields(y.CreatedBy), " ")
		if !all {
			by = shorten(by, shortCommand)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", i+1, short(y.Digest.String()), size(y.Packed), size(y.Unpacked),
			y.Added, y.Changed, y.Removed, size(y.Wasted), printable(by))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s for %s: %s of files, %s\n", l.Digest, printable(l.Platform), size(l.Bytes), plural(l.Files, "file"))
	if _, err := fmt.Fprintf(w, "Efficiency %.1f%%: %s of %s written are replaced or removed by later layers\n",
		100*l.Efficiency, size(l.Wasted), size(l.Written)); err != nil {
		return err
	}
	return printWaste(w, l.Waste, all)
}

func printWaste(w io.Writer, list []view.Waste, all bool) error {
	if len(list) == 0 {
		return nil
	}
	n := len(list)
	if !all {
		n = min(n, shortWaste)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "WASTED\tTIMES\tPATH")
	for _, x := range list[:n] {
		fmt.Fprintf(t, "%s\t%d\t/%s\n", size(x.Bytes), x.Count, printable(x.Path))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printMore(w, len(list)-n)
}

// printMore says that not all was printed.
func printMore(w io.Writer, n int) error {
	if n <= 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "... and %d more (--all)\n", n)
	return err
}
