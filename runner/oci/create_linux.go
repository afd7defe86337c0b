package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/runner"
	"bk.build/bk/runner/cgroup"
)

// IO is what a process gets from the caller.
type IO struct {
	// Stdio are its standard streams when it has no terminal.
	Stdio [3]*os.File
	// Console is a connected stream socket that gets the terminal's master; nil
	// without a terminal.
	Console *os.File
	// Inherit are its descriptors from 3 on.
	Inherit []*os.File
}

// Process is a process that this one has made, and may wait for.
type Process struct {
	Pid     int
	created *runner.Created
	spec    *specs.Spec
}

// Started waits until the command is executed, and says why when it can't be.
func (p *Process) Started() error { return p.created.Started(p.spec) }

// Wait returns the exit code, 128+N when signal N ended it.
func (p *Process) Wait() (int, error) {
	s, err := p.created.Wait()
	return s.Code, err
}

// Signal sends a signal to the process; one that has ended doesn't mind.
func (p *Process) Signal(n int) { _ = syscall.Kill(p.Pid, syscall.Signal(n)) }

const (
	configFile = "config.json"
	gateFile   = "start" // a FIFO; a byte in it starts the container
)

// Create makes the container of a bundle. Its process waits for Start.
func (r *Runtime) Create(ctx context.Context, id, bundle string, io IO) (*Process, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	c, err := r.newContainer(id, bundle)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", id, err)
	}
	defer c.close()
	p, err := c.create(ctx, io)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", id, errors.Join(err, c.undo()))
	}
	return p, nil
}

// newContainer reads the bundle and makes the container's directory.
func (r *Runtime) newContainer(id, bundle string) (*container, error) {
	bundle, err := filepath.Abs(bundle)
	if err != nil {
		return nil, err
	}
	b, err := readBounded(filepath.Join(bundle, configFile), maxState)
	if err != nil {
		return nil, err
	}
	config, err := ParseConfig(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(bundle, configFile), err)
	}
	rootfs := config.Root.Path
	if !filepath.IsAbs(rootfs) {
		rootfs = filepath.Join(bundle, rootfs)
	}
	if rootfs, err = filepath.EvalSymlinks(rootfs); err != nil { //nolint:forbidigo // the caller's bundle, not an image
		return nil, fmt.Errorf("root.path: %w", err)
	}
	absoluteSources(config, bundle)
	if err := os.MkdirAll(r.Root, 0o700); err != nil {
		return nil, err
	}
	c := &container{rt: r, dir: r.dir(id), record: record{
		ID: id, Bundle: bundle, Rootfs: rootfs, Created: time.Now().UTC(), Owner: os.Geteuid(),
	}}
	if err := os.Mkdir(c.dir, 0o700); errors.Is(err, fs.ErrExist) {
		return nil, ErrExist
	} else if err != nil {
		return nil, err
	}
	if err := c.acquire(); err != nil {
		return nil, errors.Join(err, os.Remove(c.dir))
	}
	c.Config = config
	return c, nil
}

// absoluteSources makes relative sources of bind mounts paths of the bundle.
func absoluteSources(s *specs.Spec, bundle string) {
	for i, m := range s.Mounts {
		bind := m.Type == "bind"
		for _, o := range m.Options {
			bind = bind || o == "bind" || o == "rbind"
		}
		if bind && !filepath.IsAbs(m.Source) {
			s.Mounts[i].Source = filepath.Join(bundle, m.Source)
		}
	}
}

