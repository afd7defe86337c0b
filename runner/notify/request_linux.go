package notify

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/ids"
)

// request is one system call of a step, with the files that were opened for it.
type request struct {
	notification
	s    *Supervisor
	open []int
}

func (r *request) close() {
	for _, fd := range r.open {
		unix.Close(fd)
	}
}

// arg returns an argument that is a user or group id.
func (r *request) arg(n int) uint32 { return uint32(r.args[n]) }

// valid reports whether the caller still waits, so that its pid and memory were
// its own.
func (r *request) valid() bool {
	id := r.notification.id
	return ioctl(r.s.listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, pointer(&id)) == nil
}

// user returns the caller's credentials.
func (r *request) user() Credentials {
	var limit unix.Rlimit
	if err := unix.Prlimit(int(r.pid), unix.RLIMIT_RTTIME, nil, &limit); err != nil {
		return Credentials{}
	}
	return r.s.users.of(limit.Cur)
}

// become changes them.
func (r *request) become(c Credentials) error {
	var limit unix.Rlimit
	if err := unix.Prlimit(int(r.pid), unix.RLIMIT_RTTIME, nil, &limit); err != nil {
		return err
	}
	n, ok := r.s.users.number(c)
	if !ok || n > limit.Max {
		return unix.EAGAIN
	}
	if !r.valid() {
		return unix.ESRCH
	}
	return unix.Prlimit(int(r.pid), unix.RLIMIT_RTTIME, &unix.Rlimit{Cur: n, Max: limit.Max}, nil)
}

// read fills b from the caller's memory and returns how much there was.
func (r *request) read(at uint64, b []byte) int {
	if len(b) == 0 || at == 0 {
		return 0
	}
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	n, err := unix.ProcessVMReadv(int(r.pid), []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	if err != nil {
		return 0
	}
	return n
}

// write stores b in the caller's memory.
func (r *request) write(at uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if at == 0 {
		return unix.EFAULT
	}
	if !r.valid() {
		return unix.ESRCH
	}
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	n, err := unix.ProcessVMWritev(int(r.pid), []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	if err != nil || n != len(b) {
		return unix.EFAULT
	}
	return nil
}

// text reads a path.
func (r *request) text(at uint64) (string, error) {
	const page = 4096
	var buf [unix.PathMax]byte
	b := buf[:0]
	for len(b) < len(buf) {
		want := min(page-int((at+uint64(len(b)))%page), len(buf)-len(b))
		n := r.read(at+uint64(len(b)), buf[len(b):len(b)+want])
		if n == 0 {
			return "", unix.EFAULT
		}
		b = buf[:len(b)+n]
		if i := bytes.IndexByte(b, 0); i >= 0 {
			if !r.valid() {
				return "", unix.ESRCH
			}
			return string(b[:i]), nil
		}
	}
	return "", unix.ENAMETOOLONG
}

// keepOpen closes fd with the request.
func (r *request) keepOpen(fd int, err error) (int, error) {
	if err == nil {
		r.open = append(r.open, fd)
	}
	return fd, err
}

// proc opens a file of the caller's directory in /proc, following its last link.
func (r *request) proc(name string) (int, error) {
	return r.keepOpen(unix.Openat(r.s.proc, strconv.Itoa(int(r.pid))+"/"+name, unix.O_PATH|unix.O_CLOEXEC, 0))
}

// descriptor opens what one of the caller's descriptors is.
func (r *request) descriptor(n int32) (int, error) {
	if n < 0 {
		return -1, unix.EBADF
	}
	fd, err := r.proc("fd/" + strconv.Itoa(int(n)))
	if err == unix.ENOENT {
		err = unix.EBADF
	}
	return fd, err
}

// enter makes the caller's root directory this thread's, and the directory from
// which path starts its working directory.
func (r *request) enter(dir int32, path string) error {
	root, err := r.proc("root")
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return err
	}
	if old := &r.s.root; st.Dev != old.Dev || st.Ino != old.Ino {
		if err := unix.Fchdir(root); err != nil {
			return err
		}
		if err := unix.Chroot("."); err != nil {
			return err
		}
		*old = st
	}
	if !r.valid() {
		return unix.ESRCH
	}
	if strings.HasPrefix(path, "/") {
		return unix.Fchdir(root)
	}
	var at int
	if dir == unix.AT_FDCWD {
		at, err = r.proc("cwd")
	} else {
		at, err = r.descriptor(dir)
	}
	if err != nil {
		return err
	}
	return unix.Fchdir(at)
}

// ownDescriptor returns the descriptor that a path of the caller's own names.
func ownDescriptor(path string) (int32, bool) {
	switch path {
	case "/dev/stdin":
		return 0, true
	case "/dev/stdout":
		return 1, true
	case "/dev/stderr":
		return 2, true
	}
	for _, dir := range []string{"/dev/fd/", "/proc/self/fd/"} {
		if name, ok := strings.CutPrefix(path, dir); ok {
			n, err := strconv.ParseUint(name, 10, 31)
			return int32(n), err == nil
		}
	}
	return 0, false
}

// find opens a file as the caller would find it, with O_PATH. The flags are those
// of fchownat(2) and its like.
func (r *request) find(dir int32, path string, flags int) (int, error) {
	if path == "" {
		if flags&unix.AT_EMPTY_PATH == 0 {
			return -1, unix.ENOENT
		}
		if dir == unix.AT_FDCWD {
			return r.proc("cwd")
		}
		return r.descriptor(dir)
	}
	if n, ok := ownDescriptor(path); ok && flags&unix.AT_SYMLINK_NOFOLLOW == 0 {
		return r.descriptor(n)
	}
	if err := r.enter(dir, path); err != nil {
		return -1, err
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	if flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		how.Flags |= unix.O_NOFOLLOW
	}
	for {
		fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return r.keepOpen(fd, err)
		}
	}
}

