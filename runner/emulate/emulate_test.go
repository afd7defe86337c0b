package emulate

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func linux(arch, variant string) ocispecs.Platform {
	return ocispecs.Platform{OS: "linux", Architecture: arch, Variant: variant}
}

// foreign is an architecture that this machine doesn't run.
func foreign() (arch, qemu string) {
	if runtime.GOARCH == "arm64" {
		return "amd64", "x86_64"
	}
	return "arm64", "aarch64"
}

// A static ELF file, and one that names an interpreter.
func elf(t *testing.T, dir, name string, interp bool) {
	t.Helper()
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	b[32], b[54], b[56] = 64, 56, 1
	b[64] = 1
	if interp {
		b[64] = 3
	}
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o755); err != nil {
		t.Fatal(err)
	}
}

// What the machine runs itself needs no emulator, in any variant.
func TestNative(t *testing.T) {
	variants := map[string][]string{"amd64": {"", "v1", "v2", "v3"}, "arm64": {"", "v8"}}[runtime.GOARCH]
	for _, v := range append(variants, "") {
		if e, err := Find(linux(runtime.GOARCH, v), Dirs{}); e != nil || err != nil {
			t.Errorf("Find(%s) = %v, %v; want nothing", v, e, err)
		}
	}
	if runtime.GOARCH != "amd64" {
		return
	}
	if e, err := Find(linux("386", ""), Dirs{}); e != nil || err != nil {
		t.Errorf("Find(386) = %v, %v; want nothing", e, err)
	}
}

// The given directories come before PATH, and a dynamically linked emulator,
// which would need its libraries in the container, is passed over.
func TestFind(t *testing.T) {
	arch, qemu := foreign()
	given, path := t.TempDir(), t.TempDir()
	t.Setenv("PATH", path)
	dirs := Dirs{Emulators: []string{given}, Handlers: t.TempDir()}
	elf(t, given, "qemu-"+qemu, true)
	elf(t, path, "qemu-"+qemu+"-static", false)
	e, err := Find(linux(arch, ""), dirs)
	if err != nil || e.Path != filepath.Join(path, "qemu-"+qemu+"-static") {
		t.Fatalf("Find = %v, %v; want the one in PATH", e, err)
	}
	elf(t, given, "qemu-"+qemu+"-static", false)
	if e, err = Find(linux(arch, ""), dirs); err != nil || e.Path != filepath.Join(given, "qemu-"+qemu+"-static") {
		t.Fatalf("Find = %v, %v; want the one in the given directory", e, err)
	}
	if !strings.HasSuffix(e.Registration, ":/proc/self/fd/4:FPOC") || len(e.Registration) > 1900 {
		t.Errorf("Registration = %q", e.Registration)
	}
}

// The error for a missing emulator says what to install.
func TestMissing(t *testing.T) {
	arch, qemu := foreign()
	t.Setenv("PATH", t.TempDir())
	_, err := Find(linux(arch, ""), Dirs{Handlers: t.TempDir()})
	var missing *MissingError
	if !errors.As(err, &missing) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Find: %v, want a MissingError", err)
	}
	for _, want := range []string{"linux/" + arch, "qemu-" + qemu + "-static", "qemu-user-static"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	for _, p := range []ocispecs.Platform{linux("vax", ""), {OS: "windows", Architecture: "amd64"}} {
		if _, err := Find(p, Dirs{}); !errors.As(err, &missing) {
			t.Errorf("Find(%v): %v, want a MissingError", p, err)
		}
	}
}

// Of the host's handlers only those count that match the machine, are enabled
// and work without the emulator's file in the container.
func TestHostHandlers(t *testing.T) {
	const entry = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n" +
		"magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	arm64, _ := machineOf("arm64")
	riscv, _ := machineOf("riscv64")
	for name, test := range map[string]struct {
		entry string
		m     machine
		want  bool
	}{
		"matches":      {entry, arm64, true},
		"other":        {entry, riscv, false},
		"disabled":     {strings.Replace(entry, "enabled", "disabled", 1), arm64, false},
		"needs a file": {strings.Replace(entry, "OCF", "OC", 1), arm64, false},
		"no magic":     {"enabled\nextension py\nflags: F\n", arm64, false},
		"odd mask":     {strings.Replace(entry, "mask ff", "mask ", 1), arm64, false},
		"empty":        {"", arm64, false},
	} {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "status"), []byte("enabled\n"), 0o644)
		os.WriteFile(filepath.Join(dir, "h"), []byte(test.entry), 0o644)
		if got := hostHandles(dir, test.m); got != test.want {
			t.Errorf("%s: hostHandles = %v, want %v", name, got, test.want)
		}
	}
}

// A registration matches its own machine's programs, executable or
// position-independent, of either byte order, and no other machine's.
func TestRegistrationMatches(t *testing.T) {
	archs := []string{"386", "amd64", "arm", "arm64", "loong64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x"}
	for _, a := range archs {
		m, _ := machineOf(a)
		for _, b := range archs {
			other, _ := machineOf(b)
			h := other.header()
			h[7] = 3               // GNU
			h[16+other.data-1] = 3 // position-independent
			same := true
			for i, mask := range m.mask() {
				same = same && (h[i]^m.header()[i])&mask == 0
			}
			if same != (a == b) {
				t.Errorf("registration of %s matches %s: %v", a, b, same)
			}
		}
	}
}

// No entry makes the parser fail otherwise than by saying no.
func FuzzHandles(f *testing.F) {
	f.Add("enabled\nflags: F\noffset 0\nmagic 7f454c46\nmask ffff\n")
	m, _ := machineOf("arm64")
	f.Fuzz(func(t *testing.T, entry string) { handles(entry, m.header()) })
}

// Damaged ELF files are refused.
func FuzzStatic(f *testing.F) {
	f.Add(make([]byte, 120))
	f.Fuzz(func(t *testing.T, b []byte) {
		if static(bytes.NewReader(b)) == nil && !bytes.HasPrefix(b, []byte("\x7fELF")) {
			t.Error("accepted a file that is not ELF")
		}
	})
}
