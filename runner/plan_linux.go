package runner

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/child"
	"bk.build/bk/runner/host"
	"bk.build/bk/runner/spec"
	"bk.build/bk/runner/userns"
)

// planner turns a container into what the child does.
type planner struct {
	c     *Container
	plan  child.Plan
	flags uintptr // CLONE_NEW* of the container
	// foreignDev tells that /dev is not a new file system, but something of
	// the host's or of a tree, which brings its own devices.
	foreignDev bool
	// detached is set for containers of an OCI runtime.
	detached bool
	cgroups  map[string]string // of a detached container, as in Detached
	notifies bool              // the seccomp filter has notifications
	pids     *os.File          // the namespace of pids in which the child is started, or nil
	command  int               // the process that the child forked to be the command, or 0
	files    []*os.File        // that the child gets, from child.ControlFD+1 on
	opened   []*os.File        // those of them that are closed here
}

// newPlan checks the container and plans it.
func newPlan(c *Container) (*planner, error) {
	b := &planner{c: c}
	if err := spec.Check(c.Spec); err != nil {
		return nil, err
	}
	for _, step := range []func() error{b.emulator, b.namespaces, b.root, b.mounts, b.paths, b.devices, b.process, b.single} {
		if err := step(); err != nil {
			b.closeFiles()
			return nil, err
		}
	}
	return b, nil
}

func (b *planner) root() (err error) {
	if b.plan.Root, err = b.overlay(b.c.Root); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	b.plan.Root.Recursive = b.c.hostRoot
	b.foreignDev = b.c.hostRoot
	b.plan.RootReadonly = b.c.Spec.Root != nil && b.c.Spec.Root.Readonly
	return nil
}

// paths plans what is hidden and what is read-only, and sysctls.
func (b *planner) paths() error {
	l := b.c.Spec.Linux
	b.plan.Masked = l.MaskedPaths
	b.plan.Frozen = append(b.plan.Frozen, l.ReadonlyPaths...)
	for key, value := range l.Sysctl {
		if strings.Contains(key, "..") {
			return fmt.Errorf("spec: sysctl %q", key)
		}
		file := strings.ReplaceAll(key, ".", "/")
		if strings.Contains(key, "/") { // dots are then part of names
			file = key
		}
		if !b.namespacedSysctl(file) {
			return fmt.Errorf("spec: sysctl %q is not the container's own", key)
		}
		b.plan.Sysctls = append(b.plan.Sysctls, child.Sysctl{Path: file, Value: value})
	}
	slices.SortFunc(b.plan.Sysctls, func(x, y child.Sysctl) int { return strings.Compare(x.Path, y.Path) })
	return nil
}

// namespacedSysctl reports whether the file below /proc/sys belongs to one of
// the container's namespaces.
func (b *planner) namespacedSysctl(file string) bool {
	switch file {
	case "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall",
		"kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced":
		return true
	}
	return strings.HasPrefix(file, "fs/mqueue/") ||
		strings.HasPrefix(file, "net/") && b.flags&unix.CLONE_NEWNET != 0
}

// defaultDevices are those that a runtime has to supply.
func defaultDevices() []child.Device {
	node := func(path string, major, minor uint32) child.Device {
		return child.Device{Path: path, Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(major, minor)}
	}
	return []child.Device{
		node("/dev/null", 1, 3), node("/dev/zero", 1, 5), node("/dev/full", 1, 7),
		node("/dev/random", 1, 8), node("/dev/urandom", 1, 9), node("/dev/tty", 5, 0),
	}
}

// devices plans /dev, unless the spec brings the host's own.
func (b *planner) devices() error {
	if b.foreignDev {
		if len(b.c.Spec.Linux.Devices) > 0 {
			return errors.New("spec: devices cannot be made in a /dev that is not a new file system")
		}
		return nil
	}
	b.plan.Devices = defaultDevices()
	b.plan.Links = []child.Link{
		{Path: "/dev/fd", Target: "/proc/self/fd"},
		{Path: "/dev/stdin", Target: "/proc/self/fd/0"},
		{Path: "/dev/stdout", Target: "/proc/self/fd/1"},
		{Path: "/dev/stderr", Target: "/proc/self/fd/2"},
		{Path: "/dev/ptmx", Target: "pts/ptmx"},
	}
	if _, err := os.Lstat("/proc/kcore"); err == nil {
		b.plan.Links = append(b.plan.Links, child.Link{Path: "/dev/core", Target: "/proc/kcore"})
	}
	for _, d := range b.c.Spec.Linux.Devices {
		b.device(d)
	}
	return nil
}

// device adds a device that the spec names, or replaces a default one.
func (b *planner) device(d specs.LinuxDevice) {
	kind := map[string]uint64{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
	n := child.Device{Path: d.Path, Mode: kind | 0o666, UID: uint64(value(d.UID)), GID: uint64(value(d.GID))}
	if d.FileMode != nil {
		n.Mode = kind | uint64(d.FileMode.Perm())
	}
	if d.Type != "p" {
		n.Rdev = unix.Mkdev(uint32(d.Major), uint32(d.Minor))
		if userns.Inside() {
			n.Source = host.Device(d.Type, uint32(d.Major), uint32(d.Minor))
		}
	}
	b.plan.Devices = slices.DeleteFunc(b.plan.Devices, func(o child.Device) bool { return o.Path == n.Path })
	b.plan.Devices = append(b.plan.Devices, n)
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// emulator plans the registration of an emulator. Its descriptor is the first.
func (b *planner) emulator() error {
	if b.c.Emulator == nil {
		return nil
	}
	if !slices.ContainsFunc(b.c.Spec.Mounts, func(m specs.Mount) bool { return m.Type == "proc" && m.Destination == "/proc" }) {
		return errors.New("spec: an emulator needs proc mounted on /proc")
	}
	b.plan.Emulator = b.c.Emulator.Registration
	if _, _, err := b.open(b.c.Emulator.Path); err != nil {
		return fmt.Errorf("open the emulator: %w", err)
	}
	return nil
}

// filter compiles the spec's seccomp profile.
func (b *planner) filter() error {
	profile := b.c.Spec.Linux.Seccomp
	if profile == nil {
		return nil
	}
	prog, err := b.c.Filters.Compile(profile)
	if err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	if prog.Notifies() && !b.detached {
		return errors.New("spec: linux.seccomp: a step has nobody who answers the notifications of its filter")
	}
	b.notifies = prog.Notifies()
	b.plan.Process.Filter, b.plan.Process.FilterFlags = string(prog.Code), prog.Flags
	return nil
}
