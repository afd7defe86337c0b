package cgroup

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attachDevices loads a program and makes it the only one of this kind of the
// group. There is no moment in which the group is without one.
func attachDevices(dir string, prog []instruction) error {
	group, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer group.Close()
	before, err := deviceProgs(int(group.Fd()))
	if err != nil {
		return err
	}
	defer func() {
		for _, fd := range before {
			unix.Close(fd)
		}
	}()
	fd, err := loadDevices(assemble(prog))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	a := attachAttr{target: uint32(group.Fd()), prog: uint32(fd), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	if len(before) > 0 {
		a.flags, a.replace = a.flags|unix.BPF_F_REPLACE, uint32(before[0])
	}
	_, err = bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&a), unsafe.Sizeof(a))
	if err == unix.EINVAL && len(before) > 0 { // before Linux 5.6: one beside the other, for a moment
		a.flags, a.replace = unix.BPF_F_ALLOW_MULTI, 0
		_, err = bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&a), unsafe.Sizeof(a))
	} else if len(before) > 0 {
		before = dropFirst(before)
	}
	if err != nil {
		return fmt.Errorf("attach a device program to %s: %w", dir, err)
	}
	for _, old := range before {
		d := attachAttr{target: uint32(group.Fd()), prog: uint32(old), kind: unix.BPF_CGROUP_DEVICE}
		if _, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&d), unsafe.Sizeof(d)); err != nil {
			return fmt.Errorf("detach a device program from %s: %w", dir, err)
		}
	}
	return nil
}

func dropFirst(fds []int) []int {
	unix.Close(fds[0])
	return fds[1:]
}

// attachAttr is union bpf_attr of BPF_PROG_ATTACH and BPF_PROG_DETACH.
type attachAttr struct{ target, prog, kind, flags, replace uint32 }

// bpf is bpf(2); it returns a descriptor where the command has one.
func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// loadDevices loads a program; the caller closes its descriptor.
func loadDevices(code []byte) (int, error) {
	license := []byte("Apache-2.0\x00") // no function of the kernel is called
	a := struct {
		kind, count           uint32
		code, license         uint64
		logLevel, logSize     uint32
		log                   uint64
		kernelVersion, pflags uint32
		name                  [16]byte
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code) / 8),
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
		name: [16]byte{'b', 'k', '_', 'd', 'e', 'v', 'i', 'c', 'e', 's'},
	}
	var pins runtime.Pinner // the kernel reads addresses that are numbers here
	defer pins.Unpin()
	pins.Pin(&code[0])
	pins.Pin(&license[0])
	var fd int
	var err error
	for range 5 { // EAGAIN: a signal came while it was verified
		if fd, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&a), unsafe.Sizeof(a)); err != unix.EAGAIN {
			break
		}
	}
	if errors.Is(err, unix.EPERM) {
		return -1, fmt.Errorf("load a device program: %w: needs CAP_BPF or CAP_SYS_ADMIN outside of user namespaces", err)
	}
	if err != nil {
		return -1, fmt.Errorf("load a device program: %w", err)
	}
	return fd, nil
}

// maxProgs is how many programs the kernel attaches to one group.
const maxProgs = 64

// deviceProgs opens the device programs that are attached to the group itself.
func deviceProgs(group int) ([]int, error) {
	ids := new([maxProgs]uint32)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(ids)
	q := struct {
		target, kind, flags, attachFlags uint32
		ids                              uint64
		count, pad                       uint32
		progFlags                        uint64
	}{target: uint32(group), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: maxProgs}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&q), unsafe.Sizeof(q))
	if err != nil {
		return nil, fmt.Errorf("ask for device programs: %w", err)
	}
	var fds []int
	for _, id := range ids[:min(q.count, maxProgs)] {
		a := struct{ id, next, flags uint32 }{id: id}
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&a), unsafe.Sizeof(a))
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			return nil, fmt.Errorf("open a device program: %w", err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}
