package trace

import "syscall"

// oldCalls are those that newer architectures don't have.
func oldCalls() map[int]handler {
	return map[int]handler{
		syscall.SYS_OPEN:      open(-1, 0, 1),
		syscall.SYS_CREAT:     creat,
		syscall.SYS_MKDIR:     translate(making(-1, 0)),
		syscall.SYS_MKNOD:     mknod(-1, 0, 1),
		syscall.SYS_UNLINK:    translate(changing(-1, 0, false)),
		syscall.SYS_RMDIR:     translate(changing(-1, 0, false)),
		syscall.SYS_RENAME:    translate(changing(-1, 0, false), changing(-1, 1, false)),
		syscall.SYS_LINK:      translate(existing(-1, 0, false), changing(-1, 1, false)),
		syscall.SYS_SYMLINK:   translate(making(-1, 1)),
		syscall.SYS_READLINK:  readlinkAt(-1, 0, 1, 2),
		syscall.SYS_STAT:      stat(-1, 0, 1, -1, true),
		syscall.SYS_LSTAT:     stat(-1, 0, 1, -1, false),
		syscall.SYS_ACCESS:    access(-1, 0, 1, -1),
		syscall.SYS_CHMOD:     chmod(-1, 0, 1, -1),
		syscall.SYS_CHOWN:     chown(-1, 0, 1, -1, true),
		syscall.SYS_LCHOWN:    chown(-1, 0, 1, -1, false),
		syscall.SYS_UTIME:     utimes(-1, 0, 1, seconds, -1),
		syscall.SYS_UTIMES:    utimes(-1, 0, 1, microseconds, -1),
		syscall.SYS_FUTIMESAT: utimes(0, 1, 2, microseconds, -1),
		syscall.SYS_USELIB:    refuse(syscall.ENOSYS),
	}
}
