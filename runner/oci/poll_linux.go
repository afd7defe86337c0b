package oci

import (
	"errors"
	"syscall"
	"unsafe"
)

var errWaiting = errors.New("still waiting")

// hungUp waits until the other end of a pipe is closed.
func hungUp(fd int) error {
	const pollErr = 0x8
	p := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd)}
	_, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, 0, 0, 0, 0)
	switch {
	case errno == syscall.EINTR || errno == 0 && p.revents&pollErr == 0:
		return errWaiting
	case errno != 0:
		return errno
	}
	return nil
}