// parent opens the directory of a path, and returns the last element.
func (r *request) parent(dir int32, path string) (fd int, name string, err error) {
	if path == "" {
		return -1, "", unix.ENOENT
	}
	up, name := "./", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		up, name = path[:i+1], path[i+1:]
	}
	if name == "" || name == "." || name == ".." {
		return -1, "", unix.EINVAL
	}
	fd, err = r.find(dir, up, 0)
	return fd, name, err
}

// inode returns what is remembered of an open file.
func (r *request) inode(fd int, st *unix.Stat_t) ids.Inode {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		if unix.Fchdir(r.s.proc) != nil {
			return ids.Inode{}
		}
		return ids.Get(own(fd))
	}
	return r.s.opts.Links.Get(fd)
}

// remember keeps what an open file would be. A file system without attributes of
// users forgets it.
func (r *request) remember(fd int, st *unix.Stat_t, i ids.Inode) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		if unix.Fchdir(r.s.proc) == nil {
			_ = ids.SetPath(own(fd), i)
		}
	default:
		r.s.opts.Links.Set(fd, i)
	}
}

// own names an open file of this process in /proc, the working directory.
func own(fd int) string { return "self/fd/" + strconv.Itoa(fd) }

// umask returns the caller's.
func (r *request) umask() uint32 {
	fd, err := unix.Openat(r.s.proc, strconv.Itoa(int(r.pid))+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0o022
	}
	f := os.NewFile(uintptr(fd), "status")
	defer f.Close()
	var buf [4096]byte
	n, _ := f.Read(buf[:]) // one that can't be read is like an empty one
	_, b, _ := bytes.Cut(buf[:max(n, 0)], []byte("\nUmask:\t"))
	b, _, _ = bytes.Cut(b, []byte("\n"))
	m, err := strconv.ParseUint(string(b), 8, 12)
	if err != nil {
		return 0o022
	}
	return uint32(m)
}
