package layer

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// initialUserNamespace is the inode of the first user namespace in nsfs, which
// has been the same since it has had one (PROC_USER_INIT_INO).
const initialUserNamespace = 0xEFFFFFFD

// OverlayPrefix returns how the names of the attributes begin in which overlayfs
// keeps its notes on the layers that this process mounts: "trusted.overlay."
// where the process may write such, with CAP_SYS_ADMIN in the first user
// namespace, else "user.overlay.".
func OverlayPrefix() string {
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/user", &st) != nil || st.Ino != initialUserNamespace {
		return "user.overlay."
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil || data[0].Effective>>unix.CAP_SYS_ADMIN&1 == 0 {
		return "user.overlay."
	}
	return "trusted.overlay."
}

// xattrs is what Walk wants to know of a file's extended attributes.
type xattrs struct {
	kept     map[string]string
	opaque   string // value of overlayfs's opaque
	whiteout bool
	redirect bool
	metacopy bool
}

// xattrReader reads extended attributes with few system calls and few
// allocations. It isn't safe for concurrent use.
type xattrReader struct {
	notes        string // see OverlayPrefix
	names, value []byte
	noListAt     bool // the kernel is older than listxattrat(2), Linux 6.13
}

// ofDir returns the attributes of the open directory fd.
func (r *xattrReader) ofDir(fd int) (xattrs, error) {
	return r.read(
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
}

// of returns those of name in the directory fd, without following a symlink.
func (r *xattrReader) of(fd int, name string) (xattrs, error) {
	return r.read(
		func(b []byte) (int, error) { return r.list(fd, name, b) },
		func(attr string, b []byte) (int, error) { return unix.Lgetxattr(procPath(fd, name), attr, b) })
}

func (r *xattrReader) read(list func([]byte) (int, error), get func(string, []byte) (int, error)) (x xattrs, err error) {
	names, err := grow(&r.names, list)
	if err != nil || len(names) == 0 {
		return x, ignoreUnsupported("list xattrs", err)
	}
	for part := range bytes.SplitSeq(bytes.TrimSuffix(names, []byte{0}), []byte{0}) {
		name := string(part)
		if ofMachine(name) {
			continue
		}
		value, err := grow(&r.value, func(b []byte) (int, error) { return get(name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return x, fmt.Errorf("get xattr %s: %w", name, err)
		}
		r.add(&x, name, string(value))
	}
	return x, nil
}

// add notes one attribute. What another process's overlayfs would take for its
// notes is nobody's here: a step may have written it.
func (r *xattrReader) add(x *xattrs, name, value string) {
	if !overlayXattr(name) {
		if x.kept == nil {
			x.kept = make(map[string]string)
		}
		x.kept[name] = canonicalXattr(name, value)
		return
	}
	switch attr, _ := strings.CutPrefix(name, r.notes); attr {
	case "opaque":
		x.opaque = value
	case "whiteout":
		x.whiteout = true
	case "redirect":
		x.redirect = true
	case "metacopy":
		x.metacopy = true
	}
}

// ofMachine reports whether an attribute says something of the machine that the
// file is on and nothing of the file.
func ofMachine(name string) bool {
	return name == "security.selinux" || name == "security.evm" || strings.HasPrefix(name, "security.SMACK64")
}

// list is llistxattr(2) relative to a directory.
func (r *xattrReader) list(fd int, name string, b []byte) (int, error) {
	if !r.noListAt {
		n, err := listxattrat(fd, name, b)
		if err != unix.ENOSYS && err != unix.EPERM {
			return n, err
		}
		r.noListAt = true
	}
	return unix.Llistxattr(procPath(fd, name), b)
}

// sysListxattrat is listxattrat(2), whose number is the same on every
// architecture but alpha and 32-bit MIPS, where the call is reported missing.
const sysListxattrat = 465

func listxattrat(fd int, name string, b []byte) (int, error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(sysListxattrat, uintptr(fd), uintptr(unsafe.Pointer(p)),
		unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// procPath names a file in an open directory for the calls that take no
// directory: the last element alone is looked up.
func procPath(fd int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name
}

// grow calls f with *buf, larger each time that it is too small.
func grow(buf *[]byte, f func([]byte) (int, error)) ([]byte, error) {
	if *buf == nil {
		*buf = make([]byte, 1024)
	}
	for {
		n, err := f(*buf)
		if err != unix.ERANGE || len(*buf) >= 1<<20 {
			return (*buf)[:max(n, 0)], err
		}
		*buf = make([]byte, 8*len(*buf))
	}
}

// ignoreUnsupported returns nil for a file system without xattrs.
func ignoreUnsupported(op string, err error) error {
	if err == nil || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return fmt.Errorf("%s: %w", op, err)
}
