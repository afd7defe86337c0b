package spec

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Chroot returns the specification of a step that runs without namespaces, in a
// directory in which everything that it sees has been put: [Default] without
// mounts and namespaces, and with less of the rights that reach beyond a
// directory.
//
//   - CAP_SYS_CHROOT leads out of a changed root.
//   - Device nodes are of what Linux has everywhere (null, zero, full, random,
//     urandom, tty, ptmx), as there is no mount that refuses to open others.
//   - Other processes' memory and descriptors, and their limits, are beyond reach.
//   - Without a network (NetworkNone) there are no sockets but local ones.
func Chroot(o Options) (*specs.Spec, error) {
	switch {
	case o.Insecure:
		return nil, errors.New("security mode insecure needs namespaces and mounts, which the isolation chroot doesn't have")
	case len(o.Mounts) > 0:
		return nil, errors.New("mounts need a mount namespace, which the isolation chroot doesn't have")
	}
	s, err := Default(o)
	if err != nil {
		return nil, err
	}
	s.Mounts, s.Hostname = nil, ""
	if r := s.Linux.Resources; r != nil {
		r.Devices = nil // there are none but those that the caller makes
		if reflect.DeepEqual(r, new(specs.LinuxResources)) {
			s.Linux.Resources = nil
		}
	}
	s.Linux.Namespaces, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil, nil
	c := s.Process.Capabilities
	for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
		*set = slices.DeleteFunc(slices.Clone(*set), func(name string) bool { return name == "CAP_SYS_CHROOT" })
	}
	s.Linux.Seccomp = confine(s.Linux.Seccomp, o.Network == NetworkNone)
	return s, nil
}

// confine takes from a profile what a mount, a PID and a network namespace would
// make harmless.
func confine(p *specs.LinuxSeccomp, noNetwork bool) *specs.LinuxSeccomp {
	out := *p
	never := []string{
		"chroot", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise",
		"mknod", "mknodat", "prlimit64",
	}
	if noNetwork {
		never = append(never, "socket", "socketcall")
	}
	out.Syscalls = nil
	for _, s := range p.Syscalls {
		s.Names = slices.DeleteFunc(slices.Clone(s.Names), func(name string) bool { return slices.Contains(never, name) })
		if len(s.Names) > 0 {
			out.Syscalls = append(out.Syscalls, s)
		}
	}
	allow := func(name string, args ...specs.LinuxSeccompArg) {
		out.Syscalls = append(out.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args})
	}
	equal := func(index uint, value uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Value: value, Op: specs.OpEqualTo}
	}
	allow("prlimit64", equal(0, 0)) // of the caller itself
	for _, call := range []struct {
		name string
		mode uint // the argument's index; the device follows
	}{{"mknod", 1}, {"mknodat", 2}} {
		kind := func(value uint64) specs.LinuxSeccompArg {
			return specs.LinuxSeccompArg{Index: call.mode, Value: modeType, ValueTwo: value, Op: specs.OpMaskedEqual}
		}
		for _, k := range []uint64{0, modeRegular, modeFIFO, modeSocket} {
			allow(call.name, kind(k))
		}
		for _, dev := range []uint64{1<<8 | 3, 1<<8 | 5, 1<<8 | 7, 1<<8 | 8, 1<<8 | 9, 5 << 8, 5<<8 | 2} {
			allow(call.name, kind(modeChar), equal(call.mode+1, dev))
		}
	}
	if noNetwork {
		const afUnix = 1
		allow("socket", equal(0, afUnix))
	}
	return &out
}

// The kernel's file types.
const (
	modeType    = 0o170000
	modeSocket  = 0o140000
	modeRegular = 0o100000
	modeChar    = 0o020000
	modeFIFO    = 0o010000
)

// CheckChroot refuses what a container without namespaces can't have. Annotations
// and Linux.CgroupsPath are accepted without effect.
func CheckChroot(s *specs.Spec) error {
	if s == nil || s.Process == nil || s.Linux == nil {
		return errors.New("spec: process or linux is missing")
	}
	p, l := s.Process, s.Linux
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"mounts", len(s.Mounts) > 0},
		{"hostname or domainname", s.Hostname != "" || s.Domainname != ""},
		{"hooks", s.Hooks != nil},
		{"process.terminal", p.Terminal},
		{"process.apparmorProfile", p.ApparmorProfile != ""},
		{"process.selinuxLabel", p.SelinuxLabel != ""},
		{"process.scheduler", p.Scheduler != nil},
		{"process.ioPriority", p.IOPriority != nil},
		{"process.execCPUAffinity", p.ExecCPUAffinity != nil},
		{"linux.namespaces", len(l.Namespaces) > 0},
		{"linux.devices", len(l.Devices) > 0},
		{"linux.maskedPaths or linux.readonlyPaths", len(l.MaskedPaths)+len(l.ReadonlyPaths) > 0},
		{"linux.sysctl", len(l.Sysctl) > 0},
		{"linux.uidMappings", len(l.UIDMappings)+len(l.GIDMappings) > 0},
		{"linux.rootfsPropagation", l.RootfsPropagation != ""},
		{"linux.mountLabel", l.MountLabel != ""},
		{"linux.intelRdt", l.IntelRdt != nil},
		{"linux.personality", l.Personality != nil},
		{"linux.timeOffsets", len(l.TimeOffsets) > 0},
		{"linux.netDevices", len(l.NetDevices) > 0},
		{"linux.memoryPolicy", l.MemoryPolicy != nil},
	} {
		if f.set {
			return fmt.Errorf("spec: %s: not in the isolation chroot, which has no namespaces", f.name)
		}
	}
	if err := checkProcess(s); err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	return nil
}
