package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fake is a kernel in a temporary directory: it fills new groups with control
// files, hands controllers down, and notes what is written.
type fake struct {
	t       testing.TB
	dir     string
	host    *Host
	written []string // "file value", without the directory
	denied  string   // files with this suffix can't be written
}

// layout describes a machine: mounts (file system, options, directory), the
// groups of this process, and the controllers of version 2.
type layout struct {
	mounts  [][3]string
	groups  string
	unified string
	root    string // which group is mounted; empty: the root
}

var (
	v2Layout     = layout{mounts: [][3]string{{"cgroup2", "rw", ""}}, groups: "0::/user.slice/me.scope\n", unified: "cpuset cpu io memory hugetlb pids rdma"}
	v1Layout     = layout{mounts: v1Mounts, groups: v1Groups}
	hybridLayout = layout{mounts: append(v1Mounts, [3]string{"cgroup2", "rw", "unified"}), groups: v1Groups + "0::/me\n", unified: "hugetlb"}

	v1Mounts = [][3]string{
		{"cgroup", "rw,cpu,cpuacct", "cpu,cpuacct"}, {"cgroup", "rw,cpuset", "cpuset"}, {"cgroup", "rw,memory", "memory"},
		{"cgroup", "rw,pids", "pids"}, {"cgroup", "rw,devices", "devices"}, {"cgroup", "rw,freezer", "freezer"},
		{"cgroup", "rw,blkio", "blkio"}, {"cgroup", "rw,net_cls,net_prio", "net_cls,net_prio"}, {"cgroup", "rw,xattr,name=systemd", "systemd"},
	}
)

const v1Groups = "12:cpu,cpuacct:/me\n11:cpuset:/\n10:memory:/me\n9:pids:/me\n8:devices:/me\n7:freezer:/\n6:blkio:/me\n5:net_cls,net_prio:/\n1:name=systemd:/me\n"

