//go:build amd64 || arm64

package trace

import (
	"errors"
	"strconv"
	"syscall"
	"unsafe"
)

// rawCall is a system call that was prepared before the fork: between fork and
// execve nothing may allocate, grow its stack or block in the scheduler.
type rawCall struct {
	nr   uintptr
	args [6]uintptr
	// op is the frame that reports its failure; nil: a failure doesn't matter.
	op []byte
}

// child is the prepared work of the forked process.
type child struct {
	wait    [2]int // a pipe that ends when the process is traced
	said    [2]int // a pipe for the frame of a failure
	calls   []rawCall
	paths   []*byte
	argv    []*byte
	envv    []*byte
	failed  []byte
	unmask  uint64
	held    []unsafe.Pointer
	oneByte [1]byte
}

func (c *child) ref(p unsafe.Pointer) uintptr {
	c.held = append(c.held, p)
	return uintptr(p)
}

func (c *child) add(op string, nr uintptr, args ...uintptr) {
	r := rawCall{nr: nr}
	copy(r.args[:], args)
	if op != "" {
		r.op = append([]byte{reportFailure, 0, 0, 0, 0}, op...)
	}
	c.calls = append(c.calls, r)
}

func cstrs(list []string) []*byte {
	v := make([]*byte, len(list)+1)
	for i, s := range list {
		v[i] = cstr(s)
	}
	return v
}

// launch forks the step and attaches to it.
func (t *tracer) launch(o *Options, landlock int) error {
	c := &child{paths: cstrs(o.Paths), argv: cstrs(o.Argv), envv: cstrs(o.Env), failed: []byte{reportExec, 0, 0, 0, 0}}
	for _, p := range []*[2]int{&c.wait, &c.said} {
		if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
			return explain("make a pipe", err)
		}
	}
	t.said = c.said[0]
	c.prepare(o, t.calls, landlock)
	all, old := ^uint64(0), uint64(0)
	sigmask(&all, &old)
	pid, errno := c.fork()
	sigmask(&old, nil)
	if errno != 0 {
		return &failure{"fork the step", errno}
	}
	syscall.Close(c.said[1])
	if err := t.attach(int(pid), newCreds(o.UID, o.GID, o.Groups), ""); err != nil {
		_ = syscall.Kill(int(pid), syscall.SIGKILL) // it waits for us
		if errors.Is(err, syscall.EPERM) {
			return &failure{"trace the step (kernel.yama.ptrace_scope must be 0 or 1, and the seccomp profile must allow ptrace)", syscall.EPERM}
		}
		return explain("trace the step", err)
	}
	syscall.Close(c.wait[0])
	syscall.Close(c.wait[1])
	return nil
}

// reported passes on what the step said when it could not execute its command.
func (t *tracer) reported() bool {
	var b [512]byte
	n, err := syscall.Read(t.said, b[:])
	if err != nil || n < 5 {
		return false
	}
	report(b[0], uint32(b[1])|uint32(b[2])<<8, string(b[5:n]))
	return true
}

func sigmask(set, old *uint64) {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(set)),
		uintptr(unsafe.Pointer(old)), 8, 0, 0)
}

// prepare lists the calls that turn the forked process into the step.
func (c *child) prepare(o *Options, calls map[int]handler, landlock int) {
	c.add("", syscall.SYS_CLOSE, fd(c.wait[1]))
	c.add("wait for the tracer", syscall.SYS_READ, fd(c.wait[0]), c.ref(unsafe.Pointer(&c.oneByte)), 1)
	c.add("start a session", syscall.SYS_SETSID)
	for _, r := range o.Rlimits {
		limit := &[2]uint64{r.Soft, r.Hard}
		c.add("set resource limit "+strconv.Itoa(r.Resource), syscall.SYS_PRLIMIT64, 0, uintptr(r.Resource), c.ref(unsafe.Pointer(limit)), 0)
	}
	c.add("", syscall.SYS_UMASK, uintptr(o.Umask))
	c.dispositions()
	c.add("close descriptors", sysCloseRange, controlFD, 1<<32-1, closeRangeCloexec)
	c.add("unblock signals", syscall.SYS_RT_SIGPROCMASK, 2, c.ref(unsafe.Pointer(&c.unmask)), 0, 8)
	if landlock >= 0 {
		c.add("restrict the step by Landlock", sysLandlockRestrict, fd(landlock), 0)
	}
	if len(o.Filter) > 0 {
		c.filter("load the seccomp filter", o.Filter, uintptr(o.FilterFlags))
	}
	c.filter("load the tracer's filter", filterProgram(calls), 0)
	c.add("enter the working directory "+o.Cwd, syscall.SYS_CHDIR, c.ref(unsafe.Pointer(cstr(o.Cwd))))
}

func (c *child) filter(op string, code []byte, flags uintptr) {
	prog := &struct {
		length uint16
		code   *byte
	}{uint16(len(code) / 8), &code[0]}
	c.add(op, sysSeccomp, seccompSetFilter, flags, c.ref(unsafe.Pointer(prog)))
}

// dispositions gives every signal its default.
func (c *child) dispositions() {
	const signals, actionSize = 64, 64
	byDefault := c.ref(unsafe.Pointer(&[actionSize]byte{}))
	for n := uintptr(1); n <= signals; n++ {
		c.add("", syscall.SYS_RT_SIGACTION, n, byDefault, 0, 8)
	}
}

// fork returns in the parent only.
//
//go:norace
//go:nosplit
func (c *child) fork() (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		c.become()
	}
	return pid, errno
}

// become is all that the forked process does; it does not return.
//
//go:norace
//go:nosplit
func (c *child) become() {
	for i := range c.calls {
		r := &c.calls[i]
		_, _, errno := syscall.RawSyscall6(r.nr, r.args[0], r.args[1], r.args[2], r.args[3], r.args[4], r.args[5])
		if errno != 0 && r.op != nil {
			c.fail(r.op, errno)
		}
	}
	result := syscall.ENOENT
	for _, p := range c.paths {
		if p == nil {
			break
		}
		_, _, errno := syscall.RawSyscall6(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(p)),
			uintptr(unsafe.Pointer(&c.argv[0])), uintptr(unsafe.Pointer(&c.envv[0])), 0, 0, 0)
		if errno == syscall.ENOENT || errno == syscall.ENOTDIR {
			continue
		}
		result = errno
		if errno != syscall.EACCES {
			break
		}
	}
	c.fail(c.failed, result)
}

// fail sends the frame and ends the process.
//
//go:norace
//go:nosplit
func (c *child) fail(frame []byte, errno syscall.Errno) {
	frame[1], frame[2] = byte(errno), byte(errno>>8)
	_, _, _ = syscall.RawSyscall6(syscall.SYS_WRITE, uintptr(c.said[1]), uintptr(unsafe.Pointer(&frame[0])), uintptr(len(frame)), 0, 0, 0)
	for {
		_, _, _ = syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, exitRefused, 0, 0, 0, 0, 0)
	}
}
