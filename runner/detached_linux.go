package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/child"
	"bk.build/bk/runner/spec"
)

// Detached says how a container is made that outlives the process which makes
// it, as an OCI runtime does.
type Detached struct {
	// Rootfs is the absolute path of the container's root directory, which is
	// used as it is. Exec doesn't need it.
	Rootfs string
	// Stdio are the command's standard streams; nil: /dev/null. With
	// Process.Terminal they are the new terminal instead.
	Stdio [3]*os.File
	// ConsoleSocket is a connected stream socket that gets the terminal's master
	// (SCM_RIGHTS). It is needed when, and only when, Process.Terminal is set.
	ConsoleSocket *os.File
	// Gate is a FIFO, open for reading and writing: the command is executed when
	// a byte is written to it. nil: at once.
	Gate *os.File
	// Inherit are given to the command as descriptors 3 and on.
	Inherit []*os.File
	// Listener is a connected stream socket (Linux.Seccomp.ListenerPath) that
	// gets the descriptor of the seccomp filter's notifications, if it has any,
	// and the state of the container's process as the specification wants it.
	Listener *os.File
	// Cgroups are the directories of the container's control group by controller,
	// as [cgroup.Group.Paths] gives them. They are what a mount of type cgroup
	// shows when the container shares the namespace of cgroups.
	Cgroups map[string]string

	// Namespaces is called with the process's number when its namespaces exist
	// and before it does anything in them: the place to put it into cgroups and
	// to hand devices over. nil: nothing is done.
	Namespaces func(pid int) error
	// Mounted is called when the mounts are made and the root is not changed yet:
	// the place for prestart and createRuntime hooks. nil: nothing is done.
	Mounted func(pid int) error
	// State returns the container's state as JSON, as the specification wants
	// hooks and listeners to get it. It may be nil without them.
	State func(pid int, status specs.ContainerState) []byte
}

// Created is a process that Create or Exec made.
type Created struct {
	Pid int // in the PID namespace of this process
	// Made are directories of the resctrl file system (linux.intelRdt) that the
	// caller removes, in their order, when the container is gone.
	Made []string

	process *os.Process
	control *os.File
	helper  *os.Process // that forked it, and ends when it is started; or nil
}

// Create makes a container and leaves its process waiting at d.Gate: all is set
// up, and what is missing is the execution of the command. The process is the
// one that becomes the command, and lives on when this one ends. A command that
// is not there is an *ExecError. When Create fails nothing of the container is
// left but what d's functions made.
func Create(ctx context.Context, c Container, d Detached) (*Created, error) {
	b := &planner{c: &c, detached: true, cgroups: d.Cgroups}
	defer b.closeFiles()
	if err := b.detach(&d); err != nil {
		return nil, err
	}
	return b.launch(ctx, &d)
}

// Exec runs p in the container whose first process is pid: in its namespaces,
// and with what the specification s says about seccomp.
func Exec(ctx context.Context, pid int, s *specs.Spec, p *specs.Process, d Detached) (*Created, error) {
	inside := *s
	inside.Process, inside.Hooks = p, nil
	b := &planner{c: &Container{Spec: &inside}, detached: true}
	defer b.closeFiles()
	if err := b.join(pid, &d); err != nil {
		return nil, err
	}
	return b.launch(ctx, &d)
}

// Wait returns how the command ended. Only the process that made it can wait.
func (c *Created) Wait() (Status, error) {
	state, err := c.process.Wait()
	if c.helper != nil {
		_, _ = c.helper.Wait() // it ends with the command, if not before
	}
	if err != nil {
		return Status{}, fmt.Errorf("wait for the container: %w", err)
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return Status{}, fmt.Errorf("wait for the container: %s", state)
	case status.Signaled():
		return Status{Code: 128 + int(status.Signal()), Signal: int(status.Signal())}, nil
	}
	return Status{Code: status.ExitStatus()}, nil
}

// Started waits until the command is executed, and says why when it can't be:
// an *ExecError, or what a startContainer hook did.
func (c *Created) Started(s *specs.Spec) error {
	defer c.control.Close()
	r := reports{}
	for {
		kind, value, text, err := receive(c.control)
		if err != nil {
			return r.err // the end of the stream: it was executed
		}
		r.take(&Container{Spec: s}, kind, value, text)
	}
}

// Close lets go of the process; it lives on.
func (c *Created) Close() error {
	return errors.Join(c.control.Close(), c.process.Release())
}

// detach plans a container.
func (b *planner) detach(d *Detached) error {
	if err := spec.CheckContainer(b.c.Spec); err != nil {
		return err
	}
	if !filepath.IsAbs(d.Rootfs) {
		return fmt.Errorf("root %q: path is not absolute", d.Rootfs)
	}
	b.c.Root = Tree{Upper: d.Rootfs}
	b.plan.Detached = &child.Detached{RootPath: d.Rootfs, Sync: true}
	b.inherit(d)
	for _, step := range []func() error{b.namespaces, b.root, b.propagation, b.mounts, b.paths, b.devices, b.process} {
		if err := step(); err != nil {
			return err
		}
	}
	b.plan.Root.Recursive = true
	if h := b.c.Spec.Hooks; h != nil {
		b.plan.Detached.CreateHooks = hooks(h.CreateContainer)
		b.plan.Detached.StartHooks = hooks(h.StartContainer)
	}
	return b.descriptors(d)
}

