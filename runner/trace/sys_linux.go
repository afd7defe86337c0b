//go:build amd64 || arm64

package trace

import (
	"bytes"
	"syscall"
	"unsafe"
)

// This package imports the standard library only: the helper takes over the
// process before most other packages are initialized.

// From 424 on the numbers are the same on every architecture.
const (
	sysIoUringSetup     = 425
	sysOpenTree         = 428
	sysMoveMount        = 429
	sysFsopen           = 430
	sysFspick           = 433
	sysMountSetattr     = 442
	sysOpenTreeAttr     = 467
	sysClone3           = 435
	sysCloseRange       = 436
	sysPidfdOpen        = 434
	sysOpenat2          = 437
	sysFaccessat2       = 439
	sysLandlockCreate   = 444
	sysLandlockAddRule  = 445
	sysLandlockRestrict = 446
	sysFchmodat2        = 452
	sysSetxattrat       = 463
	sysGetxattrat       = 464
	sysListxattrat      = 465
	sysRemovexattrat    = 466
)

const (
	atFDCWD           = -100
	atSymlinkNofollow = 0x100
	atRemovedir       = 0x200
	atSymlinkFollow   = 0x400
	atEmptyPath       = 0x1000

	oPath = 0x200000

	closeRangeCloexec = 4

	ptraceCont        = 7
	ptraceSyscall     = 24
	ptraceGetEventMsg = 0x4201
	ptraceGetRegset   = 0x4204
	ptraceSetRegset   = 0x4205
	ptraceSeize       = 0x4206
	ptraceListen      = 0x4208

	eventFork    = 1
	eventVfork   = 2
	eventClone   = 3
	eventExec    = 4
	eventSeccomp = 7
	eventStop    = 128

	optSysgood  = 0x1
	optFork     = 0x2
	optVfork    = 0x4
	optClone    = 0x8
	optExec     = 0x10
	optSeccomp  = 0x80
	optExitkill = 0x100000

	ntPrstatus = 1

	wall = 0x40000000

	prSetDumpable       = 4
	prSetNoNewPrivs     = 38
	prSetChildSubreaper = 36
	seccompSetFilter    = 1

	cloneVM     = 0x100
	cloneVfork  = 0x4000
	cloneThread = 0x10000
)

type iovec struct{ base, size uintptr }

func fd(n int) uintptr { return uintptr(n) }

// call makes a system call; pointers among its arguments are kept alive.
//
//go:uintptrescapes
func call(nr uintptr, args ...uintptr) (uintptr, syscall.Errno) {
	var a [6]uintptr
	copy(a[:], args)
	r, _, errno := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return r, errno
}

func ptrace(request, pid int, addr, data uintptr) error {
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, uintptr(request), uintptr(pid), addr, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// cstr returns the address of a C string.
func cstr(s string) *byte {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return &b[0]
}

// lstat and stat of a path of the host.
func fstatat(name string, flags int, st *syscall.Stat_t) syscall.Errno {
	p := cstr(name)
	at := atFDCWD
	_, _, errno := syscall.RawSyscall6(sysFstatat, uintptr(at), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(st)), uintptr(flags), 0, 0)
	return errno
}

// readlink returns where a symbolic link of the host leads.
func readlink(name string) (string, syscall.Errno) {
	var buf [4096]byte
	p := cstr(name)
	at := atFDCWD
	n, _, errno := syscall.RawSyscall6(syscall.SYS_READLINKAT, uintptr(at), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if errno != 0 {
		return "", errno
	}
	return string(buf[:n]), 0
}

// faccessat asks what the kernel thinks of access to a path of the host.
func faccessat(name string, mode int) syscall.Errno {
	p := cstr(name)
	at := atFDCWD
	_, _, errno := syscall.RawSyscall6(syscall.SYS_FACCESSAT, uintptr(at), uintptr(unsafe.Pointer(p)), uintptr(mode), 0, 0, 0)
	return errno
}

func fchmodat(name string, mode uint32) syscall.Errno {
	p := cstr(name)
	at := atFDCWD
	_, _, errno := syscall.RawSyscall6(syscall.SYS_FCHMODAT, uintptr(at), uintptr(unsafe.Pointer(p)), uintptr(mode), 0, 0, 0)
	return errno
}

// errnoOf digs out the number of an error of package syscall or os.
func errnoOf(err error) syscall.Errno {
	for err != nil {
		if e, ok := err.(syscall.Errno); ok {
			return e
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			break
		}
		err = u.Unwrap()
	}
	return syscall.EIO
}

// read fills b from the task's memory.
func (t *task) read(addr uint64, b []byte) syscall.Errno {
	return t.transfer(sysProcessVMReadv, addr, b)
}

// write copies b into the task's memory.
func (t *task) write(addr uint64, b []byte) syscall.Errno {
	return t.transfer(sysProcessVMWritev, addr, b)
}

func (t *task) transfer(nr uintptr, addr uint64, b []byte) syscall.Errno {
	for len(b) > 0 {
		local := iovec{uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))}
		remote := iovec{uintptr(addr), uintptr(len(b))}
		n, _, errno := syscall.RawSyscall6(nr, uintptr(t.tid), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
		if errno != 0 {
			if errno == syscall.ESRCH {
				return errno
			}
			return syscall.EFAULT
		}
		b, addr = b[n:], addr+uint64(n)
	}
	return 0
}

const pageSize = 4096

// str reads a C string of at most limit bytes, its end included.
func (t *task) str(addr uint64, limit int) (string, syscall.Errno) {
	var out []byte
	var buf [pageSize]byte
	for len(out) < limit {
		n := min(pageSize-int(addr%pageSize), 512, limit-len(out))
		if errno := t.read(addr, buf[:n]); errno != 0 {
			return "", errno
		}
		if end := bytes.IndexByte(buf[:n], 0); end >= 0 {
			return string(append(out, buf[:end]...)), 0
		}
		out, addr = append(out, buf[:n]...), addr+uint64(n)
	}
	return "", syscall.ENAMETOOLONG
}

// getRegs reads the registers of a stopped task.
func (t *task) getRegs(r *regs) error {
	v := iovec{uintptr(unsafe.Pointer(r)), unsafe.Sizeof(*r)}
	return ptrace(ptraceGetRegset, t.tid, ntPrstatus, uintptr(unsafe.Pointer(&v)))
}

func (t *task) setRegs(r *regs) error {
	v := iovec{uintptr(unsafe.Pointer(r)), unsafe.Sizeof(*r)}
	return ptrace(ptraceSetRegset, t.tid, ntPrstatus, uintptr(unsafe.Pointer(&v)))
}
