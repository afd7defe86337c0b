//go:build linux

package pods_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bk.build/bk/hack/pods"
)

// A pod allows what its namesake of a cluster allows, and no more: tests that
// build in it prove nothing otherwise.
func TestKinds(t *testing.T) {
	const script = `
id -u
chroot / true 2>/dev/null && echo chroot
unshare -U true 2>/dev/null && echo unshare -U
unshare -m true 2>/dev/null && echo unshare -m
unshare -Ur true 2>/dev/null && echo unshare -Ur
unshare -Urm mount -t tmpfs none /tmp 2>/dev/null && echo mount in a user namespace
mknod /tmp/null c 1 3 2>/dev/null && echo mknod
chown 1:1 /tmp/null 2>/dev/null && echo chown
touch /data/file && echo volume
cat /ro/file
awk '{print $1, $2, $3}' /proc/self/uid_map
awk '/NoNewPrivs|^Seccomp:/{print $2}' /proc/self/status`
	for _, tt := range []struct {
		kind pods.Kind
		want string
	}{
		{pods.Default, "0 chroot mknod chown volume read 0 0 4294967295 0 2"},
		{pods.Unconfined, "0 chroot unshare -U unshare -Ur mount in a user namespace mknod chown volume read 0 0 4294967295 0 0"},
		{pods.Restricted, "1000 volume read 0 0 4294967295 1 2"},
		{pods.HostUsers, "0 chroot volume read 0 300000 65536 0 2"},
		{pods.Podman, "0 chroot unshare -U unshare -Ur mount in a user namespace volume read 0 300000 65536 0 2"},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			out := run(t, pods.Pod{Kind: tt.kind, Args: []string{"sh", "-c", script}})
			if got := strings.Join(strings.Fields(out), " "); got != tt.want {
				t.Errorf("the pod says\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// Killing the command leaves no process and no mount of the pod.
func TestKill(t *testing.T) {
	if err := pods.Needs(pods.Default); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	pod := pods.Pod{Kind: pods.Default, Root: image(t), Args: []string{"sh", "-c", "echo started; sleep 28147"}}
	cmd, err := pod.Command(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 8)); n != 8 || err != nil {
		t.Fatalf("read the pod's first line: %d bytes, %v", n, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Errorf("the mount of the pod is still there")
	}
	if err := exec.Command("pgrep", "-f", "sleep 28147").Run(); err == nil {
		t.Error("the process of the pod is still there")
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(name string, _ fs.DirEntry, _ error) error {
		if strings.HasPrefix(filepath.Base(name), "bk-pod-TestKill") {
			os.Remove(name)
		}
		return nil
	})
}

func image(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("busybox-static is not installed")
	}
	root := filepath.Join(t.TempDir(), "image")
	if err := pods.Image(root); err != nil {
		t.Fatal(err)
	}
	return root
}

// run runs a pod with a volume and a read-only directory and returns what it
// prints.
func run(t *testing.T, pod pods.Pod) string {
	t.Helper()
	if err := pods.Needs(pod.Kind); err != nil {
		t.Skip(err)
	}
	pod.Root = image(t)
	ro := t.TempDir()
	if err := os.WriteFile(filepath.Join(ro, "file"), []byte("read\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chmod(ro, 0o755)
	pod.Volumes, pod.ReadOnly = map[string]string{"/data": t.TempDir()}, map[string]string{"/ro": ro}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd, err := pod.Command(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("pod: %v\n%s%s", err, out.String(), errs.String())
	}
	return out.String()
}
