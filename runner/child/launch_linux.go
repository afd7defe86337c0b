package child

import (
	"syscall"
	"unsafe"
)

// The step is forked from PID 1 with a copy of its memory, and gives up its
// rights itself before execve. Between the two only one thread of the Go
// runtime exists, so the code there must not allocate, grow its stack or
// block in the scheduler: it is a loop over system calls that were prepared
// before the fork (type rawCall), marked nosplit.

// rawCall is a prepared system call.
type rawCall struct {
	nr   uintptr
	args [6]uintptr
	// frame is the report of its failure, with room for the errno; nil: a
	// failure doesn't matter.
	frame []byte
	keep  bool   // the result is kept, for the first argument
	store *int32 // and written here
	kept  bool   // of a call with this mark
	// least is the least result that is not a failure: of a read, what was to
	// be read.
	least uintptr
}

// step is the prepared work of the forked process.
type step struct {
	clone  cloneArgs
	calls  []rawCall
	unmask uint64 // the empty signal mask
	paths  []*byte
	argv   []*byte
	envv   []*byte
	failed []byte // the frame of a failed execve
	rules  int    // of a jail's Landlock; -1: none
	// inSession tells that this process, which leads a session already, becomes
	// the command.
	inSession bool
	// told is a socket pair between the parent and a forked command, number the
	// text of the command's number in the runner's namespace of pids, which it
	// hears from there; nil: it is not forked.
	told   [2]int
	number *[ListenerPIDSize]byte
	// control is where failures are reported.
	control uintptr
	// held keeps alive, and off the stack, what the calls point to.
	held []unsafe.Pointer
}

// ref returns the address of something that must be there at the fork.
func (s *step) ref(p unsafe.Pointer) uintptr {
	s.held = append(s.held, p)
	return uintptr(p)
}

// cref returns the address of a C string.
func (s *step) cref(v string) uintptr { return s.ref(unsafe.Pointer(cstr(v))) }

type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize uint64
}

// stepPID is the step's pid, however many threads PID 1 has: pids end up in what
// steps build. It needs CONFIG_CHECKPOINT_RESTORE, and isn't worth a failure.
const stepPID = 10

const (
	cloneClearSighand = 1 << 32

	prSetKeepcaps   = 8
	prCapbsetDrop   = 24
	prSetNoNewPrivs = 38
	prCapAmbient    = 47
	ambientRaise    = 2
	ambientClearAll = 4

	keyctlJoinSession = 1
	seccompSetFilter  = 1
)

// launch forks the step and returns its pid.
func launch(p *Plan) (int, error) {
	s := prepare(p)
	var sync [2]int
	if p.Emulator != "" {
		if err := syscall.Pipe2(sync[:], syscall.O_CLOEXEC); err != nil {
			return 0, explain("make a pipe", err)
		}
		s.emulate(p, sync[0])
	}
	s.rights(p)
	all, old := ^uint64(0), uint64(0)
	sigmask(&all, &old)
	pid, errno := s.fork()
	sigmask(&old, nil)
	if errno != 0 {
		return 0, explain("fork the step", errno)
	}
	if p.Emulator != "" {
		if err := mapIdentity(int(pid)); err != nil {
			return 0, err
		}
		syscall.Write(sync[1], []byte{1})
		syscall.Close(sync[0])
		syscall.Close(sync[1])
	}
	return int(pid), nil
}

func sigmask(set, old *uint64) {
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(set)),
		uintptr(unsafe.Pointer(old)), 8, 0, 0)
}

func prepare(p *Plan) *step {
	s := &step{
		control: ControlFD,
		paths:   cstrs(p.Process.Paths),
		argv:    cstrs(p.Process.Argv),
		envv:    cstrs(p.Process.Env),
		failed:  frame(ReportExec, 0, "\x00\x00\x00\x00"),
	}
	s.clone.exitSignal = uint64(syscall.SIGCHLD)
	s.clone.flags = cloneClearSighand
	s.clone.setTID, s.clone.setTIDSize = uint64(s.ref(unsafe.Pointer(&[1]int32{stepPID}))), 1
	return s
}

// cstrs returns a NULL-terminated array of C strings.
func cstrs(list []string) []*byte {
	v := make([]*byte, len(list)+1)
	for i, s := range list {
		v[i] = cstr(s)
	}
	return v
}

