package runner

import (
	"errors"
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/cgroup"
	"bk.build/bk/runner/child"
)

// confined is a container's cgroup for the time of its run. The zero value is
// none.
type confined struct {
	*cgroup.Group
	release func() error
	// counts tells that the kernel's kills for want of memory are counted for
	// this container alone; kills is how many there were before it.
	counts bool
	kills  uint64
}

// confine makes the cgroup that the spec asks for, by a path or by resources.
func (b *planner) confine() (*confined, error) {
	l := b.c.Spec.Linux
	r := specs.LinuxResources{}
	if l.Resources != nil {
		r = *l.Resources
	}
	if len(r.Devices) > 0 && !initialUserNamespace() {
		r.Devices = nil // no device can be made there, and none that was made be opened
	}
	f, err := b.group(&r)
	limits, only := cgroup.LimitErrors(err)
	if !only {
		return nil, errors.Join(err, f.close())
	}
	var fatal []error
	for _, e := range limits {
		switch {
		case e.Limit == "devices":
			b.withoutDevices()
		case b.c.Excuse != nil:
			b.c.Excuse(e)
		default:
			fatal = append(fatal, e)
		}
	}
	if len(fatal) > 0 {
		return nil, errors.Join(append(fatal, f.close())...)
	}
	if f.Group == nil {
		return f, nil
	}
	// A namespace of cgroups starts where a process is when it's made: the
	// child makes it, when it's in its place.
	if b.flags&unix.CLONE_NEWCGROUP != 0 {
		b.flags &^= unix.CLONE_NEWCGROUP
		b.plan.CgroupNamespace = true
	}
	return f, nil
}

// group makes the cgroup and applies r.
func (b *planner) group(r *specs.LinuxResources) (*confined, error) {
	l := b.c.Spec.Linux
	f := &confined{}
	var err error
	if b.c.hideCgroups {
		return f, &cgroup.LimitError{Limit: "devices", Err: os.ErrPermission}
	}
	if l.CgroupsPath != "" {
		host, errHost := cgroup.Detect()
		if errHost != nil {
			return f, errHost
		}
		if f.Group, err = host.Create(l.CgroupsPath); err != nil {
			f.Group = nil
			return f, err
		}
		f.release = func() error { return errors.Join(f.Kill(), f.Delete()) }
		err = f.Apply(r, l.Devices...)
	} else {
		own := b.c.Cgroups
		if own == nil {
			own = new(cgroup.Own)
		}
		if f.Group, err = own.Group(r, l.Devices); f.Group == nil {
			return f, err
		}
		f.release = func() error {
			err := own.Release(f.Group)
			if b.c.Cgroups == nil {
				err = errors.Join(err, own.Close())
			}
			return err
		}
	}
	if n, errKills := f.OOMKills(); errKills == nil {
		f.counts, f.kills = true, n
	}
	return f, err
}

// close kills what is left in the cgroup, and removes it.
func (f *confined) close() error {
	if f == nil || f.release == nil {
		return nil
	}
	return f.release()
}

// ranOut reports whether the kernel ended processes because memory ran out.
func (f *confined) ranOut() bool {
	if !f.counts {
		return false
	}
	n, err := f.OOMKills()
	return err == nil && n > f.kills
}

// withoutDevices is for a process that may not make cgroups: nothing tells
// then which devices a step may open. It can make none, and open none but
// those of its own /dev.
func (b *planner) withoutDevices() {
	p := &b.plan.Process
	for _, set := range []*uint64{&p.Bounding, &p.Permitted, &p.Effective, &p.Inheritable, &p.Ambient} {
		*set &^= 1 << unix.CAP_MKNOD
	}
	b.plan.RootNodev = true
	for i := range b.plan.Mounts {
		m := &b.plan.Mounts[i]
		if m.Kind == child.MountTree || m.Kind == child.MountBind && !isDevice(m.Source) {
			m.Set, m.Clear = m.Set|unix.MOUNT_ATTR_NODEV, m.Clear&^unix.MOUNT_ATTR_NODEV
			m.RecSet, m.RecClear = m.RecSet|unix.MOUNT_ATTR_NODEV, m.RecClear&^unix.MOUNT_ATTR_NODEV
		}
	}
}

func isDevice(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode()&os.ModeDevice != 0
}

// initialUserNamespace reports whether this process is in the namespace in
// which devices belong to root.
func initialUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(text))
	return err != nil || len(f) == 3 && f[0] == "0" && f[1] == "0" && f[2] == "4294967295"
}

// enter puts the child, which waits for its plan, into the cgroup.
func (p *process) enter(cloned bool) error {
	f := p.confined
	if f.Group == nil {
		return nil
	}
	join := f.AddProcess
	if cloned {
		join = f.AddCloned
	}
	if err := join(p.os.Pid); err != nil {
		_ = p.os.Kill()
		_, _ = p.os.Wait()
		return err
	}
	return nil
}

// cgroupFD opens the cgroup into which the child is cloned; nil: none.
func (p *process) cgroupFD() (*os.File, error) {
	if p.confined.Group == nil {
		return nil, nil
	}
	f, err := p.confined.FD()
	if err != nil {
		return nil, fmt.Errorf("start a process in a cgroup: %w", err)
	}
	return f, nil
}
