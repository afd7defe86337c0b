//go:build amd64 || arm64

package trace

import (
	"encoding/binary"
	"syscall"
)

// refuse answers calls that a step may not make.
func refuse(errno syscall.Errno) handler {
	return func(*task, *regs) verdict { return fail(errno) }
}

// changing is a path that must not be read-only, and making one that is new.
func changing(dir, path int, follow bool) names {
	return names{dir: dir, path: path, follow: follow, change: true}
}

func making(dir, path int) names { return names{dir: dir, path: path, change: true, create: true} }

// existing is a path that is only looked at.
func existing(dir, path int, follow bool) names { return names{dir: dir, path: path, follow: follow} }

// handlers returns what is done with the calls that stop, by number: those that
// this architecture has, and those of every one.
func handlers() map[int]handler {
	calls := credCalls()
	for _, more := range []map[int]handler{pathCalls(), attributeCalls(), processCalls(), oldCalls()} {
		for nr, h := range more {
			calls[nr] = h
		}
	}
	return calls
}

// pathCalls are those that open, make and remove files.
func pathCalls() map[int]handler {
	return map[int]handler{
		syscall.SYS_OPENAT:            open(0, 1, 2),
		sysOpenat2:                    openat2,
		syscall.SYS_MKDIRAT:           translate(making(0, 1)),
		syscall.SYS_MKNODAT:           mknod(0, 1, 2),
		syscall.SYS_UNLINKAT:          translate(changing(0, 1, false)),
		syscall.SYS_RENAMEAT:          translate(changing(0, 1, false), changing(2, 3, false)),
		sysRenameat2:                  translate(changing(0, 1, false), changing(2, 3, false)),
		syscall.SYS_LINKAT:            linkat,
		syscall.SYS_SYMLINKAT:         translate(making(1, 2)),
		syscall.SYS_TRUNCATE:          truncate,
		syscall.SYS_CHDIR:             translate(existing(-1, 0, true)),
		syscall.SYS_STATFS:            translate(existing(-1, 0, true)),
		syscall.SYS_INOTIFY_ADD_WATCH: inotify,
		sysNameToHandle:               refuse(syscall.EOPNOTSUPP),
		syscall.SYS_EXECVE:            execve,
		sysExecveat:                   execveat,
		syscall.SYS_BIND:              socketAddress(1, true),
		syscall.SYS_CONNECT:           socketAddress(1, false),
		syscall.SYS_SENDTO:            socketAddress(4, false),
		syscall.SYS_SENDMSG:           sendmsg,
		sysSendmmsg:                   sendmmsg,
		syscall.SYS_GETCWD:            getcwd,
		syscall.SYS_READLINKAT:        readlinkAt(0, 1, 2, 3),
	}
}

// attributeCalls are those about owners, permissions, times and attributes.
func attributeCalls() map[int]handler {
	return map[int]handler{
		sysFstatat:                stat(0, 1, 2, 3, true),
		syscall.SYS_FSTAT:         fstat,
		sysStatx:                  statx,
		syscall.SYS_FACCESSAT:     access(0, 1, 2, -1),
		sysFaccessat2:             access(0, 1, 2, 3),
		syscall.SYS_FCHMOD:        chmod(-1, -1, 1, -1),
		syscall.SYS_FCHMODAT:      chmod(0, 1, 2, -1),
		sysFchmodat2:              chmod(0, 1, 2, 3),
		syscall.SYS_FCHOWN:        chown(-1, -1, 1, -1, true),
		syscall.SYS_FCHOWNAT:      chown(0, 1, 2, 4, true),
		syscall.SYS_UTIMENSAT:     utimes(0, 1, 2, nanoseconds, 3),
		sysSetxattr:               translate(changing(-1, 0, true)),
		sysSetxattr + 1:           translate(changing(-1, 0, false)), // lsetxattr
		sysGetxattr:               translate(existing(-1, 0, true)),
		sysGetxattr + 1:           translate(existing(-1, 0, false)),
		sysListxattr:              listxattr(0, true),
		sysListxattr + 1:          listxattr(0, false),
		sysListxattr + 2:          listxattr(-1, true),
		sysListxattr + 3:          translate(changing(-1, 0, true)), // removexattr
		sysListxattr + 4:          translate(changing(-1, 0, false)),
		sysSetxattrat:             refuse(syscall.ENOSYS),
		sysGetxattrat:             refuse(syscall.ENOSYS),
		sysListxattrat:            refuse(syscall.ENOSYS),
		sysRemovexattrat:          refuse(syscall.ENOSYS),
		syscall.SYS_FANOTIFY_MARK: refuse(syscall.EPERM),
	}
}

// processCalls are those about other processes, and those that need rights that
// no step here has.
func processCalls() map[int]handler {
	calls := map[int]handler{
		sysPidfdOpen:          one(0),
		syscall.SYS_PRLIMIT64: one(0),
		syscall.SYS_PRCTL:     prctl,
	}
	if landlockVersion() < landlockSignals {
		calls[syscall.SYS_KILL] = kill
		for _, nr := range []int{syscall.SYS_TKILL, syscall.SYS_TGKILL, syscall.SYS_RT_SIGQUEUEINFO, sysTgsigqueueinfo} {
			calls[nr] = one(0)
		}
	}
	for _, nr := range []int{
		syscall.SYS_CHROOT, syscall.SYS_PIVOT_ROOT, syscall.SYS_MOUNT, syscall.SYS_UMOUNT2, syscall.SYS_ACCT,
		syscall.SYS_SWAPON, syscall.SYS_SWAPOFF, syscall.SYS_QUOTACTL, syscall.SYS_UNSHARE, sysSetns,
		sysOpenTree, sysMoveMount, sysFsopen, sysFspick, sysMountSetattr, sysOpenTreeAttr, sysOpenByHandle,
	} {
		calls[nr] = refuse(syscall.EPERM)
	}
	// Files that are opened in the kernel's name, without a call that stops.
	calls[sysIoUringSetup] = refuse(syscall.ENOSYS)
	return calls
}