// files are the control files of a new group.
func (f *fake) files(dir string) map[string]string {
	rel, _ := filepath.Rel(f.dir, dir)
	top, _, _ := strings.Cut(rel, "/")
	switch top {
	case "memory":
		return map[string]string{"memory.limit_in_bytes": "", "memory.memsw.limit_in_bytes": "9223372036854771712", "memory.soft_limit_in_bytes": "",
			"memory.swappiness": "", "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "memory.usage_in_bytes": "1000", "memory.kmem.tcp.limit_in_bytes": ""}
	case "cpu,cpuacct":
		return map[string]string{"cpu.shares": "", "cpu.cfs_quota_us": "", "cpu.cfs_period_us": "", "cpu.cfs_burst_us": "", "cpu.rt_period_us": "", "cpu.rt_runtime_us": "", "cpu.idle": ""}
	case "cpuset":
		return map[string]string{"cpuset.cpus": "", "cpuset.mems": ""}
	case "pids":
		return map[string]string{"pids.max": "", "pids.current": "4"}
	case "blkio":
		return map[string]string{"blkio.weight": "", "blkio.weight_device": "", "blkio.leaf_weight": "", "blkio.leaf_weight_device": "",
			"blkio.throttle.read_bps_device": "", "blkio.throttle.write_bps_device": "", "blkio.throttle.read_iops_device": "", "blkio.throttle.write_iops_device": ""}
	case "net_cls,net_prio":
		return map[string]string{"net_cls.classid": "", "net_prio.ifpriomap": ""}
	case "devices":
		return map[string]string{"devices.list": "a *:* rwm\n", "devices.allow": "", "devices.deny": ""}
	case "freezer":
		return map[string]string{"freezer.state": "THAWED\n"}
	case "systemd":
		return nil
	}
	return map[string]string{"cgroup.controllers": "", "cgroup.subtree_control": "", "cgroup.type": "domain\n", "cgroup.freeze": "0", "cgroup.events": "populated 0\nfrozen 0\n",
		"cgroup.max.depth": "max"}
}

// v2Files come with a controller.
var v2Files = map[string][]string{
	"cpu": {"cpu.weight", "cpu.max", "cpu.max.burst", "cpu.idle"}, "cpuset": {"cpuset.cpus", "cpuset.mems"},
	"memory": {"memory.max", "memory.low", "memory.swap.max", "memory.current", "memory.high"}, "pids": {"pids.max"},
	"io": {"io.max", "io.weight"}, "hugetlb": {"hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"}, "rdma": {"rdma.max"},
}

func newFake(t testing.TB, l layout) *fake {
	t.Helper()
	f := &fake{t: t, dir: t.TempDir()}
	var info strings.Builder
	root := l.root
	if root == "" {
		root = "/"
	}
	fmt.Fprintf(&info, "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
	for i, m := range l.mounts {
		top := filepath.Join(f.dir, m[2])
		fmt.Fprintf(&info, "%d 20 0:%d %s %s rw,nosuid shared:4 - %s cgroup %s\n", 30+i, 30+i, root, top, m[0], m[1])
		f.make(top)
		if m[0] == "cgroup2" {
			os.Remove(filepath.Join(top, "cgroup.type")) // as in the root of all
			f.put(filepath.Join(top, "cgroup.controllers"), l.unified)
			for c := range strings.FieldsSeq(l.unified) {
				for _, file := range v2Files[c] {
					f.put(filepath.Join(top, file), "")
				}
			}
		}
	}
	proc := filepath.Join(t.TempDir(), "proc")
	f.put(filepath.Join(proc, "self/mountinfo"), info.String())
	f.put(filepath.Join(proc, "self/cgroup"), l.groups)
	f.put(filepath.Join(proc, "self/stat"), "42 (a) b) S 1"+strings.Repeat(" 7", 30)+"\n")
	f.put(filepath.Join(proc, "self/cmdline"), "bk\x00build\x00")
	f.put(filepath.Join(proc, fmt.Sprint(os.Getppid()), "cmdline"), "bk\x00build\x00")
	f.put(filepath.Join(proc, "1/cmdline"), "sh\x00")
	os.Symlink("self", filepath.Join(proc, "42"))
	os.MkdirAll(filepath.Join(proc, "self/ns"), 0o755)
	os.Symlink("pid:[99]", filepath.Join(proc, "self/ns/pid"))
	h, err := detect(proc)
	if err != nil {
		t.Fatal(err)
	}
	h.mkdir, h.write = f.mkdir, f.write
	h.attach = func(dir string, prog []instruction) error {
		f.note(dir, "program", fmt.Sprint(len(prog)))
		return nil
	}
	f.host = h
	for _, tree := range h.hierarchies {
		for at := tree.dir(tree.own); at != tree.mount; at = filepath.Dir(at) {
			f.make(at)
			if tree.v2 {
				f.put(filepath.Join(at, "cgroup.controllers"), l.unified)
			}
		}
	}
	f.written = nil
	return f
}

func (f *fake) put(name, text string) {
	os.MkdirAll(filepath.Dir(name), 0o755)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// make fills a directory with a group's files.
func (f *fake) make(dir string) {
	f.put(filepath.Join(dir, "cgroup.procs"), "")
	for name, text := range f.files(dir) {
		f.put(filepath.Join(dir, name), text)
	}
}

func (f *fake) mkdir(dir string) error {
	if f.denied == "mkdir" {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: fs.ErrPermission}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	f.make(dir)
	enabled := words(filepath.Join(filepath.Dir(dir), "cgroup.subtree_control"))
	if exists(filepath.Join(dir, "cgroup.controllers")) {
		f.put(filepath.Join(dir, "cgroup.controllers"), strings.Join(enabled, " "))
		for _, c := range enabled {
			for _, file := range v2Files[c] {
				f.put(filepath.Join(dir, file), "")
			}
		}
	}
	f.note(dir, "mkdir", "")
	return nil
}

func (f *fake) note(dir, what, value string) {
	rel, _ := filepath.Rel(f.dir, dir)
	f.written = append(f.written, strings.TrimSpace(rel+" "+what+" "+value))
}

func (f *fake) write(name, value string) error {
	if f.denied != "" && strings.HasSuffix(name, f.denied) {
		return &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	if !exists(name) {
		return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f.note(filepath.Dir(name), filepath.Base(name), value)
	if filepath.Base(name) == "cgroup.procs" { // a process is in one group
		err := walk(f.dir, func(at string) error {
			left := slices.DeleteFunc(words(filepath.Join(at, "cgroup.procs")), func(pid string) bool { return pid == value })
			return os.WriteFile(filepath.Join(at, "cgroup.procs"), []byte(strings.Join(left, "\n")), 0o644)
		})
		if err != nil {
			return err
		}
		value = strings.Join(append(words(name), value), "\n")
	}
	if c, ok := strings.CutPrefix(value, "-"); ok && filepath.Base(name) == "cgroup.subtree_control" {
		value = strings.Join(slices.DeleteFunc(words(name), func(o string) bool { return o == c }), " ")
	}
	if c, ok := strings.CutPrefix(value, "+"); ok && filepath.Base(name) == "cgroup.subtree_control" {
		value = strings.Join(append(words(name), c), " ")
	}
	return os.WriteFile(name, []byte(value), 0o644)
}

// in filters what was written below a group.
func (f *fake) in(group string) (list []string) {
	for _, w := range f.written {
		if dir, rest, _ := strings.Cut(w, " "); strings.HasSuffix(dir, group) && !strings.HasPrefix(rest, "mkdir") {
			list = append(list, strings.TrimSuffix(strings.TrimSuffix(dir, group), "/")+" "+rest)
		}
	}
	return list
}

// full asks for everything that there is.
func full() *specs.LinuxResources {
	device := func(rate uint64) []specs.LinuxThrottleDevice {
		d := specs.LinuxThrottleDevice{Rate: rate}
		d.Major, d.Minor = 8, 16
		return []specs.LinuxThrottleDevice{d}
	}
	weight := specs.LinuxWeightDevice{Weight: ptr(uint16(500))}
	weight.Major = 8
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 20)), Swap: ptr(int64(3 << 20)), Reservation: ptr(int64(5))},
		CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(20000)), Period: ptr(uint64(50000)), Burst: ptr(uint64(10)),
			Cpus: "0-1", Mems: "0"},
		Pids: &specs.LinuxPids{Limit: ptr(int64(9))},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(10)), WeightDevice: []specs.LinuxWeightDevice{weight},
			ThrottleReadBpsDevice: device(1), ThrottleWriteBpsDevice: device(2), ThrottleReadIOPSDevice: device(3), ThrottleWriteIOPSDevice: device(0)},
	}
}

