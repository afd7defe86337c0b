package layer

import (
	"bytes"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// futimens sets the times of the open file fd.
func futimens(fd int, ts [2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// umask returns the process's file mode creation mask without changing it for a
// moment, as umask(2) would for all threads; 0777 when it isn't known.
func umask() uint32 {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0o777
	}
	_, b, _ = bytes.Cut(b, []byte("\nUmask:\t"))
	b, _, _ = bytes.Cut(b, []byte("\n"))
	m, err := strconv.ParseUint(string(b), 8, 32)
	if err != nil {
		return 0o777
	}
	return uint32(m)
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := retry(func() (int, error) { return unix.Write(fd, b) })
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// zeros reports whether b is worth a hole: a page or more of zeros.
func zeros(b []byte) bool {
	const page = 4096
	if len(b) < page {
		return false
	}
	var z [page]byte
	for ; len(b) >= page; b = b[page:] {
		if !bytes.Equal(b[:page], z[:]) {
			return false
		}
	}
	return bytes.Equal(b, z[:len(b)])
}
