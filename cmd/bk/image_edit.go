package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bk.build/bk/layout"
	"bk.build/bk/layout/edit"
	"bk.build/bk/layout/layer"
	"bk.build/bk/layout/place"
	"bk.build/bk/layout/transfer"
)

// editHelp is for commands that make an image of another.
const editHelp = `
An index is edited with all its images, or those of --platform. Without DEST the
result gets the name of the image; a DEST that names no registry and no other place
is a name in the store. The digest is printed.

`

// editing are the flags of the commands that make an image of another.
type editing struct {
	move
}

func (ed *editing) register(set *pflag.FlagSet, e *env) {
	set.SortFlags = false
	set.StringArrayVar(&ed.platforms, "platform", nil, "take only the image for `OS/ARCH,...`, not all of them")
	set.StringVar(&ed.digestFile, "digestfile", "", "write the digest to `FILE`")
	set.IntVar(&ed.jobs, "jobs", 0, "move at most `N` blobs at a time (0: 4)")
	set.StringVar(&ed.progress, "progress", orDefault(e.getenv("BUILDKIT_PROGRESS"), "auto"), "show progress in `MODE` auto, tty, plain, quiet or rawjson")
	set.BoolVarP(&ed.quiet, "quiet", "q", false, "show no progress")
	ed.reach.register(set)
}

// editor makes an image of another; new blobs go to out.
type editor func(ctx context.Context, p *places, img *image, out *layout.Dir) (*edit.Result, error)

// run edits the image args[0] and writes the result to args[1], or to its old
// name.
func (ed *editing) run(cmd *cobra.Command, e *env, args []string, f editor) error {
	for _, arg := range args {
		if _, err := place.Parse(arg); err != nil {
			return usage(cmd, err)
		}
	}
	if ed.jobs < 0 {
		return usagef(cmd, "jobs %d: must not be negative", ed.jobs)
	}
	if ed.quiet {
		ed.progress = "quiet"
	}
	display, err := e.startProgress(ed.progress)
	if err != nil {
		return err
	}
	line, notes, err := ed.edit(cmd.Context(), e, display, args, f)
	display.close()
	for _, note := range notes {
		e.print("NOTE: %s\n", printable(note))
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, line)
	return err
}

func (ed *editing) edit(ctx context.Context, e *env, display *progress, args []string, f editor) (line string, notes []string, err error) {
	p := e.places(&ed.reach, true)
	defer p.close(&err)
	view := display.transfer("editing " + args[0])
	defer func() { view.done(err) }()
	img, err := p.narrowAll(ctx, args[0], ed.platforms)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	dest, err := img.destination(args)
	if err != nil {
		return "", nil, err
	}
	out, remove, err := e.scratch()
	if err != nil {
		return "", nil, err
	}
	defer remove()
	result, err := f(ctx, p, img, out)
	if err != nil {
		return "", nil, err
	}
	target, err := p.Target(ctx, dest)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if err := target.Put(ctx, result, result.Descriptor, transfer.Options{Jobs: ed.jobs, Progress: view.note}); err != nil {
		return "", nil, err
	}
	if ed.digestFile != "" {
		if err := writeText(ed.digestFile, result.Descriptor.Digest.String()); err != nil {
			return "", nil, err
		}
	}
	return target.At(result.Descriptor.Digest), result.Notes, nil
}

// destination is where the result goes: args[1], or where the image is.
func (i *image) destination(args []string) (string, error) {
	if len(args) == 2 {
		to, err := place.Parse(args[1])
		if to.Kind == place.Bare && !place.NamesRegistry(to.Rest) {
			to.Kind = place.Store
		}
		return to.String(), err
	}
	name := orDefault(i.Ref, entryName(i.desc))
	if strings.Contains(name, "@") || strings.HasPrefix(name, "sha256:") || strings.HasPrefix(name, "sha512:") {
		return "", fmt.Errorf("%s is named by its digest, which the result does not have: name a destination", args[0])
	}
	if to, err := i.Beside(orDefault(name, "latest")); err == nil {
		return to.String(), nil
	}
	return args[0], nil
}

// scratch returns a layout for new blobs, on the file system of the store, which
// remove deletes.
func (e *env) scratch() (out *layout.Dir, remove func(), err error) {
	root, err := e.store()
	if err != nil {
		return nil, nil, err
	}
	parent := filepath.Join(root, "tmp")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, nil, err
	}
	path, err := os.MkdirTemp(parent, "edit-")
	if err != nil {
		return nil, nil, err
	}
	remove = func() { os.RemoveAll(path) }
	if out, err = layout.Create(path); err != nil {
		remove()
		return nil, nil, err
	}
	return out, remove, nil
}

// compressing are the flags that say how layers are packed.
type compressing struct {
	kind  string
	level int
}

func (c *compressing) register(set *pflag.FlagSet, def, help string) {
	set.StringVar(&c.kind, "compression", def, help)
	set.IntVar(&c.level, "compression-level", 0, "compress with `LEVEL` (gzip: -2 to 9, zstd: 1 to 22)")
}

// compression returns what the flags say; nil: nothing.
func (c *compressing) compression(set *pflag.FlagSet) (*layer.Compression, error) {
	out := &layer.Compression{Type: c.kind}
	if set.Changed("compression-level") {
		out.Level = &c.level
	}
	if c.kind == "" && out.Level == nil {
		return nil, nil
	}
	if c.kind == "" {
		return nil, errors.New("--compression-level without --compression")
	}
	return out, out.Validate()
}
