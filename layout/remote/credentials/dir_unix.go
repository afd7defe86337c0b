//go:build unix

package credentials

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockDir waits for the exclusive right to change files in a directory, among
// processes that ask for it. It leaves nothing behind. On a filesystem without
// such locks it does nothing: of two logins at the same moment one may be lost.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for unix.Flock(int(f.Fd()), unix.LOCK_EX) == unix.EINTR {
	}
	return func() { f.Close() }, nil
}

// keepOwner gives a new file the owner of the old one, where that is possible:
// with sudo the configuration is that of another user.
func keepOwner(old, tmp string) {
	fi, err := os.Stat(old)
	if err != nil {
		return
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		_ = os.Chown(tmp, int(st.Uid), int(st.Gid)) // else it is ours, as it would be anyhow
	}
}