// Every limit is written in the words of the version in which its controller
// is, in an order that the kernel takes.
func TestApply(t *testing.T) {
	v1 := []string{
		"cpuset cpuset.cpus 0-1", "cpuset cpuset.mems 0", "cpu,cpuacct cpu.shares 1024", "cpu,cpuacct cpu.cfs_period_us 50000",
		"cpu,cpuacct cpu.cfs_quota_us 20000", "cpu,cpuacct cpu.cfs_burst_us 10", "memory memory.limit_in_bytes 1048576",
		"memory memory.memsw.limit_in_bytes 3145728", "memory memory.soft_limit_in_bytes 5", "pids pids.max 9", "blkio blkio.weight 10",
		"blkio blkio.weight_device 8:0 500", "blkio blkio.throttle.read_bps_device 8:16 1", "blkio blkio.throttle.write_bps_device 8:16 2",
		"blkio blkio.throttle.read_iops_device 8:16 3", "blkio blkio.throttle.write_iops_device 8:16 0",
	}
	v2 := []string{
		" cpuset.cpus 0-1", " cpuset.mems 0", " cpu.weight 100", " cpu.max 20000 50000", " cpu.max.burst 10", " memory.max 1048576",
		" memory.swap.max 2097152", " memory.low 5", " pids.max 9", " io.weight default 1", " io.weight 8:0 4950",
		" io.max 8:16 rbps=1", " io.max 8:16 wbps=2", " io.max 8:16 riops=3", " io.max 8:16 wiops=max",
	}
	huge := []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 77}}
	for _, tt := range []struct {
		name   string
		layout layout
		edit   func(*specs.LinuxResources)
		want   []string
	}{
		{"v1", v1Layout, nil, v1},
		{"v2", v2Layout, nil, v2},
		{"v1 network", v1Layout, func(r *specs.LinuxResources) {
			*r = specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(5)), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 3}}}}
		}, []string{"net_cls,net_prio net_cls.classid 5", "net_cls,net_prio net_prio.ifpriomap eth0 3"}},
		{"v1 more", v1Layout, func(r *specs.LinuxResources) {
			*r = specs.LinuxResources{
				Memory:  &specs.LinuxMemory{Swappiness: ptr(uint64(60)), DisableOOMKiller: ptr(true), KernelTCP: ptr(int64(4))},
				CPU:     &specs.LinuxCPU{RealtimePeriod: ptr(uint64(1000)), RealtimeRuntime: ptr(int64(500)), Idle: ptr(int64(1)), Shares: ptr(uint64(2))},
				BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr(uint16(30))},
			}
		}, []string{"cpu,cpuacct cpu.rt_period_us 1000", "cpu,cpuacct cpu.rt_runtime_us 500", "cpu,cpuacct cpu.idle 1",
			"memory memory.kmem.tcp.limit_in_bytes 4", "memory memory.swappiness 60", "memory memory.oom_control 1", "blkio blkio.leaf_weight 30"}},
		{"no limits, v1", v1Layout, func(r *specs.LinuxResources) {
			*r = specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}, Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}, CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))}}
		}, []string{"cpu,cpuacct cpu.cfs_quota_us -1", "memory memory.memsw.limit_in_bytes -1", "memory memory.limit_in_bytes -1", "pids pids.max max"}},
		{"no limits, v2", v2Layout, func(r *specs.LinuxResources) {
			*r = specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(-1))}, Pids: &specs.LinuxPids{Limit: ptr(int64(0))}, CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))}}
		}, []string{" cpu.max max", " memory.max max", " memory.swap.max max", " pids.max max"}},
		{"v2 more", v2Layout, func(r *specs.LinuxResources) {
			*r = specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr(uint64(7000))}, HugepageLimits: huge,
				Rdma:    map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: ptr(uint32(3)), HcaObjects: ptr(uint32(4))}, "a": {}},
				Unified: map[string]string{"memory.high": "9", "io.max": "8:0 rbps=1\n8:16 wbps=2\n", "cgroup.max.depth": "3"}}
		}, []string{" cpu.max max 7000", " hugetlb.2MB.max 77", " hugetlb.2MB.rsvd.max 77", " rdma.max a", " rdma.max mlx5_1 hca_handle=3 hca_object=4",
			" io.max 8:0 rbps=1", " io.max 8:16 wbps=2", " memory.high 9"}},
		{"a controller of v2 beside v1", hybridLayout, func(r *specs.LinuxResources) {
			*r = specs.LinuxResources{HugepageLimits: huge, Pids: &specs.LinuxPids{Limit: ptr(int64(1))}}
		}, []string{"pids pids.max 1", "unified hugetlb.2MB.max 77", "unified hugetlb.2MB.rsvd.max 77"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, tt.layout)
			g, err := f.host.Create("/podman_parent/libpod-1")
			if err != nil {
				t.Fatal(err)
			}
			f.written = nil
			r := full()
			if tt.edit != nil {
				tt.edit(r)
			}
			err = g.Apply(r)
			if tt.name == "v2 more" { // there is no controller called cgroup
				list, only := LimitErrors(err)
				if !only || len(list) != 1 || list[0].Limit != "unified.cgroup.max.depth" {
					t.Errorf("Apply = %v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, f.in("podman_parent/libpod-1")); d != "" {
				t.Errorf("written (-want +got):\n%s", d)
			}
		})
	}
}

