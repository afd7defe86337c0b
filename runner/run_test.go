//go:build linux

package runner

import (
	"bytes"
	"context"
	"testing"

	"bk.build/bk/runner/spec"
)

// step returns the specification of an ordinary step.
func step(t testing.TB, args ...string) spec.Options {
	t.Helper()
	return spec.Options{Args: args, Env: []string{"PATH=/bin"}, Network: spec.NetworkHost}
}

// container returns a container of a step on a busybox root.
func container(t testing.TB, o spec.Options) Container {
	t.Helper()
	s, err := spec.Default(o)
	if err != nil {
		t.Fatal(err)
	}
	return Container{Spec: s, Root: over(t, busybox(t))}
}

// A command's output arrives and its root is the container's.
func TestRun(t *testing.T) {
	c := container(t, step(t, "sh", "-c", "echo $$; hostname; pwd; id; ls /; ls -lR /dev; ls /sys/fs/cgroup; cat /proc/mounts; cat /proc/self/status; ps; env"))
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	st, err := Run(context.Background(), c)
	t.Log(st, err, b.String())
}
