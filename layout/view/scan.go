package view

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout/layer"
)

// Bounds on one image.
const (
	maxEntries = 10_000_000
	maxText    = 1 << 30 // bytes of paths, link targets and xattrs
	maxScans   = 4       // layers that are read at once
)

// stream reads layer i to its end and calls f for each of its entries, counted
// from 0. Afterwards its digest, size and diffID are those that the image
// promises, or there is an error. It returns the bytes of the tar.
func (m *Image) stream(ctx context.Context, i int, f func(n int, e *layer.Entry) error) (int64, error) {
	size, err := m.streamLayer(ctx, i, f)
	if err != nil {
		return 0, fmt.Errorf("read layer %d (%s): %w", i+1, m.Manifest.Layers[i].Digest, err)
	}
	return size, nil
}

func (m *Image) streamLayer(ctx context.Context, i int, f func(n int, e *layer.Entry) error) (int64, error) {
	blob, err := m.src.Open(ctx, m.Manifest.Layers[i])
	if err != nil {
		return 0, err
	}
	defer blob.Close()
	in := &ctxReader{ctx, blob}
	plain, err := layer.Decompress(in)
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	want := m.Config.RootFS.DiffIDs[i]
	sum := want.Algorithm().Digester()
	tar := &countingReader{r: io.TeeReader(plain, sum.Hash())}
	n := 0
	for e, err := range layer.Read(tar, layer.Limits{Entries: maxEntries}) {
		if err != nil {
			return 0, err
		}
		if err := f(n, e); err != nil {
			return 0, err
		}
		n++
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // its end verifies it
		return 0, err
	}
	if got := sum.Digest(); got != want {
		return 0, fmt.Errorf("%w: its diffID is %s, the config says %s", layer.ErrInvalid, got, want)
	}
	return tar.n, nil
}

// list is what remains of a layer: its headers, in the tar's order. It is not
// changed once it is complete.
type list struct {
	records []record
	text    []byte     // paths and link targets
	extras  []extra    // rare attributes; the first is none
	sums    [][32]byte // SHA-256 of contents, when asked for; the first is none
	size    int64      // bytes of the tar
	files   int64      // bytes of regular files in it
}

// record is a header of a layer.
type record struct {
	path, link       uint32 // where they begin in the text
	size             int64
	mtime            int64 // seconds
	uid, gid         uint32
	extra, sum       uint32
	pathLen, linkLen uint16
	mode             uint16
	typ              layer.Type
	opaque           bool
}

// extra is what few entries have.
type extra struct {
	xattrs       map[string]string
	major, minor uint32
}

func (l *list) path(r *record) string { return string(l.text[r.path:][:r.pathLen]) }
func (l *list) link(r *record) string { return string(l.text[r.link:][:r.linkLen]) }

// budget bounds what the lists of an image take together.
type budget struct{ entries, text atomic.Int64 }

func (b *budget) take(text int) error {
	if b.entries.Add(1) > maxEntries {
		return fmt.Errorf("%w: the image has more than %d entries", layer.ErrInvalid, maxEntries)
	}
	if b.text.Add(int64(text)) > maxText {
		return fmt.Errorf("%w: the image's paths and attributes have more than %d bytes", layer.ErrInvalid, maxText)
	}
	return nil
}

// lister makes a list.
type lister struct {
	list   *list
	budget *budget
	hash   bool
	known  map[string]uint32 // extras
	buf    []byte
}

// scan lists a layer. With hash, it also hashes the contents of its files.
func (m *Image) scan(ctx context.Context, i int, b *budget, hash bool) (*list, error) {
	return m.scanWith(ctx, i, b, hash, func(int, *layer.Entry) error { return nil })
}

// scanWith is scan that shows each entry to f first.
func (m *Image) scanWith(ctx context.Context, i int, b *budget, hash bool, f func(n int, e *layer.Entry) error) (*list, error) {
	l := &lister{list: &list{extras: make([]extra, 1)}, budget: b, hash: hash}
	if hash {
		l.list.sums = make([][32]byte, 1)
	}
	size, err := m.stream(ctx, i, func(n int, e *layer.Entry) error {
		if err := f(n, e); err != nil {
			return err
		}
		return l.add(e)
	})
	l.list.size = size
	return l.list, err
}

// add appends an entry.
func (l *lister) add(e *layer.Entry) error {
	text := len(e.Path) + len(e.Link)
	for k, v := range e.Xattrs {
		text += len(k) + len(v) + 64 // what a map takes for each
	}
	if err := l.budget.take(text); err != nil {
		return err
	}
	to := l.list
	r := record{
		path: uint32(len(to.text)), pathLen: uint16(len(e.Path)), link: uint32(len(to.text) + len(e.Path)), linkLen: uint16(len(e.Link)),
		size: e.Size, mtime: e.ModTime.Unix(), uid: uint32(e.UID), gid: uint32(e.GID),
		mode: uint16(e.Mode), typ: e.Type, opaque: e.Opaque, extra: l.extra(e),
	}
	if e.ModTime.IsZero() {
		r.mtime = 0
	}
	to.text = append(append(to.text, e.Path...), e.Link...)
	to.files += e.Size
	var err error
	if r.sum, err = l.sum(e); err != nil {
		return err
	}
	to.records = append(to.records, r)
	return nil
}

// extra returns the index of an entry's rare attributes; equal ones are kept
// once.
func (l *lister) extra(e *layer.Entry) uint32 {
	if len(e.Xattrs) == 0 && e.DevMajor == 0 && e.DevMinor == 0 {
		return 0
	}
	key := extraKey(e)
	if n, ok := l.known[key]; ok {
		return n
	}
	if l.known == nil {
		l.known = map[string]uint32{}
	}
	n := uint32(len(l.list.extras))
	l.known[key] = n
	l.list.extras = append(l.list.extras, extra{xattrs: e.Xattrs, major: e.DevMajor, minor: e.DevMinor})
	return n
}

// extraKey is equal for equal attributes only.
func extraKey(e *layer.Entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %d", e.DevMajor, e.DevMinor)
	names := make([]string, 0, len(e.Xattrs))
	for name := range e.Xattrs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, " %q=%q", name, e.Xattrs[name])
	}
	return b.String()
}

// sum hashes an entry's content.
func (l *lister) sum(e *layer.Entry) (uint32, error) {
	if !l.hash || e.Content == nil {
		return 0, nil
	}
	rc, err := e.Content.Open()
	if err != nil {
		return 0, err
	}
	defer rc.Close()
	if l.buf == nil {
		l.buf = make([]byte, 64<<10)
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{rc}, l.buf); err != nil {
		return 0, err
	}
	if len(l.list.sums) == math.MaxUint32 {
		return 0, fmt.Errorf("%w: too many files", layer.ErrInvalid)
	}
	l.list.sums = append(l.list.sums, [32]byte(h.Sum(nil)))
	return uint32(len(l.list.sums) - 1), nil
}

// scanAll lists all layers, a few at once.
func (m *Image) scanAll(ctx context.Context) ([]*list, error) {
	lists := make([]*list, len(m.Manifest.Layers))
	var b budget
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(maxScans, runtime.GOMAXPROCS(0)))
	for i := range lists {
		g.Go(func() (err error) {
			lists[i], err = m.scan(ctx, i, &b, false)
			return err
		})
	}
	return lists, g.Wait()
}

// ctxReader ends when its context does.
type ctxReader struct {
	ctx context.Context // of one call
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// countingReader counts what is read.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
