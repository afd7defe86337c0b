package oci

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Kill sends a signal to the container's process, or to all processes of the
// container. A container that is neither created nor running (or paused) is an
// error.
func (r *Runtime) Kill(id string, signal int, all bool) error {
	c, err := r.open(id)
	if err != nil {
		return err
	}
	if err := c.kill(signal, all); err != nil {
		return fmt.Errorf("kill container %s: %w", id, err)
	}
	return nil
}

func (c *container) kill(signal int, all bool) error {
	status := c.status()
	if all {
		// Processes that share the caller's pid namespace may outlive the first.
		return c.killAll(signal, status)
	}
	if status == Stopped || status == Creating {
		return fmt.Errorf("%w: it is %s", ErrNotRunning, status)
	}
	err := c.Init.signal(signal)
	if errors.Is(err, errGone) {
		return fmt.Errorf("%w: it is %s", ErrNotRunning, Stopped)
	}
	if err == nil && status == Paused && signal == int(syscall.SIGKILL) {
		err = c.thaw() // of version 1: frozen processes don't die
	}
	return err
}

// killAll sends a signal to every process of the container's control group, or
// to the first process alone when it has a pid namespace, whose others die with
// it, and there is no group.
func (c *container) killAll(signal int, status Status) error {
	group, err := c.group()
	if err != nil {
		return err
	}
	if group == nil {
		if status == Stopped || status == Creating {
			return fmt.Errorf("%w: it is %s", ErrNotRunning, status)
		}
		return c.Init.signal(signal)
	}
	if signal == int(syscall.SIGKILL) {
		return group.Kill()
	}
	pids, err := group.Procs()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		// The number is of a member of the group as long as it's frozen; a
		// process that ended in between is no error.
		p, err := findProcess(pid)
		if err == nil {
			err = p.signal(signal)
		}
		if err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	return nil
}

// Delete removes a stopped container and what create made. With force it is
// killed first, whatever its state is, and one that isn't there is no error.
func (r *Runtime) Delete(id string, force bool) error {
	c, err := r.acquire(id)
	if errors.Is(err, ErrNotExist) && force {
		return nil
	}
	if err != nil && force && CheckID(id) == nil {
		// Its state can't be read: nothing else can be done about it.
		r.warn("%v: removing its directory", err)
		return os.RemoveAll(r.dir(id))
	}
	if err != nil {
		return err
	}
	defer c.close()
	// A container that was never started has nothing to lose: as with other
	// runtimes, deleting it ends it.
	if status := c.status(); status != Stopped && status != Created && !force {
		return fmt.Errorf("delete container %s: it is not stopped: it is %s", id, status)
	}
	return c.destroy()
}

// killTime is how long a killed process may take to be gone.
const killTime = 10 * time.Second

// destroy kills what is left of the container, and undoes create.
func (c *container) destroy() error {
	if err := c.end(); err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID, err)
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID, err)
	}
	if c.Config != nil && c.Config.Hooks != nil {
		for _, h := range c.Config.Hooks.Poststop {
			if err := c.runHooks("poststop", []specs.Hook{h}, Stopped); err != nil {
				c.rt.warn("container %s: %v", c.ID, err)
			}
		}
	}
	return nil
}

// end kills all processes and removes the control group.
func (c *container) end() error {
	if c.Init.alive() {
		if err := c.Init.signal(int(syscall.SIGKILL)); err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	group, err := c.group()
	if err != nil {
		return err
	}
	if group != nil {
		if err := group.Kill(); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(killTime); c.Init.alive(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d does not end", c.Init.Pid)
		}
	}
	if group == nil {
		return nil
	}
	return group.Delete()
}
