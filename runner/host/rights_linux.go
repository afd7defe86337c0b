package host

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/userns"
)

// initialUserNamespace is the inode of the first user namespace in nsfs, which
// has been the same since it has had one (PROC_USER_INIT_INO).
const initialUserNamespace = 0xEFFFFFFD

// TrustedXattrs reports whether this process can write attributes trusted.*,
// which takes CAP_SYS_ADMIN in the first user namespace. Where it can't,
// overlayfs keeps its notes in attributes user.overlay.*.
func TrustedXattrs() bool { return initialNamespace() && capable(unix.CAP_SYS_ADMIN) }

// initialNamespace reports whether this process is in the first user namespace.
func initialNamespace() bool {
	info, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Ino == initialUserNamespace
}

// capable reports whether a capability is in the effective set.
func capable(n int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	return data[n/32].Effective>>(n%32)&1 != 0
}

// SingleUser reports whether this process has no user id but its own, whatever
// its rights are.
func SingleUser() bool {
	m, err := userns.Whole()
	return err == nil && userns.Size(m.UIDs) == 1
}

// Privileged reports whether this process has root's rights over mounts, in
// whichever user namespace it is.
func Privileged() bool { return os.Geteuid() == 0 && capable(unix.CAP_SYS_ADMIN) }
