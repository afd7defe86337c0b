package notify

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// look opens the file that a call of stat's family is about; -1 when nothing is
// remembered of it, or when the kernel has to say why there is no such file.
func (r *request) look(dir int32, path, flags int) (fd int, st unix.Stat_t, ok bool) {
	name := ""
	if path >= 0 {
		var err error
		if name, err = r.text(r.args[path]); err != nil && !(r.args[path] == 0 && flags&unix.AT_EMPTY_PATH != 0) {
			return -1, st, false
		}
	}
	fd, err := r.find(dir, name, flags)
	if err != nil || unix.Fstat(fd, &st) != nil {
		return -1, st, false
	}
	is := r.inode(fd, &st)
	if is.Plain() {
		return -1, st, false
	}
	st.Uid, st.Gid = is.UID, is.GID
	if is.Device != 0 && st.Mode&unix.S_IFMT == unix.S_IFREG {
		typ := uint32(unix.S_IFCHR)
		if is.Device == 'b' {
			typ = unix.S_IFBLK
		}
		st.Mode = st.Mode&^unix.S_IFMT | typ
		st.Rdev = unix.Mkdev(is.Major, is.Minor)
	}
	return fd, st, true
}

// stat answers with the native struct stat.
func (r *request) stat(dir int32, path, at, flags int) answer {
	if flags&^(unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT) != 0 {
		return kernel
	}
	_, st, ok := r.look(dir, path, flags)
	if !ok {
		return kernel
	}
	return answer{}.or(r.write(r.args[at], unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st))))
}

func (r *request) statx() answer {
	flags := int(r.args[2])
	fd, st, ok := r.look(int32(r.args[0]), 1, flags&(unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW))
	if !ok {
		return kernel
	}
	var x unix.Statx_t
	mask := int(uint32(r.args[3]))
	if err := unix.Statx(fd, "", flags&^unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH, mask, &x); err != nil {
		return failed(err)
	}
	x.Uid, x.Gid, x.Mode = st.Uid, st.Gid, uint16(st.Mode)
	x.Rdev_major, x.Rdev_minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	b := unsafe.Slice((*byte)(unsafe.Pointer(&x)), unsafe.Sizeof(x))
	return answer{}.or(r.write(r.args[4], b))
}
