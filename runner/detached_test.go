//go:build linux

package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/spec"
)

// detachable returns a specification and a root directory that a container may
// write to.
func detachable(t *testing.T, o spec.Options) (*specs.Spec, string) {
	t.Helper()
	needRoot(t)
	s, err := spec.Default(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Linux.Resources = nil
	root := filepath.Join(t.TempDir(), "rootfs")
	if err := os.CopyFS(root, os.DirFS(shared.root)); err != nil {
		t.Fatal(err)
	}
	return s, root
}

// gate makes a FIFO, and a function that opens it.
func gate(t *testing.T) (*os.File, func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gate")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, func() {
		w, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := w.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
}

// captured is a pipe for standard output, and what came out of it.
func captured(t *testing.T) (*os.File, func() string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return w, func() string {
		w.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
}

// A created container waits at its gate, and then is its command: the process
// that Create made, PID 1 of its namespace.
func TestCreate(t *testing.T) {
	s, root := detachable(t, shell("echo $$ $(cat /proc/1/comm) $(hostname)"))
	out, read := captured(t)
	fifo, open := gate(t)
	c, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root, Stdio: [3]*os.File{nil, out, out}, Gate: fifo})
	if err != nil {
		t.Fatal(err)
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.Pid))
	if err != nil || strings.TrimSpace(string(comm)) == "sh" {
		t.Errorf("before the start it is %s, %v", comm, err)
	}
	open()
	if err := c.Started(s); err != nil {
		t.Fatal(err)
	}
	status, err := c.Wait()
	if got := read(); err != nil || status.Code != 0 || got != "1 sh buildkitsandbox" {
		t.Errorf("%+v, %v; output %q", status, err, got)
	}
}

// A command that isn't there is told when the container is created, and nothing
// is left.
func TestCreateWithoutCommand(t *testing.T) {
	s, root := detachable(t, step("no-such-command"))
	_, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root})
	if e := new(ExecError); !errors.As(err, &e) || e.Code != 127 {
		t.Errorf("error %v", err)
	}
}

// Exec puts a process into all namespaces of a container, with rights of its
// own, and a directory that is inside.
func TestExec(t *testing.T) {
	s, root := detachable(t, shell("sleep 1000"))
	c, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(c.Pid, unix.SIGKILL)
		_, _ = c.Wait()
	})
	p := *s.Process
	p.Args = []string{"sh", "-c", "id -u; pwd; readlink /proc/$$/ns/pid | wc -l; ls /proc | grep -c '^1$'; ls /proc/self/fd | wc -l; grep CapEff /proc/self/status | cut -f2"}
	p.User, p.Cwd = specs.User{UID: 1000, GID: 1000}, "/tmp"
	p.Capabilities = &specs.LinuxCapabilities{}
	out, read := captured(t)
	e, err := Exec(t.Context(), c.Pid, s, &p, Detached{Stdio: [3]*os.File{nil, out, out}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Started(s); err != nil {
		t.Fatal(err)
	}
	status, err := e.Wait()
	if got := strings.Fields(read()); err != nil || status.Code != 0 || strings.Join(got, " ") != "1000 /tmp 1 1 4 0000000000000000" {
		t.Errorf("%+v, %v; output %q", status, err, got)
	}
	p.Cwd = "/proc/self/fd/7"
	if _, err := Exec(t.Context(), c.Pid, s, &p, Detached{}); err == nil {
		t.Error("a descriptor was a working directory")
	}
}

// A terminal is made in the container; its master goes to the console socket.
func TestConsole(t *testing.T) {
	s, root := detachable(t, shell("tty; stty size; test -c /dev/console && echo console; echo err >&2; read x; echo got $x"))
	s.Process.Terminal = true
	s.Process.ConsoleSize = &specs.Box{Height: 33, Width: 99}
	pair, err := unixSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer pair[0].Close()
	c, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root, ConsoleSocket: pair[1]})
	if err != nil {
		t.Fatal(err)
	}
	pair[1].Close()
	master := receiveFile(t, pair[0])
	defer master.Close()
	if _, err := master.WriteString("input\n"); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(master) // ends with EIO when the other end is closed
	if status, err := c.Wait(); err != nil || status.Code != 0 {
		t.Errorf("%+v, %v", status, err)
	}
	for _, want := range []string{"/dev/pts/0", "33 99", "console", "err", "got input"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in %q", want, b)
		}
	}
}

