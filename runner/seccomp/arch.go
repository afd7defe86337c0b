package seccomp

import (
	"fmt"
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// arch is an ABI of system calls.
type arch struct {
	name specs.Arch
	// audit is the kernel's AUDIT_ARCH number; base is the lowest system call
	// number, for ABIs that share an audit number.
	audit, base uint32
	number      func(name string) (uint32, bool)
}

const (
	auditX86_64 = 0xc000003e
	x32Bit      = 0x40000000
)

// machine returns the architectures whose programs this machine executes, its
// own first. It is empty where there are no tables.
func machine() []arch { return architecturesOf(runtime.GOARCH) }

func architecturesOf(goarch string) []arch {
	i386 := arch{specs.ArchX86, 0x40000003, 0, number386}
	arm := arch{specs.ArchARM, 0x40000028, 0, numberARMAll}
	switch goarch {
	case "386":
		return []arch{i386}
	case "amd64":
		return []arch{
			{specs.ArchX86_64, auditX86_64, 0, numberAMD64},
			i386,
			{specs.ArchX32, auditX86_64, x32Bit, numberX32},
		}
	case "arm":
		return []arch{arm}
	case "arm64":
		return []arch{{specs.ArchAARCH64, 0xc00000b7, 0, numberARM64}, arm}
	case "loong64":
		return []arch{{specs.ArchLOONGARCH64, 0xc0000102, 0, numberLOONG64}}
	case "ppc64le":
		return []arch{{specs.ArchPPC64LE, 0xc0000015, 0, numberPPC64LE}}
	case "riscv64":
		return []arch{{specs.ArchRISCV64, 0xc00000f3, 0, numberRISCV64}}
	case "s390x":
		return []arch{{specs.ArchS390X, 0x80000016, 0, numberS390X}}
	}
	return nil
}

// allArchitectures returns every architecture with a table.
func allArchitectures() (list []arch) {
	for _, goarch := range []string{"amd64", "arm64", "loong64", "ppc64le", "riscv64", "s390x"} {
		list = append(list, architecturesOf(goarch)...)
	}
	return list
}

// architectures returns those of the machine that the profile lists. The
// machine's own is always among them.
func architectures(p *specs.LinuxSeccomp, known []arch) ([]arch, error) {
	if len(known) == 0 {
		return nil, fmt.Errorf("system calls of %s are not known", runtime.GOARCH)
	}
	listed := known[:1:1]
	for _, name := range p.Architectures {
		if !validArch(name) {
			return nil, fmt.Errorf("architecture %q is unknown", name)
		}
		for _, a := range known[1:] {
			if a.name == name && !slices.ContainsFunc(listed, func(l arch) bool { return l.name == name }) {
				listed = append(listed, a)
			}
		}
	}
	return listed, nil
}

func validArch(name specs.Arch) bool {
	switch name {
	case specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS,
		specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
		specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X, specs.ArchPARISC,
		specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB:
		return true
	}
	return false
}

// numberARMAll adds the calls of 32-bit ARM that live in a range of their own.
func numberARMAll(name string) (uint32, bool) {
	switch name {
	case "breakpoint":
		return 0xf0001, true
	case "cacheflush":
		return 0xf0002, true
	case "usr26":
		return 0xf0003, true
	case "usr32":
		return 0xf0004, true
	case "set_tls":
		return 0xf0005, true
	}
	return numberARM(name)
}

// numberX32 returns x32's numbers: those of x86-64 with a bit set, except for
// calls whose structures differ.
func numberX32(name string) (uint32, bool) {
	own := []string{ // from 512 on
		"rt_sigaction", "rt_sigreturn", "ioctl", "readv", "writev", "recvfrom", "sendmsg", "recvmsg", "execve",
		"ptrace", "rt_sigpending", "rt_sigtimedwait", "rt_sigqueueinfo", "sigaltstack", "timer_create",
		"mq_notify", "kexec_load", "waitid", "set_robust_list", "get_robust_list", "vmsplice", "move_pages",
		"preadv", "pwritev", "rt_tgsigqueueinfo", "recvmmsg", "sendmmsg", "process_vm_readv",
		"process_vm_writev", "setsockopt", "getsockopt", "io_setup", "io_submit", "execveat", "preadv2",
		"pwritev2",
	}
	if i := slices.Index(own, name); i >= 0 {
		return x32Bit + 512 + uint32(i), true
	}
	n, ok := numberAMD64(name)
	return n | x32Bit, ok
}

// ABI is an interface of system calls.
type ABI struct {
	// Audit is the number by which filters know it (AUDIT_ARCH_*).
	Audit uint32
	// Native tells that it is this program's own.
	Native bool
	// Number returns the number of a system call.
	Number func(name string) (uint32, bool)
}

// ABIs returns those of this machine, its own first, but x32. It is empty where
// there are no tables.
func ABIs() (list []ABI) {
	for i, a := range machine() {
		if a.base == 0 {
			list = append(list, ABI{a.audit, i == 0, a.number})
		}
	}
	return list
}
