//go:build linux

package runner

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// asking returns a profile that asks an agent about mkdir.
func asking() *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: "/agent", ListenerMetadata: `some "data"`,
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}},
	}
}

// agent receives a filter's notifications and the state that comes with them,
// and answers the first with an error number.
func agent(t *testing.T, socket *os.File, errno int32) (told chan specs.ContainerProcessState) {
	t.Helper()
	told = make(chan specs.ContainerProcessState, 1)
	go func() {
		defer close(told)
		var state specs.ContainerProcessState
		data, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
		raw, err := socket.SyscallConn()
		if err != nil {
			return
		}
		var n, oob int
		var errRecv error
		err = raw.Read(func(fd uintptr) bool {
			n, oob, _, _, errRecv = unix.Recvmsg(int(fd), data, control, 0)
			return errRecv != unix.EAGAIN
		})
		if err != nil || errRecv != nil || json.Unmarshal(data[:n], &state) != nil {
			return
		}
		messages, err := unix.ParseSocketControlMessage(control[:oob])
		if err != nil || len(messages) != 1 {
			return
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			return
		}
		defer unix.Close(fds[0])
		told <- state
		answer(fds[0], errno)
	}()
	return told
}

// answer takes one notification and fails its system call.
func answer(fd int, errno int32) {
	const receive, send = 0xc0502100, 0xc0182101
	var call struct {
		id         uint64
		pid, flags uint32
		data       [64]byte
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), receive, uintptr(unsafe.Pointer(&call))); e != 0 {
		return
	}
	response := struct {
		id, value    uint64
		errno, flags int32
	}{id: call.id, errno: -errno}
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), send, uintptr(unsafe.Pointer(&response)))
}

// A seccomp agent gets the descriptor of the filter's notifications with the
// process's state, of the first process and of one that joins, and its answer is
// what the system call returns.
func TestListener(t *testing.T) {
	s, root := detachable(t, shell("mkdir /x 2>&1; exec sleep 1000 >/dev/null 2>&1"))
	s.Linux.Seccomp, s.Process.NoNewPrivileges = asking(), true
	state := func(pid int, status specs.ContainerState) []byte {
		b, _ := json.Marshal(specs.State{ID: "c1", Status: status, Pid: pid})
		return b
	}
	check := func(told chan specs.ContainerProcessState, pid int, id string) {
		t.Helper()
		got := <-told
		if got.Pid != pid || got.Metadata != `some "data"` || len(got.Fds) != 1 || got.Fds[0] != specs.SeccompFdName || got.State.ID != id || got.Version == "" {
			t.Errorf("process %d: state %+v", pid, got)
		}
	}
	pair, err := unixSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer pair[0].Close()
	out, read := captured(t)
	told := agent(t, pair[0], int32(unix.EXDEV))
	d := Detached{Rootfs: root, Stdio: [3]*os.File{nil, out, out}, Listener: pair[1], State: state}
	c, err := Create(t.Context(), Container{Spec: s}, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(c.Pid, unix.SIGKILL)
		_, _ = c.Wait()
	})
	check(told, c.Pid, "c1")

	p := *s.Process
	p.Args = []string{"sh", "-c", "mkdir /y 2>&1"}
	pair2, err := unixSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer pair2[0].Close()
	out2, read2 := captured(t)
	told2 := agent(t, pair2[0], int32(unix.ENOSPC))
	e, err := Exec(t.Context(), c.Pid, s, &p, Detached{Stdio: [3]*os.File{nil, out2, out2}, Listener: pair2[1], State: state})
	if err != nil {
		t.Fatal(err)
	}
	check(told2, e.Pid, "c1")
	if _, err := e.Wait(); err != nil {
		t.Error(err)
	}
	if got := read2(); !strings.Contains(got, "No space left") {
		t.Errorf("the agent said ENOSPC, the process %q", got)
	}
	if got := read(); !strings.Contains(got, "ross-device") { // musl and glibc differ in the first letter
		t.Errorf("the agent said EXDEV, the process %q", got)
	}
}

// Nobody would answer: such a container would hang.
func TestListenerIsNeeded(t *testing.T) {
	s, root := detachable(t, step("true"))
	s.Linux.Seccomp = asking()
	if _, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root}); err == nil {
		t.Error("a filter with notifications was taken without a socket")
	}
	c := container(t, step("true"))
	c.Spec.Linux.Seccomp = asking()
	if _, _, err := try(t, c); err == nil {
		t.Error("a step's filter has notifications")
	}
}

// Inherited descriptors begin at 3, and what goes wrong afterwards is still
// told to the runner and not written to one of them.
func TestInherit(t *testing.T) {
	s, root := detachable(t, shell("cat <&3; cat <&4; cat <&5; ls /proc/self/fd"))
	var files []*os.File
	for i := range 3 {
		name := fmt.Sprintf("%s/%d", t.TempDir(), i)
		if err := os.WriteFile(name, []byte(fmt.Sprintf("file%d ", i)), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	out, read := captured(t)
	fifo, open := gate(t)
	d := Detached{Rootfs: root, Stdio: [3]*os.File{nil, out, out}, Inherit: files, Gate: fifo}
	c, err := Create(t.Context(), Container{Spec: s}, d)
	if err != nil {
		t.Fatal(err)
	}
	open()
	if _, err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(strings.Fields(read()), " "); got != "file0 file1 file2 0 1 2 3 4 5 6" { // 6 is the directory
		t.Errorf("output %q", got)
	}

	bad, root := detachable(t, step("/bad"))
	if err := os.WriteFile(root+"/bad", []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err = Create(t.Context(), Container{Spec: bad}, Detached{Rootfs: root, Inherit: files})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Started(bad); err == nil {
		t.Error("a file that is no program was executed")
	}
	if _, err := c.Wait(); err != nil {
		t.Error(err)
	}
}
