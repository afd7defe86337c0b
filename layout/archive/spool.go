package archive

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"bk.build/bk/layout/layer"
)

// What is compressed may have ratioFloor bytes more than maxRatio times what was
// read of it. Real archives stay far below; a bomb is noticed soon.
const (
	maxRatio   = 100
	ratioFloor = 256 << 20
)

// magicLen bytes tell how something is compressed.
const magicLen = 6

// compressionOf names the compression that the first bytes say; empty: none
// that is known.
func compressionOf(magic []byte) string {
	for _, c := range []struct{ name, magic string }{
		{layer.Gzip, "\x1f\x8b"}, {layer.Zstd, "\x28\xb5\x2f\xfd"}, {"xz", "\xfd7zXZ\x00"}, {"bzip2", "BZh"},
	} {
		if bytes.HasPrefix(magic, []byte(c.magic)) {
			return c.name
		}
	}
	return ""
}

// spool writes r, decompressed, to a temporary file that has no name any more
// where the system allows that; the caller closes it with closeTemp.
func spool(ctx context.Context, r io.Reader) (*os.File, error) {
	f, err := os.CreateTemp("", "bk-archive-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	if err := unpackTo(ctx, f, r); err != nil {
		closeTemp(f)
		return nil, err
	}
	return f, nil
}

// closeTemp closes a temporary file and removes it where an open file cannot
// be.
func closeTemp(f *os.File) {
	f.Close()
	os.Remove(f.Name())
}

// unpackTo writes r to w, decompressed when it is compressed.
func unpackTo(ctx context.Context, w io.Writer, r io.Reader) error {
	in := &counter{ctx: ctx, r: r}
	plain, err := decompress(in)
	if err != nil {
		return err
	}
	defer plain.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, plain, make([]byte, 256<<10))
	return err
}

// decompress returns the bytes that in holds packed, or as they are, and bounds
// their number.
func decompress(in *counter) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(in, 128<<10)
	magic, err := br.Peek(magicLen)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch c := compressionOf(magic); c {
	case "":
		return io.NopCloser(struct{ io.Reader }{br}), nil
	case layer.Gzip, layer.Zstd:
		plain, err := layer.Decompress(br)
		if err != nil {
			return nil, err
		}
		return &bounded{ReadCloser: plain, in: in}, nil
	default:
		return nil, fmt.Errorf("it is compressed with %s, which is not read: decompress it first", c)
	}
}

// counter counts what is read, and ends when its context does.
type counter struct {
	ctx context.Context
	r   io.Reader
	n   atomic.Int64 // decompressors read in goroutines
}

func (c *counter) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// bounded refuses to give far more than what was read.
type bounded struct {
	io.ReadCloser
	in *counter
	n  int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	if in := b.in.n.Load(); b.n > ratioFloor+maxRatio*in {
		return n, fmt.Errorf("%d bytes of it decompress to more than %d: decompress it first if that is right", in, b.n)
	}
	return n, err
}
