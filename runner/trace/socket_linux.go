//go:build amd64 || arm64

package trace

import (
	"encoding/binary"
	"path/filepath"
	"strconv"
	"syscall"
)

const (
	sockaddrMax  = 110 // of AF_UNIX: the family and 108 bytes of path
	msghdrSize   = 56
	mmsghdrSize  = 64
	maxMessages  = 1024
	sockaddrName = 2 // where the path starts
)

// socketAddress translates the address in arguments addr and addr+1. bind makes
// the socket, the others look for it.
func socketAddress(addr int, bind bool) handler {
	return func(t *task, r *regs) verdict {
		a, after, errno := t.address(r.arg(addr), r.arg(addr+1), bind)
		if errno != 0 {
			return fail(errno)
		}
		if a == nil {
			return verdict{kind: pass, after: after}
		}
		at, ok := t.scratchAt(sockaddrMax)
		if !ok {
			return verdict{kind: memory, value: sockaddrMax}
		}
		if errno := t.write(at, a); errno != 0 {
			return t.lost(sockaddrMax)
		}
		r.setArg(addr, at)
		r.setArg(addr+1, uint64(len(a)))
		return verdict{kind: rewrite, after: after}
	}
}

// address returns the translated address; nil: it needs no translation.
func (t *task) address(addr, size uint64, bind bool) (a []byte, after func(*regs), errno syscall.Errno) {
	if addr == 0 || size <= sockaddrName || size > sockaddrMax {
		return nil, nil, 0
	}
	b := make([]byte, size)
	if errno := t.read(addr, b); errno != 0 {
		return nil, nil, errno
	}
	if binary.NativeEndian.Uint16(b) != syscall.AF_UNIX || b[sockaddrName] == 0 {
		return nil, nil, 0
	}
	f, errno := t.findName(atFDCWD, cutNUL(b[sockaddrName:]), !bind)
	if errno != 0 {
		return nil, nil, errno
	}
	if bind {
		if errno := t.changes(f.place); errno != 0 {
			return nil, nil, errno
		}
		after = t.creates(f.place)
	}
	if f.same {
		return nil, after, 0
	}
	host := f.host
	if len(host) >= sockaddrMax-sockaddrName {
		if host, errno = t.short(host); errno != 0 {
			return nil, nil, errno
		}
	}
	b = append(b[:sockaddrName], host...)
	return append(b, 0), after, 0
}

// short returns a path to a socket by a link to its directory.
func (t *task) short(host string) (string, syscall.Errno) {
	dir := filepath.Dir(host)
	link, ok := t.sockets[dir]
	if !ok {
		link = filepath.Join(t.private, strconv.Itoa(len(t.sockets)))
		if err := syscall.Symlink(dir, link); err != nil {
			return "", errnoOf(err)
		}
		t.sockets[dir] = link
	}
	host = filepath.Join(link, filepath.Base(host))
	if len(host) >= sockaddrMax-sockaddrName {
		return "", syscall.ENAMETOOLONG
	}
	return host, 0
}

// sendmsg translates the address that a message names.
func sendmsg(t *task, r *regs) verdict {
	header := make([]byte, msghdrSize)
	if errno := t.read(r.arg(1), header); errno != 0 {
		return fail(errno)
	}
	ne := binary.NativeEndian
	a, _, errno := t.address(le64(header), uint64(ne.Uint32(header[8:])), false)
	if errno != 0 {
		return fail(errno)
	}
	if a == nil {
		return verdict{kind: pass}
	}
	at, ok := t.scratchAt(msghdrSize + sockaddrMax)
	if !ok {
		return verdict{kind: memory, value: msghdrSize + sockaddrMax}
	}
	ne.PutUint64(header, at+msghdrSize)
	ne.PutUint32(header[8:], uint32(len(a)))
	if errno := t.write(at, append(header, a...)); errno != 0 {
		return t.lost(msghdrSize + sockaddrMax)
	}
	r.setArg(1, at)
	return verdict{kind: rewrite}
}

// sendmmsg refuses messages to sockets with a path: nobody sends those.
func sendmmsg(t *task, r *regs) verdict {
	n := min(r.arg(2), maxMessages)
	b := make([]byte, n*mmsghdrSize)
	if n == 0 || t.read(r.arg(1), b) != 0 {
		return verdict{kind: pass}
	}
	for i := range n {
		header := b[i*mmsghdrSize:]
		a, _, errno := t.address(le64(header), uint64(binary.NativeEndian.Uint32(header[8:])), false)
		if errno != 0 || a != nil {
			return fail(syscall.EACCES)
		}
	}
	return verdict{kind: pass}
}
