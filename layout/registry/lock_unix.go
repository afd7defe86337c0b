//go:build unix

package registry

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// openFlags refuse a symbolic link and do not wait for the writer of a FIFO.
const openFlags = unix.O_NOFOLLOW | unix.O_NONBLOCK

// renameOpen: a file that is open, and locked, can get another name.
const renameOpen = true

// lock waits until no other process has the file. The lock ends with the file,
// so also with the process.
func lock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return err
		}
		select {
		case <-ctx.Done():
			return busyUpload()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