// create makes everything that the container consists of.
func (c *container) create(ctx context.Context, io IO) (*Process, error) {
	group, err := c.makeGroup()
	if err != nil && !(c.rt.Rootless && group == nil) {
		return nil, err
	}
	// From here on "delete --force" finds all that there is, should this process
	// be killed.
	c.Creating = true
	if err := c.save(); err != nil {
		return nil, err
	}
	gate, err := c.makeGate()
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	d := runner.Detached{
		Rootfs: c.Rootfs, Stdio: io.Stdio, ConsoleSocket: io.Console, Inherit: io.Inherit, Gate: gate,
		Cgroups:    c.Groups,
		Namespaces: func(pid int) error { return c.adopt(pid, group) },
		State: func(pid int, status specs.ContainerState) []byte {
			c.Init.Pid = pid
			b, _ := json.Marshal(c.specState(Status(status))) // of strings and numbers
			return b
		},
	}
	if d.Listener, err = c.listener(); err != nil {
		return nil, err
	}
	if d.Listener != nil {
		defer d.Listener.Close()
	}
	if h := c.Config.Hooks; h != nil && len(h.Prestart)+len(h.CreateRuntime) > 0 { //nolint:staticcheck // deprecated, and used
		d.Mounted = func(int) error {
			if err := c.runHooks("prestart", h.Prestart, Creating); err != nil { //nolint:staticcheck // deprecated, and used
				return err
			}
			return c.runHooks("createRuntime", h.CreateRuntime, Creating)
		}
	}
	config := c.runnable()
	created, err := runner.Create(ctx, runner.Container{ID: c.ID, Spec: config}, d)
	if err != nil {
		return nil, err
	}
	c.Creating = false
	if err := c.save(); err != nil {
		return nil, err
	}
	return &Process{Pid: created.Pid, created: created, spec: config}, nil
}

// runnable is the configuration for the runner, which needs a process even
// when the container has none and can't be started.
func (c *container) runnable() *specs.Spec {
	config := *c.Config
	if config.Process == nil {
		config.Process = &specs.Process{Cwd: "/", Args: []string{"/proc/self/exe"}}
	}
	return &config
}

// adopt records the container's first process and puts it into its group, before
// it has a plan: until then it ends when this process does.
func (c *container) adopt(pid int, group *cgroup.Group) (err error) {
	if group != nil {
		if err := group.AddProcess(pid); err != nil {
			return err
		}
	}
	if c.Init, err = findProcess(pid); err != nil {
		return err
	}
	return c.save()
}

func (c *container) makeGate() (*os.File, error) {
	name := filepath.Join(c.dir, gateFile)
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	// As a plain descriptor: the container waits with read(2).
	fd, err := syscall.Open(name, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// listener connects to the agent that takes seccomp's notifications.
func (c *container) listener() (*os.File, error) {
	s := c.Config.Linux.Seccomp
	if s == nil || s.ListenerPath == "" {
		return nil, nil
	}
	return Connect(s.ListenerPath)
}

// Connect opens a unix stream socket.
func Connect(path string) (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// undo removes what a create that failed has made.
func (c *container) undo() error {
	if !c.Init.alive() {
		c.Init = process{}
	}
	return c.destroy()
}

// WritePid writes a process's number to a file, which appears with it.
func WritePid(name string, pid int) error {
	if name == "" {
		return nil
	}
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name))
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o644); err != nil { //nolint:forbidigo // renamed below
		return fmt.Errorf("write the pid file: %w", err)
	}
	return os.Rename(tmp, name)
}

// Start executes the process of a created container.
func (r *Runtime) Start(id string) error {
	c, err := r.acquire(id)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.start(nil); err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	return nil
}

// StartProcess is Start by the process that has created the container, which
// learns when the command can't be executed.
func (r *Runtime) StartProcess(id string, p *Process) error {
	c, err := r.acquire(id)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.start(p); err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	return nil
}

func (c *container) start(p *Process) error {
	if status := c.status(); status != Created {
		return fmt.Errorf("it is not created: it is %s", status)
	}
	if c.Config.Process == nil {
		return errors.New("its configuration has no process")
	}
	gate, err := os.OpenFile(filepath.Join(c.dir, gateFile), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("its process doesn't wait: %w", err)
	}
	defer gate.Close()
	c.Started = true
	if err := c.save(); err != nil {
		return err
	}
	if _, err := gate.Write([]byte{1}); err != nil {
		return err
	}
	if p != nil {
		err = p.Started()
	} else {
		err = c.passed(gate)
	}
	if err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(c.dir, gateFile)) // it has served
	if h := c.Config.Hooks; h != nil {
		if err := c.runHooks("poststart", h.Poststart, Running); err != nil {
			return errors.Join(err, c.end())
		}
	}
	return nil
}

// passed waits until nobody reads the gate any more: the command was executed,
// or its process has ended.
func (c *container) passed(gate *os.File) error {
	raw, err := gate.SyscallConn()
	if err != nil {
		return err
	}
	errControl := raw.Control(func(fd uintptr) {
		for err = errWaiting; err == errWaiting; {
			err = hungUp(int(fd))
		}
	})
	return errors.Join(err, errControl)
}
