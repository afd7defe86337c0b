package layer

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Index is what a whole file tree looked like, from which Changes finds out
// what somebody did to it since. It holds no contents: a file is the same when
// its inode and its attributes are, of which nobody can choose the time of the
// last change (ctime).
//
// What the tree's owner does itself is told to it by Touch, Stub and Mask. Paths
// are slash-separated, relative to the tree, and go through no symlinks. An
// Index isn't safe for concurrent use.
type Index struct {
	dir     string
	root    node
	masked  map[string]bool // by path
	hidden  map[nodeID]bool // what is on masked paths
	latest  int64           // see Settle
	fine    bool            // the file system tells all changes apart
	strange bool            // see Exact
}

// node is a file of an index.
type node struct {
	name         string
	id           nodeID
	mode         uint32
	uid, gid     uint32
	nlink        uint32
	rdev         uint64
	size         int64
	mtime, ctime int64  // ns
	stub         bool   // see Stub
	kids         []node // of a directory, by name
}

// nodeID tells inodes apart, also those that reuse a number.
type nodeID struct {
	ino   uint64
	birth int64 // ns; 0 where the file system doesn't know
}

func (n *node) kind() uint32 { return n.mode & unix.S_IFMT }
func (n *node) isDir() bool  { return n.kind() == unix.S_IFDIR }

// kid returns what a directory has by a name, nil for nothing.
func (n *node) kid(name string) *node {
	i, ok := slices.BinarySearchFunc(n.kids, name, func(k node, name string) int { return strings.Compare(k.name, name) })
	if !ok {
		return nil
	}
	return &n.kids[i]
}

// put inserts or replaces a name of a directory.
func (n *node) put(k node) {
	i, ok := slices.BinarySearchFunc(n.kids, k.name, func(k node, name string) int { return strings.Compare(k.name, name) })
	if ok {
		n.kids[i] = k
		return
	}
	n.kids = slices.Insert(n.kids, i, k)
}

func (n *node) remove(name string) {
	n.kids = slices.DeleteFunc(n.kids, func(k node) bool { return k.name == name })
}

// find returns the file at a path, nil for none.
func (x *Index) find(p string) *node {
	n := &x.root
	if p == "." {
		return n
	}
	for name := range strings.SplitSeq(p, "/") {
		if n = n.kid(name); n == nil {
			return nil
		}
	}
	return n
}

// NewIndex looks at all files in dir.
func NewIndex(ctx context.Context, dir string) (*Index, error) {
	x := &Index{dir: dir, masked: map[string]bool{}, hidden: map[nodeID]bool{}, fine: fineTimes(dir)}
	if err := x.scan(ctx, &x.root); err != nil {
		return nil, fmt.Errorf("index %s: %w", dir, err)
	}
	return x, nil
}

// Mask leaves a path and all that is below it out of Changes, until Unmask.
// What is there now is left out wherever it goes.
func (x *Index) Mask(p string) error {
	n, err := x.stat(p)
	if err != nil {
		return err
	}
	x.masked[p], x.hidden[n.id] = true, true
	return nil
}

// Unmask forgets all masks. What the index knows of the paths is from before;
// when another file is there now than then, Touch tells.
func (x *Index) Unmask() {
	clear(x.masked)
	clear(x.hidden)
}

// Exact reports whether the tree is what the layers that Changes yielded make of
// it. It isn't when there are files in it that no layer holds: sockets, character
// devices 0/0, and what was moved away from masked paths.
func (x *Index) Exact() bool { return !x.strange }

// Touch takes the attributes that a file has now for unchanged, and does nothing
// about what is below it. A file that isn't there is forgotten.
func (x *Index) Touch(p string) error { return x.touch(p, false) }

// Stub is Touch for a file that is there only for a while: it is not part of
// the tree until somebody changes it or, for a directory, what is in it.
func (x *Index) Stub(p string) error { return x.touch(p, true) }

// IsStub reports whether the path was given to Stub and has not been changed as
// far as Changes has seen.
func (x *Index) IsStub(p string) bool {
	n := x.find(p)
	return n != nil && n.stub
}

func (x *Index) touch(p string, stub bool) error {
	n, err := x.stat(p)
	if p == "." {
		if err == nil {
			n.kids = x.root.kids
			x.root = n
		}
		return err
	}
	up := x.find(path.Dir(p))
	if up == nil {
		return fmt.Errorf("index %s: %s: its directory is not known", x.dir, p)
	}
	if errors.Is(err, unix.ENOENT) {
		up.remove(path.Base(p))
		return nil
	}
	if err != nil {
		return err
	}
	n.stub = stub
	if old := up.kid(n.name); old != nil {
		n.kids, n.stub = old.kids, old.stub || stub
	}
	up.put(n)
	return nil
}

// stat looks at one file.
func (x *Index) stat(p string) (node, error) {
	n := node{name: path.Base(p)}
	root, err := openDir(unix.AT_FDCWD, x.dir, 0)
	if err != nil {
		return n, err
	}
	defer unix.Close(root)
	name, err := unix.BytePtrFromString(p)
	if err != nil {
		return n, err
	}
	if err := statNode(root, name, unix.AT_SYMLINK_NOFOLLOW, &n); err != nil {
		return n, fmt.Errorf("index %s: %s: %w", x.dir, p, err)
	}
	return n, nil
}

