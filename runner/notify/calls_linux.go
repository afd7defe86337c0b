package notify

import (
	"encoding/binary"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/ids"
)

func pointer[T any](p *T) unsafe.Pointer { return unsafe.Pointer(p) }

// table holds all calls that are answered. Those that end in 32 are of 32-bit
// ABIs, whose calls of the shorter name take ids of 16 bits.
var table = []call{
	{name: "fchownat", handle: func(r *request) answer { return r.chown(int32(r.args[0]), 1, 2, int(r.args[4])) }},
	{name: "fchown", handle: (*request).fchown}, {name: "fchown32", handle: (*request).fchown},
	{name: "chown", handle: follow, native: true}, {name: "chown32", handle: follow},
	{name: "lchown", handle: noFollow, native: true}, {name: "lchown32", handle: noFollow},

	{name: "setuid", handle: setuid, native: true}, {name: "setuid32", handle: setuid},
	{name: "setgid", handle: setgid, native: true}, {name: "setgid32", handle: setgid},
	{name: "setreuid", handle: setreuid, native: true}, {name: "setreuid32", handle: setreuid},
	{name: "setregid", handle: setregid, native: true}, {name: "setregid32", handle: setregid},
	{name: "setresuid", handle: setresuid, native: true}, {name: "setresuid32", handle: setresuid},
	{name: "setresgid", handle: setresgid, native: true}, {name: "setresgid32", handle: setresgid},
	{name: "setfsuid", handle: setfsuid, native: true}, {name: "setfsuid32", handle: setfsuid},
	{name: "setfsgid", handle: setfsgid, native: true}, {name: "setfsgid32", handle: setfsgid},
	{name: "setgroups", handle: setgroups, native: true}, {name: "setgroups32", handle: setgroups},

	{name: "getuid", handle: getuid, native: true}, {name: "getuid32", handle: getuid},
	{name: "geteuid", handle: geteuid, native: true}, {name: "geteuid32", handle: geteuid},
	{name: "getgid", handle: getgid, native: true}, {name: "getgid32", handle: getgid},
	{name: "getegid", handle: getegid, native: true}, {name: "getegid32", handle: getegid},
	{name: "getresuid", handle: getresuid, native: true}, {name: "getresuid32", handle: getresuid},
	{name: "getresgid", handle: getresgid, native: true}, {name: "getresgid32", handle: getresgid},
	{name: "getgroups", handle: getgroups, native: true}, {name: "getgroups32", handle: getgroups},

	{name: "mknod", handle: func(r *request) answer { return r.mknod(unix.AT_FDCWD, 0) }},
	{name: "mknodat", handle: func(r *request) answer { return r.mknod(int32(r.args[0]), 1) }},
	{name: "mkdir", handle: func(r *request) answer { return r.mkdir(unix.AT_FDCWD, 0) }},
	{name: "mkdirat", handle: func(r *request) answer { return r.mkdir(int32(r.args[0]), 1) }},
	{name: "symlink", handle: func(r *request) answer { return r.symlink(unix.AT_FDCWD, 1) }},
	{name: "symlinkat", handle: func(r *request) answer { return r.symlink(int32(r.args[1]), 2) }},
	{name: "open", creates: 2, handle: func(r *request) answer { return r.create(unix.AT_FDCWD, 0, int(r.args[1]), uint32(r.args[2])) }},
	{name: "openat", creates: 3, handle: func(r *request) answer { return r.create(int32(r.args[0]), 1, int(r.args[2]), uint32(r.args[3])) }},
	{name: "openat2", handle: (*request).openat2},
	{name: "creat", handle: func(r *request) answer {
		return r.create(unix.AT_FDCWD, 0, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, uint32(r.args[1]))
	}},
	{name: "execve", handle: func(r *request) answer { return r.exec(unix.AT_FDCWD, 0, 0) }},
	{name: "execveat", handle: func(r *request) answer { return r.exec(int32(r.args[0]), 1, int(r.args[4])) }},

	{name: "stat", native: true, handle: func(r *request) answer { return r.stat(unix.AT_FDCWD, 0, 1, 0) }},
	{name: "lstat", native: true, handle: func(r *request) answer { return r.stat(unix.AT_FDCWD, 0, 1, unix.AT_SYMLINK_NOFOLLOW) }},
	{name: "fstat", native: true, handle: func(r *request) answer { return r.stat(int32(r.args[0]), -1, 1, unix.AT_EMPTY_PATH) }},
	{name: "newfstatat", native: true, handle: func(r *request) answer { return r.stat(int32(r.args[0]), 1, 2, int(r.args[3])) }},
	{name: "statx", handle: (*request).statx},
}

