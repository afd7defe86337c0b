//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ociSite is a runtime with a directory of its own, and a bundle of busybox.
type ociSite struct {
	*site
	top, program, bundle string
}

func newOCISite(t *testing.T) *ociSite {
	t.Helper()
	needContainers(t)
	base(t, "busybox")
	bk, err := exec.LookPath("bk")
	if err != nil {
		t.Fatal(err)
	}
	s := &ociSite{site: newSite(t, ""), top: t.TempDir()}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.program, s.bundle = filepath.Join(s.top, "bk-runtime"), filepath.Join(s.top, "bundle")
	if err := os.Symlink(bk, s.program); err != nil {
		t.Fatal(err)
	}
	s.must("runtime", "spec", "--bundle", s.bundle, "oci:"+filepath.Join(repository(t), ".cache", "bases", "busybox"))
	return s
}

// process changes the process of the bundle's configuration.
func (s *ociSite) process(change func(p map[string]any)) {
	s.t.Helper()
	s.config(func(c map[string]any) { change(c["process"].(map[string]any)) })
}

// config changes the bundle's configuration.
func (s *ociSite) config(change func(c map[string]any)) {
	s.t.Helper()
	name := filepath.Join(s.bundle, "config.json")
	b, err := os.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(b, &config); err != nil {
		s.t.Fatal(err)
	}
	change(config)
	if b, err = json.Marshal(config); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// shell makes a shell script the bundle's process.
func (s *ociSite) shell(script string) {
	s.process(func(p map[string]any) { p["args"] = []string{"sh", "-c", script} })
}

// ociCommand is the runtime, ready to start.
func (s *ociSite) ociCommand(args ...string) *exec.Cmd {
	return exec.Command(s.program, append([]string{"--root", filepath.Join(s.top, "state")}, args...)...)
}

// wants runs the runtime, which must end with a code; the output is returned.
func (s *ociSite) wants(code int, args ...string) string {
	s.t.Helper()
	return wants(s.t, code, s.ociCommand(args...))
}

// wants runs a command that must end with a code, and returns its output. The
// output goes to files: what lives on must not keep the test waiting.
func wants(t *testing.T, code int, cmd *exec.Cmd) string {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(t.TempDir(), "out")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // the code tells
	if !stuck.Stop() {
		t.Errorf("%v hangs", cmd.Args)
	}
	stdout, _ := os.ReadFile(files[0].Name())
	stderr, _ := os.ReadFile(files[1].Name())
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%v: exit code %d, want %d\n%s%s", cmd.Args, got, code, stdout, stderr)
	}
	return string(stdout) + string(stderr)
}

// has fails the test when a text lacks another.
func has(t *testing.T, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("%q is not in:\n%s", part, text)
	}
}

// status returns what "state" says of a container.
func (s *ociSite) status(id string) string {
	s.t.Helper()
	var state struct{ Status string }
	if err := json.Unmarshal([]byte(s.wants(0, "state", id)), &state); err != nil {
		s.t.Fatal(err)
	}
	return state.Status
}

// until waits for a container's status.
func (s *ociSite) until(id, status string) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); s.status(id) != status; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("container %s is %s, want %s", id, s.status(id), status)
		}
	}
}

// A container goes through the states of the specification, and what a state
// does not allow is refused.
func TestRuntimeLifecycle(t *testing.T) {
	s := newOCISite(t)
	s.shell("exec sleep 1000")
	s.wants(0, "create", "--bundle", s.bundle, "bk-life")
	t.Cleanup(func() { s.wants(0, "delete", "--force", "bk-life") })
	if got := s.status("bk-life"); got != "created" {
		t.Errorf("state is %q, want created", got)
	}
	has(t, s.wants(1, "create", "--bundle", s.bundle, "bk-life"), "exist")
	s.wants(0, "start", "bk-life")
	s.until("bk-life", "running")
	has(t, s.wants(1, "start", "bk-life"), "running")
	has(t, s.wants(1, "delete", "bk-life"), "running")
	has(t, s.wants(0, "list"), "bk-life")
	has(t, s.wants(0, "ps", "bk-life"), "sleep")
	has(t, s.wants(5, "exec", "bk-life", "sh", "-c", "echo inside; exit 5"), "inside")

	s.wants(0, "pause", "bk-life")
	s.until("bk-life", "paused")
	s.wants(0, "resume", "bk-life")
	s.until("bk-life", "running")
	s.wants(0, "update", "--pids-limit", "77", "bk-life")
	has(t, s.wants(0, "events", "--stats", "bk-life"), `"limit":77`)

	s.wants(0, "kill", "bk-life", "KILL")
	s.until("bk-life", "stopped")
	s.wants(1, "kill", "bk-life", "TERM")
	s.wants(255, "exec", "bk-life", "true")
	s.wants(0, "delete", "bk-life")
	s.wants(1, "state", "bk-life")
	s.wants(1, "delete", "bk-life")
}

