package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"bk.build/bk/builder/cache"
	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
)

// layers is the store's snapshots directory. A layer has a directory there as
// soon as one of its forms is stored:
//
//	snapshots/<id>/fs               the unpacked form; see form for other names
//	snapshots/<id>/fs.ids           owners of symbolic links and FIFOs that this user can't give them
//	snapshots/<id>/implied          parents that the packed form did not name
//	snapshots/<id>/opaque           the layer hides all layers below it
//	snapshots/<id>/packed-<how>     JSON: the packed form's descriptor and diffID
//	snapshots/<id>/planned          a file operation was planned, and nobody needed a form
//
// The id of an image's layer is its diffID; of a RUN's layer it is random,
// since running again may give something else; of a file operation's it is
// derived from what goes in.
type layers struct {
	dir string
	fs  string // the name of unpacked forms
	// remembers says that owners are not written to unpacked forms, but
	// remembered in them; see package ids.
	remembers bool
	store     *layout.Dir
	tmp       *scratch
	slots     chan struct{} // bounds the layers packed or unpacked at a time

	mu   sync.Mutex
	byID map[string]*Layer
}

// Layer is what one step left, in the forms that somebody asked for.
type Layer struct {
	id string
	s  *layers

	// origin is where an image's layer can be had from; nil for others.
	origin *origin
	// plan makes the layer's entries from what it was made of: for file
	// operations, whose result needs no directory to exist.
	plan func() (layer.Entries, error)
	// lineage names the step across builds, to find what it was packed to
	// before; empty: no digests of its files are known.
	lineage string
	// ran says that the plan was made by this build.
	ran bool
	// keep asks to store the packed form when it streams by.
	keep bool
	// event is the vertex that shows the transfer of an image's layer.
	event *event

	planned  future[layer.Entries]
	unpacked future[string]
	ready    atomic.Bool // unpacked is there
	viewed   future[snapshot.Layer]
	supposed future[[]string]
	hides    future[bool]
	packs    futures[layout.LayerBlob]
}

// origin is a layer's packed form outside of the store.
type origin struct {
	blob layout.LayerBlob
	// open streams the bytes, verified against the descriptor.
	open func(ctx context.Context) (io.ReadCloser, error)
	// link puts the blob into the store without reading it; nil when it has
	// to be read.
	link func() error
	// repository is "registry/repository" that the blob is in; empty: none.
	repository string
}

// get returns the layer of an id, one object for each id.
func (s *layers) get(id string) *Layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.byID[id]
	if l == nil {
		l = &Layer{id: id, s: s}
		s.byID[id] = l
	}
	return l
}

// image returns an image's layer.
func (s *layers) image(o *origin) *Layer {
	l := s.get(o.blob.DiffID.Encoded())
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.origin == nil {
		l.origin = o
	}
	return l
}

// made returns a file operation's layer.
func (s *layers) made(id string, plan func() (layer.Entries, error)) *Layer {
	l := s.get(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.plan == nil {
		l.plan = plan
	}
	return l
}

func (l *Layer) path(name string) string { return filepath.Join(l.s.dir, l.id, name) }

// stored reports whether a form of the layer is in the store.
func (l *Layer) stored() bool {
	st, err := os.Stat(filepath.Join(l.s.dir, l.id))
	if err != nil {
		return false
	}
	cache.Touch(filepath.Join(l.s.dir, l.id), st.ModTime())
	if exists(l.path(l.s.fs)) {
		return true
	}
	_, ok := l.anyPacked()
	return ok
}

// known reports whether the layer was made before, by this build or another.
func (l *Layer) known() bool { return l.stored() || exists(l.path("planned")) }

// notePlanned remembers the file operations whose results nobody needed in one
// of the stored forms, so that they count as done in the next build.
func (s *layers) notePlanned() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.byID {
		if !l.ran || exists(filepath.Join(s.dir, l.id)) {
			continue
		}
		if err := os.MkdirAll(filepath.Join(s.dir, l.id), 0o700); err != nil {
			return err
		}
		if err := cache.WriteFile(l.path("planned"), nil); err != nil {
			return err
		}
	}
	return nil
}

// available reports whether a form of the layer can be had.
func (l *Layer) available() bool { return l.origin != nil || l.plan != nil || l.stored() }

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// entries returns what a planned layer holds, to be read as often as it is
// needed.
func (l *Layer) entries() (layer.Entries, error) { return l.planned.do(l.plan) }

// view returns the layer for a snapshot.View, in the cheapest form at hand.
func (l *Layer) view(ctx context.Context) (snapshot.Layer, error) {
	if l.plan != nil && !exists(l.path(l.s.fs)) {
		e, err := l.entries()
		if err != nil {
			return snapshot.Layer{}, err
		}
		return snapshot.PlanLayer(e)
	}
	return l.viewed.do(func() (snapshot.Layer, error) {
		dir, err := l.Dir(ctx)
		if err != nil {
			return snapshot.Layer{}, err
		}
		if l.s.remembers {
			inodes, err := l.inodes()
			return snapshot.Remember(snapshot.RememberedLayer(dir, inodes)), err
		}
		return snapshot.Remember(snapshot.DirLayer(dir)), nil
	})
}

// Dir returns the layer's unpacked form: a directory in overlayfs form.
func (l *Layer) Dir(ctx context.Context) (string, error) {
	return l.unpacked.do(func() (dir string, err error) {
		dir = l.path(l.s.fs)
		defer func() { l.ready.Store(err == nil) }()
		if exists(dir) {
			return dir, nil
		}
		release, err := l.s.slot(ctx)
		if err != nil {
			return "", err
		}
		defer release()
		return dir, l.unpack(ctx)
	})
}