// receiveFile takes a descriptor from a socket.
func receiveFile(t *testing.T, from *os.File) *os.File {
	t.Helper()
	oob, name := make([]byte, unix.CmsgSpace(4)), make([]byte, 256)
	raw, err := from.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	errRead := raw.Read(func(fd uintptr) bool {
		_, n, _, _, err = unix.Recvmsg(int(fd), name, oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(err, unix.EAGAIN)
	})
	if err := errors.Join(errRead, err); err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "received")
}

// Hooks run at their points, with the state on their standard input; one that
// fails or takes too long stops the container.
func TestHooks(t *testing.T) {
	s, root := detachable(t, shell("cat /from-start; ls /mnt"))
	if err := os.Mkdir(filepath.Join(root, "mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	s.Hooks = &specs.Hooks{
		CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `read s; echo "create $s $X" >> ` + log + `; mount -t tmpfs none ` + root + `/mnt && touch ` + root + `/mnt/made`}, Env: []string{"X=y", "PATH=/bin:/usr/bin:/sbin"}}},
		StartContainer:  []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `read s; echo "start $s" > /from-start`}, Env: []string{"PATH=/bin"}}},
	}
	var order []string
	d := Detached{
		Rootfs:     root,
		Namespaces: func(int) error { order = append(order, "namespaces"); return nil },
		Mounted:    func(int) error { order = append(order, "mounted"); return nil },
		State: func(_ int, status specs.ContainerState) []byte {
			return []byte(`{"status":"` + string(status) + `"}` + "\n")
		},
	}
	out, read := captured(t)
	d.Stdio = [3]*os.File{nil, out, out}
	c, err := Create(t.Context(), Container{Spec: s}, d)
	if err != nil {
		t.Fatal(err)
	}
	status, err := c.Wait()
	if got := read(); err != nil || status.Code != 0 || got != "start {\"status\":\"created\"}\nmade" {
		t.Errorf("%+v, %v; output %q", status, err, got)
	}
	text, _ := os.ReadFile(log)
	if string(text) != "create {\"status\":\"creating\"} y\n" || strings.Join(order, " ") != "namespaces mounted" {
		t.Errorf("log %q, order %v", text, order)
	}
	seconds := 1
	for want, hook := range map[string]specs.Hook{
		"it ended with code 7":      {Path: "/bin/sh", Args: []string{"sh", "-c", "exit 7"}},
		"it takes longer than 1 s":  {Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &seconds},
		"no such file or directory": {Path: "/no/such/hook"},
		"it was ended by signal 9":  {Path: "/bin/sh", Args: []string{"sh", "-c", "kill -9 $$"}},
	} {
		s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{hook}}
		if _, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// A container in a user namespace has the owners that its maps say, of its files
// too when the mount is mapped.
func TestUserNamespace(t *testing.T) {
	s, root := detachable(t, shell("id -u; cat /proc/self/uid_map | tr -s ' '; stat -c %u /mapped/f /etc; touch /dev/null; ls -l /dev/null | cut -c1; true"))
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(root); dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil && dir != "/tmp" {
			t.Fatal(err)
		}
		if dir == "/tmp" {
			_ = os.Chmod(dir, 0o1777)
		}
	}
	if err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 100000, 100000))
	}); err != nil {
		t.Fatal(err)
	}
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	s.Linux.UIDMappings, s.Linux.GIDMappings = maps, maps
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "mapped", Type: "bind", Source: outside, Options: []string{"bind", "idmap"}})
	out, read := captured(t)
	c, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root, Stdio: [3]*os.File{nil, out, out}})
	if err != nil {
		t.Fatal(err)
	}
	status, err := c.Wait()
	if got := strings.Join(strings.Fields(read()), " "); err != nil || status.Code != 0 || !strings.HasPrefix(got, "0 0 100000 65536 0 0 c") {
		t.Errorf("%+v, %v; output %q", status, err, got)
	}
}

