//go:build !linux

package layer

import (
	"errors"
	"io"
	"os"
)

// openFile is an open File. The state that it compares is the size and the
// modification time.
type openFile struct {
	file   *File
	f      *os.File
	before Stat
	after  Stat
}

func (f *File) open() (*openFile, error) {
	o, err := os.Open(f.Path())
	if err != nil {
		return nil, err
	}
	r := &openFile{file: f, f: o}
	if r.before, err = r.stat(); err != nil {
		o.Close()
		return nil, err
	}
	return r, nil
}

func (o *openFile) readFullAt(p []byte, off int64) (int, error) {
	n, err := o.f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, err
	}
	return n, o.verify()
}

func (o *openFile) size() int64 { return o.after.Size }

func (o *openFile) Read(p []byte) (int, error) {
	n, err := o.f.Read(p)
	if errors.Is(err, io.EOF) {
		if err := o.verify(); err != nil {
			return n, err
		}
	}
	return n, err
}

func (o *openFile) Close() error { return o.f.Close() }

func (o *openFile) verify() (err error) {
	if o.after, err = o.stat(); err != nil {
		return err
	}
	return o.file.check(o.before, o.after)
}

func (o *openFile) stat() (Stat, error) {
	fi, err := o.f.Stat()
	if err != nil {
		return Stat{}, err
	}
	if !fi.Mode().IsRegular() {
		return Stat{}, errors.New("read " + o.file.Path() + ": not a regular file")
	}
	s := Stat{Size: fi.Size(), MTime: fi.ModTime().UnixNano()}
	if w := o.file.Want; w != (Stat{}) {
		s.Dev, s.Ino, s.CTime = w.Dev, w.Ino, w.CTime
	}
	return s, nil
}
