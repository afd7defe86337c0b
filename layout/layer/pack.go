package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// formatVersion is a part of every chunk's key. It changes whenever the bytes
// that Pack writes for the same chunk do, such as by a new compressor.
const formatVersion = "bk-chunk-1 klauspost-1.20.3\n"

// PackOptions configures Pack. The zero value packs with gzip, with one worker
// per CPU, and keeps all times.
type PackOptions struct {
	Compression Compression
	// Epoch is the latest modification time; later ones are set to it.
	Epoch *time.Time
	// Root keeps the header of the root directory ("./"), which is left out
	// otherwise.
	Root bool
	// Chunks keeps packed chunks from one call to the next; may be nil. It
	// changes how long Pack takes, never what it writes.
	Chunks ChunkStore
	// Jobs is the number of chunks that are read and compressed at once; 0 or
	// less: the number of CPUs. Each takes about 6 MiB of memory.
	Jobs int
}

// Packed describes what Pack wrote.
type Packed struct {
	Digest           digest.Digest // of the packed bytes
	DiffID           digest.Digest // of the tar
	Size             int64         // packed bytes
	UncompressedSize int64         // bytes of the tar
}

// ChunkStore is a cache of packed chunks. It may forget anything at any time;
// a value that came back changed is noticed and not used. It is called from
// several goroutines. Values have 3 MiB at most.
type ChunkStore interface {
	// Get returns what was put with the key. Pack only reads the slice, and
	// not after it has written the bytes.
	Get(key [32]byte) ([]byte, bool)
	// Put keeps value, which the caller uses again afterwards.
	Put(key [32]byte, value []byte)
}

// Pack writes the entries to w as a packed layer. What it writes depends on the
// entries and opts.Compression, Epoch and Root alone.
//
// Data goes through four stages: the caller's goroutine pulls entries, writes
// headers and cuts the tar into chunks; workers read the files of a chunk and
// compress it; one goroutine hashes the tar in order and one hashes and writes
// the packed chunks in order. A file that doesn't have the size or, for a
// [File], the state that its entry says, fails with [ErrChanged].
//
// With opts.Chunks, a chunk of which every content's digest is known is only
// compressed when it is new; and as long as all chunks from the start of the
// layer are the same as in an earlier call, their files aren't read at all.
func Pack(ctx context.Context, w io.Writer, entries Entries, opts PackOptions) (Packed, error) {
	if err := opts.Compression.Validate(); err != nil {
		return Packed{}, err
	}
	g, ctx := errgroup.WithContext(ctx)
	p := newPacker(ctx, g, w, opts)
	return p.finish(p.cutAll(entries))
}

// finish waits for the goroutines after the last chunk, or after an error of
// cutting.
func (p *packer) finish(cutErr error) (Packed, error) {
	close(p.work)
	close(p.toHash)
	close(p.toWrite)
	if err := p.group.Wait(); err != nil && (cutErr == nil || errors.Is(cutErr, context.Canceled)) {
		return Packed{}, err
	}
	if cutErr != nil {
		return Packed{}, cutErr
	}
	if p.memo != nil {
		p.memo.save()
	}
	return p.result(), nil
}

// rawSize is the capacity of a buffer that holds most chunks.
const rawSize = chunkMax + 64<<10

type packer struct {
	ctx     context.Context
	group   *errgroup.Group
	opts    PackOptions
	out     io.Writer
	memo    *memo
	workers int

	free    chan buffers // their number bounds the chunks that are in memory
	work    chan *chunk
	toHash  chan *chunk // in order
	toWrite chan *chunk // in order

	tar, blob         hash.Hash
	tarSize, blobSize int64
}

func newPacker(ctx context.Context, g *errgroup.Group, w io.Writer, opts PackOptions) *packer {
	if opts.Jobs <= 0 {
		opts.Jobs = runtime.NumCPU()
	}
	if opts.Compression.kind() == Uncompressed {
		opts.Chunks = nil // a kept chunk would be a second copy and no faster
	}
	inFlight := opts.Jobs + 1
	p := &packer{
		ctx: ctx, group: g, opts: opts, out: w,
		free: make(chan buffers, inFlight),
		work: make(chan *chunk, inFlight), toHash: make(chan *chunk, inFlight), toWrite: make(chan *chunk, inFlight),
		tar: sha256.New(), blob: sha256.New(),
	}
	for range inFlight {
		p.free <- buffers{}
	}
	if opts.Chunks != nil {
		p.memo = newMemo(opts.Chunks)
	}
	g.Go(p.hashAll)
	g.Go(p.writeAll)
	return p
}

// cutAll pulls the entries and hands out their chunks.
func (p *packer) cutAll(entries Entries) error {
	c := newCutter(p.ctx, p.opts)
	c.next, c.emit = p.buffer, p.emit
	for e, err := range entries {
		if err != nil {
			return err
		}
		if e.Path == "." && !p.opts.Root {
			if e = opaqueRoot(e); e == nil {
				continue
			}
		}
		if err := c.add(e); err != nil {
			return err
		}
	}
	return c.end()
}

