package runner

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/child"
)

// namespaceKind is a type of namespaces: its name in the specification and in
// /proc/PID/ns, and its flag.
type namespaceKind struct {
	name specs.LinuxNamespaceType
	file string
	flag uint64
}

// namespaceKinds lists all types in the order in which they are joined: that of
// users last, as joining it gives up the rights over the others, and that of
// mounts after those whose files may be found in the old one.
func namespaceKinds() []namespaceKind {
	return []namespaceKind{
		{specs.NetworkNamespace, "net", unix.CLONE_NEWNET},
		{specs.IPCNamespace, "ipc", unix.CLONE_NEWIPC},
		{specs.UTSNamespace, "uts", unix.CLONE_NEWUTS},
		{specs.CgroupNamespace, "cgroup", unix.CLONE_NEWCGROUP},
		{specs.PIDNamespace, "pid", unix.CLONE_NEWPID},
		{specs.TimeNamespace, "time", unix.CLONE_NEWTIME},
		{specs.MountNamespace, "mnt", unix.CLONE_NEWNS},
		{specs.UserNamespace, "user", unix.CLONE_NEWUSER},
	}
}

// namespaces turns the checked list into flags and descriptors.
func (b *planner) namespaces() error {
	for _, kind := range namespaceKinds() {
		for _, ns := range b.c.Spec.Linux.Namespaces {
			switch {
			case ns.Type != kind.name:
			case ns.Path != "":
				if _, err := b.joinPath(kind, ns.Path); err != nil {
					return err
				}
			case kind.flag == unix.CLONE_NEWTIME:
				b.plan.Time = true
				b.plan.TimeOffsets = timeOffsets(b.c.Spec.Linux.TimeOffsets)
			default:
				b.flags |= uintptr(kind.flag)
			}
		}
	}
	for _, j := range b.plan.Joins {
		if j.Flag&(unix.CLONE_NEWUSER|unix.CLONE_NEWTIME) != 0 && b.flags&unix.CLONE_NEWPID != 0 {
			return errors.New("spec: a process of a user or time namespace that is joined by its path can't be the first of a new pid namespace: join the pid namespace too")
		}
	}
	b.plan.Loopback = b.flags&unix.CLONE_NEWNET != 0
	b.plan.Hostname, b.plan.Domainname = b.c.Spec.Hostname, b.c.Spec.Domainname
	return nil
}

// joinPath plans to join the namespace at a path. One that this process is in
// already needs no joining; same tells so.
func (b *planner) joinPath(kind namespaceKind, path string) (same bool, err error) {
	fd, f, err := b.open(path)
	if err != nil {
		return false, fmt.Errorf("open the %s namespace: %w", kind.name, err)
	}
	var theirs, ours unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &theirs); err != nil {
		return false, fmt.Errorf("stat the %s namespace: %w", kind.name, err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return false, fmt.Errorf("join the %s namespace %s: it is not a namespace", kind.name, path)
	}
	if err := unix.Stat("/proc/self/ns/"+kind.file, &ours); err == nil && ours.Dev == theirs.Dev && ours.Ino == theirs.Ino {
		return true, nil
	}
	if kindOf, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err == nil && uint64(kindOf) != kind.flag {
		return false, fmt.Errorf("join the %s namespace %s: it is of another type: %w", kind.name, path, os.ErrInvalid)
	}
	if kind.flag == unix.CLONE_NEWPID && b.detached {
		b.pids = f // the child is born in it
		return false, nil
	}
	b.plan.Joins = append(b.plan.Joins, child.Join{FD: fd, Flag: kind.flag})
	return false, nil
}

// inPIDs calls start so that the processes that it makes are in the namespace
// that the container joins: one can be born in another namespace of pids, but
// not go there.
func (b *planner) inPIDs(start func() error) error {
	if b.pids == nil {
		return start()
	}
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/pid")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer own.Close()
	if err := unix.Setns(int(b.pids.Fd()), unix.CLONE_NEWPID); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("join the pid namespace: %w", err)
	}
	err = start()
	if errBack := unix.Setns(int(own.Fd()), unix.CLONE_NEWPID); errBack != nil {
		return errors.Join(err, errBack) // the thread stays locked, and ends with the goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// outer translates the number of a child of this process from the namespace of
// pids that the container joined.
func (b *planner) outer(inner int) (int, error) {
	if b.pids == nil {
		return inner, nil
	}
	var theirs unix.Stat_t
	if err := unix.Fstat(int(b.pids.Fd()), &theirs); err != nil {
		return 0, fmt.Errorf("stat the pid namespace: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var its unix.Stat_t
		if unix.Stat("/proc/"+e.Name()+"/ns/pid", &its) != nil || its.Dev != theirs.Dev || its.Ino != theirs.Ino {
			continue
		}
		status, err := os.ReadFile("/proc/" + e.Name() + "/status")
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "NSpid:" && f[len(f)-1] == strconv.Itoa(inner) {
				return pid, nil
			}
		}
	}
	return 0, fmt.Errorf("process %d of the pid namespace that the container joined has ended", inner)
}

// timeOffsets is what is written to /proc/PID/timens_offsets.
func timeOffsets(offsets map[string]specs.LinuxTimeOffset) string {
	var s strings.Builder
	for _, clock := range slices.Sorted(maps.Keys(offsets)) {
		fmt.Fprintf(&s, "%s %d %d\n", clock, offsets[clock].Secs, offsets[clock].Nanosecs)
	}
	return s.String()
}
