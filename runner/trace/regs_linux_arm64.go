package trace

import (
	"syscall"
	"unsafe"
)

// regs are the registers of a stopped task.
type regs struct{ syscall.PtraceRegs }

const (
	auditArch   = 0xc00000b7
	elfMachine  = elfMachineARM64
	syscallSize = 4 // of the instruction

	sysSetxattr        = 5
	sysGetxattr        = 8
	sysListxattr       = 11
	nrVfork            = -2 // there is none
	sysSendmmsg        = 269
	sysTgsigqueueinfo  = 240
	sysSetns           = 268
	sysNameToHandle    = 264
	sysOpenByHandle    = 265
	sysSeccomp         = 277
	sysProcessVMReadv  = 270
	sysProcessVMWritev = 271
	sysFstatat         = syscall.SYS_FSTATAT
	sysRenameat2       = 276
	sysExecveat        = 281
	sysStatx           = 291

	ntARMSystemCall = 0x404
)

func (r *regs) nr() int                { return int(int32(r.Regs[8])) }
func (r *regs) arg(n int) uint64       { return r.Regs[n] }
func (r *regs) setArg(n int, v uint64) { r.Regs[n] = v }
func (r *regs) result() int64          { return int64(r.Regs[0]) }
func (r *regs) setResult(v int64)      { r.Regs[0] = uint64(v) }
func (r *regs) stack() uint64          { return r.Sp }

// rewind makes the task repeat the call that it has just made.
func (r *regs) rewind(int) { r.Pc -= syscallSize }

// restore puts back the arguments that were changed for the call. The first
// one's register has the result; the kernel keeps the argument itself for the
// case that it starts the call again.
func (r *regs) restore(before *regs) {
	copy(r.Regs[1:6], before.Regs[1:6])
	r.Regs[8] = before.Regs[8]
}

// setNr changes the call that is about to be made.
func (t *task) setNr(r *regs, nr int) error {
	number := int32(nr)
	v := iovec{uintptr(unsafe.Pointer(&number)), 4}
	return ptrace(ptraceSetRegset, t.tid, ntARMSystemCall, uintptr(unsafe.Pointer(&v)))
}
