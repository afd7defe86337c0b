//go:build linux && (amd64 || arm64)

package trace

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// raceMarker makes the test binary the step of TestRace; its value is the path
// of a file outside.
const raceMarker = "_BK_TRACE_TEST_RACE"

// A step whose thread rewrites the paths after the tracer has resolved them
// still can't open files outside: Landlock refuses.
func TestRace(t *testing.T) {
	if landlockVersion() < 2 {
		t.Skip("the kernel has no Landlock of version 2")
	}
	root := busybox(t)
	secret := filepath.Join(dir(t), "secret")
	if err := os.WriteFile(secret, []byte("outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Dir(secret), 0o755)
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "bin/race"), data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, root, "")
	o.Paths, o.Argv = []string{"/bin/race"}, []string{"race"}
	o.Env = []string{raceMarker + "=" + secret}
	out := output(t, o)
	t.Log(out)
	if strings.HasPrefix(out, "refused 0 ") {
		t.Error("the race was never won: the test proves nothing")
	}
}

// raceMain opens a file of the root again and again while a thread writes the
// path of one outside into all memory that may be the tracer's.
func raceMain(secret string) int {
	if f, err := os.Open(secret); err == nil {
		f.Close()
		fmt.Println("the file outside can be opened without a race")
		return 1
	}
	runtime.LockOSThread() // whose memory for paths is attacked
	memory := scratchMemory()
	if memory == nil {
		fmt.Println("the tracer's memory isn't found")
		return 1
	}
	go func() {
		path := append([]byte(secret), 0)
		for {
			copy(memory, path)
		}
	}()
	won, lost := 0, 0
	buf := make([]byte, 64)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		n, err := syscall.Open("/etc/passwd", syscall.O_RDONLY, 0)
		if err == syscall.EACCES {
			won++
		}
		if err != nil {
			continue
		}
		lost++
		size, _ := syscall.Read(n, buf)
		syscall.Close(n)
		if bytes.Contains(buf[:max(size, 0)], []byte("outside")) {
			fmt.Println("read the file outside")
			return 1
		}
	}
	fmt.Printf("refused %d opened %d\n", won, lost)
	return 0
}

// scratchMemory finds the memory in which the tracer put a path: that of the
// file which is read here.
func scratchMemory() []byte {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		var from, to uintptr
		if _, err := fmt.Sscanf(line, "%x-%x rw-p 00000000 00:00 0", &from, &to); err != nil || to-from < scratchSize || to-from > 1<<20 {
			continue
		}
		for p := from; p < to; p += pageSize {
			page := unsafe.Slice(*(**byte)(unsafe.Pointer(&p)), pageSize)
			if cutNUL(page) == "/proc/"+strconv.Itoa(os.Getpid())+"/maps" {
				return page
			}
		}
	}
	return nil
}
