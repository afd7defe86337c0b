//go:build amd64 || arm64

package trace

import (
	"syscall"
	"unsafe"
)

// tracer holds all tasks of a step. One thread does all of its work.
type tracer struct {
	view    *view
	private string
	calls   map[int]handler
	owners  *owners
	tasks   map[int]*task
	// early are new tasks that stopped before their parents told of them.
	early map[int]bool
	// copies are programs with the loader's path on the host, and aliases links
	// to programs.
	copies  map[copyKey]string
	aliases map[[2]string]string
	sockets map[string]string // short links to directories of sockets
	said    int               // the pipe in which the step says why it could not start
	step    int               // the first process
	ended   bool
	exit    syscall.WaitStatus // of the first process
}

// task is a thread of the step.
type task struct {
	*tracer
	tid, tgid int
	creds     *creds // never changed, but replaced
	exe       string // where in the root the program's file is
	space     *space
	scratch   uint64 // memory in the task for rewritten arguments; 0: none yet
	room      uint64 // its size
	// before are the registers as they were when the call stopped, and after
	// is what is to be done when it returns; nil: it won't be stopped there.
	before regs
	after  func(r *regs)
	// next is what an execve that is under way makes of the task.
	next *started
}

// space is an address space: scratch memory of threads that have ended is used
// again.
type space struct{ free []uint64 }

// handler decides on a call that stopped.
type handler func(t *task, r *regs) verdict

// verdict is what becomes of a call.
type verdict struct {
	kind  verdictKind
	value int64 // answer: the result; memory: how much is needed
	after func(r *regs)
}

type verdictKind int

const (
	pass    verdictKind = iota // the call is made as it is
	rewrite                    // registers were changed; they are restored afterwards
	answer                     // the call isn't made, and returns a value
	memory                     // the task needs more scratch memory first
)

func fail(errno syscall.Errno) verdict { return verdict{kind: answer, value: -int64(errno)} }
func result(n int) verdict             { return verdict{kind: answer, value: int64(n)} }

// attach begins to trace the process, which waits to be let go.
func (t *tracer) attach(pid int, c *creds, exe string) error {
	const options = optSysgood | optFork | optVfork | optClone | optExec | optSeccomp | optExitkill
	if err := ptrace(ptraceSeize, pid, 0, options); err != nil {
		return err
	}
	t.step = pid
	t.tasks[pid] = &task{tracer: t, tid: pid, tgid: pid, creds: c, exe: exe, space: &space{}}
	return nil
}

// run works until the first process and all others have ended.
func (t *tracer) run() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, wall, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil { // ECHILD: nobody is left
			return
		}
		if status.Exited() || status.Signaled() {
			t.gone(pid, status)
			continue
		}
		if status.Stopped() {
			t.stopped(pid, status)
		}
	}
}

