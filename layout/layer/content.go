package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// ErrChanged is in the error for a file whose bytes or size are no longer what
// its entry says.
var ErrChanged = errors.New("changed while it was read; stop what writes to it and try again")

// Bytes is Content in memory. Its digest isn't known.
type Bytes []byte

// Open returns the bytes.
func (b Bytes) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }

// Digest reports that the digest isn't known.
func (b Bytes) Digest() (sum [32]byte, ok bool) { return sum, false }

// ReadAt is that of io.ReaderAt.
func (b Bytes) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(b).ReadAt(p, off) }

// Stat is what tells whether a file is still the one that was looked at. The
// zero value stands for any file.
type Stat struct {
	Dev, Ino     uint64
	Size         int64
	MTime, CTime int64 // nanoseconds since 1970
}

// File is the Content of a regular file on disk: Name, below the directory Dir
// when that isn't empty. The last element isn't followed when it is a symlink.
// Any number of goroutines may read it.
type File struct {
	Dir, Name string
	// Want is the state that the file must be in; a read of a file in another
	// state fails with ErrChanged.
	Want Stat
	// Sum is the digest when it is known, all zeros when not.
	Sum [32]byte
}

// FileContent is the Content of the file at path, which must be as want says
// unless that is the zero Stat.
func FileContent(path string, want Stat) *File { return &File{Name: path, Want: want} }

// Digest returns Sum.
func (f *File) Digest() (sum [32]byte, ok bool) { return f.Sum, f.Sum != [32]byte{} }

// Path returns the file's name.
func (f *File) Path() string {
	if f.Dir == "" {
		return f.Name
	}
	return f.Dir + "/" + f.Name
}

// Open opens the file. The reader compares the file's state with Want at its
// end too.
func (f *File) Open() (io.ReadCloser, error) { return f.open() }

// ReadAt is that of io.ReaderAt. It opens and closes the file each time.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	r, err := f.open()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	n, err := r.readFullAt(p, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// fill reads p, which lies at off in a file of the given size.
func (f *File) fill(p []byte, off, size int64) error {
	r, err := f.open()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := r.readFullAt(p, off)
	if err == nil && (n < len(p) || r.size() != size) {
		err = f.changed()
	}
	return err
}

func (f *File) changed() error { return fmt.Errorf("read %s: %w", f.Path(), ErrChanged) }

// check compares the state that was found before and after a read.
func (f *File) check(before, after Stat) error {
	if before != after || f.Want != (Stat{}) && f.Want != after {
		return f.changed()
	}
	return nil
}

// fillFrom reads p, which lies at off in content of the given size. It may use
// the byte after p for a moment, to see in one call that the content ends there.
func fillFrom(c io.ReaderAt, p []byte, off, size int64) error {
	if f, ok := c.(*File); ok {
		return f.fill(p, off, size)
	}
	last := off+int64(len(p)) == size
	if last && cap(p) > len(p) {
		longer := p[:len(p)+1]
		defer func(after byte) { longer[len(p)] = after }(longer[len(p)])
		return filled(c, longer, len(p), off)
	}
	if err := filled(c, p, len(p), off); err != nil || !last {
		return err
	}
	return filled(c, make([]byte, 1), 0, size)
}

// filled reads p and wants n bytes, and the end of c when p has room for more.
func filled(c io.ReaderAt, p []byte, n int, off int64) error {
	got, err := c.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if got != n || len(p) > n && err == nil {
		return ErrChanged
	}
	return nil
}

// readExactly reads p and, when it is the last of r, checks that r ends.
func readExactly(r io.Reader, p []byte, last bool) error {
	if _, err := io.ReadFull(r, p); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = ErrChanged
		}
		return err
	}
	if !last {
		return nil
	}
	var more [1]byte
	switch n, err := io.ReadFull(r, more[:]); {
	case n != 0:
		return ErrChanged
	case err != io.EOF:
		return err
	}
	return nil
}
