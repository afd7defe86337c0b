package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// needHost returns the machine's control groups, or skips a test where this
// process may not make any.
func needHost(t testing.TB) *Host {
	t.Helper()
	h, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	usable, why := h.Usable()
	if len(usable) == 0 {
		t.Skip("no controller of control groups can be used: ", why)
	}
	return h
}

// needs skips a test where the machine lacks a controller.
func (h *Host) needs(t testing.TB, controllers ...string) {
	t.Helper()
	usable, why := h.Usable()
	for _, c := range controllers {
		if !slices.Contains(usable, c) {
			t.Skipf("the controller %s cannot be used: %v", c, why)
		}
	}
}

// scratch makes a group that is gone when the test ends.
func scratch(t testing.TB, h *Host) *Group {
	t.Helper()
	g, err := h.Create("/bk-test-" + strconv.Itoa(os.Getpid()) + "-" + strings.ReplaceAll(t.Name(), "/", "-"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(), g.Delete()); err != nil {
			t.Error(err)
		}
		for _, dir := range g.Paths() {
			if exists(dir) {
				t.Errorf("%s is still there", dir)
			}
		}
	})
	return g
}

// in starts a shell in a group: it waits for a line on its input first.
func in(t testing.TB, g *Group, script string) (cmd *exec.Cmd, output func() string) {
	t.Helper()
	cmd = exec.Command("sh", "-c", "read x; "+script)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if err := g.AddProcess(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	stdin.Write([]byte("\n"))
	stdin.Close()
	return cmd, b.String
}

// Limits are in force for the processes of a group, and visible in it.
func TestLimitsHold(t *testing.T) {
	h := needHost(t)
	h.needs(t, "memory", "pids", "cpuset")
	g := scratch(t, h)
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(8))},
		CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "0"},
	}
	if err := g.Apply(r); err != nil {
		t.Fatal(err)
	}
	cmd, output := in(t, g, `grep Cpus_allowed_list /proc/self/status
i=0; while [ $i -lt 30 ]; do i=$((i+1)); sleep 5 & done 2>&1 | head -n 1; exit 0`)
	cmd.Wait()
	if out := output(); !strings.Contains(out, "Cpus_allowed_list:\t0\n") || !strings.Contains(strings.ToLower(out), "fork") {
		t.Errorf("in the group: %s", out)
	}
	cmd, output = in(t, g, "x=xxxxxxxx; while :; do x=$x$x; done")
	err := cmd.Wait()
	if kills, errKills := g.OOMKills(); kills == 0 || errKills != nil {
		t.Errorf("OOMKills = %d, %v after a command that ended with %v: %s", kills, errKills, err, output())
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.CPU.Usage.Total == 0 || s.Memory.Usage.Limit != 32<<20 || s.Memory.Usage.Max == 0 || s.Pids.Limit != 8 {
		t.Errorf("Stats = %+v", s)
	}
}

// A frozen process stands still, and goes on after it was thawed.
func TestFreeze(t *testing.T) {
	g := scratch(t, needHost(t))
	dir := t.TempDir()
	tick := filepath.Join(dir, "tick")
	in(t, g, "while :; do echo x >> "+tick+"; done")
	size := func() int64 {
		info, err := os.Stat(tick)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	grows := func() { // or the test ends by its timeout
		for before := size(); size() == before; {
		}
	}
	grows()
	if err := g.Freeze(); err != nil {
		t.Fatal(err)
	}
	before := size()
	if frozen, err := g.Frozen(); !frozen || err != nil {
		t.Errorf("Frozen = %v, %v", frozen, err)
	}
	exec.Command("sleep", "0.05").Run()
	if size() != before {
		t.Error("a frozen process wrote to a file")
	}
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); frozen || err != nil {
		t.Errorf("Frozen = %v, %v after Thaw", frozen, err)
	}
	grows()
}

