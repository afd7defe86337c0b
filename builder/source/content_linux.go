package source

import (
	"crypto/sha256"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

var (
	_ layer.Content = (*file)(nil)
	_ io.ReaderAt   = (*file)(nil)
)

// Digest returns the digest of the content once a scan has determined it.
func (f *file) Digest() (sum [32]byte, ok bool) {
	if f.state.Load() != hashed {
		return sum, false
	}
	return f.sum, true
}

// Open opens the content. Reading it ends with an error that wraps
// [layer.ErrChanged] when the file is not, or no longer, what the entry and the
// digest are of.
func (f *file) Open() (io.ReadCloser, error) {
	fd, err := f.open()
	if err != nil {
		return nil, err
	}
	r := &reader{f: f, fd: fd, left: f.size()}
	if _, ok := f.Digest(); ok && f.unsure {
		r.hash = sha256.New()
	}
	if err := f.check(fd); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// ReadAt is that of io.ReaderAt, with the errors of Open. It opens the file
// each time; any number of goroutines may use it.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &os.PathError{Op: "read", Path: f.path, Err: os.ErrInvalid}
	}
	want := p[:min(int64(len(p)), max(0, f.size()-off))]
	if len(want) == 0 {
		return 0, end(len(p))
	}
	if _, ok := f.Digest(); ok && f.unsure {
		return f.readAll(want, off, len(p))
	}
	fd, err := f.open()
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	n, err := fill(func(b []byte, n int) (int, error) { return unix.Pread(fd, b, off+int64(n)) }, want)
	if changed := f.check(fd); changed != nil {
		return 0, changed
	}
	if err != nil {
		return 0, readable(f.path, err)
	}
	if n < len(want) {
		return 0, changed(f.path)
	}
	return n, end(len(p) - n)
}

// end is the error of a ReadAt that lacks so many bytes.
func end(lacks int) error {
	if lacks > 0 {
		return io.EOF
	}
	return nil
}

// readAll is ReadAt for a file that must be read from its start to its end to
// know that it is right.
func (f *file) readAll(want []byte, off int64, asked int) (int, error) {
	r, err := f.Open()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, off); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(r, want); err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return 0, err
	}
	return len(want), end(asked - len(want))
}

func (f *file) open() (int, error) {
	path := f.path
	if f.in.l.fd < 0 {
		return -1, &os.PathError{Op: "open", Path: path, Err: os.ErrClosed}
	}
	fd, err := openBeneath(f.in.l.fd, path, openFlags)
	if missing(err) == os.ErrNotExist {
		return -1, changed(path)
	}
	if err != nil {
		return -1, readable(path, err)
	}
	return fd, nil
}

// check compares an open file with what the entry is of.
func (f *file) check(fd int) error {
	var st unix.Statx_t
	if err := stat(fd, "", &st); err != nil {
		return readable(f.path, err)
	}
	if identityOf(&st) != f.id {
		return changed(f.path)
	}
	return nil
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
		return 0, readable(r.f.path, err)
	}
	if n == 0 && len(p) > 0 {
		return 0, changed(r.f.path) // it is shorter now
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
	if err := r.f.check(r.fd); err != nil {
		return err
	}
	if r.hash != nil && [32]byte(r.hash.Sum(nil)) != r.f.sum {
		return changed(r.f.path)
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
