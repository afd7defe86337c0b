//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/cgroup"
)

// needControllers skips a test where limits cannot be applied.
func needControllers(t testing.TB, names ...string) {
	t.Helper()
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	usable, why := host.Usable()
	for _, n := range names {
		if !slices.Contains(usable, n) {
			t.Skipf("the controller %s cannot be used: %v", n, why)
		}
	}
}

// groupsOf lists the control groups that are named after a process of bk.
func groupsOf(pid int) (list []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "bk-") && strings.Contains(d.Name(), fmt.Sprintf("-%d-", pid)) {
			list = append(list, path)
		}
		return nil
	})
	return list
}

const limitSteps = `
-- Dockerfile --
FROM busybox AS hog
RUN x=xxxxxxxx; while :; do x=$x$x; done

FROM busybox AS survivor
RUN (x=xxxxxxxx; while :; do x=$x$x; done); echo went on > /out

FROM busybox AS filler
RUN dd if=/dev/zero of=/dev/shm/big bs=1M count=60

FROM busybox AS bomb
RUN f() { f | f & }; f; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.1; done

FROM busybox AS show
RUN mkdir /out; cd /sys/fs/cgroup; for d in . memory cpu cpuset pids; do \
	for f in memory.limit_in_bytes memory.max memory.memsw.limit_in_bytes cpu.shares cpu.cfs_quota_us cpu.cfs_period_us cpu.max cpu.weight pids.max cpuset.cpus cpuset.mems; do \
	if [ -e $d/$f ]; then cat $d/$f > /out/$f; fi; done; done; \
	grep -h _allowed_list: /proc/self/status > /out/allowed; ulimit -n > /out/files; ulimit -Hn >> /out/files; df -k /dev/shm | tail -n 1 > /out/shm; \
	cat /proc/self/cgroup > /out/groups
FROM scratch AS shown
COPY --from=show /out /

FROM busybox AS left
RUN grep -H . /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes > /left || true
FROM busybox AS right
RUN grep -H . /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes > /right || true
FROM scratch AS both
COPY --from=left /left /
COPY --from=right /right /
`

// A step that runs out of its memory fails and says so, and is run again.
func TestStepRunsOutOfMemory(t *testing.T) {
	needContainers(t)
	needControllers(t, "memory")
	s := newSite(t, limitSteps)
	for range 2 {
		o := s.run("build", ".", base(t, "busybox"), "--target=hog", "-m", "32m", "--memory-swap", "32m")
		if o.code != 1 || !strings.Contains(o.stderr, "exit code: 137: the step ran out of its memory limit of 32 MiB") {
			t.Fatalf("exit code %d:\n%s", o.code, o.stderr)
		}
		if !strings.Contains(o.stderr, ">>> RUN x=xxxxxxxx") {
			t.Errorf("the step isn't shown:\n%s", o.stderr)
		}
	}
	// A step that goes on without what was killed has a result, of this build.
	for range 2 {
		o := s.run("build", ".", base(t, "busybox"), "--target=survivor", "--memory=32m", "--resource=memory-swap=32m", "--progress=plain")
		if o.code != 0 || !strings.Contains(o.stderr, "ran out of the memory limit of 32 MiB") || strings.Contains(o.stderr, "done); echo went on > /out\n#5 CACHED") {
			t.Fatalf("exit code %d:\n%s", o.code, o.stderr)
		}
	}
	// Memory that is no process's own can cost the container its first one.
	o := s.run("build", ".", base(t, "busybox"), "--target=filler", "--memory=32m", "--memory-swap=32m")
	if o.code != 1 || !strings.Contains(o.stderr, "the step ran out of its memory limit of 32 MiB") {
		t.Fatalf("exit code %d:\n%s", o.code, o.stderr)
	}
}

// A bomb of forks is stopped.
func TestStepForks(t *testing.T) {
	needContainers(t)
	needControllers(t, "pids")
	s := newSite(t, limitSteps)
	o := s.run("build", ".", base(t, "busybox"), "--target=bomb", "--pids-limit=40")
	if !strings.Contains(o.logs, "can't fork") {
		t.Errorf("exit code %d: %s\n%s", o.code, o.logs, o.stderr)
	}
}

