package snapshot

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"bk.build/bk/layout/layer"
)

// An Editor collects the changes that file operations make to a tree, as the
// entries of one new layer. It only reads the tree below; contents are
// referred to, never copied. It is an [FS] and a [Linker] that shows the tree
// with the changes made so far, and safe for concurrent use.
//
// The operations do what BuildKit's do on a mounted tree, with two exceptions
// that make a layer depend on its inputs alone: a directory's time doesn't
// change because something in it does, and what is created without a time gets
// [Editor.Now]. Names that start with ".wh." are refused, for in a packed layer
// they would remove files.
type Editor struct {
	// Now is the time of what is created and has no time of its own. Zero
	// means the time at which it is created.
	Now time.Time
	// Temp is the directory that takes the contents of archives that Copy
	// unpacks. Files in it are in use as long as the entries are; the owner
	// of the directory removes them. Empty: archives are refused.
	Temp string

	base   FS
	mu     sync.RWMutex
	root   *node
	grafts []*graft // whose files are no nodes yet
	err    error    // of a graft that couldn't be made nodes
}

// node is a path about which the layer says something.
type node struct {
	*file
	kids  map[string]*node // of a directory; nil values are removed names
	merge bool             // names that aren't in kids are as in the base
	own   bool             // the layer sets the attributes, not only those of paths below
	graft *graft           // what is in it instead of kids
}

// file is what a node stands for; hard links share it.
type file struct {
	ent   layer.Entry // without Path
	names int         // how many names it ever had
}

// NewEditor returns an Editor without changes to base.
func NewEditor(base FS) *Editor { return &Editor{base: base} }

// Clone returns an editor with the same base and changes; from here on the two
// are independent.
func (e *Editor) Clone() *Editor {
	err := e.rlock()
	defer e.mu.RUnlock()
	files := map[*file]*file{}
	return &Editor{Now: e.Now, Temp: e.Temp, base: e.base, root: e.root.clone(files), err: err}
}

func (n *node) clone(files map[*file]*file) *node {
	if n == nil {
		return nil
	}
	c := *n
	if c.file = files[n.file]; c.file == nil {
		f := *n.file
		c.file = &f
		if f.names > 1 {
			files[n.file] = c.file
		}
	}
	c.kids = nil
	for name, k := range n.kids {
		c.set(name, k.clone(files))
	}
	return &c
}

func (n *node) isDir() bool { return n.ent.Type == layer.Directory }

func (n *node) set(name string, k *node) {
	if n.kids == nil {
		n.kids = map[string]*node{}
	}
	n.kids[name] = k
}

// Lstat implements [FS].
func (e *Editor) Lstat(p string) (*layer.Entry, error) {
	err := e.rlock()
	defer e.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	n, ent, err := e.find(p)
	if n != nil {
		return n.entry(p), nil
	}
	return ent, err
}

// Inode implements [Linker].
func (e *Editor) Inode(p string) any {
	err := e.rlock()
	defer e.mu.RUnlock()
	if err != nil {
		return nil
	}
	n, ent, err := e.find(p)
	switch {
	case err != nil:
		return nil
	case n != nil:
		return n.inode()
	case ent.Type == layer.Regular:
		if l, ok := e.base.(Linker); ok {
			return l.Inode(p)
		}
	}
	return nil
}

func (n *node) inode() any {
	if n.names > 1 && n.ent.Type == layer.Regular {
		return n.file
	}
	return nil
}

// entry returns what n stands for as the entry at p.
func (n *node) entry(p string) *layer.Entry {
	ent := n.ent
	ent.Path = p
	return &ent
}

// ReadDir implements [FS].
func (e *Editor) ReadDir(p string) ([]string, error) {
	kids, err := e.children(p)
	names := make([]string, len(kids))
	for i := range kids {
		names[i] = kids[i].name
	}
	return names, err
}

// children implements lister.
func (e *Editor) children(p string) ([]child, error) {
	err := e.rlock()
	defer e.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	n, ent, err := e.find(p)
	switch {
	case err != nil:
		return nil, err
	case n == nil && ent.Type == layer.Directory:
		return children(e.base, p)
	case n == nil || !n.isDir():
		return nil, notDir("readdir", p)
	}
	return e.merged(n, p)
}

// merged returns the names of a directory that has changes.
func (e *Editor) merged(n *node, p string) ([]child, error) {
	kids := make([]child, 0, len(n.kids))
	if n.merge {
		below, err := children(e.base, p)
		if err != nil {
			return nil, err
		}
		for _, c := range below {
			if _, changed := n.kids[c.name]; !changed {
				kids = append(kids, c)
			}
		}
	}
	for name, k := range n.kids {
		if k != nil {
			kids = append(kids, child{name: name, ent: k.entry(join(p, name)), ino: k.inode()})
		}
	}
	slices.SortFunc(kids, func(a, b child) int { return strings.Compare(a.name, b.name) })
	return kids, nil
}

