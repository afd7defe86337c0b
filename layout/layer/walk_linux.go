package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Walk streams the unpacked layer in dir, its root directory (".") first.
// Whiteouts are character devices 0/0, or empty files with the xattr
// overlay.whiteout in a directory whose xattr overlay.opaque is "x"; opaque
// directories have that xattr with "y"; see OverlayPrefix. Files of one
// inode become one entry and hard links to it. Sockets are left out, and xattrs
// that belong to the machine and not to the file (SELinux and Smack labels, EVM
// signatures). Directories that overlayfs redirected and files whose data it
// left below (redirect_dir, metacopy) are errors. The content of a file is a
// [File] that must be as it was when Walk saw it; dir must stay until it is
// read.
func Walk(dir string) Entries {
	return func(yield func(*Entry, error) bool) {
		w := walker{dir: dir, yield: yield, links: make(map[inode]string)}
		w.xattrs.notes = OverlayPrefix()
		if err := w.root(); err != nil && !errors.Is(err, errStopped) {
			yield(nil, fmt.Errorf("walk layer %s: %w", dir, err))
		}
	}
}

// errStopped says that the consumer of a stream wants no more.
var errStopped = errors.New("stopped")

type inode struct{ dev, ino uint64 }

type walker struct {
	dir    string
	yield  func(*Entry, error) bool
	links  map[inode]string // first path of each inode with several links
	xattrs xattrReader
	dents  []byte
}

func (w *walker) root() error {
	fd, err := openDir(unix.AT_FDCWD, w.dir, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	return w.directory(fd, ".", &st)
}

// directory yields the directory p, open as fd, and all below it.
func (w *walker) directory(fd int, p string, st *unix.Stat_t) error {
	x, err := w.xattrs.ofDir(fd)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	if x.redirect {
		return fmt.Errorf("%s: overlayfs renamed this directory (redirect_dir); mount with redirect_dir=off", p)
	}
	e := newEntry(p, Directory, st)
	e.Xattrs, e.Opaque = x.kept, x.opaque == "y"
	if !w.yield(e, nil) {
		return errStopped
	}
	names, err := w.names(fd)
	if err != nil {
		return fmt.Errorf("%s: read directory: %w", p, err)
	}
	for _, name := range names {
		child := name
		if p != "." {
			child = p + "/" + name
		}
		if err := w.child(fd, name, child, x.opaque == "x"); err != nil {
			return err
		}
	}
	return nil
}

// child yields the file called name in the directory fd, whose path is p.
func (w *walker) child(fd int, name, p string, xattrWhiteouts bool) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%s: stat: %w", p, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		sub, err := openDir(fd, name, unix.O_NOFOLLOW)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		defer unix.Close(sub)
		return w.directory(sub, p, &st)
	}
	e, err := w.file(fd, name, p, &st, xattrWhiteouts)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	if e != nil && !w.yield(e, nil) {
		return errStopped
	}
	return nil
}

// file returns the entry of what is no directory, nil for a socket.
func (w *walker) file(fd int, name, p string, st *unix.Stat_t, xattrWhiteouts bool) (*Entry, error) {
	typ := st.Mode & unix.S_IFMT
	if typ == unix.S_IFSOCK {
		return nil, nil
	}
	if typ == unix.S_IFCHR && st.Rdev == 0 {
		return &Entry{Path: p, Type: Whiteout}, nil
	}
	x, err := w.xattrs.of(fd, name)
	if err != nil {
		return nil, err
	}
	if x.metacopy {
		return nil, errors.New("overlayfs left this file's data in a lower layer (metacopy); mount with metacopy=off")
	}
	if x.whiteout && xattrWhiteouts && typ == unix.S_IFREG && st.Size == 0 {
		return &Entry{Path: p, Type: Whiteout}, nil
	}
	if st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino}
		if first, ok := w.links[id]; ok {
			e := newEntry(p, Hardlink, st)
			e.Link = first
			return e, nil
		}
		w.links[id] = p
	}
	e, err := w.inode(fd, name, p, st)
	if err == nil {
		e.Xattrs = x.kept
	}
	return e, err
}

// inode returns the entry for the first link of a file.
func (w *walker) inode(fd int, name, p string, st *unix.Stat_t) (*Entry, error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if st.Size == 0 {
			return newEntry(p, Regular, st), nil
		}
		f := &struct {
			Entry
			File
		}{*newEntry(p, Regular, st), File{Dir: w.dir, Name: p, Want: statOf(st)}}
		f.Entry.Size, f.Entry.Content = st.Size, &f.File
		return &f.Entry, nil
	case unix.S_IFLNK:
		e := newEntry(p, Symlink, st)
		var err error
		e.Link, err = readlink(fd, name)
		return e, err
	case unix.S_IFIFO:
		return newEntry(p, Fifo, st), nil
	}
	e := newEntry(p, Block, st)
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		e.Type = Char
	}
	e.DevMajor, e.DevMinor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	return e, nil
}

func newEntry(p string, typ Type, st *unix.Stat_t) *Entry {
	return &Entry{
		Path: p, Type: typ, Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
}

// names returns the sorted names in the directory fd.
func (w *walker) names(fd int) ([]string, error) {
	if w.dents == nil {
		w.dents = make([]byte, 64<<10)
	}
	names, err := readNames(fd, w.dents)
	slices.Sort(names)
	return names, err
}

// readNames returns the names in the directory fd, but "." and "..".
func readNames(fd int, buf []byte) (names []string, err error) {
	const nameAt = 19 // ino uint64, off int64, reclen uint16, type uint8
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil || n == 0 {
			return names, err
		}
		for b := buf[:n]; len(b) > nameAt; {
			size := int(binary.NativeEndian.Uint16(b[16:]))
			if size <= nameAt || size > len(b) {
				return names, errors.New("malformed directory entry")
			}
			name := string(cString(b[nameAt:size]))
			if name != "." && name != ".." {
				names = append(names, name)
			}
			b = b[size:]
		}
	}
}

func cString(b []byte) []byte {
	if i := slices.Index(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

// openDir opens the directory name, below the directory at.
func openDir(at int, name string, flags int) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|flags, 0)
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

func readlink(at int, name string) (string, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Readlinkat(at, name, buf)
		if err != nil {
			return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
		}
		if n < len(buf) {
			return string(buf[:n]), nil
		}
		buf = make([]byte, 2*len(buf))
	}
}

// join is path.Join for two clean paths.
func join(dir, name string) string {
	if dir == "." || strings.HasPrefix(name, "/") {
		return path.Clean(strings.TrimLeft(name, "/"))
	}
	return dir + "/" + name
}
