package userns

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// ProcHidden reports whether something is mounted over parts of /proc, as
// container runtimes do. The kernel then refuses a new proc in a user namespace,
// which would show what is hidden.
func ProcHidden() bool {
	text, err := readFile("/proc/self/mountinfo")
	if err != nil {
		return true
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		// On an empty directory that is made for it nothing is hidden.
		if strings.HasPrefix(f[4], "/proc/") && f[4] != "/proc/sys/fs/binfmt_misc" {
			return true
		}
		if f[4] == "/proc" && strings.HasPrefix(f[5], "ro") {
			return true
		}
	}
	return false
}

// initial is the first user namespace: its number in nsfs has been the same since
// it has had one (PROC_USER_INIT_INO).
const initial = "user:[4026531837]"

// Inside reports whether this process is in a user namespace that somebody made, or
// may be, where it cannot be told.
func Inside() bool {
	name, err := os.Readlink("/proc/self/ns/user")
	return err != nil || name != initial
}

// MountProc tries to mount a new proc in new user and process namespaces.
func MountProc() error {
	m := own()
	return NewTrial(syscall.CLONE_NEWUSER|syscall.CLONE_NEWNS|syscall.CLONE_NEWPID).Private().
		Mount("proc", "/proc", "").Run(&m)
}

// Mount adds a mount of a new file system.
func (t *Trial) Mount(kind, dir, data string) *Trial {
	name := t.String(kind)
	return t.Call("mount "+kind, syscall.SYS_MOUNT, name, t.String(dir), name, syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, t.String(data))
}

// own maps the ids that the process has.
func own() Mapping { return Single(syscall.Geteuid(), syscall.Getegid()) }

// IDMap tries to show a directory with other ids.
func IDMap(dir string) error {
	// A namespace lives as long as a process of it; this one waits for a byte
	// that never comes.
	t := NewTrial(syscall.CLONE_NEWUSER)
	m := own()
	if err := syscall.Pipe2(t.wait[:], syscall.O_CLOEXEC); err != nil {
		return err
	}
	defer syscall.Close(t.wait[0])
	defer syscall.Close(t.wait[1])
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := t.fork()
	if err != nil {
		return err
	}
	defer func() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, _ = wait(pid)
	}()
	if err := m.apply(pid); err != nil {
		return err
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
	if err != nil {
		return err
	}
	defer ns.Close()
	attr := &[4]uint64{0: attrIDMap, 3: uint64(ns.Fd())}
	here := ^uintptr(99) // AT_FDCWD
	try := NewTrial(syscall.CLONE_NEWNS).Private()
	return try.Keep("open_tree", sysOpenTree, here, try.String(dir), openTreeClone).
		With("mount_setattr", sysMountSetattr, try.String(""), atEmptyPath, try.hold(unsafe.Pointer(attr)), unsafe.Sizeof(*attr)).
		Run(nil)
}

const (
	sysOpenTree     = 428
	sysMountSetattr = 442

	openTreeClone = 1
	atEmptyPath   = 0x1000
	attrIDMap     = 0x100000 // MOUNT_ATTR_IDMAP
)
