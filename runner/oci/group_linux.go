package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/runner/cgroup"
)

// group returns the container's control group, or nil.
func (c *container) group() (*cgroup.Group, error) {
	if len(c.Groups) == 0 {
		return nil, nil
	}
	host, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	return host.Open(c.Groups)
}

// need is group for what can't be done without one.
func (c *container) need() (*cgroup.Group, error) {
	g, err := c.group()
	if g == nil && err == nil {
		err = errors.New("the container has no control group")
	}
	return g, err
}

// makeGroup makes the group that the configuration names, or one that has the
// container's name, and applies the limits.
func (c *container) makeGroup() (*cgroup.Group, error) {
	path := c.Config.Linux.CgroupsPath
	if path == "" {
		path = "/" + c.ID
	}
	host, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	g, err := host.Create(path)
	if err != nil {
		return nil, err
	}
	c.Groups = g.Paths()
	if c.Config.Linux.Resources == nil {
		return g, nil
	}
	return g, g.Apply(c.Config.Linux.Resources, c.Config.Linux.Devices...)
}

// frozen reports whether the container is paused.
func (c *container) frozen() bool {
	g, err := c.group()
	if err != nil || g == nil {
		return false
	}
	frozen, err := g.Frozen()
	return err == nil && frozen
}

func (c *container) thaw() error {
	g, err := c.group()
	if err != nil || g == nil {
		return err
	}
	return g.Thaw()
}

// Pause stops all processes of a running container where they are.
func (r *Runtime) Pause(id string) error {
	return r.change("pause", id, []Status{Created, Running}, (*cgroup.Group).Freeze)
}

// Resume lets the processes of a paused container go on.
func (r *Runtime) Resume(id string) error {
	return r.change("resume", id, []Status{Paused}, (*cgroup.Group).Thaw)
}

// Update changes limits of a container; what resources don't mention stays.
func (r *Runtime) Update(id string, resources *specs.LinuxResources) error {
	return r.change("update", id, []Status{Created, Running, Paused}, func(g *cgroup.Group) error {
		return g.Apply(resources)
	})
}

// change does something to the group of a container that is in one of some
// states.
func (r *Runtime) change(verb, id string, in []Status, do func(*cgroup.Group) error) error {
	c, err := r.acquire(id)
	if err != nil {
		return err
	}
	defer c.close()
	if status := c.status(); !slices.Contains(in, status) {
		err = fmt.Errorf("it is %s", status)
		if status == Stopped {
			err = fmt.Errorf("%w: %w", ErrNotRunning, err)
		}
	} else {
		var g *cgroup.Group
		if g, err = c.need(); err == nil {
			err = do(g)
		}
	}
	if err != nil {
		return fmt.Errorf("%s container %s: %w", verb, id, err)
	}
	return nil
}

// Processes lists the processes of a container.
func (r *Runtime) Processes(id string) ([]int, error) {
	c, err := r.open(id)
	if err != nil {
		return nil, err
	}
	g, err := c.group()
	if err != nil {
		return nil, err
	}
	if g != nil {
		pids, err := g.Procs()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return pids, err
	}
	return nil, fmt.Errorf("list the processes of container %s: it has no control group", id)
}

// Usage is what a container uses.
type Usage = cgroup.Stats

// Usage reads what a container that has not stopped uses, and how often the
// kernel ended one of its processes for want of memory.
func (r *Runtime) Usage(id string) (usage *Usage, kills uint64, err error) {
	c, err := r.open(id)
	if err != nil {
		return nil, 0, err
	}
	if status := c.status(); status == Stopped || status == Creating {
		return nil, 0, fmt.Errorf("container %s: %w: it is %s", id, ErrNotRunning, status)
	}
	g, err := c.need()
	if err != nil {
		return nil, 0, fmt.Errorf("container %s: %w", id, err)
	}
	if usage, err = g.Stats(); err != nil {
		return nil, 0, err
	}
	kills, _ = g.OOMKills() // not told by every hierarchy
	return usage, kills, nil
}
