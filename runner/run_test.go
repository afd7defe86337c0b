//go:build linux

package runner

import "testing"

// A command's output arrives and its root is the container's.
func TestRun(t *testing.T) {
	root := busybox(t)
	got := output(t, Container{Spec: minimal("sh", "-c", "echo $$; hostname; pwd; ls /; ls -l /dev; cat /proc/mounts"), Root: over(t, root)})
	t.Log(got)
}