func follow(r *request) answer   { return r.chown(unix.AT_FDCWD, 0, 1, 0) }
func noFollow(r *request) answer { return r.chown(unix.AT_FDCWD, 0, 1, unix.AT_SYMLINK_NOFOLLOW) }

// chown is all of its family; the path is argument number path, the owner and the
// group are owner and the next.
func (r *request) chown(dir int32, path, owner, flags int) answer {
	if flags&^(unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW) != 0 {
		return answer{errno: unix.EINVAL}
	}
	name, err := r.text(r.args[path])
	if err != nil {
		return failed(err)
	}
	fd, err := r.find(dir, name, flags)
	if err != nil {
		return failed(err)
	}
	a := r.give(fd, r.arg(owner), r.arg(owner+1))
	if a.errno == 0 && flags&unix.AT_SYMLINK_NOFOLLOW != 0 && name != "" {
		r.renew(dir, name, fd)
	}
	return a
}

// renew replaces a symbolic link, of which something is remembered, by a new one:
// overlayfs shows one that it copied up from a lower layer under a number that
// isn't the copy's. Where that fails the owner is forgotten.
func (r *request) renew(dir int32, path string, fd int) {
	var st, old unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK || st.Nlink > 1 {
		return
	}
	is := r.s.opts.Links.Get(fd)
	if is.Plain() {
		return
	}
	up, name, err := r.parent(dir, path)
	if err != nil || unix.Fstatat(up, name, &old, unix.AT_SYMLINK_NOFOLLOW) != nil || old.Ino != st.Ino || old.Dev != st.Dev {
		return
	}
	var target [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, "", target[:])
	if err != nil {
		return
	}
	temporary := ".bk-" + strconv.FormatUint(r.id, 36)
	if unix.Symlinkat(string(target[:n]), up, temporary) != nil {
		return
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	_ = unix.UtimesNanoAt(up, temporary, times, unix.AT_SYMLINK_NOFOLLOW) // a time that is off harms less than none
	if unix.Renameat(up, temporary, up, name) != nil {
		_ = unix.Unlinkat(up, temporary, 0)
		return
	}
	r.made(place{dir: up, name: name, is: is})
}

func (r *request) fchown() answer {
	fd, err := r.descriptor(int32(r.args[0]))
	if err != nil {
		return failed(err)
	}
	return r.give(fd, r.arg(1), r.arg(2))
}

// give changes the owner of an open file.
func (r *request) give(fd int, uid, gid uint32) answer {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return failed(err)
	}
	is := r.inode(fd, &st)
	if u := r.user(); !u.root() && (is.UID != u.UIDs.FS || uid != keep && uid != is.UID || gid != keep && gid != is.GID && !u.member(gid)) {
		return answer{errno: unix.EPERM}
	}
	// To the one id that there is: all else that the kernel does is done.
	real := func(id uint32) int {
		if id == keep {
			return -1
		}
		return 0
	}
	if err := unix.Fchownat(fd, "", real(uid), real(gid), unix.AT_EMPTY_PATH); err != nil {
		return failed(err)
	}
	will := is
	if uid != keep {
		will.UID = uid
	}
	if gid != keep {
		will.GID = gid
	}
	if will != is {
		r.remember(fd, &st, will)
	}
	return answer{}
}

// change lets f change the caller's credentials, if it may.
func (r *request) change(f func(c *Credentials, root bool) bool) answer {
	c := r.user()
	if !f(&c, c.root()) {
		return answer{errno: unix.EPERM}
	}
	return answer{}.or(r.become(c))
}

// or is a failure when there is one.
func (a answer) or(err error) answer {
	if err != nil {
		return failed(err)
	}
	return a
}

func setuid(r *request) answer {
	return r.change(func(c *Credentials, root bool) bool { return c.UIDs.set(r.arg(0), root) })
}

func setgid(r *request) answer {
	return r.change(func(c *Credentials, root bool) bool { return c.GIDs.set(r.arg(0), root) })
}

func setreuid(r *request) answer {
	return r.change(func(c *Credentials, root bool) bool { return c.UIDs.setRE(r.arg(0), r.arg(1), root) })
}

