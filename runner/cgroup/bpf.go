package cgroup

import "encoding/binary"

// instruction is one of the kernel's BPF machine (struct bpf_insn).
type instruction struct {
	code byte
	dst  byte // the lower half of a byte that both registers share
	src  byte
	off  int16
	imm  int32
}

// Codes of the instructions that are used here, and the registers by what they
// hold.
const (
	bpfLoadWord = 0x61 // dst = *(u32 *)(src + off)
	bpfAndImm   = 0x54 // 32 bits
	bpfRshImm   = 0x74
	bpfMovReg   = 0xbc
	bpfMovImm   = 0xb7
	bpfJneImm   = 0x56 // if dst != imm, 32 bits
	bpfJeqImm   = 0x16
	bpfExit     = 0x95

	regResult  = 0
	regContext = 1
	regKind    = 2
	regAccess  = 3
	regMajor   = 4
	regMinor   = 5
	regScratch = 6
)

// Kinds of devices in the context of a program.
const (
	bpfBlock = 1
	bpfChar  = 2
)

// program is p as a program of type BPF_PROG_TYPE_CGROUP_DEVICE. The kernel
// calls it with struct bpf_cgroup_dev_ctx: access and type in one word, major,
// minor; a result of 0 denies.
func (p *policy) program() []instruction {
	prog := []instruction{
		{code: bpfLoadWord, dst: regKind, src: regContext},
		{code: bpfMovReg, dst: regAccess, src: regKind},
		{code: bpfAndImm, dst: regKind, imm: 0xffff},
		{code: bpfRshImm, dst: regAccess, imm: 16},
		{code: bpfLoadWord, dst: regMajor, src: regContext, off: 4},
		{code: bpfLoadWord, dst: regMinor, src: regContext, off: 8},
	}
	for _, id := range p.entries() {
		prog = append(prog, p.entry(id)...)
	}
	return append(prog, answer(p.allow)...)
}

func answer(allow bool) []instruction {
	var value int32
	if allow {
		value = 1
	}
	return []instruction{{code: bpfMovImm, dst: regResult, imm: value}, {code: bpfExit}}
}

// entry answers for one exception, or jumps behind itself. A list of allowed
// devices must allow all that is wanted at once; of denied ones any is enough.
func (p *policy) entry(id deviceID) []instruction {
	kind := int32(bpfChar)
	if id.kind == 'b' {
		kind = bpfBlock
	}
	code := []instruction{{code: bpfJneImm, dst: regKind, imm: kind}}
	if id.major != wild {
		code = append(code, instruction{code: bpfJneImm, dst: regMajor, imm: int32(id.major)})
	}
	if id.minor != wild {
		code = append(code, instruction{code: bpfJneImm, dst: regMinor, imm: int32(id.minor)})
	}
	test := instruction{code: bpfJneImm, dst: regScratch}
	mask := all &^ p.except[id] // wanted beyond what is allowed?
	if p.allow {
		test.code, mask = bpfJeqImm, p.except[id] // nothing of it denied?
	}
	if !p.allow && mask == 0 {
		// All is allowed: no need to look.
	} else {
		code = append(code,
			instruction{code: bpfMovReg, dst: regScratch, src: regAccess},
			instruction{code: bpfAndImm, dst: regScratch, imm: int32(mask)}, test)
	}
	code = append(code, answer(!p.allow)...)
	for i := range code {
		if code[i].code == bpfJneImm || code[i].code == bpfJeqImm {
			code[i].off = int16(len(code) - i - 1)
		}
	}
	return code
}

// assemble encodes a program for this machine.
func assemble(prog []instruction) []byte {
	b := make([]byte, 0, 8*len(prog))
	for _, i := range prog {
		registers := i.src<<4 | i.dst
		if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 { // the halves are bit fields
			registers = i.dst<<4 | i.src
		}
		b = append(b, i.code, registers)
		b = binary.NativeEndian.AppendUint16(b, uint16(i.off))
		b = binary.NativeEndian.AppendUint32(b, uint32(i.imm))
	}
	return b
}
