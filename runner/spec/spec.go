// Package spec generates and checks OCI runtime specifications of build steps.
//
// [Default] writes the specification that BuildKit gives to its runtime for a
// RUN step, so that a step sees the same mounts, rights and limits here as
// there. [Check] refuses what the runner doesn't implement: a container never
// starts with less isolation than its specification asks for. [ResolveUser]
// turns a USER string into numbers, from the image's own files. The package
// reads nothing from the host but the number of its processors.
package spec

import (
	"fmt"
	"path"
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/runner/seccomp"
)

// Networks of a step.
const (
	NetworkHost = "host" // the network of the machine
	NetworkNone = "none" // a loopback interface and nothing else
)

// Options says what differs between steps.
type Options struct {
	Args []string // the command; not empty
	Env  []string // "KEY=value"; HOME is added when it's missing
	Cwd  string   // absolute; empty: "/"
	User User     // as ResolveUser returned it

	Hostname string // empty: DefaultHostname
	// Network is NetworkHost or NetworkNone; there is no default.
	Network string
	// Insecure is the entitlement security.insecure: all capabilities and
	// devices, and no filter of system calls.
	Insecure bool
	// ReadonlyRoot makes everything read-only that isn't a mount.
	ReadonlyRoot bool
	// Mounts follow the default ones; one with the same destination replaces
	// the earlier.
	Mounts []specs.Mount
	// ShmSize is the size of /dev/shm in bytes; 0: 64 MiB.
	ShmSize int64
	Rlimits []specs.POSIXRlimit
	// Resources are limits; its device rules are not used. CgroupsPath is where
	// the cgroup is made; empty: wherever the runner makes its own.
	Resources   specs.LinuxResources
	CgroupsPath string
}

// DefaultHostname is the host name that BuildKit gives to steps, which some of
// them leave in what they build.
const DefaultHostname = "buildkitsandbox"

// DefaultPath is the search path of an image that sets none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Default returns the specification of a step.
func Default(o Options) (*specs.Spec, error) {
	if len(o.Args) == 0 {
		return nil, fmt.Errorf("step has no command")
	}
	s := &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: "rootfs", Readonly: o.ReadonlyRoot},
		Hostname: o.Hostname,
		Process: &specs.Process{
			Args:         o.Args,
			Env:          environment(o),
			Cwd:          path.Join("/", o.Cwd),
			User:         specs.User{UID: o.User.UID, GID: o.User.GID, AdditionalGids: groups(o.User)},
			Capabilities: capabilities(o.Insecure),
			Rlimits:      o.Rlimits,
		},
		Mounts: mounts(o),
		Linux: &specs.Linux{
			CgroupsPath:   o.CgroupsPath,
			Resources:     resources(o),
			MaskedPaths:   MaskedPaths(),
			ReadonlyPaths: ReadonlyPaths(),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
		},
	}
	if s.Hostname == "" {
		s.Hostname = DefaultHostname
	}
	switch o.Network {
	case NetworkHost:
	case NetworkNone:
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	default:
		return nil, fmt.Errorf("network mode %q is unknown; use %q or %q", o.Network, NetworkHost, NetworkNone)
	}
	if err := protect(s, o.Insecure); err != nil {
		return nil, err
	}
	return s, nil
}

// protect filters system calls, or opens everything.
func protect(s *specs.Spec, insecure bool) (err error) {
	if insecure {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		s.Linux.Devices = insecureDevices()
		return nil
	}
	s.Linux.Seccomp, err = seccomp.Default(s)
	return err
}

// resources adds which devices the step may open: those that every container
// may, and its own; or, with all rights, all.
func resources(o Options) *specs.LinuxResources {
	r := o.Resources
	r.Devices = []specs.LinuxDeviceCgroup{{Allow: o.Insecure, Access: "rwm"}}
	return &r
}

// environment adds HOME, as runtimes do.
func environment(o Options) []string {
	for _, e := range o.Env {
		if len(e) >= 5 && e[:5] == "HOME=" {
			return o.Env
		}
	}
	home := o.User.Home
	if home == "" {
		home = "/"
	}
	return append(slices.Clip(o.Env), "HOME="+home)
}

// groups returns the supplementary groups, which include the primary one.
func groups(u User) []uint32 {
	if slices.Contains(u.Groups, u.GID) {
		return u.Groups
	}
	return append([]uint32{u.GID}, u.Groups...)
}

// DefaultCapabilities are those of a step without entitlements.
func DefaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
		"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
		"CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// AllCapabilities are those of Linux 5.9 and later, by number.
func AllCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
		"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
		"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
		"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
		"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
		"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
		"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
		"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// capabilities returns the sets. Inheritable and ambient ones stay empty
// without the entitlement: programs with file capabilities would gain them
// (CVE-2022-29162).
func capabilities(insecure bool) *specs.LinuxCapabilities {
	if !insecure {
		c := DefaultCapabilities()
		return &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c}
	}
	c := AllCapabilities()
	return &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c, Inheritable: c, Ambient: c}
}

// mounts returns the default mounts and the step's own.
func mounts(o Options) []specs.Mount {
	size := o.ShmSize
	if size == 0 {
		size = 64 << 20
	}
	hidden := []string{"nosuid", "noexec", "nodev"}
	system := append(slices.Clone(hidden), "ro")
	if o.Insecure {
		system = hidden
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: hidden},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: append(slices.Clone(hidden), "mode=1777", fmt.Sprintf("size=%d", size))},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: hidden},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: system},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: system},
	}
	for _, m := range o.Mounts {
		same := func(d specs.Mount) bool { return path.Clean(d.Destination) == path.Clean(m.Destination) }
		if i := slices.IndexFunc(list, same); i >= 0 {
			list[i] = m
		} else {
			list = append(list, m)
		}
	}
	return list
}

// MaskedPaths are files and directories of the kernel that tell about the
// machine or change it.
func MaskedPaths() []string {
	list := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
		"/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	for i := range runtime.NumCPU() {
		list = append(list, fmt.Sprintf("/sys/devices/system/cpu/cpu%d/thermal_throttle", i))
	}
	return list
}

// ReadonlyPaths are parts of proc that root must not change.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// insecureDevices are those that steps with all rights get.
func insecureDevices() []specs.LinuxDevice {
	list := []specs.LinuxDevice{
		{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11},
		{Path: "/dev/cuse", Type: "c", Major: 10, Minor: 203},
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229},
		{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232},
		{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
		{Path: "/dev/loop-control", Type: "c", Major: 10, Minor: 237},
	}
	for i := range 8 {
		list = append(list, specs.LinuxDevice{Path: fmt.Sprintf("/dev/loop%d", i), Type: "b", Major: 7, Minor: int64(i)})
	}
	return list
}
