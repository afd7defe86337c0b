package builder

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"bk.build/bk/builder/cache"
	"bk.build/bk/builder/snapshot"
	"bk.build/bk/builder/source"
	"bk.build/bk/layout/layer"
	"bk.build/bk/runner"
)

// Tree is a step's result: a stack of layers, bottom first, or a local
// directory that becomes a layer only when somebody needs it as one. A nil
// *Tree is the empty tree.
type Tree struct {
	layers []*Layer
	local  *source.Local

	s         *layers // of a local tree: where its layer goes
	localOnce future[*Layer]
	files     future[snapshot.FS]
	fixed     future[[]string]
}

func layersTree(l []*Layer) *Tree { return &Tree{layers: l} }

// stack returns the tree's layers.
func (t *Tree) stack(ctx context.Context) ([]*Layer, error) {
	if t == nil || t.local == nil {
		return t.list(), nil
	}
	l, err := t.localOnce.do(func() (*Layer, error) { return t.localLayer(ctx) })
	if err != nil {
		return nil, err
	}
	return []*Layer{l}, nil
}

func (t *Tree) list() []*Layer {
	if t == nil {
		return nil
	}
	return t.layers
}

// localLayer gives a local directory an identity by its content.
func (t *Tree) localLayer(ctx context.Context) (*Layer, error) {
	if err := t.scan(ctx, "."); err != nil {
		return nil, err
	}
	dgst, err := digested(snapshot.PathDigest(ctx, t.local, ".", true))
	if err != nil {
		return nil, err
	}
	h := cache.NewHasher("local.v1")
	h.String(dgst)
	return t.s.made(h.Sum().String(), func() (layer.Entries, error) {
		return snapshot.Walk(t.local, "."), nil
	}), nil
}

// scan digests what is below a path of a local tree, on all cores. A path that
// isn't there is for those to report who want it.
func (t *Tree) scan(ctx context.Context, at string) error {
	p, err := snapshot.Resolve(t.local, relative(at), 0)
	if err == nil {
		err = t.local.Scan(ctx, p)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}

func collect(entries layer.Entries) ([]*layer.Entry, error) {
	var list []*layer.Entry
	for e, err := range entries {
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// FS returns the tree for reading, without making anything that isn't there,
// as far as possible.
func (t *Tree) FS(ctx context.Context) (snapshot.FS, error) {
	if t == nil {
		return snapshot.NewView(), nil
	}
	if t.local != nil {
		return t.local, nil
	}
	return t.files.do(func() (snapshot.FS, error) {
		if err := unpackAll(ctx, t.layers, func(l *Layer) bool { return l.plan == nil }); err != nil {
			return nil, err
		}
		return t.viewOf(ctx, t.layers)
	})
}

// viewOf merges layers that are at hand, and what corrects them.
func (t *Tree) viewOf(ctx context.Context, list []*Layer) (snapshot.FS, error) {
	var parts []snapshot.Layer
	for _, l := range list {
		part, err := l.view(ctx)
		if err != nil {
			return nil, err
		}
		if len(parts) == 0 {
			parts = append(parts, part)
			continue
		}
		if fix := fixes(snapshot.NewView(parts...), l.implied()); fix != nil {
			corrected, err := snapshot.PlanLayer(stream(fix))
			if err != nil {
				return nil, err
			}
			parts = append(parts, part, corrected)
			continue
		}
		parts = append(parts, part)
	}
	return snapshot.NewView(parts...), nil
}

// fixes returns the entries that give directories which a layer only implies
// the attributes that they have below it.
func fixes(below snapshot.FS, implied []string) []*layer.Entry {
	var list []*layer.Entry
	for _, p := range implied {
		if e, err := below.Lstat(p); err == nil && e.Type == layer.Directory {
			c := *e
			c.Opaque = false
			list = append(list, &c)
		}
	}
	return list
}

// unpackAll unpacks those of the layers that are wanted and aren't unpacked.
func unpackAll(ctx context.Context, list []*Layer, want func(*Layer) bool) error {
	var todo []*Layer
	for _, l := range list {
		if !l.ready.Load() && want(l) {
			todo = append(todo, l)
		}
	}
	return eachLayer(todo, func(l *Layer) error {
		_, err := l.Dir(ctx)
		return err
	})
}

// eachLayer calls f for every layer in parallel and returns the first error.
func eachLayer(list []*Layer, f func(*Layer) error) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, l := range list {
		wg.Go(func() { errs[i] = f(l) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// lowers returns the tree's unpacked layers as overlayfs takes them, the
// topmost first.
func (t *Tree) lowers(ctx context.Context) ([]string, error) {
	list, err := t.stack(ctx)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return t.fixed.do(func() ([]string, error) {
		if err := unpackAll(ctx, list, func(*Layer) bool { return true }); err != nil {
			return nil, err
		}
		var top []string // the bottom first, so far
		for i, l := range list {
			if l.opaque() {
				top = nil
			}
			top = append(top, l.path(l.s.fs))
			implied := l.implied()
			if i == 0 || len(implied) == 0 {
				continue // there is nothing below to take attributes from
			}
			fix, err := t.fixLayer(ctx, list[:i], implied)
			if err != nil {
				return nil, err
			}
			if fix != "" {
				top = append(top, fix)
			}
		}
		slices.Reverse(top)
		return top, nil
	})
}

// fixLayer makes the directory layer that corrects the implied parents of the
// layer above the given ones.
func (t *Tree) fixLayer(ctx context.Context, below []*Layer, implied []string) (string, error) {
	view, err := t.viewOf(ctx, below)
	if err != nil {
		return "", err
	}
	entries := fixes(view, implied)
	if len(entries) == 0 {
		return "", nil
	}
	h := cache.NewHasher("implied.v1")
	for _, l := range below {
		h.String(l.id)
	}
	for _, p := range implied {
		h.String(p)
	}
	s := below[0].s
	return s.made(h.Sum().String(), func() (layer.Entries, error) { return stream(entries), nil }).Dir(ctx)
}

// ids returns what identifies a tree: its layers.
func (t *Tree) ids(ctx context.Context) ([]string, error) {
	list, err := t.stack(ctx)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(list))
	for i, l := range list {
		ids[i] = l.id
	}
	return ids, nil
}

// readable returns the tree for the runner, read-only.
func (t *Tree) readable(ctx context.Context) (runner.Tree, error) {
	low, err := t.lowers(ctx)
	return runner.Tree{Lower: low}, err
}

// writable returns the tree for the runner with a fresh upper directory in tmp,
// called name.
func (t *Tree) writable(ctx context.Context, tmp, name string) (runner.Tree, error) {
	low, err := t.lowers(ctx)
	if err != nil {
		return runner.Tree{}, err
	}
	rt := runner.Tree{Lower: low, Upper: filepath.Join(tmp, name), Work: filepath.Join(tmp, "work")}
	for _, d := range []string{tmp, rt.Upper, rt.Work} {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return runner.Tree{}, fmt.Errorf("prepare a layer: %w", err)
		}
	}
	return rt, nil
}

// shortHash names things whose own names are not fit for paths.
func shortHash(parts ...string) string {
	h := cache.NewHasher("name")
	for _, p := range parts {
		h.String(p)
	}
	k := h.Sum()
	return hex.EncodeToString(k[:16])
}
