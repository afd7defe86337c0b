package view

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// Layers is what the layers of an image hold.
type Layers struct {
	Digest   digest.Digest `json:"digest"` // of the manifest
	Platform string        `json:"platform"`
	Layers   []Layer       `json:"layers"` // from the bottom up
	// Files and Bytes are what a container sees: everything but directories,
	// and the bytes of regular files, of which hard links count once.
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	// Written is the bytes of the regular files of all layers, Wasted how many
	// of them a later layer replaces or removes.
	Written int64 `json:"written"`
	Wasted  int64 `json:"wasted"`
	// Efficiency is the part of Written that is not wasted: 1 is best.
	Efficiency float64 `json:"efficiency"`
	// Waste are the paths that waste most.
	Waste []Waste `json:"waste"`

	tree *tree
}

// Layer is one layer.
type Layer struct {
	Digest    digest.Digest `json:"digest"`
	DiffID    digest.Digest `json:"diffID"`
	MediaType string        `json:"mediaType"`
	Packed    int64         `json:"packed"`   // bytes of the blob
	Unpacked  int64         `json:"unpacked"` // bytes of the tar
	// Added, Changed and Removed count files, which is everything but
	// directories, against the layers below. A file that is written again
	// counts as changed.
	Added   int `json:"added"`
	Changed int `json:"changed"`
	Removed int `json:"removed"`
	// Bytes are those of its regular files, Wasted those that later layers
	// replace or remove.
	Bytes     int64      `json:"bytes"`
	Wasted    int64      `json:"wasted"`
	Created   *time.Time `json:"created,omitempty"`
	CreatedBy string     `json:"createdBy,omitempty"` // as the history says
}

// Waste is a path that was written more than once or removed.
type Waste struct {
	Path  string `json:"path"`
	Count int    `json:"count"` // how often its bytes were replaced or removed
	Bytes int64  `json:"bytes"`
}

// maxWaste bounds the list of wasteful paths.
const maxWaste = 100

// Layers reads all layers and says what each adds to the image and what is lost
// of it.
func (m *Image) Layers(ctx context.Context) (*Layers, error) {
	lists, err := m.scanAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("layers of %s: %w", m.Descriptor.Digest, err)
	}
	t, err := merge(lists)
	if err != nil {
		return nil, fmt.Errorf("layers of %s: %w", m.Descriptor.Digest, err)
	}
	l := &Layers{Digest: m.Descriptor.Digest, Platform: m.Platform(), Efficiency: 1, tree: t, Layers: []Layer{}}
	for i := range lists {
		l.Layers = append(l.Layers, m.layer(i, lists[i], t.stats[i]))
		l.Written += lists[i].files
		l.Wasted += t.stats[i].wasted
	}
	if l.Written > 0 {
		l.Efficiency = 1 - float64(l.Wasted)/float64(l.Written)
	}
	l.count()
	l.Waste = t.wasteful()
	return l, nil
}

func (m *Image) layer(i int, l *list, s layerStats) Layer {
	desc := m.Manifest.Layers[i]
	out := Layer{
		Digest: desc.Digest, DiffID: m.Config.RootFS.DiffIDs[i], MediaType: desc.MediaType,
		Packed: desc.Size, Unpacked: l.size, Bytes: l.files, Wasted: s.wasted,
		Added: s.added, Changed: s.changed, Removed: s.removed,
	}
	n := 0
	for _, h := range m.Config.History {
		if h.EmptyLayer {
			continue
		}
		if n == i {
			out.Created, out.CreatedBy = h.Created, h.CreatedBy
		}
		n++
	}
	return out
}

// count adds up what a container sees.
func (l *Layers) count() {
	seen := map[uint32]bool{} // inodes of several names
	for n := range l.tree.nodes {
		if !l.tree.isFile(uint32(n)) {
			continue
		}
		l.Files++
		in := l.tree.nodes[n].inode
		if l.tree.inodes[in].links > 1 {
			if seen[in] {
				continue
			}
			seen[in] = true
		}
		l.Bytes += l.tree.inodeRecord(in).size
	}
}

// wasteful lists the paths that waste most, the worst first.
func (t *tree) wasteful() []Waste {
	nodes := make([]uint32, 0, len(t.waste))
	for n := range t.waste {
		nodes = append(nodes, n)
	}
	// Many are about as large: paths are made for those that may be listed.
	slices.SortFunc(nodes, func(a, b uint32) int { return cmp.Compare(t.waste[b].bytes, t.waste[a].bytes) })
	for last := maxWaste; last < len(nodes); last++ {
		if t.waste[nodes[last]].bytes < t.waste[nodes[maxWaste-1]].bytes {
			nodes = nodes[:last]
			break
		}
	}
	list := make([]Waste, 0, len(nodes))
	for _, n := range nodes {
		list = append(list, Waste{Path: t.path(n), Count: t.waste[n].count, Bytes: t.waste[n].bytes})
	}
	slices.SortFunc(list, func(a, b Waste) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Path, b.Path))
	})
	return list[:min(len(list), maxWaste)]
}
