package source

import (
	"crypto/sha256"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

var _ layer.Content = (*file)(nil)

// Digest returns the digest of the content once a scan has determined it.
func (f *file) Digest() (sum [32]byte, ok bool) {
	if f.state.Load() != hashed {
		return sum, false
	}
	return f.sum, true
}

// Open opens the content. Reading it ends with an error that wraps [ErrChanged]
// when the file is not, or no longer, what the entry and the digest are of.
func (f *file) Open() (io.ReadCloser, error) {
	path := f.entry.Path
	if f.in.l.fd < 0 {
		return nil, &os.PathError{Op: "open", Path: path, Err: os.ErrClosed}
	}
	fd, err := openBeneath(f.in.l.fd, path, openFlags)
	if missing(err) == os.ErrNotExist {
		return nil, changed(path)
	}
	if err != nil {
		return nil, readable(path, err)
	}
	r := &reader{f: f, fd: fd, left: f.entry.Size}
	if _, ok := f.Digest(); ok && f.unsure {
		r.hash = sha256.New()
	}
	if err := r.check(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// openFlags open a file that may have been replaced by anything meanwhile.
const openFlags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC | unix.O_NOFOLLOW

// reader reads a file's content, all of it or an error.
type reader struct {
	f    *file
	fd   int
	left int64
	hash hash.Hash // of files of which the identity says too little
	done bool
}

// check compares the file with what the entry is of.
func (r *reader) check() error {
	var st unix.Statx_t
	if err := stat(r.fd, "", &st); err != nil {
		return readable(r.f.entry.Path, err)
	}
	if identityOf(&st) != r.f.id {
		return changed(r.f.entry.Path)
	}
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	if r.done {
		return 0, io.EOF
	}
	if r.fd < 0 {
		return 0, os.ErrClosed
	}
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := retry(func() (int, error) { return unix.Read(r.fd, p) })
	if err != nil {
		return 0, readable(r.f.entry.Path, err)
	}
	if n == 0 && len(p) > 0 {
		return 0, changed(r.f.entry.Path) // it is shorter now
	}
	if r.hash != nil {
		r.hash.Write(p[:n])
	}
	if r.left -= int64(n); r.left == 0 {
		return n, r.end()
	}
	return n, nil
}

// end checks after the last byte that what was read is what was promised.
func (r *reader) end() error {
	if err := r.check(); err != nil {
		return err
	}
	if r.hash != nil && [32]byte(r.hash.Sum(nil)) != r.f.sum {
		return changed(r.f.entry.Path)
	}
	r.done = true
	return nil
}

func (r *reader) Close() error {
	if r.fd < 0 {
		return nil
	}
	err := unix.Close(r.fd)
	r.fd = -1
	return err
}
