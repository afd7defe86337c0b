package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/spec"
)

// A container of the isolation chroot has no namespaces: it is a process whose
// root is Root.Upper, a directory in which the caller has put all that the step
// needs. What keeps it there, and how much of that depends on the kernel:
//
//   - chroot(2), and neither a capability nor a system call to leave it;
//   - no descriptors but the standard streams, no environment but the spec's;
//   - the default seccomp profile, made narrower by [spec.Chroot];
//   - Landlock: no file but those below the root (Linux 5.19, whose version 2
//     lets files move between directories), no signals to processes outside and
//     no abstract sockets of theirs (6.12);
//   - a reaper that ends all that is left when the step has.
//
// Where not even chroot(2) is allowed, package trace translates the paths of the
// step's system calls instead, and Landlock alone keeps it inside.
//
// The step shares the machine's network, host name, process numbers and System V
// IPC, and there is no /proc.

// runChroot runs a container without namespaces.
func runChroot(ctx context.Context, c *Container) (Status, error) {
	if err := context.Cause(ctx); err != nil {
		return Status{}, err
	}
	b, err := newJail(c)
	if err != nil {
		return Status{}, err
	}
	if Traced() {
		return runTraced(ctx, b)
	}
	return b.execute(ctx)
}

// newJail checks the container and plans it.
func newJail(c *Container) (*planner, error) {
	b := &planner{c: c}
	if err := spec.CheckChroot(c.Spec); err != nil {
		return nil, err
	}
	switch {
	case c.Emulator != nil:
		return nil, errors.New("emulation of another platform needs namespaces, which the isolation chroot doesn't have: build on such a machine, or register an emulator on the host (Debian: apt-get install qemu-user-static binfmt-support)")
	case len(c.Root.Lower) > 0 || !path.IsAbs(c.Root.Upper):
		return nil, errors.New("root: a container without namespaces takes one directory")
	case len(c.Trees)+len(c.Files) > 0:
		return nil, errors.New("trees and files can't be mounted without a mount namespace")
	}
	b.plan.Jail.Root = c.Root.Upper
	b.plan.Jail.ReadOnly = c.Spec.Root != nil && c.Spec.Root.Readonly
	b.plan.Jail.Landlock = landlockVersion()
	if err := b.process(); err != nil {
		return nil, err
	}
	if _, own, err := ownCapabilities(); err != nil || own>>unix.CAP_SYS_ADMIN&1 == 0 {
		b.plan.Process.NoNewPrivs = true // without it only CAP_SYS_ADMIN may load a filter
	}
	return b, nil
}

// landlockVersion asks the kernel; 0: it has no Landlock, or a filter forbids it.
func landlockVersion() uint64 {
	const version = 1
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	if errno != 0 {
		return 0
	}
	return uint64(n)
}

// jailed reports whether the child ends by the end of its control stream.
func (b *planner) jailed() bool { return b.plan.Jail.Root != "" }

// startJailed starts the child of a jail. It is not killed with this process,
// as what the step left must go before it. Nothing in the jail can reach the
// child's executable by /proc, so that there is no need for a copy of it.
func (p *process) startJailed(files []*os.File) error {
	attr := &os.ProcAttr{Env: childEnvironment(), Files: files}
	var err error
	if p.os, err = os.StartProcess("/proc/self/exe", []string{"bk-child"}, attr); err != nil {
		return fmt.Errorf("start a process: %w", cause(err))
	}
	return p.enter(false)
}

// kill ends the container.
func (p *process) kill() {
	if p.plan.jailed() {
		p.hangUp()
		return
	}
	_ = p.os.Kill() // the process may be gone already
}

// hangUp closes this side of the control stream for writing.
func (p *process) hangUp() {
	raw, err := p.control.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
	if err != nil {
		_ = p.os.Signal(syscall.SIGKILL)
	}
}
