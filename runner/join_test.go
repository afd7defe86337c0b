//go:build linux

package runner

import (
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container in the user namespace of another is created and then started like
// any other: it waits at its gate, its last hooks run before it does, and
// killing it before leaves nothing.
func TestJoinUsers(t *testing.T) {
	s, root := detachable(t, shell("sleep 1000"))
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 200000, Size: 1000}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: 200000, Size: 1000}}
	owned(t, root, 200000)
	holder, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(holder.Pid, unix.SIGKILL)
		_, _ = holder.Wait()
	})
	users := fmt.Sprintf("/proc/%d/ns/user", holder.Pid)
	inode, err := os.Readlink(users)
	if err != nil {
		t.Fatal(err)
	}
	s2, root2 := detachable(t, shell("readlink /proc/self/ns/user; id -u; cat /hooked"))
	owned(t, root2, 200000)
	s2.Linux.Namespaces = append(s2.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: users})
	if _, err := Create(t.Context(), Container{Spec: s2}, Detached{Rootfs: root2}); err == nil {
		t.Fatal("the first process of a pid namespace is in a user namespace that was there before")
	}
	s2.Linux.Namespaces[0].Path = fmt.Sprintf("/proc/%d/ns/pid", holder.Pid)
	s2.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo hook > /hooked"}, Env: []string{"PATH=/bin"}}}}
	out, read := captured(t)
	fifo, open := gate(t)
	d := Detached{Rootfs: root2, Stdio: [3]*os.File{nil, out, out}, Gate: fifo}
	c, err := Create(t.Context(), Container{Spec: s2}, d)
	if err != nil {
		t.Fatal(err)
	}
	open()
	if err := c.Started(s2); err != nil {
		t.Error(err)
	}
	status, err := c.Wait()
	if got := strings.Join(strings.Fields(read()), " "); err != nil || status.Code != 0 || got != inode+" 0 hook" {
		t.Errorf("%+v, %v; output %q", status, err, got)
	}

	d.Stdio = [3]*os.File{}
	c, err = Create(t.Context(), Container{Spec: s2}, d)
	if err != nil {
		t.Fatal(err)
	}
	if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.Pid)); err != nil || ns == own(t, "pid") {
		t.Fatalf("process %d is of the pid namespace %q, %v", c.Pid, ns, err)
	}
	if err := unix.Kill(c.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(); err != nil || status.Signal != int(unix.SIGKILL) { // it waits for both processes
		t.Errorf("%+v, %v", status, err)
	}
}

// owned gives a tree to a user.
func owned(t *testing.T, root string, id int) {
	t.Helper()
	err := os.Chown(root, id, id)
	if err == nil {
		err = os.Chmod(root, 0o755)
	}
	for dir := root; err == nil && dir != "/" && dir != os.TempDir(); dir = dir[:strings.LastIndexByte(dir, '/')] {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// own names one of this process's namespaces.
func own(t *testing.T, kind string) string {
	t.Helper()
	inode, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return inode
}
