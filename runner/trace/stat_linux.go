//go:build amd64 || arm64

package trace

import (
	"encoding/binary"
	"strings"
	"syscall"
	"unsafe"
)

// subject is a file that a call asks about, as the helper names it.
type subject struct {
	place
	follow int // 0 to follow a link of /proc, or AT_SYMLINK_NOFOLLOW
}

// subject resolves the path of a call that the helper makes itself; empty
// allows an empty path, which means the descriptor.
func (t *task) subject(dirfd int, addr uint64, follow, empty bool) (subject, syscall.Errno) {
	name := ""
	if addr != 0 || !empty {
		var errno syscall.Errno
		if name, errno = t.str(addr, pageSize); errno != 0 {
			return subject{}, errno
		}
	}
	if name == "" && empty {
		return t.descriptor(dirfd)
	}
	f, errno := t.findName(dirfd, name, follow)
	if errno != 0 {
		return subject{}, errno
	}
	s := subject{place: f.place, follow: atSymlinkNofollow}
	if f.magic {
		s.follow = 0
	}
	return s, 0
}

// descriptor is the file that a descriptor of the task is.
func (t *task) descriptor(n int) (subject, syscall.Errno) {
	link := t.proc("cwd")
	if n != atFDCWD {
		link = t.fdPath(n)
	}
	host, errno := readlink(link)
	if errno == syscall.ENOENT {
		errno = syscall.EBADF
	}
	if errno != 0 {
		return subject{}, errno
	}
	s := subject{place: place{host: link, magic: true}}
	if guest, ok := t.view.guest(host); ok {
		s.guest = guest
		_, s.readOnly = t.view.at(guest)
	}
	return s, 0
}

// stat reads a file's attributes as the step is to see them.
func (t *task) stat(s subject, st *syscall.Stat_t) syscall.Errno {
	errno := fstatat(s.host, s.follow, st)
	if errno == syscall.EACCES && s.guest != "" && t.creds.root() {
		if above, _ := t.view.at(parent(s.guest)); t.unlock(above) {
			errno = fstatat(s.host, s.follow, st)
		}
	}
	if errno == 0 {
		t.owners.apply(s.host, st)
	}
	return errno
}

// stat answers the stat family. The arguments are numbers of arguments; flags
// -1: there are none, and links are followed if follow is set.
func stat(dir, path, buf, flags int, follow bool) handler {
	return func(t *task, r *regs) verdict {
		empty, follow := false, follow
		if flags >= 0 {
			f := r.arg(flags)
			empty, follow = f&atEmptyPath != 0, f&atSymlinkNofollow == 0
		}
		s, errno := t.subject(argDir(r, dir), r.arg(path), follow, empty)
		if errno != 0 {
			return fail(errno)
		}
		return t.answerStat(s, r.arg(buf))
	}
}

func fstat(t *task, r *regs) verdict {
	s, errno := t.descriptor(int(int32(r.arg(0))))
	if errno != 0 {
		return fail(errno)
	}
	return t.answerStat(s, r.arg(1))
}

func (t *task) answerStat(s subject, addr uint64) verdict {
	st := new(syscall.Stat_t)
	if errno := t.stat(s, st); errno != 0 {
		return fail(errno)
	}
	return fail(t.write(addr, unsafe.Slice((*byte)(unsafe.Pointer(st)), unsafe.Sizeof(*st))))
}

// Offsets in struct statx.
const (
	statxUID   = 20
	statxGID   = 24
	statxMode  = 28
	statxIno   = 32
	statxRdev  = 128
	statxDev   = 136
	statxBytes = 256
)

func statx(t *task, r *regs) verdict {
	flags := r.arg(2)
	s, errno := t.subject(argDir(r, 0), r.arg(1), flags&atSymlinkNofollow == 0, flags&atEmptyPath != 0)
	if errno != 0 {
		return fail(errno)
	}
	var b [statxBytes]byte
	at, own := atFDCWD, flags&^(atEmptyPath|atSymlinkNofollow)|uint64(s.follow)
	if _, errno := call(sysStatx, fd(at), uintptr(unsafe.Pointer(cstr(s.host))), uintptr(own), uintptr(r.arg(3)), uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return fail(errno)
	}
	ne := binary.NativeEndian
	var st syscall.Stat_t
	st.Uid, st.Gid, st.Mode = ne.Uint32(b[statxUID:]), ne.Uint32(b[statxGID:]), uint32(ne.Uint16(b[statxMode:]))
	st.Ino = ne.Uint64(b[statxIno:])
	st.Dev = makedev(ne.Uint32(b[statxDev:]), ne.Uint32(b[statxDev+4:]))
	t.owners.apply(s.host, &st)
	ne.PutUint32(b[statxUID:], st.Uid)
	ne.PutUint32(b[statxGID:], st.Gid)
	ne.PutUint16(b[statxMode:], uint16(st.Mode))
	if st.Rdev != 0 {
		major, minor := splitdev(st.Rdev)
		ne.PutUint32(b[statxRdev:], major)
		ne.PutUint32(b[statxRdev+4:], minor)
	}
	return fail(t.write(r.arg(4), b[:]))
}

