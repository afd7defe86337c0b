package child

import (
	"syscall"
	"unsafe"
)

// detach makes the container and becomes its command. It returns when that
// could not be done.
func detach(p *Plan) error {
	syscall.Umask(0)
	d := p.Detached
	if err := keepOnly(p.FDs); err != nil {
		return err
	}
	// The caller's terminal and its job control are nothing to the container.
	if _, err := syscall.Setsid(); err != nil && err != syscall.EPERM {
		return explain("start a session", err)
	}
	if err := setOOMScore(p.OOMScoreAdj); err != nil {
		return err
	}
	if d.Enter { // the container is there, and looks
		if err := protect(); err != nil {
			return err
		}
	}
	fork, err := join(p.Joins)
	if err != nil {
		return err
	}
	if err := isolate(p); err != nil {
		return err
	}
	if err := protect(); err != nil {
		return err
	}
	if !d.Enter {
		if err := build(p); err != nil {
			return err
		}
	}
	if err := enterDir(p); err != nil {
		return err
	}
	if err := present(p); err != nil {
		return err
	}
	if err := label(p.Process.Labels); err != nil {
		return err
	}
	s, err := command(p, fork)
	if err != nil {
		return err
	}
	if fork {
		return s.forkCommand(p)
	}
	report(ReportCreated, 0, "")
	if err := pass(p); err != nil {
		return err
	}
	s.becomeStep()
	return nil
}

// keepOnly closes all descriptors but the control socket and the given number
// behind it: at the start what the runner's own parent left open, and at the end
// our own. Those that stay are kept from the command.
func keepOnly(count uint64) error {
	first := ControlFD + 1 + int(count)
	if _, err := call(sysCloseRange, fd(first), 1<<32-1, 0); err != nil {
		return explain("close descriptors", err)
	}
	_, err := call(sysCloseRange, ControlFD, fd(first-1), closeRangeCloexec)
	return explain("protect descriptors", err)
}

// join enters namespaces. Those of users and of clocks are left, as only a
// process with one thread can enter them; fork reports that the command must be
// forked to be in one.
func join(list []Join) (fork bool, err error) {
	for _, j := range list {
		switch j.Flag {
		case syscall.CLONE_NEWUSER, cloneNewtime:
			fork = true
			continue
		case syscall.CLONE_NEWNS:
			if err := syscall.Unshare(syscall.CLONE_FS); err != nil {
				return false, explain("leave the directories that threads share", err)
			}
		}
		if _, err := call(sysSetns, fd(int(j.FD)), uintptr(j.Flag)); err != nil {
			return false, explain("join the "+namespaceName(j.Flag)+" namespace", err)
		}
	}
	return fork, nil
}

func namespaceName(flag uint64) string {
	switch flag {
	case syscall.CLONE_NEWUSER:
		return "user"
	case syscall.CLONE_NEWPID:
		return "pid"
	case syscall.CLONE_NEWNS:
		return "mount"
	case syscall.CLONE_NEWNET:
		return "network"
	case syscall.CLONE_NEWIPC:
		return "ipc"
	case syscall.CLONE_NEWUTS:
		return "uts"
	case cloneNewcgroup:
		return "cgroup"
	}
	return "time"
}

// protect keeps processes of the container from looking into this one
// (CVE-2016-9962, CVE-2019-5736).
func protect() error {
	_, err := call(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0)
	return explain("protect the process", err)
}

// build mounts the container's file tree and makes it the root.
func build(p *Plan) error {
	d := p.Detached
	r, err := newRootfs(p)
	if err != nil {
		return err
	}
	if err := r.mountAll(p); err != nil {
		return err
	}
	if d.Console != 0 {
		if err := r.console(p); err != nil {
			return explain("make the terminal", err)
		}
	}
	if d.Sync {
		report(ReportReady, 0, "")
		var b [1]byte
		if !readFull(b[:]) {
			return explain("wait for the hooks of the runtime", syscall.ECANCELED)
		}
	}
	for i := range d.CreateHooks {
		if err := d.CreateHooks[i].run(d.Creating); err != nil {
			return explain("createContainer hook "+d.CreateHooks[i].Path, err)
		}
	}
	if err := setSysctls(p.Sysctls); err != nil {
		return err
	}
	if err := r.enter(); err != nil {
		return err
	}
	if p.RootPropagation != 0 {
		err := syscall.Mount("", "/", "", uintptr(p.RootPropagation), "")
		return explain("set the propagation of the root", err)
	}
	return nil
}

