package source

import (
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout/layer"
)

// Local is a directory as a build sees it. It is safe for concurrent use.
// What has been looked at once stays as it was then, for this build: a file
// that changes afterwards is an error when its bytes are read.
type Local struct {
	fd     int    // O_PATH descriptor of the directory
	name   string // its real path
	filter filter
	opts   LocalOptions
	remote bool // a file system on which clocks and timestamps are not ours
	uid    int

	root *dir
	top  *file               // the root's entry
	near atomic.Pointer[dir] // where the last path was found

	scanning sync.Mutex // one scan at a time: it uses all workers
	indexing sync.Once
	index    *index // what the last builds know; nil: nothing
	changed  atomic.Bool
	today    uint16
}

var (
	_ snapshot.FS     = (*Local)(nil)
	_ snapshot.Linker = (*Local)(nil)
)

// OpenLocal opens a directory (a symlink to one is resolved here, once) without
// reading it. The caller closes it after the last read of a file's content.
func OpenLocal(dir string, opts LocalOptions) (*Local, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &os.PathError{Op: "open the build context", Path: dir, Err: err}
	}
	l := &Local{fd: fd, opts: opts, uid: os.Geteuid(), today: uint16(time.Now().Unix() / 86400)}
	if err := l.open(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open the build context %s: %w", dir, err)
	}
	return l, nil
}

func (l *Local) open() error {
	name, err := os.Readlink(procPath(l.fd))
	if err != nil {
		return fmt.Errorf("%w (is /proc mounted?)", err)
	}
	var st unix.Statx_t
	if err := stat(l.fd, "", &st); err != nil {
		return err
	}
	include, err := follow(l.fd, l.opts.Include, l.opts.FollowPaths)
	if err != nil {
		return err
	}
	if l.filter, err = newFilter(include, l.opts.Exclude); err != nil {
		return err
	}
	if l.opts.Jobs <= 0 {
		l.opts.Jobs = max(2, runtime.GOMAXPROCS(0))
	}
	l.name, l.remote = name, isRemote(l.fd)
	l.root = &dir{l: l}
	l.top = &file{path: ".", typ: layer.Directory, dir: l.root, in: l.root}
	l.top.fill(&st, "")
	l.top.mode = 0o755
	l.top.state.Store(known)
	return nil
}

// isRemote says that somebody else's clock writes the timestamps.
func isRemote(fd int) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return true
	}
	switch uint32(st.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC,
		unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC, unix.V9FS_MAGIC,
		unix.FUSE_SUPER_MAGIC, unix.CODA_SUPER_MAGIC:
		return true
	}
	return false
}

// Close releases the directory. Contents that are open stay readable; others
// can no longer be opened.
func (l *Local) Close() error {
	if l.fd < 0 {
		return nil
	}
	l.scanning.Lock()
	defer l.scanning.Unlock()
	l.index.close()
	l.index = nil
	err := unix.Close(l.fd)
	l.fd = -1
	return err
}

// Lstat returns the entry at path. Its owner is always 0:0, and the root is a
// directory of mode 0755 whatever it is outside. The content of a file has a
// digest once [Local.Scan] has been there.
func (l *Local) Lstat(path string) (*layer.Entry, error) {
	f, err := l.find(path)
	if err != nil {
		return nil, l.fail("lstat", path, err)
	}
	if err := f.look(); err != nil {
		return nil, l.fail("lstat", path, err)
	}
	return f.entry(), nil
}

// ReadDir returns the names in a directory in bytewise order. The caller
// doesn't change them.
func (l *Local) ReadDir(path string) ([]string, error) {
	d, err := l.findDir(path)
	if err != nil {
		return nil, l.fail("read directory", path, err)
	}
	names, err := d.readNames()
	if err != nil {
		return nil, l.fail("read directory", path, err)
	}
	return names, nil
}

// inode is one file, whatever its names.
type inode struct{ dev, ino uint64 }

// Inode returns the same value for all names of a regular file; nil when it has
// one name only.
func (l *Local) Inode(path string) any {
	f, err := l.find(path)
	if err != nil || f.typ != layer.Regular || f.look() != nil || !f.links {
		return nil
	}
	return inode{f.id.dev, f.id.ino}
}

func (l *Local) fail(op, path string, err error) error {
	if err = missing(err); err == fs.ErrNotExist {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	return readable(path, err)
}

func (l *Local) findDir(path string) (*dir, error) {
	f, err := l.find(path)
	if err != nil {
		return nil, err
	}
	if f.dir == nil {
		return nil, unix.ENOTDIR
	}
	return f.dir, nil
}

// find returns the visible file at a path: relative, without empty, "." and ".."
// elements, of any other bytes but NUL. No file has a path that isn't like that.
func (l *Local) find(path string) (*file, error) {
	if path == "." {
		return l.top, nil
	}
	if strings.IndexByte(path, 0) >= 0 {
		return nil, fs.ErrNotExist
	}
	d, rest := l.root, path
	if n := l.near.Load(); n != nil && len(path) > len(n.path) && path[len(n.path)] == '/' && strings.HasPrefix(path, n.path) {
		d, rest = n, path[len(n.path)+1:]
	}
	for {
		name, below, more := strings.Cut(rest, "/")
		if name == "" || name == "." || name == ".." {
			return nil, fs.ErrNotExist
		}
		f, err := d.child(name)
		if err != nil {
			return nil, err
		}
		if !more {
			if d != l.root {
				l.near.Store(d)
			}
			return f, l.visible(f)
		}
		if f.dir == nil {
			return nil, unix.ENOTDIR
		}
		d, rest = f.dir, below
	}
}

// visible returns fs.ErrNotExist for a directory that the patterns hide with
// all that is in it.
func (l *Local) visible(f *file) error {
	if f.skip {
		ok, err := f.dir.anyVisible()
		if err != nil {
			return err
		}
		if !ok {
			return fs.ErrNotExist
		}
	}
	return nil
}
