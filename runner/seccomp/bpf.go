package seccomp

import (
	"fmt"
	"runtime"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// insn is one instruction of classic BPF.
type insn struct {
	op     uint16
	jt, jf uint8
	k      uint32
}

const (
	opLoad = 0x20 // BPF_LD|BPF_W|BPF_ABS
	opAnd  = 0x54 // BPF_ALU|BPF_AND|BPF_K
	opJa   = 0x05 // BPF_JMP|BPF_JA
	opJeq  = 0x15 // BPF_JMP|BPF_JEQ|BPF_K
	opJgt  = 0x25 // BPF_JMP|BPF_JGT|BPF_K
	opJge  = 0x35 // BPF_JMP|BPF_JGE|BPF_K
	opRet  = 0x06 // BPF_RET|BPF_K
)

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

func load(off uint32) insn                      { return insn{op: opLoad, k: off} }
func ret(action uint32) insn                    { return insn{op: opRet, k: action} }
func ja(n int) insn                             { return insn{op: opJa, k: uint32(n)} }
func jump(op uint16, k uint32, t, f uint8) insn { return insn{op, t, f, k} }

// search emits a binary search for the number in the accumulator.
func search(s []segment) []insn {
	if len(s) == 1 {
		return s[0].emit()
	}
	mid := len(s) / 2
	low, high := search(s[:mid]), search(s[mid:])
	var code []insn
	if len(low) <= 255 {
		code = []insn{jump(opJge, s[mid].first, uint8(len(low)), 0)}
	} else {
		code = []insn{jump(opJge, s[mid].first, 0, 1), ja(len(low))}
	}
	return append(append(code, low...), high...)
}

// emit returns the code of an outcome; it ends in returns.
func (o outcome) emit() []insn {
	var code []insn
	for _, r := range o.rules {
		code = append(code, r.emit()...)
	}
	return append(code, ret(o.final))
}

// Targets of jumps in a comparison, before their distances are known.
const (
	hit  = 254 // the comparison holds: behind it
	miss = 255 // the rule doesn't match: behind the rule
)

// emit returns code that returns the action when all arguments match, and
// falls through otherwise.
func (r rule) emit() []insn {
	var code []insn
	for _, a := range r.args {
		c, _ := comparison(a) // checked before
		for i := range c {
			c[i].resolve(hit, len(c)-1-i)
		}
		code = append(code, c...)
	}
	code = append(code, ret(r.action))
	for i := range code {
		code[i].resolve(miss, len(code)-1-i)
	}
	return code
}

// resolve replaces a target by its distance.
func (i *insn) resolve(target uint8, distance int) {
	if i.op&0x07 != 0x05 {
		return
	}
	if i.jt == target {
		i.jt = uint8(distance)
	}
	if i.jf == target {
		i.jf = uint8(distance)
	}
}

// comparison emits the test of one 64-bit argument, as two words.
func comparison(a specs.LinuxSeccompArg) ([]insn, error) {
	low := uint32(offArgs + 8*a.Index)
	high := low + 4
	if runtime.GOARCH == "s390x" {
		low, high = high, low
	}
	vh, vl := uint32(a.Value>>32), uint32(a.Value)
	switch a.Op {
	case specs.OpEqualTo:
		return []insn{load(high), jump(opJeq, vh, 0, miss), load(low), jump(opJeq, vl, hit, miss)}, nil
	case specs.OpNotEqual:
		return []insn{load(high), jump(opJeq, vh, 0, hit), load(low), jump(opJeq, vl, miss, hit)}, nil
	case specs.OpGreaterThan:
		return ordered(high, low, vh, vl, opJgt, hit, miss), nil
	case specs.OpGreaterEqual:
		return ordered(high, low, vh, vl, opJge, hit, miss), nil
	case specs.OpLessThan:
		return ordered(high, low, vh, vl, opJge, miss, hit), nil
	case specs.OpLessEqual:
		return ordered(high, low, vh, vl, opJgt, miss, hit), nil
	case specs.OpMaskedEqual:
		wh, wl := uint32(a.ValueTwo>>32), uint32(a.ValueTwo)
		return []insn{
			load(high), {op: opAnd, k: vh}, jump(opJeq, wh, 0, miss),
			load(low), {op: opAnd, k: vl}, jump(opJeq, wl, hit, miss),
		}, nil
	}
	return nil, fmt.Errorf("operator %q is unknown", a.Op)
}

// ordered compares the high words, and the low words by op when they're equal.
func ordered(high, low, vh, vl uint32, op uint16, greater, less uint8) []insn {
	return []insn{
		load(high), jump(opJgt, vh, greater, 0), jump(opJeq, vh, 0, less),
		load(low), jump(op, vl, greater, less),
	}
}