// join plans a process in the namespaces of another.
func (b *planner) join(pid int, d *Detached) error {
	if err := spec.CheckProcess(b.c.Spec.Process); err != nil {
		return err
	}
	b.plan.Detached = &child.Detached{Enter: true}
	b.inherit(d)
	for _, ns := range namespaceKinds() {
		same, err := b.joinPath(ns, fmt.Sprintf("/proc/%d/ns/%s", pid, ns.file))
		if err != nil && !(same || errors.Is(err, os.ErrNotExist)) {
			return err
		}
	}
	if err := b.process(); err != nil {
		return err
	}
	return b.descriptors(d)
}

// descriptors hands over what the process is born with.
func (b *planner) descriptors(d *Detached) error {
	p := b.c.Spec.Process
	if p.Terminal != (d.ConsoleSocket != nil) {
		return errors.New("a terminal needs a console socket, and a console socket a terminal")
	}
	q := b.plan.Detached
	if d.ConsoleSocket != nil {
		q.Console = b.pass(d.ConsoleSocket)
	}
	if size := p.ConsoleSize; size != nil {
		q.Rows, q.Columns = uint64(size.Height), uint64(size.Width)
	}
	if d.Gate != nil {
		q.Gate = b.pass(d.Gate)
	}
	if b.notifies && d.Listener == nil {
		return errors.New("spec: linux.seccomp: notifications need a socket that takes them (listenerPath)")
	}
	if b.notifies {
		b.plan.Process.Listener = b.pass(d.Listener)
	}
	return nil
}

// inherit hands over what the command has from 3 on, before all else, so that
// nothing that is still needed is in the way.
func (b *planner) inherit(d *Detached) {
	for _, f := range d.Inherit {
		b.pass(f)
	}
	b.plan.Detached.Inherit = uint64(len(d.Inherit))
}

// pass gives the child a descriptor and returns its number there.
func (b *planner) pass(f *os.File) uint64 {
	b.files = append(b.files, f)
	b.plan.FDs = uint64(len(b.files))
	return child.ControlFD + uint64(len(b.files))
}

// open opens what the child gets, and closes it here when it's there.
func (b *planner) open(path string) (uint64, *os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, nil, err
	}
	b.opened = append(b.opened, f)
	return b.pass(f), f, nil
}

func (b *planner) closeFiles() {
	for _, f := range b.opened {
		f.Close()
	}
}

// hooks translates a list of hooks.
func hooks(list []specs.Hook) (out []child.Hook) {
	for _, h := range list {
		c := child.Hook{Path: h.Path, Argv: h.Args, Env: h.Env}
		if h.Timeout != nil {
			c.Timeout = uint64(max(*h.Timeout, 0))
		}
		out = append(out, c)
	}
	return out
}

// launch starts the child, and goes along until the command waits at its gate.
func (b *planner) launch(ctx context.Context, d *Detached) (created *Created, err error) {
	p := &process{plan: b}
	if err := p.startDetached(d); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = p.os.Kill() // it may have ended by itself
			_, _ = p.os.Wait()
			p.control.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = p.os.Kill() })
	defer stop()
	pid := p.os.Pid
	if d.Namespaces != nil {
		if err := d.Namespaces(pid); err != nil {
			return nil, err
		}
	}
	made, err := b.classify(pid)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeAll(made))
		} else {
			created.Made = made
		}
	}()
	b.tellState(pid, d)
	if err := p.sendPlan(); err != nil {
		return nil, err
	}
	if err := b.follow(p, pid, d); err != nil {
		if errCtx := context.Cause(ctx); errCtx != nil {
			return nil, errCtx
		}
		return nil, err
	}
	if b.command != 0 {
		return p.forked(b)
	}
	return &Created{Pid: pid, process: p.os, control: p.control}, nil
}

// classify puts a new container into its class of service.
func (b *planner) classify(pid int) (made []string, err error) {
	if b.plan.Detached.Enter || b.c.Spec.Linux.IntelRdt == nil {
		return nil, nil
	}
	return b.resctrl().apply(pid)
}

// tellState puts the container's state into the plan, for hooks and listeners.
func (b *planner) tellState(pid int, d *Detached) {
	if d.State == nil {
		return
	}
	q := b.plan.Detached
	q.Creating = string(d.State(pid, specs.StateCreating))
	q.Created = string(d.State(pid, specs.StateCreated))
	if b.plan.Process.Listener != 0 {
		b.plan.Process.ListenerState = b.listenerState(pid, d.State(pid, specs.StateCreating))
	}
}

