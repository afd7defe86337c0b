package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Actions lists the actions that profiles may have.
func Actions() []specs.LinuxSeccompAction {
	all := []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread,
		specs.ActLog, specs.ActNotify, specs.ActTrace, specs.ActTrap,
	}
	var known []specs.LinuxSeccompAction
	for _, a := range all {
		if _, err := action(a, nil); err == nil {
			known = append(known, a)
		}
	}
	return known
}

// Operators lists the comparisons of arguments that profiles may have.
func Operators() []specs.LinuxSeccompOperator {
	all := []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan,
		specs.OpMaskedEqual, specs.OpNotEqual,
	}
	var known []specs.LinuxSeccompOperator
	for _, o := range all {
		if _, err := comparison(specs.LinuxSeccompArg{Op: o}); err == nil {
			known = append(known, o)
		}
	}
	return known
}

// Architectures lists those of this machine, its own first.
func Architectures() []specs.Arch {
	var list []specs.Arch
	for _, a := range machine() {
		list = append(list, a.name)
	}
	return list
}

// Flags lists the flags that profiles may have.
func Flags() []specs.LinuxSeccompFlag {
	var known []specs.LinuxSeccompFlag
	for _, f := range []specs.LinuxSeccompFlag{
		specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagWaitKillableRecv, "SECCOMP_FILTER_FLAG_TSYNC",
	} {
		if _, err := filterFlags(&specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{f}}); err == nil {
			known = append(known, f)
		}
	}
	return known
}