// An id is one name: it cannot lead out of the runtime's directory.
func TestRuntimeIDs(t *testing.T) {
	s := newOCISite(t)
	for _, id := range []string{"..", "../x", "a/b", "."} {
		s.wants(1, "create", "--bundle", s.bundle, id)
		s.wants(1, "delete", "--force", id)
	}
	if _, err := os.Stat(s.program); err != nil {
		t.Error(err)
	}
}

// The exit code of the container's process is that of run, which leaves nothing.
func TestRuntimeRun(t *testing.T) {
	s := newOCISite(t)
	s.shell("echo out; exit 6")
	has(t, s.wants(6, "run", "--bundle", s.bundle, "bk-run"), "out")
	s.wants(1, "state", "bk-run")
	s.process(func(p map[string]any) { p["args"] = []string{"/no/such/command"} })
	has(t, s.wants(1, "run", "--bundle", s.bundle, "bk-run"), "/no/such/command")
	s.wants(1, "state", "bk-run")
}

// The master of a container's terminal comes by the console socket.
func TestRuntimeConsoleSocket(t *testing.T) {
	s := newOCISite(t)
	s.process(func(p map[string]any) {
		p["terminal"], p["args"] = true, []string{"sh", "-c", "tty; stty size"}
		p["consoleSize"] = map[string]any{"height": 33, "width": 99}
	})
	s.wants(1, "create", "--bundle", s.bundle, "--console-socket", s.path("none"), "bk-tty")
	dir, err := os.MkdirTemp("", "bk-tty") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/sock", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s.wants(0, "create", "--bundle", s.bundle, "--console-socket", dir+"/sock", "bk-tty")
	t.Cleanup(func() { s.wants(0, "delete", "--force", "bk-tty") })
	conn, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	control := make([]byte, syscall.CmsgSpace(4))
	if _, _, _, _, err := conn.ReadMsgUnix(make([]byte, 4096), control); err != nil {
		t.Fatal(err)
	}
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages: %v", len(messages), err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors: %v", len(fds), err)
	}
	master := os.NewFile(uintptr(fds[0]), "master")
	defer master.Close()
	s.wants(0, "start", "bk-tty")
	text, _ := io.ReadAll(master) // it ends with an error: EIO
	if got, want := string(text), "/dev/pts/0\r\n33 99\r\n"; got != want {
		t.Errorf("the terminal shows %q, want %q", got, want)
	}
	s.until("bk-tty", "stopped")
}

// A create that is killed half-way leaves a container that "delete --force"
// removes with all its processes and its control group.
func TestRuntimeCreateKilled(t *testing.T) {
	s := newOCISite(t)
	told := filepath.Join(s.top, "told")
	s.config(func(c map[string]any) {
		script := "cat >" + told + ".new; echo $$ >" + told + ".pid; mv " + told + ".new " + told + "; exec sleep 1000"
		c["hooks"] = map[string]any{"createRuntime": []any{map[string]any{"path": "/bin/sh", "args": []string{"sh", "-c", script}}}}
	})
	create := s.ociCommand("create", "--bundle", s.bundle, "bk-killed")
	if err := create.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(told); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the hook was not run")
		}
	}
	if got := s.status("bk-killed"); got != "creating" {
		t.Errorf("state is %q, want creating", got)
	}
	var record struct{ Groups map[string]string }
	var state struct{ Pid int }
	var hook int
	for name, v := range map[string]any{filepath.Join(s.top, "state", "bk-killed", "state.json"): &record, told: &state, told + ".pid": &hook} {
		b, err := os.ReadFile(name)
		if err == nil {
			err = json.Unmarshal(b, v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = create.Process.Kill()
	_ = create.Wait() // by the signal
	_ = syscall.Kill(hook, syscall.SIGKILL)
	s.wants(0, "delete", "--force", "bk-killed")
	// One that has ended and that nobody waits for has no memory.
	if maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", state.Pid)); err == nil && len(maps) > 0 {
		t.Errorf("process %d of the container lives", state.Pid)
	}
	for _, dir := range record.Groups {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("control group %s is there", dir)
		}
	}
	if len(record.Groups) == 0 {
		t.Error("no control group was recorded")
	}
}

// podman returns podman with a storage of its own, and the runtime under test.
func (s *ociSite) podman(args ...string) *exec.Cmd {
	cmd := exec.Command("podman", append([]string{
		"--cgroup-manager=cgroupfs", "--root", s.path("podman"), "--runroot", s.path("podman-run"),
		"--storage-driver=vfs", "--runtime", s.program, "--log-level=error",
	}, args...)...)
	cmd.Dir = s.top // conmon leaves a file there when memory runs out
	return cmd
}

