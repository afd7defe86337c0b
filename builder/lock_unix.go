//go:build unix

package builder

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockFile takes a lock that lasts until f is closed. Without wait, a lock that
// somebody else holds is an error.
func lockFile(f *os.File, exclusive, wait bool) error {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			return err
		}
	}
}
