package source

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// retry repeats a system call that a signal interrupted.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if err != unix.EINTR {
			return v, err
		}
	}
}

// openBeneath opens a path below a directory without following any symlink.
// With O_PATH it opens a symlink itself. The path may be longer than those that
// the kernel takes at once.
func openBeneath(root int, path string, flags int) (int, error) {
	if len(path) >= unix.PathMax {
		return openStepwise(root, path, flags)
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	for range 64 {
		fd, err := unix.Openat2(root, path, &how)
		switch err {
		case unix.EINTR, unix.EAGAIN: // EAGAIN: something was renamed meanwhile
			continue
		case unix.ENOSYS, unix.EPERM: // old kernels and old seccomp profiles
			return openStepwise(root, path, flags)
		}
		return fd, err
	}
	return -1, unix.EAGAIN
}

// openStepwise is openBeneath for systems without openat2, and for long paths.
func openStepwise(root int, path string, flags int) (int, error) {
	at := root
	for {
		elem, rest, more := strings.Cut(path, "/")
		f := unix.O_PATH | unix.O_DIRECTORY
		if !more {
			f = flags
		}
		fd, err := retry(func() (int, error) { return unix.Openat(at, elem, f|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0) })
		if at != root {
			unix.Close(at)
		}
		if err != nil || !more {
			return fd, err
		}
		at, path = fd, rest
	}
}

// missing turns the errors of a path that isn't there into fs.ErrNotExist.
func missing(err error) error {
	switch err {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG:
		return fs.ErrNotExist
	}
	return err
}

// stat reads the attributes of a name in a directory, or of the descriptor
// itself when name is empty.
func stat(fd int, name string, st *unix.Statx_t) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	for {
		if err := unix.Statx(fd, name, flags, unix.STATX_BASIC_STATS, st); err != unix.EINTR {
			return err
		}
	}
}

func identityOf(st *unix.Statx_t) identity {
	return identity{
		dev:   unix.Mkdev(st.Dev_major, st.Dev_minor),
		ino:   st.Ino,
		size:  int64(st.Size),
		mtime: st.Mtime.Sec*1e9 + int64(st.Mtime.Nsec),
		ctime: st.Ctime.Sec*1e9 + int64(st.Ctime.Nsec),
	}
}

// direntBytes is the size of a buffer for directory entries.
const direntBytes = 64 << 10

// readDirents calls f for every name in an open directory, with its type as
// S_IFMT bits; 0 when the file system doesn't tell.
func readDirents(fd int, buf []byte, f func(name []byte, mode uint16)) error {
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil || n <= 0 {
			return err
		}
		for rest := buf[:n]; len(rest) > direntName; {
			size := int(binary.NativeEndian.Uint16(rest[direntReclen:]))
			if size <= direntName || size > len(rest) {
				return errors.New("malformed directory entry")
			}
			name, typ := rest[direntName:size], rest[direntType]
			rest = rest[size:]
			for i, c := range name {
				if c == 0 {
					name = name[:i]
					break
				}
			}
			if s := string(name); s != "." && s != ".." {
				f(name, uint16(typ)<<12)
			}
		}
	}
}

// Offsets in struct linux_dirent64.
const (
	direntReclen = 16
	direntType   = 18
	direntName   = 19
)

// entryType returns the type of an entry; false for a type that no layer holds.
func entryType(mode uint16) (layer.Type, bool) {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFSOCK:
		return layer.Regular, true
	case unix.S_IFDIR:
		return layer.Directory, true
	case unix.S_IFLNK:
		return layer.Symlink, true
	case unix.S_IFIFO:
		return layer.Fifo, true
	case unix.S_IFCHR:
		return layer.Char, true
	case unix.S_IFBLK:
		return layer.Block, true
	}
	return 0, false
}

// readlink returns the target of a symlink: of a name in a directory, or of the
// descriptor itself when name is empty.
func readlink(fd int, name string) (string, error) {
	buf := make([]byte, 256)
	for {
		n, err := retry(func() (int, error) { return unix.Readlinkat(fd, name, buf) })
		if err != nil {
			return "", err
		}
		if n < len(buf) {
			return string(buf[:n]), nil
		}
		buf = make([]byte, 4*len(buf))
	}
}

// procPath is the name under which /proc shows what a descriptor is of.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
