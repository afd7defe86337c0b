package userns

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"
)

// Enter starts this program again, with its arguments and descriptors, as root
// of a new user namespace with ids of m, and waits for its end. env is the
// environment. The code is how it exited: 128+N when signal N ended it.
//
// The inner process stays in the process group and session of this one: the
// terminal sends it signals and lets it read and write. Signals that are sent to
// this process alone are passed on. When this process or the calling thread
// ends, it is killed.
//
// An error means that no inner process was started.
func Enter(m Mapping, env []string) (code int, err error) {
	// The inner process dies with the thread that forked it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 16)
	passed := []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGCONT,
	}
	for _, s := range passed {
		if !signal.Ignored(s) { // as nohup wants it
			signal.Notify(signals, s)
		}
	}
	defer signal.Stop(signals)

	t := NewTrial(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS)
	t.again(env)
	pid, err := t.start(&m)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(t.report[0])
	if err := t.failure(); err != nil {
		_, _ = wait(pid)
		return 0, err
	}
	go pass(signals, pid)
	status, err := wait(pid)
	if err != nil {
		return 1, nil // somebody else waited for it
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// again adds the calls by which the process becomes this program as root.
func (t *Trial) again(env []string) {
	t.Private()
	t.Call("become group 0", syscall.SYS_SETRESGID, 0, 0, 0)
	t.Call("become user 0", syscall.SYS_SETRESUID, 0, 0, 0)
	// The change of ids took the signal away.
	t.Call("ask for a death signal", syscall.SYS_PRCTL, prSetPdeathsig, uintptr(syscall.SIGKILL))
	t.Call("unblock signals", syscall.SYS_RT_SIGPROCMASK, 2, t.hold(unsafe.Pointer(&t.old)), 0, 8)
	t.Call("execute this program again", syscall.SYS_EXECVE, t.String("/proc/self/exe"), t.strings(os.Args), t.strings(env))
}

// strings returns the address of a NULL-terminated array of C strings.
func (t *Trial) strings(list []string) uintptr {
	v := make([]uintptr, len(list)+1)
	for i, s := range list {
		v[i] = t.String(s)
	}
	return t.hold(unsafe.Pointer(&v[0]))
}

// pass hands signals to the inner process. A stop stops this one as well, so
// that whoever started it sees it.
func pass(signals <-chan os.Signal, pid int) {
	for s := range signals {
		n, ok := s.(syscall.Signal)
		if !ok {
			continue
		}
		_ = syscall.Kill(pid, n) // it may be gone
		if n == syscall.SIGTSTP {
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		}
	}
}
