package builder

import (
	"fmt"
	"path"
	"time"

	"github.com/docker/go-units"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/runner/cgroup"
)

// TimeoutError reports that a step, or the whole build, took longer than it
// may. It is the cause of the context that ended it.
type TimeoutError struct {
	// Build tells that the time was the build's, not the step's own.
	Build bool
	Limit time.Duration
}

func (e *TimeoutError) Error() string {
	what := "the step"
	if e.Build {
		what = "the build"
	}
	return fmt.Sprintf("%s took longer than %s and was stopped", what, e.Limit)
}

// Timeout makes it what other timeouts are: see net.Error.
func (e *TimeoutError) Timeout() bool { return true }

// resources are the limits of the step: the build's, with those that the
// frontend gave to it instead.
func (s *step) resources() specs.LinuxResources {
	r := s.n.b.opts.Resources
	own := s.n.v.Resources
	if own == nil {
		return r
	}
	memory, cpu := clone(r.Memory), clone(r.CPU)
	set(&memory.Limit, own.Memory)
	set(&memory.Swap, own.MemorySwap)
	set(&cpu.Shares, own.CpuShares)
	set(&cpu.Period, own.CpuPeriod)
	set(&cpu.Quota, own.CpuQuota)
	if own.CpusetCpus != "" {
		cpu.Cpus = own.CpusetCpus
	}
	if own.CpusetMems != "" {
		cpu.Mems = own.CpusetMems
	}
	r.Memory, r.CPU = &memory, &cpu
	return r
}

func clone[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// set replaces a limit by one that is there.
func set[T int64 | uint64](to **T, v T) {
	if v != 0 {
		*to = &v
	}
}

// cgroupsPath is where the step's cgroup comes, below the parent that the user
// named; empty: wherever this process may make it. A parent is the path of a
// group on the machine, as for BuildKit, with or without a slash in front.
func (s *step) cgroupsPath() (string, error) {
	parent := s.op.Meta.CgroupParent
	if parent == "" {
		return "", nil
	}
	p, err := s.n.b.cgroups.Path(path.Join("/", parent))
	if err != nil {
		return "", fmt.Errorf("cgroup parent: %w", err)
	}
	return p, nil
}

// CheckCgroupParent checks the path below which steps are to have their cgroups.
func CheckCgroupParent(parent string) error {
	if path.Clean("/"+parent) == "/" {
		return nil
	}
	return cgroup.CheckPath(parent)
}

// excuse returns what is told of limits that cannot be applied; nil: the step
// fails.
func (s *step) excuse() func(error) {
	if !s.n.b.opts.LimitsBestEffort {
		return nil
	}
	return func(err error) {
		s.n.event.warn(fmt.Sprintf("%s: runs without a limit: %v", s.n.v.Name, err))
	}
}

// memoryLimit words the step's limit of memory.
func (s *step) memoryLimit() string {
	m := s.resources().Memory
	if m == nil || m.Limit == nil || *m.Limit <= 0 {
		return "limit, which is not the step's own" // of a parent
	}
	return "limit of " + units.CustomSize("%.4g %s", float64(*m.Limit), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB"})
}