// add appends a call whose failure is reported with the given operation; an
// empty one makes failures harmless.
func (s *step) add(op string, nr uintptr, args ...uintptr) *rawCall {
	c := rawCall{nr: nr}
	copy(c.args[:], args)
	if op != "" {
		c.frame = frame(ReportFailure, 0, op)
	}
	s.calls = append(s.calls, c)
	return &s.calls[len(s.calls)-1]
}

// rights prepares the calls that turn root into the step's user.
func (s *step) rights(p *Plan) {
	q := &p.Process
	s.session(p)
	s.add("", syscall.SYS_KEYCTL, keyctlJoinSession, 0)
	for i := range q.Rlimits {
		r := &q.Rlimits[i]
		s.add("set resource limit "+itoa(int(r.Resource)), syscall.SYS_PRLIMIT64, 0,
			uintptr(r.Resource), s.ref(unsafe.Pointer(&r.Soft)), 0)
	}
	s.add("", syscall.SYS_UMASK, uintptr(q.Umask))
	for c := uint64(0); c <= q.LastCap; c++ {
		if q.Bounding>>c&1 == 0 {
			s.add("drop a capability from the bounding set", syscall.SYS_PRCTL, prCapbsetDrop, uintptr(c))
		}
	}
	s.scheduling(q)
	s.user(q)
	s.dispositions()
	first := uintptr(3)
	if p.Detached != nil {
		first += uintptr(p.Detached.Inherit)
	}
	s.add("close descriptors", sysCloseRange, first, 1<<32-1, closeRangeCloexec)
	s.add("unblock signals", syscall.SYS_RT_SIGPROCMASK, 2, s.ref(unsafe.Pointer(&s.unmask)), 0, 8)
	if q.NoNewPrivs {
		s.add("set no_new_privs", syscall.SYS_PRCTL, prSetNoNewPrivs, 1)
		s.capabilities(q)
		s.landlock(p)
		s.listener(q)
		s.filter(q)
		return
	}
	// Without no_new_privs a filter needs CAP_SYS_ADMIN.
	s.landlock(p)
	s.listener(q)
	s.filter(q)
	s.capabilities(q)
}

// session makes the command the leader of a session, and gives it its terminal.
func (s *step) session(p *Plan) {
	if !s.inSession {
		s.add("start a session", syscall.SYS_SETSID)
	}
	if p.Detached != nil && p.Detached.Console != 0 {
		s.add("make the terminal the session's", syscall.SYS_IOCTL, 0, tiocsctty, 0)
	}
}

// scheduling sets on what the command runs, and when, and in which memory.
func (s *step) scheduling(q *Process) {
	const process = 1 // IOPRIO_WHO_PROCESS
	if q.Scheduler != "" {
		s.add("set the scheduler", sysSchedSetattr, 0, s.cref(q.Scheduler), 0)
	}
	if len(q.CPUs) > 0 {
		s.add("set the processors to run on", syscall.SYS_SCHED_SETAFFINITY, 0, uintptr(8*len(q.CPUs)), s.ref(unsafe.Pointer(&q.CPUs[0])))
	}
	if q.IOPriority != 0 {
		s.add("set the priority of I/O", syscall.SYS_IOPRIO_SET, process, 0, uintptr(q.IOPriority-1))
	}
	if q.Personality != 0 {
		s.add("set the personality", syscall.SYS_PERSONALITY, uintptr(q.Personality-1))
	}
	if q.MemoryMode == 0 {
		return
	}
	var mask, bits uintptr
	if len(q.MemoryNodes) > 0 {
		mask, bits = s.ref(unsafe.Pointer(&q.MemoryNodes[0])), uintptr(64*len(q.MemoryNodes)+1)
	}
	s.add("set the policy of memory", syscall.SYS_SET_MEMPOLICY, uintptr(q.MemoryMode-1), mask, bits)
}

// dispositions gives every signal its default: what bk was told to ignore by
// those who started it would else be ignored by the step too.
func (s *step) dispositions() {
	const signals, actionSize = 64, 64
	byDefault := s.ref(unsafe.Pointer(&[actionSize]byte{}))
	for n := uintptr(1); n <= signals; n++ {
		s.add("", syscall.SYS_RT_SIGACTION, n, byDefault, 0, 8)
	}
}

