//go:build amd64 || arm64

package trace

import (
	"bytes"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// owners is what files would be if this process could make them so: owner,
// group, permissions, device number. It is kept on regular files and
// directories themselves, as the extended attribute that layers are read from,
// and for other files in memory.
type owners struct {
	links    map[inode]record
	uid, gid uint32 // this process's, which stand for root's
}

type inode struct{ dev, ino uint64 }

func newOwners() *owners {
	return &owners{links: map[inode]record{}, uid: uint32(syscall.Getuid()), gid: uint32(syscall.Getgid())}
}

// record is what is remembered of one file.
type record struct {
	uid, gid uint32
	// device is 'c' or 'b' for a device, which is an empty file on disk; 0: the
	// file is what it seems.
	device       byte
	major, minor uint32
	// locked are permissions that keep this process out, and which the file
	// therefore hasn't; -1: it has those that it should have.
	locked int32
}

// plain is a file of which there is nothing to remember.
func plain() record { return record{locked: -1} }

// Extended attributes: that of package ids, and the permissions, in octal, of a
// file that this process must be able to open.
const (
	attribute     = "user.bk.inode"
	modeAttribute = "user.bk.mode"
)

func keeps(mode uint32) bool {
	return mode&syscall.S_IFMT == syscall.S_IFREG || mode&syscall.S_IFMT == syscall.S_IFDIR
}

func key(st *syscall.Stat_t) inode { return inode{uint64(st.Dev), st.Ino} }

// get returns what is remembered of the file at name, which st describes.
func (o *owners) get(name string, st *syscall.Stat_t) record {
	if !keeps(st.Mode) {
		if r, ok := o.links[key(st)]; ok {
			return r
		}
		return plain()
	}
	// Most files have none: one call for both.
	var list [1024]byte
	n, errno := call(sysListxattr, uintptr(unsafe.Pointer(cstr(name))), uintptr(unsafe.Pointer(&list[0])), uintptr(len(list)))
	if errno != syscall.ERANGE && !bytes.Contains(list[:n], []byte("user.bk.")) {
		return plain()
	}
	r, ok := parseRecord(getxattr(name, attribute))
	if !ok {
		r = plain()
	}
	if mode, err := strconv.ParseUint(getxattr(name, modeAttribute), 8, 12); err == nil {
		r.locked = int32(mode)
	}
	return r
}

// getxattr returns a short attribute; empty: there is none.
func getxattr(name, attr string) string {
	var b [64]byte
	n, errno := call(sysGetxattr, uintptr(unsafe.Pointer(cstr(name))), uintptr(unsafe.Pointer(cstr(attr))),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return ""
	}
	return string(b[:n])
}

// set remembers; what is plain is forgotten.
func (o *owners) set(name string, st *syscall.Stat_t, r record) syscall.Errno {
	if !keeps(st.Mode) {
		o.links[key(st)] = r
		return 0
	}
	text, mode := r.String(), ""
	if r.locked >= 0 {
		mode = strconv.FormatUint(uint64(r.locked), 8)
	}
	if text == "1:0:0" {
		text = ""
	}
	if errno := setxattr(name, attribute, text); errno != 0 {
		return errno
	}
	return setxattr(name, modeAttribute, mode)
}

// setxattr sets an attribute, or removes it when the value is empty.
func setxattr(name, attr, value string) syscall.Errno {
	n, a := cstr(name), cstr(attr)
	if value == "" {
		_, errno := call(sysListxattr+3, uintptr(unsafe.Pointer(n)), uintptr(unsafe.Pointer(a))) // removexattr
		if errno == syscall.ENODATA || errno == syscall.EOPNOTSUPP {
			errno = 0
		}
		return errno
	}
	_, errno := call(sysSetxattr, uintptr(unsafe.Pointer(n)), uintptr(unsafe.Pointer(a)),
		uintptr(unsafe.Pointer(cstr(value))), uintptr(len(value)), 0)
	return errno
}

// forget is for a new file that may have an old one's number.
func (o *owners) forget(st *syscall.Stat_t) { delete(o.links, key(st)) }

// apply makes st what the step is to see.
func (o *owners) apply(name string, st *syscall.Stat_t) {
	if st.Uid == o.uid {
		st.Uid = 0
	}
	if st.Gid == o.gid {
		st.Gid = 0
	}
	r := o.get(name, st)
	if r == plain() {
		return
	}
	st.Uid, st.Gid = r.uid, r.gid
	if r.locked >= 0 {
		st.Mode = st.Mode&^0o7777 | uint32(r.locked)
	}
	switch {
	case r.device == 0 || st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Size != 0:
		return
	case r.device == 'c':
		st.Mode = st.Mode&0o7777 | syscall.S_IFCHR
	default:
		st.Mode = st.Mode&0o7777 | syscall.S_IFBLK
	}
	st.Rdev = makedev(r.major, r.minor)
}

// String is the text that package ids gives to an inode.
func (r record) String() string {
	b := []byte{'1'}
	add := func(n uint32) { b = strconv.AppendUint(append(b, ':'), uint64(n), 10) }
	add(r.uid)
	add(r.gid)
	if r.device != 0 {
		b = append(b, ':', r.device)
		add(r.major)
		add(r.minor)
	}
	return string(b)
}

// parseRecord reads such a text.
func parseRecord(s string) (record, bool) {
	r := plain()
	f := strings.Split(s, ":")
	if len(f) != 3 && len(f) != 6 || f[0] != "1" {
		return r, false
	}
	numbers, texts := []*uint32{&r.uid, &r.gid}, f[1:3]
	if len(f) == 6 {
		if f[3] != "c" && f[3] != "b" {
			return r, false
		}
		r.device = f[3][0]
		numbers, texts = append(numbers, &r.major, &r.minor), append(texts[:2:2], f[4:]...)
	}
	for i, text := range texts {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return plain(), false
		}
		*numbers[i] = uint32(n)
	}
	return r, r.String() == s
}
