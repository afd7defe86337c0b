package runner

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/child"
	"bk.build/bk/runner/host"
	"bk.build/bk/runner/notify"
)

// Run starts the container, waits until its command ends, and returns how. It
// needs the rights of root over mounts, of the machine or of a user namespace.
//
// A command that can't be executed is an *ExecError together with its code in
// Status. When the context ends first the whole container is killed and the
// context's cause is returned. When Run returns no process and no mount of the
// container is left, and its output has been written.
func Run(ctx context.Context, c Container) (Status, error) {
	start := run
	switch {
	case c.Isolation == host.Chroot:
		start = runChroot
	case c.Runtime != "":
		start = runExternal
	}
	status, err := start(ctx, &c)
	if err != nil && c.ID != "" && !errors.As(err, new(*ExecError)) {
		err = fmt.Errorf("container %s: %w", c.ID, err)
	}
	return status, err
}

func run(ctx context.Context, c *Container) (Status, error) {
	if err := context.Cause(ctx); err != nil {
		return Status{}, err
	}
	plan, err := newPlan(c)
	if err != nil {
		return Status{}, err
	}
	return plan.execute(ctx)
}

// execute runs the planned container.
func (b *planner) execute(ctx context.Context) (Status, error) {
	c := b.c
	confine := b.confine
	if l := c.Spec.Linux; b.jailed() && l.Resources == nil && l.CgroupsPath == "" {
		confine = func() (*confined, error) { return new(confined), nil }
	}
	confined, err := confine()
	if err != nil {
		return Status{}, err
	}
	streams, err := openStreams(c)
	if err != nil {
		return Status{}, errors.Join(err, confined.close())
	}
	p := &process{plan: b, confined: confined, grace: c.Grace, signals: c.Signals, sent: make(chan struct{})}
	status, err := p.run(ctx, streams)
	status.OOM = confined.ranOut()
	if errClose := confined.close(); err == nil && errClose != nil {
		err = fmt.Errorf("end the container's cgroup: %w", errClose)
	}
	if errStream := streams.wait(); err == nil && errStream != nil {
		err = fmt.Errorf("copy the container's output: %w", errStream)
	}
	return status, err
}

// process is one run of the child.
type process struct {
	plan     *planner
	confined *confined
	grace    time.Duration
	signals  <-chan os.Signal

	control *os.File
	sent    chan struct{} // closed when the plan is on its way
	os      *os.Process
	reports reports

	supervisor *notify.Supervisor // of a container whose ids are remembered
	passed     []int              // descriptors that came from the child
}

// reports is what the child said.
type reports struct {
	err  error
	exit *syscall.WaitStatus
}

// run starts the child and waits for its end.
func (p *process) run(ctx context.Context, s *streams) (Status, error) {
	// The kernel kills the child when the thread that started it ends; this
	// thread waits for it anyway.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.start(s)
	s.started()
	if err != nil {
		return Status{}, err
	}
	defer p.control.Close()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		p.converse()
	}()
	defer p.endNotify()
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		p.watch(ctx, done)
	}()
	state, err := p.os.Wait()
	close(done)
	<-watched
	<-heard
	if err != nil {
		return Status{}, fmt.Errorf("wait for the container: %w", err)
	}
	return p.outcome(ctx, state)
}

// start re-executes this program as the container's PID 1.
func (p *process) start(s *streams) (err error) {
	defer p.plan.closeFiles()
	theirs, err := p.socket()
	if err != nil {
		return err
	}
	defer theirs.Close()
	defer func() {
		if err != nil {
			p.control.Close()
		}
	}()
	files := append([]*os.File{s.stdin, s.stdout, s.stderr, theirs}, p.plan.files...)
	if p.plan.jailed() {
		return p.startJailed(files)
	}
	exe, err := ownExecutable(files)
	if err != nil {
		return err
	}
	defer exe.Close()
	return p.clone(exe, files)
}

