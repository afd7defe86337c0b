package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"bk.build/bk/layout/view"
)

// errFound says that what a command looks for was found and printed: the process
// ends with 1 and without a message.
var errFound = errors.New("found")

// diffLines is how many files are printed without --all.
const diffLines = 40

func newImageDiff(e *env) *cobra.Command {
	var l look
	var opts view.DiffOptions
	var format string
	var all, exitCode bool
	cmd := &cobra.Command{
		Use:   "diff IMAGE IMAGE",
		Short: "Show how two images differ: configuration, layers, files",
		Long: `Show how the second image differs from the first: what a container is started
with, annotations, history, layers, and every file that was added (+), removed (-)
or changed (~), with what of it. Layers that both have are read once; when all are
the same, none is read.

` + placesHelp + lookHelp,
		Example: `  bk image diff app:1 app:2
  bk image diff --exit-code --times oci:a oci:b
  bk image diff --platform linux/arm64 --format json docker://alpine:3.20 docker://alpine:3.21`,
		Args: cobra.ExactArgs(2),
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.Flags().BoolVar(&all, "all", false, "print all files, also those in directories that were added or removed")
	cmd.Flags().BoolVar(&opts.Times, "times", false, "compare modification times of files too")
	cmd.Flags().BoolVar(&opts.Documents, "no-files", false, "compare documents only, and read no layer")
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 1 when the images differ")
	l.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := l.compare(cmd.Context(), e, args[0], args[1], opts)
		if err != nil {
			return err
		}
		if err := printAs(e.stdout, format, d, func(w io.Writer) error { return (&diffPrinter{w: w, all: all}).print(d) }); err != nil {
			return err
		}
		if exitCode && !d.Same() {
			return errFound
		}
		return nil
	}
	return cmd
}

// compare opens two images and compares them.
func (l *look) compare(ctx context.Context, e *env, a, b string, opts view.DiffOptions) (d *view.Diff, err error) {
	p := e.places(&l.reach, true)
	defer p.close(&err)
	x, imgA, err := l.open(ctx, p, a)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, imgA.Close()) }()
	y, imgB, err := l.open(ctx, p, b)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, imgB.Close()) }()
	return view.Compare(ctx, x, y, opts)
}

// diffPrinter writes a diff for people.
type diffPrinter struct {
	w   io.Writer
	all bool
	err error
}

func (p *diffPrinter) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *diffPrinter) print(d *view.Diff) error {
	p.line("--- %s %s %s", d.A.Digest, printable(d.A.Platform), size(d.A.Size))
	p.line("+++ %s %s %s", d.B.Digest, printable(d.B.Platform), size(d.B.Size))
	if d.Same() {
		p.line("")
		switch {
		case len(d.Layers.A)+len(d.Layers.B) > 0:
			p.line("The images have the same files and configuration, in other layers.")
		case d.Layers.Repacked > 0:
			p.line("The images have the same layers and configuration; %s packed in another way.", areOf(d.Layers.Repacked, d.Layers.Common))
		default:
			p.line("The images have the same layers and configuration.")
		}
		return p.err
	}
	p.changes("Configuration", d.Config)
	p.changes("Annotations", d.Annotations)
	p.history(d.History)
	p.layers(d.Layers)
	p.files(d)
	return p.err
}

// areOf is "1 of 3 is", "2 of 3 are".
func areOf(n, of int) string {
	verb := "are"
	if n == 1 {
		verb = "is"
	}
	return fmt.Sprintf("%d of %d %s", n, of, verb)
}

func (p *diffPrinter) changes(title string, list []view.Change) {
	if len(list) == 0 {
		return
	}
	p.line("\n%s", title)
	for _, c := range list {
		text := c.String()
		if !p.all {
			text = shorten(text, 300)
		}
		p.line("%s", printable(text))
	}
}

// history writes entries, which are long, on lines of their own.
func (p *diffPrinter) history(list []view.Change) {
	if len(list) == 0 {
		return
	}
	p.line("\nHistory")
	for _, c := range list {
		for _, side := range []struct{ sign, text string }{{"-", c.Old}, {"+", c.New}} {
			if side.text == "" {
				continue
			}
			text := strings.Join(strings.Fields(side.text), " ")
			if !p.all {
				text = shorten(text, 100)
			}
			p.line("%s %s. %s", side.sign, c.Name, printable(text))
		}
	}
}

