package trace

import "syscall"

// regs are the registers of a stopped task.
type regs struct{ syscall.PtraceRegs }

const (
	auditArch   = 0xc000003e
	elfMachine  = elfMachineAMD64
	syscallSize = 2 // of the instruction

	sysSetxattr        = 188
	sysGetxattr        = 191
	sysListxattr       = 194
	nrVfork            = syscall.SYS_VFORK
	sysSendmmsg        = 307
	sysTgsigqueueinfo  = 297
	sysSetns           = 308
	sysNameToHandle    = 303
	sysOpenByHandle    = 304
	sysSeccomp         = 317
	sysProcessVMReadv  = 310
	sysProcessVMWritev = 311
	sysFstatat         = syscall.SYS_NEWFSTATAT
	sysRenameat2       = 316
	sysExecveat        = 322
	sysStatx           = 332
)

func (r *regs) nr() int { return int(int32(r.Orig_rax)) }

func (r *regs) arg(n int) uint64 { return *r.argument(n) }

func (r *regs) argument(n int) *uint64 {
	return [...]*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9}[n]
}

func (r *regs) setArg(n int, v uint64) { *r.argument(n) = v }
func (r *regs) result() int64          { return int64(r.Rax) }
func (r *regs) setResult(v int64)      { r.Rax = uint64(v) }
func (r *regs) stack() uint64          { return r.Rsp }

// rewind makes the task repeat the call that it has just made.
func (r *regs) rewind(nr int) {
	r.Rip -= syscallSize
	r.Rax = uint64(nr)
}

// restore puts back the arguments that were changed for the call.
func (r *regs) restore(before *regs) {
	r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9 = before.Rdi, before.Rsi, before.Rdx, before.R10, before.R8, before.R9
	r.Orig_rax = before.Orig_rax
}

// setNr changes the call that is about to be made.
func (t *task) setNr(r *regs, nr int) error {
	r.Orig_rax = uint64(int64(nr))
	return nil
}
