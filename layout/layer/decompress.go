package layer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow is the largest window (RFC 8878, section 3.1.1.1.2) that the
// zstd command takes without being told to.
const maxZstdWindow = 128 << 20

// Decompress returns the bytes that r holds packed: with gzip or zstd, as the
// first bytes say, or as they are. Bytes after the packed data are an error. It
// may read ahead in goroutines that end when it is closed, which does not close
// r. What Pack wrote with gzip is inflated by all CPUs.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br, ok := r.(*bufio.Reader)
	if !ok {
		br = bufio.NewReaderSize(r, 128<<10)
	}
	magic, err := br.Peek(gzipPrologue)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	switch {
	case packedHere(magic) && runtime.GOMAXPROCS(0) > 1:
		m := newMembersReader(br)
		return &unpacker{Reader: m, kind: Gzip, stop: m.close}, nil
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := newGzipReader(br)
		if err != nil {
			return nil, unpackError(Gzip, err)
		}
		return &unpacker{Reader: z, kind: Gzip, stop: func() {}}, nil
	case isZstd(magic):
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, unpackError(Zstd, err)
		}
		return &unpacker{Reader: z, kind: Zstd, stop: z.Close}, nil
	}
	return io.NopCloser(br), nil
}

// isZstd reports whether b starts a zstd frame or a skippable one.
func isZstd(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	return bytes.Equal(b[:4], []byte{0x28, 0xb5, 0x2f, 0xfd}) || b[0]&0xf0 == 0x50 && bytes.Equal(b[1:4], []byte{0x2a, 0x4d, 0x18})
}

// unpacker says in its errors what couldn't be unpacked.
type unpacker struct {
	io.Reader
	kind string
	stop func()
}

func (u *unpacker) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = unpackError(u.kind, err)
	}
	return n, err
}

func (u *unpacker) Close() error {
	u.stop()
	return nil
}

// unpackError marks an error of the data, not of reading it, as ErrInvalid.
func unpackError(kind string, err error) error {
	if errors.Is(err, ErrInvalid) || errors.Is(err, errSource) {
		return err
	}
	return invalid("%s: %w", kind, err)
}

// errSource is in the errors of reading the packed bytes.
var errSource = errors.New("read packed layer")
