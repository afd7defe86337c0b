//go:build linux

// Command attack tries, from inside of a build step, what a step must not be
// able to do. It prints a line for each attempt, "refused NAME: errno" or
// "ALLOWED NAME", and changes nothing that a refusal would protect: what
// succeeds is undone.
//
// Usage: attack [NAME...]; all by default.
package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errNothing: the call succeeded, and gave nothing.
var errNothing = errors.New("nothing is there")

type attempt struct {
	name string
	try  func() error
}

func main() {
	for _, a := range slices.Concat(calls(), files(), processes()) {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], a.name) {
			continue
		}
		if err := a.try(); err != nil {
			fmt.Printf("refused %s: %v\n", a.name, err)
		} else {
			fmt.Printf("ALLOWED %s\n", a.name)
		}
	}
}

// call tries a system call by number.
func call(name string, number uintptr, args ...uintptr) attempt {
	var a [6]uintptr
	copy(a[:], args)
	return attempt{name, func() error {
		if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}}
}

// name returns the address of a C string that lives as long as the program.
func name(s string) uintptr {
	b, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	held = append(held, b)
	return uintptr(unsafe.Pointer(b))
}

var held []*byte

// zeros is memory that calls can read their structures from.
func zeros() uintptr {
	b := new([256]byte)
	held = append(held, &b[0])
	return uintptr(unsafe.Pointer(b))
}

