package spec

import (
	"errors"
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Check refuses a specification that is not valid, or that asks for something
// that a step doesn't get. Annotations are accepted without effect.
func Check(s *specs.Spec) error {
	if s == nil || s.Process == nil || s.Linux == nil {
		return errors.New("spec: process or linux is missing")
	}
	for _, check := range []func(*specs.Spec) error{checkUnsupported, checkProcess, checkNamespaces, checkMounts, checkPaths} {
		if err := check(s); err != nil {
			return fmt.Errorf("spec: %w", err)
		}
	}
	return nil
}

// CheckContainer refuses the specification of an OCI runtime's container when it
// is not valid, or when it asks for what no machine has. Annotations are
// accepted without effect.
func CheckContainer(s *specs.Spec) error {
	if s == nil || s.Process == nil || s.Linux == nil {
		return errors.New("spec: process or linux is missing")
	}
	for _, check := range []func(*specs.Spec) error{checkForeign, checkProcess, checkTypes, checkOwners, checkDestinations, checkPaths} {
		if err := check(s); err != nil {
			return fmt.Errorf("spec: %w", err)
		}
	}
	return nil
}

// CheckProcess refuses a process that is not valid.
func CheckProcess(p *specs.Process) error {
	if p == nil {
		return errors.New("spec: process is missing")
	}
	if err := checkProcess(&specs.Spec{Process: p}); err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	return nil
}

// checkForeign refuses what is of other systems, what no container has here, and
// limits that contradict each other.
func checkForeign(s *specs.Spec) error {
	if s.Solaris != nil || s.Windows != nil || s.VM != nil || s.ZOS != nil || s.FreeBSD != nil {
		return errors.New("solaris, windows, vm, zos or freebsd is not supported")
	}
	if len(s.Linux.NetDevices) > 0 {
		return errors.New("linux.netDevices is not supported")
	}
	seen := map[string]bool{}
	for _, r := range s.Process.Rlimits {
		if seen[r.Type] {
			return fmt.Errorf("process.rlimits: %s is listed twice", r.Type)
		}
		seen[r.Type] = true
	}
	return nil
}

// checkTypes checks the namespaces of a container of its own.
func checkTypes(s *specs.Spec) error {
	have := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range s.Linux.Namespaces {
		switch ns.Type {
		case specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace,
			specs.CgroupNamespace, specs.UserNamespace, specs.TimeNamespace:
		default:
			return fmt.Errorf("namespace %q is unknown", ns.Type)
		}
		if have[ns.Type] {
			return fmt.Errorf("namespace %q is listed twice", ns.Type)
		}
		if ns.Path != "" && !path.IsAbs(ns.Path) {
			return fmt.Errorf("namespace %q: path %q is not absolute", ns.Type, ns.Path)
		}
		have[ns.Type] = true
	}
	switch {
	case !have[specs.MountNamespace]:
		return errors.New(`namespace "mount" is missing; a container without it is not supported`)
	case len(s.Linux.TimeOffsets) > 0 && !have[specs.TimeNamespace]:
		return errors.New("linux.timeOffsets needs a time namespace")
	case (s.Hostname != "" || s.Domainname != "") && !have[specs.UTSNamespace]:
		return errors.New("a hostname or domainname needs a uts namespace")
	}
	return nil
}

// checkOwners checks the maps of a user namespace.
func checkOwners(s *specs.Spec) error {
	own := false
	for _, ns := range s.Linux.Namespaces {
		own = own || ns.Type == specs.UserNamespace && ns.Path == ""
	}
	uids, gids := len(s.Linux.UIDMappings), len(s.Linux.GIDMappings)
	switch {
	case own && (uids == 0 || gids == 0):
		return errors.New("a user namespace needs linux.uidMappings and linux.gidMappings")
	case !own && uids+gids > 0:
		return errors.New("linux.uidMappings and linux.gidMappings need a user namespace")
	}
	return nil
}

// checkDestinations checks where mounts go. Relative destinations are below the
// root.
func checkDestinations(s *specs.Spec) error {
	for _, m := range s.Mounts {
		if path.Clean("/"+m.Destination) == "/" || strings.ContainsRune(m.Destination+m.Source, 0) {
			return fmt.Errorf("mount on %q: not a path below the root", m.Destination)
		}
	}
	return nil
}

func checkUnsupported(s *specs.Spec) error {
	p, l := s.Process, s.Linux
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"solaris, windows, vm, zos or freebsd", s.Solaris != nil || s.Windows != nil || s.VM != nil || s.ZOS != nil || s.FreeBSD != nil},
		{"hooks", s.Hooks != nil},
		{"process.terminal", p.Terminal},
		{"process.apparmorProfile", p.ApparmorProfile != ""},
		{"process.selinuxLabel", p.SelinuxLabel != ""},
		{"process.scheduler", p.Scheduler != nil},
		{"process.ioPriority", p.IOPriority != nil},
		{"process.execCPUAffinity", p.ExecCPUAffinity != nil},
		{"linux.uidMappings", len(l.UIDMappings)+len(l.GIDMappings) > 0},
		{"linux.mountLabel", l.MountLabel != ""},
		{"linux.intelRdt", l.IntelRdt != nil},
		{"linux.personality", l.Personality != nil},
		{"linux.timeOffsets", len(l.TimeOffsets) > 0},
		{"linux.netDevices", len(l.NetDevices) > 0},
		{"linux.memoryPolicy", l.MemoryPolicy != nil},
	} {
		if f.set {
			return fmt.Errorf("%s is not supported", f.name)
		}
	}
	switch l.RootfsPropagation {
	case "", "private", "rprivate", "slave", "rslave":
		return nil
	}
	return fmt.Errorf("linux.rootfsPropagation %q is not supported", l.RootfsPropagation)
}