// Kill ends all processes, also frozen ones, those that ignore signals, and
// those that fork all the time.
func TestKill(t *testing.T) {
	for name, atOnce := range map[string]bool{"cgroup.kill": true, "one by one": false} {
		t.Run(name, func(t *testing.T) {
			h := needHost(t)
			if !atOnce {
				h.write = func(file, value string) error {
					if filepath.Base(file) == "cgroup.kill" {
						return os.ErrNotExist
					}
					return writeFile(file, value)
				}
			}
			g := scratch(t, h)
			cmd, _ := in(t, g, `trap "" TERM INT HUP; for i in 1 2 3; do (while :; do sleep 0.001 & wait; done) & done; setsid sleep 1000 & wait`)
			for {
				if pids, err := g.Procs(); err != nil {
					t.Fatal(err)
				} else if len(pids) >= 4 {
					break
				}
			}
			if err := g.Freeze(); err != nil {
				t.Fatal(err)
			}
			if err := g.Kill(); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if pids, err := g.Procs(); len(pids) > 0 || err != nil {
				t.Errorf("Procs = %v, %v after Kill", pids, err)
			}
		})
	}
}

// A group is found again by its paths, and deleted with what is below it.
func TestOpenAndDelete(t *testing.T) {
	h := needHost(t)
	g := scratch(t, h)
	again, err := h.Open(g.Paths())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range again.Paths() {
		if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // what is gone is no error
		if err := again.Delete(); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.Open(map[string]string{"": "/etc", "memory": "/etc"}); err == nil {
		t.Error("Open took a directory that is no group")
	}
}

// A process is born in a group of version 2, and device programs hold for it:
// also after they were replaced.
func TestDeviceProgram(t *testing.T) {
	h := needHost(t)
	unified := h.unified()
	if unified == nil {
		t.Skip("there is no hierarchy of version 2")
	}
	g, err := h.create(func(t *hierarchy) string { return filepath.Join(t.mount, "bk-test-devices") }, []*hierarchy{unified}, []string{})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(), g.Delete()); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	run := func(script string) error {
		fd, err := g.FD()
		if err != nil {
			t.Fatal(err)
		}
		defer fd.Close()
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd())}
		return cmd.Run()
	}
	attach := func(rules []specs.LinuxDeviceCgroup, devices ...specs.LinuxDevice) {
		t.Helper()
		p, err := newPolicy(rules, devices)
		if err == nil {
			err = attachDevices(g.v2(), p.program())
		}
		if errors.Is(err, syscall.EPERM) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	none := []specs.LinuxDeviceCgroup{{Access: "rwm"}}
	const kmsg = "head -c 0 /dev/kmsg"
	for _, tt := range []struct {
		name    string
		rules   []specs.LinuxDeviceCgroup
		devices []specs.LinuxDevice
		script  string
		ok      bool
	}{
		{"a default device", none, nil, "echo x > /dev/null && head -c 1 /dev/zero", true},
		{"another one", none, nil, kmsg, false},
		{"any node may be made", none, nil, "rm -f k && mknod k c 1 11", true},
		{"and is of no use", none, nil, "rm -f k && mknod k c 1 11 && head -c 0 k", false},
		{"a device of the container", none, []specs.LinuxDevice{{Type: "c", Major: 1, Minor: 11}}, kmsg, true},
		{"a rule", append(none, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "r"}), nil, kmsg, true},
		{"a rule for less", append(none, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "w"}), nil, kmsg, false},
		{"a rule for many", append(none, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Access: "r"}), nil, kmsg, true},
		{"all", []specs.LinuxDeviceCgroup{{Allow: true}}, nil, kmsg, true},
		{"all but one", []specs.LinuxDeviceCgroup{{Allow: true}, {Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "r"}}, nil, kmsg, false},
		{"all but another use", []specs.LinuxDeviceCgroup{{Allow: true}, {Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "m"}}, nil, kmsg, true},
	} {
		attach(tt.rules, tt.devices...)
		if err := run(tt.script); (err == nil) != tt.ok {
			t.Errorf("%s: %q: %v, want success: %v", tt.name, tt.script, err, tt.ok)
		}
		f, err := os.Open(g.v2())
		if err != nil {
			t.Fatal(err)
		}
		progs, err := deviceProgs(int(f.Fd()))
		if err != nil || len(progs) != 1 {
			t.Errorf("%s: %d programs, %v; want one", tt.name, len(progs), err)
		}
		for _, fd := range progs {
			syscall.Close(fd)
		}
		f.Close()
	}
}