func (p *diffPrinter) layers(d view.LayersDiff) {
	if len(d.A) == 0 && len(d.B) == 0 {
		return
	}
	p.line("\nLayers (%s below in both)", plural(d.Common, "layer"))
	for _, side := range []struct {
		sign string
		list []view.LayerChange
	}{{"-", d.A}, {"+", d.B}} {
		for i, l := range side.list {
			by := shorten(strings.Join(strings.Fields(l.CreatedBy), " "), shortCommand)
			p.line("%s %d. %s %8s  %s", side.sign, d.Common+i+1, short(l.Digest.String()), size(l.Size), printable(by))
		}
	}
}

// files writes what became of the files. A directory that was added or removed
// as a whole is one line.
func (p *diffPrinter) files(d *view.Diff) {
	if len(d.Files) == 0 {
		return
	}
	s := d.Summary
	p.line("\nFiles: %d added, %d removed, %d changed, %s", s.Added, s.Removed, s.Changed, signedSize(s.Bytes))
	printed := 0
	for i := 0; i < len(d.Files); i++ {
		f := d.Files[i]
		if f.Within && !p.all {
			continue
		}
		if printed++; printed > diffLines && !p.all {
			left := 0
			for _, f := range d.Files[i:] {
				if !f.Within {
					left++
				}
			}
			p.line("... and %d more (--all)", left)
			return
		}
		p.line("%s", printable(fileLine(f, d.Files[i+1:], p.all)))
	}
}

// fileLine describes a file; rest is what follows it in the list.
func fileLine(f view.FileChange, rest []view.FileChange, all bool) string {
	switch f.Kind {
	case "added":
		return "+ " + wholeLine(f.Path, f.New, rest, all)
	case "removed":
		return "- " + wholeLine(f.Path, f.Old, rest, all)
	}
	var parts []string
	for _, what := range f.What {
		parts = append(parts, changeText(what, f.Old, f.New))
	}
	return "~ " + f.Path + slashOf(f.New) + "  " + strings.Join(parts, ", ")
}

func slashOf(f *view.FileInfo) string {
	if f.Type == "directory" {
		return "/"
	}
	return ""
}

// wholeLine describes what only one image has.
func wholeLine(path string, f *view.FileInfo, rest []view.FileChange, all bool) string {
	switch f.Type {
	case "directory":
		if all {
			return path + "/"
		}
		n, bytes := 0, int64(0)
		for _, r := range rest {
			if !r.Within || !strings.HasPrefix(r.Path, path+"/") {
				break
			}
			info := r.New
			if info == nil {
				info = r.Old
			}
			if info.Type != "directory" {
				n++
			}
			bytes += info.Size
		}
		return fmt.Sprintf("%s/  %s, %s", path, plural(n, "file"), size(bytes))
	case "file":
		return path + "  " + size(f.Size)
	case "symbolic link":
		return path + " -> " + f.Target
	}
	return path + "  " + f.Type
}

// changeText says how one thing of a file changed.
func changeText(what string, a, b *view.FileInfo) string {
	arrow := func(a, b string) string { return what + " " + a + " -> " + b }
	switch what {
	case "type":
		return arrow(a.Type, b.Type)
	case "mode":
		return arrow(a.Mode, b.Mode)
	case "owner":
		return arrow(fmt.Sprintf("%d:%d", a.UID, a.GID), fmt.Sprintf("%d:%d", b.UID, b.GID))
	case "size":
		return arrow(size(a.Size), size(b.Size))
	case "target":
		return arrow(a.Target, b.Target)
	case "device":
		return arrow(a.Device, b.Device)
	case "time":
		const layout = "2006-01-02T15:04:05Z"
		return arrow(a.Time.Format(layout), b.Time.Format(layout))
	case "xattrs":
		return what + " " + xattrNames(a.Xattrs, b.Xattrs)
	}
	return what
}

// xattrNames lists the names of extended attributes that differ.
func xattrNames(a, b map[string]string) string {
	var names []string
	for name, value := range a {
		if other, ok := b[name]; !ok {
			names = append(names, "-"+name)
		} else if other != value {
			names = append(names, "~"+name)
		}
	}
	for name := range maps.Keys(b) {
		if _, ok := a[name]; !ok {
			names = append(names, "+"+name)
		}
	}
	slices.SortFunc(names, func(x, y string) int { return strings.Compare(x[1:], y[1:]) })
	return strings.Join(names, " ")
}

// signedSize is a difference of sizes.
func signedSize(n int64) string {
	if n < 0 {
		return "-" + size(-n)
	}
	return "+" + size(n)
}
