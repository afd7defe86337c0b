package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/buildkit/util/cpuset"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"

	"bk.build/bk/builder"
)

// limitFlags are the flags of bk build for what steps may use, as they were
// typed. Each limit also has a name for --resource.
type limitFlags struct {
	values    map[string]*string // by flag
	resources []string

	cpus, mode, parent   string
	shmSize              string
	ulimits              []string
	timeout, stepTimeout time.Duration
}

// resourceNames are the names that --resource takes, which are flags too.
func resourceNames() []string {
	return []string{"memory", "memory-swap", "cpu-shares", "cpu-quota", "cpu-period", "cpuset-cpus", "cpuset-mems", "pids-limit"}
}

// register declares the flags with the names of docker build.
func (f *limitFlags) register(set *pflag.FlagSet) {
	set.StringVar(&f.shmSize, "shm-size", "", "make /dev/shm of `SIZE`, such as 128m")
	set.StringArrayVar(&f.ulimits, "ulimit", nil, "limit steps: `NAME=SOFT[:HARD]`")
	f.values = map[string]*string{}
	for _, name := range resourceNames() {
		f.values[name] = new(string)
	}
	set.StringVarP(f.values["memory"], "memory", "m", "", "let a step have memory of `SIZE`, such as 512m")
	set.StringVar(f.values["memory-swap"], "memory-swap", "", "let a step have memory and swap of `SIZE` together; -1: any swap")
	set.StringVar(&f.cpus, "cpus", "", "let a step have the time of `N` processors, such as 1.5")
	set.StringVarP(f.values["cpu-shares"], "cpu-shares", "c", "", "`WEIGHT` of a step beside other processes (default 1024)")
	set.StringVar(f.values["cpu-quota"], "cpu-quota", "", "let a step have processors for `MICROSECONDS` in each period")
	set.StringVar(f.values["cpu-period"], "cpu-period", "", "the period of --cpu-quota in `MICROSECONDS` (default 100000)")
	set.StringVar(f.values["cpuset-cpus"], "cpuset-cpus", "", "let a step use processors of `LIST`, such as 0-2,7")
	set.StringVar(f.values["cpuset-mems"], "cpuset-mems", "", "let a step use memory nodes of `LIST`")
	set.StringVar(f.values["pids-limit"], "pids-limit", "", "let a step have `N` processes; -1: any number")
	set.StringArrayVar(&f.resources, "resource", nil, "limit steps: `NAME=VALUE`, where NAME is memory, memory-swap, cpu-shares, ... as above")
	set.StringVar(&f.parent, "cgroup-parent", "", "put steps into control groups below `PATH`")
	set.StringVar(&f.mode, "limits", limitsRequired, "when a limit cannot be applied: `MODE` required fails, best-effort warns")
	set.DurationVar(&f.stepTimeout, "step-timeout", 0, "stop a step, and fail, after `DURATION`, such as 10m")
	set.DurationVar(&f.timeout, "timeout", 0, "stop the build, and fail, after `DURATION`")
}

// Modes of --limits.
const (
	limitsRequired   = "required"
	limitsBestEffort = "best-effort"
)

// stepLimits is what the flags come to.
type stepLimits struct {
	resources            specs.LinuxResources
	bestEffort           bool
	timeout, stepTimeout time.Duration
}

// plan checks all values.
func (f *limitFlags) plan(p *buildPlan) error {
	if f.shmSize != "" {
		size, err := units.RAMInBytes(f.shmSize)
		if err != nil || size <= 0 {
			return fmt.Errorf("shm-size %q: want a size, such as 128m", f.shmSize)
		}
		p.options.ShmSize = size
	}
	for _, u := range f.ulimits {
		if _, err := units.ParseUlimit(u); err != nil {
			return fmt.Errorf("ulimit %q: %w", u, err)
		}
	}
	p.options.Ulimits, p.options.CgroupParent = f.ulimits, f.parent
	if err := checkParent(f.parent); err != nil {
		return err
	}
	switch f.mode {
	case "", limitsRequired:
	case limitsBestEffort:
		p.limits.bestEffort = true
	default:
		return fmt.Errorf("limits %q: must be %s or %s", f.mode, limitsRequired, limitsBestEffort)
	}
	if f.timeout < 0 || f.stepTimeout < 0 {
		return errors.New("a timeout must not be negative")
	}
	p.limits.timeout, p.limits.stepTimeout = f.timeout, f.stepTimeout
	values, err := f.collect()
	if err != nil {
		return err
	}
	return p.limits.parse(values, f.cpus)
}