// listenerState is what a seccomp agent reads, a container process state of the
// specification around the container's state. The process's number comes first,
// in child.ListenerPID, so that the child can correct it.
func (b *planner) listenerState(pid int, state []byte) string {
	metadata, err := json.Marshal(b.c.Spec.Linux.Seccomp.ListenerMetadata)
	if err != nil {
		metadata = []byte(`""`)
	}
	return fmt.Sprintf(`{"pid":%-*d,"ociVersion":%q,"fds":[%q],"metadata":%s,"state":%s}`,
		child.ListenerPIDSize, pid, specs.Version, specs.SeccompFdName, metadata, state)
}

// follow listens until the container is created.
func (b *planner) follow(p *process, pid int, d *Detached) error {
	for {
		kind, value, text, err := receive(p.control)
		if err != nil {
			return b.ended(p)
		}
		switch kind {
		case child.ReportCreated:
			return nil
		case child.ReportPID:
			if b.command, err = b.outer(int(value)); err != nil {
				return err
			}
			if _, err := fmt.Fprintf(p.control, "%-*d", child.ListenerPIDSize, b.command); err != nil {
				return fmt.Errorf("go on with the command: %w", err)
			}
		case child.ReportReady:
			if d.Mounted != nil {
				if err := d.Mounted(pid); err != nil {
					return err
				}
			}
			if _, err := p.control.Write([]byte{1}); err != nil {
				return fmt.Errorf("go on after the hooks: %w", err)
			}
		default:
			r := reports{}
			r.take(b.c, kind, value, text)
			if r.err != nil {
				return r.err
			}
		}
	}
}

// ended says how a child ended that said nothing.
func (b *planner) ended(p *process) error {
	state, err := p.os.Wait()
	if err != nil {
		return fmt.Errorf("wait for the container: %w", err)
	}
	return fmt.Errorf("its first process ended unexpectedly: %s", state)
}

// forked takes the process that the child forked, which is a child of this
// process like it.
func (p *process) forked(b *planner) (*Created, error) {
	command, err := os.FindProcess(b.command)
	if err != nil {
		return nil, fmt.Errorf("find the command's process: %w", err)
	}
	return &Created{Pid: b.command, process: command, control: p.control, helper: p.os}, nil
}

// startDetached starts the child in its namespaces.
func (p *process) startDetached(d *Detached) error {
	theirs, err := p.socket()
	if err != nil {
		return err
	}
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		p.control.Close()
		return err
	}
	defer null.Close()
	files := []*os.File{null, null, null, theirs}
	for i, f := range d.Stdio {
		if f != nil && d.ConsoleSocket == nil {
			files[i] = f
		}
	}
	files = append(files, p.plan.files...)
	exe, err := ownExecutable(files)
	if err != nil {
		p.control.Close()
		return err
	}
	defer exe.Close()
	attr := &os.ProcAttr{Env: childEnvironment(), Files: files, Sys: p.plan.attributes()}
	err = p.plan.inPIDs(func() error {
		p.os, err = os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", exe.Fd()), []string{"bk-child"}, attr)
		return err
	})
	if err != nil {
		p.control.Close()
		return fmt.Errorf("start a process in new namespaces: %w", allowed(cause(err)))
	}
	return nil
}

// attributes are those of the child: its namespaces, and whom they map.
func (b *planner) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: b.flags}
	if b.flags&unix.CLONE_NEWUSER == 0 {
		return attr
	}
	l := b.c.Spec.Linux
	attr.UidMappings, attr.GidMappings = idMaps(l.UIDMappings), idMaps(l.GIDMappings)
	attr.GidMappingsEnableSetgroups = os.Geteuid() == 0
	attr.Credential = &syscall.Credential{NoSetGroups: !attr.GidMappingsEnableSetgroups}
	return attr
}

func idMaps(list []specs.LinuxIDMapping) (out []syscall.SysProcIDMap) {
	for _, m := range list {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return out
}

// unixSocket returns two connected stream sockets.
func unixSocket() (pair [2]*os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return pair, fmt.Errorf("socketpair: %w", err)
	}
	// This end is waited for by the runtime's poller.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return pair, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	for i, fd := range fds {
		pair[i] = os.NewFile(uintptr(fd), "control")
	}
	return pair, nil
}

// propagation plans what becomes of mounts that others make later.
func (b *planner) propagation() error {
	option := b.c.Spec.Linux.RootfsPropagation
	if option == "" {
		b.plan.Propagation = unix.MS_SLAVE
		return nil
	}
	flag, ok := propagationOptions()[option]
	if !ok {
		return fmt.Errorf("spec: linux.rootfsPropagation %q is unknown", option)
	}
	b.plan.RootPropagation = flag
	b.plan.Propagation = unix.MS_SLAVE
	if strings.TrimPrefix(option, "r") == "private" || strings.TrimPrefix(option, "r") == "unbindable" {
		b.plan.Propagation = unix.MS_PRIVATE
	}
	return nil
}
