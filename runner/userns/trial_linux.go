package userns

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// Trial is a process to be forked into new namespaces, where it makes the
// system calls that were added. Between fork and the end it has only one thread
// of the Go runtime, so that it must not allocate, grow its stack or block in
// the scheduler: it is a loop over calls that were prepared before.
type Trial struct {
	flags uintptr
	calls []call
	// held keeps alive, and off the stack, what the calls point to.
	held []unsafe.Pointer
	args cloneArgs
	// wait is the pipe that the process waits at; report is where it tells.
	wait, report [2]int
	parent       uintptr
	message      [8]byte
	all, old     uint64 // signal masks
}

// call is a prepared system call. The result of one that is kept becomes the
// first argument of those that are marked.
type call struct {
	op         string
	nr         uintptr
	args       [6]uintptr
	kept, keep bool
	loose      bool // it may fail
}

type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls uint64
}

const (
	sysClone3         = 435
	cloneClearSighand = 1 << 32
	prSetPdeathsig    = 1
)

// Failure is a system call that was refused in a Trial.
type Failure struct {
	Op    string
	Errno syscall.Errno
}

func (f *Failure) Error() string { return f.Op + ": " + f.Errno.Error() }

func (f *Failure) Unwrap() error { return f.Errno }

// NewTrial returns a process in the namespaces of the CLONE_NEW flags.
func NewTrial(flags uintptr) *Trial { return &Trial{flags: flags} }

// Call adds a system call, with an operation for its Failure.
func (t *Trial) Call(op string, nr uintptr, args ...uintptr) *Trial {
	c := call{op: op, nr: nr}
	copy(c.args[:], args)
	t.calls = append(t.calls, c)
	return t
}

// Keep adds a call whose result the calls of With take as their first argument.
func (t *Trial) Keep(op string, nr uintptr, args ...uintptr) *Trial {
	t.Call(op, nr, args...).calls[len(t.calls)-1].keep = true
	return t
}

// With adds a call on the result of Keep.
func (t *Trial) With(op string, nr uintptr, args ...uintptr) *Trial {
	t.Call(op, nr, append([]uintptr{0}, args...)...).calls[len(t.calls)-1].kept = true
	return t
}

// String returns the address of a C string.
func (t *Trial) String(s string) uintptr {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return t.hold(unsafe.Pointer(&b[0]))
}

func (t *Trial) hold(p unsafe.Pointer) uintptr {
	t.held = append(t.held, p)
	return uintptr(p)
}

// Private adds the call that takes the mounts apart from those of other
// namespaces. It tells early where a user namespace comes without rights.
func (t *Trial) Private() *Trial {
	return t.Call("make the mounts private", syscall.SYS_MOUNT, 0, t.String("/"), 0, syscall.MS_REC|syscall.MS_PRIVATE, 0)
}

// Run makes the calls in a process of its own and waits for its end. m is nil
// for a namespace without ids, or none. The error is a *Failure when one of the
// calls was refused.
func (t *Trial) Run(m *Mapping) error {
	// The process dies with the thread that forked it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := t.start(m)
	if err != nil {
		return err
	}
	defer syscall.Close(t.report[0])
	status, err := wait(pid)
	if err != nil {
		return err
	}
	if f := t.failure(); f != nil {
		return f
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		return errors.New("a process in new namespaces ended early: signal " + strconv.Itoa(int(status.Signal())))
	}
	return nil
}

func wait(pid int) (status syscall.WaitStatus, err error) {
	for {
		_, err = syscall.Wait4(pid, &status, 0, nil)
		if err != syscall.EINTR {
			return status, err
		}
	}
}

// failure reads what the process reported, until it ended or executed.
func (t *Trial) failure() error {
	var b [8]byte
	n, err := syscall.Read(t.report[0], b[:])
	for err == syscall.EINTR {
		n, err = syscall.Read(t.report[0], b[:])
	}
	if n < len(b) {
		return nil
	}
	i := binary.NativeEndian.Uint32(b[:])
	return &Failure{t.calls[i].op, syscall.Errno(binary.NativeEndian.Uint32(b[4:]))}
}

// start forks, maps the ids and lets the process go. The caller reads and
// closes report[0] and waits for the process.
func (t *Trial) start(m *Mapping) (pid int, err error) {
	if err := syscall.Pipe2(t.wait[:], syscall.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("pipe", err)
	}
	defer syscall.Close(t.wait[1])
	if err := syscall.Pipe2(t.report[:], syscall.O_CLOEXEC); err != nil {
		syscall.Close(t.wait[0])
		return 0, os.NewSyscallError("pipe", err)
	}
	pid, err = t.fork()
	syscall.Close(t.wait[0])
	syscall.Close(t.report[1])
	if err == nil && m != nil {
		if err = m.apply(pid); err != nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			_, _ = wait(pid)
		}
	}
	if err == nil {
		_, err = syscall.Write(t.wait[1], []byte{1})
	}
	if err != nil {
		syscall.Close(t.report[0])
	}
	return pid, err
}

