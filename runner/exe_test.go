//go:build linux

package runner

import (
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
