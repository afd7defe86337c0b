package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/builder"
	"bk.build/bk/layout"
	"bk.build/bk/layout/archive"
	"bk.build/bk/layout/layer"
	"bk.build/bk/layout/transfer"
)

// built is what an export made: the image, when an output is one.
type built struct {
	image *builder.Image
	names []string
}

// checkDests finds out, before anything is built, what could not be written
// after it. An id file of an earlier build is removed, so that a build that
// fails leaves none.
func (p *buildPlan) checkDests(e *env) error {
	for _, o := range p.outputs {
		if err := o.checkWritable(e); err != nil {
			return fmt.Errorf("output type=%s: %w", o.kind, err)
		}
	}
	for _, file := range []string{p.iidFile, p.metadata} {
		if file == "" {
			continue
		}
		if err := checkDir(filepath.Dir(file)); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
	}
	if p.iidFile != "" {
		if err := os.Remove(p.iidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (o *output) checkWritable(e *env) error {
	switch {
	case o.dest == "":
		return nil
	case o.dest == stdout && isTerminal(e.stdout):
		return errors.New("a tar is not written to a terminal: name a file with dest=FILE, or redirect standard output")
	case o.dest == stdout:
		return nil
	case o.dir || o.kind == outLocal:
		return errors.Join(checkParents(o.dest), o.checkLayout())
	}
	if info, err := os.Stat(o.dest); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory: name a file in it", o.dest)
	}
	return checkDir(filepath.Dir(o.dest))
}

// checkLayout makes sure that an image is not put among other files. A layout
// that another process is making, or did not finish, is none.
func (o *output) checkLayout() error {
	list, err := os.ReadDir(o.dest)
	if !o.dir || err != nil || !slices.ContainsFunc(list, isForeign) {
		return nil
	}
	if _, err := layout.Open(o.dest); err != nil {
		return fmt.Errorf("%s has other files in it and is not an OCI layout: %w", o.dest, err)
	}
	return nil
}

// isForeign reports whether a file is not of an OCI layout or of checkDir.
func isForeign(e fs.DirEntry) bool {
	switch e.Name() {
	case "oci-layout", "index.json", "index.json.lock", "blobs", "tmp":
		return false
	}
	return !strings.HasPrefix(e.Name(), ".bk-")
}

// checkParents checks dir, or the closest parent that exists.
func checkParents(dir string) error {
	for {
		err := checkDir(dir)
		parent := filepath.Dir(dir)
		if !errors.Is(err, fs.ErrNotExist) || parent == dir {
			return err
		}
		dir = parent
	}
}

// checkDir makes sure that files can be made in dir.
func checkDir(dir string) error {
	f, err := os.CreateTemp(dir, ".bk-")
	if err != nil {
		var perr *fs.PathError
		if errors.As(err, &perr) {
			err = perr.Err
		}
		return fmt.Errorf("directory %s: %w", dir, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// exporter writes the outputs of one build.
type exporter struct {
	env     *env
	plan    *buildPlan
	res     *builder.Result
	display *progress
	pushers pushers
	done    built
}

// export writes every output of the plan.
func (x *exporter) export(ctx context.Context) error {
	if t := x.res.Epoch(); t != nil && (x.plan.epoch == nil || x.plan.epochDefault) {
		x.plan.epoch = t // ARG SOURCE_DATE_EPOCH of the Dockerfile
	}
	for _, o := range x.plan.outputs {
		if err := x.output(ctx, o); err != nil {
			return fmt.Errorf("output type=%s: %w", o.kind, err)
		}
	}
	return nil
}

func (x *exporter) output(ctx context.Context, o *output) error {
	switch o.kind {
	case outImage, outRegistry, outOCI, outDocker:
		return x.image(ctx, o)
	case outTar:
		return x.display.step("exporting files to "+o.place(), nil, func() error {
			return x.env.write(o.dest, func(w io.Writer) error { return writeTree(ctx, w, x.plan.tree(x.res, o)) })
		})
	case outLocal:
		return x.display.step("exporting files to "+o.place(), nil, func() error {
			return writeLocal(ctx, o.dest, x.plan.tree(x.res, o))
		})
	}
	return nil
}

// image commits the result as the output wants it and writes it there.
func (x *exporter) image(ctx context.Context, o *output) error {
	o.commit.PackOptions = o.packOptions(x.plan.epoch)
	image, err := x.res.Commit(ctx, o.commit)
	if err != nil {
		return err
	}
	if x.done.image == nil {
		x.done.image, x.done.names = &image, o.names
	}
	if o.push {
		if err := x.pushers.of(x.plan, o).push(ctx, x.res.Content(), image.Descriptor); err != nil {
			return err
		}
	}
	if o.toNames() && (o.away || len(o.names) == 0) {
		return nil // reachable by its digest
	}
	var details []string
	for _, name := range o.names {
		details = append(details, "naming to "+name)
	}
	desc := describeIndex(image.Descriptor, o.commit.Annotations)
	return x.display.step("writing "+desc.Digest.String()+" to "+o.place(), details, func() error {
		return x.write(ctx, o, desc)
	})
}

// write puts a committed image where the output wants it.
func (x *exporter) write(ctx context.Context, o *output, desc ocispecs.Descriptor) error {
	store := x.res.Store()
	switch {
	case o.kind == outImage:
		return store.SetRefs(o.storeNames(desc), desc)
	case o.dir:
		return archive.ExportDir(ctx, transfer.Layout(store), desc, o.names, o.dest)
	case o.kind == outOCI:
		return x.env.write(o.dest, func(w io.Writer) error { return archive.WriteOCI(ctx, w, transfer.Layout(store), desc, o.names) })
	}
	return x.env.write(o.dest, func(w io.Writer) error {
		return archive.WriteDocker(ctx, w, transfer.Layout(store), desc, o.names, nil)
	})
}

// storeNames are the names that an image gets in the store.
func (o *output) storeNames(desc ocispecs.Descriptor) []string {
	names := slices.Clone(o.names)
	if o.canonical {
		for _, name := range o.names {
			names = append(names, repositoryOf(name)+"@"+desc.Digest.String())
		}
	}
	return names
}

// repositoryOf returns a full name without its tag.
func repositoryOf(name string) string { return name[:strings.LastIndex(name, ":")] }

// place is the destination for people.
func (o *output) place() string {
	switch o.dest {
	case "":
		return "the store"
	case stdout:
		return "standard output"
	}
	return o.dest
}

// describeIndex adds the annotations that were asked for on the descriptor of
// the whole image.
func describeIndex(desc ocispecs.Descriptor, attrs map[string]string) ocispecs.Descriptor {
	const prefix = "annotation-index-descriptor."
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			desc.Annotations = maps.Clone(desc.Annotations)
			if desc.Annotations == nil {
				desc.Annotations = map[string]string{}
			}
			desc.Annotations[name] = attrs[key]
		}
	}
	return desc
}

// write calls fn with a writer to dest: standard output, or a file that
// appears when it is complete.
func (e *env) write(dest string, fn func(io.Writer) error) error {
	if dest == stdout {
		return fn(e.stdout)
	}
	return archive.File(dest, fn)
}

// writeTree writes a file tree as a tar.
func writeTree(ctx context.Context, w io.Writer, entries layer.Entries) error {
	_, err := layer.Pack(ctx, w, entries, layer.PackOptions{Compression: layer.Compression{Type: "uncompressed"}})
	return err
}

// tree is the file tree of an output: all platforms' trees, each in a
// directory of its own when there are several, with bounded times.
func (p *buildPlan) tree(res *builder.Result, o *output) layer.Entries {
	list := res.Platforms()
	split := len(list) > 1
	if o.split != nil {
		split = *o.split
	}
	epoch := p.epoch
	if o.keepTimes {
		epoch = nil
	}
	return func(yield func(*layer.Entry, error) bool) {
		if split {
			root := &layer.Entry{Path: ".", Type: layer.Directory, Mode: 0o755, ModTime: time.Unix(0, 0)}
			if !yield(root, nil) {
				return
			}
		}
		for _, i := range platformOrder(list, split) {
			prefix := ""
			if split {
				prefix = platformDir(list[i])
			}
			if !walk(res.Walk(i), prefix, epoch, yield) {
				return
			}
		}
	}
}

// platformOrder lists the indexes of platforms by the names of their
// directories, which is the order that a stream of entries has.
func platformOrder(list []ocispecs.Platform, split bool) []int {
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	if split {
		slices.SortStableFunc(order, func(a, b int) int {
			return strings.Compare(platformDir(list[a]), platformDir(list[b]))
		})
	}
	return order
}

// platformDir names a platform's directory: "linux_arm64".
func platformDir(p ocispecs.Platform) string {
	return strings.ReplaceAll(platforms.FormatAll(p), "/", "_")
}

// walk passes entries on, below prefix. It reports whether to go on.
func walk(entries layer.Entries, prefix string, epoch *time.Time, yield func(*layer.Entry, error) bool) bool {
	for entry, err := range entries {
		if err != nil {
			yield(nil, err)
			return false
		}
		moved := *entry
		if prefix != "" {
			moved.Path = joinPath(prefix, entry.Path)
			if entry.Type == layer.Hardlink {
				moved.Link = joinPath(prefix, entry.Link)
			}
		}
		if epoch != nil && moved.ModTime.After(*epoch) {
			moved.ModTime = *epoch
		}
		if !yield(&moved, nil) {
			return false
		}
	}
	return true
}

func joinPath(prefix, name string) string {
	if name == "." {
		return prefix
	}
	return prefix + "/" + name
}