func (t *Trial) fork() (int, error) {
	t.args.flags = uint64(t.flags) | cloneClearSighand
	t.args.exitSignal = uint64(syscall.SIGCHLD)
	t.parent = uintptr(os.Getpid())
	if t.flags&syscall.CLONE_NEWPID != 0 {
		t.parent = 0 // that of another namespace
	}
	t.all = ^uint64(0)
	pid, errno := t.rawFork(runtime.GOARCH == "s390x")
	runtime.KeepAlive(t)
	if errno != 0 {
		return 0, &Failure{"create a namespace", errno}
	}
	return int(pid), nil
}

// rawFork returns in the parent only.
//
//go:norace
//go:nosplit
func (t *Trial) rawFork(stackFirst bool) (uintptr, syscall.Errno) {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(&t.all)), uintptr(unsafe.Pointer(&t.old)), 8, 0, 0)
	pid, _, errno := syscall.RawSyscall6(sysClone3, uintptr(unsafe.Pointer(&t.args)), unsafe.Sizeof(t.args), 0, 0, 0, 0)
	if errno == syscall.ENOSYS || errno == syscall.EPERM || errno == syscall.EINVAL {
		// A filter that can't look into clone3's arguments, or an old kernel.
		flags, stack := uintptr(t.args.flags&^cloneClearSighand|t.args.exitSignal), uintptr(0)
		if stackFirst {
			flags, stack = stack, flags
		}
		pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, flags, stack, 0, 0, 0, 0)
	}
	if errno == 0 && pid == 0 {
		t.inside()
	}
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(&t.old)), 0, 8, 0, 0)
	return pid, errno
}

// inside is all that the forked process does; it does not return.
//
//go:norace
//go:nosplit
func (t *Trial) inside() {
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(t.wait[1]), 0, 0)
	n, _, _ := syscall.RawSyscall(syscall.SYS_READ, uintptr(t.wait[0]), uintptr(unsafe.Pointer(&t.message[0])), 1)
	if n != 1 { // the other side is gone
		exit(1)
	}
	_, _, _ = syscall.RawSyscall6(syscall.SYS_PRCTL, prSetPdeathsig, uintptr(syscall.SIGKILL), 0, 0, 0, 0)
	kept := uintptr(0)
	for i := range t.calls {
		c := &t.calls[i]
		if c.kept {
			c.args[0] = kept
		}
		r, _, errno := syscall.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errno != 0 && !c.loose {
			put32(&t.message, 0, uint32(i))
			put32(&t.message, 4, uint32(errno))
			_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(t.report[1]), uintptr(unsafe.Pointer(&t.message[0])), 8)
			exit(1)
		}
		if c.keep {
			kept = r
		}
		if c.nr == syscall.SYS_PRCTL && t.parent != 0 {
			// Whoever died before the death signal was asked for sends none.
			if ppid, _, _ := syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0); ppid != t.parent {
				exit(1)
			}
		}
	}
	exit(0)
}

//go:norace
//go:nosplit
func put32(b *[8]byte, at int, v uint32) { *(*uint32)(unsafe.Pointer(&b[at])) = v }

//go:norace
//go:nosplit
func exit(code uintptr) {
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, code, 0, 0)
	}
}

// apply gives the ids to the user namespace of a process.
func (m *Mapping) apply(pid int) error {
	if m.Helpers {
		return m.byHelpers(pid)
	}
	dir := "/proc/" + strconv.Itoa(pid)
	if err := writeFile(dir+"/uid_map", lines(m.UIDs)); err != nil {
		return err
	}
	if !m.KeepGroups {
		if err := writeFile(dir+"/setgroups", "deny"); err != nil {
			return err
		}
	}
	return writeFile(dir+"/gid_map", lines(m.GIDs))
}

func writeFile(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// byHelpers lets newuidmap and newgidmap write the maps, side by side.
func (m *Mapping) byHelpers(pid int) error {
	uid, err := startHelper("newuidmap", pid, m.UIDs)
	if err != nil {
		return err
	}
	gid, err := startHelper("newgidmap", pid, m.GIDs)
	if err != nil {
		return errors.Join(err, uid.finish())
	}
	return errors.Join(uid.finish(), gid.finish())
}

// helper is a program that writes a map.
type helper struct {
	name   string
	proc   *os.Process
	output *os.File
}

// MissingHelperError reports that newuidmap or newgidmap is not installed.
type MissingHelperError struct{ Name string }

func (e *MissingHelperError) Error() string { return e.Name + " is not installed" }

func startHelper(name string, pid int, list []Extent) (*helper, error) {
	path := Helper(name)
	if path == "" {
		return nil, &MissingHelperError{name}
	}
	argv := []string{name, strconv.Itoa(pid)}
	for _, e := range list {
		for _, n := range []uint32{e.Inside, e.Outside, e.Count} {
			argv = append(argv, strconv.FormatUint(uint64(n), 10))
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	proc, err := os.StartProcess(path, argv, &os.ProcAttr{Env: []string{}, Files: []*os.File{nil, w, w}})
	if err != nil {
		r.Close()
		return nil, err
	}
	return &helper{name, proc, r}, nil
}

// finish waits for the program; what it printed is the reason of its failure.
func (h *helper) finish() error {
	defer h.output.Close()
	var text [4096]byte
	n, _ := h.output.Read(text[:]) // nothing, at best
	state, err := h.proc.Wait()
	if err != nil || state.Success() {
		return err
	}
	reason := strings.TrimSpace(string(text[:n]))
	if reason == "" {
		reason = h.name + ": " + state.String()
	}
	return errors.New(reason)
}
