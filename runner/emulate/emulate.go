// Package emulate finds what runs programs of foreign platforms.
//
// Nothing has to be set up on the host. When the host has a handler for the
// platform in binfmt_misc that works in any root directory, it is used and
// there's nothing to do. Otherwise [Find] looks for a statically linked
// qemu-user and returns it with a registration for a binfmt_misc that the
// runner mounts in the container's own user namespace (Linux 6.7 and later);
// it goes with the container.
//
// A registration recognizes programs by the first 20 bytes of their ELF
// header: identification, type and machine.
package emulate

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Interpreter is the emulator's path in registrations: a descriptor of the
// process that registers it, opened by the kernel at that moment.
const Interpreter = "/proc/self/fd/4"

// Emulator is a user-mode emulator for one architecture.
type Emulator struct {
	// Path is the host's path of a statically linked emulator.
	Path string
	// Registration is the line that makes it known to binfmt_misc, with
	// Interpreter as its path.
	Registration string
}

// Dirs are the places to look at.
type Dirs struct {
	// Emulators are directories that hold emulators; then follow those of
	// the environment's PATH.
	Emulators []string
	// Handlers is where the host's binfmt_misc is mounted; empty:
	// /proc/sys/fs/binfmt_misc.
	Handlers string
}

// MissingError reports that a platform can't be run. It is fs.ErrNotExist.
type MissingError struct {
	Platform string // as "linux/arm64"
	Program  string // the emulator's name; empty when none is known
}

func (e *MissingError) Error() string {
	if e.Program == "" {
		return fmt.Sprintf("platform %s cannot be run on %s/%s, and no emulator is known", e.Platform, runtime.GOOS, runtime.GOARCH)
	}
	return fmt.Sprintf("platform %s cannot be run on %s/%s without an emulator, and %s was not found: install it (Debian: apt-get install qemu-user-static)",
		e.Platform, runtime.GOOS, runtime.GOARCH, e.Program)
}

// Is makes the error a missing thing.
func (e *MissingError) Is(target error) bool { return target == fs.ErrNotExist }

// machine is an architecture as ELF and qemu know it.
type machine struct {
	qemu    string
	class   byte // 1: 32 bits, 2: 64 bits
	data    byte // 1: little-endian, 2: big-endian
	machine uint16
}

func machineOf(arch string) (machine, bool) {
	m, ok := map[string]machine{
		"386":      {"i386", 1, 1, 3},
		"amd64":    {"x86_64", 2, 1, 62},
		"arm":      {"arm", 1, 1, 40},
		"arm64":    {"aarch64", 2, 1, 183},
		"loong64":  {"loongarch64", 2, 1, 258},
		"mips64":   {"mips64", 2, 2, 8},
		"mips64le": {"mips64el", 2, 1, 8},
		"ppc64le":  {"ppc64le", 2, 1, 21},
		"riscv64":  {"riscv64", 2, 1, 243},
		"s390x":    {"s390x", 2, 2, 22},
	}[arch]
	return m, ok
}

// Find returns the emulator that a container of the platform needs, or nil
// when it needs none: because the processor runs it, or the host has a handler
// for it. The error is a *MissingError when there is no way.
func Find(platform ocispecs.Platform, dirs Dirs) (*Emulator, error) {
	p := platforms.Normalize(platform)
	if p.OS != "linux" {
		return nil, &MissingError{Platform: platforms.Format(p)}
	}
	if native(p.Architecture) {
		return nil, nil
	}
	m, ok := machineOf(p.Architecture)
	if !ok {
		return nil, &MissingError{Platform: platforms.Format(p)}
	}
	if dirs.Handlers == "" {
		dirs.Handlers = "/proc/sys/fs/binfmt_misc"
	}
	if hostHandles(dirs.Handlers, m) {
		return nil, nil
	}
	for _, dir := range slices.Concat(dirs.Emulators, filepath.SplitList(os.Getenv("PATH"))) {
		for _, name := range []string{"qemu-" + m.qemu + "-static", "buildkit-qemu-" + m.qemu, "qemu-" + m.qemu} {
			path := filepath.Join(dir, name)
			if filepath.IsAbs(path) && usable(path) == nil {
				return &Emulator{Path: path, Registration: m.registration()}, nil
			}
		}
	}
	if runtime.GOARCH == "arm64" && p.Architecture == "arm" {
		return nil, nil // many such processors run it
	}
	return nil, &MissingError{Platform: platforms.Format(p), Program: "qemu-" + m.qemu + "-static"}
}

