package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/trace"
)

// Traced reports whether this process may not change roots, so that the paths of
// the system calls of a step without namespaces have to be translated. Such a
// step sees /proc, /sys and the devices of the machine, whatever is in its root.
func Traced() bool {
	_, own, err := ownCapabilities()
	return err == nil && own>>unix.CAP_SYS_CHROOT&1 == 0
}

// runTraced runs a container where not even the root can be changed.
func runTraced(ctx context.Context, b *planner) (status Status, err error) {
	c := b.c
	confined := new(confined)
	if l := c.Spec.Linux; l.Resources != nil || l.CgroupsPath != "" {
		if confined, err = b.confine(); err != nil {
			return Status{}, err
		}
	}
	defer func() {
		status.OOM = confined.ranOut()
		if errClose := confined.close(); err == nil && errClose != nil {
			err = fmt.Errorf("end the container's cgroup: %w", errClose)
		}
	}()
	private, err := privateDir(c.Root.Upper)
	if err != nil {
		return Status{}, fmt.Errorf("make a directory for the tracer: %w", err)
	}
	defer os.RemoveAll(private)
	ours := *c // whoever the step believes to be, the pipes are this user's
	process := *c.Spec.Process
	process.User.UID, process.User.GID = 0, 0
	spec := *c.Spec
	spec.Process = &process
	ours.Spec = &spec
	streams, err := openStreams(&ours)
	if err != nil {
		return Status{}, err
	}
	o := b.traceOptions(private)
	o.Stdin, o.Stdout, o.Stderr = streams.stdin, streams.stdout, streams.stderr
	o.Started = func(pid int) error {
		streams.started()
		if confined.Group == nil {
			return nil
		}
		return confined.AddProcess(pid)
	}
	ended, err := trace.Run(ctx, o)
	streams.started()
	status = Status{Code: ended.Code, Signal: ended.Signal}
	if e := new(trace.ExecError); errors.As(err, &e) {
		failed := execError(c, errno(e.Err), false)
		status, err = Status{Code: 126}, failed
		if x := new(ExecError); errors.As(failed, &x) {
			status.Code = x.Code
		}
	}
	if errStream := streams.wait(); err == nil && errStream != nil {
		err = fmt.Errorf("copy the container's output: %w", errStream)
	}
	return status, err
}

func errno(err error) syscall.Errno {
	if n := syscall.Errno(0); errors.As(err, &n) {
		return n
	}
	return syscall.EIO
}

// traceOptions turns the plan into the tracer's.
func (b *planner) traceOptions(private string) trace.Options {
	p := &b.plan.Process
	o := trace.Options{
		Root: b.c.Root.Upper, Private: private,
		ReadOnly: b.plan.Jail.ReadOnly,
		Paths:    p.Paths, Argv: p.Argv, Env: p.Env, Cwd: p.Cwd,
		UID: uint32(p.UID), GID: uint32(p.GID), Umask: int(p.Umask),
		Filter: []byte(p.Filter), FilterFlags: p.FilterFlags,
		Signals: b.c.Signals, Grace: b.c.Grace,
	}
	for _, g := range p.Groups {
		o.Groups = append(o.Groups, uint32(g))
	}
	for _, r := range p.Rlimits {
		o.Rlimits = append(o.Rlimits, trace.Rlimit{Resource: int(r.Resource), Soft: r.Soft, Hard: r.Hard})
	}
	return o
}

// privateDir makes a directory of the step's own: where temporary files are, as
// paths of sockets are short, or beside the root when programs can't be
// executed there.
func privateDir(root string) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &fs); err == nil && fs.Flags&unix.ST_NOEXEC == 0 {
		if dir, err := os.MkdirTemp("", ".bk-"); err == nil {
			return dir, nil
		}
	}
	return os.MkdirTemp(filepath.Dir(root), ".bk-")
}
