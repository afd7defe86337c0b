//go:build amd64 || arm64

package trace

import (
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
	// mode has the type and the permissions when they differ from those on
	// disk; 0: they don't.
	mode uint32
	rdev uint64
}

// attribute is the name of the extended attribute.
const attribute = "user.bk.inode"

func keeps(mode uint32) bool {
	return mode&syscall.S_IFMT == syscall.S_IFREG || mode&syscall.S_IFMT == syscall.S_IFDIR
}

func key(st *syscall.Stat_t) inode { return inode{uint64(st.Dev), st.Ino} }

// get returns what is remembered of the file at name, which st describes.
func (o *owners) get(name string, st *syscall.Stat_t) (record, bool) {
	if !keeps(st.Mode) {
		r, ok := o.links[key(st)]
		return r, ok
	}
	var b [64]byte
	n, errno := call(sysGetxattr, uintptr(unsafe.Pointer(cstr(name))), uintptr(unsafe.Pointer(cstr(attribute))),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return record{}, false
	}
	return decodeRecord(b[:n])
}

// set remembers.
func (o *owners) set(name string, st *syscall.Stat_t, r record) syscall.Errno {
	if !keeps(st.Mode) {
		o.links[key(st)] = r
		return 0
	}
	b := r.encode()
	_, errno := call(sysSetxattr, uintptr(unsafe.Pointer(cstr(name))), uintptr(unsafe.Pointer(cstr(attribute))),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0)
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
	r, ok := o.get(name, st)
	if !ok {
		return
	}
	st.Uid, st.Gid = r.uid, r.gid
	if r.mode != 0 {
		st.Mode = r.mode
		if r.rdev != 0 {
			st.Rdev = r.rdev
		}
	}
}

func (r record) encode() []byte {
	b := make([]byte, 0, 24)
	for _, v := range []uint64{uint64(r.uid), uint64(r.gid), uint64(r.mode), r.rdev} {
		for v >= 0x80 {
			b = append(b, byte(v)|0x80)
			v >>= 7
		}
		b = append(b, byte(v))
	}
	return b
}

func decodeRecord(b []byte) (r record, ok bool) {
	var v [4]uint64
	for i := range v {
		for shift := 0; ; shift += 7 {
			if len(b) == 0 || shift > 63 {
				return record{}, false
			}
			c := b[0]
			b = b[1:]
			v[i] |= uint64(c&0x7f) << shift
			if c < 0x80 {
				break
			}
		}
	}
	return record{uint32(v[0]), uint32(v[1]), uint32(v[2]), v[3]}, true
}
