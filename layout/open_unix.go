//go:build unix

package layout

import "syscall"

// openFlags make open(2) refuse a symbolic link and not wait for the writer of
// a FIFO.
const openFlags = syscall.O_NOFOLLOW | syscall.O_NONBLOCK
