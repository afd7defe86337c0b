//go:build linux

package runner

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// The program is found whatever numbers the descriptors of the streams have:
// the Go runtime moves some to the next free numbers before it executes.
func TestDescriptorNumbers(t *testing.T) {
	for n := 10; n < 24; n++ {
		c := container(t, shell("exit 0"))
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		high, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, n)
		null.Close()
		if err != nil {
			t.Fatal(err)
		}
		stdin := os.NewFile(uintptr(high), "stdin")
		c.Stdin = stdin
		if out, status, err := try(t, c); err != nil || status.Code != 0 {
			t.Errorf("with standard input as %d: %+v, %v; %s", high, status, err, out)
		}
		stdin.Close()
	}
}

// The executable is found by its name too, for who entered a mount namespace in
// which /proc/self/exe is of another's mount.
func TestExecutableByName(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cloning a mount needs root")
	}
	n, err := cloneByName()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(n)
	var own, named unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/self/exe", &own), unix.Fstat(n, &named)); err != nil || own.Ino != named.Ino {
		t.Errorf("inode %d, want %d: %v", named.Ino, own.Ino, err)
	}
}