// collect joins the flags of their own and --resource.
func (f *limitFlags) collect() (map[string]string, error) {
	values := map[string]string{}
	for name, v := range f.values {
		if *v != "" {
			values[name] = *v
		}
	}
	for _, r := range f.resources {
		name, value, ok := strings.Cut(r, "=")
		if !ok || value == "" || !slices.Contains(resourceNames(), name) {
			return nil, fmt.Errorf("resource %q: want NAME=VALUE, where NAME is one of %s", r, strings.Join(resourceNames(), ", "))
		}
		if _, twice := values[name]; twice {
			return nil, fmt.Errorf("resource %q: %s is given twice", r, name)
		}
		values[name] = value
	}
	return values, nil
}

// parse fills the resources.
func (l *stepLimits) parse(values map[string]string, cpus string) error {
	var memory specs.LinuxMemory
	var cpu specs.LinuxCPU
	for _, step := range []func() error{
		func() error { return parseSize(values, "memory", &memory.Limit, 1) },
		func() error { return parseSize(values, "memory-swap", &memory.Swap, -1) },
		func() error { return parseNumber(values, "cpu-shares", &cpu.Shares, 2, 1<<18) },
		func() error { return parseNumber(values, "cpu-quota", &cpu.Quota, 1000, math.MaxInt64) },
		func() error { return parseNumber(values, "cpu-period", &cpu.Period, 1000, 1000000) },
		func() error { return parseList(values, "cpuset-cpus", &cpu.Cpus) },
		func() error { return parseList(values, "cpuset-mems", &cpu.Mems) },
		func() error { return parseCPUs(cpus, &cpu) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if s := memory.Swap; s != nil && *s > 0 && (memory.Limit == nil || *s < *memory.Limit) {
		return fmt.Errorf("memory-swap %s: is memory and swap together: --memory must be given, and not be more", values["memory-swap"])
	}
	if memory.Swap != nil && memory.Limit == nil {
		return errors.New("memory-swap: needs --memory")
	}
	if memory != (specs.LinuxMemory{}) {
		l.resources.Memory = &memory
	}
	if cpu != (specs.LinuxCPU{}) {
		l.resources.CPU = &cpu
	}
	var pids *int64
	if err := parseNumber(values, "pids-limit", &pids, -1, 1<<22); err != nil {
		return err
	}
	if pids != nil {
		l.resources.Pids = &specs.LinuxPids{Limit: pids}
	}
	return nil
}

// parseSize parses a number of bytes; -1 means no limit where least allows it.
func parseSize(values map[string]string, name string, to **int64, least int64) error {
	v, ok := values[name]
	if !ok {
		return nil
	}
	n, err := units.RAMInBytes(v)
	if v == "-1" {
		n, err = -1, nil
	}
	if err != nil || n == 0 || n < least {
		return fmt.Errorf("%s %q: want a size, such as 512m", name, v)
	}
	*to = &n
	return nil
}

// parseNumber parses a whole number.
func parseNumber[T int64 | uint64](values map[string]string, name string, to **T, least, most int64) error {
	v, ok := values[name]
	if !ok {
		return nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < least || n > most || n == 0 {
		if most == math.MaxInt64 {
			return fmt.Errorf("%s %q: want a number, at least %d", name, v, least)
		}
		return fmt.Errorf("%s %q: want a number from %d to %d", name, v, least, most)
	}
	t := T(n)
	*to = &t
	return nil
}

// parseList parses numbers of processors or memory nodes.
func parseList(values map[string]string, name string, to *string) error {
	v, ok := values[name]
	if !ok {
		return nil
	}
	if err := cpuset.Validate(v); err != nil {
		return fmt.Errorf("%s %q: want a list, such as 0-2,7", name, v)
	}
	*to = v
	return nil
}

// maxCPUs bounds --cpus.
const maxCPUs = 1 << 16

// parseCPUs makes a number of processors a quota.
func parseCPUs(v string, cpu *specs.LinuxCPU) error {
	if v == "" {
		return nil
	}
	if cpu.Quota != nil {
		return errors.New("cpus: is --cpu-quota for people: give one of them")
	}
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || !(n >= 0.01 && n <= maxCPUs) {
		return fmt.Errorf("cpus %q: want a number of processors, such as 1.5", v)
	}
	period := uint64(100000)
	if cpu.Period != nil {
		period = *cpu.Period
	}
	quota := max(int64(math.Round(n*float64(period))), 1000) // the kernel's least
	cpu.Period, cpu.Quota = &period, &quota
	return nil
}

// checkParent refuses what the builder would only refuse at the first step.
func checkParent(parent string) error {
	if parent == "" {
		return nil
	}
	if err := builder.CheckCgroupParent(parent); err != nil {
		return fmt.Errorf("cgroup-parent %q: %w", parent, err)
	}
	return nil
}
