package child

import (
	"syscall"
	"unsafe"
)

// init takes over the process when the runner started it as PID 1 of a
// container, and otherwise returns at once.
func init() {
	if _, ok := syscall.Getenv(Marker); ok {
		syscall.Exit(run())
	}
}

// exitRefused is the status when the container could not be started.
const exitRefused = 125

// run is PID 1: it returns the exit code.
func run() int {
	p, ok := readPlan()
	if !ok {
		syscall.Write(2, []byte(Marker+" is set, but descriptor 3 is not a runner; unset it\n"))
		return exitRefused
	}
	if p.Jail.Root != "" {
		return runJail(p)
	}
	if p.Detached != nil {
		return refuse(detach(p))
	}
	pid, err := start(p)
	if err != nil {
		return refuse(err)
	}
	go forwardSignals(pid)
	return reap(pid)
}

// refuse reports why there is no container.
func refuse(err error) int {
	if e, ok := err.(*execFailure); ok {
		report(ReportExec, uint32(e.errno), "\x00\x00\x00\x00")
		return exitRefused
	}
	f, ok := err.(*failure)
	if !ok {
		f = &failure{"start the container", errnoOf(err)}
	}
	report(ReportFailure, uint32(f.errno), f.op)
	return exitRefused
}

// readPlan reads the plan from the control socket.
func readPlan() (*Plan, bool) {
	var head [len(Magic) + 4]byte
	if !readFull(head[:]) || string(head[:len(Magic)]) != Magic {
		return nil, false
	}
	size := le32(head[len(Magic):])
	if size > MaxPlan {
		return nil, false
	}
	b := make([]byte, size)
	p := new(Plan)
	return p, readFull(b) && p.Decode(b)
}

func readFull(b []byte) bool {
	for len(b) > 0 {
		n, err := syscall.Read(ControlFD, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return false
		}
		b = b[n:]
	}
	return true
}

// start builds the container and forks the step.
func start(p *Plan) (pid int, err error) {
	syscall.Umask(0)
	name := [16]byte{'b', 'k', '-', 'c', 'h', 'i', 'l', 'd'}
	syscall.Syscall(syscall.SYS_PRCTL, syscall.PR_SET_NAME, uintptr(unsafe.Pointer(&name)), 0)
	if err := keepOnly(p.FDs); err != nil {
		return 0, err
	}
	if err := setOOMScore(p.OOMScoreAdj); err != nil {
		return 0, err
	}
	if _, err := join(p.Joins); err != nil {
		return 0, err
	}
	if err := isolate(p); err != nil {
		return 0, err
	}
	r, err := newRootfs(p)
	if err != nil {
		return 0, err
	}
	if err := r.mountAll(p); err != nil {
		return 0, err
	}
	if err := setSysctls(p.Sysctls); err != nil {
		return 0, err
	}
	if err := r.enter(); err != nil {
		return 0, err
	}
	if err := r.changeDir(p.Process.Cwd); err != nil {
		return 0, explain("enter the working directory "+p.Process.Cwd, err)
	}
	// From here on the step could look at this process; without
	// CAP_SYS_PTRACE it can't (CVE-2019-5736).
	if _, err := call(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0); err != nil {
		return 0, explain("protect PID 1", err)
	}
	born := p.FDs
	if p.Emulator == "" {
		born = 0 // namespaces were joined
	}
	if err := keepOnly(born); err != nil { // mounts, above all
		return 0, err
	}
	return launch(p)
}

// isolate sets up the namespaces that have something to set up.
func isolate(p *Plan) error {
	if p.Time {
		if err := syscall.Unshare(cloneNewtime); err != nil {
			return explain("make a time namespace", err)
		}
		if err := writeFile("/proc/self/timens_offsets", p.TimeOffsets); err != nil && p.TimeOffsets != "" {
			return explain("set the offsets of the time namespace", err)
		}
	}
	if p.CgroupNamespace {
		if err := syscall.Unshare(syscall.CLONE_NEWCGROUP); err != nil {
			return explain("make a namespace of cgroups", err)
		}
	}
	if p.Loopback {
		if err := loopbackUp(); err != nil {
			return explain("bring up the loopback interface", err)
		}
	}
	if p.Hostname != "" {
		if err := syscall.Sethostname([]byte(p.Hostname)); err != nil {
			return explain("set the host name", err)
		}
	}
	if p.Domainname == "" {
		return nil
	}
	return explain("set the domain name", syscall.Setdomainname([]byte(p.Domainname)))
}

// loopbackUp sets the up flag of interface lo.
func loopbackUp() error {
	s, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(s)
	ifreq := struct {
		name  [16]byte
		flags uint16
		rest  [22]byte
	}{name: [16]byte{'l', 'o'}, flags: syscall.IFF_UP}
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, fd(s), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&ifreq)))
	if e != 0 {
		return e
	}
	return nil
}

// changeDir enters a directory of the new root, making it when it is missing.
func (r *rootfs) changeDir(dir string) error {
	n, err := openat2(r.root, dir, oPath|syscall.O_DIRECTORY, resolveInRoot|resolveNoMagiclinks)
	if err == syscall.ENOENT {
		n, err = r.create(dir, true)
	}
	if err != nil {
		return err
	}
	defer syscall.Close(n)
	return syscall.Fchdir(n)
}

