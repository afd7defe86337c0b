package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/runner"
	"bk.build/bk/runner/oci"
)

// streams are what a new process gets from the caller, and the terminal that is
// shown here when there is no console socket.
type streams struct {
	oci.IO
	console *console
}

// streams opens them. Without a console socket a terminal needs somebody who
// waits.
func (c *call) streams(terminal bool, socket string, preserve int, wait bool) (*streams, error) {
	s := &streams{IO: oci.IO{Stdio: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}}}
	for i := range preserve {
		s.Inherit = append(s.Inherit, os.NewFile(uintptr(3+i), "inherited"))
	}
	switch {
	case !terminal && socket != "":
		return nil, &usageError{c.command, errors.New("--console-socket is for processes with a terminal")}
	case !terminal:
		return s, nil
	case socket != "":
		f, err := oci.Connect(socket)
		s.Console = f
		return s, err
	case !wait:
		return nil, &usageError{c.command, errors.New("a terminal that outlives this command needs --console-socket")}
	}
	var err error
	s.console, s.Console, err = newConsole()
	return s, err
}

func (s *streams) close() {
	if s.Console != nil {
		s.Console.Close()
	}
}

func (c *call) check(f *createFlags) error {
	switch {
	case f.noPivot:
		return errors.New("--no-pivot is not supported: this runtime always changes the root by pivot_root; bind the root file system on itself instead")
	case f.noNewKeyring:
		return errors.New("--no-new-keyring is not supported: each process of a container gets a session keyring of its own")
	case f.preserveFDs < 0:
		return &usageError{c.command, fmt.Errorf("--preserve-fds %d: must not be negative", f.preserveFDs)}
	}
	return nil
}

// make creates a container.
func (c *call) make(f *createFlags, id string, wait bool) (*oci.Process, *streams, error) {
	if err := c.check(f); err != nil {
		return nil, nil, err
	}
	if err := oci.CheckID(id); err != nil {
		return nil, nil, err
	}
	terminal, err := bundleTerminal(f.bundle)
	if err != nil {
		return nil, nil, fmt.Errorf("create container %s: %w", id, err)
	}
	s, err := c.streams(terminal, f.consoleSocket, f.preserveFDs, wait)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.rt.Create(context.Background(), id, f.bundle, s.IO)
	s.close()
	if err != nil {
		return nil, nil, err
	}
	if err := oci.WritePid(f.pidFile, p.Pid); err != nil {
		return nil, nil, errors.Join(err, c.rt.Delete(id, true))
	}
	return p, s, nil
}

// bundleTerminal reports whether a bundle's process wants a terminal.
func bundleTerminal(bundle string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return false, err
	}
	var config struct {
		Process struct {
			Terminal bool `json:"terminal"`
		} `json:"process"`
	}
	if err := json.Unmarshal(b, &config); err != nil {
		return false, fmt.Errorf("config.json: %w", err)
	}
	return config.Process.Terminal, nil
}

func (c *call) create(f *createFlags, id string) error {
	_, _, err := c.make(f, id, false)
	return err
}

func (c *call) runContainer(f *createFlags, id string) error {
	if f.detach && f.keep {
		return &usageError{c.command, errors.New("--keep is for containers that are waited for")}
	}
	p, s, err := c.make(f, id, !f.detach)
	if err != nil {
		return err
	}
	defer s.console.start()()
	stop := forward(p.Signal)
	defer stop()
	if err := c.rt.StartProcess(id, p); err != nil {
		return errors.Join(err, c.rt.Delete(id, true))
	}
	if f.detach {
		return nil
	}
	code, err := p.Wait()
	if err == nil && !f.keep {
		err = c.rt.Delete(id, true)
	}
	if err == nil && code != 0 {
		err = exitError(code)
	}
	return err
}

func (c *call) exec(f *execFlags, id string, args []string) error {
	if f.cgroup != "" {
		return errors.New("--cgroup is not supported: processes are put into the container's own control group")
	}
	p, err := c.execProcess(f, id, args)
	if err != nil {
		return err
	}
	s, err := c.streams(p.Terminal, f.consoleSocket, f.preserveFDs, !f.detach)
	if err != nil {
		return err
	}
	process, err := c.rt.Exec(context.Background(), id, p, s.IO, f.ignorePaused)
	s.close()
	if err != nil {
		return err
	}
	defer s.console.start()()
	if err := oci.WritePid(f.pidFile, process.Pid); err != nil {
		process.Signal(int(syscall.SIGKILL))
		return err
	}
	stop := forward(process.Signal)
	defer stop()
	err = process.Started()
	if failed := new(runner.ExecError); errors.As(err, &failed) && !f.detach {
		c.say("error", err.Error())
		return exitError(failed.Code)
	}
	if err != nil || f.detach {
		return err
	}
	code, err := process.Wait()
	if err == nil && code != 0 {
		err = exitError(code)
	}
	return err
}

// maxProcess bounds the file of exec --process in bytes.
const maxProcess = 16 << 20

// execProcess puts together what exec runs.
func (c *call) execProcess(f *execFlags, id string, args []string) (*specs.Process, error) {
	if f.process != "" {
		return readProcess(f.process)
	}
	if len(args) == 0 {
		return nil, &usageError{c.command, errors.New("a command is missing")}
	}
	config, err := c.rt.Config(id)
	if err != nil {
		return nil, err
	}
	if config.Process == nil {
		return nil, fmt.Errorf("container %s: its configuration has no process: describe one with --process", id)
	}
	p := *config.Process
	p.Args, p.Terminal, p.ConsoleSize = args, f.tty, nil
	p.Env = append(p.Env[:len(p.Env):len(p.Env)], f.env...)
	p.NoNewPrivileges = p.NoNewPrivileges || f.noNewPrivs
	if f.cwd != "" {
		p.Cwd = f.cwd
	}
	if err := f.identity(&p); err != nil {
		return nil, &usageError{c.command, err}
	}
	oci.AddCapabilities(&p, f.caps)
	return &p, nil
}

// identity sets the user and the groups.
func (f *execFlags) identity(p *specs.Process) error {
	if f.user != "" {
		uid, gid, hasGroup, err := oci.ParseUser(f.user)
		if err != nil {
			return err
		}
		p.User = specs.User{UID: uid, GID: p.User.GID, Umask: p.User.Umask}
		if hasGroup {
			p.User.GID = gid
		}
	}
	for _, g := range f.groups {
		gid, _, more, err := oci.ParseUser(g)
		if err != nil || more {
			return fmt.Errorf("invalid argument %q for --additional-gids", g)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids[:len(p.User.AdditionalGids):len(p.User.AdditionalGids)], gid)
	}
	for _, e := range f.env {
		if !strings.Contains(e, "=") {
			return fmt.Errorf("invalid argument %q for --env: must be NAME=VALUE", e)
		}
	}
	return nil
}

func readProcess(name string) (*specs.Process, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxProcess+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxProcess {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, maxProcess)
	}
	p := new(specs.Process)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("process in %s: %w", name, err)
	}
	return p, nil
}

// notifyAll asks for the signals that a container's process may want.
func notifyAll(to chan<- os.Signal) { signal.Notify(to) }