// native reports whether this machine's processor and kernel run programs of
// the architecture, in all its variants.
func native(arch string) bool {
	return arch == runtime.GOARCH || runtime.GOARCH == "amd64" && arch == "386"
}

const headerSize = 20

// header returns the start of an ELF file of the machine.
func (m machine) header() []byte {
	h := make([]byte, headerSize)
	copy(h, "\x7fELF")
	h[4], h[5], h[6] = m.class, m.data, 1
	order := binary.ByteOrder(binary.LittleEndian)
	if m.data == 2 {
		order = binary.BigEndian
	}
	order.PutUint16(h[16:], 2) // an executable
	order.PutUint16(h[18:], m.machine)
	return h
}

// mask says which bits of the header matter: not the operating system's ABI,
// and not the difference between executable (2) and position-independent (3).
func (m machine) mask() []byte {
	mask := make([]byte, headerSize)
	for i := range mask {
		mask[i] = 0xff
	}
	mask[7] = 0
	mask[16+int(m.data)-1] = 0xfe
	return mask
}

// registration returns the line for binfmt_misc's register file. Flags: F
// opens the emulator at once, so that no root directory needs it; P passes
// argv[0] on, which programs like busybox go by; O and C hand the program
// over as a descriptor, with its own credentials.
func (m machine) registration() string {
	return fmt.Sprintf(":bk-%s:M:0:%s:%s:%s:FPOC", m.qemu, escape(m.header()), escape(m.mask()), Interpreter)
}

func escape(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String()
}

// hostHandles reports whether a handler of the host's binfmt_misc takes
// programs of the machine wherever their root directory is.
func hostHandles(dir string, m machine) bool {
	if status, err := readSmall(filepath.Join(dir, "status")); err != nil || strings.TrimSpace(status) != "enabled" {
		return false
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if e.Name() == "status" || e.Name() == "register" {
			continue
		}
		text, err := readSmall(filepath.Join(dir, e.Name()))
		if err == nil && handles(text, m.header()) {
			return true
		}
	}
	return false
}

// maxEntry bounds a file of binfmt_misc in bytes.
const maxEntry = 16 << 10

func readSmall(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEntry))
	return string(b), err
}

// handles reports whether an entry of binfmt_misc is enabled, works in any
// root directory (flag F) and matches the header.
func handles(entry string, header []byte) bool {
	lines := strings.Split(entry, "\n")
	if lines[0] != "enabled" {
		return false
	}
	fields := map[string]string{}
	for _, l := range lines[1:] {
		key, value, _ := strings.Cut(l, " ")
		fields[strings.TrimSuffix(key, ":")] = value
	}
	magic, err := hex.DecodeString(fields["magic"])
	if err != nil || len(magic) == 0 || fields["offset"] != "0" || !strings.Contains(fields["flags"], "F") {
		return false
	}
	mask, err := hex.DecodeString(fields["mask"])
	if err != nil || len(magic) > len(header) || len(mask) > 0 && len(mask) != len(magic) {
		return false
	}
	for i := range magic {
		m := byte(0xff)
		if len(mask) > 0 {
			m = mask[i]
		}
		if (magic[i]^header[i])&m != 0 {
			return false
		}
	}
	return true
}

// usable tells why the kernel could not run the file in a container: it must
// be an executable that needs no loader from the container's root.
func usable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return errors.New("it is not an executable file")
	}
	return static(f)
}

// static reads the program headers of a 64-bit little-endian ELF file, or a
// big-endian one, for an interpreter.
func static(f io.ReaderAt) error {
	const interp = 3 // PT_INTERP
	var h [64]byte
	if _, err := f.ReadAt(h[:], 0); err != nil || string(h[:4]) != "\x7fELF" || h[4] != 2 {
		return errors.New("it is not a 64-bit ELF file")
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if h[5] == 2 {
		order = binary.BigEndian
	}
	offset, size, n := order.Uint64(h[32:]), order.Uint16(h[54:]), order.Uint16(h[56:])
	if offset > 1<<32 || size < 4 {
		return errors.New("its ELF header is damaged")
	}
	for i := range int64(n) {
		var kind [4]byte
		if _, err := f.ReadAt(kind[:], int64(offset)+i*int64(size)); err != nil {
			return err
		}
		if order.Uint32(kind[:]) == interp {
			return errors.New("it is dynamically linked")
		}
	}
	return nil
}