// user switches ids and keeps all capabilities for now.
func (s *step) user(q *Process) {
	var groups *uint32
	if len(q.Groups) > 0 {
		list := make([]uint32, len(q.Groups))
		for i, g := range q.Groups {
			list[i] = uint32(g)
		}
		groups = &list[0]
	}
	uid, gid := uintptr(q.UID), uintptr(q.GID)
	s.add("keep capabilities", syscall.SYS_PRCTL, prSetKeepcaps, 1)
	if !q.KeepGroups {
		s.add("set supplementary groups", syscall.SYS_SETGROUPS, uintptr(len(q.Groups)), s.ref(unsafe.Pointer(groups)))
	}
	s.add("set the group to "+itoa(int(q.GID)), syscall.SYS_SETRESGID, gid, gid, gid)
	s.add("set the user to "+itoa(int(q.UID)), syscall.SYS_SETRESUID, uid, uid, uid)
	s.add("", syscall.SYS_PRCTL, prSetKeepcaps, 0)
	if q.UID != 0 {
		// The switch emptied the effective set.
		all := permitted()
		s.capset("raise capabilities", all, all, 0)
	}
	s.add("", syscall.SYS_PRCTL, prCapAmbient, ambientClearAll, 0, 0)
}

// capabilities sets what the step ends up with.
func (s *step) capabilities(q *Process) {
	s.capset("set capabilities", q.Effective, q.Permitted, q.Inheritable)
	for c := uint64(0); c <= q.LastCap; c++ {
		if q.Ambient>>c&1 != 0 {
			s.add("raise an ambient capability", syscall.SYS_PRCTL, prCapAmbient, ambientRaise, uintptr(c), 0, 0)
		}
	}
}

// capHeader and capData are the kernel's structures, version 3.
type capHeader struct{ version, pid uint32 }

type capData [2]struct{ effective, permitted, inheritable uint32 }

const capVersion3 = 0x20080522

func (s *step) capset(op string, effective, permitted, inheritable uint64) {
	data := new(capData)
	for i := range data {
		shift := 32 * i
		data[i].effective = uint32(effective >> shift)
		data[i].permitted = uint32(permitted >> shift)
		data[i].inheritable = uint32(inheritable >> shift)
	}
	s.add(op, syscall.SYS_CAPSET, s.ref(unsafe.Pointer(&capHeader{version: capVersion3})),
		s.ref(unsafe.Pointer(data)))
}

// permitted returns the capabilities that this process has.
func permitted() uint64 {
	var data capData
	syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&capHeader{version: capVersion3})),
		uintptr(unsafe.Pointer(&data)), 0)
	return uint64(data[0].permitted) | uint64(data[1].permitted)<<32
}

// filter prepares the load of the seccomp program.
func (s *step) filter(q *Process) {
	if q.Filter == "" {
		return
	}
	code := []byte(q.Filter)
	prog := &sockFprog{uint16(len(code) / 8), &code[0]}
	if q.Listener != 0 {
		s.loadNotifying(q, prog)
		return
	}
	s.add("load the seccomp filter", sysSeccomp, seccompSetFilter, uintptr(q.FilterFlags), s.ref(unsafe.Pointer(prog)))
}

// program prepares the load of a filter.
func (s *step) program(op, program string, flags uint64) *rawCall {
	code := []byte(program)
	prog := &sockFprog{uint16(len(code) / 8), &code[0]}
	return s.add(op, sysSeccomp, seccompSetFilter, uintptr(flags), s.ref(unsafe.Pointer(prog)))
}

// sockFprog is the kernel's struct sock_fprog.
type sockFprog struct {
	length uint16
	code   *byte
}

