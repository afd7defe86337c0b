package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func parseUint(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// limitV1 spells a limit of version 1, where -1 means none.
func limitV1(n int64) string { return strconv.FormatInt(max(n, -1), 10) }

// limitV2 spells a limit of version 2.
func limitV2(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// Weight converts cpu shares of version 1, of which 1024 is the default and 2
// to 262144 are possible, to a weight of version 2, of which 100 is the default
// and 1 to 10000 are possible. The curve goes through all three points, as it
// does in other runtimes.
func Weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 1<<18:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// ioWeight converts a block I/O weight, 10 to 1000, to one of version 2, 1 to
// 10000.
func ioWeight(w uint16) uint64 {
	return 1 + (uint64(min(max(w, 10), 1000))-10)*9999/990
}

func memoryV1(g *Group, r *specs.LinuxResources) []setting {
	m := r.Memory
	if m == nil {
		return nil
	}
	var list []setting
	add := func(limit, file, value string) {
		list = append(list, setting{limit: limit, controller: "memory", file: file, value: value})
	}
	if m.Limit != nil && *m.Limit != 0 {
		add("memory.limit", "memory.limit_in_bytes", limitV1(*m.Limit))
	}
	swap := m.Swap
	if swap == nil && m.Limit != nil && *m.Limit < 0 {
		swap = m.Limit // the sum has to be above the limit
	}
	if swap != nil && *swap != 0 {
		add("memory.swap", "memory.memsw.limit_in_bytes", limitV1(*swap))
		list[len(list)-1].optional = m.Swap == nil
	}
	// The kernel wants limit <= limit with swap at all times.
	if len(list) == 2 && g.raisesSwap(*swap) {
		slices.Reverse(list)
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		add("memory.reservation", "memory.soft_limit_in_bytes", limitV1(*m.Reservation))
	}
	if m.KernelTCP != nil && *m.KernelTCP != 0 {
		add("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", limitV1(*m.KernelTCP))
	}
	if m.Swappiness != nil {
		add("memory.swappiness", "memory.swappiness", strconv.FormatUint(*m.Swappiness, 10))
	}
	if m.DisableOOMKiller != nil {
		value := "0"
		if *m.DisableOOMKiller {
			value = "1"
		}
		if *m.DisableOOMKiller || strings.Contains(g.read("memory", "memory.oom_control"), "oom_kill_disable 1") {
			add("memory.disableOOMKiller", "memory.oom_control", value)
		}
	}
	return list
}

// raisesSwap reports whether a limit of memory and swap is above the present.
func (g *Group) raisesSwap(swap int64) bool {
	now, ok := parseUint(g.read("memory", "memory.memsw.limit_in_bytes"))
	return ok && (swap < 0 || uint64(swap) > now)
}

func memoryV2(_ *Group, r *specs.LinuxResources) []setting {
	m := r.Memory
	if m == nil {
		return nil
	}
	var list []setting
	add := func(limit, file, value string) {
		list = append(list, setting{limit: limit, controller: "memory", file: file, value: value})
	}
	if m.Limit != nil && *m.Limit != 0 {
		add("memory.limit", "memory.max", limitV2(*m.Limit))
	}
	switch swap, err := swapV2(m); {
	case err != nil:
		list = append(list, setting{limit: "memory.swap", value: fmt.Sprint(*m.Swap), refuse: err})
	case swap != "":
		// Without swap in the kernel there is nothing to limit.
		list = append(list, setting{limit: "memory.swap", controller: "memory", file: "memory.swap.max", value: swap, optional: true})
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		add("memory.reservation", "memory.low", limitV2(*m.Reservation))
	}
	if m.Swappiness != nil {
		list = append(list, setting{limit: "memory.swappiness", value: fmt.Sprint(*m.Swappiness), refuse: errNotInV2})
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		list = append(list, setting{limit: "memory.disableOOMKiller", value: "true", refuse: errNotInV2})
	}
	return list
}

var errNotInV2 = errors.New("cgroups of version 2 have no such control")

// swapV2 converts a limit of memory and swap together, as specifications have
// it, to one of swap alone.
func swapV2(m *specs.LinuxMemory) (string, error) {
	switch {
	case m.Swap == nil || *m.Swap == 0:
		return "", nil
	case *m.Swap < 0:
		return "max", nil
	case m.Limit == nil || *m.Limit <= 0:
		return "", errors.New("is of memory and swap together: set memory.limit too")
	case *m.Swap < *m.Limit:
		return "", fmt.Errorf("is of memory and swap together: it must not be below memory.limit=%d", *m.Limit)
	}
	return strconv.FormatInt(*m.Swap-*m.Limit, 10), nil
}

func cpuV1(_ *Group, r *specs.LinuxResources) []setting {
	c := r.CPU
	if c == nil {
		return nil
	}
	var list []setting
	add := func(limit, file, value string) {
		list = append(list, setting{limit: "cpu." + limit, controller: "cpu", file: file, value: value})
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		add("realtimePeriod", "cpu.rt_period_us", strconv.FormatUint(*c.RealtimePeriod, 10))
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		add("realtimeRuntime", "cpu.rt_runtime_us", strconv.FormatInt(*c.RealtimeRuntime, 10))
	}
	if c.Shares != nil && *c.Shares != 0 && !isIdle(c) {
		add("shares", "cpu.shares", strconv.FormatUint(*c.Shares, 10))
	}
	if c.Period != nil && *c.Period != 0 {
		add("period", "cpu.cfs_period_us", strconv.FormatUint(*c.Period, 10))
	}
	if c.Quota != nil && *c.Quota != 0 {
		add("quota", "cpu.cfs_quota_us", limitV1(*c.Quota))
	}
	if c.Burst != nil {
		add("burst", "cpu.cfs_burst_us", strconv.FormatUint(*c.Burst, 10))
	}
	if c.Idle != nil {
		add("idle", "cpu.idle", strconv.FormatInt(*c.Idle, 10))
	}
	return list
}

// isIdle reports that weights don't count: the kernel refuses them then.
func isIdle(c *specs.LinuxCPU) bool { return c.Idle != nil && *c.Idle != 0 }

func cpuV2(g *Group, r *specs.LinuxResources) []setting {
	c := r.CPU
	if c == nil {
		return nil
	}
	var list []setting
	add := func(limit, file, value string) {
		list = append(list, setting{limit: "cpu." + limit, controller: "cpu", file: file, value: value})
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 || c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		list = append(list, setting{limit: "cpu.realtimeRuntime", refuse: errNotInV2})
	}
	if c.Shares != nil && *c.Shares != 0 && !isIdle(c) {
		add("shares", "cpu.weight", strconv.FormatUint(Weight(*c.Shares), 10))
	}
	if value := g.cpuMax(c); value != "" {
		limit := "quota"
		if c.Quota == nil || *c.Quota == 0 {
			limit = "period"
		}
		add(limit, "cpu.max", value)
	}
	if c.Burst != nil {
		add("burst", "cpu.max.burst", strconv.FormatUint(*c.Burst, 10))
	}
	if c.Idle != nil {
		add("idle", "cpu.idle", strconv.FormatInt(*c.Idle, 10))
	}
	return list
}

// cpuMax is "quota period"; what is not asked for stays as it is.
func (g *Group) cpuMax(c *specs.LinuxCPU) string {
	hasQuota, hasPeriod := c.Quota != nil && *c.Quota != 0, c.Period != nil && *c.Period != 0
	if !hasQuota && !hasPeriod {
		return ""
	}
	quota := "max"
	if hasQuota && *c.Quota > 0 {
		quota = strconv.FormatInt(*c.Quota, 10)
	} else if now := strings.Fields(g.read("cpu", "cpu.max")); !hasQuota && len(now) == 2 {
		quota = now[0]
	}
	if !hasPeriod {
		return quota // the kernel keeps the period
	}
	return quota + " " + strconv.FormatUint(*c.Period, 10)
}

func cpusetV1(_ *Group, r *specs.LinuxResources) []setting { return cpusets(r) }
func cpusetV2(_ *Group, r *specs.LinuxResources) []setting { return cpusets(r) }

func cpusets(r *specs.LinuxResources) []setting {
	var list []setting
	if r.CPU != nil && r.CPU.Cpus != "" {
		list = append(list, setting{limit: "cpu.cpus", controller: "cpuset", file: "cpuset.cpus", value: r.CPU.Cpus})
	}
	if r.CPU != nil && r.CPU.Mems != "" {
		list = append(list, setting{limit: "cpu.mems", controller: "cpuset", file: "cpuset.mems", value: r.CPU.Mems})
	}
	return list
}

func pids(_ *Group, r *specs.LinuxResources) []setting {
	if r.Pids == nil || r.Pids.Limit == nil {
		return nil
	}
	value := "max"
	if *r.Pids.Limit > 0 {
		value = strconv.FormatInt(*r.Pids.Limit, 10)
	}
	return []setting{{limit: "pids.limit", controller: "pids", file: "pids.max", value: value}}
}

// throttle is one of the four lists of rates.
type throttle struct {
	limit, v1, v2 string
	devices       []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"blockIO.throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"blockIO.throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"blockIO.throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"blockIO.throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

func blkioV1(_ *Group, r *specs.LinuxResources) []setting {
	b := r.BlockIO
	if b == nil {
		return nil
	}
	var list []setting
	// A weight is the BFQ scheduler's, in files of its own; those of CFQ are
	// older kernels'.
	add := func(limit, bfq, cfq, value string) {
		list = append(list, setting{limit: limit, controller: blkio, file: bfq, value: value,
			instead: &setting{limit: limit, controller: blkio, file: cfq, value: value}})
	}
	if b.Weight != nil && *b.Weight != 0 {
		add("blockIO.weight", "blkio.bfq.weight", "blkio.weight", fmt.Sprint(*b.Weight))
	}
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		list = append(list, setting{limit: "blockIO.leafWeight", controller: blkio, file: "blkio.leaf_weight", value: fmt.Sprint(*b.LeafWeight)})
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil {
			add("blockIO.weightDevice", "blkio.bfq.weight_device", "blkio.weight_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight))
		}
		if d.LeafWeight != nil {
			list = append(list, setting{limit: "blockIO.weightDevice", controller: blkio, file: "blkio.leaf_weight_device",
				value: fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.LeafWeight)})
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			list = append(list, setting{limit: t.limit, controller: blkio, file: t.v1, value: fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate)})
		}
	}
	return list
}

func ioV2(_ *Group, r *specs.LinuxResources) []setting {
	b := r.BlockIO
	if b == nil {
		return nil
	}
	var list []setting
	add := func(limit, prefix string, w uint16) {
		list = append(list, setting{limit: limit, controller: "io", file: "io.bfq.weight", value: prefix + fmt.Sprint(w),
			instead: &setting{limit: limit, controller: "io", file: "io.weight", value: cmp.Or(prefix, "default ") + fmt.Sprint(ioWeight(w))}})
	}
	if b.Weight != nil && *b.Weight != 0 {
		add("blockIO.weight", "", *b.Weight)
	}
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		list = append(list, setting{limit: "blockIO.leafWeight", refuse: errNotInV2})
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil {
			add("blockIO.weightDevice", fmt.Sprintf("%d:%d ", d.Major, d.Minor), *d.Weight)
		}
		if d.LeafWeight != nil {
			list = append(list, setting{limit: "blockIO.weightDevice", value: "leafWeight", refuse: errNotInV2})
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			rate := "max"
			if d.Rate > 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			list = append(list, setting{limit: t.limit, controller: "io", file: "io.max", value: fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.v2, rate)})
		}
	}
	return list
}

