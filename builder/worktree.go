package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"bk.build/bk/layout/layer"
)

// workTree is a root of steps where layers can't be mounted: a directory with
// all files of a stack of layers. What a step does to it becomes a layer by
// comparing it with its index, and the next step of the stage goes on with it.
type workTree struct {
	dir   string // in the store's tmp: root, and what is aside of it
	index *layer.Index
	stack []string // the unpacked layers that it consists of, the lowest first
	// spoiled tells that root may differ from the stack, so that nobody may
	// take it again.
	spoiled bool
}

func (w *workTree) root() string  { return filepath.Join(w.dir, "root") }
func (w *workTree) aside() string { return filepath.Join(w.dir, "aside") }

// workTrees are those of a build that no step uses.
type workTrees struct {
	mu     sync.Mutex
	free   []*workTree // used last at the end
	remove sync.WaitGroup
}

// maxWorkTrees bounds how many are kept: each is as large as its layers.
const maxWorkTrees = 4

// take returns the tree that needs the fewest layers to become the stack, and
// removes it from the list; nil when none is of its lower layers.
func (s *workTrees) take(stack []string) *workTree {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := -1
	for i, w := range s.free {
		fits := len(w.stack) <= len(stack) && slices.Equal(w.stack, stack[:len(w.stack)])
		if fits && (best < 0 || len(w.stack) >= len(s.free[best].stack)) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	w := s.free[best]
	s.free = slices.Delete(s.free, best, best+1)
	return w
}

// put gives a tree back.
func (s *workTrees) put(w *workTree) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := w
	if !w.spoiled {
		s.free = append(s.free, w)
		gone = nil
		if len(s.free) > maxWorkTrees {
			gone = s.free[0]
			s.free = s.free[1:]
		}
	}
	if gone != nil {
		s.remove.Go(func() { os.RemoveAll(gone.dir) })
	}
}

// close waits until no tree is being removed any more.
func (s *workTrees) close() { s.remove.Wait() }

// workTree returns a directory with the files of t, for the caller alone, who
// gives it back.
func (b *build) workTree(ctx context.Context, t *Tree) (*workTree, error) {
	stack, err := t.lowers(ctx)
	if err != nil {
		return nil, err
	}
	stack = slices.Clone(stack)
	slices.Reverse(stack)
	w := b.workTrees.take(stack)
	if w == nil {
		if w, err = b.newWorkTree(); err != nil {
			return nil, err
		}
	}
	if err := w.extend(ctx, stack); err != nil {
		w.spoiled = true
		b.workTrees.put(w)
		return nil, fmt.Errorf("copy the files of a step: %w", err)
	}
	return w, nil
}

func (b *build) newWorkTree() (*workTree, error) {
	dir, err := b.tmp.mkdir("work")
	if err != nil {
		return nil, err
	}
	w := &workTree{dir: dir}
	return w, errors.Join(os.Mkdir(w.root(), 0o755), os.Mkdir(w.aside(), 0o700), os.Chmod(w.root(), 0o755))
}

// extend applies the layers of the stack that are missing.
func (w *workTree) extend(ctx context.Context, stack []string) (err error) {
	more := stack[len(w.stack):]
	for _, dir := range more {
		if _, err := layer.Apply(ctx, layer.Walk(dir), w.root(), layer.ApplyOptions{Merged: true}); err != nil {
			return err
		}
	}
	if w.index == nil || len(more) > 0 {
		w.index, err = layer.NewIndex(ctx, w.root())
	}
	w.stack = slices.Clone(stack)
	return err
}

// writeLayer writes what was done to the tree as an unpacked layer.
func (w *workTree) writeLayer(ctx context.Context, dir string) error {
	_, err := layer.Apply(ctx, w.index.Changes(ctx), dir, layer.ApplyOptions{})
	w.spoiled = w.spoiled || err != nil || !w.index.Exact()
	return err
}
