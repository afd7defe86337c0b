package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxResources bounds the file of update in bytes.
const maxResources = 1 << 20

func (c *call) update(f *updateFlags, id string) error {
	r := new(specs.LinuxResources)
	if f.resources != "" {
		if err := readResources(f.resources, r); err != nil {
			return fmt.Errorf("update container %s: %w", id, err)
		}
	}
	if err := f.apply(r); err != nil {
		return &usageError{c.command, err}
	}
	return c.rt.Update(id, r)
}

func readResources(name string, r *specs.LinuxResources) error {
	in := os.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxResources+1))
	if err != nil {
		return err
	}
	if len(b) > maxResources {
		return fmt.Errorf("%s is longer than %d bytes", name, maxResources)
	}
	if err := json.Unmarshal(b, r); err != nil {
		return fmt.Errorf("resources in %s: %w", name, err)
	}
	return nil
}

// apply puts the flags that were given over the resources of the file.
func (f *updateFlags) apply(r *specs.LinuxResources) (err error) {
	for _, t := range []struct {
		flag, text string
		to         **int64
	}{{"memory", f.memoryText, &f.memory}, {"memory-reservation", f.reservationText, &f.reservation}, {"memory-swap", f.swapText, &f.swap}} {
		if t.text == "" {
			continue
		}
		n, err := parseBytes(t.text)
		if err != nil {
			return fmt.Errorf("invalid argument %q for --%s: %w", t.text, t.flag, err)
		}
		*t.to = &n
	}
	if f.memory != nil || f.reservation != nil || f.swap != nil {
		m := made(&r.Memory)
		put(&m.Limit, f.memory)
		put(&m.Reservation, f.reservation)
		put(&m.Swap, f.swap)
	}
	if f.pids != nil {
		made(&r.Pids).Limit = f.pids
	}
	if f.blkioWeight != nil {
		if *f.blkioWeight < 0 || *f.blkioWeight > math.MaxUint16 {
			return fmt.Errorf("invalid argument %d for --blkio-weight", *f.blkioWeight)
		}
		weight := uint16(*f.blkioWeight)
		made(&r.BlockIO).Weight = &weight
	}
	return f.applyCPU(r)
}

func (f *updateFlags) applyCPU(r *specs.LinuxResources) error {
	cpu := specs.LinuxCPU{}
	if r.CPU != nil {
		cpu = *r.CPU
	}
	put(&cpu.Quota, f.cpuQuota)
	put(&cpu.Idle, f.cpuIdl)
	put(&cpu.RealtimeRuntime, f.cpuRealtimeRuntime)
	for _, u := range []struct {
		flag string
		from *int64
		to   **uint64
	}{{"cpu-shares", f.cpuShares, &cpu.Shares}, {"cpu-period", f.cpuPeriod, &cpu.Period}, {"cpu-burst", f.cpuBurst, &cpu.Burst}, {"cpu-rt-period", f.cpuRealtimePeriod, &cpu.RealtimePeriod}} {
		if u.from == nil {
			continue
		}
		if *u.from < 0 {
			return fmt.Errorf("invalid argument %d for --%s: must not be negative", *u.from, u.flag)
		}
		n := uint64(*u.from)
		*u.to = &n
	}
	if f.cpus != "" {
		cpu.Cpus = f.cpus
	}
	if f.mems != "" {
		cpu.Mems = f.mems
	}
	if cpu != (specs.LinuxCPU{}) {
		r.CPU = &cpu
	}
	return nil
}

// made returns what p points to, made when it's missing.
func made[T any](p **T) *T {
	if *p == nil {
		*p = new(T)
	}
	return *p
}

func put[T any](to **T, from *T) {
	if from != nil {
		*to = from
	}
}

// parseBytes parses a number of bytes with one of the suffixes k, m, g, t.
func parseBytes(s string) (int64, error) {
	digits, shift := strings.TrimSuffix(strings.ToLower(s), "b"), 0
	if last := len(digits) - 1; last > 0 {
		if i := strings.IndexByte("kmgt", digits[last]); i >= 0 {
			digits, shift = digits[:last], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < -1 || n > math.MaxInt64>>shift {
		return 0, errors.New("must be a number of bytes, with k, m, g or t behind it or not, or -1")
	}
	return n << shift, nil
}
