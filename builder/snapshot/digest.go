package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"maps"
	"path"
	"runtime"
	"slices"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout/layer"
)

// Digested is a part of a tree with the digest of all that matters in it:
// names relative to what was selected, types, modes, owners, link targets,
// extended attributes, device numbers, bytes, and which names are one file;
// not times.
type Digested struct {
	Digest digest.Digest
	picks  []pick
	sums   sums
}

// Files yields the selected paths, relative to the selection, each with a
// digest of what is there: its attributes and, of a file, its bytes. Two
// selections differ in the paths whose digests differ.
func (d *Digested) Files() iter.Seq2[string, digest.Digest] {
	return func(yield func(string, digest.Digest) bool) {
		enc := encoder{h: sha256.New(), sums: d.sums}
		for i := range d.picks {
			if d.picks[i].root.expand() != nil {
				return
			}
			if !enc.files(d.picks[i].root, path.Base(d.picks[i].src), yield) {
				return
			}
		}
	}
}

// CopyDigest returns the digest of exactly what [Editor.Copy] of the action
// takes from src. The action's own fields, such as its destination, mode and
// owner, are not in it. A source that isn't there is a [NotFoundError].
func CopyDigest(ctx context.Context, src FS, a *pb.FileActionCopy) (*Digested, error) {
	picks, err := selectCopy(ctx, src, a)
	if err != nil {
		return nil, err
	}
	return digestPicks(ctx, picks, a.DirCopyContents)
}

// PathDigest returns the digest of all that is at p in src: what a mount of it
// shows. Symlinks on the way are followed, a symlink at the end with follow.
// A path that isn't there is a [NotFoundError].
func PathDigest(ctx context.Context, src FS, p string, follow bool) (*Digested, error) {
	real, c, err := statSource(src, p, follow)
	if err != nil {
		return nil, err
	}
	s := selector{ctx: ctx, src: src}
	root, err := s.pick(real, c)
	if err != nil {
		return nil, err
	}
	return digestPicks(ctx, []pick{{src: "/", root: root}}, false)
}

// digestPicks hashes the files and then the selection. The attributes and the
// name of a directory whose contents alone are copied aren't in it.
func digestPicks(ctx context.Context, picks []pick, contents bool) (*Digested, error) {
	sums, err := hashFiles(ctx, picks)
	if err != nil {
		return nil, err
	}
	enc := encodePicks(picks, contents, sums)
	if enc.err == errUnhashed {
		for i := range picks {
			if err := picks[i].root.expand(); err != nil {
				return nil, err
			}
		}
		return digestPicks(ctx, picks, contents)
	}
	if enc.err != nil {
		return nil, enc.err
	}
	return &Digested{digest.NewDigest(digest.SHA256, enc.sum()), picks, sums}, nil
}

// errUnhashed is about a file of a whole that has to be hashed first.
var errUnhashed = errors.New("a file without a digest")

// encodePicks feeds the selection to a hash.
func encodePicks(picks []pick, contents bool, sums sums) *encoder {
	enc := &encoder{h: sha256.New(), sums: sums}
	enc.text("bk.build/selection.v1")
	enc.number(uint64(len(picks)))
	for i := range picks {
		pk := &picks[i]
		enc.links = map[any]uint64{}
		if contents && pk.root.ent.Type == layer.Directory {
			enc.byte('c')
			enc.kids(pk.root)
		} else {
			enc.byte('p')
			enc.text(path.Base(pk.src))
			enc.item(pk.root)
		}
		enc.archive(pk)
	}
	return enc
}

// encoder feeds a selection to a hash. Every field is of fixed size or has its
// length before it, and every list its count, so different selections never
// give the same bytes.
type encoder struct {
	h     hash.Hash
	buf   []byte
	sums  sums
	links map[any]uint64 // inode -> number of its first name
	count uint64
	err   error // the first
}

func (e *encoder) byte(b byte)     { e.buf = append(e.buf, b) }
func (e *encoder) number(n uint64) { e.buf = binary.BigEndian.AppendUint64(e.buf, n) }
func (e *encoder) text(s string) {
	e.number(uint64(len(s)))
	e.buf = append(e.buf, s...)
	if len(e.buf) > 16<<10 {
		e.flush()
	}
}

func (e *encoder) flush() {
	e.h.Write(e.buf)
	e.buf = e.buf[:0]
}

func (e *encoder) sum() hash.Hash {
	e.flush()
	return e.h
}

// item encodes a path with all below it.
func (e *encoder) item(it *item) {
	if e.first(it) && it.ent.Type == layer.Directory {
		e.kids(it)
	}
}

// first encodes what is at a path; false for a further name of a file.
func (e *encoder) first(it *item) bool {
	e.count++
	if it.ino != nil {
		if first, ok := e.links[it.ino]; ok {
			e.byte('l')
			e.number(first)
			return false
		}
		e.links[it.ino] = e.count
	}
	e.node(it)
	return true
}

