package notify

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/seccomp"
)

// call is a system call that is answered.
type call struct {
	name   string
	handle func(*request) answer
	// creates is 1 + the index of the argument that holds flags of open(2), of
	// which only calls with O_CREAT are answered; 0: all are.
	creates int
	native  bool // its structures are known in the native layout only
}

// calls are those of the machine's ABIs by number.
type calls map[key]*call

type key struct {
	audit  uint32
	number uint32
}

// allow, notify are a filter's results.
const (
	allow  = 0x7fff0000
	notify = 0x7fc00000
)

// Filter returns the program that stops those system calls of a step that a
// Supervisor answers, as an array of struct sock_filter in the machine's byte
// order, and the flags with which seccomp(2) loads it and returns a descriptor for
// [New].
func Filter() (code []byte, flags uint64, err error) {
	abis := seccomp.ABIs()
	if len(abis) == 0 {
		return nil, 0, errors.New("system calls of steps cannot be answered on this architecture")
	}
	var p program
	p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, 4)
	for _, abi := range abis {
		block := block(abi)
		if len(block) > 255 {
			return nil, 0, errors.New("filter is too long")
		}
		p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, uint8(len(block)), abi.Audit)
		p = append(p, block...)
	}
	p.add(unix.BPF_RET|unix.BPF_K, 0, 0, allow)
	return p.encode(), filterFlags(), nil
}

// block is the part of a filter for one ABI.
func block(abi seccomp.ABI) (p program) {
	p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, 0)
	for i := range table {
		c := &table[i]
		nr, ok := abi.Number(c.name)
		if !ok || c.native && !abi.Native {
			continue
		}
		if c.creates == 0 {
			p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, 1, nr)
		} else {
			p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, 4, nr)
			p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, lowWord(c.creates-1))
			p.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, 1, 0, unix.O_CREAT)
			p.add(unix.BPF_RET|unix.BPF_K, 0, 0, allow)
		}
		p.add(unix.BPF_RET|unix.BPF_K, 0, 0, notify)
	}
	p.add(unix.BPF_RET|unix.BPF_K, 0, 0, allow)
	return p
}

// lowWord is where a filter finds the lower half of an argument.
func lowWord(arg int) uint32 {
	at := uint32(16 + 8*arg)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		at += 4
	}
	return at
}

// program is a list of instructions.
type program []unix.SockFilter

func (p *program) add(code uint16, yes, no uint8, k uint32) {
	*p = append(*p, unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
}

func (p program) encode() (b []byte) {
	for _, i := range p {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b
}

// filterFlags asks the kernel which it knows.
func filterFlags() uint64 {
	const newListener, killable = 8, 32
	// Signals must not interrupt a call that is being answered: it would be made
	// twice (Linux 5.19). Without a program the kernel says EFAULT when it knows
	// the flags.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, newListener|killable, 0)
	if errno == unix.EFAULT {
		return newListener | killable
	}
	return newListener
}

// numbered returns the answered calls by number.
func numbered() calls {
	m := calls{}
	for _, abi := range seccomp.ABIs() {
		for i := range table {
			c := &table[i]
			if nr, ok := abi.Number(c.name); ok && (abi.Native || !c.native) {
				m[key{abi.Audit, nr}] = c
			}
		}
	}
	return m
}