// What a version doesn't have, and what is not a limit, is an error for each.
func TestApplyRefuses(t *testing.T) {
	for _, tt := range []struct {
		layout layout
		r      specs.LinuxResources
		want   string
	}{
		{v2Layout, specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: ptr(int64(1))}}, "cpu.realtimeRuntime"},
		{v2Layout, specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: ptr(uint64(1))}}, "memory.swappiness=1"},
		{v2Layout, specs.LinuxResources{Memory: &specs.LinuxMemory{DisableOOMKiller: ptr(true)}}, "memory.disableOOMKiller"},
		{v2Layout, specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(int64(5))}}, "set memory.limit too"},
		{v2Layout, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(9)), Swap: ptr(int64(5))}}, "must not be below memory.limit=9"},
		{v2Layout, specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1))}}, "network.classID"},
		{v2Layout, specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr(uint16(1))}}, "blockIO.leafWeight"},
		{v2Layout, specs.LinuxResources{Unified: map[string]string{"../memory.max": "1"}}, "not a file of a cgroup"},
		{v2Layout, specs.LinuxResources{Unified: map[string]string{"a/memory.max": "1"}}, "not a file of a cgroup"},
		{v2Layout, specs.LinuxResources{Unified: map[string]string{"cgroup.procs": "1"}}, "not for containers"},
		{v2Layout, specs.LinuxResources{Unified: map[string]string{"memory.nosuch": "1"}}, "no memory.nosuch"},
		{v2Layout, specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../x"}}}, "want a page size"},
		{v2Layout, specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"a b": {}}}, "not the name of a device"},
		{v1Layout, specs.LinuxResources{Unified: map[string]string{"memory.max": "1"}}, "no memory.max"},
		{v1Layout, specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}}}, "controller hugetlb is not there"},
		{v1Layout, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(999)), CheckBeforeUpdate: ptr(true)}}, "1000 bytes are in use"},
		{v1Layout, specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "x"}}}, `device type "x"`},
	} {
		g, err := newFake(t, tt.layout).host.Create("x")
		if err != nil {
			t.Fatal(err)
		}
		err = g.Apply(&tt.r)
		list, only := LimitErrors(err)
		if len(list) != 1 || !only || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Apply(%+v) = %v, want one error with %q", tt.r, err, tt.want)
		}
	}
}

// Raising a limit raises that of memory with swap first, lowering it lowers it
// last: the kernel wants one below the other at any time.
func TestMemoryOrder(t *testing.T) {
	f := newFake(t, v1Layout)
	g, err := f.host.Create("x")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		limit, swap int64
		first       string
	}{{100, 200, "memory.limit_in_bytes 100"}, {300, 400, "memory.memsw.limit_in_bytes 400"}, {50, 60, "memory.limit_in_bytes 50"}, {70, -1, "memory.memsw.limit_in_bytes -1"}} {
		f.written = nil
		if err := g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &tt.limit, Swap: &tt.swap}}); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(f.written[0], tt.first) || len(f.written) != 2 {
			t.Errorf("%d/%d: %q, want first %q", tt.limit, tt.swap, f.written, tt.first)
		}
	}
}