// enterDir enters the working directory, which is inside of the root: nothing
// else is open.
func enterDir(p *Plan) error {
	root, err := openat2(atFDCWD, "/", oPath|syscall.O_DIRECTORY, 0)
	if err != nil {
		return explain("open the root", err)
	}
	defer syscall.Close(root)
	r := &rootfs{root: root}
	return explain("enter the working directory "+p.Process.Cwd, r.changeDir(p.Process.Cwd))
}

// present makes the terminal, or gives the standard streams to the command's
// user, who may open them again.
func present(p *Plan) error {
	if p.Detached.Console != 0 && p.Detached.Enter {
		root, err := openat2(atFDCWD, "/", oPath|syscall.O_DIRECTORY, 0)
		if err != nil {
			return explain("open the root", err)
		}
		defer syscall.Close(root)
		_, err = (&rootfs{root: root}).terminal(p)
		return explain("make the terminal", err)
	}
	if p.Detached.Console != 0 {
		return nil
	}
	for n := range 3 {
		var st syscall.Stat_t
		if syscall.Fstat(n, &st) != nil || uint64(st.Uid) == p.Process.UID || st.Mode&syscall.S_IFMT == syscall.S_IFCHR && st.Rdev == 1<<8|3 {
			continue
		}
		err := syscall.Fchown(n, int(p.Process.UID), int(st.Gid))
		switch err {
		case nil, syscall.EPERM, syscall.EROFS, syscall.EINVAL, syscall.ENOSYS:
		default:
			return explain("give the standard streams to the user", err)
		}
	}
	return nil
}

// label says which labels the command gets.
func label(list []Label) error {
	return writeProcs(len(list), func(i int) (op, path, value string) {
		l := list[i]
		return "set the label " + l.Value, "thread-self/attr/" + l.File, l.Value
	})
}

// command prepares what turns this process into the command, or another one
// that it forks. A command that is not there is told now, not when it's
// started.
func command(p *Plan, fork bool) (*step, error) {
	if err := findCommand(&p.Process); err != nil {
		return nil, err
	}
	s := prepare(p)
	s.clone.setTID, s.clone.setTIDSize = 0, 0
	for _, j := range p.Joins {
		if j.Flag == syscall.CLONE_NEWUSER || j.Flag == cloneNewtime {
			s.add("join the "+namespaceName(j.Flag)+" namespace", sysSetns, uintptr(j.FD), uintptr(j.Flag))
		}
	}
	s.inSession = !fork
	if fork {
		if err := s.wait(p); err != nil {
			return nil, err
		}
	}
	if err := s.inherit(p.Detached); err != nil {
		return nil, err
	}
	s.rights(p)
	return s, nil
}

// findCommand looks for the command as execvp(3) does.
func findCommand(q *Process) error {
	result := syscall.ENOENT
	for _, path := range q.Paths {
		err := faccess(path, 1)
		if err == nil {
			var st syscall.Stat_t
			if syscall.Stat(path, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
				err = syscall.EACCES
			} else {
				return nil
			}
		}
		if err == syscall.EACCES {
			result = syscall.EACCES
		}
	}
	return &execFailure{result}
}

// execFailure is a command that can't be executed.
type execFailure struct{ errno syscall.Errno }

func (e *execFailure) Error() string { return "exec: " + e.errno.Error() }

