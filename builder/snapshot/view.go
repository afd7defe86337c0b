package snapshot

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"bk.build/bk/layout/layer"
)

// Layer is one layer of a [View]: an unpacked directory ([DirLayer]) or
// planned entries in memory ([PlanLayer]).
type Layer struct{ src source }

// source is how a View reads one layer.
type source interface {
	// open gives access to a directory of the layer. It is called only for
	// paths that stat called a Directory.
	open(dir string) (dirReader, error)
}

// dirReader is one open directory of one layer.
type dirReader interface {
	names() ([]string, error)
	// stat returns what the layer itself has under a name; an error that is
	// fs.ErrNotExist when it says nothing.
	stat(name string) (found, error)
	close()
}

// found is what one layer has at a path: a Whiteout too.
type found struct {
	ent *layer.Entry
	ino any // as Linker.Inode
	// implied directories lead to entries of the layer, which itself doesn't
	// say what they are like.
	implied bool
}

// A View is the merged tree of a stack of layers, as overlayfs shows it:
// upper names hide lower ones, directories of one name are merged, whiteouts
// and opaque directories hide what is below them. It reads directories when
// they are asked for, each once; the layers must not change meanwhile. A View
// is an [FS] and a [Linker].
//
// Unlike overlayfs, which merges the roots of all layers whatever they say, a
// View lets an opaque root hide all layers below.
type View struct {
	layers []source // topmost first
	mu     sync.Mutex
	root   *viewNode // nil until loaded
}

// viewNode is a merged path.
type viewNode struct {
	ent   *layer.Entry
	ino   any
	dirs  []source // of a directory: the layers that have it, topmost first
	kids  map[string]*viewNode
	names []string // all of kids that exist, once listed
	all   bool     // names is valid and kids is complete
}

// NewView returns the merged tree of layers, the bottom first. Without layers
// it has an empty root.
func NewView(layers ...Layer) *View {
	v := &View{}
	for _, l := range slices.Backward(layers) {
		v.layers = append(v.layers, l.src)
	}
	return v
}

// Lstat implements [FS].
func (v *View) Lstat(p string) (*layer.Entry, error) {
	n, err := v.find("lstat", p)
	if err != nil {
		return nil, err
	}
	return n.ent, nil
}

// Inode implements [Linker].
func (v *View) Inode(p string) any {
	n, err := v.find("lstat", p)
	if err != nil {
		return nil
	}
	return n.ino
}

// ReadDir implements [FS].
func (v *View) ReadDir(p string) ([]string, error) {
	n, err := v.list(p)
	if err != nil {
		return nil, err
	}
	return slices.Clone(n.names), nil
}

// children implements lister.
func (v *View) children(p string) ([]child, error) {
	n, err := v.list(p)
	if err != nil {
		return nil, err
	}
	kids := make([]child, len(n.names))
	for i, name := range n.names {
		k := n.kids[name]
		kids[i] = child{name: name, ent: k.ent, ino: k.ino}
	}
	return kids, nil
}

// list returns the directory at p with all its names loaded; such a node
// doesn't change any more.
func (v *View) list(p string) (*viewNode, error) {
	n, err := v.find("readdir", p)
	if err != nil {
		return nil, err
	}
	if n.ent.Type != layer.Directory {
		return nil, notDir("readdir", p)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return n, v.loadAll(n)
}

// find returns the node at p.
func (v *View) find(op, p string) (*viewNode, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.loadRoot()
	if err != nil {
		return nil, err
	}
	for rest := p; rest != "" && rest != "."; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if n, err = v.kid(n, name); err != nil {
			return nil, err
		}
		if n == nil {
			return nil, notExist(op, p)
		}
	}
	return n, nil
}

// kid returns the node of a name in n, nil when there is none.
func (v *View) kid(n *viewNode, name string) (*viewNode, error) {
	if k, ok := n.kids[name]; ok || n.all || n.ent.Type != layer.Directory {
		return k, nil
	}
	m := merger{path: join(n.ent.Path, name)}
	for _, src := range n.dirs {
		if err := m.addName(src, n.ent.Path, name); err != nil {
			return nil, err
		}
		if m.done {
			break
		}
	}
	k := m.node()
	n.set(name, k)
	return k, nil
}

func (n *viewNode) set(name string, k *viewNode) {
	if n.kids == nil {
		n.kids = map[string]*viewNode{}
	}
	n.kids[name] = k
}

// loadAll reads all names of a directory.
func (v *View) loadAll(n *viewNode) error {
	if n.all {
		return nil
	}
	merge := map[string]*merger{}
	for _, src := range n.dirs {
		if err := addDir(merge, src, n.ent.Path); err != nil {
			return err
		}
	}
	kids := make(map[string]*viewNode, len(merge))
	names := make([]string, 0, len(merge))
	for name, m := range merge {
		k := n.kids[name] // keep the nodes that were handed out
		if k == nil {
			k = m.node()
		}
		if k != nil {
			kids[name] = k
			names = append(names, name)
		}
	}
	slices.Sort(names)
	n.kids, n.names, n.all = kids, names, true
	return nil
}

// addDir adds one layer's names of a directory to those of the layers above.
func addDir(merge map[string]*merger, src source, dir string) error {
	d, err := src.open(dir)
	if err != nil {
		return err
	}
	defer d.close()
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		m := merge[name]
		if m == nil {
			m = &merger{path: join(dir, name)}
			merge[name] = m
		}
		if m.done {
			continue
		}
		f, err := d.stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		m.add(src, f)
	}
	return nil
}

// loadRoot merges the roots of all layers.
func (v *View) loadRoot() (*viewNode, error) {
	if v.root != nil {
		return v.root, nil
	}
	m := merger{path: "."}
	for _, src := range v.layers {
		if err := m.addName(src, ".", "."); err != nil {
			return nil, err
		}
		if m.done {
			break
		}
	}
	v.root = m.node()
	if v.root == nil {
		v.root = &viewNode{ent: emptyRoot()}
	}
	return v.root, nil
}

// merger decides what a path is, asked of the layers from the topmost down.
type merger struct {
	path string
	top  found    // what is shown; ent nil: nothing so far
	dirs []source // the directories to merge
	done bool     // lower layers don't matter
}

// addName asks one layer for a name in a directory that the layer has.
func (m *merger) addName(src source, dir, name string) error {
	f, err := look(src, dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	m.add(src, f)
	return nil
}

// add takes the next lower layer's answer.
func (m *merger) add(src source, f found) {
	isDir := f.ent.Type == layer.Directory
	switch {
	case m.top.ent == nil:
		m.top = f
	case !isDir:
		m.done = true
		return
	case m.top.implied:
		m.top.ent, m.top.implied = f.ent, f.implied
	}
	if isDir {
		m.dirs = append(m.dirs, src)
	}
	m.done = !isDir || f.ent.Opaque
}

// node returns the merged path; nil when there is nothing.
func (m *merger) node() *viewNode {
	ent := m.top.ent
	if ent == nil || ent.Type == layer.Whiteout {
		return nil
	}
	if ent.Opaque {
		e := *ent
		e.Opaque = false
		ent = &e
	}
	return &viewNode{ent: ent, ino: m.top.ino, dirs: m.dirs}
}
