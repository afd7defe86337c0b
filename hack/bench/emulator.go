//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// An emulator is a handler for arm64 programs in the host's binfmt_misc, which
// builders other than bk need. It is registered while they run and no longer;
// if we are killed it goes with our mount of binfmt_misc.
type emulator struct{ dir string }

const (
	handler  = "bk-bench-aarch64"
	qemu     = "/usr/bin/qemu-aarch64-static"
	elfARM64 = `\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00`
	elfMask  = `\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`
)

// registerEmulator makes the kernel run arm64 programs. It refuses when the host
// has a handler already: then bk would not be measured without one.
func registerEmulator(work string) (*emulator, error) {
	if _, err := os.Stat(qemu); err != nil {
		return nil, fmt.Errorf("no emulator: %w (install qemu-user-static)", err)
	}
	dir := filepath.Join(work, "binfmt")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := syscall.Mount("binfmt_misc", dir, "binfmt_misc", 0, ""); err != nil {
		return nil, fmt.Errorf("mount binfmt_misc: %w", err)
	}
	e := &emulator{dir}
	if e.taken() {
		e.unmount()
		return nil, errors.New("the host has a handler for arm64 already: unregister it to measure emulation")
	}
	rule := ":" + handler + ":M::" + elfARM64 + ":" + elfMask + ":" + qemu + ":FPOC"
	if err := os.WriteFile(filepath.Join(dir, "register"), []byte(rule), 0); err != nil {
		e.unmount()
		return nil, fmt.Errorf("register %s: %w", qemu, err)
	}
	return e, nil
}

// taken says whether any handler runs arm64 programs.
func (e *emulator) taken() bool {
	rules, _ := filepath.Glob(filepath.Join(e.dir, "*"))
	for _, r := range rules {
		data, err := os.ReadFile(r)
		if err == nil && strings.Contains(string(data), "aarch64") {
			return true
		}
	}
	return false
}

// unregister takes the handler away. It may be called again.
func (e *emulator) unregister() {
	if e == nil || e.dir == "" {
		return
	}
	_ = os.WriteFile(filepath.Join(e.dir, handler), []byte("-1"), 0)
	e.unmount()
	e.dir = ""
}

func (e *emulator) unmount() {
	_ = syscall.Unmount(e.dir, syscall.MNT_DETACH)
}
