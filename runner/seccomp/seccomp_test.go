package seccomp

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
)

// simulator executes a program on calls, with golang.org/x/net's machine,
// which reads words in network byte order.
type simulator struct{ vm *bpf.VM }

func newSimulator(t testing.TB, code []insn) simulator {
	t.Helper()
	raw := make([]bpf.Instruction, len(code))
	for i, c := range code {
		raw[i] = bpf.RawInstruction{Op: c.op, Jt: c.jt, Jf: c.jf, K: c.k}.Disassemble()
	}
	vm, err := bpf.NewVM(raw)
	if err != nil {
		t.Fatal(err)
	}
	return simulator{vm}
}

func (s simulator) run(t testing.TB, audit, nr uint32, args ...uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data, nr)
	binary.BigEndian.PutUint32(data[offArch:], audit)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[offArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[offArgs+8*i+4:], uint32(a>>32))
	}
	got, err := s.vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

func mustCompile(t testing.TB, p *specs.LinuxSeccomp, goarch string) []insn {
	t.Helper()
	code, err := compile(p, architecturesOf(goarch))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// evaluate is the specification of a profile, written without any program.
func evaluate(p *specs.LinuxSeccomp, name string, args []uint64) (uint32, bool) {
	final, named, plain := specs.LinuxSyscall{Action: p.DefaultAction, ErrnoRet: p.DefaultErrnoRet}, false, false
	for _, s := range p.Syscalls {
		for _, n := range s.Names {
			if n != name {
				continue
			}
			named = true
			if len(s.Args) == 0 {
				if !plain {
					final, plain = s, true
				}
			} else if matches(s.Args, args) {
				a, _ := action(s.Action, s.ErrnoRet)
				return a, true
			}
		}
	}
	a, _ := action(final.Action, final.ErrnoRet)
	return a, named
}

func matches(conds []specs.LinuxSeccompArg, args []uint64) bool {
	for _, c := range conds {
		v := args[c.Index]
		ok := map[specs.LinuxSeccompOperator]bool{
			specs.OpEqualTo:      v == c.Value,
			specs.OpNotEqual:     v != c.Value,
			specs.OpGreaterThan:  v > c.Value,
			specs.OpGreaterEqual: v >= c.Value,
			specs.OpLessThan:     v < c.Value,
			specs.OpLessEqual:    v <= c.Value,
			specs.OpMaskedEqual:  v&c.Value == c.ValueTwo,
		}[c.Op]
		if !ok {
			return false
		}
	}
	return true
}

func defaultProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the default profile needs Linux")
	}
	p, err := Default(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// For every call of every architecture of the machine the compiled default
// profile decides as the profile says, whatever the arguments.
func TestDefaultProfile(t *testing.T) {
	values := []uint64{0, 1, 2, 8, 9, 16, 38, 40, 45, 0x20000, 0x20008, 0xffffffff, 1 << 28, 1<<32 | 1, 1 << 63}
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN", "CAP_SYS_CHROOT"}} {
		p := defaultProfile(t, caps...)
		sim := newSimulator(t, mustCompile(t, p, runtime.GOARCH))
		for _, a := range machine() {
			for _, s := range p.Syscalls {
				for _, name := range s.Names {
					nr, ok := a.number(name)
					if !ok {
						continue
					}
					for _, v := range values {
						args := []uint64{v, v, v, v, v, v}
						want, _ := evaluate(p, name, args)
						if got := sim.run(t, a.audit, nr, args...); got != want {
							t.Errorf("%s %s(%#x) = %#x, want %#x", a.name, name, v, got, want)
						}
					}
				}
			}
		}
	}
}

// Calls that the default profile doesn't name fail with EPERM when they are
// older than the profile, and with ENOSYS when they are newer.
func TestUnnamedCalls(t *testing.T) {
	sim := newSimulator(t, mustCompile(t, defaultProfile(t), "amd64"))
	for _, test := range []struct {
		what      string
		audit, nr uint32
		want      uint32
	}{
		{"mount", auditX86_64, 165, actErrno | eperm},
		{"keyctl", auditX86_64, 250, actErrno | eperm},
		{"clone3", auditX86_64, 435, actErrno | enosys},
		{"a future call", auditX86_64, 1000, actErrno | enosys},
		{"number -1", auditX86_64, 0xffffffff, actErrno | enosys},
		{"mount of x32", auditX86_64, x32Bit | 165, actErrno | eperm},
		{"read of x32", auditX86_64, x32Bit, actAllow},
		{"mount of i386", 0x40000003, 21, actErrno | eperm},
		{"read of i386", 0x40000003, 3, actAllow},
		{"read of arm64", 0xc00000b7, 63, actKillProcess},
	} {
		if got := sim.run(t, test.audit, test.nr); got != test.want {
			t.Errorf("%s = %#x, want %#x", test.what, got, test.want)
		}
	}
}