// socket makes the control socket and returns the child's end.
func (p *process) socket() (theirs *os.File, err error) {
	pair, err := unixSocket()
	if err != nil {
		return nil, err
	}
	p.control = pair[0]
	return pair[1], nil
}

// clone starts the child in its namespaces and its cgroup.
func (p *process) clone(exe *os.File, files []*os.File) error {
	attr := &os.ProcAttr{
		Env:   childEnvironment(),
		Files: files,
		Sys:   &syscall.SysProcAttr{Cloneflags: p.plan.flags, Pdeathsig: syscall.SIGKILL},
	}
	group, err := p.cgroupFD()
	if err != nil {
		return err
	}
	name, argv := fmt.Sprintf("/proc/self/fd/%d", exe.Fd()), []string{"bk-child"}
	if group != nil {
		defer group.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(group.Fd())
		if p.os, err = os.StartProcess(name, argv, attr); err == nil {
			return p.enter(true)
		}
		// Before Linux 5.7, or where a filter forbids clone3.
		attr.Sys.UseCgroupFD = false
	}
	if p.os, err = os.StartProcess(name, argv, attr); err != nil {
		return fmt.Errorf("start a process in new namespaces: %w", allowed(cause(err)))
	}
	return p.enter(false)
}

// allowed says what a container needs when the kernel refuses one.
func allowed(err error) error {
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		return fmt.Errorf("%w: running containers needs root, or a user namespace: bk doctor says what this machine allows", err)
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: running containers needs CAP_SYS_ADMIN and a seccomp profile that allows new namespaces: bk doctor says what this machine allows", err)
	}
	return err
}