// setOOMScore sets how readily the kernel ends the process for want of memory.
// A user namespace forbids to write it, or to make that less likely; the
// container is no worse off without when it is not to be less likely.
func setOOMScore(value string) error {
	if value == "" {
		return nil
	}
	return explain("set oom_score_adj to "+value, writeOOMScore(value))
}

func writeOOMScore(value string) error {
	const file = "/proc/self/oom_score_adj"
	err := writeFile(file, value)
	if err != syscall.EACCES && err != syscall.EPERM {
		return err
	}
	n, errOpen := syscall.Open(file, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if errOpen != nil {
		return err
	}
	defer syscall.Close(n)
	var b [16]byte
	size, errRead := syscall.Read(n, b[:])
	if errRead != nil || size < 2 {
		return err
	}
	if signed(value) < signed(string(b[:size-1])) {
		return err
	}
	return nil
}

// signed parses a small number, which may be negative.
func signed(s string) int {
	if len(s) > 0 && s[0] == '-' {
		return -atoi(s[1:])
	}
	return atoi(s)
}

// privateProc mounts a proc that nobody sees: what is written through it can't
// be diverted by a mount over the container's (CVE-2025-52881). Where that is
// not allowed, in a user namespace, it is the one on /proc, if it is one: a file
// below that something is mounted on is not opened.
func privateProc() (int, error) {
	fs, err := fsopen("proc")
	if err != nil {
		return -1, explain("fsopen proc", err)
	}
	defer syscall.Close(fs)
	proc, err := newMount(fs, attrNosuid|attrNodev|attrNoexec)
	if err == syscall.EPERM {
		if n, errOpen := publicProc(); errOpen == nil {
			return n, nil
		}
	}
	return proc, explain("mount proc", err)
}

// publicProc opens /proc and makes sure that it is the root of a proc.
func publicProc() (int, error) {
	const magic, rootInode = 0x9fa0, 1
	n, err := openat2(atFDCWD, "/proc", oPath|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	var fs syscall.Statfs_t
	var st syscall.Stat_t
	if err = syscall.Fstatfs(n, &fs); err == nil {
		err = syscall.Fstat(n, &st)
	}
	if err == nil && (fs.Type != magic || st.Ino != rootInode) {
		err = syscall.ENODEV
	}
	if err != nil {
		syscall.Close(n)
		return -1, err
	}
	return n, nil
}

// maxProc bounds what is read of a file of proc; an id map has at most 340 lines.
const maxProc = 16 << 10

// readProc reads a file of a private proc.
func readProc(proc int, path string) (string, error) {
	n, err := openat2(proc, path, syscall.O_RDONLY, resolveBeneath|resolveNoXdev|resolveNoSymlinks)
	if err != nil {
		return "", err
	}
	defer syscall.Close(n)
	b := make([]byte, maxProc)
	for size := 0; ; {
		got, err := syscall.Read(n, b[size:])
		if err != nil {
			return "", err
		}
		if size += got; got == 0 || size == len(b) {
			return string(b[:size]), nil
		}
	}
}

// writeProc writes a file of a private proc.
func writeProc(proc int, path, value string) error {
	n, err := openat2(proc, path, syscall.O_WRONLY, resolveBeneath|resolveNoXdev|resolveNoSymlinks)
	if err != nil {
		return err
	}
	defer syscall.Close(n)
	_, err = syscall.Write(n, []byte(value))
	return err
}

func setSysctls(list []Sysctl) error {
	return writeProcs(len(list), func(i int) (op, path, value string) {
		s := list[i]
		return "set sysctl " + s.Path, "sys/" + s.Path, s.Value
	})
}

// writeProcs writes n files of a private proc; item returns what the i-th is
// for, its path and its value.
func writeProcs(n int, item func(i int) (op, path, value string)) error {
	if n == 0 {
		return nil
	}
	proc, err := privateProc()
	if err != nil {
		return err
	}
	defer syscall.Close(proc)
	for i := range n {
		op, path, value := item(i)
		if err := writeProc(proc, path, value); err != nil {
			return explain(op, err)
		}
	}
	return nil
}

func writeFile(path, value string) error {
	n, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(n)
	_, err = syscall.Write(n, []byte(value))
	return err
}

// forwardSignals delivers the runner's signals to the step, and ends the
// container when the runner is gone.
func forwardSignals(pid int) {
	var b [1]byte
	for readFull(b[:]) {
		syscall.Kill(pid, syscall.Signal(b[0]))
	}
	syscall.Exit(128 + int(syscall.SIGKILL))
}

// reap waits for the step and collects orphans until then.
func reap(pid int) int {
	for {
		var status syscall.WaitStatus
		n, err := syscall.Wait4(-1, &status, 0, nil)
		if err == syscall.EINTR || err == nil && n != pid {
			continue
		}
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
}

// frame encodes a report.
func frame(kind byte, value uint32, text string) []byte {
	b := make([]byte, 9, 9+len(text))
	b[0] = kind
	putLE32(b[1:], uint32(4+len(text)))
	putLE32(b[5:], value)
	return append(b, text...)
}

func report(kind byte, value uint32, text string) {
	b := frame(kind, value, text)
	for len(b) > 0 {
		n, err := syscall.Write(ControlFD, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return
		}
		b = b[n:]
	}
}

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func putLE32(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}