// podmanRun is "podman run" with the bundle's root. A machine may not raise
// limits, so they are what nobody has to raise.
func (s *ociSite) podmanRun(flags []string, command ...string) *exec.Cmd {
	args := append([]string{"run", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, flags...)
	return s.podman(append(append(args, "--rootfs", filepath.Join(s.bundle, "rootfs")), command...)...)
}

// podman takes bk for its runtime: what people do with containers works.
func TestRuntimePodman(t *testing.T) {
	need(t, "podman", "conmon")
	s := newOCISite(t)
	t.Cleanup(func() { wants(t, 0, s.podman("rm", "--force", "--all", "--time", "0")) })
	has(t, wants(t, 7, s.podmanRun([]string{"--rm", "--network=none"}, "sh", "-c", "id; exit 7")), "uid=0(root)")
	has(t, wants(t, 0, s.podmanRun([]string{"--rm", "--network=host", "-t"}, "tty")), "/dev/pts/0")
	has(t, wants(t, 0, s.podmanRun([]string{"--rm", "--network=none", "--read-only"}, "sh", "-c", "touch /x || echo refused")), "refused")

	wants(t, 0, s.podmanRun([]string{"-d", "--name=one", "--network=none"}, "sh", "-c", "echo hello; exec sleep 1000"))
	has(t, wants(t, 0, s.podmanRun([]string{"--rm", "--network=none", "--memory=64m"}, "sh", "-c",
		"cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; true")), "67108864\n")
	wants(t, 137, s.podmanRun([]string{"--rm", "--network=none", "--memory=64m", "--memory-swap=64m"}, "tail", "/dev/zero"))
	has(t, wants(t, 3, s.podman("exec", "one", "sh", "-c", "ps; exit 3")), "sleep 1000")
	has(t, wants(t, 0, s.podman("logs", "one")), "hello")
	has(t, wants(t, 0, s.podman("stats", "--no-stream", "one")), "one")
	wants(t, 0, s.podman("pause", "one"))
	has(t, wants(t, 0, s.podman("ps", "--all")), "Paused")
	wants(t, 0, s.podman("unpause", "one"))
	wants(t, 0, s.podman("kill", "one"))
	has(t, wants(t, 0, s.podman("wait", "one")), "137")
	wants(t, 0, s.podman("rm", "one"))
}

// containerd takes bk for its runtime, with the shim that it has for runc.
func TestRuntimeContainerd(t *testing.T) {
	need(t, "containerd", "ctr", "containerd-shim-runc-v2")
	s := newOCISite(t)
	ctr := s.containerd()
	// What ctr configures, run by the runtime under test.
	run := func(flags ...string) *exec.Cmd {
		args := append([]string{"run", "--runtime=io.containerd.runc.v2", "--runc-binary=" + s.program}, flags...)
		return ctr(args...)
	}
	rootfs := filepath.Join(s.bundle, "rootfs")
	has(t, wants(t, 5, run("--rm", "--rootfs", rootfs, "one", "sh", "-c", "id; exit 5")), "uid=0(root)")
	wants(t, 0, run("--detach", "--rootfs", rootfs, "two", "sleep", "1000"))
	has(t, wants(t, 4, ctr("task", "exec", "--exec-id=x", "two", "sh", "-c", "ps; exit 4")), "sleep 1000")
	wants(t, 0, ctr("task", "pause", "two"))
	has(t, wants(t, 0, ctr("task", "ls")), "PAUSED")
	wants(t, 0, ctr("task", "resume", "two"))
	has(t, wants(t, 0, ctr("task", "metrics", "two")), "memory.usage_in_bytes")
	wants(t, 0, ctr("task", "kill", "--signal=KILL", "two"))
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(wants(t, 0, ctr("task", "ls")), "STOPPED"); {
		if time.Now().After(deadline) {
			t.Fatal("the container doesn't stop")
		}
		time.Sleep(50 * time.Millisecond)
	}
	wants(t, 0, ctr("task", "delete", "two"))
	wants(t, 0, ctr("container", "rm", "two"))
}

// containerd starts one and returns its client.
func (s *ociSite) containerd() func(args ...string) *exec.Cmd {
	s.t.Helper()
	// The path of a socket is short.
	dir, err := os.MkdirTemp("", "bk-cd")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	config := `version = 2
root = "` + dir + `/root"
state = "` + dir + `/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "` + dir + `/sock"
`
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o644); err != nil {
		s.t.Fatal(err)
	}
	daemon := exec.Command("containerd", "-c", filepath.Join(dir, "config.toml"))
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait() // by a signal
	})
	ctr := func(args ...string) *exec.Cmd {
		return exec.Command("ctr", append([]string{"--address", dir + "/sock"}, args...)...)
	}
	for deadline := time.Now().Add(30 * time.Second); ctr("version").Run() != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("containerd does not answer")
		}
	}
	return ctr
}
