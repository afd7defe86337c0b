// Package seccomp compiles the seccomp profiles of the OCI runtime
// specification into classic BPF programs, as the kernel loads them.
//
// A profile names system calls; it becomes, for each architecture that it
// lists, a sorted list of ranges of system call numbers, and each range has
// one outcome: an action, or comparisons of arguments that lead to actions.
// The program loads the architecture, then the number, and finds the range by
// binary search, so that a call passes after about ten instructions.
//
// Where the specification is silent the behaviour is that of runtimes that
// build on libseccomp: rules without comparisons of arguments come last;
// several comparisons of one argument in a rule are alternatives; names that
// the architecture doesn't have are skipped; calls of architectures that the
// profile doesn't list kill the process; and calls with higher numbers than
// any that the profile names fail with ENOSYS, not with the default action,
// because the profile's author didn't know them and C libraries try them
// first.
package seccomp

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Program is a filter that seccomp(2) loads.
type Program struct {
	// Code is an array of struct sock_filter in the machine's byte order.
	Code []byte
	// Flags are SECCOMP_FILTER_FLAG bits.
	Flags uint64
}

// Notifies reports whether loading the program returns a descriptor, from which
// somebody must read and answer system calls.
func (p *Program) Notifies() bool { return p.Flags&flagNewListener != 0 }

// Flags of the kernel.
const (
	flagLog              = 1 << 1
	flagSpecAllow        = 1 << 2
	flagNewListener      = 1 << 3
	flagWaitKillableRecv = 1 << 5
)

// Actions of the kernel, in the upper 16 bits of a program's result.
const (
	actKillThread  = 0x00000000
	actKillProcess = 0x80000000
	actTrap        = 0x00030000
	actErrno       = 0x00050000
	actNotify      = 0x7fc00000
	actTrace       = 0x7ff00000
	actLog         = 0x7ffc0000
	actAllow       = 0x7fff0000

	maxErrno = 4095
	eperm    = 1
	enosys   = 38
)

// maxInstructions is the kernel's limit.
const maxInstructions = 4096

// Compile translates a profile for the machine that this runs on. It returns
// an error for what it doesn't know: a filter that is weaker than what was
// asked for must not start a container.
func Compile(profile *specs.LinuxSeccomp) (*Program, error) {
	insns, err := compile(profile, machine())
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	flags, err := filterFlags(profile)
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	code := make([]byte, 0, 8*len(insns))
	for _, i := range insns {
		code = binary.NativeEndian.AppendUint16(code, i.op)
		code = append(code, i.jt, i.jf)
		code = binary.NativeEndian.AppendUint32(code, i.k)
	}
	return &Program{Code: code, Flags: flags}, nil
}

func filterFlags(p *specs.LinuxSeccomp) (flags uint64, err error) {
	for _, f := range p.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= flagLog
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= flagSpecAllow
		case specs.LinuxSeccompFlagWaitKillableRecv:
			flags |= flagWaitKillableRecv
		case "SECCOMP_FILTER_FLAG_TSYNC": // there is one thread
		default:
			return 0, fmt.Errorf("flag %q is not supported", f)
		}
	}
	if p.ListenerMetadata != "" && p.ListenerPath == "" {
		return 0, errors.New("listenerMetadata is given without listenerPath")
	}
	notifies, err := notifies(p)
	if notifies {
		flags |= flagNewListener
	} else {
		flags &^= flagWaitKillableRecv // which is for those who listen
	}
	return flags, err
}

// notifies reports whether the profile asks somebody about system calls. What
// hands over the descriptor of the notifications can't be asked about itself.
func notifies(p *specs.LinuxSeccomp) (bool, error) {
	if p.DefaultAction == specs.ActNotify {
		return true, fmt.Errorf("%s can't be the default action", specs.ActNotify)
	}
	found := false
	for _, s := range p.Syscalls {
		if s.Action != specs.ActNotify {
			continue
		}
		found = true
		if slices.Contains(s.Names, "sendmsg") {
			return true, fmt.Errorf("%s can't be the action for sendmsg, which hands over the notifications", specs.ActNotify)
		}
	}
	return found, nil
}

// action translates an action with its errno.
func action(a specs.LinuxSeccompAction, errnoRet *uint) (uint32, error) {
	errno := uint32(eperm)
	if errnoRet != nil {
		if *errnoRet > maxErrno {
			return 0, fmt.Errorf("errno %d", *errnoRet)
		}
		errno = uint32(*errnoRet)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return actKillThread, nil
	case specs.ActKillProcess:
		return actKillProcess, nil
	case specs.ActTrap:
		return actTrap, nil
	case specs.ActErrno:
		return actErrno | errno, nil
	case specs.ActTrace:
		return actTrace | errno, nil
	case specs.ActAllow:
		return actAllow, nil
	case specs.ActLog:
		return actLog, nil
	case specs.ActNotify:
		return actNotify, nil
	}
	return 0, fmt.Errorf("action %q is not supported", a)
}

// outcome is what happens to a system call.
type outcome struct {
	rules []rule // tried in order
	final uint32 // the action when none matches
}

type rule struct {
	args   []specs.LinuxSeccompArg // all must match
	action uint32
}

func (o outcome) equal(p outcome) bool {
	return len(o.rules)+len(p.rules) == 0 && o.final == p.final
}

