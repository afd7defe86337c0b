package host

import (
	"os"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/userns"
)

// TrustedXattrs reports whether this process can write attributes trusted.*,
// which takes CAP_SYS_ADMIN in the first user namespace. Where it can't,
// overlayfs keeps its notes in attributes user.overlay.*.
func TrustedXattrs() bool { return !userns.Inside() && capable(unix.CAP_SYS_ADMIN) }

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
