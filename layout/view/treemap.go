package view

import (
	"cmp"
	"math"
	"slices"

	"bk.build/bk/layout/layer"
)

// The picture's measures, in its own units: about pixels.
const (
	mapWidth  = 1200
	mapHeight = 720
	mapHead   = 15  // height of a directory's name
	mapGap    = 1.5 // around what is in a directory
	minArea   = 90  // of a box; smaller ones are one together
	minSide   = 2.5 // of a box that is drawn
)

// box is a rectangle of the treemap: a file, a directory, or what is too small
// in a directory.
type box struct {
	X, Y, W, H float64
	Path       string
	Bytes      int64
	Files      int // in a directory or in what is too small
	Layer      int // that brought the file; -1: a directory
	Rest       bool
}

// mapper lays the tree out.
type mapper struct {
	tree  *tree
	bytes []int64 // by node, with what is below
	files []int32
	scale float64 // area of a byte at the top
	boxes []box
}

// treemap lays the files of a tree out, a directory as a box around its own. The
// area of a file is its share of the bytes; hard links count once.
func (t *tree) treemap() []box {
	m := &mapper{tree: t, bytes: make([]int64, len(t.nodes)), files: make([]int32, len(t.nodes))}
	counted := map[uint32]bool{}
	// A node's parent is before it.
	for n := len(t.nodes) - 1; n >= 0; n-- {
		x := &t.nodes[n]
		if x.inode == 0 {
			continue
		}
		if r := t.rec(uint32(n)); r.typ != layer.Directory {
			m.files[n]++
			if t.inodes[x.inode].links == 1 || !counted[x.inode] {
				m.bytes[n] = r.size
			}
			counted[x.inode] = counted[x.inode] || t.inodes[x.inode].links > 1
		}
		if n > 0 {
			m.bytes[x.parent] += m.bytes[n]
			m.files[x.parent] += m.files[n]
		}
	}
	if m.bytes[0] > 0 {
		m.scale = mapWidth * mapHeight / float64(m.bytes[0])
		m.dir(0, "/", rect{0, 0, mapWidth, mapHeight})
	}
	return m.boxes
}

type rect struct{ x, y, w, h float64 }

func (r rect) visible() bool { return r.w >= minSide && r.h >= minSide }

// dir draws a directory and what is in it.
func (m *mapper) dir(n uint32, p string, r rect) {
	m.boxes = append(m.boxes, box{X: r.x, Y: r.y, W: r.w, H: r.h, Path: p, Bytes: m.bytes[n], Files: int(m.files[n]), Layer: -1})
	in := rect{r.x + mapGap, r.y + mapGap, r.w - 2*mapGap, r.h - 2*mapGap}
	if in.h > 2.5*mapHead && in.w > 30 {
		in.y, in.h = in.y+mapHead, in.h-mapHead
	}
	if !in.visible() {
		return
	}
	items, rest := m.items(n, in)
	areas := make([]float64, 0, len(items)+1)
	for _, c := range items {
		areas = append(areas, float64(m.bytes[c]))
	}
	if rest.Bytes > 0 {
		areas = append(areas, float64(rest.Bytes))
	}
	for i, r := range squarify(areas, in) {
		switch {
		case !r.visible():
		case i == len(items):
			rest.X, rest.Y, rest.W, rest.H, rest.Path = r.x, r.y, r.w, r.h, p
			m.boxes = append(m.boxes, rest)
		default:
			m.item(items[i], p, r)
		}
	}
}

// item draws a file or a directory.
func (m *mapper) item(n uint32, dir string, r rect) {
	p := dir + m.tree.name(n)
	if m.tree.rec(n).typ == layer.Directory {
		m.dir(n, p+"/", r)
		return
	}
	by := int(m.tree.inodes[m.tree.nodes[n].inode].layer)
	m.boxes = append(m.boxes, box{X: r.x, Y: r.y, W: r.w, H: r.h, Path: p, Bytes: m.bytes[n], Layer: by})
}

// items returns what is in a directory, the largest first, and what is too small
// to be drawn in the space that there is.
func (m *mapper) items(n uint32, in rect) (items []uint32, rest box) {
	if m.bytes[n] == 0 {
		return nil, rest
	}
	scale := in.w * in.h / float64(m.bytes[n])
	rest = box{Layer: -1, Rest: true}
	for c := m.tree.nodes[n].child; c != 0; c = m.tree.nodes[c].next {
		switch {
		case m.bytes[c] == 0:
		case float64(m.bytes[c])*scale < minArea:
			rest.Bytes += m.bytes[c]
			rest.Files += int(m.files[c])
		default:
			items = append(items, c)
		}
	}
	slices.SortFunc(items, func(a, b uint32) int {
		return cmp.Or(cmp.Compare(m.bytes[b], m.bytes[a]), cmp.Compare(m.tree.name(a), m.tree.name(b)))
	})
	return items, rest
}

// squarify divides a rectangle into parts of the given sizes, in rows along the
// shorter side, so that the parts are about as wide as high (Bruls, Huizing and
// van Wijk, "Squarified Treemaps").
func squarify(sizes []float64, r rect) []rect {
	total := 0.0
	for _, s := range sizes {
		total += s
	}
	out := make([]rect, 0, len(sizes))
	for len(sizes) > 0 && total > 0 {
		side := min(r.w, r.h)
		unit := r.w * r.h / total // area of a size
		n, sum := 1, sizes[0]
		for n < len(sizes) && worst(sizes[:n+1], sum+sizes[n], side, unit) <= worst(sizes[:n], sum, side, unit) {
			sum += sizes[n]
			n++
		}
		row := sum * unit / side
		out = appendRow(out, sizes[:n], sum, row, r)
		if r.w >= r.h {
			r.x, r.w = r.x+row, max(r.w-row, 0)
		} else {
			r.y, r.h = r.y+row, max(r.h-row, 0)
		}
		total -= sum
		sizes = sizes[n:]
	}
	for range sizes { // rounding has left no space
		out = append(out, rect{})
	}
	return out
}

// appendRow lays sizes, whose sum is given, out at the beginning of r.
func appendRow(out []rect, sizes []float64, sum, row float64, r rect) []rect {
	at := 0.0
	for _, s := range sizes {
		if r.w >= r.h {
			out = append(out, rect{r.x, r.y + at, row, s / sum * r.h})
			at += s / sum * r.h
		} else {
			out = append(out, rect{r.x + at, r.y, s / sum * r.w, row})
			at += s / sum * r.w
		}
	}
	return out
}

// worst is the largest ratio of two sides in a row.
func worst(sizes []float64, sum, side, unit float64) float64 {
	row := sum * unit / side
	w := 0.0
	for _, s := range []float64{slices.Min(sizes), slices.Max(sizes)} {
		length := s * unit / row
		w = math.Max(w, math.Max(row/length, length/row))
	}
	return w
}
