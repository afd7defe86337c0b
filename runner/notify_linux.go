package runner

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/child"
	"bk.build/bk/runner/host"
	"bk.build/bk/runner/notify"
)

// remembers reports whether the container's ids are remembered, not set.
func (b *planner) remembers() bool { return b.c.Isolation == host.SingleID }

// single turns the plan into one for a user namespace that holds one id.
func (b *planner) single() error {
	if !b.remembers() {
		return nil
	}
	code, flags, err := notify.Filter()
	if err != nil {
		return err
	}
	q := &b.plan.Process
	q.Notify, q.NotifyFlags, q.KeepGroups = string(code), flags, true
	q.UID, q.GID, q.Groups = 0, 0, nil
	// See package notify on what this limit is for.
	q.Rlimits = append(q.Rlimits, child.Rlimit{Resource: unix.RLIMIT_RTTIME, Soft: notify.FirstUser, Hard: unix.RLIM_INFINITY})
	for i := range b.plan.Mounts {
		m := &b.plan.Mounts[i]
		m.UID, m.GID = 0, 0
		m.Params = slices.DeleteFunc(slices.Clone(m.Params), func(s string) bool { // ids are all the same
			return strings.HasPrefix(s, "gid=") || strings.HasPrefix(s, "uid=")
		})
	}
	for i := range b.plan.Devices {
		b.plan.Devices[i].UID, b.plan.Devices[i].GID = 0, 0
	}
	return nil
}

// user returns who the container's command is.
func (b *planner) user() notify.Credentials {
	u := b.c.Spec.Process.User
	return notify.User(u.UID, u.GID, u.AdditionalGids)
}

// startNotify answers the container's system calls from now on.
func (p *process) startNotify() {
	if len(p.passed) == 0 || p.supervisor != nil {
		return // the child's fault
	}
	listener := os.NewFile(uintptr(p.passed[0]), "listener")
	p.passed = p.passed[1:]
	var err error
	p.supervisor, err = notify.New(listener, notify.Options{User: p.plan.user(), Links: p.plan.c.Links})
	if err != nil {
		p.reports.err = err
		p.kill()
	}
}

// endNotify closes what came from the child.
func (p *process) endNotify() {
	if p.supervisor != nil {
		p.supervisor.Close()
	}
	for _, fd := range p.passed {
		unix.Close(fd)
	}
}

// receiver reads the control stream, and keeps the descriptors that come with it.
type receiver struct{ p *process }

func (r receiver) Read(b []byte) (n int, err error) {
	raw, err := r.p.control.SyscallConn()
	if err != nil {
		return 0, err
	}
	var rights [64]byte
	var got int
	errRead := raw.Read(func(fd uintptr) bool {
		n, got, _, _, err = unix.Recvmsg(int(fd), b, rights[:], unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(err, unix.EAGAIN)
	})
	if err = errors.Join(err, errRead); err != nil {
		return 0, fmt.Errorf("listen to the child: %w", err)
	}
	if n == 0 && len(b) > 0 {
		return 0, os.ErrClosed
	}
	messages, err := unix.ParseSocketControlMessage(rights[:got])
	if err != nil {
		return n, nil
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			r.p.passed = append(r.p.passed, fds...)
		}
	}
	return n, nil
}