// Namespaces are joined by path, and only those that they are called; Run joins
// them too.
func TestJoin(t *testing.T) {
	s, root := detachable(t, shell("sleep 1000"))
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	holder, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(holder.Pid, unix.SIGKILL)
		_, _ = holder.Wait()
	})
	path := func(name string) string { return fmt.Sprintf("/proc/%d/ns/%s", holder.Pid, name) }
	inode, err := os.Readlink(path("net"))
	if err != nil {
		t.Fatal(err)
	}
	c := container(t, shell("readlink /proc/self/ns/net"))
	c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path("net")})
	want(t, c, inode)

	s2, root2 := detachable(t, shell("for n in net ipc uts; do readlink /proc/self/ns/$n; done; grep -c sleep /proc/1/cmdline; echo $$"))
	s2.Hostname = ""
	s2.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: path("net")}, {Type: specs.IPCNamespace, Path: path("ipc")},
		{Type: specs.UTSNamespace, Path: path("uts")}, {Type: specs.PIDNamespace, Path: path("pid")},
	}
	out, read := captured(t)
	joined, err := Create(t.Context(), Container{Spec: s2}, Detached{Rootfs: root2, Stdio: [3]*os.File{nil, out, out}})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := joined.Wait(); err != nil || status.Code != 0 {
		t.Errorf("%+v, %v", status, err)
	}
	ipc, _ := os.Readlink(path("ipc"))
	uts, _ := os.Readlink(path("uts"))
	if got := strings.Fields(read()); len(got) != 5 || got[0] != inode || got[1] != ipc || got[2] != uts || got[3] != "1" || got[4] == "1" {
		t.Errorf("output %q", got)
	}
	for _, bad := range []string{"/etc/passwd", path("uts"), "/no/such/namespace"} {
		s2.Linux.Namespaces[1].Path = bad
		if _, err := Create(t.Context(), Container{Spec: s2}, Detached{Rootfs: root2}); err == nil {
			t.Errorf("%s was joined as a network", bad)
		}
	}
}

// What the specification says of scheduling, memory and limits is so in the
// process.
func TestProcessAttributes(t *testing.T) {
	s, root := detachable(t, shell("uname -m; cut -d' ' -f19,41 /proc/self/stat; ionice -p $$ | sed 's/: /-/'; cat /proc/self/timens_offsets | head -1 | tr -s ' '; taskset -p $$ | sed 's/.*: //'; ls /copied /proc/self/fd/3; mount | grep -c 'on /tmp type tmpfs (ro'"))
	s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 86400}}
	s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
	s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
	s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "0"}
	if err := os.MkdirAll(filepath.Join(root, "copied", "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/copied", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}},
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/tmp", Options: []string{"remount", "ro"}},
		specs.Mount{Destination: "/bound", Type: "bind", Source: t.TempDir(), Options: []string{"bind", "mode=755"}}, // has no effect
	)
	inherited, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	out, read := captured(t)
	c, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root, Stdio: [3]*os.File{nil, out, out}, Inherit: []*os.File{inherited}})
	if err != nil {
		t.Fatal(err)
	}
	status, err := c.Wait()
	got := strings.Join(strings.Fields(read()), " ")
	if err != nil || status.Code != 0 || got != "i686 5 3 best-effort-prio 6 monotonic 86400 0 1 /proc/self/fd/3 /copied: d 1" {
		t.Errorf("%+v, %v; output %q", status, err, got)
	}
}

// The context ends a container that is not created yet.
func TestCreateCancelled(t *testing.T) {
	s, root := detachable(t, shell("true"))
	seconds := 100
	s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &seconds}}}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Create(ctx, Container{Spec: s}, Detached{Rootfs: root}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}
