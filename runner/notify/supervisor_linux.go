package notify

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/ids"
)

// Options say for whom system calls are answered.
type Options struct {
	// User is who the step's first process is.
	User Credentials
	// Links takes what is remembered of symbolic links and FIFOs; nil: nobody
	// asks for it.
	Links *ids.Links
}

// FirstUser is the soft limit RLIMIT_RTTIME of the step's first process, which
// makes it Options.User.
const FirstUser = 1

// Supervisor answers the system calls of one step.
type Supervisor struct {
	listener int
	stop     int // an eventfd
	proc     int // /proc
	opts     Options
	calls    calls
	users    credentials
	root     unix.Stat_t // of the directory that is the thread's root
	started  chan error
	done     chan struct{}
	closing  sync.Once
}

// New starts to answer what comes from a listener, which belongs to the
// Supervisor from then on. The caller closes it when the step has ended.
func New(listener *os.File, opts Options) (*Supervisor, error) {
	defer listener.Close()
	s := &Supervisor{listener: -1, stop: -1, proc: -1, opts: opts, calls: numbered(), started: make(chan error), done: make(chan struct{})}
	if s.opts.Links == nil {
		s.opts.Links = new(ids.Links)
	}
	if _, ok := s.users.number(opts.User); !ok {
		return nil, errors.New("too many groups")
	}
	var err error
	if s.listener, err = unix.FcntlInt(listener.Fd(), unix.F_DUPFD_CLOEXEC, 0); err == nil {
		s.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	}
	if err == nil {
		s.proc, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		s.release()
		return nil, fmt.Errorf("answer system calls: %w", err)
	}
	// The kernel runs the answering thread on the step's processor then, which
	// halves the time of a call (Linux 6.6).
	const setFlags, syncWakeUp = 0x40082104, 1
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), setFlags, syncWakeUp)
	go s.run()
	if err := <-s.started; err != nil {
		<-s.done
		return nil, fmt.Errorf("answer system calls: %w", err)
	}
	return s, nil
}

// Close ends it; processes that go on get ENOSYS from the calls in question.
func (s *Supervisor) Close() {
	s.closing.Do(func() {
		_, _ = unix.Write(s.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		<-s.done
	})
}

func (s *Supervisor) release() {
	for _, fd := range []int{s.listener, s.stop, s.proc} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// run is the answering thread. It has a root directory, a working directory and a
// umask of its own, and ends with the goroutine.
func (s *Supervisor) run() {
	runtime.LockOSThread()
	defer close(s.done)
	defer s.release()
	err := unix.Unshare(unix.CLONE_FS)
	if err == nil {
		unix.Umask(0)
	}
	s.started <- err
	if err != nil {
		return
	}
	fds := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}, {Fd: int32(s.stop), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		if fds[1].Revents != 0 || fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0 {
			return
		}
		if fds[0].Revents&unix.POLLIN != 0 && !s.one() {
			return
		}
	}
}

// notification is struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    uint32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// answer is what a call returns; the zero value is 0.
type answer struct {
	value int64
	errno unix.Errno
	real  bool // the kernel makes the call
	sent  bool // it was answered already
}

// kernel lets the kernel make the call.
var kernel = answer{real: true}

func failed(err error) answer {
	if errno := unix.Errno(0); errors.As(err, &errno) && errno != 0 {
		return answer{errno: errno}
	}
	return answer{errno: unix.EIO}
}

// one answers one call; it reports whether there can be more.
func (s *Supervisor) one() bool {
	r := request{s: s}
	if err := ioctl(s.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&r.notification)); err != nil {
		return err == unix.EINTR || err == unix.ENOENT // the caller died meanwhile
	}
	a := kernel
	if c := s.calls[key{r.arch, r.nr}]; c != nil {
		a = c.handle(&r)
		r.close()
	}
	if a.sent {
		return true
	}
	resp := struct {
		id    uint64
		value int64
		errno int32
		flags uint32
	}{id: r.id, value: a.value, errno: -int32(a.errno)}
	if a.real {
		resp.value, resp.errno, resp.flags = 0, 0, 1 // SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	err := ioctl(s.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&resp))
	return err == nil || err == unix.ENOENT || err == unix.EINTR
}

func ioctl(fd int, op uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), op, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// hand gives the caller an open file as the call's result.
func (r *request) hand(fd int, cloexec bool) answer {
	add := struct {
		id                         uint64
		flags, src, number, fflags uint32
	}{id: r.id, flags: 2 /* SECCOMP_ADDFD_FLAG_SEND */, src: uint32(fd)}
	if cloexec {
		add.fflags = unix.O_CLOEXEC
	}
	err := ioctl(r.s.listener, unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&add))
	if err == nil || err == unix.ENOENT {
		return answer{sent: true}
	}
	return failed(err)
}
