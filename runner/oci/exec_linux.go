package oci

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/runner"
)

// Config returns the configuration that a container was created with.
func (r *Runtime) Config(id string) (*specs.Spec, error) {
	c, err := r.open(id)
	if err != nil {
		return nil, err
	}
	if c.Config == nil {
		return nil, fmt.Errorf("container %s: it is %s", id, c.status())
	}
	return c.Config, nil
}

// Exec runs a process in a container that is created or running; a paused one
// only when ignorePaused is set.
func (r *Runtime) Exec(ctx context.Context, id string, p *specs.Process, io IO, ignorePaused bool) (*Process, error) {
	c, err := r.open(id)
	if err != nil {
		return nil, err
	}
	created, err := c.exec(ctx, p, io, ignorePaused)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", id, err)
	}
	return created, nil
}

func (c *container) exec(ctx context.Context, p *specs.Process, io IO, ignorePaused bool) (*Process, error) {
	switch status := c.status(); {
	case status == Paused && ignorePaused:
	case status != Created && status != Running:
		return nil, fmt.Errorf("%w: it is %s", ErrNotRunning, status)
	}
	group, err := c.group()
	if err != nil {
		return nil, err
	}
	d := runner.Detached{Stdio: io.Stdio, ConsoleSocket: io.Console, Inherit: io.Inherit}
	if group != nil {
		d.Namespaces = group.AddProcess
	}
	if d.Listener, err = c.listener(); err != nil {
		return nil, err
	}
	if d.Listener != nil {
		defer d.Listener.Close()
		d.State = func(int, specs.ContainerState) []byte { return nil }
	}
	created, err := runner.Exec(ctx, c.Init.Pid, c.Config, p, d)
	if err != nil {
		return nil, err
	}
	inside := *c.Config
	inside.Process = p
	return &Process{Pid: created.Pid, created: created, spec: &inside}, nil
}

// maxUser is the largest id; the next number means "no id" to system calls.
const maxUser = 1<<32 - 2

// ParseUser understands "UID[:GID]" of exec, both decimal numbers and nothing
// else. Without a group the second result is false.
func ParseUser(s string) (uid, gid uint32, hasGroup bool, err error) {
	first, second, hasGroup := strings.Cut(s, ":")
	if uid, err = parseID(first); err == nil && hasGroup {
		gid, err = parseID(second)
	}
	if err != nil {
		return 0, 0, false, fmt.Errorf("user %q: %w", s, err)
	}
	return uid, gid, hasGroup, nil
}

func parseID(s string) (uint32, error) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, errors.New("must be UID or UID:GID, in numbers")
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > maxUser {
		return 0, fmt.Errorf("id %q is not a number from 0 to %d", s, uint32(maxUser))
	}
	return uint32(n), nil
}

// AddCapabilities adds capabilities to the bounding, permitted and effective
// sets of a process.
func AddCapabilities(p *specs.Process, names []string) {
	if len(names) == 0 {
		return
	}
	caps := specs.LinuxCapabilities{}
	if p.Capabilities != nil {
		caps = *p.Capabilities
	}
	for _, set := range []*[]string{&caps.Bounding, &caps.Permitted, &caps.Effective} {
		list := slices.Clone(*set)
		for _, name := range names {
			if !slices.Contains(list, name) {
				list = append(list, name)
			}
		}
		*set = list
	}
	p.Capabilities = &caps
}
