package runner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/child"
)

// scheduling plans what only an OCI runtime's process can have: a scheduler, an
// I/O priority, processors, a memory policy, a personality and labels.
func (b *planner) scheduling() (err error) {
	p, q := b.c.Spec.Process, &b.plan.Process
	if q.Scheduler, err = schedulerAttr(p.Scheduler); err != nil {
		return err
	}
	if p.IOPriority != nil {
		class, ok := map[specs.IOPriorityClass]uint64{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}[p.IOPriority.Class]
		if !ok || p.IOPriority.Priority < 0 || p.IOPriority.Priority > 7 {
			return fmt.Errorf("spec: process.ioPriority %s, %d is not valid", p.IOPriority.Class, p.IOPriority.Priority)
		}
		q.IOPriority = 1 + (class<<13 | uint64(p.IOPriority.Priority))
	}
	if a := p.ExecCPUAffinity; a != nil {
		list := a.Final
		if list == "" {
			list = a.Initial
		}
		if q.CPUs, err = bitList(list); err != nil {
			return fmt.Errorf("spec: process.execCPUAffinity: %w", err)
		}
	}
	if err := b.labels(); err != nil {
		return err
	}
	l := b.c.Spec.Linux
	if l == nil {
		return nil
	}
	if l.Personality != nil {
		domain, ok := map[specs.LinuxPersonalityDomain]uint64{specs.PerLinux: 0, specs.PerLinux32: 8}[l.Personality.Domain]
		if !ok || len(l.Personality.Flags) > 0 {
			return fmt.Errorf("spec: linux.personality %s with flags %v is unknown", l.Personality.Domain, l.Personality.Flags)
		}
		q.Personality = 1 + domain
	}
	if l.IntelRdt != nil {
		if err := b.resctrl().check(); err != nil {
			return err
		}
	}
	return b.memoryPolicy(l.MemoryPolicy)
}

func (b *planner) resctrl() resctrl {
	return resctrl{root: resctrlRoot, want: b.c.Spec.Linux.IntelRdt, id: b.c.ID}
}

// schedulerAttr is a struct sched_attr of 56 bytes, sched_setattr(2).
func schedulerAttr(s *specs.Scheduler) (string, error) {
	if s == nil {
		return "", nil
	}
	policy, ok := map[specs.LinuxSchedulerPolicy]uint32{
		specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedISO: 4, specs.SchedIdle: 5, specs.SchedDeadline: 6,
	}[s.Policy]
	if !ok {
		return "", fmt.Errorf("spec: process.scheduler: policy %q is unknown", s.Policy)
	}
	flags := uint64(0)
	for _, f := range s.Flags {
		bit, ok := map[specs.LinuxSchedulerFlag]uint64{
			specs.SchedFlagResetOnFork: 1, specs.SchedFlagReclaim: 2, specs.SchedFlagDLOverrun: 4, specs.SchedFlagKeepPolicy: 8,
			specs.SchedFlagKeepParams: 16, specs.SchedFlagUtilClampMin: 32, specs.SchedFlagUtilClampMax: 64,
		}[f]
		if !ok {
			return "", fmt.Errorf("spec: process.scheduler: flag %q is unknown", f)
		}
		flags |= bit
	}
	b := binary.NativeEndian.AppendUint32(nil, 56)
	b = binary.NativeEndian.AppendUint32(b, policy)
	b = binary.NativeEndian.AppendUint64(b, flags)
	b = binary.NativeEndian.AppendUint32(b, uint32(s.Nice))
	b = binary.NativeEndian.AppendUint32(b, uint32(s.Priority))
	for _, v := range []uint64{s.Runtime, s.Deadline, s.Period, 0} {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return string(b), nil
}

// maxBit bounds the numbers of processors and memory nodes.
const maxBit = 8192

// bitList parses a list such as "0-3,7" into a mask.
func bitList(list string) (mask []uint64, err error) {
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("list %q: %w", list, err)
		}
		to, err := strconv.ParseUint(last, 10, 16)
		if err != nil || from > to || to >= maxBit {
			return nil, fmt.Errorf("list %q: %s is not a range below %d", list, part, maxBit)
		}
		for n := from; n <= to; n++ {
			for uint64(len(mask)) <= n/64 {
				mask = append(mask, 0)
			}
			mask[n/64] |= 1 << (n % 64)
		}
	}
	return mask, nil
}

// memoryPolicy is for set_mempolicy(2).
func (b *planner) memoryPolicy(m *specs.LinuxMemoryPolicy) (err error) {
	if m == nil {
		return nil
	}
	mode, ok := map[specs.MemoryPolicyModeType]uint64{
		specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4,
		specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
	}[m.Mode]
	if !ok {
		return fmt.Errorf("spec: linux.memoryPolicy: mode %q is unknown", m.Mode)
	}
	for _, f := range m.Flags {
		bit, ok := map[specs.MemoryPolicyFlagType]uint64{specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13}[f]
		if !ok {
			return fmt.Errorf("spec: linux.memoryPolicy: flag %q is unknown", f)
		}
		mode |= bit
	}
	b.plan.Process.MemoryMode = 1 + mode
	if m.Nodes != "" {
		if b.plan.Process.MemoryNodes, err = bitList(m.Nodes); err != nil {
			return fmt.Errorf("spec: linux.memoryPolicy: %w", err)
		}
	}
	return nil
}

// labels plans the labels of security modules, which the kernel must have.
func (b *planner) labels() error {
	p := b.c.Spec.Process
	if p.ApparmorProfile != "" {
		enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		if err != nil || !strings.HasPrefix(string(enabled), "Y") {
			return fmt.Errorf("spec: process.apparmorProfile %q: AppArmor is not enabled on this machine", p.ApparmorProfile)
		}
		b.plan.Process.Labels = append(b.plan.Process.Labels, child.Label{File: "apparmor/exec", Value: "exec " + p.ApparmorProfile})
	}
	if p.SelinuxLabel == "" && (b.c.Spec.Linux == nil || b.c.Spec.Linux.MountLabel == "") {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/selinux", &fs); err != nil || fs.Type != unix.SELINUX_MAGIC {
		return errors.New("spec: a label of SELinux is given, but SELinux is not enabled on this machine")
	}
	if p.SelinuxLabel != "" {
		b.plan.Process.Labels = append(b.plan.Process.Labels, child.Label{File: "exec", Value: p.SelinuxLabel})
	}
	return nil
}