func linkat(t *task, r *regs) verdict {
	follow := r.arg(4)&atSymlinkFollow != 0
	if r.arg(4)&atEmptyPath != 0 {
		if name, errno := t.str(r.arg(1), pageSize); errno == 0 && name == "" {
			return t.translate(r, []names{changing(2, 3, false)})
		}
	}
	return t.translate(r, []names{existing(0, 1, follow), changing(2, 3, false)})
}

func truncate(t *task, r *regs) verdict {
	f, errno := t.find(atFDCWD, r.arg(0), true)
	if errno != 0 {
		return fail(errno)
	}
	if f.readOnly {
		return fail(syscall.EROFS)
	}
	if t.creds.root() && faccessat(f.host, 2) == syscall.EACCES {
		t.unlock(f.host)
	}
	return t.place(r, []names{{dir: -1, path: 0}}, []target{f}, nil)
}

func inotify(t *task, r *regs) verdict {
	const dontFollow = 0x02000000
	return t.translate(r, []names{existing(-1, 1, r.arg(2)&dontFollow == 0)})
}

// one lets calls through that are about a process of the step's own.
func one(arg int) handler {
	return func(t *task, r *regs) verdict {
		if pid := int(int32(r.arg(arg))); pid > 0 && !t.known(pid) {
			return fail(syscall.ESRCH)
		}
		return verdict{kind: pass}
	}
}

// kill keeps signals inside of the step where Landlock can't.
func kill(t *task, r *regs) verdict {
	switch pid := int(int32(r.arg(0))); {
	case pid > 0:
		return one(0)(t, r)
	case pid == -1:
		return fail(syscall.EPERM)
	case pid < -1:
		for tid := range t.tasks {
			if group, err := syscall.Getpgid(tid); err == nil && group == -pid {
				return verdict{kind: pass}
			}
		}
		return fail(syscall.ESRCH)
	}
	return verdict{kind: pass}
}

// prctl pretends that a process can hide its memory: the helper must read it.
func prctl(t *task, r *regs) verdict {
	if r.arg(0) == prSetDumpable && r.arg(1) <= 1 {
		return result(0)
	}
	return verdict{kind: pass}
}

// Instructions of classic BPF, and what a filter returns.
const (
	bpfLoad = 0x20
	bpfJeq  = 0x15
	bpfJge  = 0x35
	bpfRet  = 0x06

	retTrace  = 0x7ff00000
	retAllow  = 0x7fff0000
	retENOSYS = 0x00050000 | uint32(syscall.ENOSYS)

	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16

	x32Bit = 0x40000000
)

type insn struct {
	op     uint16
	jt, jf uint8
	k      uint32
}

// condition narrows the calls that stop by an argument.
type condition struct {
	arg   uint32
	value uint32 // of its lower half
	equal bool
}

// conditions are for calls that are frequent and seldom matter.
func conditions() map[int]condition {
	return map[int]condition{
		syscall.SYS_PRCTL:     {0, prSetDumpable, true},
		syscall.SYS_PRLIMIT64: {0, 0, false},
		syscall.SYS_SENDTO:    {4, 0, false},
	}
}

// filterProgram returns the filter that stops the calls. Programs of other
// architectures can make no call at all.
func filterProgram(calls map[int]handler) []byte {
	sorted := numbers(calls)
	code := []insn{
		{op: bpfLoad, k: dataArch},
		{bpfJeq, 1, 0, auditArch},
		{op: bpfRet, k: retENOSYS},
		{op: bpfLoad, k: dataNumber},
		{bpfJge, 0, 1, x32Bit},
		{op: bpfRet, k: retENOSYS},
	}
	code = append(code, search(sorted)...)
	b := make([]byte, 0, 8*len(code))
	for _, i := range code {
		b = binary.NativeEndian.AppendUint16(b, i.op)
		b = append(b, i.jt, i.jf)
		b = binary.NativeEndian.AppendUint32(b, i.k)
	}
	return b
}

// numbers sorts the calls that the architecture has.
func numbers(calls map[int]handler) (list []int) {
	for nr := range calls {
		if nr >= 0 {
			list = append(list, nr)
		}
	}
	for i := range list { // a short list, and no import
		for j := i; j > 0 && list[j] < list[j-1]; j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
	return list
}

// search finds the number by halves, down to a few that are compared in turn.
func search(list []int) (code []insn) {
	if len(list) > 4 {
		mid := len(list) / 2
		low, high := search(list[:mid]), search(list[mid:])
		if len(low) < 256 {
			return append(append([]insn{{bpfJge, uint8(len(low)), 0, uint32(list[mid])}}, low...), high...)
		}
	}
	for _, nr := range list {
		body := []insn{{op: bpfRet, k: retTrace}}
		if c, ok := conditions()[nr]; ok {
			stop, pass := uint8(0), uint8(1)
			if !c.equal {
				stop, pass = 1, 0
			}
			body = []insn{{op: bpfLoad, k: dataArgs + 8*c.arg}, {bpfJeq, stop, pass, c.value}, {op: bpfRet, k: retTrace}, {op: bpfRet, k: retAllow}}
		}
		code = append(code, insn{bpfJeq, 0, uint8(len(body)), uint32(nr)})
		code = append(code, body...)
	}
	return append(code, insn{op: bpfRet, k: retAllow})
}
