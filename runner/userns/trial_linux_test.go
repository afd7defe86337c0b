package userns

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// needNamespaces skips a test where no user namespace can be made.
func needNamespaces(t *testing.T) {
	t.Helper()
	if err := NewTrial(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS).Private().Run(nil); err != nil {
		t.Skipf("user namespaces cannot be made here: %v", err)
	}
}

// A trial tells which call was refused and why, and nothing when all went well.
func TestTrial(t *testing.T) {
	needNamespaces(t)
	m := Single(os.Geteuid(), os.Getegid())
	trial := func() *Trial { return NewTrial(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS) }
	if err := trial().Private().Mount("tmpfs", "/", "").Run(&m); err != nil {
		t.Errorf("mount a tmpfs: %v", err)
	}
	err := trial().Private().Mount("tmpfs", "/nowhere", "").Call("never reached", ^uintptr(0)).Run(&m)
	var f *Failure
	if !errors.As(err, &f) || f.Op != "mount tmpfs" || f.Errno != syscall.ENOENT {
		t.Errorf("mount on what isn't there: %v", err)
	}
	tr := trial()
	err = tr.Keep("open", syscall.SYS_OPENAT, ^uintptr(99), tr.String("/"), 0, 0).
		With("list", syscall.SYS_FCHDIR).With("write", syscall.SYS_FTRUNCATE, 0).Run(&m)
	if !errors.As(err, &f) || f.Op != "write" || f.Errno != syscall.EINVAL {
		t.Errorf("truncate a directory: %v", err)
	}
}

// Trials leave neither processes nor descriptors.
func TestTrialLeavesNothing(t *testing.T) {
	needNamespaces(t)
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := count()
	for range 20 {
		_ = NewTrial(syscall.CLONE_NEWUSER).Run(nil)
		_ = NewTrial(syscall.CLONE_NEWUSER).Call("nothing", ^uintptr(0)).Run(nil)
		m := Mapping{UIDs: []Extent{{0, 0, 0}}}
		if NewTrial(syscall.CLONE_NEWUSER).Run(&m) == nil {
			t.Fatal("an empty extent was accepted")
		}
	}
	if n := count(); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
	if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("wait for a child: %v, want none", err)
	}
}
