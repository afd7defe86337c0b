package runner

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/cgroup"
	"bk.build/bk/runner/child"
	"bk.build/bk/runner/spec"
)

// process plans the command.
func (b *planner) process() error {
	p, q := b.c.Spec.Process, &b.plan.Process
	q.Argv, q.Env, q.Cwd = p.Args, p.Env, p.Cwd
	q.Paths = candidates(p.Args[0], q.Env)
	q.UID, q.GID = uint64(p.User.UID), uint64(p.User.GID)
	for _, g := range p.User.AdditionalGids {
		q.Groups = append(q.Groups, uint64(g))
	}
	q.Umask = 0o022
	if p.User.Umask != nil {
		q.Umask = uint64(*p.User.Umask)
	}
	q.NoNewPrivs = p.NoNewPrivileges
	if p.OOMScoreAdj != nil {
		b.plan.OOMScoreAdj = strconv.Itoa(*p.OOMScoreAdj)
	}
	if b.detached {
		if err := b.scheduling(); err != nil {
			return err
		}
	}
	if err := b.capabilities(); err != nil {
		return err
	}
	if err := b.rlimits(); err != nil {
		return err
	}
	return b.filter()
}

// candidates are the paths at which a command may be, in the order in which
// they are tried inside of the container.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	search := spec.DefaultPath
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	var list []string
	for dir := range strings.SplitSeq(search, ":") {
		if path.IsAbs(dir) {
			list = append(list, path.Join(dir, name))
		}
	}
	return list
}

// capabilities plans the sets. What this process doesn't have itself can't be
// given; runtimes leave such capabilities out.
func (b *planner) capabilities() error {
	q := &b.plan.Process
	last, own, err := ownCapabilities()
	if err != nil {
		return err
	}
	q.LastCap = last
	caps := b.c.Spec.Process.Capabilities
	if caps == nil {
		return nil
	}
	for _, set := range []struct {
		names []string
		bits  *uint64
	}{
		{caps.Bounding, &q.Bounding}, {caps.Permitted, &q.Permitted}, {caps.Effective, &q.Effective},
		{caps.Inheritable, &q.Inheritable}, {caps.Ambient, &q.Ambient},
	} {
		if *set.bits, err = capabilityBits(set.names); err != nil {
			return err
		}
		*set.bits &= own
	}
	q.Effective &= q.Permitted
	q.Inheritable &= q.Permitted
	q.Ambient &= q.Inheritable
	return nil
}

func capabilityBits(names []string) (bits uint64, err error) {
	known := spec.AllCapabilities()
	for _, name := range names {
		n := slices.Index(known, name)
		if n < 0 {
			return 0, fmt.Errorf("spec: unknown capability %q", name)
		}
		bits |= 1 << n
	}
	return bits, nil
}

// ownCapabilities returns the kernel's last capability and the set that this
// process can pass on.
func ownCapabilities() (last, own uint64, err error) {
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, 0, err
	}
	if last, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 6); err != nil {
		return 0, 0, fmt.Errorf("/proc/sys/kernel/cap_last_cap: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, 0, fmt.Errorf("capget: %w", err)
	}
	return last, uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32, nil
}

// defaultNoFile is the soft limit of open files of a command whose spec sets
// none. It does not depend on the host, and programs that go through all
// possible descriptors stay fast.
const defaultNoFile = 1024

// rlimits plans the resource limits.
func (b *planner) rlimits() error {
	names := []string{
		"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK",
		"AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
	}
	var now unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &now); err != nil {
		return fmt.Errorf("get resource limits: %w", err)
	}
	limits := []child.Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: min(defaultNoFile, now.Max), Hard: now.Max}}
	for _, r := range b.c.Spec.Process.Rlimits {
		n := slices.Index(names, strings.TrimPrefix(r.Type, "RLIMIT_"))
		if n < 0 {
			return fmt.Errorf("spec: unknown resource limit %q", r.Type)
		}
		most, err := canRaise(n, r)
		if limit := (*cgroup.LimitError)(nil); errors.As(err, &limit) && b.c.Excuse != nil {
			b.c.Excuse(limit)
			r.Soft, r.Hard = min(r.Soft, most), most
		} else if err != nil {
			return err
		}
		limits = append(limits, child.Rlimit{Resource: uint64(n), Soft: r.Soft, Hard: r.Hard})
	}
	b.plan.Process.Rlimits = limits
	return nil
}

// canRaise explains early what the kernel would answer with a bare EPERM, and
// returns what hard limit there may be. A capability that counts is one of the
// machine's, not of a user namespace.
func canRaise(n int, r specs.POSIXRlimit) (most uint64, err error) {
	var now unix.Rlimit
	if err := unix.Prlimit(0, n, nil, &now); err != nil {
		return 0, fmt.Errorf("get resource limit %s: %w", r.Type, err)
	}
	_, own, err := ownCapabilities()
	if err != nil || r.Hard <= now.Max || own>>unix.CAP_SYS_RESOURCE&1 != 0 && initialUserNamespace() {
		return now.Max, err
	}
	return now.Max, &cgroup.LimitError{
		Limit: r.Type, Value: strconv.FormatUint(r.Hard, 10),
		Err: fmt.Errorf("the hard limit is above this process's own, %d: raise that, or run with CAP_SYS_RESOURCE", now.Max),
	}
}