// Controllers are handed down along the path, and no others than are there.
func TestHandDown(t *testing.T) {
	f := newFake(t, v2Layout)
	if _, err := f.host.Create("/a/b"); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, dir := range []string{".", "a"} {
		for c := range strings.FieldsSeq(v2Layout.unified) {
			want = append(want, dir+" cgroup.subtree_control +"+c)
		}
		want = append(want, map[string]string{".": "a mkdir", "a": "a/b mkdir"}[dir])
	}
	if d := cmp.Diff(want, f.written); d != "" {
		t.Errorf("written (-want +got):\n%s", d)
	}
}

// A new group of version 1 takes over the processors above it: without any, no
// process could enter it.
func TestInheritCPUs(t *testing.T) {
	f := newFake(t, v1Layout)
	f.put(filepath.Join(f.dir, "cpuset/cpuset.cpus"), "0-3\n")
	f.put(filepath.Join(f.dir, "cpuset/cpuset.mems"), "0\n")
	if _, err := f.host.Create("/a/b"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"a", "a/b"} {
		if got := words(filepath.Join(f.dir, "cpuset", dir, "cpuset.cpus")); !slices.Equal(got, []string{"0-3"}) {
			t.Errorf("%s: %v", dir, got)
		}
	}
}

// Paths: absolute ones start at the mounts, relative ones at the own group of
// each hierarchy.
func TestCreatePaths(t *testing.T) {
	for _, tt := range []struct {
		layout     layout
		path       string
		controller string
		want       string
	}{
		{v1Layout, "/p/c", "memory", "memory/p/c"},
		{v1Layout, "p/c", "memory", "memory/me/p/c"},
		{v1Layout, "c", "cpuset", "cpuset/c"},
		{v1Layout, "c", "name=systemd", "systemd/me/c"},
		{v2Layout, "c", "", "user.slice/me.scope/c"},
		{hybridLayout, "c", "", "unified/me/c"},
		{layout{mounts: [][3]string{{"cgroup2", "rw", ""}}, groups: "0::/docker/x/in\n", root: "/docker/x"}, "c", "", "in/c"},
		{layout{mounts: [][3]string{{"cgroup2", "rw", ""}}, groups: "0::/../other\n", root: "/"}, "/c", "", "c"},
	} {
		f := newFake(t, tt.layout)
		g, err := f.host.Create(tt.path)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := filepath.Rel(f.dir, g.Paths()[tt.controller])
		if got != tt.want {
			t.Errorf("Create(%q): %s is %s, want %s", tt.path, tt.controller, got, tt.want)
		}
	}
}

func TestCheckPath(t *testing.T) {
	for _, p := range []string{"/a", "a", "/kubepods.slice/cri-containerd:0-1.scope", `/user.slice/user@1000.service/a\x2db.scope`, "/a//b/"} {
		if err := CheckPath(p); err != nil {
			t.Errorf("CheckPath(%q) = %v", p, err)
		}
	}
	for _, p := range []string{"", "/", "..", "/a/../b", "a/./b", "/.hidden", "a b", "a\nb", "/cgroup.procs", "x/tasks", "é", strings.Repeat("a", 256), strings.Repeat("/a", 2100), "system.slice:bk:1"} {
		if err := CheckPath(p); err == nil {
			t.Errorf("CheckPath(%q) took it", p)
		}
	}
	if err := CheckPath("system.slice:bk:1"); !errors.Is(err, ErrSystemd) {
		t.Errorf("a group of systemd's driver: %v", err)
	}
}

// Where no group can be made, each limit says why.
func TestOwnRefused(t *testing.T) {
	for _, l := range []layout{v1Layout, v2Layout, hybridLayout} {
		f := newFake(t, l)
		f.denied = "mkdir"
		o := Own{host: f.host}
		r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(5))}, Pids: &specs.LinuxPids{Limit: ptr(int64(6))}, Devices: []specs.LinuxDeviceCgroup{{}}}
		g, err := o.Group(r, nil)
		list, only := LimitErrors(err)
		if g != nil || !only || len(list) != 3 || list[0].Limit != "memory.limit" || list[1].Limit != "pids.limit" || list[2].Limit != "devices" {
			t.Errorf("%s: Group = %v, %v", f.host.Mode(), g, err)
		}
	}
}

