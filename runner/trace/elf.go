package trace

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// program is what the kernel needs to know of an executable.
type program struct {
	interp string // the loader that it names; empty: it is static
	header int64  // where in the file the program header that names it is
}

// Errors of executables.
var (
	errNotELF  = errors.New("not an ELF executable")
	errForeign = errors.New("an executable of another architecture")
	errDamaged = errors.New("a damaged ELF executable")
)

const (
	elfHeaderSize   = 64
	elfProgramSize  = 56
	elfMaxPrograms  = 65536 / elfProgramSize // the kernel's limit
	elfInterp       = 3
	elfMaxInterp    = 4096
	elfMachineAMD64 = 62
	elfMachineARM64 = 183
)

// readProgram reads the headers of a 64-bit little-endian executable.
func readProgram(f io.ReaderAt, machine uint16) (program, error) {
	var head [elfHeaderSize]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || string(head[:4]) != "\x7fELF" {
		return program{}, errNotELF
	}
	le := binary.LittleEndian
	if head[4] != 2 || head[5] != 1 || le.Uint16(head[18:]) != machine {
		return program{}, errForeign
	}
	offset, size, count := le.Uint64(head[32:]), le.Uint16(head[54:]), int(le.Uint16(head[56:]))
	if size != elfProgramSize || count < 1 || count > elfMaxPrograms || offset > 1<<62 {
		return program{}, errDamaged
	}
	table := make([]byte, count*elfProgramSize)
	if _, err := f.ReadAt(table, int64(offset)); err != nil {
		return program{}, errDamaged
	}
	for i := range count {
		entry := table[i*elfProgramSize:]
		if le.Uint32(entry) != elfInterp {
			continue
		}
		at, length := le.Uint64(entry[8:]), le.Uint64(entry[32:])
		if length < 2 || length > elfMaxInterp || at > 1<<62 {
			return program{}, errDamaged
		}
		name := make([]byte, length)
		if _, err := f.ReadAt(name, int64(at)); err != nil || name[length-1] != 0 {
			return program{}, errDamaged
		}
		return program{cutNUL(name), int64(offset) + int64(i*elfProgramSize)}, nil
	}
	return program{}, nil
}

func cutNUL(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// setInterp makes the executable f, a copy, name another loader. The kernel
// finds the name by its place in the file, and it is appended there; the loader
// itself looks at the memory where the old name stays.
func setInterp(f *os.File, p program, interp string) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := f.Write(append([]byte(interp), 0)); err != nil {
		return err
	}
	var place [8]byte
	binary.LittleEndian.PutUint64(place[:], uint64(end))
	if _, err := f.WriteAt(place[:], p.header+8); err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(place[:], uint64(len(interp))+1)
	_, err = f.WriteAt(place[:], p.header+32)
	return err
}

// scriptHead is how much of a script the kernel looks at.
const scriptHead = 256

// readScript reads the first line of a script, of which head are the first
// bytes, as the kernel does. ok is false when it names no interpreter; a name
// may be empty.
func readScript(head []byte) (interp, arg string, ok bool) {
	var buf [scriptHead]byte
	copy(buf[:], head)
	if buf[0] != '#' || buf[1] != '!' {
		return "", "", false
	}
	blank := func(c byte) bool { return c == ' ' || c == '\t' }
	first, end := 2, 2
	for end < scriptHead && buf[end] != '\n' && buf[end] != 0 {
		end++
	}
	newline := end < scriptHead && buf[end] == '\n'
	for newline && blank(buf[end-1]) {
		end--
	}
	for first < end && blank(buf[first]) {
		first++
	}
	if first >= end && (newline || end == scriptHead) {
		return "", "", false // blanks and nothing else
	}
	name := first
	for name < end && !blank(buf[name]) {
		name++
	}
	if name == scriptHead {
		return "", "", false // cut off
	}
	interp = string(buf[first:name])
	for name < end && blank(buf[name]) {
		name++
	}
	return interp, string(buf[name:end]), true
}
