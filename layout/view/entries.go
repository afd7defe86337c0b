package view

import (
	"context"
	"errors"
	"fmt"
	"time"

	"bk.build/bk/layout/layer"
)

// Entries returns the merged tree of the image as one stream, which is what
// [layer.Pack] and [layer.Apply] take. It depends on the layers alone. First
// come the directories, sorted by path; then what has no content, sorted too;
// then regular files in the order of the layers, each with its other names right
// after it. The content of an entry is only valid until the next one is pulled.
//
// The layers are read twice: for the headers, and for the contents of what is
// left of them; a layer of which nothing is left is read once. The root (".") is
// among them when a layer names it.
func (m *Image) Entries(ctx context.Context) layer.Entries {
	return func(yield func(*layer.Entry, error) bool) {
		err := m.entries(ctx, func(e *layer.Entry) error {
			if !yield(e, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(nil, fmt.Errorf("export %s: %w", m.Descriptor.Digest, err))
		}
	}
}

// errStop says that nobody wants more.
var errStop = errors.New("stopped")

func (m *Image) entries(ctx context.Context, yield func(*layer.Entry) error) error {
	lists, err := m.scanAll(ctx)
	if err != nil {
		return err
	}
	t, err := merge(lists)
	if err != nil {
		return err
	}
	x := newExport(t)
	if err := x.headers(yield); err != nil {
		return err
	}
	for i := range lists {
		if err := x.contents(ctx, m, i, yield); err != nil {
			return err
		}
	}
	return nil
}

// export writes a tree.
type export struct {
	tree   *tree
	first  []uint32            // inode -> its first node; 0: none
	others map[uint32][]uint32 // inode -> the nodes after it
}

// newExport finds the names of every file, in the order of the tree.
func newExport(t *tree) *export {
	x := &export{tree: t, first: make([]uint32, len(t.inodes)), others: map[uint32][]uint32{}}
	for n := range t.all() {
		in := t.nodes[n].inode
		if x.first[in] == 0 {
			x.first[in] = n
		} else {
			x.others[in] = append(x.others[in], n)
		}
	}
	return x
}

// headers yields the directories and then all other files without content.
func (x *export) headers(yield func(*layer.Entry) error) error {
	for n, p := range x.tree.all() {
		if x.tree.rec(n).typ != layer.Directory || n == 0 && x.tree.inodes[x.tree.nodes[0].inode].record == implied {
			continue
		}
		if err := yield(x.tree.entry(n, p)); err != nil {
			return err
		}
	}
	for n, p := range x.tree.all() {
		r := x.tree.rec(n)
		if r.typ == layer.Directory || r.size > 0 || x.first[x.tree.nodes[n].inode] != n {
			continue
		}
		if err := x.names(n, x.tree.entry(n, p), yield); err != nil {
			return err
		}
	}
	return nil
}

// names yields an entry and its hard links.
func (x *export) names(n uint32, e *layer.Entry, yield func(*layer.Entry) error) error {
	if err := yield(e); err != nil {
		return err
	}
	for _, other := range x.others[x.tree.nodes[n].inode] {
		link := *e
		link.Path, link.Type, link.Link, link.Size, link.Content = x.tree.path(other), layer.Hardlink, e.Path, 0, nil
		if err := yield(&link); err != nil {
			return err
		}
	}
	return nil
}

// contents yields the regular files that are left of layer i.
func (x *export) contents(ctx context.Context, m *Image, i int, yield func(*layer.Entry) error) error {
	left := map[int]uint32{} // entry of the layer -> inode
	for in := range x.tree.inodes {
		f := &x.tree.inodes[in]
		if int(f.layer) == i && f.record != implied && x.first[in] != 0 && x.tree.inodeRecord(uint32(in)).size > 0 {
			left[int(f.record)] = uint32(in)
		}
	}
	if len(left) == 0 {
		return nil
	}
	_, err := m.stream(ctx, i, func(n int, e *layer.Entry) error {
		in, ok := left[n]
		if !ok {
			return nil
		}
		node := x.first[in]
		out := x.tree.entry(node, x.tree.path(node))
		if e.Type != layer.Regular || e.Size != out.Size {
			return fmt.Errorf("%q: %w", e.Path, layer.ErrChanged)
		}
		out.Content = e.Content
		return x.names(node, out, yield)
	})
	return err
}

// entry describes a node, without its content.
func (t *tree) entry(n uint32, p string) *layer.Entry {
	r := t.rec(n)
	e := &layer.Entry{
		Path: p, Type: r.typ, Mode: uint32(r.mode), UID: int(r.uid), GID: int(r.gid),
		ModTime: time.Unix(r.mtime, 0), Size: r.size,
	}
	if t.inodes[t.nodes[n].inode].record == implied {
		return e
	}
	l := t.listOf(n)
	e.Link = l.link(r)
	x := l.extras[r.extra]
	e.Xattrs, e.DevMajor, e.DevMinor = x.xattrs, x.major, x.minor
	return e
}