// cause strips the name of a descriptor that means nothing to a user.
func cause(err error) error {
	if e := new(os.PathError); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// childEnvironment keeps the Go runtime of the child small: it lives for one
// step, allocates little and has nothing to run in parallel.
func childEnvironment() []string {
	return []string{
		child.Marker + "=1",
		"GOGC=off",
		"GOMAXPROCS=1",
		"GODEBUG=containermaxprocs=0,updatemaxprocs=0",
	}
}

// converse sends the plan and listens to the child until it ends.
func (p *process) converse() {
	p.reports.err = p.sendPlan()
	close(p.sent)
	for p.listen() {
	}
}

// sendPlan writes the plan to the child.
func (p *process) sendPlan() error {
	body := p.plan.plan.Encode()
	message := append([]byte(child.Magic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(message[len(child.Magic):], uint32(len(body)))
	// A failed write means a dead child; its status tells.
	if _, err := p.control.Write(append(message, body...)); err != nil {
		return fmt.Errorf("send the plan: %w", err)
	}
	return nil
}

// maxReport bounds a report of the child in bytes.
const maxReport = 64 << 10

// listen takes one report; it returns false at the end of the stream.
func (p *process) listen() bool {
	kind, value, text, err := receive(receiver{p})
	if err != nil {
		return false
	}
	if kind == child.ReportListener {
		p.startNotify()
		return true
	}
	p.reports.take(p.plan.c, kind, value, text)
	return true
}

// receive reads one report of a child.
func receive(control io.Reader) (kind byte, value uint32, text []byte, err error) {
	var head [9]byte
	if _, err := io.ReadFull(control, head[:]); err != nil {
		return 0, 0, nil, err
	}
	size := binary.LittleEndian.Uint32(head[1:5])
	if size < 4 || size > maxReport {
		return 0, 0, nil, fmt.Errorf("child sent a report of %d bytes", size)
	}
	text = make([]byte, size-4)
	_, err = io.ReadFull(control, text)
	return head[0], binary.LittleEndian.Uint32(head[5:]), text, err
}

func (r *reports) take(c *Container, kind byte, value uint32, text []byte) {
	switch kind {
	case child.ReportFailure:
		r.err = explain(c, string(text), syscall.Errno(value))
	case child.ReportExec:
		r.err = execError(c, syscall.Errno(value), len(text) > 0 && text[0] == 1)
	case child.ReportExit:
		status := syscall.WaitStatus(value)
		r.exit = &status
	}
}

// explain adds what to do about a failure to operation and cause.
func explain(c *Container, op string, errno syscall.Errno) error {
	err := fmt.Errorf("%s: %w", op, errno)
	switch {
	case c.Emulator != nil && op == "mount binfmt_misc":
		return fmt.Errorf("%w: emulation without set-up of the host needs Linux 6.7; register a handler on the host instead (Debian: apt-get install qemu-user-static binfmt-support)", err)
	case c.Emulator != nil && op == "fork the step":
		return fmt.Errorf("%w: emulation needs a user namespace (sysctl user.max_user_namespaces)", err)
	case op == "pivot_root" && errno == syscall.EINVAL:
		return fmt.Errorf("%w: the root directory of this process is not a mount point (an initramfs or a chroot)", err)
	}
	return err
}

// execError words a failed execve as other runtimes do.
func execError(c *Container, errno syscall.Errno, present bool) error {
	e := &ExecError{Name: c.Spec.Process.Args[0], Code: 126, Err: errno}
	switch {
	case present:
		e.Err = fmt.Errorf("%w: the file is there, but not the interpreter that it names (its #! line, or the loader of a dynamic executable)", errno)
	case errno == syscall.ENOENT && !strings.Contains(e.Name, "/"):
		e.Code, e.Err = 127, errNotInPath
	case errno == syscall.ENOENT:
		e.Code = 127
	case errno == syscall.ENOEXEC:
		e.Err = fmt.Errorf("%w: it is neither for this platform nor a script with a #! line", errno)
	}
	return e
}

var errNotInPath error = notInPath{}

// notInPath has the text that other runtimes print.
type notInPath struct{}

func (notInPath) Error() string        { return "executable file not found in $PATH" }
func (notInPath) Is(target error) bool { return target == os.ErrNotExist }

// watch passes signals on and ends the container with the context.
func (p *process) watch(ctx context.Context, done <-chan struct{}) {
	select {
	case <-p.sent: // signals go behind the plan
	case <-ctx.Done():
		p.kill()
	case <-done:
	}
	signals, end := p.signals, ctx.Done()
	var kill <-chan time.Time
	for {
		select {
		case <-done:
			return
		case s, ok := <-signals:
			if !ok {
				signals = nil
			} else if n, ok := s.(syscall.Signal); ok {
				p.signal(n)
			}
		case <-end:
			end = nil
			if p.grace > 0 {
				p.signal(syscall.SIGTERM)
			}
			timer := time.NewTimer(p.grace)
			defer timer.Stop()
			kill = timer.C
		case <-kill:
			p.kill()
		}
	}
}

// signal sends a signal to the command; a dead child doesn't mind.
func (p *process) signal(n syscall.Signal) {
	_, _ = p.control.Write([]byte{byte(n)})
}

// outcome puts together what the child said and how it ended.
func (p *process) outcome(ctx context.Context, state *os.ProcessState) (Status, error) {
	if err := context.Cause(ctx); err != nil && !state.Exited() {
		return Status{Code: 128 + int(syscall.SIGKILL), Signal: int(syscall.SIGKILL)}, err
	}
	if e := new(ExecError); errors.As(p.reports.err, &e) {
		return Status{Code: e.Code}, e
	}
	if p.reports.err != nil {
		return Status{}, p.reports.err
	}
	exit := p.reports.exit
	if exit == nil && p.confined.ranOut() {
		return Status{Code: 128 + int(syscall.SIGKILL), Signal: int(syscall.SIGKILL)}, nil
	}
	if exit == nil {
		return Status{}, fmt.Errorf("its first process ended unexpectedly: %s", state)
	}
	status := Status{Code: exit.ExitStatus()}
	if exit.Signaled() {
		status = Status{Code: 128 + int(exit.Signal()), Signal: int(exit.Signal())}
	}
	return status, context.Cause(ctx)
}