func hugetlbV1(_ *Group, r *specs.LinuxResources) []setting { return hugetlb(r, "limit_in_bytes") }
func hugetlbV2(_ *Group, r *specs.LinuxResources) []setting { return hugetlb(r, "max") }

// hugetlb limits reservations, where the kernel can, and use.
func hugetlb(r *specs.LinuxResources, file string) []setting {
	var list []setting
	for _, l := range r.HugepageLimits {
		s := setting{limit: "hugepageLimits." + l.Pagesize, controller: "hugetlb", value: strconv.FormatUint(l.Limit, 10)}
		if checkUnified(l.Pagesize) != nil || strings.Contains(l.Pagesize, ".") || l.Pagesize == "" {
			s.refuse = errors.New("want a page size, such as 2MB")
		}
		use, reserve := s, s
		use.file = "hugetlb." + l.Pagesize + "." + file
		reserve.file, reserve.optional = "hugetlb."+l.Pagesize+".rsvd."+file, true
		if list = append(list, use); s.refuse == nil {
			list = append(list, reserve)
		}
	}
	return list
}

func rdma(_ *Group, r *specs.LinuxResources) []setting {
	var list []setting
	for _, device := range sorted(r.Rdma) {
		l := r.Rdma[device]
		s := setting{limit: "rdma." + device, controller: "rdma", file: "rdma.max", value: device}
		if l.HcaHandles != nil {
			s.value += fmt.Sprintf(" hca_handle=%d", *l.HcaHandles)
		}
		if l.HcaObjects != nil {
			s.value += fmt.Sprintf(" hca_object=%d", *l.HcaObjects)
		}
		if strings.ContainsAny(device, " \n") || device == "" {
			s.refuse = errors.New("is not the name of a device")
		}
		list = append(list, s)
	}
	return list
}

func netClass(_ *Group, r *specs.LinuxResources) []setting {
	if r.Network == nil || r.Network.ClassID == nil || *r.Network.ClassID == 0 {
		return nil
	}
	return []setting{{limit: "network.classID", controller: "net_cls", file: "net_cls.classid", value: fmt.Sprint(*r.Network.ClassID)}}
}

func netPriority(_ *Group, r *specs.LinuxResources) []setting {
	if r.Network == nil {
		return nil
	}
	var list []setting
	for _, p := range r.Network.Priorities {
		s := setting{limit: "network.priorities", controller: "net_prio", file: "net_prio.ifpriomap", value: fmt.Sprintf("%s %d", p.Name, p.Priority)}
		if strings.ContainsAny(p.Name, " \n") || p.Name == "" {
			s.refuse = errors.New("is not the name of an interface")
		}
		list = append(list, s)
	}
	return list
}

func netClassV2(g *Group, r *specs.LinuxResources) []setting {
	return refuseAll(netClass(g, r))
}

func netPriorityV2(g *Group, r *specs.LinuxResources) []setting {
	return refuseAll(netPriority(g, r))
}

func refuseAll(list []setting) []setting {
	for i := range list {
		list[i].refuse = errNotInV2
	}
	return list
}
