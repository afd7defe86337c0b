package builder

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout/layer"
)

// dropIdleMarks removes from an upper directory the marks of opaque directories
// that hide nothing: overlayfs puts one on a new directory when it is renamed,
// and none when it is made in place. Without them a layer says what the step
// left, and not how.
func dropIdleMarks(upper string, base snapshot.FS) error {
	root, err := os.Open(upper)
	if err != nil {
		return err
	}
	return dropMarksBelow(root, ".", base)
}

// dropMarksBelow does so below the directory p, which it closes.
func dropMarksBelow(dir *os.File, p string, base snapshot.FS) error {
	defer dir.Close()
	for {
		list, err := dir.ReadDir(1000)
		for _, e := range list {
			if !e.IsDir() {
				continue
			}
			fd, err := unix.Openat(int(dir.Fd()), e.Name(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return &os.PathError{Op: "open", Path: path.Join(p, e.Name()), Err: err}
			}
			sub := os.NewFile(uintptr(fd), e.Name())
			name := path.Join(p, e.Name())
			if err := dropMark(fd, name, base); err != nil {
				sub.Close()
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := dropMarksBelow(sub, name, base); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// dropMark looks at one directory.
func dropMark(fd int, name string, base snapshot.FS) error {
	mark := layer.OverlayPrefix() + "opaque"
	var value [2]byte
	if n, err := unix.Fgetxattr(fd, mark, value[:]); err != nil || string(value[:n]) != "y" {
		return nil // there is none, or it is of another kind
	}
	if e, err := base.Lstat(name); err == nil && e.Type == layer.Directory {
		return nil
	}
	return unix.Fremovexattr(fd, mark)
}