// below encodes all that is below a directory of a whole.
func (e *encoder) below(w *whole, dir string) {
	kids, err := children(w.sel.src, dir)
	if err == nil {
		err = w.sel.ctx.Err()
	}
	if err != nil && e.err == nil {
		e.err = err
	}
	e.number(uint64(len(kids)))
	for _, k := range kids {
		if e.err != nil {
			return
		}
		if k.ent.Content != nil {
			if _, known := k.ent.Content.Digest(); !known {
				e.err = errUnhashed
			}
		}
		e.text(k.name)
		if e.first(&item{child: k, include: true}) && k.ent.Type == layer.Directory {
			e.below(w, join(dir, k.name))
		}
	}
}

func (e *encoder) kids(it *item) {
	if it.whole != nil {
		e.below(it.whole, it.whole.path)
		return
	}
	e.number(uint64(len(it.kids)))
	for _, k := range it.kids {
		e.text(k.name)
		e.item(k)
	}
}

// node encodes what is at one path.
func (e *encoder) node(it *item) {
	ent := it.ent
	e.byte(byte(ent.Type))
	e.byte(flag(it.include))
	e.number(uint64(ent.Mode))
	e.number(uint64(ent.UID))
	e.number(uint64(ent.GID))
	e.number(uint64(ent.DevMajor))
	e.number(uint64(ent.DevMinor))
	e.text(ent.Link)
	e.number(uint64(len(ent.Xattrs)))
	for _, key := range slices.Sorted(maps.Keys(ent.Xattrs)) {
		e.text(key)
		e.text(ent.Xattrs[key])
	}
	if ent.Type == layer.Regular {
		e.content(it.child)
	}
}

func (e *encoder) content(c child) {
	e.number(uint64(c.ent.Size))
	if c.ent.Size == 0 {
		return
	}
	sum, ok := e.sums[fileKey(c)]
	if !ok && c.ent.Content != nil {
		sum, _ = c.ent.Content.Digest()
	}
	e.buf = append(e.buf, sum[:]...)
}

// archive encodes the file that would be unpacked instead of what was picked,
// when it is another one: the target of a symlink.
func (e *encoder) archive(pk *pick) {
	other := pk.archive != nil && pk.root.ent.Type == layer.Symlink
	e.byte(flag(other))
	if other {
		e.content(child{ent: pk.archive})
	}
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// files yields one digest for each path from it on; false when told to stop.
func (e *encoder) files(it *item, p string, yield func(string, digest.Digest) bool) bool {
	e.h.Reset()
	e.node(it)
	if !yield(p, digest.NewDigest(digest.SHA256, e.sum())) {
		return false
	}
	for _, k := range it.kids {
		if !e.files(k, path.Join(p, k.name), yield) {
			return false
		}
	}
	return true
}

// keeper is a Content that remembers its digest once it was computed.
type keeper interface{ setDigest([32]byte) }

// sums are the SHA-256 of files that didn't know their own, by fileKey.
type sums map[any][32]byte

// fileKey is equal for the names of one file.
func fileKey(c child) any {
	if c.ino != nil {
		return c.ino
	}
	return c.ent
}

// hashFiles hashes the contents whose digests aren't known, several at a time.
func hashFiles(ctx context.Context, picks []pick) (sums, error) {
	todo := map[any]*layer.Entry{}
	want := func(c child) {
		if c.ent.Type != layer.Regular || c.ent.Content == nil {
			return
		}
		if _, known := c.ent.Content.Digest(); !known {
			todo[fileKey(c)] = c.ent
		}
	}
	for i := range picks {
		picks[i].root.each(want)
		if picks[i].archive != nil {
			want(child{ent: picks[i].archive})
		}
	}
	return hashAll(ctx, todo)
}

func hashAll(ctx context.Context, todo map[any]*layer.Entry) (sums, error) {
	done := make(sums, len(todo))
	var mu sync.Mutex
	work := make(chan any)
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.NumCPU(), len(todo)) {
		g.Go(func() error {
			buf := make([]byte, 128<<10)
			for key := range work {
				sum, err := hashFile(ctx, todo[key], buf)
				if err != nil {
					return err
				}
				mu.Lock()
				done[key] = sum
				mu.Unlock()
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(work)
		for key := range todo {
			select {
			case work <- key:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return done, g.Wait()
}

// each calls f for it and all below.
func (it *item) each(f func(child)) {
	f(it.child)
	for _, k := range it.kids {
		k.each(f)
	}
}

// hashFile returns the SHA-256 of a file's bytes, of which there must be as
// many as it says.
func hashFile(ctx context.Context, ent *layer.Entry, buf []byte) (sum [32]byte, err error) {
	r, err := ent.Content.Open()
	if err != nil {
		return sum, err
	}
	defer r.Close()
	h := sha256.New()
	var n int64
	for {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		k, err := r.Read(buf)
		h.Write(buf[:k])
		n += int64(k)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return sum, fmt.Errorf("hash %s: %w", display(ent.Path), err)
		}
	}
	if n != ent.Size {
		return sum, fmt.Errorf("hash %s: read %d bytes of %d: the file changed meanwhile", display(ent.Path), n, ent.Size)
	}
	h.Sum(sum[:0])
	if k, ok := ent.Content.(keeper); ok {
		k.setDigest(sum)
	}
	return sum, nil
}