func makedev(major, minor uint32) uint64 {
	return uint64(minor&0xff) | uint64(major&0xfff)<<8 | uint64(minor&^0xff)<<12 | uint64(major&^0xfff)<<32
}

func splitdev(dev uint64) (major, minor uint32) {
	return uint32(dev>>8&0xfff | dev>>32&^0xfff), uint32(dev&0xff | dev>>12&^0xff)
}

// access answers for what the step believes to be: root may do everything, but
// execute what nobody may.
func access(dir, path, mode, flags int) handler {
	const exec, write, effective = 1, 2, 0x200
	return func(t *task, r *regs) verdict {
		f := uint64(0)
		if flags >= 0 {
			f = r.arg(flags)
		}
		s, errno := t.subject(argDir(r, dir), r.arg(path), f&atSymlinkNofollow == 0, f&atEmptyPath != 0)
		if errno != 0 {
			return fail(errno)
		}
		want := r.arg(mode)
		if want&^7 != 0 {
			return fail(syscall.EINVAL)
		}
		var st syscall.Stat_t
		if errno := t.stat(s, &st); errno != 0 {
			return fail(errno)
		}
		if want&write != 0 && s.readOnly && keeps(st.Mode) {
			return fail(syscall.EROFS)
		}
		uid, gid := t.creds.user.real, t.creds.group.real
		if f&effective != 0 {
			uid, gid = t.creds.user.effective, t.creds.group.effective
		}
		if uid == 0 {
			if want&exec != 0 && st.Mode&0o111 == 0 && st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
				return fail(syscall.EACCES)
			}
			return result(0)
		}
		bits := st.Mode
		switch {
		case uid == st.Uid:
			bits >>= 6
		case gid == st.Gid || t.creds.inGroup(st.Gid):
			bits >>= 3
		}
		if uint64(bits)&want != want {
			return fail(syscall.EACCES)
		}
		return result(0)
	}
}

// readlinkAt answers readlink(2): links of /proc tell about the host.
func readlinkAt(dir, path, buf, size int) handler {
	return func(t *task, r *regs) verdict {
		s, errno := t.subject(argDir(r, dir), r.arg(path), false, dir >= 0)
		if errno != 0 {
			return fail(errno)
		}
		if int64(r.arg(size)) <= 0 {
			return fail(syscall.EINVAL)
		}
		text, errno := t.linkText(s)
		if errno != 0 {
			return fail(errno)
		}
		text = text[:min(uint64(len(text)), r.arg(size))]
		if errno := t.write(r.arg(buf), []byte(text)); errno != 0 {
			return fail(errno)
		}
		return result(len(text))
	}
}

func (t *task) linkText(s subject) (string, syscall.Errno) {
	if s.magic { // an O_PATH descriptor of a link
		n, err := syscall.Open(s.host, oPath|syscall.O_CLOEXEC, 0)
		if err != nil {
			return "", errnoOf(err)
		}
		defer syscall.Close(n)
		return readlinkFD(n)
	}
	dir, name := parent(s.guest), s.guest[strings.LastIndexByte(s.guest, '/')+1:]
	if rest, ok := under(dir, "/proc"); ok {
		text, errno := t.walk().procLink(rest, name, s.guest, false)
		if errno != syscall.EINVAL && errno != errMagic {
			return text, errno
		}
	}
	return readlink(s.host)
}

func readlinkFD(n int) (string, syscall.Errno) {
	var b [pageSize]byte
	size, errno := call(syscall.SYS_READLINKAT, fd(n), uintptr(unsafe.Pointer(cstr(""))), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return "", errno
	}
	return string(b[:size]), 0
}

func getcwd(t *task, r *regs) verdict {
	guest, errno := t.dir(atFDCWD)
	if errno != 0 {
		return fail(errno)
	}
	if uint64(len(guest)) >= r.arg(1) {
		return fail(syscall.ERANGE)
	}
	if errno := t.write(r.arg(0), append([]byte(guest), 0)); errno != 0 {
		return fail(errno)
	}
	return result(len(guest) + 1)
}
