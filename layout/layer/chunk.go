package layer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"time"
)

// The tar is cut into chunks by this rule, which knows only the entries'
// headers and sizes:
//
//   - A file of more than chunkMax bytes starts a chunk and is cut every
//     chunkMax bytes of its content; the last piece starts a chunk that others
//     may join.
//   - Any other entry starts a chunk when it would make the current one larger
//     than chunkMax, or when the current one has chunkMin and the hash of the
//     entry's path says so. It does so with a probability of its size in the
//     tar over chunkMin: the cuts soon fall on the same entries again after one
//     that was added, removed or changed in size.
//
// A change of the rule changes what every layer packs to: the tests' golden
// digests tell.
const (
	chunkMin = 1 << 20
	chunkMax = 2 << 20
)

// chunk is a piece of the tar and what becomes of it.
type chunk struct {
	raw    []byte // the tar's bytes; where a gap is, after fill
	gaps   []gap
	key    [32]byte // of raw and the compression, if keyed
	keyed  bool
	chain  [32]byte // of all chunks up to this, if the memo may be asked
	chains bool
	state  []byte // the tar's hash after this chunk, when the memo knows it

	filled chan struct{} // closed when raw is complete or known not to be needed
	packed []byte        // the store's or in spare; or raw
	spare  []byte        // memory for packed
	kept   bool          // packed is the store's
	done   chan struct{} // closed when packed is complete
	users  int32         // goroutines that still need it
}

// gap is a place in a chunk's raw where content goes.
type gap struct {
	at, n     int
	content   io.ReaderAt
	off, size int64 // of this piece, and of the whole content
	path      string
}

// fill reads the content of the chunk's gaps.
func (c *chunk) fill(ctx context.Context) error {
	for _, g := range c.gaps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fillFrom(g.content, c.raw[g.at:g.at+g.n], g.off, g.size); err != nil {
			return fmt.Errorf("pack %q: %w", g.path, err)
		}
	}
	return nil
}

// cutter turns entries into chunks and passes each on when it is full.
type cutter struct {
	ctx   context.Context
	epoch *time.Time
	comp  string // Compression.String: a part of every key
	keys  bool   // keys are wanted
	// next returns buffers, which may have any capacity.
	next func() (buffers, error)
	emit func(*chunk) error

	cur    *chunk
	large  bool // there were several chunks: more are to come
	key    hash.Hash
	keyed  bool
	header []byte
}

func newCutter(ctx context.Context, opts PackOptions) *cutter {
	return &cutter{
		ctx: ctx, epoch: opts.Epoch, comp: opts.Compression.String(),
		keys: opts.Chunks != nil, key: sha256.New(),
	}
}

// add appends the entry e.
func (c *cutter) add(e *Entry) (err error) {
	if c.header, err = headersOf(c.header[:0], e, c.epoch); err != nil {
		return err
	}
	total := int64(len(c.header)) + e.Size + int64(padding(e.Size))
	if c.cutsBefore(e.Path, total, e.Size > chunkMax) {
		if err := c.cut(); err != nil {
			return err
		}
	}
	first := min(e.Size, chunkMax)
	if err := c.room(len(c.header) + int(first) + padding(first)); err != nil {
		return err
	}
	c.cur.raw = append(c.cur.raw, c.header...)
	c.hash('h', int64(len(c.header)), 0, c.header)
	if e.Size == 0 {
		return nil
	}
	return c.content(e)
}

// cutsBefore is the rule for an entry that takes total bytes of the tar.
func (c *cutter) cutsBefore(path string, total int64, large bool) bool {
	switch {
	case c.cur == nil || len(c.cur.raw) == 0:
		return false
	case large || int64(len(c.cur.raw))+total > chunkMax:
		return true
	case len(c.cur.raw) < chunkMin:
		return false
	}
	return int64(pathHash(path)%chunkMin) < total
}

// content appends the content of e, as one piece or many.
func (c *cutter) content(e *Entry) error {
	at, random := e.Content.(io.ReaderAt)
	var stream io.ReadCloser
	if !random {
		var err error
		if stream, err = e.Content.Open(); err != nil {
			return fmt.Errorf("pack %q: %w", e.Path, err)
		}
		defer stream.Close()
	}
	sum, known := e.Content.Digest()
	c.keyed = c.keyed && known
	for off := int64(0); off < e.Size; off += chunkMax {
		n := int(min(e.Size-off, chunkMax))
		if off > 0 {
			if err := c.cut(); err != nil {
				return err
			}
			if err := c.room(n + padding(int64(n))); err != nil {
				return err
			}
			c.keyed = c.keys && known
		}
		c.hash('c', off, e.Size, sum[:])
		start := len(c.cur.raw)
		c.cur.raw = c.cur.raw[:start+n]
		if random {
			c.cur.gaps = append(c.cur.gaps, gap{start, n, at, off, e.Size, e.Path})
		} else if err := readExactly(stream, c.cur.raw[start:], off+int64(n) == e.Size); err != nil {
			return fmt.Errorf("pack %q: %w", e.Path, err)
		}
		c.cur.raw = appendZeros(c.cur.raw, padding(int64(n)))
	}
	return nil
}

// end appends the end of the archive and passes the last chunk on.
func (c *cutter) end() error {
	const endBlocks = 2 * blockSize
	if err := c.room(endBlocks); err != nil {
		return err
	}
	c.cur.raw = appendZeros(appendZeros(c.cur.raw, blockSize), blockSize)
	c.hash('e', 0, 0, nil)
	return c.cut()
}

// room makes a current chunk with n free bytes in raw.
func (c *cutter) room(n int) error {
	if err := c.ctx.Err(); err != nil {
		return context.Cause(c.ctx)
	}
	if c.cur == nil {
		b, err := c.next()
		if err != nil {
			return err
		}
		if c.large && cap(b.raw) < rawSize {
			b.raw = make([]byte, 0, rawSize)
		}
		c.cur = &chunk{raw: b.raw[:0], spare: b.packed, filled: make(chan struct{}), done: make(chan struct{})}
		c.keyed = c.keys
		c.key.Reset()
		c.key.Write([]byte(formatVersion))
		c.hash('z', 0, 0, []byte(c.comp))
	}
	if free := cap(c.cur.raw) - len(c.cur.raw); free < n {
		size := max(len(c.cur.raw)+n, 2*cap(c.cur.raw))
		if size > rawSize/8 {
			size = max(len(c.cur.raw)+n, rawSize)
		}
		grown := make([]byte, len(c.cur.raw), size)
		copy(grown, c.cur.raw)
		c.cur.raw = grown
	}
	return nil
}

// cut passes the current chunk on.
func (c *cutter) cut() error {
	done := c.cur
	c.cur, c.large = nil, true
	done.keyed = c.keyed
	c.key.Sum(done.key[:0])
	return c.emit(done)
}

// hash adds one framed item to the current chunk's key.
func (c *cutter) hash(kind byte, a, b int64, data []byte) {
	if !c.keys {
		return
	}
	var frame [25]byte
	frame[0] = kind
	binary.LittleEndian.PutUint64(frame[1:], uint64(a))
	binary.LittleEndian.PutUint64(frame[9:], uint64(b))
	binary.LittleEndian.PutUint64(frame[17:], uint64(len(data)))
	c.key.Write(frame[:])
	c.key.Write(data)
}

// pathHash is FNV-1a of 64 bits, folded so that its low bits are good.
func pathHash(p string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(p); i++ {
		h = (h ^ uint64(p[i])) * 1099511628211
	}
	return (h ^ h>>29) * 0xbf58476d1ce4e5b9 >> 20
}
