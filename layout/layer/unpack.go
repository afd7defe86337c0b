package layer

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// UnpackOptions configures Unpack. What is zero isn't checked.
type UnpackOptions struct {
	Digest digest.Digest // of the packed bytes
	Size   int64         // of the packed bytes
	DiffID digest.Digest // of the tar
	Limits Limits
	Apply  ApplyOptions
}

// Unpacked says what Unpack read and did.
type Unpacked struct {
	Digest digest.Digest // of the packed bytes
	Size   int64         // of the packed bytes
	DiffID digest.Digest // of the tar
	Applied
}

// Unpack writes the packed layer that r holds into dir, as Apply does, and
// checks its digests: reading, decompressing, hashing and writing overlap. After
// an error, also one about a digest, what is in dir must not be used; the caller
// removes it. A digest that isn't SHA-256 is refused.
func Unpack(ctx context.Context, r io.Reader, dir string, opts UnpackOptions) (Unpacked, error) {
	for _, d := range []digest.Digest{opts.Digest, opts.DiffID} {
		if d != "" && (d.Validate() != nil || d.Algorithm() != digest.SHA256) {
			return Unpacked{}, fmt.Errorf("digest %q: want sha256", clip(d.String()))
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	g, ctx := errgroup.WithContext(ctx)
	u := &unpacking{ctx: ctx, group: g, opts: opts}
	applied, err := u.run(r, dir)
	cancel(err)
	if werr := g.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		return Unpacked{}, err
	}
	done := Unpacked{Digest: u.packed.digest(), Size: u.packed.size, DiffID: u.tar.digest(), Applied: applied}
	return done, opts.compare(done)
}

// compare reports what isn't as it was expected.
func (o UnpackOptions) compare(u Unpacked) error {
	switch {
	case o.Size != 0 && o.Size != u.Size:
		return invalid("the layer has %d bytes, its descriptor says %d", u.Size, o.Size)
	case o.Digest != "" && o.Digest != u.Digest:
		return invalid("the layer's digest is %s, its descriptor says %s", u.Digest, o.Digest)
	case o.DiffID != "" && o.DiffID != u.DiffID:
		return invalid("the layer's diffID is %s, the image's config says %s", u.DiffID, o.DiffID)
	}
	return nil
}

type unpacking struct {
	ctx         context.Context
	group       *errgroup.Group
	opts        UnpackOptions
	packed, tar *pump
}

func (u *unpacking) run(r io.Reader, dir string) (Applied, error) {
	if u.opts.Size > 0 {
		r = &boundedReader{r: r, what: "packed layer", left: u.opts.Size, limit: u.opts.Size}
	}
	u.packed = newPump(u.ctx, u.group, sourceReader{r})
	tar, err := Decompress(bufio.NewReaderSize(u.packed, 128<<10))
	if err != nil {
		return Applied{}, err
	}
	u.tar = newPump(u.ctx, u.group, tar)
	u.group.Go(func() error { return errors.Join(u.tar.wait(), tar.Close()) })
	applied, err := Apply(u.ctx, Read(u.tar, u.opts.Limits), dir, u.opts.Apply)
	if err != nil {
		return Applied{}, err
	}
	// Both are at their ends; the hashes may not be.
	return applied, errors.Join(u.tar.wait(), u.packed.wait())
}

// sourceReader marks the errors of the packed bytes' source.
type sourceReader struct{ r io.Reader }

func (s sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, ErrInvalid) {
		err = fmt.Errorf("%w: %w", errSource, err)
	}
	return n, err
}

// pump reads ahead of its reader, in a goroutine, and hashes what it reads in
// another.
type pump struct {
	ctx  context.Context
	free chan *block
	out  chan *block
	err  error // of the source; valid when out is closed
	cur  *block
	rest []byte

	hashed chan struct{} // closed when sum and size are complete
	sum    hash.Hash
	size   int64
}

// block is a buffer that two goroutines read.
type block struct {
	b     []byte
	users atomic.Int32
}

const (
	blockBytes = 256 << 10
	blocks     = 8
)

func newPump(ctx context.Context, g *errgroup.Group, src io.Reader) *pump {
	p := &pump{
		ctx: ctx, free: make(chan *block, blocks), out: make(chan *block, blocks),
		hashed: make(chan struct{}), sum: sha256.New(),
	}
	for range blocks {
		p.free <- nil
	}
	toHash := make(chan *block, blocks)
	g.Go(func() error { p.readAll(src, toHash); return nil })
	g.Go(func() error { p.hashAll(toHash); return nil })
	return p
}

// readAll fills blocks until src ends.
func (p *pump) readAll(src io.Reader, toHash chan *block) {
	defer close(toHash)
	defer close(p.out)
	for p.err == nil {
		var b *block
		select {
		case <-p.ctx.Done():
			p.err = context.Cause(p.ctx)
			return
		case b = <-p.free:
		}
		if b == nil {
			b = &block{b: make([]byte, 0, blockBytes)}
		}
		var n int
		n, p.err = io.ReadFull(src, b.b[:blockBytes])
		if p.err == io.ErrUnexpectedEOF && n < blockBytes {
			p.err = io.EOF
		}
		b.b = b.b[:n]
		b.users.Store(2)
		toHash <- b // never blocks: there are no more blocks than that
		p.out <- b
	}
}

func (p *pump) hashAll(blocks chan *block) {
	defer close(p.hashed)
	for b := range blocks {
		p.sum.Write(b.b)
		p.size += int64(len(b.b))
		p.release(b)
	}
}

func (p *pump) release(b *block) {
	if b.users.Add(-1) == 0 {
		p.free <- b
	}
}

// Read is that of io.Reader.
func (p *pump) Read(dst []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.cur != nil {
			p.release(p.cur)
			p.cur = nil
		}
		b, ok := <-p.out
		if !ok {
			return 0, p.err
		}
		p.cur, p.rest = b, b.b
	}
	n := copy(dst, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// wait waits until the source has ended or failed and all is hashed.
func (p *pump) wait() error {
	<-p.hashed
	if p.err != io.EOF {
		return p.err
	}
	return nil
}

// digest is valid after wait.
func (p *pump) digest() digest.Digest { return digest.NewDigest(digest.SHA256, p.sum) }
