package view

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout/layer"
)

// DiffOptions configures Compare.
type DiffOptions struct {
	// Times compares modification times too, in seconds.
	Times bool
	// Documents leaves the files out, so that no layer is read.
	Documents bool
}

// Diff is how image B differs from image A.
type Diff struct {
	A           Side         `json:"a"`
	B           Side         `json:"b"`
	Config      []Change     `json:"config"`
	Annotations []Change     `json:"annotations"` // of the manifests
	History     []Change     `json:"history"`
	Layers      LayersDiff   `json:"layers"`
	Files       []FileChange `json:"files"` // sorted by path
	Summary     Summary      `json:"summary"`
}

// Side is one of the images.
type Side struct {
	Digest   digest.Digest `json:"digest"` // of the manifest
	Platform string        `json:"platform"`
	Size     int64         `json:"size"` // bytes of its layers, packed
}

// Change is something of the documents that differs. What was added has no Old,
// what was removed no New.
type Change struct {
	Name string `json:"name"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// LayersDiff are the layers, from the bottom up.
type LayersDiff struct {
	Common   int           `json:"common"`   // that both have at the bottom
	Repacked int           `json:"repacked"` // of those, how many are not the same blobs
	A        []LayerChange `json:"a"`        // those above, of each image
	B        []LayerChange `json:"b"`
}

// LayerChange is a layer that one image has and the other has not at its place.
type LayerChange struct {
	Digest    digest.Digest `json:"digest"`
	DiffID    digest.Digest `json:"diffID"`
	Size      int64         `json:"size"`
	CreatedBy string        `json:"createdBy,omitempty"`
}

// FileChange is a path that differs.
type FileChange struct {
	Path string `json:"path"`
	// Kind is "added", "removed" or "changed".
	Kind string `json:"kind"`
	// What differs of a changed file: "type", "mode", "owner", "size",
	// "content", "target", "device", "xattrs", "time".
	What []string  `json:"what,omitempty"`
	Old  *FileInfo `json:"old,omitempty"`
	New  *FileInfo `json:"new,omitempty"`
	// Within is set for what is in a directory that was added or removed as a
	// whole.
	Within bool `json:"within,omitempty"`
}

// FileInfo is a file as an image has it.
type FileInfo struct {
	Type   string            `json:"type"` // "file", "directory", "symbolic link", ...
	Mode   string            `json:"mode"` // octal: "0644"
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   int64             `json:"size"`
	Time   time.Time         `json:"time"`
	Target string            `json:"target,omitempty"` // of a symbolic link
	Device string            `json:"device,omitempty"` // "MAJOR:MINOR"
	Digest digest.Digest     `json:"digest,omitempty"` // of the content
	Xattrs map[string]string `json:"xattrs,omitempty"`
}

// Summary counts files, which is everything but directories.
type Summary struct {
	Added   int `json:"added"`
	Removed int `json:"removed"`
	Changed int `json:"changed"`
	// Bytes is how many bytes of regular files B has more than A.
	Bytes int64 `json:"bytes"`
}

// Same says whether nothing differs but, perhaps, how layers are made up and
// packed.
func (d *Diff) Same() bool {
	return len(d.Config) == 0 && len(d.Annotations) == 0 && len(d.History) == 0 && len(d.Files) == 0
}

// Compare says how two images differ. A layer that both have is read once, and
// none is when both have the same layers. The files that differ are held in
// memory; contents are compared by their SHA-256.
func Compare(ctx context.Context, a, b *Image, opts DiffOptions) (*Diff, error) {
	d := &Diff{
		A: a.side(), B: b.side(), Config: compareConfigs(a, b), History: compareHistory(a.Config.History, b.Config.History),
		Annotations: compareMaps("", a.Manifest.Annotations, b.Manifest.Annotations), Layers: compareLayers(a, b), Files: []FileChange{},
	}
	if opts.Documents || slices.Equal(a.Config.RootFS.DiffIDs, b.Config.RootFS.DiffIDs) {
		return d, nil
	}
	trees, err := mergeBoth(ctx, a, b)
	if err != nil {
		return nil, fmt.Errorf("compare %s with %s: %w", a.Descriptor.Digest, b.Descriptor.Digest, err)
	}
	c := &comparer{diff: d, a: trees[0], b: trees[1], times: opts.Times}
	c.both(0, 0, ".")
	return d, nil
}

func (m *Image) side() Side {
	s := Side{Digest: m.Descriptor.Digest, Platform: m.Platform()}
	for _, l := range m.Manifest.Layers {
		s.Size += l.Size
	}
	return s
}

// mergeBoth makes the trees of two images.
func mergeBoth(ctx context.Context, a, b *Image) ([2]*tree, error) {
	type job struct {
		m *Image
		i int
	}
	jobs := map[digest.Digest]job{}
	for _, m := range []*Image{b, a} {
		for i, id := range m.Config.RootFS.DiffIDs {
			jobs[id] = job{m, i}
		}
	}
	lists := map[digest.Digest]**list{}
	for id := range jobs {
		lists[id] = new(*list)
	}
	var shared budget
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(min(maxScans, runtime.GOMAXPROCS(0)))
	for _, id := range slices.Sorted(maps.Keys(jobs)) {
		j, to := jobs[id], lists[id]
		g.Go(func() (err error) {
			*to, err = j.m.scan(gctx, j.i, &shared, true)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return [2]*tree{}, err
	}
	var trees [2]*tree
	for i, m := range []*Image{a, b} {
		var stack []*list
		for _, id := range m.Config.RootFS.DiffIDs {
			stack = append(stack, *lists[id])
		}
		var err error
		if trees[i], err = merge(stack); err != nil {
			return trees, err
		}
	}
	return trees, nil
}

// comparer walks two trees side by side.
type comparer struct {
	diff  *Diff
	a, b  *tree
	times bool
}

// both compares what two trees have at a path.
func (c *comparer) both(x, y uint32, p string) {
	what := c.what(x, y)
	dirA, dirB := c.a.rec(x).typ == layer.Directory, c.b.rec(y).typ == layer.Directory
	if len(what) > 0 {
		c.diff.Files = append(c.diff.Files, FileChange{Path: p, Kind: "changed", What: what, Old: c.a.info(x), New: c.b.info(y)})
		c.changed(dirA, dirB)
		c.diff.Summary.Bytes += c.b.rec(y).size - c.a.rec(x).size
	}
	var left, right []uint32
	if dirA {
		left = c.a.children(x)
	}
	if dirB {
		right = c.b.children(y)
	}
	for len(left) > 0 || len(right) > 0 {
		switch {
		case len(right) == 0 || len(left) > 0 && c.a.name(left[0]) < c.b.name(right[0]):
			c.one(c.a, left[0], join(p, c.a.name(left[0])), "removed", !dirB)
			left = left[1:]
		case len(left) == 0 || c.b.name(right[0]) < c.a.name(left[0]):
			c.one(c.b, right[0], join(p, c.b.name(right[0])), "added", !dirA)
			right = right[1:]
		default:
			c.both(left[0], right[0], join(p, c.a.name(left[0])))
			left, right = left[1:], right[1:]
		}
	}
}

// changed counts a change, which may be that of a file to a directory.
func (c *comparer) changed(dirA, dirB bool) {
	s := &c.diff.Summary
	switch {
	case dirA && dirB:
	case dirA:
		s.Added++
	case dirB:
		s.Removed++
	default:
		s.Changed++
	}
}

// one notes what only one tree has, and all below it.
func (c *comparer) one(t *tree, n uint32, p, kind string, within bool) {
	f := FileChange{Path: p, Kind: kind, Within: within}
	r, s := t.rec(n), &c.diff.Summary
	count := 1
	if r.typ == layer.Directory {
		count = 0
	}
	if kind == "added" {
		f.New = t.info(n)
		s.Added += count
		s.Bytes += r.size
	} else {
		f.Old = t.info(n)
		s.Removed += count
		s.Bytes -= r.size
	}
	c.diff.Files = append(c.diff.Files, f)
	for _, child := range t.children(n) {
		c.one(t, child, join(p, t.name(child)), kind, true)
	}
}

// what lists what differs of two files.
func (c *comparer) what(x, y uint32) []string {
	a, b := c.a.rec(x), c.b.rec(y)
	ea, eb := c.a.extraOf(x), c.b.extraOf(y)
	var what []string
	add := func(differs bool, name string) {
		if differs {
			what = append(what, name)
		}
	}
	same := a.typ == b.typ
	add(!same, "type")
	add(a.mode != b.mode, "mode")
	add(a.uid != b.uid || a.gid != b.gid, "owner")
	add(same && a.size != b.size, "size")
	add(same && c.a.sum(x) != c.b.sum(y), "content")
	add(same && a.typ == layer.Symlink && c.a.target(x) != c.b.target(y), "target")
	add(same && (ea.major != eb.major || ea.minor != eb.minor), "device")
	add(!maps.Equal(ea.xattrs, eb.xattrs), "xattrs")
	add(c.times && a.mtime != b.mtime, "time")
	return what
}

// extraOf is what few files have.
func (t *tree) extraOf(n uint32) extra {
	r := t.rec(n)
	if r.extra == 0 {
		return extra{}
	}
	return t.listOf(n).extras[r.extra]
}

func (t *tree) target(n uint32) string {
	r := t.rec(n)
	if r.linkLen == 0 {
		return ""
	}
	return t.listOf(n).link(r)
}

// sum is the digest of a file's content; zeros when it has none.
func (t *tree) sum(n uint32) [32]byte {
	r := t.rec(n)
	if r.sum == 0 {
		return [32]byte{}
	}
	return t.listOf(n).sums[r.sum]
}

// info describes a node.
func (t *tree) info(n uint32) *FileInfo {
	r, x := t.rec(n), t.extraOf(n)
	f := &FileInfo{
		Type: typeName(r.typ), Mode: fmt.Sprintf("%04o", r.mode), UID: r.uid, GID: r.gid, Size: r.size,
		Time: time.Unix(r.mtime, 0).UTC(), Xattrs: x.xattrs,
	}
	switch r.typ {
	case layer.Symlink:
		f.Target = t.target(n)
	case layer.Char, layer.Block:
		f.Device = fmt.Sprintf("%d:%d", x.major, x.minor)
	case layer.Regular:
		if r.sum != 0 {
			sum := t.sum(n)
			f.Digest = digest.NewDigestFromBytes(digest.SHA256, sum[:])
		}
	}
	return f
}
