package artifact

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// downloads is how many layers are read at once.
const downloads = 4

// PullOptions configures Pull. The zero value replaces files that are there.
type PullOptions struct {
	// Platform selects from an index; nil: an index is an error.
	Platform *ocispec.Platform
	// KeepOld makes a file that is there already an error.
	KeepOld bool
}

// Pulled is a file or directory that Pull has written.
type Pulled struct {
	Title     string
	Desc      ocispec.Descriptor // of the layer
	Directory bool               // the layer was unpacked
}

// Result is what Pull has done.
type Result struct {
	Desc     ocispec.Descriptor // of the manifest
	Manifest ocispec.Manifest
	Files    []Pulled
	// Skipped are the layers without a title.
	Skipped []ocispec.Descriptor
}

// Pull writes the files of the artifact desc into dir, which is made when it is
// not there. Nothing is ever written outside of it, whatever titles, links and
// tars say. All content is fetched and verified below a temporary name in dir
// before the first file gets its own, each in one step; then the files of
// unpacked directories are put among those that are there. Owners, times,
// extended attributes, set-id bits and devices are not restored.
func Pull(ctx context.Context, r transfer.Reader, desc ocispec.Descriptor, dir string, opts PullOptions) (*Result, error) {
	res, plan, err := plan(ctx, r, desc, opts)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", desc.Digest, err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("pull %s: %w", desc.Digest, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", desc.Digest, err)
	}
	defer root.Close()
	if err := write(ctx, r, root, plan, opts); err != nil {
		return nil, fmt.Errorf("pull %s into %s: %w", desc.Digest, dir, err)
	}
	for _, p := range plan {
		res.Files = append(res.Files, p.Pulled)
	}
	return res, nil
}

// planned is a layer that is going to be pulled.
type planned struct {
	Pulled
	prefix string // of an unpacked layer: the directory's own name in the tar
}

// plan finds out which layers are pulled, and as what.
func plan(ctx context.Context, r transfer.Reader, desc ocispec.Descriptor, opts PullOptions) (*Result, []planned, error) {
	if layout.IsIndex(desc.MediaType) {
		if opts.Platform == nil {
			return nil, nil, errors.New("it is an index: say which platform")
		}
		var err error
		if desc, err = layout.Select(desc, *opts.Platform, transfer.Fetch(ctx, r)); err != nil {
			return nil, nil, err
		}
	}
	b, err := transfer.ReadDocument(ctx, r, desc, layout.MaxManifest)
	if err != nil {
		return nil, nil, err
	}
	res := &Result{Desc: desc}
	if res.Manifest, err = layout.ParseManifest(desc.MediaType, b); err != nil {
		return nil, nil, err
	}
	namer, err := newNamer(ctx, r, res.Manifest)
	if err != nil {
		return nil, nil, err
	}
	var list []planned
	titles := map[string]bool{}
	for _, l := range res.Manifest.Layers {
		p := namer.name(l)
		if p.Title == "" {
			if l.MediaType != ocispec.MediaTypeEmptyJSON {
				res.Skipped = append(res.Skipped, l)
			}
			continue
		}
		if err := checkTitle(p.Title); err != nil || p.Title == "." && !p.Directory {
			return nil, nil, fmt.Errorf("layer %s has the title %q: %w", l.Digest, p.Title, errors.Join(err, errTitle))
		}
		if titles[p.Title] {
			return nil, nil, fmt.Errorf("two layers have the title %q", p.Title)
		}
		titles[p.Title] = true
		list = append(list, p)
	}
	return res, list, nil
}

var errTitle = errors.New("it is no name for a file that is pulled")

// write fetches all layers to a temporary directory below root, then gives them
// their names.
func write(ctx context.Context, r transfer.Reader, root *os.Root, list []planned, opts PullOptions) error {
	stage := ".bk-pull-" + rand.Text()
	if err := root.Mkdir(stage, 0o700); err != nil {
		return err
	}
	defer root.RemoveAll(stage) //nolint:errcheck // what is left there is in nobody's way
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(downloads)
	for i, p := range list {
		g.Go(func() error {
			if err := fetch(gctx, r, root, path.Join(stage, strconv.Itoa(i)), p); err != nil {
				return fmt.Errorf("%q: %w", p.Title, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var moves []move
	for i, p := range list {
		more, err := movesOf(root, path.Join(stage, strconv.Itoa(i)), p)
		if err != nil {
			return err
		}
		moves = append(moves, more...)
	}
	if opts.KeepOld {
		for _, m := range moves {
			if _, err := root.Lstat(m.to); err == nil && !m.dir {
				return fmt.Errorf("%q: %w", m.to, fs.ErrExist)
			}
		}
	}
	for _, m := range moves {
		if err := m.do(root); err != nil {
			return fmt.Errorf("%q: %w", m.to, err)
		}
	}
	return nil
}

// fetch writes a layer's file or directory at name.
func fetch(ctx context.Context, r transfer.Reader, root *os.Root, name string, p planned) error {
	in, err := r.Open(ctx, p.Desc)
	if err != nil {
		return err
	}
	defer in.Close()
	if p.Directory {
		return unpack(&contextReader{ctx, in}, root, name, p)
	}
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, &contextReader{ctx, in}, make([]byte, 256<<10))
	return errors.Join(err, out.Close())
}

// move gives a staged file or directory its name.
type move struct {
	from, to string
	dir      bool // make a directory: what is in it has moves of its own
	perm     fs.FileMode
}

// movesOf lists what is to be done for one layer, parents first.
func movesOf(root *os.Root, from string, p planned) ([]move, error) {
	if !p.Directory {
		return []move{{from: from, to: p.Title}}, nil
	}
	var list []move
	err := fs.WalkDir(root.FS(), from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		to := path.Join(p.Title, name[len(from):])
		list = append(list, move{from: name, to: to, dir: d.IsDir(), perm: fi.Mode().Perm()})
		return nil
	})
	return list, err
}

func (m move) do(root *os.Root) error {
	if m.dir {
		return makeDir(root, m.to, m.perm)
	}
	if parent := path.Dir(m.to); parent != "." {
		if err := root.MkdirAll(parent, 0o777); err != nil {
			return err
		}
	}
	return root.Rename(m.from, m.to)
}

// makeDir makes a directory; one that is there stays as it is. A link to one is
// none: what is pulled below it would be elsewhere.
func makeDir(root *os.Root, name string, perm fs.FileMode) error {
	if parent := path.Dir(name); parent != "." {
		if err := root.MkdirAll(parent, 0o777); err != nil {
			return err
		}
	}
	err := root.Mkdir(name, perm)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	fi, err := root.Lstat(name)
	if err == nil && !fi.IsDir() {
		err = errors.New("it is there and is no directory")
	}
	return err
}

// tarDigest is the digest of the tar that a directory's layer promises; empty:
// it promises none.
func tarDigest(desc ocispec.Descriptor) (digest.Digest, error) {
	said, ok := desc.Annotations[annotationDigest]
	if !ok {
		return "", nil
	}
	dg, err := digest.Parse(said)
	if err != nil {
		return "", fmt.Errorf("annotation %s: %q: %w", annotationDigest, said, err)
	}
	return dg, nil
}