// calls are system calls that the default profile refuses, or that need rights
// which a step doesn't have.
func calls() []attempt {
	const newUser, keySession = unix.CLONE_NEWUSER, ^uintptr(2) // KEY_SPEC_SESSION_KEYRING is -3
	here := ^uintptr(99)                                        // AT_FDCWD is -100
	return []attempt{
		call("userfaultfd", unix.SYS_USERFAULTFD, unix.O_CLOEXEC),
		call("bpf", unix.SYS_BPF, 5, zeros(), 48),
		call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, zeros(), 0, ^uintptr(0), ^uintptr(0), 0),
		call("io_uring_setup", unix.SYS_IO_URING_SETUP, 4, zeros()),
		call("add_key", unix.SYS_ADD_KEY, name("user"), name("bk"), name("x"), 1, keySession),
		call("request_key", unix.SYS_REQUEST_KEY, name("user"), name("bk"), 0, keySession),
		call("keyctl", unix.SYS_KEYCTL, 6, keySession, 0, 0),
		call("ptrace of PID 1", unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1, 0, 0),
		{"process_vm_readv of PID 1", readPID1},
		call("kcmp", unix.SYS_KCMP, 1, 1, 0, 0, 0),
		call("unshare a user namespace", unix.SYS_UNSHARE, newUser),
		call("unshare mounts", unix.SYS_UNSHARE, unix.CLONE_NEWNS),
		call("clone3", unix.SYS_CLONE3, zeros(), 64),
		call("setns", unix.SYS_SETNS, 0, 0),
		call("mount", unix.SYS_MOUNT, name("x"), name("/tmp"), name("tmpfs"), 0, 0),
		call("umount2", unix.SYS_UMOUNT2, name("/proc"), unix.MNT_DETACH),
		call("pivot_root", unix.SYS_PIVOT_ROOT, name("/"), name("/")),
		call("fsopen", unix.SYS_FSOPEN, name("tmpfs"), 0),
		call("open_tree", unix.SYS_OPEN_TREE, here, name("/"), unix.OPEN_TREE_CLONE),
		call("move_mount", unix.SYS_MOVE_MOUNT, here, name("/proc"), here, name("/tmp"), 0),
		call("mount_setattr", unix.SYS_MOUNT_SETATTR, here, name("/proc"), 0, zeros(), 32),
		call("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, here, zeros(), 0),
		call("init_module", unix.SYS_INIT_MODULE, zeros(), 1, zeros()),
		call("finit_module", unix.SYS_FINIT_MODULE, 0, zeros(), 0),
		call("delete_module", unix.SYS_DELETE_MODULE, name("bk"), 0),
		call("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0, 0),
		call("reboot", unix.SYS_REBOOT, 0xfee1dead, 672274793, 0, 0), // CAD off
		call("swapon", unix.SYS_SWAPON, name("/none"), 0),
		call("acct", unix.SYS_ACCT, name("/none")),
		call("settimeofday", unix.SYS_SETTIMEOFDAY, 0, zeros()),
		call("sethostname", unix.SYS_SETHOSTNAME, name("attacked"), 8),
		call("syslog", unix.SYS_SYSLOG, 3, zeros(), 100),
		call("quotactl", unix.SYS_QUOTACTL, 0x800001, name("/dev/root"), 0, 0),
		call("fanotify_init", unix.SYS_FANOTIFY_INIT, 0, 0),
		call("socket of the hypervisor", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		call("socket for ALG", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
	}
}

// files are paths that change or tell about the machine.
func files() []attempt {
	var list []attempt
	for _, path := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/overcommit_memory",
		"/proc/sys/fs/binfmt_misc/register", "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/proc/1/mem",
		"/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state",
		"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/devices/devices.allow",
		"/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/memory/notify_on_release",
		"/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/fuse", "/dev/kvm", "/dev/net/tun",
	} {
		list = append(list, attempt{"write " + path, func() error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err == nil {
				f.Close()
			}
			return err
		}})
	}
	for _, path := range []string{
		"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/1/environ", "/proc/1/maps", "/proc/1/root/etc/passwd-of-the-host",
		"/proc/1/fd/3", "/proc/1/cwd/bk", "/sys/firmware/acpi", "/proc/acpi/wakeup",
	} {
		list = append(list, attempt{"read " + path, func() error { return read(path) }})
	}
	for _, dev := range []struct {
		name         string
		mode         uint32
		major, minor uint32
	}{
		{"disk", unix.S_IFBLK, 254, 0}, {"disk sda", unix.S_IFBLK, 8, 0}, {"memory", unix.S_IFCHR, 1, 1}, {"kernel log", unix.S_IFCHR, 1, 11},
	} {
		list = append(list, attempt{"node of the " + dev.name, func() error { return node(dev.mode, dev.major, dev.minor) }})
	}
	return list
}

// read succeeds when there is a byte to be read.
func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if n, err := f.Read(make([]byte, 1)); n == 0 {
		return errors.Join(errNothing, err)
	}
	return nil
}

// node makes a device and opens it.
func node(mode, major, minor uint32) error {
	const path = "/attack-node"
	if err := unix.Mknod(path, mode|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	defer os.Remove(path)
	return read(path)
}

// processes are attempts on what else runs on the machine.
func processes() []attempt {
	return []attempt{
		{"leave by chroot", leaveByChroot},
	}
}

// readPID1 reads where programs are usually loaded.
func readPID1() error {
	b := make([]byte, 8)
	local := []unix.Iovec{{Base: &b[0], Len: 8}}
	remote := []unix.RemoteIovec{{Base: 0x400000, Len: 8}}
	_, err := unix.ProcessVMReadv(1, local, remote, 0)
	return err
}

// leaveByChroot is the classic: a root below the working directory, which is
// then outside.
func leaveByChroot() error {
	if err := os.MkdirAll("/attack-root", 0o755); err != nil {
		return err
	}
	defer os.Remove("/attack-root")
	before, err := os.Stat("/")
	if err != nil {
		return err
	}
	if err := unix.Chroot("/attack-root"); err != nil {
		return err
	}
	for range 64 {
		if err := unix.Chdir(".."); err != nil {
			return err
		}
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	after, err := os.Stat("/")
	if err != nil {
		return err
	}
	if os.SameFile(before, after) {
		return errors.New("still inside")
	}
	return nil
}