// loadNotifying prepares the load of a filter, which returns a descriptor, and
// sends that away.
func (s *step) loadNotifying(q *Process, prog *sockFprog) {
	const rights = 1 // SCM_RIGHTS
	control := &struct {
		length      uintptr
		level, kind int32
		fd          int32
		_           int32
	}{level: syscall.SOL_SOCKET, kind: rights}
	control.length = unsafe.Offsetof(control.fd) + unsafe.Sizeof(control.fd)
	state := []byte(q.ListenerState)
	if len(state) == 0 {
		state = []byte{0}
	}
	parts := []syscall.Iovec{part(state)}
	if s.number != nil && len(state) >= ListenerPID+ListenerPIDSize {
		parts = []syscall.Iovec{part(state[:ListenerPID]), part(s.number[:]), part(state[ListenerPID+ListenerPIDSize:])}
	}
	message := &syscall.Msghdr{Iov: &parts[0], Control: (*byte)(unsafe.Pointer(control))}
	setLen(&message.Iovlen, len(parts))
	message.SetControllen(int(unsafe.Sizeof(*control)))
	load := s.add("load the seccomp filter", sysSeccomp, seccompSetFilter, uintptr(q.FilterFlags), s.ref(unsafe.Pointer(prog)))
	load.keep, load.store = true, &control.fd
	s.add("send the notifications of the seccomp filter", sysSendmsg, uintptr(q.Listener), s.ref(unsafe.Pointer(message)), 0)
	s.add("close the notifications", syscall.SYS_CLOSE).kept = true
}

func part(b []byte) (v syscall.Iovec) {
	if len(b) > 0 {
		v.Base = &b[0]
	}
	v.SetLen(len(b))
	return v
}

// setLen sets a length whose size depends on the architecture.
func setLen[T uint32 | uint64](to *T, n int) { *to = T(n) }

// fork returns in the parent only.
//
//go:norace
//go:nosplit
func (s *step) fork() (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(sysClone3, uintptr(unsafe.Pointer(&s.clone)), unsafe.Sizeof(s.clone), 0, 0, 0, 0)
	if errno != 0 && s.clone.setTIDSize != 0 {
		s.clone.setTID, s.clone.setTIDSize = 0, 0
		pid, _, errno = syscall.RawSyscall6(sysClone3, uintptr(unsafe.Pointer(&s.clone)), unsafe.Sizeof(s.clone), 0, 0, 0, 0)
	}
	if errno == syscall.ENOSYS || errno == syscall.EPERM {
		var args [2]uintptr // s390x has the stack first
		args[cloneFlagsArg] = uintptr(s.clone.flags&^cloneClearSighand | s.clone.exitSignal)
		pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, args[0], args[1], 0, 0, 0, 0)
	}
	if errno == 0 && pid == 0 {
		s.becomeStep()
	}
	return pid, errno
}

// becomeStep is all that the forked process does; it does not return.
//
//go:norace
//go:nosplit
func (s *step) becomeStep() {
	kept := uintptr(0)
	for i := range s.calls {
		c := &s.calls[i]
		if c.kept {
			c.args[0] = kept
		}
		r, _, errno := syscall.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errno == 0 && r < c.least {
			errno = syscall.ECANCELED
		}
		if errno != 0 && c.frame != nil {
			s.fail(c.frame, errno)
		}
		if c.keep {
			kept = r
		}
		if c.store != nil {
			*c.store = int32(r)
		}
	}
	s.exec()
}

// exec tries the paths as execvp(3) does.
//
//go:norace
//go:nosplit
func (s *step) exec() {
	result := syscall.ENOENT
	for _, path := range s.paths {
		if path == nil {
			break
		}
		_, _, errno := syscall.RawSyscall6(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(path)),
			uintptr(unsafe.Pointer(&s.argv[0])), uintptr(unsafe.Pointer(&s.envv[0])), 0, 0, 0)
		switch errno {
		case syscall.ENOENT:
			at := atFDCWD
			_, _, missing := syscall.RawSyscall6(syscall.SYS_FACCESSAT, uintptr(at), uintptr(unsafe.Pointer(path)), 0, 0, 0, 0)
			if missing == 0 { // but not its interpreter
				s.failed[9] = 1
				s.fail(s.failed, errno)
			}
		case syscall.ENOTDIR:
		case syscall.EACCES:
			result = errno
		default:
			s.fail(s.failed, errno)
		}
	}
	s.fail(s.failed, result)
}

// fail sends the frame and ends the process.
//
//go:norace
//go:nosplit
func (s *step) fail(frame []byte, errno syscall.Errno) {
	frame[5], frame[6] = byte(errno), byte(errno>>8)
	syscall.RawSyscall6(syscall.SYS_WRITE, s.control, uintptr(unsafe.Pointer(&frame[0])), uintptr(len(frame)), 0, 0, 0)
	for {
		syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, exitRefused, 0, 0, 0, 0, 0)
	}
}