func setregid(r *request) answer {
	return r.change(func(c *Credentials, root bool) bool { return c.GIDs.setRE(r.arg(0), r.arg(1), root) })
}

func setresuid(r *request) answer {
	return r.change(func(c *Credentials, root bool) bool { return c.UIDs.setRES(r.arg(0), r.arg(1), r.arg(2), root) })
}

func setresgid(r *request) answer {
	return r.change(func(c *Credentials, root bool) bool { return c.GIDs.setRES(r.arg(0), r.arg(1), r.arg(2), root) })
}

func setfsuid(r *request) answer {
	c := r.user()
	old := c.UIDs.setFS(r.arg(0), c.root())
	_ = r.become(c) // it tells no failure
	return answer{value: int64(old)}
}

func setfsgid(r *request) answer {
	c := r.user()
	old := c.GIDs.setFS(r.arg(0), c.root())
	_ = r.become(c)
	return answer{value: int64(old)}
}

// maxGroups is the kernel's NGROUPS_MAX.
const maxGroups = 65536

func setgroups(r *request) answer {
	n := r.arg(0)
	if n > maxGroups {
		return answer{errno: unix.EINVAL}
	}
	b := make([]byte, 4*n)
	if n > 0 && r.read(r.args[1], b) < len(b) {
		return answer{errno: unix.EFAULT}
	}
	return r.change(func(c *Credentials, root bool) bool {
		c.Groups = nil
		for ; len(b) > 0; b = b[4:] {
			c.Groups = append(c.Groups, binary.NativeEndian.Uint32(b))
		}
		return root
	})
}

func getuid(r *request) answer  { return answer{value: int64(r.user().UIDs.Real)} }
func geteuid(r *request) answer { return answer{value: int64(r.user().UIDs.Effective)} }
func getgid(r *request) answer  { return answer{value: int64(r.user().GIDs.Real)} }
func getegid(r *request) answer { return answer{value: int64(r.user().GIDs.Effective)} }

func getresuid(r *request) answer { return r.three(r.user().UIDs) }
func getresgid(r *request) answer { return r.three(r.user().GIDs) }

func (r *request) three(i IDs) answer {
	for k, id := range []uint32{i.Real, i.Effective, i.Saved} {
		if err := r.write(r.args[k], binary.NativeEndian.AppendUint32(nil, id)); err != nil {
			return failed(err)
		}
	}
	return answer{}
}

func getgroups(r *request) answer {
	groups := r.user().Groups
	size := int32(r.args[0])
	if size < 0 || size > 0 && int(size) < len(groups) {
		return answer{errno: unix.EINVAL}
	}
	var b []byte
	for _, g := range groups {
		b = binary.NativeEndian.AppendUint32(b, g)
	}
	if size > 0 {
		if err := r.write(r.args[1], b); err != nil {
			return failed(err)
		}
	}
	return answer{value: int64(len(groups))}
}

// exec gives the credentials of a set-id program to an ordinary user.
func (r *request) exec(dir int32, path, flags int) answer {
	c := r.user()
	if c.root() {
		return kernel
	}
	name, err := r.text(r.args[path])
	if err != nil {
		return kernel
	}
	fd, err := r.find(dir, name, flags)
	if err != nil {
		return kernel
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
		return kernel
	}
	is := r.inode(fd, &st)
	c.UIDs.Saved, c.GIDs.Saved = c.UIDs.Effective, c.GIDs.Effective
	if st.Mode&unix.S_ISUID != 0 {
		c.UIDs.Effective, c.UIDs.Saved, c.UIDs.FS = is.UID, is.UID, is.UID
	}
	if st.Mode&unix.S_ISGID != 0 && st.Mode&unix.S_IXGRP != 0 {
		c.GIDs.Effective, c.GIDs.Saved, c.GIDs.FS = is.GID, is.GID, is.GID
	}
	_ = r.become(c) // else it starts as who it was
	return kernel
}

// place is where a file is about to be created.
type place struct {
	dir  int
	name string
	is   ids.Inode // what the new file is
	mode uint32    // permissions without the umask's
}