// What the flags ask for is what a step sees; it isn't part of what the step
// is remembered by.
func TestStepLimits(t *testing.T) {
	needContainers(t)
	needControllers(t, "memory", "cpu", "cpuset", "pids")
	s := newSite(t, limitSteps)
	parent := fmt.Sprintf("bk-parent-%d/deep", os.Getpid())
	t.Cleanup(func() {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Dir(parent))
		for _, dir := range append(dirs, "/sys/fs/cgroup/"+filepath.Dir(parent)) {
			_ = os.Remove(filepath.Join(dir, "deep"))
			_ = os.Remove(dir)
		}
	})
	flags := []string{
		"--memory=100m", "--memory-swap=100m", "-c", "512", "--cpus=0.5", "--cpuset-cpus=0", "--cpuset-mems=0", "--pids-limit=99",
		"--cgroup-parent=" + parent, "--ulimit=nofile=100:200", "--shm-size=3m",
	}
	s.build(append(flags, base(t, "busybox"), "--target=shown", "-o", "../out")...)
	shown := func(names ...string) string {
		for _, n := range names {
			if text, err := os.ReadFile(s.path("out/" + n)); err == nil {
				return strings.Join(strings.Fields(string(text)), " ")
			}
		}
		return ""
	}
	for _, tt := range []struct {
		files []string
		want  []string
	}{
		{[]string{"memory.limit_in_bytes", "memory.max"}, []string{"104857600"}},
		{[]string{"cpu.cfs_quota_us", "cpu.max"}, []string{"50000", "50000 100000"}},
		{[]string{"cpu.shares", "cpu.weight"}, []string{"512", "59"}},
		{[]string{"pids.max"}, []string{"99"}},
		{[]string{"files"}, []string{"100 200"}},
	} {
		if got := shown(tt.files...); !slices.Contains(tt.want, got) {
			t.Errorf("%v: %q, want one of %q", tt.files, got, tt.want)
		}
	}
	if got := shown("allowed"); got != "Cpus_allowed_list: 0 Mems_allowed_list: 0" {
		t.Errorf("allowed: %q", got)
	}
	if got := shown("shm"); !strings.Contains(got, " 3072 ") {
		t.Errorf("/dev/shm: %q", got)
	}
	if got := shown("groups"); strings.Contains(got, "bk-") {
		t.Errorf("the step sees where its group is: %q", got)
	}
	if o := s.build(base(t, "busybox"), "--target=shown", "--ulimit=nofile=100:200", "--shm-size=3m"); len(o.executed()) > 0 {
		t.Errorf("without the limits: executed %q", o.executed())
	}
	if o := s.build(base(t, "busybox"), "--target=shown", "--resource=memory=200m", "--ulimit=nofile=100:200", "--shm-size=3m"); len(o.executed()) > 0 {
		t.Errorf("with other limits: executed %q", o.executed())
	}
}

// A limit is a step's own, also when another runs beside it, and every group
// goes with the build.
func TestParallelLimits(t *testing.T) {
	needContainers(t)
	needControllers(t, "memory")
	s := newSite(t, limitSteps)
	b := s.start("build", ".", base(t, "busybox"), "--target=both", "-m", "50m", "-o", "../out")
	if err := b.Wait(); err != nil {
		t.Fatalf("%v: %s", err, b.output())
	}
	for _, name := range []string{"left", "right"} {
		if got := s.read("out/" + name); !strings.Contains(got, ":52428800\n") {
			t.Errorf("%s: %q", name, got)
		}
	}
	if left := groupsOf(b.Process.Pid); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A limit that can't be applied fails the build, which says which and why,
// unless it is to do its best.
func TestLimitsBestEffort(t *testing.T) {
	needContainers(t)
	needControllers(t, "cpuset")
	s := newSite(t, limitSteps)
	flags := []string{"build", ".", base(t, "busybox"), "--target=left", "--cpuset-cpus=0-4000"}
	o := s.run(flags...)
	if o.code != 1 || !strings.Contains(o.stderr, "limit cpu.cpus=0-4000: ") || !strings.Contains(o.stderr, "with --limits=best-effort") {
		t.Errorf("exit code %d: %s", o.code, o.stderr)
	}
	o = s.run(append(flags, "--limits=best-effort", "--progress=plain")...)
	if o.code != 0 || !strings.Contains(o.stderr, "runs without a limit: limit cpu.cpus=0-4000") {
		t.Errorf("best effort: exit code %d: %s", o.code, o.stderr)
	}
}

// A limit above this process's own says so.
func TestRaiseUlimit(t *testing.T) {
	needContainers(t)
	var now unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &now); err != nil {
		t.Fatal(err)
	}
	limit := fmt.Sprintf("--ulimit=nofile=%d", now.Max+1)
	s := newSite(t, limitSteps)
	o := s.run("build", ".", base(t, "busybox"), "--target=show", limit)
	if o.code == 0 {
		t.Skip("this process may raise limits")
	}
	if want := fmt.Sprintf("is above this process's own, %d", now.Max); !strings.Contains(o.stderr, want) {
		t.Errorf("exit code %d: %s; want %q", o.code, o.stderr, want)
	}
	if o = s.run("build", ".", base(t, "busybox"), "--target=shown", limit, "--limits=best-effort", "-o", "../out"); o.code != 0 {
		t.Fatalf("best effort: exit code %d: %s", o.code, o.stderr)
	}
	if got, want := s.read("out/files"), fmt.Sprintf("%d\n%[1]d\n", now.Max); got != want {
		t.Errorf("files: %q, want %q", got, want)
	}
}