func (s *layers) slot(ctx context.Context) (func(), error) {
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// unpack makes the unpacked form from whichever other form there is.
func (l *Layer) unpack(ctx context.Context) error {
	tmp, err := l.s.tmp.mkdir("layer")
	if err != nil {
		return err
	}
	fsDir := filepath.Join(tmp, l.s.fs)
	opts, inodes := l.s.applying()
	var applied layer.Applied
	switch packed, ok := l.anyPacked(); {
	case l.plan != nil:
		applied, err = l.applyPlan(ctx, fsDir, opts)
	case ok:
		applied, err = l.unpackBlob(ctx, fsDir, opts, packed, func(context.Context) (io.ReadCloser, error) {
			return l.s.store.OpenBlob(packed.Descriptor)
		}, nil)
	case l.origin != nil:
		applied, err = l.fetch(ctx, fsDir, opts)
	default:
		err = fmt.Errorf("layer %s is not in the store any more", l.id)
	}
	if err == nil && len(applied.Implied) > 0 {
		err = cache.WriteFile(filepath.Join(tmp, "implied"), []byte(strings.Join(applied.Implied, "\x00")))
	}
	if err == nil && applied.OpaqueRoot {
		err = cache.WriteFile(filepath.Join(tmp, "opaque"), nil)
	}
	if err == nil && len(inodes) > 0 {
		err = cache.WriteFile(filepath.Join(tmp, l.s.inodesFile()), inodes.Encode())
	}
	if err == nil {
		err = l.install(tmp, l.s.fs, l.s.inodesFile(), "implied", "opaque")
	}
	os.RemoveAll(tmp)
	return err
}

func (l *Layer) applyPlan(ctx context.Context, dir string, opts layer.ApplyOptions) (layer.Applied, error) {
	entries, err := l.entries()
	if err != nil {
		return layer.Applied{}, err
	}
	return layer.Apply(ctx, entries, dir, opts)
}

// stream turns a list into a stream.
func stream(entries []*layer.Entry) layer.Entries {
	return func(yield func(*layer.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// fetch unpacks from the origin, keeping the blob as it streams by when the
// result needs it.
func (l *Layer) fetch(ctx context.Context, dir string, apply layer.ApplyOptions) (layer.Applied, error) {
	if l.origin.link != nil || !l.keep {
		return l.unpackBlob(ctx, dir, apply, l.origin.blob, l.origin.open, nil)
	}
	w, err := l.s.store.NewHashedBlob() // unpacking verifies
	if err != nil {
		return layer.Applied{}, err
	}
	defer w.Close()
	applied, err := l.unpackBlob(ctx, dir, apply, l.origin.blob, l.origin.open, w)
	if err != nil {
		return layer.Applied{}, err
	}
	desc := l.origin.blob.Descriptor
	_, _, err = w.Commit(desc.Digest, desc.Size)
	return applied, err
}

func (l *Layer) unpackBlob(ctx context.Context, dir string, apply layer.ApplyOptions, b layout.LayerBlob, open func(context.Context) (io.ReadCloser, error), tee io.Writer) (layer.Applied, error) {
	r, err := open(ctx)
	if err != nil {
		return layer.Applied{}, err
	}
	defer r.Close()
	opts := layer.UnpackOptions{Digest: b.Descriptor.Digest, Size: b.Descriptor.Size, DiffID: b.DiffID, Apply: apply}
	var in io.Reader = r
	if tee != nil {
		in = io.TeeReader(r, tee)
	}
	u, err := layer.Unpack(ctx, in, dir, opts)
	if errors.Is(err, layer.ErrInvalid) {
		err = fmt.Errorf("%w: the image that it is from is damaged", err)
	}
	if err != nil {
		return layer.Applied{}, fmt.Errorf("unpack layer %s: %w", b.Descriptor.Digest, err)
	}
	return u.Applied, nil
}

// install moves finished parts of a layer into its directory. Another process
// may have done the same meanwhile: then its work stays.
func (l *Layer) install(tmp string, names ...string) error {
	dst := filepath.Join(l.s.dir, l.id)
	// The whole directory at once when it is the first form.
	if err := os.MkdirAll(l.s.dir, 0o700); err != nil {
		return err
	}
	if err := os.Rename(tmp, dst); err == nil {
		return nil
	}
	for i := len(names) - 1; i >= 0; i-- { // the files last: they make the others count
		err := os.Rename(filepath.Join(tmp, names[i]), filepath.Join(dst, names[i]))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !exists(filepath.Join(dst, names[i])) {
			return fmt.Errorf("store layer %s: %w", l.id, err)
		}
	}
	return nil
}

// opaque reports whether the layer hides all layers below it, which overlayfs
// does not see when a layer's root says so.
func (l *Layer) opaque() bool {
	hides, _ := l.hides.do(func() (bool, error) { return l.plan == nil && exists(l.path("opaque")), nil })
	return hides
}

// implied returns the parent directories that the layer's packed form did not
// name and whose attributes in the unpacked form are therefore invented.
func (l *Layer) implied() []string {
	if l.plan != nil {
		return nil
	}
	list, _ := l.supposed.do(func() ([]string, error) {
		b, err := os.ReadFile(l.path("implied"))
		if err != nil || len(b) == 0 {
			return nil, nil
		}
		return strings.Split(string(b), "\x00"), nil
	})
	return list
}
