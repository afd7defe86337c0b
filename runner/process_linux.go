package runner

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/child"
)

// defaultPath is searched when the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process plans the command.
func (b *planner) process() error {
	p, q := b.c.Spec.Process, &b.plan.Process
	if len(p.Args) == 0 || p.Args[0] == "" {
		return errors.New("spec: process has no arguments")
	}
	for _, s := range append(append([]string{p.Cwd}, p.Args...), p.Env...) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("spec: zero byte in argument or environment %q", s)
		}
	}
	if !path.IsAbs(p.Cwd) {
		return fmt.Errorf("spec: working directory %q is not absolute", p.Cwd)
	}
	q.Argv, q.Env, q.Cwd = p.Args, environment(p), p.Cwd
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
	if err := b.capabilities(); err != nil {
		return err
	}
	if err := b.rlimits(); err != nil {
		return err
	}
	return b.filter()
}

// environment adds HOME, which shells expect, when the spec lacks it.
func environment(p *specs.Process) []string {
	for _, e := range p.Env {
		if strings.HasPrefix(e, "HOME=") {
			return p.Env
		}
	}
	home := "HOME=/"
	if p.User.UID == 0 {
		home = "HOME=/root"
	}
	return append(p.Env[:len(p.Env):len(p.Env)], home)
}

// candidates are the paths at which a command may be, in the order in which
// they are tried inside of the container.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	search := defaultPath
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

// capabilityNames are the kernel's, by number.
func capabilityNames() []string {
	return []string{
		"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
		"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
		"IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
		"SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
		"LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
		"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
	}
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
	known := capabilityNames()
	for _, name := range names {
		n := -1
		for i, k := range known {
			if name == "CAP_"+k {
				n = i
			}
		}
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

// rlimits plans the limits that differ from what the child inherits.
func (b *planner) rlimits() error {
	names := []string{
		"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK",
		"AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
	}
	for _, r := range b.c.Spec.Process.Rlimits {
		n := -1
		for i, name := range names {
			if r.Type == "RLIMIT_"+name {
				n = i
			}
		}
		if n < 0 || r.Soft > r.Hard {
			return fmt.Errorf("spec: resource limit %s with soft limit %d and hard limit %d", r.Type, r.Soft, r.Hard)
		}
		var now unix.Rlimit
		if err := unix.Prlimit(0, n, nil, &now); err != nil {
			return fmt.Errorf("get resource limit %s: %w", r.Type, err)
		}
		if n != unix.RLIMIT_NOFILE && now.Cur == r.Soft && now.Max == r.Hard {
			continue
		}
		b.plan.Process.Rlimits = append(b.plan.Process.Rlimits,
			child.Rlimit{Resource: uint64(n), Soft: r.Soft, Hard: r.Hard})
	}
	return nil
}