func faccess(path string, mode uintptr) error {
	here := atFDCWD
	_, _, e := syscall.Syscall6(syscall.SYS_FACCESSAT, fd(here), uintptr(unsafe.Pointer(cstr(path))), mode, 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// pass waits at the gate and runs the hooks that come last.
func pass(p *Plan) error {
	d := p.Detached
	if d.Gate != 0 {
		var b [1]byte
		for {
			n, err := syscall.Read(int(d.Gate), b[:])
			if err == syscall.EINTR {
				continue
			}
			if err != nil || n == 0 {
				return explain("wait to be started", errnoOr(err, syscall.ECANCELED))
			}
			break
		}
	}
	return d.startHooks()
}

func (d *Detached) startHooks() error {
	for i := range d.StartHooks {
		if err := d.StartHooks[i].run(d.Created); err != nil {
			return explain("startContainer hook "+d.StartHooks[i].Path, err)
		}
	}
	return nil
}

func errnoOr(err error, other syscall.Errno) error {
	if err == nil {
		return other
	}
	return err
}

// inherit prepares to move descriptors to where the command looks for them. The
// control socket is in their way, and is kept elsewhere until the end.
func (s *step) inherit(d *Detached) error {
	if d.Inherit == 0 {
		return nil
	}
	beyond := ControlFD + 1 + int(d.Inherit)
	n, err := call(syscall.SYS_FCNTL, ControlFD, syscall.F_DUPFD_CLOEXEC, uintptr(beyond))
	if err != nil {
		return explain("keep the control socket", err)
	}
	s.control = uintptr(n)
	for i := range int(d.Inherit) {
		s.add("pass descriptor "+itoa(ControlFD+i), syscall.SYS_DUP3, uintptr(ControlFD+1+i), uintptr(ControlFD+i), 0)
	}
	return nil
}

// wait prepares a forked command to wait until it's started, and to let its
// parent run the hooks that come last.
func (s *step) wait(p *Plan) error {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return explain("socketpair", err)
	}
	s.told = pair
	s.add("leave the parent's socket", syscall.SYS_CLOSE, fd(pair[0]))
	s.number = new([ListenerPIDSize]byte)
	s.add("hear of the runner", syscall.SYS_READ, fd(pair[1]), s.ref(unsafe.Pointer(s.number)), ListenerPIDSize).least = ListenerPIDSize
	one := s.ref(unsafe.Pointer(&[1]byte{1}))
	if d := p.Detached; d.Gate != 0 {
		s.add("wait to be started", syscall.SYS_READ, uintptr(d.Gate), one, 1).least = 1
	}
	if len(p.Detached.StartHooks) > 0 {
		s.add("ask for the hooks", syscall.SYS_WRITE, fd(pair[1]), one, 1)
		s.add("wait for the hooks", syscall.SYS_READ, fd(pair[1]), one, 1).least = 1
	}
	return nil
}

// forkCommand forks the command, which is then the child of this process's
// parent. It returns when there is nothing left to do for it.
func (s *step) forkCommand(p *Plan) error {
	s.clone.flags |= syscall.CLONE_PARENT
	s.clone.exitSignal = 0 // that of this process
	all, old := ^uint64(0), uint64(0)
	sigmask(&all, &old)
	pid, errno := s.fork()
	sigmask(&old, nil)
	if errno != 0 {
		return explain("fork the command", errno)
	}
	syscall.Close(s.told[1]) // so that its end is heard
	report(ReportPID, uint32(pid), "")
	var number [ListenerPIDSize]byte
	if !readFull(number[:]) {
		return explain("hear of the runner", syscall.ECANCELED)
	}
	syscall.Write(s.told[0], number[:])
	report(ReportCreated, 0, "")
	if len(p.Detached.StartHooks) > 0 {
		var b [1]byte
		if n, err := syscall.Read(s.told[0], b[:]); err != nil || n == 0 {
			syscall.Exit(0) // it was killed
		}
		if err := p.Detached.startHooks(); err != nil {
			return err
		}
		syscall.Write(s.told[0], b[:])
	}
	syscall.Exit(0)
	return nil
}
