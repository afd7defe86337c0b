//go:build linux

package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/cgroup"
	"bk.build/bk/runner/spec"
)

func ptr[T any](v T) *T { return &v }

// needControllers skips a test where this process may not use them.
func needControllers(t testing.TB, names ...string) {
	t.Helper()
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	usable, why := host.Usable()
	for _, n := range names {
		if !strings.Contains(" "+strings.Join(usable, " ")+" ", " "+n+" ") {
			t.Skipf("the controller %s cannot be used: %v", n, why)
		}
	}
}

// leftGroups lists groups that this process made and that are still there.
func leftGroups(t testing.TB) (left []string) {
	t.Helper()
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(d.Name(), fmt.Sprintf("-%d-", os.Getpid())) && strings.HasPrefix(d.Name(), "bk-") {
			left = append(left, path)
		}
		return nil
	})
	return left
}

// limit gives a container resources.
func limit(c Container, r specs.LinuxResources) Container {
	r.Devices = c.Spec.Linux.Resources.Devices
	c.Spec.Linux.Resources = &r
	return c
}

// Memory that runs out ends the process and is told; where there's no
// limit it isn't.
func TestMemoryLimit(t *testing.T) {
	needControllers(t, "memory")
	c := limit(container(t, shell("x=xxxxxxxx; while :; do x=$x$x; done")), specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(24 << 20)), Swap: ptr(int64(24 << 20))},
	})
	out, status, err := try(t, c)
	if err != nil || !status.OOM || status.Code != 137 {
		t.Errorf("Run = %+v, %v: %s; want a kill because memory ran out", status, err, out)
	}
	if _, status, err = try(t, container(t, shell("kill -9 $$"))); err != nil || status.OOM {
		t.Errorf("Run = %+v, %v; want a kill for another reason", status, err)
	}
	if left := leftGroups(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A bomb of forks is stopped, and the container sees its own group as the
// root of all.
func TestPidsLimit(t *testing.T) {
	needControllers(t, "pids", "cpuset")
	c := limit(container(t, shell(`grep Cpus_allowed_list: /proc/self/status
grep -c -v ':/$' /proc/self/cgroup
f() { f | f & }; f; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.1; done`)), specs.LinuxResources{
		Pids: &specs.LinuxPids{Limit: ptr(int64(30))}, CPU: &specs.LinuxCPU{Cpus: "0"},
	})
	out, status, err := try(t, c)
	if err != nil || !strings.HasPrefix(out, "Cpus_allowed_list:\t0\n0\n") || !strings.Contains(out, "can't fork") {
		t.Errorf("Run = %+v, %v: %q, want a bomb that is stopped", status, err, out)
	}
	if left := leftGroups(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A limit that can't be applied stops the container before it starts, unless
// it is excused.
func TestLimitNotApplied(t *testing.T) {
	bad := specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}, Unified: map[string]string{"no/../such": "1"}}
	c := limit(container(t, shell("echo ran")), bad)
	out, _, err := try(t, c)
	var limit *cgroup.LimitError
	if !errors.As(err, &limit) || out != "" || !strings.Contains(err.Error(), "cpu.cpus=4000") || !strings.Contains(err.Error(), "no/../such") {
		t.Errorf("Run = %v, output %q; want errors of both limits", err, out)
	}
	c.Root = over(t, shared.root)
	var excused []string
	c.Excuse = func(err error) { excused = append(excused, err.Error()) }
	if out, _, err = try(t, c); err != nil || out != "ran" || len(excused) != 2 {
		t.Errorf("Run = %v, output %q; excused %q, want both", err, out, excused)
	}
	if left := leftGroups(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// The group that a spec names by its path is made there and is gone at the
// end, with what the container made below it.
func TestCgroupsPath(t *testing.T) {
	needControllers(t, "pids")
	path := fmt.Sprintf("/bk-test-%d/podman_parent/libpod-abc", os.Getpid())
	c := limit(container(t, shell("cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null; true")), specs.LinuxResources{
		Pids: &specs.LinuxPids{Limit: ptr(int64(77))},
	})
	c.Spec.Linux.CgroupsPath = path
	if out := output(t, c); out != "77" {
		t.Errorf("pids.max in the container: %q", out)
	}
	for _, dir := range []string{"", "pids", "unified"} {
		parent := filepath.Join("/sys/fs/cgroup", dir, filepath.Dir(path))
		if _, err := os.Stat(filepath.Join(parent, "libpod-abc")); err == nil {
			t.Errorf("%s/libpod-abc is still there", parent)
		}
	}
	all, _ := filepath.Glob("/sys/fs/cgroup/*/bk-test-" + fmt.Sprint(os.Getpid()))
	for _, dir := range append(all, "/sys/fs/cgroup/bk-test-"+fmt.Sprint(os.Getpid())) {
		os.Remove(filepath.Join(dir, "podman_parent"))
		os.Remove(dir)
	}
	c.Spec.Linux.CgroupsPath = "/a/../../b"
	if _, err := Run(t.Context(), c); err == nil {
		t.Error("Run took a path with ..")
	}
}

// A step may make nodes for the machine's devices and can't open them: whether
// a cgroup says so, or, where none can be made, the mounts do.
func TestForeignDevices(t *testing.T) {
	const script = `echo x > /dev/null && head -c 1 /dev/zero > /dev/full 2>/dev/null || echo first
for dir in / /dev /tmp /mnt; do
	%s mknod $dir/kmsg c 1 11
	(: < $dir/kmsg) 2>/dev/null && echo opened in $dir
done; echo done`
	for name, tt := range map[string]struct {
		hidden bool
		script string
	}{
		"by a cgroup": {false, fmt.Sprintf(script, "")},
		"by mounts":   {true, fmt.Sprintf(script, "!")},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mknod(filepath.Join(dir, "kmsg"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))); err != nil {
				t.Skip(err)
			}
			o := shell(tt.script)
			o.Mounts = []specs.Mount{{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind"}}}
			c := container(t, o, layer(t, map[string]string{"mnt/": ""}))
			c.hideCgroups = tt.hidden
			out, status, err := try(t, c)
			if err != nil || !strings.HasSuffix(out, "done") || strings.Contains(out, "opened") {
				t.Errorf("Run = %+v, %v: %s", status, err, out)
			}
		})
	}
	all := spec.Options{Args: []string{"sh", "-c", "mknod /kmsg c 1 11 && : < /kmsg"}, Env: []string{"PATH=/bin"}, Network: spec.NetworkHost, Insecure: true}
	if out, status, err := try(t, container(t, all)); err != nil || status.Code != 0 {
		t.Errorf("with all rights: Run = %+v, %v: %s", status, err, out)
	}
}

// Containers that only have device rules share a group for as long as their
// caller wants.
func TestSharedCgroup(t *testing.T) {
	needRoot(t)
	own := new(cgroup.Own)
	for range 2 {
		c := container(t, shell("true"))
		c.Cgroups = own
		output(t, c)
		if left := leftGroups(t); len(left) != 1 {
			t.Fatalf("groups: %v, want one", left)
		}
	}
	if err := own.Close(); err != nil {
		t.Error(err)
	}
	if left := leftGroups(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Limits hold for steps without namespaces too, and what they left is killed.
func TestChrootLimits(t *testing.T) {
	needControllers(t, "memory", "pids")
	o := shell("sleep 1000 & x=xxxxxxxx; while :; do x=$x$x; done")
	o.Resources = specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(24 << 20)), Swap: ptr(int64(24 << 20))}}
	out, status, err := try(t, jail(t, o))
	if err != nil || !status.OOM || status.Code != 137 {
		t.Errorf("Run = %+v, %v: %s; want a kill because memory ran out", status, err, out)
	}
	if left := leftGroups(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