// find returns what is at p: a node when the layer says something about it,
// otherwise the base's entry.
func (e *Editor) find(p string) (*node, *layer.Entry, error) {
	n := e.root
	if n == nil {
		ent, err := e.base.Lstat(p)
		return nil, ent, err
	}
	for rest := p; rest != "" && rest != "."; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		k, changed := n.kids[name]
		if !changed && n.merge {
			ent, err := e.base.Lstat(p)
			return nil, ent, err
		}
		if k == nil {
			return nil, nil, notExist("lstat", p)
		}
		n = k
	}
	return n, nil, nil
}

// pull returns the node at p, which must exist; it and its parents become
// nodes when they weren't.
func (e *Editor) pull(p string) (*node, error) {
	if e.root == nil {
		ent, err := e.base.Lstat(".")
		if err != nil {
			return nil, err
		}
		e.root = fromBase(ent)
	}
	n := e.root
	for at, end := "", 0; p != "." && at != p; end++ {
		name, _, _ := strings.Cut(p[end:], "/")
		end += len(name)
		at = p[:end]
		k, err := e.kid(n, at, name)
		if err != nil {
			return nil, err
		}
		if k == nil {
			return nil, notExist("lstat", p)
		}
		n = k
	}
	return n, nil
}

// kid returns the node of a name in n, made from the base when it is there;
// nil when there is no such name. p is the name's path.
func (e *Editor) kid(n *node, p, name string) (*node, error) {
	if k, changed := n.kids[name]; changed || !n.merge {
		return k, nil
	}
	ent, err := e.base.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k := fromBase(ent)
	n.set(name, k)
	return k, nil
}

func fromBase(ent *layer.Entry) *node {
	return &node{file: newFile(ent), merge: ent.Type == layer.Directory}
}

func newFile(ent *layer.Entry) *file {
	f := &file{ent: *ent, names: 1}
	f.ent.Path, f.ent.Opaque, f.ent.Xattrs = "", false, ownXattrs(ent.Xattrs)
	return f
}

// remove takes the name at p and all below it away, if it is there.
func (e *Editor) remove(p string) error {
	dir, name := split(p)
	n, err := e.pull(dir)
	if err != nil {
		return err
	}
	n.remove(name)
	return nil
}

func (n *node) remove(name string) {
	if n.merge {
		n.set(name, nil)
	} else {
		delete(n.kids, name)
	}
}

// Entries returns the layer: what was created, changed and removed, and the
// directories on the way there with the attributes they have in the base. It
// is empty when nothing changed. The editor must not be used meanwhile.
func (e *Editor) Entries() layer.Entries {
	return func(yield func(*layer.Entry, error) bool) {
		if e.root == nil {
			return
		}
		out := emitter{base: e.base, yield: yield, first: map[*file]string{}}
		out.emit(e.root, ".", true)
	}
}

// emitter turns nodes into entries.
type emitter struct {
	base   FS
	yield  func(*layer.Entry, error) bool
	first  map[*file]string // of hard links
	parent []*layer.Entry   // directories that wait for something to be changed below them
}

// emit yields the node at p and what is below; visible says that the base may
// have something there. It returns false when the stream has ended.
func (o *emitter) emit(n *node, p string, visible bool) bool {
	ent := n.entry(p)
	if n.isDir() {
		return o.emitDir(n, ent, visible)
	}
	if !n.own {
		return true
	}
	if n.names > 1 {
		if target, ok := o.first[n.file]; ok {
			ent = hardlink(ent, target)
		} else {
			o.first[n.file] = p
		}
	}
	return o.send(ent)
}

func (o *emitter) emitDir(n *node, ent *layer.Entry, visible bool) bool {
	if visible && !n.merge {
		below, err := o.base.Lstat(ent.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			o.yield(nil, err)
			return false
		}
		ent.Opaque = err == nil && below.Type == layer.Directory
	}
	if n.own {
		if !o.send(ent) {
			return false
		}
	} else {
		o.parent = append(o.parent, ent)
		defer func() {
			if len(o.parent) > 0 {
				o.parent = o.parent[:len(o.parent)-1]
			}
		}()
	}
	if n.graft != nil {
		return n.graft.emit(o)
	}
	for _, name := range slices.Sorted(maps.Keys(n.kids)) {
		if !o.emitKid(n.kids[name], join(ent.Path, name), visible && n.merge) {
			return false
		}
	}
	return true
}

func (o *emitter) emitKid(k *node, p string, visible bool) bool {
	if k != nil {
		return o.emit(k, p, visible)
	}
	_, err := o.base.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		o.yield(nil, err)
		return false
	}
	return o.send(&layer.Entry{Path: p, Type: layer.Whiteout})
}

// send yields an entry after the parents that wait for it.
func (o *emitter) send(ent *layer.Entry) bool {
	for _, dir := range o.parent {
		if !o.yield(dir, nil) {
			return false
		}
	}
	o.parent = o.parent[:0]
	return o.yield(ent, nil)
}
