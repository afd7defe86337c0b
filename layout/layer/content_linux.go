package layer

import (
	"errors"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"
)

// openFile is an open File. It goes around os.File, whose poller and finalizer
// cost as much as the read of a small file.
type openFile struct {
	file   *File
	fd     int
	before Stat // from before the first read
	after  Stat // from after the last
	eof    bool
}

func (f *File) open() (*openFile, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(f.Path(), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: f.Path(), Err: err}
	}
	o := &openFile{file: f, fd: fd, before: f.Want}
	if f.Want == (Stat{}) {
		if o.before, err = o.stat(); err != nil {
			o.Close()
			return nil, err
		}
	}
	return o, nil
}

// readFullAt reads until p is full or the file ends, then checks the state.
func (o *openFile) readFullAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		m, err := retry(func() (int, error) { return unix.Pread(o.fd, p[n:], off+int64(n)) })
		if err != nil {
			return n, &fs.PathError{Op: "read", Path: o.file.Path(), Err: err}
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, o.verify()
}

// size is valid after readFullAt.
func (o *openFile) size() int64 { return o.after.Size }

func (o *openFile) Read(p []byte) (int, error) {
	if o.eof || len(p) == 0 {
		return 0, eofIf(o.eof)
	}
	n, err := retry(func() (int, error) { return unix.Read(o.fd, p) })
	if err != nil {
		return 0, &fs.PathError{Op: "read", Path: o.file.Path(), Err: err}
	}
	if n > 0 {
		return n, nil
	}
	if err := o.verify(); err != nil {
		return 0, err
	}
	o.eof = true
	return 0, io.EOF
}

// copyTo copies the file, which has the given size, to the empty file fd inside
// the kernel, so that file systems that can share the blocks do. done is false
// when they can't even copy; nothing was read or written then.
func (o *openFile) copyTo(fd int, size int64) (done bool, err error) {
	left := size
	for left > 0 {
		n, err := retry(func() (int, error) {
			return unix.CopyFileRange(o.fd, nil, fd, nil, int(min(left, 1<<30)), 0)
		})
		if err != nil && left == size {
			return false, nil
		}
		if err != nil {
			return false, &fs.PathError{Op: "copy", Path: o.file.Path(), Err: err}
		}
		if n == 0 {
			break
		}
		left -= int64(n)
	}
	if err := o.verify(); err != nil {
		return true, err
	}
	if left > 0 || o.size() != size {
		return true, o.file.changed()
	}
	return true, nil
}

func (o *openFile) Close() error {
	if o.fd < 0 {
		return fs.ErrClosed
	}
	err := unix.Close(o.fd)
	o.fd = -1
	return err
}

func (o *openFile) verify() (err error) {
	if o.after, err = o.stat(); err != nil {
		return err
	}
	return o.file.check(o.before, o.after)
}

func (o *openFile) stat() (Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(o.fd, &st); err != nil {
		return Stat{}, &fs.PathError{Op: "stat", Path: o.file.Path(), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return Stat{}, &fs.PathError{Op: "read", Path: o.file.Path(), Err: errors.New("not a regular file")}
	}
	return statOf(&st), nil
}

// statOf is what File compares of st.
func statOf(st *unix.Stat_t) Stat {
	return Stat{
		Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size,
		MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano(),
	}
}

func eofIf(eof bool) error {
	if eof {
		return io.EOF
	}
	return nil
}

// retry calls f again for as long as a signal interrupts it.
func retry[T any](f func() (T, error)) (T, error) {
	for {
		v, err := f()
		if err != unix.EINTR {
			return v, err
		}
	}
}