// statNode fills all but the name and the children.
func statNode(dir int, name *byte, flags int, n *node) error {
	const mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME
	var st unix.Statx_t
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(flags), mask, uintptr(unsafe.Pointer(&st)), 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		break
	}
	n.id = nodeID{ino: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		n.id.birth = nanos(st.Btime)
	}
	n.mode, n.uid, n.gid, n.nlink = uint32(st.Mode), st.Uid, st.Gid, st.Nlink
	n.rdev, n.size = uint64(st.Rdev_major)<<32|uint64(st.Rdev_minor), int64(st.Size)
	n.mtime, n.ctime = nanos(st.Mtime), nanos(st.Ctime)
	return nil
}

func nanos(t unix.StatxTimestamp) int64 { return t.Sec*int64(time.Second) + int64(t.Nsec) }

// Settle waits until the clock of the file system's times has gone on since the
// last change of a file, a few milliseconds at most, so that the next change
// gets another time.
func (x *Index) Settle() {
	const tick = 10 * time.Millisecond // the longest that kernels have
	for start := time.Now(); !x.fine && time.Since(start) < 2*tick; time.Sleep(tick / 20) {
		var now unix.Timespec
		if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now) != nil || now.Nano() > x.latest {
			return
		}
	}
}

// fineTimes reports whether no two changes of a file have the same time when
// somebody looked at it in between: on file systems with multigrain timestamps,
// since Linux 6.13.
func fineTimes(dir string) bool {
	var name unix.Utsname
	var fs unix.Statfs_t
	if unix.Uname(&name) != nil || unix.Statfs(dir, &fs) != nil {
		return false
	}
	var major, minor int
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); n != 2 {
		return false
	}
	switch int64(fs.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return major > 6 || major == 6 && minor >= 13
	}
	return false
}

// scan fills root with the tree as it is, without what is below masked paths.
func (x *Index) scan(ctx context.Context, root *node) error {
	fd, err := openDir(unix.AT_FDCWD, x.dir, 0)
	if err != nil {
		return err
	}
	if err := statNode(fd, new(byte), unix.AT_EMPTY_PATH, root); err != nil {
		unix.Close(fd)
		return fmt.Errorf("stat: %w", err)
	}
	s := scanner{ctx: ctx, masked: x.masked, latest: x.latest, slots: make(chan struct{}, runtime.GOMAXPROCS(0)-1)}
	s.buffers.New = func() any { return &names{raw: make([]byte, 32<<10)} }
	s.dir(fd, root, ".")
	s.wg.Wait()
	x.latest = s.latest
	return s.err
}

// scanner reads directories side by side.
type scanner struct {
	ctx     context.Context
	masked  map[string]bool
	slots   chan struct{}
	wg      sync.WaitGroup
	buffers sync.Pool // of *names

	mu     sync.Mutex
	err    error
	latest int64
}

func (s *scanner) note(latest int64, err error) (stop bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = max(s.latest, latest)
	s.err = cmp.Or(s.err, err)
	return s.err != nil
}

// dir fills the directory n, open as fd, which it closes, and all below.
func (s *scanner) dir(fd int, n *node, p string) {
	defer unix.Close(fd)
	err := context.Cause(s.ctx)
	var latest int64
	if err == nil {
		latest, err = s.fill(fd, n)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", p, err)
	}
	if s.note(latest, err) {
		return
	}
	for i := range n.kids {
		kid := &n.kids[i]
		if !kid.isDir() {
			continue
		}
		child := join(p, kid.name)
		if s.masked[child] {
			continue
		}
		sub, err := openDir(fd, kid.name, unix.O_NOFOLLOW)
		if err != nil {
			s.note(0, fmt.Errorf("%s: %w", p, err))
			return
		}
		select {
		case s.slots <- struct{}{}:
			s.wg.Go(func() {
				s.dir(sub, kid, child)
				<-s.slots
			})
		default:
			s.dir(sub, kid, child)
		}
	}
}

// names is room for a directory's names.
type names struct {
	raw  []byte
	all  []byte // one behind the other
	ends []int
}

// fill reads the names in a directory and what they are. It allocates per
// directory, not per file. It returns when a regular file changed last.
func (s *scanner) fill(fd int, n *node) (latest int64, err error) {
	const nameAt = 19 // ino uint64, off int64, reclen uint16, type uint8
	b := s.buffers.Get().(*names)
	defer s.buffers.Put(b)
	b.all, b.ends = b.all[:0], b.ends[:0]
	for {
		size, err := retry(func() (int, error) { return unix.Getdents(fd, b.raw) })
		if err != nil {
			return 0, fmt.Errorf("read directory: %w", err)
		}
		if size == 0 {
			break
		}
		for rest := b.raw[:size]; len(rest) > nameAt; {
			size := int(binary.NativeEndian.Uint16(rest[16:]))
			if size <= nameAt || size > len(rest) {
				return 0, errors.New("malformed directory entry")
			}
			name := cString(rest[nameAt:size])
			first := &rest[nameAt]
			rest = rest[size:]
			if string(name) == "." || string(name) == ".." {
				continue
			}
			var kid node
			if err := statNode(fd, first, unix.AT_SYMLINK_NOFOLLOW, &kid); err != nil {
				return 0, fmt.Errorf("stat %s: %w", name, err)
			}
			if kid.kind() == unix.S_IFREG {
				latest = max(latest, min(kid.mtime, kid.ctime))
			}
			n.kids = append(n.kids, kid)
			b.all = append(b.all, name...)
			b.ends = append(b.ends, len(b.all))
		}
	}
	all, start := string(b.all), 0
	for i, end := range b.ends {
		n.kids[i].name = all[start:end]
		start = end
	}
	slices.SortFunc(n.kids, func(a, b node) int { return strings.Compare(a.name, b.name) })
	return latest, nil
}