// segment is a range of system call numbers, up to the next segment.
type segment struct {
	first uint32
	outcome
}

// compile returns the program for a machine whose native architecture is the
// first of its list.
func compile(p *specs.LinuxSeccomp, known []arch) ([]insn, error) {
	listed, err := architectures(p, known)
	if err != nil {
		return nil, err
	}
	def, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("default action: %w", err)
	}
	if def == actAllow || def == actLog {
		if err := allKnown(p); err != nil {
			return nil, err
		}
	}
	tables := map[uint32][]segment{} // by the kernel's number of the architecture
	var order []uint32
	for _, a := range listed {
		segments, err := ranges(p, a, def)
		if err != nil {
			return nil, err
		}
		if tables[a.audit] == nil {
			order = append(order, a.audit)
		}
		tables[a.audit] = append(tables[a.audit], segments...)
	}
	slices.Sort(order)
	var code []insn
	code = append(code, load(offArch))
	for _, audit := range order {
		body := append([]insn{load(offNumber)}, search(closed(audit, tables[audit]))...)
		code = append(code, jump(opJeq, audit, 1, 0), ja(len(body)))
		code = append(code, body...)
	}
	code = append(code, ret(actKillProcess))
	if len(code) > maxInstructions {
		return nil, fmt.Errorf("the profile needs %d instructions; the kernel takes %d", len(code), maxInstructions)
	}
	return code, nil
}

// allKnown refuses names that no architecture has: in a profile that allows
// what it doesn't name, skipping one would weaken it.
func allKnown(p *specs.LinuxSeccomp) error {
	everywhere := allArchitectures()
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			if !slices.ContainsFunc(everywhere, func(a arch) bool { _, ok := a.number(name); return ok }) {
				return fmt.Errorf("system call %q is unknown, and the profile allows what it doesn't name", name)
			}
		}
	}
	return nil
}

// closed sorts the segments of one kernel architecture. Numbers of x32 kill the
// process unless the profile lists it.
func closed(audit uint32, segments []segment) []segment {
	slices.SortFunc(segments, func(a, b segment) int { return cmp.Compare(a.first, b.first) })
	if audit == auditX86_64 && segments[len(segments)-1].first < x32Bit {
		segments = append(segments, segment{x32Bit, outcome{final: actKillProcess}})
	}
	return segments
}

// ranges sorts what the profile says about one architecture by number.
func ranges(p *specs.LinuxSeccomp, a arch, def uint32) ([]segment, error) {
	calls, err := outcomes(p, a, def)
	if err != nil {
		return nil, err
	}
	numbers := make([]uint32, 0, len(calls))
	for n := range calls {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	s := []segment{{a.base, outcome{final: def}}}
	add := func(first uint32, o outcome) {
		switch last := &s[len(s)-1]; {
		case last.equal(o):
		case last.first == first:
			last.outcome = o
		default:
			s = append(s, segment{first, o})
		}
	}
	for i, n := range numbers {
		add(n, calls[n])
		if i == len(numbers)-1 {
			add(n+1, outcome{final: unknown(def)})
		} else if numbers[i+1] != n+1 {
			add(n+1, outcome{final: def})
		}
	}
	return s, nil
}

// unknown is the action for calls that are newer than the profile.
func unknown(def uint32) uint32 {
	switch def {
	case actAllow, actLog:
		return def
	}
	if def&0xffff0000 == actTrace {
		return def
	}
	return actErrno | enosys
}

// outcomes collects the rules of each system call number.
func outcomes(p *specs.LinuxSeccomp, a arch, def uint32) (map[uint32]outcome, error) {
	calls := make(map[uint32]outcome, 512)
	plain := make(map[uint32]bool, 512) // numbers with a rule without comparisons
	for _, s := range p.Syscalls {
		act, err := action(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, fmt.Errorf("system calls %q: %w", s.Names, err)
		}
		rules, err := alternatives(s.Args, act)
		if err != nil {
			return nil, fmt.Errorf("system calls %q: %w", s.Names, err)
		}
		for _, name := range s.Names {
			n, ok := a.number(name)
			if !ok {
				continue
			}
			o, ok := calls[n]
			if !ok {
				o.final = def
			}
			if len(rules) > 0 {
				o.rules = append(o.rules[:len(o.rules):len(o.rules)], rules...)
			} else if !plain[n] {
				o.final, plain[n] = act, true
			}
			calls[n] = o
		}
	}
	return calls, nil
}

// alternatives turns the comparisons of a profile's rule into rules. None
// means that the action is unconditional.
func alternatives(args []specs.LinuxSeccompArg, act uint32) ([]rule, error) {
	var seen [6]bool
	repeated := false
	for _, a := range args {
		if a.Index > 5 {
			return nil, fmt.Errorf("argument index %d", a.Index)
		}
		if _, err := comparison(a); err != nil {
			return nil, err
		}
		repeated = repeated || seen[a.Index]
		seen[a.Index] = true
	}
	if len(args) == 0 {
		return nil, nil
	}
	if !repeated {
		return []rule{{args, act}}, nil
	}
	var rules []rule
	for i := range args {
		rules = append(rules, rule{args[i : i+1], act})
	}
	return rules, nil
}
