package child

import (
	"syscall"
	"unsafe"
)

// System calls younger than package syscall; from 424 on the numbers are the
// same on every architecture.
const (
	sysOpenTree     = 428
	sysMoveMount    = 429
	sysFsopen       = 430
	sysFsconfig     = 431
	sysFsmount      = 432
	sysClone3       = 435
	sysCloseRange   = 436
	sysOpenat2      = 437
	sysMountSetattr = 442
)

const (
	atFDCWD     = -100
	atEmptyPath = 0x1000
	atRecursive = 0x8000

	atSymlinkNofollow = 0x100

	openTreeClone   = 1
	openTreeCloexec = syscall.O_CLOEXEC

	moveFromEmpty = 0x04
	moveToEmpty   = 0x40

	fsopenCloexec  = 1
	fsmountCloexec = 1

	fsconfigFlag   = 0
	fsconfigString = 1
	fsconfigCreate = 6

	oPath = 0x200000

	resolveNoXdev       = 0x01
	resolveNoMagiclinks = 0x02
	resolveNoSymlinks   = 0x04
	resolveBeneath      = 0x08
	resolveInRoot       = 0x10

	attrReadonly = 0x01
	attrNosuid   = 0x02
	attrNodev    = 0x04
	attrNoexec   = 0x08

	closeRangeCloexec = 4

	cloneNewcgroup = 0x02000000
	cloneNewtime   = 0x80
)

// failure is an operation that the kernel refused.
type failure struct {
	op    string // what was done to what
	errno syscall.Errno
}

func (f *failure) Error() string { return f.op + ": " + f.errno.Error() }

// errnoOf digs out the number; everything that this package meets has one.
func errnoOf(err error) syscall.Errno {
	switch e := err.(type) {
	case syscall.Errno:
		return e
	case *failure:
		return e.errno
	}
	return syscall.EINVAL
}

// explain puts an operation in front of err; a failure that has its own
// operation keeps it behind.
func explain(op string, err error) error {
	if err == nil {
		return nil
	}
	if f, ok := err.(*failure); ok {
		return &failure{op + ": " + f.op, f.errno}
	}
	return &failure{op, errnoOf(err)}
}

// call is for system calls whose arguments hold no pointers.
func call(nr uintptr, a ...uintptr) (int, error) {
	var v [6]uintptr
	copy(v[:], a)
	r, _, e := syscall.Syscall6(nr, v[0], v[1], v[2], v[3], v[4], v[5])
	if e != 0 {
		return -1, e
	}
	return int(r), nil
}

// cstr returns the address of s with a zero byte behind it.
func cstr(s string) *byte {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return &b[0]
}

func fd(n int) uintptr { return uintptr(n) }

func openat2(dir int, path string, flags int, resolve uint64) (int, error) {
	how := struct{ flags, mode, resolve uint64 }{uint64(flags | syscall.O_CLOEXEC), 0, resolve}
	p := cstr(path)
	for {
		n, _, e := syscall.Syscall6(sysOpenat2, fd(dir), uintptr(unsafe.Pointer(p)),
			uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case syscall.EAGAIN, syscall.EINTR: // a rename raced with the walk
			continue
		}
		return -1, e
	}
}

// openTree returns a detached copy of the mount at path below dir; an empty
// path means dir itself.
func openTree(dir int, path string, recursive bool) (int, error) {
	flags := uintptr(openTreeClone | openTreeCloexec | atEmptyPath)
	if recursive {
		flags |= atRecursive
	}
	p := cstr(path)
	n, _, e := syscall.Syscall(sysOpenTree, fd(dir), uintptr(unsafe.Pointer(p)), flags)
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}

// moveMount attaches the mount at the place that to is open at.
func moveMount(mount, to int) error {
	e := cstr("")
	_, _, err := syscall.Syscall6(sysMoveMount, fd(mount), uintptr(unsafe.Pointer(e)),
		fd(to), uintptr(unsafe.Pointer(e)), moveFromEmpty|moveToEmpty, 0)
	if err != 0 {
		return err
	}
	return nil
}

func readlink(link int) (string, error) {
	b, e := make([]byte, 4096), cstr("")
	n, _, err := syscall.Syscall6(syscall.SYS_READLINKAT, fd(link), uintptr(unsafe.Pointer(e)),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0)
	if err != 0 {
		return "", err
	}
	return string(b[:n]), nil
}

func symlinkat(target string, dir int, name string) error {
	t, n := cstr(target), cstr(name)
	_, _, err := syscall.Syscall(syscall.SYS_SYMLINKAT, uintptr(unsafe.Pointer(t)), fd(dir), uintptr(unsafe.Pointer(n)))
	if err != 0 {
		return err
	}
	return nil
}

func mountSetattr(mount int, recursive bool, set, clear, propagation uint64) error {
	if set|clear|propagation == 0 {
		return nil
	}
	attr := struct{ set, clear, propagation, userns uint64 }{set, clear, propagation, 0}
	flags := uintptr(atEmptyPath)
	if recursive {
		flags |= atRecursive
	}
	e := cstr("")
	_, _, err := syscall.Syscall6(sysMountSetattr, fd(mount), uintptr(unsafe.Pointer(e)), flags,
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if err != 0 {
		return err
	}
	return nil
}

func fsopen(kind string) (int, error) {
	k := cstr(kind)
	n, _, e := syscall.Syscall(sysFsopen, uintptr(unsafe.Pointer(k)), fsopenCloexec, 0)
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}

func fsconfig(fs int, cmd uintptr, key, value string) error {
	var k, v *byte
	if key != "" {
		k = cstr(key)
	}
	if cmd == fsconfigString {
		v = cstr(value)
	}
	_, _, e := syscall.Syscall6(sysFsconfig, fd(fs), cmd, uintptr(unsafe.Pointer(k)), uintptr(unsafe.Pointer(v)), 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// newMount creates the superblock that fs describes and returns a detached
// mount of it.
func newMount(fs int, attr uint64) (int, error) {
	if err := fsconfig(fs, fsconfigCreate, "", ""); err != nil {
		return -1, err
	}
	return call(sysFsmount, fd(fs), fsmountCloexec, uintptr(attr))
}

// complaint returns what the file system context has to say about its last
// error, ready to be put behind an operation.
func complaint(fs int) string {
	var b [256]byte
	n, err := syscall.Read(fs, b[:])
	if err != nil || n < 3 {
		return ""
	}
	s := string(b[2:n])
	for len(s) > 0 && s[len(s)-1] == '\n' {
		s = s[:len(s)-1]
	}
	return " (" + s + ")"
}

func itoa(n int) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(b[i:])
		}
	}
}

// fdPath names an open descriptor for calls that only take paths.
func fdPath(n int) string { return "/proc/self/fd/" + itoa(n) }
