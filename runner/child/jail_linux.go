package child

import "syscall"

const prSetChildSubreaper = 36

// runJail is the process between the runner and a step in a jail.
func runJail(p *Plan) int {
	pid, err := startJail(p)
	if err != nil {
		return refuse(err)
	}
	go func() {
		var b [1]byte
		for readFull(b[:]) {
			if parentOf(itoa(pid)) == syscall.Getpid() {
				syscall.Kill(pid, syscall.Signal(b[0]))
			}
		}
		for killChildren() > 0 { // the rest follows when the step has ended
			pause()
		}
	}()
	status, err := await(pid)
	killAll()
	if err != nil {
		report(ReportFailure, uint32(errnoOf(err)), "wait for the step")
		return exitRefused
	}
	report(ReportExit, uint32(status), "")
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// await waits for the step and collects orphans until then.
func await(pid int) (status syscall.WaitStatus, err error) {
	for {
		n, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR || err == nil && n != pid:
		default:
			return status, err
		}
	}
}

// pause lets others do something.
func pause() {
	syscall.Select(0, nil, nil, nil, &syscall.Timeval{Usec: 1000})
}

// startJail prepares the jail and forks the step.
func startJail(p *Plan) (int, error) {
	syscall.Umask(0)
	if err := keepOnly(p.FDs); err != nil {
		return 0, err
	}
	if err := setOOMScore(p.OOMScoreAdj); err != nil {
		return 0, err
	}
	// What the step leaves becomes this process's child, wherever it was.
	if _, err := call(syscall.SYS_PRCTL, prSetChildSubreaper, 1); err != nil {
		return 0, explain("become the reaper of the step's processes", err)
	}
	if _, err := call(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0); err != nil {
		return 0, explain("protect the step's reaper", err)
	}
	root, err := openat2(atFDCWD, p.Jail.Root, oPath|syscall.O_DIRECTORY, 0)
	if err != nil {
		return 0, explain("open the root "+p.Jail.Root, err)
	}
	r := &rootfs{root: root}
	cwd, err := r.openDir(p.Process.Cwd)
	if err != nil {
		return 0, explain("enter the working directory "+p.Process.Cwd, err)
	}
	rules, err := p.Jail.ruleset(root)
	if err != nil {
		return 0, explain("make Landlock's rules", err)
	}
	return launchJail(p, root, cwd, rules)
}

// openDir opens a directory of the root, making it when it is missing.
func (r *rootfs) openDir(dir string) (int, error) {
	n, err := openat2(r.root, dir, oPath|syscall.O_DIRECTORY, resolveInRoot|resolveNoMagiclinks)
	if err == syscall.ENOENT {
		n, err = r.create(dir, true)
	}
	return n, err
}

// launchJail forks the step.
func launchJail(p *Plan, root, cwd, rules int) (int, error) {
	s := prepare(p)
	s.rules = rules
	s.add("enter the root", syscall.SYS_FCHDIR, fd(root))
	s.add("chroot", syscall.SYS_CHROOT, s.cref("."))
	s.add("enter the working directory", syscall.SYS_FCHDIR, fd(cwd))
	s.rights(p)
	all, old := ^uint64(0), uint64(0)
	sigmask(&all, &old)
	pid, errno := s.fork()
	sigmask(&old, nil)
	if errno != 0 {
		return 0, explain("fork the step", errno)
	}
	return int(pid), nil
}

// killAll ends and collects all children. Those of a child that died are this
// process's then, so it goes on until there are none. A child's number can't be
// another process's: nobody else collects it.
func killAll() {
	for {
		var status syscall.WaitStatus
		n, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.ECHILD {
			return
		}
		if n > 0 || err == syscall.EINTR {
			continue
		}
		if killChildren() == 0 {
			return // it isn't known who they are
		}
		syscall.Wait4(-1, &status, 0, nil)
	}
}

// killChildren kills the children of this process and returns their number.
func killChildren() (killed int) {
	proc, err := syscall.Open("/proc", syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer syscall.Close(proc)
	self := syscall.Getpid()
	buf := make([]byte, 32<<10)
	for {
		n, err := syscall.ReadDirent(proc, buf)
		if err != nil || n <= 0 {
			return killed
		}
		_, _, names := syscall.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if pid := atoi(name); pid > 0 && parentOf(name) == self && syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
	}
}

// parentOf reads the number of a process's parent; 0 when it's gone.
func parentOf(pid string) int {
	n, err := syscall.Open("/proc/"+pid+"/stat", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer syscall.Close(n)
	var b [512]byte
	size, err := syscall.Read(n, b[:])
	if err != nil {
		return 0
	}
	// pid (name) state parent ...; the name may hold anything.
	for i := size - 1; i >= 0; i-- {
		if b[i] == ')' && i+4 < size {
			rest := string(b[i+4 : size])
			for j := range len(rest) {
				if rest[j] == ' ' {
					return atoi(rest[:j])
				}
			}
		}
	}
	return 0
}

// atoi returns 0 for what is no number.
func atoi(s string) (n int) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' || i > 9 {
			return 0
		}
		n = n*10 + int(s[i]-'0')
	}
	return n
}
