package ids

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Get returns what is remembered of the file at path, a link of /proc/PID/fd as
// it may be; plain when that is nothing, or nothing that makes sense.
func Get(path string) Inode {
	var buf [maxText]byte
	n, err := unix.Getxattr(path, Attr, buf[:])
	if err != nil {
		return Inode{}
	}
	i, err := Parse(string(buf[:n]))
	if err != nil {
		return Inode{}
	}
	return i
}

// Set remembers the inode on an open file or directory.
func Set(fd int, i Inode) error {
	var err error
	if i.Plain() {
		err = unix.Fremovexattr(fd, Attr)
	} else {
		err = unix.Fsetxattr(fd, Attr, []byte(i.String()), 0)
	}
	return result(err)
}

// SetPath is Set for a path, a link of /proc/PID/fd as it may be.
func SetPath(path string, i Inode) error {
	var err error
	if i.Plain() {
		err = unix.Removexattr(path, Attr)
	} else {
		err = unix.Setxattr(path, Attr, []byte(i.String()), 0)
	}
	return result(err)
}

func result(err error) error {
	if err == nil || errors.Is(err, unix.ENODATA) {
		return nil
	}
	if errors.Is(err, unix.ENOTSUP) {
		err = fmt.Errorf("%w: the file system has no extended attributes of users", err)
	}
	return fmt.Errorf("remember an owner: %w", err)
}

// ReadRecord reads the record in a file; empty when there is none.
func ReadRecord(name string) (Record, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxRecord+1))
	if err != nil {
		return nil, err
	}
	r, err := ParseRecord(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}
