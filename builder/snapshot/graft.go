package snapshot

import (
	"context"

	"bk.build/bk/layout/layer"
)

// whole is all that is below a directory of a tree that is in memory anyway. It
// is listed each time it is needed, instead of once into items, which would take
// a multiple of the memory.
type whole struct {
	sel  *selector
	path string
}

// wholeOf returns the whole of a directory at p that a copy takes without any
// patterns; nil where items have to say what is taken, or where listing it again
// would mean to read it again.
func (s *selector) wholeOf(p string, root child) *whole {
	if _, ours := s.src.(lister); ours || s.include != nil || s.exclude != nil || root.ent.Type != layer.Directory {
		return nil
	}
	return &whole{s, p}
}

// pick selects the root at p and what is below.
func (s *selector) pick(p string, root child) (*item, error) {
	if w := s.wholeOf(p, root); w != nil {
		return &item{child: root, include: true, whole: w}, nil
	}
	return s.visit(p, "", root, matches{})
}

// expand makes items of what is below it.
func (it *item) expand() error {
	if it.whole == nil {
		return nil
	}
	full, err := it.whole.sel.visit(it.whole.path, "", it.child, matches{})
	if err != nil {
		return err
	}
	it.kids, it.whole = full.kids, nil
	return nil
}

// graft is a copied directory of which the files have not become nodes: nobody
// has looked at one of them since.
type graft struct {
	c    copier
	from *item // a whole
	at   *node
	path string
}

// graft makes n, at p and empty, show what is below it.
func (c *copier) graft(it *item, n *node, p string) error {
	g := &graft{c: *c, from: it, at: n, path: p}
	g.c.ctx = context.WithoutCancel(c.ctx)
	g.c.links = map[any]*file{}
	sel := *it.whole.sel
	sel.ctx = g.c.ctx
	g.from = &item{child: it.child, include: true, whole: &whole{&sel, it.whole.path}}
	if err := c.checkBelow(sel.src, it.whole.path, p); err != nil {
		return err
	}
	n.graft = g
	c.e.grafts = append(c.e.grafts, g)
	return nil
}

// checkBelow refuses what can't be copied from the directory dir to the one at
// p.
func (c *copier) checkBelow(src FS, dir, p string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	kids, err := children(src, dir)
	if err != nil {
		return err
	}
	for _, k := range kids {
		if err := checkNew(k.name, p, len(p)+1+len(k.name)); err != nil {
			return err
		}
		if k.ent.Type == layer.Directory {
			if err := c.checkBelow(src, join(dir, k.name), join(p, k.name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle makes nodes of all grafts: something is to be seen or changed in them.
// The caller holds the lock.
func (e *Editor) settle() error {
	for len(e.grafts) > 0 && e.err == nil {
		g := e.grafts[0]
		if e.err = g.settle(); e.err == nil {
			e.grafts = e.grafts[1:]
		}
	}
	return e.err
}

func (g *graft) settle() error {
	if err := g.from.expand(); err != nil {
		return err
	}
	g.at.graft = nil
	return g.c.copyKids(g.from, g.at, g.path)
}

// rlock locks the editor for reading.
func (e *Editor) rlock() error {
	e.mu.RLock()
	if len(e.grafts) == 0 && e.err == nil {
		return nil
	}
	e.mu.RUnlock()
	e.mu.Lock()
	err := e.settle()
	e.mu.Unlock()
	e.mu.RLock()
	return err
}

// emit yields what is below the graft.
func (g *graft) emit(o *emitter) bool {
	return g.emitKids(o, map[any]string{}, g.from.whole.path, g.path)
}

// emitKids yields what is in the directory from of the source, for the one at p.
func (g *graft) emitKids(o *emitter, first map[any]string, from, p string) bool {
	src := g.from.whole.sel.src
	kids, err := children(src, from)
	if err != nil {
		o.yield(nil, err)
		return false
	}
	for _, k := range kids {
		f := newFile(k.ent)
		g.c.setInfo(f, k.ent)
		ent := &f.ent
		ent.Path = join(p, k.name)
		if k.ino != nil {
			if target, ok := first[k.ino]; ok {
				ent = hardlink(ent, target)
			} else {
				first[k.ino] = ent.Path
			}
		}
		if !o.send(ent) {
			return false
		}
		if ent.Type == layer.Directory && !g.emitKids(o, first, join(from, k.name), ent.Path) {
			return false
		}
	}
	return true
}

// Layer returns the entries in a form that may be read any number of times, by
// several goroutines, as long as nobody changes the editor.
func (e *Editor) Layer() (layer.Entries, error) {
	if len(e.grafts) > 0 {
		return e.Entries(), nil
	}
	var list []*layer.Entry
	for ent, err := range e.Entries() {
		if err != nil {
			return nil, err
		}
		list = append(list, ent)
	}
	return func(yield func(*layer.Entry, error) bool) {
		for _, ent := range list {
			if !yield(ent, nil) {
				return
			}
		}
	}, nil
}