// A profile that does not list an architecture kills its callers: x32 shares
// the number of x86-64 and must not slip through.
func TestUnlistedArchitecture(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	sim := newSimulator(t, mustCompile(t, p, "amd64"))
	for nr, want := range map[uint32]uint32{0: actAllow, 5000: actAllow, x32Bit: actKillProcess, x32Bit | 59: actKillProcess} {
		if got := sim.run(t, auditX86_64, nr); got != want {
			t.Errorf("call %#x = %#x, want %#x", nr, got, want)
		}
	}
	if got := sim.run(t, 0x40000003, 3); got != actKillProcess {
		t.Errorf("i386 = %#x, want the process killed", got)
	}
}

// Every operator compares all 64 bits of an argument.
func TestOperators(t *testing.T) {
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan,
		specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpMaskedEqual}
	values := []uint64{0, 1, 2, 0xfffffffe, 0xffffffff, 1 << 32, 1<<32 | 1, 2 << 32, 1<<63 | 5, ^uint64(0)}
	for _, op := range ops {
		for _, v := range values {
			p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{
				Names: []string{"personality"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: 3, Value: v, ValueTwo: v & 0xf0000000f, Op: op}},
			}}}
			sim := newSimulator(t, mustCompile(t, p, "amd64"))
			for _, arg := range values {
				args := []uint64{7, 7, 7, arg, 7, 7}
				want, _ := evaluate(p, "personality", args)
				if got := sim.run(t, auditX86_64, 135, args...); got != want {
					t.Errorf("%#x %s %#x = %#x, want %#x", arg, op, v, got, want)
				}
			}
		}
	}
}

// Comparisons of different arguments must all hold; several of one argument
// are alternatives.
func TestCombinations(t *testing.T) {
	arg := func(i uint, v uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Value: v, Op: specs.OpEqualTo}
	}
	sim := newSimulator(t, mustCompile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, 1), arg(1, 2)}},
		{Names: []string{"write"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, 1), arg(0, 2)}},
	}}, "amd64"))
	for _, test := range []struct {
		nr   uint32
		a, b uint64
		want uint32
	}{
		{0, 1, 2, actAllow}, {0, 1, 3, actErrno | eperm}, {0, 2, 2, actErrno | eperm},
		{1, 1, 0, actAllow}, {1, 2, 0, actAllow}, {1, 3, 0, actErrno | eperm},
	} {
		if got := sim.run(t, auditX86_64, test.nr, test.a, test.b); got != test.want {
			t.Errorf("call %d(%d, %d) = %#x, want %#x", test.nr, test.a, test.b, got, test.want)
		}
	}
}

// A profile with something unknown in it must not become a weaker filter.
func TestRefused(t *testing.T) {
	large := uint(maxErrno + 1)
	call := func(s specs.LinuxSyscall) specs.LinuxSeccomp {
		return specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{s}}
	}
	for name, p := range map[string]specs.LinuxSeccomp{
		"empty":           {},
		"default action":  {DefaultAction: "SCMP_ACT_MAYBE"},
		"default errno":   {DefaultAction: specs.ActErrno, DefaultErrnoRet: &large},
		"action":          call(specs.LinuxSyscall{Names: []string{"read"}, Action: "x"}),
		"notify of all":   {DefaultAction: specs.ActNotify},
		"notify of send":  call(specs.LinuxSyscall{Names: []string{"sendmsg"}, Action: specs.ActNotify}),
		"operator":        call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "x"}}}),
		"argument":        call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}),
		"architecture":    {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_Z80"}},
		"flag":            {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_NEW"}},
		"metadata":        {DefaultAction: specs.ActAllow, ListenerMetadata: "x"},
		"unknown to deny": call(specs.LinuxSyscall{Names: []string{"no_such_call"}, Action: specs.ActErrno}),
	} {
		if got, err := Compile(&p); err == nil {
			t.Errorf("%s: Compile = %d bytes, want an error", name, len(got.Code))
		}
	}
}