// The lists of version 1 do the same, and are changed by what differs.
func TestDeviceList(t *testing.T) {
	h := needHost(t)
	if h.legacy("devices") == nil {
		t.Skip("the controller devices is not there in version 1")
	}
	g := scratch(t, h)
	var written []string
	h.write = func(file, value string) error {
		if strings.HasPrefix(filepath.Base(file), "devices.") {
			written = append(written, filepath.Base(file)+" "+value)
		}
		return writeFile(file, value)
	}
	none := []specs.LinuxDeviceCgroup{{Access: "rwm"}}
	kmsg := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "r"}
	for _, tt := range []struct {
		rules []specs.LinuxDeviceCgroup
		ok    bool
		last  []string // what is written the second time
	}{
		{none, false, nil},
		{append(none, kmsg), true, []string{"devices.allow c 1:11 r"}},
		{none, false, []string{"devices.deny c 1:11 r"}},
	} {
		written = nil
		if err := g.Apply(&specs.LinuxResources{Devices: tt.rules}); err != nil {
			t.Fatal(err)
		}
		if tt.last != nil && !slices.Equal(written, tt.last) {
			t.Errorf("written: %q, want %q", written, tt.last)
		}
		cmd, output := in(t, g, "head -c 0 /dev/kmsg && echo x > /dev/null")
		if err := cmd.Wait(); (err == nil) != tt.ok {
			t.Errorf("%+v: %v, want success: %v; %s", tt.rules, err, tt.ok, output())
		}
	}
}

// Groups of this process come below its own, and go with it; device rules
// alone share one.
func TestOwn(t *testing.T) {
	h := needHost(t)
	h.needs(t, "pids")
	var o Own
	none := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}
	a, err := o.Group(none, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := o.Group(none, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a != b {
		t.Error("two groups for the same device rules")
	}
	if err := errors.Join(o.Release(a), o.Release(b)); err != nil {
		t.Error(err)
	}
	if len(a.Paths()) != 1 || !exists(a.dirs[0].path) {
		t.Errorf("the shared group %v is gone before Close", a.Paths())
	}
	c, err := o.Group(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd, _ := in(t, c, "sleep 1000")
	if pids, err := c.Procs(); !slices.Contains(pids, cmd.Process.Pid) {
		t.Errorf("Procs = %v, %v, want %d among them", pids, err, cmd.Process.Pid)
	}
	if err := errors.Join(o.Release(c), o.Close()); err != nil {
		t.Error(err)
	}
	for _, g := range []*Group{a, c} {
		for _, dir := range g.Paths() {
			if exists(dir) {
				t.Errorf("%s is still there", dir)
			}
		}
	}
}

// ownMarker makes the test binary a process that makes groups and is killed.
const ownMarker = "CGROUP_TEST_OWN"

func TestMain(m *testing.M) {
	if os.Getenv(ownMarker) != "" {
		var o Own
		g, err := o.Group(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}}, nil)
		if err != nil {
			os.Stdout.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		cmd := exec.Command("sleep", "1000")
		cmd.Start()
		g.AddProcess(cmd.Process.Pid)
		for _, dir := range g.Paths() {
			os.Stdout.WriteString(dir + "\n")
		}
		os.Stdout.WriteString(strconv.Itoa(cmd.Process.Pid) + "\nready\n")
		select {}
	}
	os.Exit(m.Run())
}

// What a killed process left is removed by the next, with what still runs in
// it; what belongs to a living one is not.
func TestSweep(t *testing.T) {
	needHost(t).needs(t, "pids")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), ownMarker+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	var text string
	for !strings.HasSuffix(text, "ready\n") {
		var b [512]byte
		n, err := out.Read(b[:])
		if text += string(b[:n]); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	lines := strings.Fields(text)
	dirs := lines[:len(lines)-2]
	left := func() (n int) {
		var o Own // of another process as good as
		g, err := o.Group(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}}, nil)
		if err := errors.Join(err, o.Release(g), o.Close()); err != nil {
			t.Error(err)
		}
		for _, dir := range dirs {
			if exists(dir) {
				n++
			}
		}
		return n
	}
	if n := left(); n != len(dirs) {
		t.Errorf("%d of %d groups of a living process are there", n, len(dirs))
	}
	cmd.Process.Kill()
	cmd.Wait()
	if n := left(); n != 0 {
		t.Errorf("%d of %d groups of a dead process are there", n, len(dirs))
	}
	pid, _ := strconv.Atoi(lines[len(lines)-2])
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		if state, _ := os.ReadFile("/proc/" + lines[len(lines)-2] + "/stat"); !strings.Contains(string(state), ") Z ") {
			t.Errorf("the process in the group lives: %v", err)
		}
	}
}