// opaqueRoot returns what remains of the root's entry without its header: the
// opaque marker, or nothing.
func opaqueRoot(e *Entry) *Entry {
	if !e.Opaque {
		return nil
	}
	return &Entry{Path: ".", Type: Whiteout, Opaque: true}
}

// buffers are the memory of a chunk.
type buffers struct{ raw, packed []byte }

// buffer waits for free buffers.
func (p *packer) buffer() (buffers, error) {
	select {
	case <-p.ctx.Done():
		return buffers{}, context.Cause(p.ctx)
	case b := <-p.free:
		return b, nil
	}
}

// emit hands a chunk to the workers, the hash and the output.
func (p *packer) emit(c *chunk) error {
	if p.memo != nil {
		p.memo.look(c)
	}
	c.users = 3
	if p.workers < p.opts.Jobs {
		p.workers++
		p.group.Go(p.workAll)
	}
	for _, to := range []chan *chunk{p.work, p.toHash, p.toWrite} {
		select {
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		case to <- c:
		}
	}
	return nil
}

// release gives a chunk's buffers back when nobody needs them any more.
func (p *packer) release(c *chunk) {
	if atomic.AddInt32(&c.users, -1) == 0 {
		b := buffers{c.raw, c.spare}
		c.raw, c.packed, c.spare = nil, nil, nil
		p.free <- b
	}
}

// workAll is one worker.
func (p *packer) workAll() error {
	var comp compressor
	for c := range p.work {
		if err := p.pack(c, &comp); err != nil {
			return err
		}
	}
	return nil
}

// pack makes c.raw and c.packed. The worker's compressor is made when it is
// first needed.
func (p *packer) pack(c *chunk, comp *compressor) error {
	found := p.lookup(c)
	if !found || c.state == nil {
		if err := c.fill(p.ctx); err != nil {
			return err
		}
	}
	close(c.filled)
	if found {
		close(c.done)
		p.release(c)
		return nil
	}
	if p.opts.Compression.kind() == Uncompressed {
		c.packed = c.raw
		close(c.done)
		p.release(c)
		return nil
	}
	if err := p.compress(c, comp); err != nil {
		return err
	}
	close(c.done)
	p.release(c)
	return nil
}

// lookup takes c.packed from the store.
func (p *packer) lookup(c *chunk) bool {
	if p.opts.Chunks == nil || !c.keyed {
		return false
	}
	v, ok := p.opts.Chunks.Get(c.key)
	if !ok {
		return false
	}
	c.packed, c.kept = unseal(v)
	return c.kept
}

// packedMax is what a chunk of n bytes is packed to at most.
func packedMax(n int) int { return n + n/64 + 1024 }

// compress makes c.packed from c.raw and puts it in the store.
func (p *packer) compress(c *chunk, comp *compressor) (err error) {
	if *comp == nil {
		if *comp, err = p.opts.Compression.compressor(); err != nil {
			return err
		}
	}
	dst := c.spare[:0]
	if most := packedMax(len(c.raw)); cap(dst) < most {
		if cap(c.raw) == rawSize {
			most = packedMax(rawSize) // so that any other chunk has room there too
		}
		dst = make([]byte, 0, most)
	}
	if dst, err = (*comp).compress(dst, c.raw); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	c.spare = dst
	c.packed = dst
	if p.opts.Chunks != nil && c.keyed {
		sealed := seal(dst)
		c.packed = sealed[:len(dst)]
		p.opts.Chunks.Put(c.key, sealed)
	}
	return nil
}

// hashAll hashes the tar.
func (p *packer) hashAll() error {
	var known []byte // the hash's state, when only the memo has it
	for c := range p.toHash {
		if err := wait(p.ctx, c.filled); err != nil {
			return err
		}
		p.tarSize += int64(len(c.raw))
		if c.state != nil {
			known = c.state
		} else {
			if err := restore(p.tar, known); err != nil {
				return err
			}
			known = nil
			p.tar.Write(c.raw)
		}
		if p.memo != nil {
			p.memo.record(c, p.tar)
		}
		p.release(c)
	}
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	return restore(p.tar, known)
}

// restore sets h to a state; nil leaves it as it is.
func restore(h hash.Hash, state []byte) error {
	if state == nil {
		return nil
	}
	return setState(h, state)
}

// writeAll hashes and writes the packed chunks.
func (p *packer) writeAll() error {
	plain := p.opts.Compression.kind() == Uncompressed
	for c := range p.toWrite {
		if err := wait(p.ctx, c.done); err != nil {
			return err
		}
		if !plain {
			p.blob.Write(c.packed)
		}
		n, err := p.out.Write(c.packed)
		p.blobSize += int64(n)
		if err != nil {
			return fmt.Errorf("write layer: %w", err)
		}
		p.release(c)
	}
	return nil
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-done:
		return nil
	}
}

func (p *packer) result() Packed {
	r := Packed{
		DiffID:           digest.NewDigest(digest.SHA256, p.tar),
		Size:             p.blobSize,
		UncompressedSize: p.tarSize,
	}
	r.Digest = r.DiffID
	if p.opts.Compression.kind() != Uncompressed {
		r.Digest = digest.NewDigest(digest.SHA256, p.blob)
	}
	return r
}