// On a machine without any hierarchy, each limit says so, and there is nothing
// that keeps a program without limits from running.
func TestNoHierarchy(t *testing.T) {
	f := newFake(t, layout{})
	if f.host.Mode() != None {
		t.Errorf("Mode = %s", f.host.Mode())
	}
	o := Own{host: f.host}
	_, err := o.Group(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(5))}, Devices: []specs.LinuxDeviceCgroup{{}}}, nil)
	if list, only := LimitErrors(err); len(list) != 2 || !only {
		t.Errorf("Group = %v", err)
	}
	if _, err := o.Group(&specs.LinuxResources{Unified: map[string]string{"/": "1"}}, nil); err == nil {
		t.Error("Group took what is no limit")
	}
	if g, err := o.Group(&specs.LinuxResources{}, nil); g != nil || err != nil {
		t.Errorf("Group = %v, %v", g, err)
	}
	if _, err := f.host.Create("/x"); err == nil {
		t.Error("Create made a group")
	}
	if usable, err := f.host.Usable(); len(usable) > 0 || err == nil {
		t.Errorf("Usable = %v, %v", usable, err)
	}
}

// The place for groups with limits, in version 2.
func TestPlace(t *testing.T) {
	me := fmt.Sprint(os.Getpid())
	for _, tt := range []struct {
		name  string
		procs map[string]string // by group
		owned []string          // groups that can be written; nil: all
		want  string            // the place, or "" for none
		moved bool
	}{
		{name: "this process alone", procs: map[string]string{"user.slice/me.scope": me}, want: "user.slice/me.scope", moved: true},
		{name: "and the same command outside of the user namespace", procs: map[string]string{"user.slice/me.scope": fmt.Sprint(me, "\n", os.Getppid())}, want: "user.slice/me.scope", moved: true},
		{name: "a shell beside", procs: map[string]string{"user.slice/me.scope": me + "\n1"}, want: "user.slice"},
		{name: "the root of all", procs: map[string]string{"user.slice/me.scope": "1", "user.slice": "1", ".": "1"}, want: "."},
		{name: "nothing above is ours", procs: map[string]string{"user.slice/me.scope": "1"}, owned: []string{"user.slice/me.scope"}, want: ""},
		{name: "nothing is ours", owned: []string{}, want: ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if os.Geteuid() == 0 && tt.owned != nil {
				t.Skip("root may write to all files")
			}
			f := newFake(t, v2Layout)
			for group, procs := range tt.procs {
				f.put(filepath.Join(f.dir, group, "cgroup.procs"), procs+"\n")
			}
			if tt.owned != nil {
				for _, group := range []string{".", "user.slice", "user.slice/me.scope"} {
					if !slices.Contains(tt.owned, group) {
						os.Chmod(filepath.Join(f.dir, group, "cgroup.procs"), 0o400)
					}
				}
			}
			o := Own{host: f.host}
			g, err := o.Group(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(6))}}, nil)
			if tt.want == "" {
				if list, only := LimitErrors(err); len(list) != 1 || !only {
					t.Errorf("Group = %v, want an error of the limit", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := filepath.Rel(f.dir, filepath.Dir(g.v2())); got != tt.want {
				t.Errorf("the group is in %s, want %s", got, tt.want)
			}
			moved := slices.ContainsFunc(f.written, func(w string) bool {
				return strings.HasSuffix(w, "-self cgroup.procs "+me)
			})
			f.written = nil
			if err := o.Close(); err != nil {
				t.Error(err)
			}
			if tt.moved && !slices.Contains(f.written, "user.slice/me.scope cgroup.procs "+me) {
				t.Errorf("not moved back; written:\n%s", strings.Join(f.written, "\n"))
			}
			if moved != tt.moved {
				t.Errorf("moved = %v; written:\n%s", moved, strings.Join(f.written, "\n"))
			}
		})
	}
}

// Names of groups tell whose they are, and nothing else is taken for one.
func TestNames(t *testing.T) {
	o := owner{"4026531836", "12", "345"}
	if got, n, ok := parseName(o.prefix() + "7"); got != o || n != "7" || !ok {
		t.Errorf("parseName = %v, %q, %v", got, n, ok)
	}
	for _, name := range []string{"bk", "bk-1-2-3", "bk-1-2-3-x", "bk-a-2-3-4", "bk-1-2-3-4-5", "xk-1-2-3-4", "bk-4428b9e7a8e582ee558ad408f393b528"} {
		if _, _, ok := parseName(name); ok {
			t.Errorf("parseName took %q", name)
		}
	}
	f := newFake(t, v2Layout)
	if got, err := f.host.identify("self"); err != nil || got != (owner{"99", "42", "7"}) {
		t.Errorf("identify = %+v, %v", got, err)
	}
}