// placeOf returns the place of a path, and whether a file that the kernel makes
// there would have the wrong owner.
func (r *request) placeOf(dir int32, path int, mode uint32, isDir bool) (p place, wrong bool) {
	name, err := r.text(r.args[path])
	if err != nil {
		return p, false
	}
	if isDir {
		name = strings.TrimRight(name, "/")
	}
	if p.dir, p.name, err = r.parent(dir, name); err != nil {
		return p, false // the kernel says why
	}
	var st unix.Stat_t
	if unix.Fstat(p.dir, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return p, false
	}
	c := r.user()
	p.is = ids.Inode{UID: c.UIDs.FS, GID: c.GIDs.FS}
	if st.Mode&unix.S_ISGID != 0 {
		p.is.GID = r.inode(p.dir, &st).GID
	}
	if p.is.Plain() {
		return p, false
	}
	p.mode = mode &^ r.umask()
	return p, true
}

// made remembers what a new file is.
func (r *request) made(p place) answer {
	fd, err := r.keepOpen(unix.Openat(p.dir, p.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0))
	if err != nil {
		return answer{} // it's gone again
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil {
		r.remember(fd, &st, p.is)
	}
	return answer{}
}

func (r *request) mkdir(dir int32, path int) answer {
	p, wrong := r.placeOf(dir, path, uint32(r.args[path+1])&0o1777, true)
	if !wrong {
		return kernel
	}
	if err := unix.Mkdirat(p.dir, p.name, p.mode); err != nil {
		return failed(err)
	}
	return r.made(p)
}

func (r *request) symlink(dir int32, path int) answer {
	p, wrong := r.placeOf(dir, path, 0, false)
	if !wrong {
		return kernel
	}
	target, err := r.text(r.args[0])
	if err != nil {
		return failed(err)
	}
	if err := unix.Symlinkat(target, p.dir, p.name); err != nil {
		return failed(err)
	}
	return r.made(p)
}

// mknod makes an empty file in the place of a device.
func (r *request) mknod(dir int32, path int) answer {
	mode, dev := uint32(r.args[path+1]), r.args[path+2]
	typ := mode & unix.S_IFMT
	device := typ == unix.S_IFBLK || typ == unix.S_IFCHR && uint32(dev) != 0
	p, wrong := r.placeOf(dir, path, mode&0o7777, false)
	switch {
	case device && p.name == "":
		return kernel // which says why there is no such place
	case !device && (!wrong || typ == unix.S_IFCHR):
		return kernel
	case device:
		if c := r.user(); !c.root() {
			return answer{errno: unix.EPERM}
		}
		p.mode = mode & 0o7777 &^ r.umask()
		p.is.Device, p.is.Major, p.is.Minor = 'c', unix.Major(uint64(uint32(dev))), unix.Minor(uint64(uint32(dev)))
		if typ == unix.S_IFBLK {
			p.is.Device = 'b'
		}
		typ = unix.S_IFREG
	}
	if err := unix.Mknodat(p.dir, p.name, typ|p.mode, 0); err != nil {
		return failed(err)
	}
	return r.made(p)
}

// create is open(2) with O_CREAT.
func (r *request) create(dir int32, path, flags int, mode uint32) answer {
	const unnamed = unix.O_TMPFILE &^ unix.O_DIRECTORY
	if flags&unnamed != 0 || flags&unix.O_PATH != 0 {
		return kernel
	}
	p, wrong := r.placeOf(dir, path, mode&0o7777, false)
	if !wrong {
		return kernel
	}
	how := flags&^(unix.O_TRUNC|unix.O_NOCTTY) | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := r.keepOpen(unix.Openat(p.dir, p.name, how, p.mode))
	if err == unix.EEXIST && flags&unix.O_EXCL == 0 {
		return kernel // it opens what is there
	}
	if err != nil {
		return failed(err)
	}
	if r.made(p); !r.valid() {
		return answer{errno: unix.EINTR}
	}
	return r.hand(fd, flags&unix.O_CLOEXEC != 0)
}

func (r *request) openat2() answer {
	var b [24]byte
	if r.args[3] < uint64(len(b)) || r.read(r.args[2], b[:]) < len(b) {
		return kernel
	}
	flags, mode, resolve := binary.NativeEndian.Uint64(b[:]), binary.NativeEndian.Uint64(b[8:]), binary.NativeEndian.Uint64(b[16:])
	if flags&unix.O_CREAT == 0 || resolve != 0 || flags>>31 != 0 || mode&^0o7777 != 0 {
		return kernel
	}
	return r.create(int32(r.args[0]), 1, int(flags), uint32(mode))
}
