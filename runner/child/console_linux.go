package child

import (
	"syscall"
	"unsafe"
)

// console makes the terminal in the new root and mounts it on /dev/console.
func (r *rootfs) console(p *Plan) error {
	slave, err := r.terminal(p)
	if err != nil {
		return err
	}
	m, err := openTree(slave, "", false)
	if err != nil {
		return explain("clone the terminal", err)
	}
	defer syscall.Close(m)
	place, err := openat2(r.root, "/dev/console", oPath|syscall.O_NOFOLLOW, resolveInRoot|resolveNoSymlinks)
	if err == syscall.ENOENT {
		place, err = r.create("/dev/console", false)
	}
	if err != nil {
		return explain("create /dev/console", err)
	}
	defer syscall.Close(place)
	return explain("mount /dev/console", moveMount(m, place))
}

// terminal makes a terminal of the root's own devpts, sends its master away,
// and makes it the process's standard streams. The slave is had from the master,
// not by a path, which could lead elsewhere (CVE-2025-52565).
func (r *rootfs) terminal(p *Plan) (slave int, err error) {
	d := p.Detached
	master, err := openat2(r.root, "/dev/pts/ptmx", syscall.O_RDWR|syscall.O_NOCTTY, resolveInRoot|resolveNoSymlinks)
	if err != nil {
		return -1, explain("open /dev/pts/ptmx", err)
	}
	defer syscall.Close(master)
	var st syscall.Stat_t
	if err := syscall.Fstat(master, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFCHR || st.Rdev != 5<<8|2 {
		return -1, explain("/dev/pts/ptmx, which is not the multiplexer of terminals", errnoOr(err, syscall.ENODEV))
	}
	unlocked := int32(0)
	if err := ioctl(master, tiocsptlck, unsafe.Pointer(&unlocked)); err != nil {
		return -1, explain("unlock it", err)
	}
	number := uint32(0)
	if err := ioctl(master, tiocgptn, unsafe.Pointer(&number)); err != nil {
		return -1, explain("number it", err)
	}
	slave, err = call(syscall.SYS_IOCTL, fd(master), tiocgptpeer, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC)
	if err != nil {
		return -1, explain("open its other end", err)
	}
	if d.Rows|d.Columns != 0 {
		size := [4]uint16{uint16(d.Rows), uint16(d.Columns)}
		if err := ioctl(master, syscall.TIOCSWINSZ, unsafe.Pointer(&size)); err != nil {
			return -1, explain("size it", err)
		}
	}
	// A user that the namespace doesn't hold is told when it is set.
	_ = syscall.Fchown(slave, int(p.Process.UID), -1)
	name := []byte("/dev/pts/" + itoa(int(number)))
	if err := syscall.Sendmsg(int(d.Console), name, syscall.UnixRights(master), nil, 0); err != nil {
		return -1, explain("send it to the console socket", err)
	}
	for n := range 3 {
		if err := syscall.Dup3(slave, n, 0); err != nil {
			return -1, explain("make it the standard streams", err)
		}
	}
	return slave, nil
}

func ioctl(n int, request uintptr, arg unsafe.Pointer) error {
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, fd(n), request, uintptr(arg))
	if e != 0 {
		return e
	}
	return nil
}