// The conversion goes through the defaults and the ends of both scales.
func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 100, 512: 59, 2048: 174, 262144: 10000, 1 << 40: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("Weight(%d) = %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for s := uint64(1); s <= 1<<18; s += 37 {
		w := Weight(s)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("Weight(%d) = %d after %d", s, w, last)
		}
		last = w
	}
	for w, want := range map[uint16]uint64{1: 1, 10: 1, 500: 4950, 1000: 10000, 2000: 10000} {
		if got := ioWeight(w); got != want {
			t.Errorf("ioWeight(%d) = %d, want %d", w, got, want)
		}
	}
}

// Statistics are read in both versions into the same fields.
func TestStats(t *testing.T) {
	f := newFake(t, v2Layout)
	g, err := f.host.Create("x")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nnr_throttled 1\nthrottled_usec 9\n", "memory.current": "100\n", "memory.max": "max\n",
		"memory.stat": "anon 1\nfile 20\n", "memory.swap.current": "11\n", "memory.swap.max": "50\n", "memory.events": "max 4\noom_kill 2\n", "pids.current": "3\n", "pids.max": "max\n",
		"io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\ngarbage\n", "hugetlb.2MB.current": "6\n", "hugetlb.2MB.events": "max 8\n",
	} {
		f.put(filepath.Join(g.v2(), name), text)
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	want := &Stats{Pids: PidsStats{Current: 3}, Hugetlb: map[string]HugetlbStats{"2MB": {Usage: 6, Failcnt: 8}}}
	want.CPU.Usage.Total, want.CPU.Usage.User, want.CPU.Usage.Kernel = 5000, 3000, 2000
	want.CPU.Throttling.Periods, want.CPU.Throttling.ThrottledPeriods, want.CPU.Throttling.ThrottledTime = 7, 1, 9000
	none := ^uint64(0)
	want.Memory = MemoryStats{Cache: 20, Usage: MemoryEntry{Limit: none, Usage: 100, Failcnt: 4}, Swap: MemoryEntry{Limit: none, Usage: 111}, Raw: map[string]uint64{"anon": 1, "file": 20}}
	want.BlockIO = BlockIOStats{
		ServiceBytes: []BlockIOEntry{{8, 0, "Read", 1}, {8, 0, "Write", 2}}, Serviced: []BlockIOEntry{{8, 0, "Read", 3}, {8, 0, "Write", 4}},
	}
	if d := cmp.Diff(want, s); d != "" {
		t.Errorf("Stats (-want +got):\n%s", d)
	}
	if n, err := g.OOMKills(); n != 2 || err != nil {
		t.Errorf("OOMKills = %d, %v", n, err)
	}
	f = newFake(t, v1Layout)
	if g, err = f.host.Create("x"); err != nil {
		t.Fatal(err)
	}
	if n, err := g.OOMKills(); n != 3 || err != nil {
		t.Errorf("OOMKills in v1 = %d, %v", n, err)
	}
}

