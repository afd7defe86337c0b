//go:build amd64 || arm64

package trace

import (
	"bytes"
	"strconv"
	"syscall"
	"unsafe"
)

// held is a file that the helper changes for the step, by a descriptor of its
// own, so that nothing that the step does to the path meanwhile matters.
type held struct {
	n    int
	name string         // the file, by /proc; calls follow it
	disk syscall.Stat_t // as it is
	seen syscall.Stat_t // as the step sees it
	rec  record         // what is remembered
}

// hold opens the subject for a change.
func (t *task) hold(s subject) (*held, syscall.Errno) {
	if s.readOnly {
		return nil, syscall.EROFS
	}
	h := &held{n: -1, name: s.host}
	if !s.magic {
		n, errno := hold(s.host)
		if errno != 0 {
			return nil, errno
		}
		h.n, h.name = n, "/proc/self/fd/"+strconv.Itoa(n)
	}
	if errno := fstatat(h.name, 0, &h.disk); errno != 0 {
		h.close()
		return nil, errno
	}
	h.seen = h.disk
	t.owners.apply(h.name, &h.seen)
	h.rec = t.owners.get(h.name, &h.disk)
	return h, 0
}

func (h *held) close() {
	if h.n >= 0 {
		syscall.Close(h.n)
	}
}

// chmod answers the chmod family; path -1: the first argument is a descriptor.
func chmod(dir, path, mode, flags int) handler {
	return func(t *task, r *regs) verdict {
		h, errno := t.holdArgs(r, dir, path, flags, true)
		if errno != 0 {
			return fail(errno)
		}
		defer h.close()
		return fail(t.chmod(h, uint32(r.arg(mode))&0o7777))
	}
}

// holdArgs opens what a call's arguments name.
func (t *task) holdArgs(r *regs, dir, path, flags int, follow bool) (*held, syscall.Errno) {
	if path < 0 {
		s, errno := t.descriptor(int(int32(r.arg(0))))
		if errno != 0 {
			return nil, errno
		}
		return t.hold(s)
	}
	empty := false
	if flags >= 0 {
		f := r.arg(flags)
		follow, empty = follow && f&atSymlinkNofollow == 0, f&atEmptyPath != 0
	}
	s, errno := t.subject(argDir(r, dir), r.arg(path), follow, empty)
	if errno != 0 {
		return nil, errno
	}
	return t.hold(s)
}

func (t *task) chmod(h *held, want uint32) syscall.Errno {
	c := t.creds
	if !c.root() && c.user.fs != h.seen.Uid {
		return syscall.EPERM
	}
	if h.disk.Mode&syscall.S_IFMT == syscall.S_IFLNK {
		return syscall.EOPNOTSUPP
	}
	if !c.root() && !c.inGroup(h.seen.Gid) {
		want &^= syscall.S_ISGID
	}
	if !keeps(h.disk.Mode) {
		return fchmodat(h.name, want)
	}
	disk := want | opened(h.disk.Mode&syscall.S_IFMT|want)
	if errno := fchmodat(h.name, disk); errno != 0 {
		return errno
	}
	rec := h.rec
	rec.locked = -1
	if disk != want {
		rec.locked = int32(want)
	}
	if rec == h.rec {
		return 0
	}
	return t.owners.set(h.name, &h.disk, rec)
}

// chown answers the chown family; path -1: the first argument is a descriptor.
func chown(dir, path, uid, flags int, follow bool) handler {
	return func(t *task, r *regs) verdict {
		h, errno := t.holdArgs(r, dir, path, flags, follow)
		if errno != 0 {
			return fail(errno)
		}
		defer h.close()
		return fail(t.chown(h, uint32(r.arg(uid)), uint32(r.arg(uid+1))))
	}
}

func (t *task) chown(h *held, uid, gid uint32) syscall.Errno {
	c := t.creds
	if !c.root() && (c.user.fs != h.seen.Uid || uid != keep && uid != h.seen.Uid || gid != keep && gid != h.seen.Gid && !c.inGroup(gid)) {
		return syscall.EPERM
	}
	rec := h.rec
	rec.uid, rec.gid = h.seen.Uid, h.seen.Gid
	if uid != keep {
		rec.uid = uid
	}
	if gid != keep {
		rec.gid = gid
	}
	if mode := h.seen.Mode; mode&syscall.S_IFMT == syscall.S_IFREG && mode&(syscall.S_ISUID|syscall.S_ISGID) != 0 {
		cleared := uint32(syscall.S_ISUID)
		if mode&0o010 != 0 {
			cleared |= syscall.S_ISGID
		}
		if errno := fchmodat(h.name, h.disk.Mode&0o7777&^cleared); errno != 0 {
			return errno
		}
		h.disk.Mode &^= cleared
		if rec.locked >= 0 {
			rec.locked &^= int32(cleared)
		}
	}
	if rec == h.rec {
		return 0
	}
	return t.remember(h.name, &h.disk, rec)
}

