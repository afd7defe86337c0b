package view

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"iter"
	"math"
	"path"
	"slices"
	"strings"

	"bk.build/bk/layout/layer"
)

// maxLinks bounds how many symbolic links are followed for one path, as Linux
// does.
const maxLinks = 40

// tree is the merged file tree of a stack of layers.
type tree struct {
	lists  []*list
	nodes  []node   // 0 is the root
	inodes []inode  // 0 is none
	slots  []uint32 // open addressing: (parent, name) -> node; 0: free
	seed   maphash.Seed

	alone   bool     // there are layers below that are not in it
	cur     uint16   // the layer that is being merged
	touched []uint32 // nodes that it touched
	stats   []layerStats
	waste   map[uint32]waste // by node
}

// node is a path that is or was there.
type node struct {
	parent, child, prev, next uint32 // children are those that are there
	name                      uint32 // where it begins in the text of its layer
	nameLen, nameLayer        uint16
	inode                     uint32 // 0: it is not there
	touched                   uint16 // layer+1 that touched it last
	layer                     uint16 // layer that wrote the path last
	was                       bool   // a file was there before that layer
}

// inode is a file, of which hard links share one.
type inode struct {
	record uint32 // in the list of its layer; implied: none
	links  uint32
	layer  uint16
}

// implied is the record of a directory that no layer names.
const implied = math.MaxUint32

var impliedDir = record{typ: layer.Directory, mode: 0o755}

// layerStats counts files, which is everything but directories.
type layerStats struct {
	added, changed, removed int
	wasted                  int64 // bytes of its files that later layers replace or remove
}

// waste is what was replaced or removed at one path.
type waste struct {
	count int
	bytes int64
}