// Rules come to the same policy as in the kernel's lists of version 1.
func TestPolicy(t *testing.T) {
	major := func(n int64) *int64 { return &n }
	none := specs.LinuxDeviceCgroup{Access: "rwm"}
	for _, tt := range []struct {
		name  string
		rules []specs.LinuxDeviceCgroup
		ask   deviceID
		what  access
		want  bool
	}{
		{"nothing but the defaults", []specs.LinuxDeviceCgroup{none}, deviceID{'c', 1, 3}, read | write, true},
		{"making nodes", []specs.LinuxDeviceCgroup{none}, deviceID{'b', 8, 0}, mknod, true},
		{"a disk", []specs.LinuxDeviceCgroup{none}, deviceID{'b', 8, 0}, read, false},
		{"a disk of the same numbers as null", []specs.LinuxDeviceCgroup{none}, deviceID{'b', 1, 3}, read, false},
		{"a class", []specs.LinuxDeviceCgroup{none, {Allow: true, Type: "b", Major: major(8), Access: "r"}}, deviceID{'b', 8, 3}, read, true},
		{"not for writing", []specs.LinuxDeviceCgroup{none, {Allow: true, Type: "b", Major: major(8), Access: "r"}}, deviceID{'b', 8, 3}, read | write, false},
		{"two rules for one", []specs.LinuxDeviceCgroup{none, {Allow: true, Type: "b", Major: major(8), Access: "r"}, {Allow: true, Type: "b", Major: major(8), Access: "w"}}, deviceID{'b', 8, 3}, read | write, true},
		{"taken back", []specs.LinuxDeviceCgroup{none, {Allow: true, Type: "b", Major: major(8), Access: "rw"}, {Type: "b", Major: major(8), Access: "w"}}, deviceID{'b', 8, 3}, write, false},
		{"both kinds", []specs.LinuxDeviceCgroup{none, {Allow: true, Type: "a", Major: major(8), Minor: major(1), Access: "r"}}, deviceID{'c', 8, 1}, read, true},
		{"all but", []specs.LinuxDeviceCgroup{{Allow: true}, {Type: "b", Major: major(8), Access: "w"}}, deviceID{'b', 8, 3}, read | write, false},
		{"all but, otherwise", []specs.LinuxDeviceCgroup{{Allow: true}, {Type: "b", Major: major(8), Access: "w"}}, deviceID{'b', 8, 3}, read, true},
		{"all but, allowed again", []specs.LinuxDeviceCgroup{{Allow: true}, {Type: "b", Major: major(8), Access: "w"}, {Allow: true, Type: "b", Major: major(8), Access: "w"}}, deviceID{'b', 8, 3}, write, true},
		{"no rule at all", nil, deviceID{'b', 8, 3}, read, false},
	} {
		p, err := newPolicy(tt.rules, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := interpret(t, p.program(), tt.ask, tt.what); got != tt.want {
			t.Errorf("%s: %v for %s is %v, want %v", tt.name, tt.ask, tt.what, got, tt.want)
		}
	}
	for _, rules := range [][]specs.LinuxDeviceCgroup{
		{none, {Allow: true, Type: "b", Major: major(8), Access: "r"}, {Type: "b", Major: major(8), Minor: major(1), Access: "r"}}, // a hole
		{{Type: "p"}}, {{Access: "x"}},
	} {
		if _, err := newPolicy(rules, nil); err == nil {
			t.Errorf("newPolicy(%+v) took it", rules)
		}
	}
}

// interpret runs a device program.
func interpret(t *testing.T, prog []instruction, d deviceID, what access) bool {
	t.Helper()
	var reg [11]uint64
	kind := uint32(bpfChar)
	if d.kind == 'b' {
		kind = bpfBlock
	}
	context := map[int16]uint32{0: uint32(what)<<16 | kind, 4: uint32(d.major), 8: uint32(d.minor)}
	for pc := 0; pc < len(prog); pc++ {
		switch i := prog[pc]; i.code {
		case bpfLoadWord:
			reg[i.dst] = uint64(context[i.off])
		case bpfMovReg:
			reg[i.dst] = uint64(uint32(reg[i.src]))
		case bpfMovImm:
			reg[i.dst] = uint64(i.imm)
		case bpfAndImm:
			reg[i.dst] = uint64(uint32(reg[i.dst]) & uint32(i.imm))
		case bpfRshImm:
			reg[i.dst] = uint64(uint32(reg[i.dst]) >> i.imm)
		case bpfJneImm:
			if uint32(reg[i.dst]) != uint32(i.imm) {
				pc += int(i.off)
			}
		case bpfJeqImm:
			if uint32(reg[i.dst]) == uint32(i.imm) {
				pc += int(i.off)
			}
		case bpfExit:
			return reg[regResult] != 0
		default:
			t.Fatalf("instruction %#x", i.code)
		}
	}
	t.Fatal("the program does not end")
	return false
}

// What comes from the kernel's files is foreign: nothing in it makes a panic,
// or a directory outside of a mount.
func FuzzDetect(f *testing.F) {
	f.Add("30 22 0:27 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n", "0::/a/b\n")
	f.Add("30 22 0:27 /x /sys/fs/cgroup/cpu\\040x rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n", "3:cpu,cpuacct:/x/y\n1:name=systemd:/\n")
	f.Add("a b c - - - cgroup\n", "::\n")
	f.Fuzz(func(t *testing.T, mounts, groups string) {
		own, err := parseGroups([]byte(groups))
		if err != nil {
			return
		}
		h := &Host{hierarchies: parseMounts([]byte(mounts), own)}
		h.Mode()
		for _, tree := range h.hierarchies {
			dir := tree.dir(tree.own)
			if rel, err := filepath.Rel(tree.mount, dir); err != nil || !filepath.IsLocal(rel) {
				t.Errorf("own group %q of mount %q of %q is %q", tree.own, tree.mount, tree.root, dir)
			}
		}
	})
}

func FuzzFiles(f *testing.F) {
	f.Add("a *:* rwm\n")
	f.Add("c 1:3 rw\nb *:* m\n")
	f.Add("8:0 rbytes=1 wbytes=2\n")
	f.Add("8:0 Read 1\nTotal 4\n")
	f.Add("1 (x) y) S 1 2 3")
	f.Fuzz(func(t *testing.T, text string) {
		flat(text)
		parseBlkio(text)
		parseIOStat(text)
		if p, err := parseDevices(text); err == nil {
			p.program()
			for _, id := range p.entries() {
				if id.major < wild || id.minor < wild || p.except[id] == 0 {
					t.Errorf("entry %v %v", id, p.except[id])
				}
			}
		}
		parseName(text)
		_ = CheckPath(text)
	})
}

func ptr[T any](v T) *T { return &v }