// mknod makes devices as files that are remembered to be devices.
func mknod(dir, path, mode int) handler {
	return func(t *task, r *regs) verdict {
		m := uint32(r.arg(mode))
		n := names{dir: dir, path: path, change: true, create: true}
		if kind := m & syscall.S_IFMT; kind != syscall.S_IFCHR && kind != syscall.S_IFBLK {
			return t.translate(r, []names{n})
		}
		if !t.creds.root() {
			return fail(syscall.EPERM)
		}
		f, errno := t.find(argDir(r, dir), r.arg(path), false)
		if errno == 0 {
			errno = t.changes(f.place)
		}
		if errno != 0 {
			return fail(errno)
		}
		if err := syscall.Mknod(f.host, syscall.S_IFREG|0o600, 0); err != nil {
			return fail(errnoOf(err))
		}
		h, errno := t.hold(subject{place: f.place})
		if errno != 0 {
			return fail(errno)
		}
		defer h.close()
		rec := record{uid: t.creds.user.fs, gid: t.creds.group.fs, device: 'c', locked: -1}
		if m&syscall.S_IFMT == syscall.S_IFBLK {
			rec.device = 'b'
		}
		rec.major, rec.minor = splitdev(r.arg(mode+1) & (1<<32 - 1))
		if errno := t.owners.set(h.name, &h.disk, rec); errno != 0 {
			return fail(errno)
		}
		h.rec, h.seen.Uid, h.seen.Gid = rec, rec.uid, rec.gid
		return fail(t.chmod(h, m&0o7777&^t.umask()))
	}
}

// timesKind is the form in which a call takes times.
type timesKind int

const (
	nanoseconds  timesKind = iota // two of struct timespec
	microseconds                  // two of struct timeval
	seconds                       // struct utimbuf
)

// utimes answers the utime family; flags -1: there are none.
func utimes(dir, path, times int, kind timesKind, flags int) handler {
	return func(t *task, r *regs) verdict {
		if r.arg(path) == 0 && dir >= 0 { // the descriptor itself
			return verdict{kind: pass}
		}
		ts, errno := t.times(r.arg(times), kind)
		if errno != 0 {
			return fail(errno)
		}
		h, errno := t.holdArgs(r, dir, path, flags, true)
		if errno != 0 {
			return fail(errno)
		}
		defer h.close()
		at := atFDCWD
		_, errno = call(syscall.SYS_UTIMENSAT, fd(at), uintptr(unsafe.Pointer(cstr(h.name))), uintptr(unsafe.Pointer(ts)), 0)
		return fail(errno)
	}
}

// times reads times as utimensat takes them; nil is now.
func (t *task) times(addr uint64, kind timesKind) (*[4]int64, syscall.Errno) {
	if addr == 0 {
		return nil, 0
	}
	b := make([]byte, 32)
	if kind == seconds {
		b = b[:16]
	}
	if errno := t.read(addr, b); errno != 0 {
		return nil, errno
	}
	ts := new([4]int64)
	for i := range len(b) / 8 {
		ts[i] = int64(le64(b[8*i:]))
	}
	switch kind {
	case seconds:
		ts[1], ts[2] = 0, ts[1]
	case microseconds:
		if ts[1] < 0 || ts[1] >= 1e6 || ts[3] < 0 || ts[3] >= 1e6 {
			return nil, syscall.EINVAL
		}
		ts[1], ts[3] = ts[1]*1000, ts[3]*1000
	case nanoseconds:
	}
	return ts, 0
}

// listxattr hides the attribute that files are remembered in; path -1: the
// first argument is a descriptor.
func listxattr(path int, follow bool) handler {
	return func(t *task, r *regs) verdict {
		var s subject
		var errno syscall.Errno
		if path < 0 {
			s, errno = t.descriptor(int(int32(r.arg(0))))
		} else {
			s, errno = t.subject(atFDCWD, r.arg(path), follow, false)
		}
		if errno != 0 {
			return fail(errno)
		}
		b := make([]byte, 65536)
		nr := uintptr(sysListxattr)
		if s.follow != 0 {
			nr = sysListxattr + 1 // llistxattr, on all architectures
		}
		n, errno := call(nr, uintptr(unsafe.Pointer(cstr(s.host))), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno != 0 {
			return fail(errno)
		}
		list := b[:n]
		for _, name := range []string{attribute, modeAttribute} {
			list = bytes.Replace(list, []byte(name+"\x00"), nil, 1)
		}
		size := r.arg(2)
		if size == 0 {
			return result(len(list))
		}
		if size < uint64(len(list)) {
			return fail(syscall.ERANGE)
		}
		if errno := t.write(r.arg(1), list); errno != 0 {
			return fail(errno)
		}
		return result(len(list))
	}
}
