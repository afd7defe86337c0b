package snapshot

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// dirContent is the bytes of a file of an unpacked layer. It is an io.ReaderAt
// that opens the file each time.
type dirContent struct {
	layer *dirLayer
	path  string
	size  int64
	sum   atomic.Pointer[[32]byte]
}

// Open implements layer.Content.
func (c *dirContent) Open() (io.ReadCloser, error) { return c.open() }

// ReadAt implements io.ReaderAt.
func (c *dirContent) ReadAt(p []byte, off int64) (int, error) {
	f, err := c.open()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n := 0
	for n < len(p) {
		k, err := retry(func() (int, error) { return unix.Pread(f.fd, p[n:], off+int64(n)) })
		if err != nil {
			return n, c.fail("read", err)
		}
		if k == 0 {
			return n, io.EOF
		}
		n += k
	}
	return n, nil
}

// Digest implements layer.Content: known once the file was hashed.
func (c *dirContent) Digest() ([32]byte, bool) {
	if sum := c.sum.Load(); sum != nil {
		return *sum, true
	}
	return [32]byte{}, false
}

func (c *dirContent) setDigest(sum [32]byte) { c.sum.Store(&sum) }

// samePlace implements placed.
func (c *dirContent) samePlace(other layer.Content) bool {
	o, ok := other.(*dirContent)
	return ok && o.path == c.path && o.layer.root == c.layer.root
}

func (c *dirContent) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: path.Join(c.layer.root, c.path), Err: err}
}

// open opens the file when it still is one, of the same size.
func (c *dirContent) open() (*fdReader, error) {
	fd, err := openBelow(c.layer.root, c.path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, c.fail("open", err)
	}
	f := &fdReader{c: c, fd: fd}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		switch {
		case st.Mode&unix.S_IFMT != unix.S_IFREG:
			err = ErrNotRegular
		case st.Size != c.size:
			err = fmt.Errorf("%w: has %d bytes, had %d", layer.ErrChanged, st.Size, c.size)
		}
	}
	if err != nil {
		f.Close()
		return nil, c.fail("open", err)
	}
	return f, nil
}

// fdReader reads an open file without what os.File adds, which is as much as
// reading a small file.
type fdReader struct {
	c  *dirContent
	fd int
}

func (f *fdReader) Read(p []byte) (int, error) {
	if f.fd < 0 {
		return 0, fs.ErrClosed
	}
	n, err := retry(func() (int, error) { return unix.Read(f.fd, p) })
	switch {
	case err != nil:
		return 0, f.c.fail("read", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Close closes the file; a second time it does nothing.
func (f *fdReader) Close() error {
	if f.fd < 0 {
		return nil
	}
	err := unix.Close(f.fd)
	f.fd = -1
	return err
}
