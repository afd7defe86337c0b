//go:build linux

package runner

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The test binary is re-executed as the container's first process: package
// child takes over before TestMain, so nothing is needed here.

// needRoot skips a test that makes containers.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making containers needs root")
	}
}

// busybox makes a root directory with a static busybox and its applets.
func busybox(t testing.TB) string {
	t.Helper()
	needRoot(t)
	const path = "/bin/busybox"
	if _, err := os.Stat(path); err != nil {
		t.Skip("needs a static busybox: apt-get install busybox-static")
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp", "etc", "root", "usr/bin"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, "--install", "-s", filepath.Join(dir, "bin")).CombinedOutput(); err != nil {
		t.Fatalf("busybox --install: %v: %s", err, out)
	}
	links, _ := filepath.Glob(filepath.Join(dir, "bin/*"))
	for _, l := range links {
		if filepath.Base(l) != "busybox" {
			os.Remove(l)
			os.Symlink("busybox", l)
		}
	}
	return dir
}

// minimal returns a spec with the given command, and no restrictions.
func minimal(args ...string) *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Process:  &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}},
		Hostname: "box",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"}, {Type: "cgroup"},
		}},
	}
}

// over returns a writable tree on top of layers.
func over(t testing.TB, lower ...string) Tree {
	t.Helper()
	return Tree{Lower: lower, Upper: t.TempDir(), Work: t.TempDir()}
}

// output runs a container that must end with code 0 and returns what it
// printed.
func output(t testing.TB, c Container) string {
	t.Helper()
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	status, err := Run(context.Background(), c)
	if err != nil {
		t.Fatalf("Run: %v; output: %s", err, &b)
	}
	if status.Code != 0 {
		t.Fatalf("code %d; output: %s", status.Code, &b)
	}
	return strings.TrimSpace(b.String())
}