func checkProcess(s *specs.Spec) error {
	p := s.Process
	if len(p.Args) == 0 || p.Args[0] == "" {
		return errors.New("process.args is empty")
	}
	if !path.IsAbs(p.Cwd) {
		return fmt.Errorf("process.cwd %q is not absolute", p.Cwd)
	}
	for _, list := range [][]string{{p.Cwd, s.Hostname, s.Domainname}, p.Args, p.Env} {
		for _, v := range list {
			if strings.ContainsRune(v, 0) {
				return fmt.Errorf("zero byte in %q", v)
			}
		}
	}
	for _, r := range p.Rlimits {
		if r.Soft > r.Hard {
			return fmt.Errorf("process.rlimits: %s has soft limit %d above hard limit %d", r.Type, r.Soft, r.Hard)
		}
	}
	return nil
}

// checkNamespaces demands the namespaces that hold a container together.
func checkNamespaces(s *specs.Spec) error {
	have := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range s.Linux.Namespaces {
		switch ns.Type {
		case specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace,
			specs.NetworkNamespace, specs.CgroupNamespace:
		default:
			return fmt.Errorf("namespace %q is not supported", ns.Type)
		}
		if ns.Path != "" && (ns.Type != specs.NetworkNamespace || !path.IsAbs(ns.Path)) {
			return fmt.Errorf("joining the %s namespace %s is not supported", ns.Type, ns.Path)
		}
		if have[ns.Type] {
			return fmt.Errorf("namespace %q is listed twice", ns.Type)
		}
		have[ns.Type] = true
	}
	for _, needed := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		if !have[needed] {
			return fmt.Errorf("namespace %q is missing; a container without it is not supported", needed)
		}
	}
	return nil
}

func checkMounts(s *specs.Spec) error {
	for _, m := range s.Mounts {
		if !path.IsAbs(m.Destination) || path.Clean(m.Destination) == "/" || strings.ContainsRune(m.Destination+m.Source, 0) {
			return fmt.Errorf("mount on %q: not a path below the root", m.Destination)
		}
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			return fmt.Errorf("mount on %s: id-mapped mounts are not supported", m.Destination)
		}
	}
	return nil
}

func checkPaths(s *specs.Spec) error {
	for _, list := range [][]string{s.Linux.MaskedPaths, s.Linux.ReadonlyPaths} {
		for _, p := range list {
			if !path.IsAbs(p) || path.Clean(p) == "/" || strings.ContainsRune(p, 0) {
				return fmt.Errorf("masked or read-only path %q: not a path below the root", p)
			}
		}
	}
	for _, d := range s.Linux.Devices {
		if path.Clean(d.Path) != d.Path || !strings.HasPrefix(d.Path, "/dev/") {
			return fmt.Errorf("device %q: not a path below /dev", d.Path)
		}
		switch d.Type {
		case "c", "u", "b", "p":
		default:
			return fmt.Errorf("device %s: type %q is unknown", d.Path, d.Type)
		}
	}
	return nil
}
