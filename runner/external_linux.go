package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/cgroup"
	"bk.build/bk/runner/spec"
)

// runExternal has another OCI runtime run the container. That runtime is
// itself the command of a container: one that sees this machine's files, and
// in which the layers are mounted in a bundle. So the runtime needs to know
// nothing of layers, and all that it starts, and mounts, ends with it, however
// that happens.
func runExternal(ctx context.Context, c *Container) (Status, error) {
	if c.Emulator != nil {
		return Status{}, fmt.Errorf("runtime %s: emulation without set-up of the host is what the embedded runtime does; register a handler on the host, or leave --runtime away", c.Runtime)
	}
	b := bundle{c: c, dir: c.Bundle, cgroup: c.Spec.Linux.CgroupsPath}
	if b.cgroup == "" {
		// A name that the next bk knows, and sweeps, if this one is killed.
		own := c.Cgroups
		if own == nil {
			own = new(cgroup.Own)
		}
		var err error
		if b.cgroup, err = own.Path("/"); err != nil {
			return Status{}, err
		}
	}
	outer, err := b.container()
	if err != nil {
		return Status{}, err
	}
	status, err := run(ctx, outer)
	return status, errors.Join(err, removeCgroup(b.cgroup))
}

// bundle is a container as another runtime takes it: a directory with
// config.json, and mount points for what that names.
type bundle struct {
	c      *Container
	dir    string
	cgroup string // its path
}

func (b *bundle) rootfs() string { return filepath.Join(b.dir, "rootfs") }

// source is where the i-th mount's tree or file is mounted in the bundle.
func (b *bundle) source(i int) string { return filepath.Join(b.dir, "mount"+strconv.Itoa(i)) }

// container writes the bundle and describes the container that the runtime
// runs in.
func (b *bundle) container() (*Container, error) {
	if !filepath.IsAbs(b.dir) || !filepath.IsAbs(b.c.Runtime) {
		return nil, fmt.Errorf("runtime %q with bundle %q: want absolute paths", b.c.Runtime, b.dir)
	}
	inner, network := b.inner()
	text, err := json.Marshal(inner)
	if err != nil {
		return nil, fmt.Errorf("write config.json: %w", err)
	}
	if err := os.Mkdir(b.rootfs(), 0o755); err != nil {
		return nil, fmt.Errorf("make a bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "config.json"), text, 0o600); err != nil { //nolint:forbidigo // in a directory of our own
		return nil, fmt.Errorf("make a bundle: %w", err)
	}
	s, err := b.outer(network)
	if err != nil {
		return nil, err
	}
	outer := &Container{
		ID: b.c.ID, Spec: s, Root: Tree{Upper: "/"}, hostRoot: true,
		Trees: map[string]Tree{b.rootfs(): b.c.Root}, Files: map[string]File{},
		Stdin: b.c.Stdin, Stdout: b.c.Stdout, Stderr: b.c.Stderr, Signals: b.c.Signals, Grace: b.c.Grace,
	}
	for i, m := range b.c.Spec.Mounts {
		if t, ok := b.c.Trees[m.Destination]; ok {
			outer.Trees[b.source(i)] = t
		} else if f, ok := b.c.Files[m.Destination]; ok {
			outer.Files[b.source(i)] = f
		}
	}
	return outer, nil
}

// inner returns the container's own specification, whose trees and files are
// binds of what is mounted in the bundle. A network that is joined is joined by
// the runtime's container already.
func (b *bundle) inner() (s specs.Spec, network []specs.LinuxNamespace) {
	s = *b.c.Spec
	// Older runtimes refuse versions that they don't know; nothing here is new.
	s.Version = "1.0.2"
	s.Root = &specs.Root{Path: "rootfs", Readonly: b.c.Spec.Root != nil && b.c.Spec.Root.Readonly}
	linux := *s.Linux
	s.Linux = &linux
	linux.CgroupsPath = b.cgroup
	if linux.Resources == nil && linux.Seccomp != nil { // not a container with all rights
		linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}
	}
	linux.Namespaces = slices.DeleteFunc(slices.Clone(linux.Namespaces), func(ns specs.LinuxNamespace) bool {
		joined := ns.Type == specs.NetworkNamespace && ns.Path != ""
		if joined {
			network = append(network, ns)
		}
		return joined
	})
	s.Mounts = slices.Clone(s.Mounts)
	for i, m := range s.Mounts {
		_, isTree := b.c.Trees[m.Destination]
		_, isFile := b.c.Files[m.Destination]
		if !isTree && !isFile {
			continue
		}
		s.Mounts[i].Type, s.Mounts[i].Source = "bind", b.source(i)
		if !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
			s.Mounts[i].Options = append([]string{"bind"}, m.Options...)
		}
	}
	return s, network
}

// outer returns the specification of the runtime's container: all rights that
// this process has, and namespaces for what must end with it.
func (b *bundle) outer(network []specs.LinuxNamespace) (*specs.Spec, error) {
	all := spec.AllCapabilities()
	args := []string{b.c.Runtime, "--root", filepath.Join(b.dir, "state"), "run", "--bundle", b.dir, b.c.ID}
	s := &specs.Spec{
		Process: &specs.Process{
			Args: args, Env: os.Environ(), Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: all, Permitted: all, Effective: all, Inheritable: all},
		},
		Linux: &specs.Linux{Namespaces: append([]specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
		}, network...)},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: b.rootfs(), Type: "bind", Options: []string{"rbind"}},
		},
	}
	var files unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &files); err != nil {
		return nil, fmt.Errorf("get resource limits: %w", err)
	}
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: files.Cur, Hard: files.Max}}
	for i, m := range b.c.Spec.Mounts {
		sm := specs.Mount{Destination: b.source(i), Type: "bind", Options: []string{"rbind"}}
		if _, ok := b.c.Trees[m.Destination]; ok {
			sm.Source = m.Source
		} else if _, ok := b.c.Files[m.Destination]; !ok {
			continue
		}
		s.Mounts = append(s.Mounts, sm)
	}
	return s, nil
}

// removeCgroup removes what a runtime that was killed left in the hierarchies.
func removeCgroup(path string) error {
	host, err := cgroup.Detect()
	if err != nil {
		return err
	}
	g, err := host.Create(path)
	if err != nil {
		return fmt.Errorf("remove the cgroup of the runtime: %w", err)
	}
	return errors.Join(g.Kill(), g.Delete())
}