// A step can't open the machine's devices, though it can make nodes for them.
func TestDevicesOfTheMachine(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox
RUN mknod /null c 1 3 && echo x > /null
RUN mknod /dev/kmsg c 1 11 && if (: < /dev/kmsg); then echo opened; exit 1; fi
RUN --mount=type=cache,target=/c mknod /c/kmsg c 1 11 && if (: < /c/kmsg); then echo opened; exit 1; fi
`)
	s.build(base(t, "busybox"))
}

// What a bk that was killed left is removed by the next.
func TestKillLeavesGroups(t *testing.T) {
	needContainers(t)
	needControllers(t, "memory")
	s := newSite(t, interrupted)
	mark := marker()
	flags := []string{"-m", "100m", base(t, "busybox")}
	b := s.start(append([]string{"build", ".", "--target=sleeper", "--build-arg=MARK=" + mark}, flags...)...)
	eventually(t, "the step", func() bool { return sleepers(mark) >= 3 })
	if len(groupsOf(b.Process.Pid)) == 0 {
		t.Fatal("there are no groups")
	}
	b.stop(syscall.SIGKILL)
	s.checkGone(b, mark)
	s.build(append(flags, "--target=good")...)
	if left := groupsOf(b.Process.Pid); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// An ordinary user has limits in a group that was delegated, and is told what
// to do without one.
func TestRootlessLimits(t *testing.T) {
	a := newAccount(t, true)
	needControllers(t, "memory", "pids")
	need(t, "setpriv")
	s := a.site(t, limitSteps, "busybox")
	args := []string{"build", ".", "--build-context=busybox=oci-layout://" + s.path("busybox"), "--target=shown", "-m", "100m", "--pids-limit=99", "-o", "../out"}
	o := s.run(args...)
	if o.code != 1 || !strings.Contains(o.stderr, "limit memory.limit=104857600: ") || !strings.Contains(o.stderr, "delegated") {
		t.Errorf("not delegated: exit code %d: %s", o.code, o.stderr)
	}
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	g, err := host.Create(fmt.Sprintf("/bk-test-delegated-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(), g.Delete()); err != nil {
			t.Error(err)
		}
	})
	script := ""
	for _, dir := range g.Paths() {
		for _, file := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
			_ = os.Chown(filepath.Join(dir, file), a.uid, a.gid) // the last is of version 2
		}
		script += "echo $$ > " + dir + "/cgroup.procs; "
	}
	user := s.command(args...)
	script += fmt.Sprintf(`exec setpriv --reuid %d --regid %d --clear-groups "$@"`, a.uid, a.gid)
	cmd := command("sh", append([]string{"-c", script, "sh", user.Path}, user.Args[1:]...)...)
	cmd.Dir, cmd.Env = user.Dir, user.Env
	if o := wait(t, cmd); o.code != 0 {
		t.Fatalf("delegated: exit code %d: %s\n%s", o.code, o.stderr, o.logs)
	}
	if got := s.read("out/pids.max"); got != "99\n" {
		t.Errorf("pids.max: %q", got)
	}
	for _, dir := range g.Paths() {
		if left, _ := filepath.Glob(dir + "/bk-*"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}