// Names that an architecture doesn't have are skipped on it when the default
// is to refuse.
func TestUnknownNames(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read", "set_tls", "future_call"}, Action: specs.ActAllow},
	}}
	if _, err := compile(p, architecturesOf("amd64")); err != nil {
		t.Error(err)
	}
}

// Spot checks of the tables against the kernel's headers.
func TestNumbers(t *testing.T) {
	got := map[string]uint32{}
	for _, test := range []struct{ goarch, name string }{
		{"amd64", "execve"}, {"386", "execve"}, {"arm64", "execve"}, {"arm", "execve"}, {"riscv64", "execve"},
		{"ppc64le", "execve"}, {"s390x", "execve"}, {"arm64", "newfstatat"}, {"arm", "set_tls"},
		{"loong64", "clone3"}, {"amd64", "openat2"},
	} {
		got[test.goarch+" "+test.name], _ = architecturesOf(test.goarch)[0].number(test.name)
	}
	got["x32 execve"], _ = numberX32("execve")
	got["x32 read"], _ = numberX32("read")
	want := map[string]uint32{
		"amd64 execve": 59, "386 execve": 11, "arm64 execve": 221, "arm execve": 11, "riscv64 execve": 221,
		"ppc64le execve": 11, "s390x execve": 11, "arm64 newfstatat": 79, "arm set_tls": 0xf0005,
		"loong64 clone3": 435, "amd64 openat2": 437, "x32 execve": x32Bit + 520, "x32 read": x32Bit,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("numbers (-want +got):\n%s", d)
	}
}

// A system call of the default profile passes after few instructions, and the
// program is far from the kernel's limit on every architecture.
func TestProgramSize(t *testing.T) {
	for _, goarch := range []string{"386", "amd64", "arm", "arm64", "loong64", "ppc64le", "riscv64", "s390x"} {
		if n := len(mustCompile(t, defaultProfile(t), goarch)); n > 2000 {
			t.Errorf("%s: %d instructions, want fewer than half of the kernel's limit", goarch, n)
		}
	}
}

// Arguments decide the same in the program and in the profile for any profile.
func FuzzCompile(f *testing.F) {
	f.Add(uint8(0), uint64(1), uint64(2), uint64(3), uint8(1))
	f.Add(uint8(6), uint64(0x7e020000), uint64(0), uint64(0x11), uint8(0))
	f.Fuzz(func(t *testing.T, op uint8, value, two, arg uint64, index uint8) {
		ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan,
			specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpMaskedEqual}
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{
			Names: []string{"openat"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{
				{Index: uint(index % 6), Value: value, ValueTwo: two, Op: ops[int(op)%len(ops)]},
				{Index: uint(index+1) % 6, Value: two, ValueTwo: value, Op: ops[int(op/8)%len(ops)]},
			},
		}}}
		args := []uint64{arg, two, value, arg, arg ^ two, ^arg}
		want, _ := evaluate(p, "openat", args)
		sim := newSimulator(t, mustCompile(t, p, "amd64"))
		if got := sim.run(t, auditX86_64, 257, args...); got != want {
			t.Errorf("got %#x, want %#x", got, want)
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	p := defaultProfile(b)
	for b.Loop() {
		if _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDefault(b *testing.B) {
	for b.Loop() {
		defaultProfile(b)
	}
}

func Example() {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	prog, err := Compile(p)
	fmt.Println(len(prog.Code) > 0, err)
	// Output: true <nil>
}

// A profile that asks somebody says so in its flags; one that asks nobody has
// no descriptor that somebody would have to read.
func TestNotify(t *testing.T) {
	wait := []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}
	for _, test := range []struct {
		action specs.LinuxSeccompAction
		want   uint64
	}{{specs.ActNotify, flagNewListener | flagWaitKillableRecv}, {specs.ActErrno, 0}} {
		p, err := Compile(&specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, Flags: wait, ListenerPath: "/s",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: test.action}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if p.Flags != test.want || p.Notifies() != (test.want != 0) {
			t.Errorf("%s: flags %#x, want %#x", test.action, p.Flags, test.want)
		}
	}
}