func (t *tracer) gone(pid int, status syscall.WaitStatus) {
	if k := t.tasks[pid]; k != nil {
		k.release()
		delete(t.tasks, pid)
	}
	delete(t.early, pid)
	if status.Signaled() {
		// A new task whose parent was killed before it told of it: nothing is
		// known of it, and it has done nothing yet.
		for pid := range t.early {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if pid == t.step {
		t.exit, t.ended = status, true
		t.killAll()
	}
}

// killAll ends what the step left behind.
func (t *tracer) killAll() {
	t.ended = true
	for pid := range t.tasks {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
	}
	for pid := range t.early {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (k *task) release() {
	if k.scratch != 0 && k.room == scratchSize {
		k.space.free = append(k.space.free, k.scratch)
	}
	k.scratch = 0
}

func (t *tracer) stopped(pid int, status syscall.WaitStatus) {
	k, event := t.tasks[pid], int(status>>16)
	if k == nil {
		// A new task, whose parent's stop tells what it is, or an old one under
		// a new name.
		if event == eventExec {
			k = t.renamed(pid)
		}
		if k == nil {
			t.early[pid] = true
			if t.ended {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return
		}
	}
	sig := status.StopSignal()
	switch {
	case event == eventSeccomp:
		k.entered()
	case event == eventFork || event == eventVfork || event == eventClone:
		k.forked()
		k.proceed(0)
	case event == eventExec:
		if old := t.renamed(pid); old != nil {
			k = old
		}
		k.executed()
		k.proceed(0)
	case event == eventStop && sig != syscall.SIGTRAP:
		// A group stop: it goes on with SIGCONT.
		_ = ptrace(ptraceListen, pid, 0, 0)
	case event != 0:
		k.proceed(0)
	case sig == syscall.SIGTRAP|0x80:
		k.returned()
	default:
		k.proceed(sig)
	}
}

// proceed lets the task go on, with a signal or without. A task that is gone
// says so to wait4.
func (k *task) proceed(sig syscall.Signal) {
	request := ptraceCont
	if k.after != nil {
		request = ptraceSyscall
	}
	_ = ptrace(request, k.tid, 0, uintptr(sig))
}

// renamed finds the task that executed a program as a thread that is not its
// process's first: it has that one's id from now on.
func (t *tracer) renamed(pid int) *task {
	var former uint64
	if err := ptrace(ptraceGetEventMsg, pid, 0, uintptr(unsafe.Pointer(&former))); err != nil || int(former) == pid {
		return nil
	}
	k := t.tasks[int(former)]
	if k == nil {
		return nil
	}
	delete(t.tasks, int(former))
	k.tid, k.tgid = pid, pid
	t.tasks[pid] = k
	return k
}

// forked registers a new task.
func (k *task) forked() {
	var pid uint64
	if err := ptrace(ptraceGetEventMsg, k.tid, 0, uintptr(unsafe.Pointer(&pid))); err != nil || pid == 0 {
		return
	}
	flags := k.cloneFlags()
	n := &task{tracer: k.tracer, tid: int(pid), tgid: int(pid), creds: k.creds, exe: k.exe, space: &space{}}
	if flags&cloneThread != 0 {
		n.tgid = k.tgid
	}
	switch {
	case flags&cloneVM == 0: // a copy of the memory
		n.scratch, n.room = k.scratch, k.room
	case flags&cloneVfork != 0: // its parent waits
		n.scratch, n.room = k.scratch, k.room
	default:
		n.space = k.space
		if free := k.space.free; len(free) > 0 {
			n.scratch, n.room = free[len(free)-1], scratchSize
			k.space.free = free[:len(free)-1]
		}
	}
	k.tasks[n.tid] = n
	if k.ended {
		_ = syscall.Kill(n.tid, syscall.SIGKILL)
	}
	if k.early[n.tid] {
		delete(k.early, n.tid)
		n.proceed(0)
	}
}

// cloneFlags returns the flags of the call that made a new task.
func (k *task) cloneFlags() uint64 {
	var r regs
	if k.getRegs(&r) != nil {
		return 0
	}
	switch r.nr() {
	case syscall.SYS_CLONE:
		return r.arg(0)
	case sysClone3:
		var b [8]byte
		if k.read(r.arg(0), b[:]) == 0 {
			return le64(b[:])
		}
	case nrVfork:
		return cloneVM | cloneVfork
	}
	return 0
}

// entered handles a call that the filter stopped.
func (k *task) entered() {
	var r regs
	if err := k.getRegs(&r); err != nil {
		k.proceed(0)
		return
	}
	k.before = r
	h := k.calls[r.nr()]
	if h == nil {
		k.proceed(0)
		return
	}
	v := h(k, &r)
	var err error
	switch v.kind {
	case pass:
		k.after = v.after
	case answer:
		r.setResult(v.value)
		if err = k.setNr(&r, -1); err == nil {
			err = k.setRegs(&r)
		}
	case rewrite:
		k.after = func(r *regs) {
			r.restore(&k.before)
			if v.after != nil {
				v.after(r)
			}
			_ = k.setRegs(r) // it may have been killed
		}
		err = k.setRegs(&r)
	case memory:
		err = k.more(&r, uint64(v.value))
	}
	if err != nil {
		k.after = nil
	}
	k.proceed(0)
}

// returned handles the end of a call.
func (k *task) returned() {
	after := k.after
	k.after = nil
	var r regs
	if after != nil && k.getRegs(&r) == nil {
		after(&r)
	}
	k.proceed(0)
}

// scratchSize is the size of the memory for rewritten arguments: two paths and
// an address.
const scratchSize = 3 * pageSize

// scratchAt lays out n bytes of scratch memory; false: there is none yet.
func (k *task) scratchAt(n uint64) (uint64, bool) {
	return k.scratch, k.scratch != 0 && n <= k.room
}

// more makes the call map memory instead, and then be made again. Memory below
// the stack pointer will not do: the stacks of goroutines are small.
func (k *task) more(r *regs, size uint64) error {
	size = max(scratchSize, (size+pageSize-1)&^(pageSize-1))
	const readWrite, private = 3, 0x4022 // MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
	for i, v := range []uint64{0, size, readWrite, private, ^uint64(0), 0} {
		r.setArg(i, v)
	}
	original := k.before.nr()
	k.after = func(r *regs) {
		got := r.result()
		if got < 0 && got > -4096 {
			r.restore(&k.before)
			r.setResult(-int64(syscall.ENOMEM))
		} else {
			*r = k.before
			r.rewind(original)
			k.scratch, k.room = uint64(got), size
		}
		_ = k.setRegs(r) // it may have been killed
	}
	if err := k.setNr(r, syscall.SYS_MMAP); err != nil {
		return err
	}
	return k.setRegs(r)
}

func le64(b []byte) (v uint64) {
	for i := range 8 {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}
