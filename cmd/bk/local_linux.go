package main

import (
	"os"
	"path"

	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// setXattrs sets extended attributes as far as the user and the file system
// allow; a local output is a plain copy without those that they refuse.
func setXattrs(f *os.File, attrs map[string]string) {
	for name, value := range attrs {
		if ownXattr(name) {
			_ = unix.Fsetxattr(int(f.Fd()), name, []byte(value), 0)
		}
	}
}

// addNode makes a device or a FIFO.
func (w *localWriter) addNode(entry *layer.Entry) error {
	kind := map[layer.Type]uint32{layer.Char: unix.S_IFCHR, layer.Block: unix.S_IFBLK, layer.Fifo: unix.S_IFIFO}[entry.Type]
	dir, err := w.root.Open(path.Dir(entry.Path))
	if err != nil {
		return err
	}
	defer dir.Close()
	fd, name := int(dir.Fd()), path.Base(entry.Path)
	if err := unix.Mknodat(fd, name, kind|0o600, int(unix.Mkdev(entry.DevMajor, entry.DevMinor))); err != nil {
		return &os.PathError{Op: "mknod", Path: entry.Path, Err: err}
	}
	return unix.Fchmodat(fd, name, entry.Mode&0o7777, 0)
}
