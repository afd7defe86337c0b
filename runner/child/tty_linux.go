//go:build !ppc64 && !ppc64le

package child

// Requests of ioctl(2) about terminals.
const (
	tiocsctty   = 0x540e
	tiocgptpeer = 0x5441
	tiocsptlck  = 0x40045431
	tiocgptn    = 0x80045430
)
