package snapshot

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// spool keeps the contents of an archive's members, one after the other, in
// one file.
type spool struct {
	f   *os.File
	w   *bufio.Writer
	off int64
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "unpacked-")
	if err != nil {
		return nil, err
	}
	return &spool{f: f, w: bufio.NewWriterSize(f, 256<<10)}, nil
}

// add copies one member's bytes.
func (s *spool) add(ctx context.Context, r io.Reader) (*spooled, int64, error) {
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(s.w, h), until{ctx, r})
	if err != nil {
		return nil, 0, err
	}
	c := &spooled{path: s.f.Name(), off: s.off, size: n}
	h.Sum(c.sum[:0])
	s.off += n
	return c, n, nil
}

// until is a reader that ends with its context.
type until struct {
	ctx context.Context
	r   io.Reader
}

func (u until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

func (s *spool) close() error { return errors.Join(s.w.Flush(), s.f.Close()) }

// spooled is the content of an unpacked member.
type spooled struct {
	path      string
	off, size int64
	sum       [32]byte
}

// Open implements layer.Content.
func (c *spooled) Open() (io.ReadCloser, error) {
	f, err := os.Open(c.path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, c.off, c.size), f}, nil
}

// Digest implements layer.Content.
func (c *spooled) Digest() ([32]byte, bool) { return c.sum, true }

// ReadAt implements io.ReaderAt; it opens the file each time.
func (c *spooled) ReadAt(p []byte, off int64) (int, error) {
	f, err := os.Open(c.path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.NewSectionReader(f, c.off, c.size).ReadAt(p, off)
}

// maxWindow bounds the memory that a compressed archive may ask for.
const maxWindow = 128 << 20

var errTooMuchMemory = fmt.Errorf("needs a window of more than %d MiB to decompress: compress it with a smaller one", maxWindow>>20)

// decompress returns the decompressed bytes of r, which is told by its first
// bytes to be gzip, bzip2, xz, zstd or none of these.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, _ := b.Peek(10)
	switch {
	case bytes.HasPrefix(magic, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(b)), nil
	case bytes.HasPrefix(magic, []byte("\x1f\x8b\x08")):
		return gzip.NewReader(b)
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		x, err := xz.NewReader(b, maxWindow)
		return io.NopCloser(windowErrors{x}), windowError(err)
	case isZstd(magic):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{windowErrors{z}, z.IOReadCloser()}, nil
	}
	return io.NopCloser(b), nil
}

// isZstd knows frames and skippable frames (RFC 8878, section 3.1).
func isZstd(magic []byte) bool {
	if len(magic) < 8 {
		return bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd"))
	}
	m := binary.LittleEndian.Uint32(magic)
	return m == 0xFD2FB528 || m&^0xf == 0x184D2A50
}

// windowErrors makes a refused window an errTooMuchMemory.
type windowErrors struct{ r io.Reader }

func (w windowErrors) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	return n, windowError(err)
}

func windowError(err error) error {
	if errors.Is(err, xz.ErrMemlimit) || errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return errTooMuchMemory
	}
	return err
}
