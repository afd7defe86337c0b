//go:build unix

package builder

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// inode returns a comparable name of a file that has several names; nil for one
// that hasn't.
func inode(st fs.FileInfo) any {
	if s, ok := st.Sys().(*syscall.Stat_t); ok && s.Nlink > 1 {
		return [2]uint64{uint64(s.Dev), uint64(s.Ino)}
	}
	return nil
}

// diskSize returns the size in bytes of the file system that a directory is on.
func diskSize(dir string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0
	}
	return int64(st.Blocks) * int64(st.Bsize)
}

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
