package cgroup

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
)

// Stats is what a group has used. As JSON it is what "runc events --stats"
// prints as data, so that those who read that can read this.
type Stats struct {
	CPU     CPUStats                `json:"cpu"`
	Memory  MemoryStats             `json:"memory"`
	Pids    PidsStats               `json:"pids"`
	BlockIO BlockIOStats            `json:"blkio"`
	Hugetlb map[string]HugetlbStats `json:"hugetlb"`
}

// CPUStats are in nanoseconds.
type CPUStats struct {
	Usage struct {
		Total  uint64   `json:"total,omitempty"`
		PerCPU []uint64 `json:"percpu,omitempty"` // version 1 only
		Kernel uint64   `json:"kernel"`
		User   uint64   `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
}

// MemoryStats are in bytes.
type MemoryStats struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     MemoryEntry       `json:"usage"`
	Swap      MemoryEntry       `json:"swap"` // of memory and swap together
	Kernel    MemoryEntry       `json:"kernel"`
	KernelTCP MemoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"` // memory.stat
}

// MemoryEntry is one kind of memory; no limit is the largest number.
type MemoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// PidsStats counts processes and threads; no limit is 0.
type PidsStats struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

// BlockIOStats are by device and operation.
type BlockIOStats struct {
	ServiceBytes []BlockIOEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced     []BlockIOEntry `json:"ioServicedRecursive,omitempty"`
}

// BlockIOEntry is a number of bytes or of operations.
type BlockIOEntry struct {
	Major uint64 `json:"major"`
	Minor uint64 `json:"minor"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

// HugetlbStats are of one page size, in bytes.
type HugetlbStats struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// Stats reads what the group has used. What its controllers don't tell is zero.
func (g *Group) Stats() (*Stats, error) {
	if len(g.dirs) == 0 {
		return nil, fmt.Errorf("statistics: there is no group")
	}
	if _, err := readFile(filepath.Join(g.dirs[0].path, "cgroup.procs")); err != nil {
		return nil, fmt.Errorf("statistics: %w", err)
	}
	s := &Stats{Hugetlb: map[string]HugetlbStats{}}
	g.cpuStats(s)
	g.memoryStats(&s.Memory)
	s.Pids.Current, _ = parseUint(g.read("pids", "pids.current"))
	s.Pids.Limit, _ = parseUint(g.read("pids", "pids.max"))
	g.blockIOStats(&s.BlockIO)
	g.hugetlbStats(s.Hugetlb)
	return s, nil
}

// flat reads "key value" lines; what isn't that is skipped.
func flat(text string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		if n, ok := parseUint(f[1]); ok {
			m[f[0]] = n
		}
	}
	return m
}

func (g *Group) cpuStats(s *Stats) {
	u, t := &s.CPU.Usage, &s.CPU.Throttling
	if dir := g.v2(); dir != "" && g.host.legacy("cpuacct") == nil {
		// The file is there without the controller, too.
		text, _ := readFile(filepath.Join(dir, "cpu.stat"))
		m := flat(string(text))
		u.Total, u.User, u.Kernel = m["usage_usec"]*1000, m["user_usec"]*1000, m["system_usec"]*1000
		t.Periods, t.ThrottledPeriods, t.ThrottledTime = m["nr_periods"], m["nr_throttled"], m["throttled_usec"]*1000
		return
	}
	u.Total, _ = parseUint(g.read("cpuacct", "cpuacct.usage"))
	u.User, _ = parseUint(g.read("cpuacct", "cpuacct.usage_user"))
	u.Kernel, _ = parseUint(g.read("cpuacct", "cpuacct.usage_sys"))
	for f := range strings.FieldsSeq(g.read("cpuacct", "cpuacct.usage_percpu")) {
		n, _ := parseUint(f)
		u.PerCPU = append(u.PerCPU, n)
	}
	m := flat(g.read("cpu", "cpu.stat"))
	t.Periods, t.ThrottledPeriods, t.ThrottledTime = m["nr_periods"], m["nr_throttled"], m["throttled_time"]
}

func (g *Group) memoryStats(m *MemoryStats) {
	m.Raw = flat(g.read("memory", "memory.stat"))
	if _, v2, _ := g.dir("memory"); !v2 {
		m.Cache = m.Raw["cache"]
		for _, e := range []struct {
			to    *MemoryEntry
			files string
		}{
			{&m.Usage, "memory."}, {&m.Swap, "memory.memsw."}, {&m.Kernel, "memory.kmem."}, {&m.KernelTCP, "memory.kmem.tcp."},
		} {
			e.to.Usage, _ = parseUint(g.read("memory", e.files+"usage_in_bytes"))
			e.to.Max, _ = parseUint(g.read("memory", e.files+"max_usage_in_bytes"))
			e.to.Limit, _ = parseUint(g.read("memory", e.files+"limit_in_bytes"))
			e.to.Failcnt, _ = parseUint(g.read("memory", e.files+"failcnt"))
		}
		return
	}
	m.Cache = m.Raw["file"]
	u, s := &m.Usage, &m.Swap
	u.Usage, _ = parseUint(g.read("memory", "memory.current"))
	u.Max, _ = parseUint(g.read("memory", "memory.peak"))
	u.Limit = limitOf(g.read("memory", "memory.max"))
	u.Failcnt = flat(g.read("memory", "memory.events"))["max"]
	swap, _ := parseUint(g.read("memory", "memory.swap.current"))
	s.Usage = u.Usage + swap
	if s.Limit = limitOf(g.read("memory", "memory.swap.max")); s.Limit != math.MaxUint64 && u.Limit != math.MaxUint64 {
		s.Limit += u.Limit
	} else {
		s.Limit = math.MaxUint64
	}
}

// limitOf reads a limit of version 2.
func limitOf(text string) uint64 {
	if n, ok := parseUint(text); ok {
		return n
	}
	if text == "max" {
		return math.MaxUint64
	}
	return 0
}

func (g *Group) blockIOStats(b *BlockIOStats) {
	if g.host.legacy(blkio) != nil {
		b.ServiceBytes = g.blkioEntries("service_bytes")
		b.Serviced = g.blkioEntries("serviced")
		return
	}
	b.ServiceBytes, b.Serviced = parseIOStat(g.read("io", "io.stat"))
}

// blkioEntries reads a table of version 1, which a scheduler or the throttling
// layer keeps.
func (g *Group) blkioEntries(what string) []BlockIOEntry {
	for _, file := range []string{"blkio.bfq.io_" + what + "_recursive", "blkio.throttle.io_" + what + "_recursive", "blkio.throttle.io_" + what} {
		if list := parseBlkio(g.read(blkio, file)); len(list) > 0 {
			return list
		}
	}
	return nil
}

// parseBlkio reads lines of "major:minor operation number".
func parseBlkio(text string) []BlockIOEntry {
	var list []BlockIOEntry
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		e, ok := device(f[0])
		n, isNumber := parseUint(f[2])
		if ok && isNumber {
			e.Op, e.Value = f[1], n
			list = append(list, e)
		}
	}
	return list
}

func device(text string) (e BlockIOEntry, ok bool) {
	major, minor, ok := strings.Cut(text, ":")
	if !ok {
		return e, false
	}
	var okMajor, okMinor bool
	e.Major, okMajor = parseUint(major)
	e.Minor, okMinor = parseUint(minor)
	return e, okMajor && okMinor
}

// parseIOStat reads io.stat: "major:minor key=number ...".
func parseIOStat(text string) (bytes, operations []BlockIOEntry) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		e, ok := device(f[0])
		if !ok {
			continue
		}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			n, isNumber := parseUint(value)
			op, to := "", &bytes
			switch key {
			case "rbytes":
				op = "Read"
			case "wbytes":
				op = "Write"
			case "rios":
				op, to = "Read", &operations
			case "wios":
				op, to = "Write", &operations
			}
			if op != "" && isNumber {
				e.Op, e.Value = op, n
				*to = append(*to, e)
			}
		}
	}
	return bytes, operations
}

func (g *Group) hugetlbStats(m map[string]HugetlbStats) {
	dir, v2, err := g.dir("hugetlb")
	if err != nil {
		return
	}
	usage, peak, failed := "usage_in_bytes", "max_usage_in_bytes", "failcnt"
	if v2 {
		usage, peak = "current", ""
	}
	files, _ := filepath.Glob(filepath.Join(dir, "hugetlb.*."+usage))
	for _, file := range files {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "hugetlb."), "."+usage)
		if strings.Contains(size, ".") { // reservations
			continue
		}
		var s HugetlbStats
		s.Usage, _ = parseUint(g.read("hugetlb", "hugetlb."+size+"."+usage))
		if v2 {
			s.Failcnt = flat(g.read("hugetlb", "hugetlb."+size+".events"))["max"]
		} else {
			s.Max, _ = parseUint(g.read("hugetlb", "hugetlb."+size+"."+peak))
			s.Failcnt, _ = parseUint(g.read("hugetlb", "hugetlb."+size+"."+failed))
		}
		m[size] = s
	}
}

// OOMKills returns how many processes of the group the kernel ended because
// memory ran out.
func (g *Group) OOMKills() (uint64, error) {
	dir, v2, err := g.dir("memory")
	if err != nil {
		return 0, err
	}
	file := "memory.oom_control"
	if v2 {
		file = "memory.events"
	}
	text, err := readFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	return flat(string(text))["oom_kill"], nil
}
