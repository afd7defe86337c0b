package snapshot

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
	"bk.build/bk/runner/ids"
)

// DirLayer returns the layer that is unpacked in the directory at dir, in
// overlayfs's form: a character device 0/0 or an empty file with the attribute
// overlay.whiteout removes a name, the attribute overlay.opaque hides a
// directory's lower namesakes; see layer.OverlayPrefix.
// Sockets, which no layer can hold, remove their name. The directory must not
// change; nothing in it is followed or opened but regular files.
func DirLayer(dir string) Layer { return Layer{&dirLayer{root: dir, notes: layer.OverlayPrefix()}} }

// dirLayer is the source of an unpacked directory.
type dirLayer struct {
	root  string
	notes string // how overlayfs's attributes begin
	// inodes are remembered ones; nil: files are what they seem.
	inodes ids.Record
}

// open implements source.
func (l *dirLayer) open(dir string) (dirReader, error) {
	fd, err := openBelow(l.root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path.Join(l.root, dir), Err: err}
	}
	return &openDir{layer: l, path: dir, fd: fd}, nil
}

// openBelow opens a path below root in which no element is a symlink.
func openBelow(root, p string, flags int) (int, error) {
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	base, err := retry(func() (int, error) {
		return unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, err
	}
	defer unix.Close(base)
	how := unix.OpenHow{
		Flags:   uint64(flags),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := retry(func() (int, error) { return unix.Openat2(base, p, &how) })
	if err == unix.ENOSYS || err == unix.EPERM { // an old kernel, or a filter that doesn't know the call
		return openSteps(base, p, flags)
	}
	return fd, err
}

// openSteps is openBelow without openat2, one element at a time.
func openSteps(base int, p string, flags int) (int, error) {
	dir, err := unix.Dup(base)
	if err != nil {
		return -1, err
	}
	for {
		name, rest, more := strings.Cut(p, "/")
		how := flags
		if more {
			how = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		}
		fd, err := retry(func() (int, error) { return unix.Openat(dir, name, how, 0) })
		unix.Close(dir)
		if err != nil || !more {
			return fd, err
		}
		dir, p = fd, rest
	}
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR && err != unix.EAGAIN {
			return n, err
		}
	}
}

// openDir is a dirReader of an unpacked directory.
type openDir struct {
	layer *dirLayer
	path  string
	fd    int
}

func (d *openDir) close() { unix.Close(d.fd) }

// names implements dirReader.
func (d *openDir) names() ([]string, error) {
	var names []string
	buf := make([]byte, 8<<10)
	for {
		n, err := retry(func() (int, error) { return unix.ReadDirent(d.fd, buf) })
		if err != nil {
			return nil, d.fail("readdir", ".", err)
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// stat implements dirReader.
func (d *openDir) stat(name string) (found, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return found{}, d.fail("lstat", name, err)
		}
	}
	ent := &layer.Entry{
		Path:    d.join(name),
		Mode:    st.Mode & 0o7777,
		UID:     int(st.Uid),
		GID:     int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
	if err := d.fill(ent, name, &st); err != nil {
		return found{}, err
	}
	if d.layer.inodes != nil {
		reveal(ent, d.layer.inodes)
	}
	f := found{ent: ent}
	if ent.Type == layer.Regular && st.Nlink > 1 {
		f.ino = inodeID{d.layer, uint64(st.Dev), st.Ino}
	}
	return f, nil
}

func (d *openDir) join(name string) string {
	if name == "." {
		return d.path
	}
	return join(d.path, name)
}

// inodeID tells the files of one layer apart.
type inodeID struct {
	layer    *dirLayer
	dev, ino uint64
}

func (d *openDir) fail(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: path.Join(d.layer.root, d.path, name), Err: err}
}

// fill sets what depends on the type.
func (d *openDir) fill(ent *layer.Entry, name string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		ent.Type, ent.Size = layer.Regular, st.Size
		if st.Size > 0 {
			ent.Content = &dirContent{layer: d.layer, path: ent.Path, size: st.Size}
		}
	case unix.S_IFDIR:
		ent.Type = layer.Directory
	case unix.S_IFLNK:
		return d.fillLink(ent, name)
	case unix.S_IFCHR:
		ent.Type = layer.Char
		if st.Rdev == 0 {
			ent.Type = layer.Whiteout
			return nil
		}
	case unix.S_IFBLK:
		ent.Type = layer.Block
	case unix.S_IFIFO:
		ent.Type = layer.Fifo
	default:
		ent.Type = layer.Whiteout
		return nil
	}
	if ent.Type == layer.Char || ent.Type == layer.Block {
		ent.DevMajor, ent.DevMinor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	return d.fillXattrs(ent, name)
}

func (d *openDir) fillLink(ent *layer.Entry, name string) error {
	ent.Type, ent.Mode = layer.Symlink, 0o777
	var buf [unix.PathMax + 1]byte
	n, err := retry(func() (int, error) { return unix.Readlinkat(d.fd, name, buf[:]) })
	if err != nil {
		return d.fail("readlink", name, err)
	}
	ent.Link = string(buf[:n])
	return d.fillXattrs(ent, name)
}

// fillXattrs reads the extended attributes, and what overlayfs says in them.
func (d *openDir) fillXattrs(ent *layer.Entry, name string) error {
	keys, err := listXattrs(d.fd, name)
	if err != nil {
		return d.fail("listxattr", name, err)
	}
	for key := range strings.SplitSeq(keys, "\x00") {
		if key == "" {
			continue
		}
		value, err := getXattr(procPath(d.fd, name), key)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return d.fail("getxattr "+key, name, err)
		}
		if err := d.setXattr(ent, key, value); err != nil {
			return err
		}
	}
	return nil
}

// setXattr takes one attribute. Those of overlayfs are its own notes.
func (d *openDir) setXattr(ent *layer.Entry, key, value string) error {
	if _, ok := overlayNote(key); !ok {
		if !ofMachine(key) {
			if ent.Xattrs == nil {
				ent.Xattrs = map[string]string{}
			}
			ent.Xattrs[key] = canonicalXattr(key, value)
		}
		return nil
	}
	switch note, _ := strings.CutPrefix(key, d.layer.notes); {
	case note == "opaque" && ent.Type == layer.Directory:
		ent.Opaque = value == "y"
	case note == "whiteout" && ent.Type == layer.Regular && ent.Size == 0 && d.xattrWhiteouts():
		ent.Type = layer.Whiteout
	case note == "redirect" && ent.Type == layer.Directory, note == "metacopy" && ent.Type == layer.Regular:
		return fmt.Errorf("layer %s: %s has its content elsewhere (overlay.%s): overlays must be mounted with redirect_dir=off,metacopy=off",
			d.layer.root, display(ent.Path), note)
	}
	return nil
}

// xattrWhiteouts reports whether the directory says that it has whiteouts in
// the form of attributes.
func (d *openDir) xattrWhiteouts() bool {
	var buf [2]byte
	n, err := unix.Fgetxattr(d.fd, d.layer.notes+"opaque", buf[:])
	return err == nil && string(buf[:n]) == "x"
}

// listXattrs returns the names of a file's attributes, each ended by a zero
// byte; none where the file system has no attributes.
func listXattrs(fd int, name string) (string, error) {
	var small [1024]byte
	buf := small[:]
	for {
		n, err := llistxattrat(fd, name, buf)
		switch {
		case err == nil:
			return string(buf[:n]), nil
		case err == unix.ERANGE && len(buf) < maxXattr:
			buf = make([]byte, maxXattr)
		case err == unix.ENOTSUP:
			return "", nil
		case err != unix.EINTR:
			return "", err
		}
	}
}

// llistxattrat is listxattrat(2), and llistxattr(2) where the kernel (before
// 6.13) or a filter doesn't have it.
func llistxattrat(fd int, name string, buf []byte) (int, error) {
	if p, err := unix.BytePtrFromString(name); err == nil {
		n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(fd), uintptr(unsafe.Pointer(p)),
			unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.ENOSYS && errno != unix.EPERM {
			return 0, errno
		}
	}
	return unix.Llistxattr(procPath(fd, name), buf)
}

// procPath names a file in an open directory for calls that take no directory.
func procPath(fd int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name
}

// maxXattr is the kernel's limit (XATTR_SIZE_MAX) for a list and for a value.
const maxXattr = 64 << 10

func getXattr(file, key string) (string, error) {
	var small [256]byte
	buf := small[:]
	for {
		n, err := unix.Lgetxattr(file, key, buf)
		switch {
		case err == nil:
			return string(buf[:n]), nil
		case err == unix.ERANGE && len(buf) < maxXattr:
			buf = make([]byte, maxXattr)
		case err != unix.EINTR:
			return "", err
		}
	}
}