// merge applies layers from the bottom up.
func merge(lists []*list) (*tree, error) {
	t := newTree(lists)
	for i := range lists {
		if err := t.apply(i); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return t, nil
}

// single is the tree of one layer alone. Its hard links to files of layers below
// are left as they are.
func single(l *list) (*tree, error) {
	t := newTree([]*list{l})
	t.alone = true
	return t, t.apply(0)
}

func newTree(lists []*list) *tree {
	t := &tree{
		lists: lists, nodes: make([]node, 1), inodes: make([]inode, 2), slots: make([]uint32, 64),
		seed: maphash.MakeSeed(), stats: make([]layerStats, len(lists)), waste: map[uint32]waste{},
	}
	t.inodes[1] = inode{record: implied, links: 1}
	t.nodes[0].inode = 1
	return t
}

// apply merges a layer. What it removes comes first: that is about the layers
// below alone.
func (t *tree) apply(i int) error {
	t.cur, t.touched = uint16(i), t.touched[:0]
	l := t.lists[i]
	for n := range l.records {
		if r := &l.records[n]; r.opaque || r.typ == layer.Whiteout {
			t.hide(l.path(r), r.opaque)
		}
	}
	for n := range l.records {
		r := &l.records[n]
		if r.typ == layer.Whiteout {
			continue
		}
		if err := t.put(l, uint32(n)); err != nil {
			return fmt.Errorf("%q: %w", l.path(r), err)
		}
	}
	t.count()
	return nil
}

// count adds up what the layer did to the paths that it touched.
func (t *tree) count() {
	s := &t.stats[t.cur]
	for _, n := range t.touched {
		switch is := t.isFile(n); {
		case is && !t.nodes[n].was:
			s.added++
		case is && t.nodes[n].layer == t.cur:
			s.changed++
		case !is && t.nodes[n].was:
			s.removed++
		}
	}
}

func (t *tree) isFile(n uint32) bool {
	return t.nodes[n].inode != 0 && t.rec(n).typ != layer.Directory
}

// touch notes what was at a node before the layer.
func (t *tree) touch(n uint32) {
	if t.nodes[n].touched == t.cur+1 {
		return
	}
	t.nodes[n].touched, t.nodes[n].was = t.cur+1, t.isFile(n)
	t.touched = append(t.touched, n)
}

// rec is the header of what is at a node.
func (t *tree) rec(n uint32) *record { return t.inodeRecord(t.nodes[n].inode) }

func (t *tree) inodeRecord(i uint32) *record {
	in := &t.inodes[i]
	if in.record == implied {
		return &impliedDir
	}
	return &t.lists[in.layer].records[in.record]
}

// listOf is the list that a node's header is in.
func (t *tree) listOf(n uint32) *list { return t.lists[t.inodes[t.nodes[n].inode].layer] }

func (t *tree) name(n uint32) string { return string(t.text(&t.nodes[n])) }

func (t *tree) text(x *node) []byte {
	return t.lists[x.nameLayer].text[x.name:][:x.nameLen]
}

// path is the path of a node; "." is the root's.
func (t *tree) path(n uint32) string {
	if n == 0 {
		return "."
	}
	var parts []string
	for ; n != 0; n = t.nodes[n].parent {
		parts = append(parts, t.name(n))
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// put makes what a record says.
func (t *tree) put(l *list, n uint32) error {
	r := &l.records[n]
	p := l.path(r)
	if p == "." {
		t.inodes[t.nodes[0].inode].links--
		t.nodes[0].inode = t.newInode(n)
		t.nodes[0].layer = t.cur
		return nil
	}
	parent, err := t.enter(0, path.Dir(p), r.path)
	if err != nil {
		return err
	}
	base := path.Base(p)
	if r.typ == layer.Hardlink {
		if linked, err := t.link(l, r, parent, base); linked || err != nil {
			return err
		}
	}
	x := t.make(parent, base, r.path+uint32(len(p)-len(base)))
	t.touch(x)
	old := t.nodes[x].inode != 0
	if old && (r.typ != layer.Directory || t.rec(x).typ != layer.Directory) {
		t.kill(x)
		old = false
	}
	if old {
		t.unlink(x)
	}
	t.set(x, t.newInode(n))
	return nil
}

// link makes a second name of a file. False: the file may be in a layer below.
func (t *tree) link(l *list, r *record, parent uint32, base string) (bool, error) {
	target := t.find(l.link(r))
	if target == 0 && t.alone {
		return false, nil
	}
	if target == 0 || t.rec(target).typ == layer.Directory {
		return false, fmt.Errorf("%w: hard link to %q, which is no file", layer.ErrInvalid, l.link(r))
	}
	x := t.make(parent, base, r.path+uint32(int(r.pathLen)-len(base)))
	if x == target {
		return true, nil
	}
	t.touch(x)
	in := t.nodes[target].inode
	if t.nodes[x].inode == in {
		t.nodes[x].layer = t.cur
		return true, nil
	}
	if t.nodes[x].inode != 0 {
		t.kill(x)
	}
	if t.nodes[target].inode == 0 {
		return false, fmt.Errorf("%w: hard link to %q, which is below it", layer.ErrInvalid, l.link(r))
	}
	t.inodes[in].links++
	t.set(x, in)
	return true, nil
}

func (t *tree) newInode(record uint32) uint32 {
	t.inodes = append(t.inodes, inode{record: record, links: 1, layer: t.cur})
	return uint32(len(t.inodes) - 1)
}

// set puts an inode at a node, which becomes one of its parent's children.
func (t *tree) set(n, in uint32) {
	x := &t.nodes[n]
	if x.inode == 0 {
		p := &t.nodes[x.parent]
		x.prev, x.next = 0, p.child
		if p.child != 0 {
			t.nodes[p.child].prev = n
		}
		p.child = n
	}
	x.inode, x.layer = in, t.cur
}

// unlink takes the inode from a node. Bytes that nothing leads to any more, and
// that another layer brought, are wasted.
func (t *tree) unlink(n uint32) {
	in := &t.inodes[t.nodes[n].inode]
	if in.links--; in.links > 0 || in.layer == t.cur || in.record == implied {
		return
	}
	size := t.lists[in.layer].records[in.record].size
	if size == 0 {
		return
	}
	t.stats[in.layer].wasted += size
	w := t.waste[n]
	t.waste[n] = waste{w.count + 1, w.bytes + size}
}

// kill removes a node and what is below it.
func (t *tree) kill(n uint32) {
	t.empty(n)
	t.touch(n)
	t.unlink(n)
	x := &t.nodes[n]
	if x.prev != 0 {
		t.nodes[x.prev].next = x.next
	} else {
		t.nodes[x.parent].child = x.next
	}
	if x.next != 0 {
		t.nodes[x.next].prev = x.prev
	}
	x.prev, x.next, x.inode = 0, 0, 0
}

// empty removes what is below a node. The depth is bounded by that of paths.
func (t *tree) empty(n uint32) {
	for t.nodes[n].child != 0 {
		t.kill(t.nodes[n].child)
	}
}

// hide removes what the layers below have at a path, or below it. No link is
// followed: the layer itself has made none yet.
func (t *tree) hide(p string, below bool) {
	n := uint32(0)
	if p != "." {
		for name := range strings.SplitSeq(p, "/") {
			if n = t.child(n, name); n == 0 || t.nodes[n].inode == 0 {
				return
			}
		}
	}
	if below {
		t.empty(n)
	} else if n != 0 {
		t.kill(n)
	}
}

// enter returns the directory p below the node from and makes what is missing.
// text is where p begins in the text of the current layer.
func (t *tree) enter(from uint32, p string, text uint32) (uint32, error) {
	w := walk{t: t, make: true, text: text}
	return w.dir(from, p)
}

// find returns the node at a path, as the current layer sees it: links of its
// own are followed, but not at the end. 0: there is none.
func (t *tree) find(p string) uint32 {
	if p == "." {
		return 0
	}
	w := walk{t: t}
	parent, err := w.dir(0, path.Dir(p))
	if err != nil {
		return 0
	}
	n := t.child(parent, path.Base(p))
	if n == 0 || t.nodes[n].inode == 0 {
		return 0
	}
	return n
}

// walk goes along one path.
type walk struct {
	t     *tree
	make  bool   // missing directories are made
	text  uint32 // where the path begins in the current layer's text
	links int
}

var errNoDir = fmt.Errorf("%w: no such directory", layer.ErrInvalid)

// dir goes from a directory along p.
func (w *walk) dir(n uint32, p string) (uint32, error) {
	if p == "." {
		return n, nil
	}
	t := w.t
	at := w.text
	for name := range strings.SplitSeq(p, "/") {
		start := at
		at += uint32(len(name)) + 1
		switch name {
		case "", ".":
			continue
		case "..":
			n = t.nodes[n].parent
			continue
		}
		c := t.child(n, name)
		switch {
		case c == 0 || t.nodes[c].inode == 0:
			if !w.make {
				return 0, errNoDir
			}
			c = t.mkdir(n, name, start)
		case t.rec(c).typ == layer.Directory:
		case t.rec(c).typ == layer.Symlink && t.nodes[c].layer == t.cur && t.inodes[t.nodes[c].inode].layer == t.cur:
			var err error
			if c, err = w.follow(n, c); err != nil {
				return 0, err
			}
		case !w.make:
			return 0, errNoDir
		default:
			t.touch(c)
			t.kill(c)
			c = t.mkdir(n, name, start)
		}
		n = c
	}
	return n, nil
}

// follow goes to where the link c in the directory n leads.
func (w *walk) follow(n, c uint32) (uint32, error) {
	if w.links++; w.links > maxLinks {
		return 0, fmt.Errorf("%w: more than %d symbolic links", layer.ErrInvalid, maxLinks)
	}
	t := w.t
	r := t.rec(c)
	target := t.listOf(c).link(r)
	if strings.HasPrefix(target, "/") {
		n = 0
	}
	old := w.text
	w.text = r.link
	defer func() { w.text = old }()
	return w.dir(n, target)
}

// mkdir makes a directory that the layer implies.
func (t *tree) mkdir(parent uint32, name string, text uint32) uint32 {
	n := t.make(parent, name, text)
	t.touch(n)
	t.set(n, t.newInode(implied))
	return n
}

// make returns the node of a name, which may be one that is not there.
func (t *tree) make(parent uint32, name string, text uint32) uint32 {
	if n := t.child(parent, name); n != 0 {
		return n
	}
	n := uint32(len(t.nodes))
	t.nodes = append(t.nodes, node{parent: parent, name: text, nameLen: uint16(len(name)), nameLayer: t.cur})
	if len(t.nodes)*4 > len(t.slots)*3 {
		t.grow()
	} else {
		t.slots[t.slot(parent, name)] = n
	}
	return n
}

// child returns the node of a name in a directory, 0 when there never was one.
func (t *tree) child(parent uint32, name string) uint32 { return t.slots[t.slot(parent, name)] }

// slot returns where a name is in the table, or belongs.
func (t *tree) slot(parent uint32, name string) uint64 {
	mask := uint64(len(t.slots) - 1)
	h := maphash.String(t.seed, name) + uint64(parent)*0x9e3779b97f4a7c15
	h ^= h >> 32
	for i := h & mask; ; i = (i + 1) & mask {
		n := t.slots[i]
		if n == 0 {
			return i
		}
		if x := &t.nodes[n]; x.parent == parent && string(t.text(x)) == name {
			return i
		}
	}
}

// grow doubles the table.
func (t *tree) grow() {
	t.slots = make([]uint32, 2*len(t.slots))
	for n := 1; n < len(t.nodes); n++ {
		t.slots[t.slot(t.nodes[n].parent, t.name(uint32(n)))] = uint32(n)
	}
}

// children returns what is in a directory, in bytewise order of the names.
func (t *tree) children(n uint32) []uint32 {
	var list []uint32
	for c := t.nodes[n].child; c != 0; c = t.nodes[c].next {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b uint32) int { return bytes.Compare(t.text(&t.nodes[a]), t.text(&t.nodes[b])) })
	return list
}

// all yields the nodes that are there with their paths, parents first, sorted
// by name within each directory.
func (t *tree) all() iter.Seq2[uint32, string] {
	return func(yield func(uint32, string) bool) { t.below(0, ".", yield) }
}

func (t *tree) below(n uint32, p string, yield func(uint32, string) bool) bool {
	if !yield(n, p) {
		return false
	}
	for _, c := range t.children(n) {
		if !t.below(c, join(p, t.name(c)), yield) {
			return false
		}
	}
	return true
}

// join appends a name to a path of a tree.
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}
