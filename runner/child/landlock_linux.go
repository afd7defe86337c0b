package child

import (
	"syscall"
	"unsafe"
)

const (
	sysLandlockCreateRuleset = 444
	sysLandlockAddRule       = 445
	sysLandlockRestrictSelf  = 446

	landlockPathBeneath = 1

	// Rights to files by the version that brought them.
	landlockV1 = 1<<13 - 1
	landlockV2 = 1 << 13 // move and link from one directory to another
	landlockV3 = 1 << 14 // truncate
	landlockV5 = 1 << 15 // ioctl of devices

	landlockRead = 1<<0 | 1<<2 | 1<<3 | landlockV5 // execute, read files, read directories

	// Scopes, version 6: signals to processes outside, and abstract sockets.
	landlockScopes = 1<<0 | 1<<1
)

// ruleset makes Landlock's rules of a jail: all rights, or those to read, below
// its root, and none elsewhere. It returns -1 without Landlock.
func (j *Jail) ruleset(root int) (int, error) {
	if j.Landlock < 2 { // version 1 refuses to move files between directories
		if j.ReadOnly {
			return -1, syscall.EOPNOTSUPP
		}
		return -1, nil
	}
	attr := struct{ files, net, scoped uint64 }{files: landlockV1 | landlockV2}
	size := uintptr(8)
	if j.Landlock >= 3 {
		attr.files |= landlockV3
	}
	if j.Landlock >= 5 {
		attr.files |= landlockV5
	}
	if j.Landlock >= 6 {
		attr.scoped, size = landlockScopes, 24
	}
	n, _, e := syscall.Syscall(sysLandlockCreateRuleset, uintptr(unsafe.Pointer(&attr)), size, 0)
	if e != 0 {
		return -1, e
	}
	allowed := attr.files
	if j.ReadOnly {
		allowed &= landlockRead
	}
	rule := struct { // packed in the kernel, which reads 12 bytes
		allowed uint64
		root    int32
	}{allowed, int32(root)}
	if _, _, e := syscall.Syscall6(sysLandlockAddRule, n, landlockPathBeneath, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); e != 0 {
		return -1, e
	}
	return int(n), nil
}

// landlock prepares the step's restriction to its rules.
func (s *step) landlock(p *Plan) {
	if p.Jail.Root != "" && s.rules >= 0 {
		s.add("restrict the step by Landlock", sysLandlockRestrictSelf, fd(s.rules), 0)
	}
}
