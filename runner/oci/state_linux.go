package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Runtime is a directory of containers.
type Runtime struct {
	// Root holds a directory per container. It is made, with mode 0700, when
	// it's missing.
	Root string
	// Rootless does without control groups that this process may not make.
	Rootless bool
	// Warn takes what went wrong and changes nothing; nil: nobody hears.
	Warn func(format string, args ...any)
}

func (r *Runtime) warn(format string, args ...any) {
	if r.Warn != nil {
		r.Warn(format, args...)
	}
}

// record is what state.json holds.
type record struct {
	ID      string    `json:"id"`
	Bundle  string    `json:"bundle"`
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	Owner   int       `json:"owner"`
	Init    process   `json:"init"`
	Started bool      `json:"started"`
	// Creating is set until create is done, or for ever when it was killed.
	Creating bool        `json:"creating,omitempty"`
	Config   *specs.Spec `json:"config"`
	// Groups are the control group's directories by controller, as package
	// cgroup knows them; none: the container has no group of its own.
	Groups map[string]string `json:"groups,omitempty"`
}

// maxState bounds state.json and config.json in bytes.
const maxState = 16 << 20

const stateFile = "state.json"

// container is an opened container. One that is not locked is only looked at.
type container struct {
	rt  *Runtime
	dir string
	record
	lock *os.File
}

// open reads a container.
func (r *Runtime) open(id string) (*container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	c := &container{rt: r, dir: r.dir(id)}
	return c, c.load(id)
}

// acquire reads a container and locks it until close.
func (r *Runtime) acquire(id string) (*container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	c := &container{rt: r, dir: r.dir(id)}
	if err := c.acquire(); err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	if err := c.load(id); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// acquire locks the container's directory; one that was deleted meanwhile does
// not exist.
func (c *container) acquire() error {
	f, err := os.Open(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotExist
	}
	if err != nil {
		return err
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("lock %s: %w", c.dir, err)
	}
	held, errHeld := f.Stat()
	named, errNamed := os.Stat(c.dir)
	if errHeld != nil || errNamed != nil || !os.SameFile(held, named) {
		f.Close()
		return ErrNotExist
	}
	c.lock = f
	return nil
}

// close gives up the lock.
func (c *container) close() {
	if c.lock != nil {
		c.lock.Close()
	}
}

func (c *container) load(id string) error {
	b, err := readBounded(filepath.Join(c.dir, stateFile), maxState)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(c.dir); err == nil {
			c.ID = id // it is being made
			return nil
		}
		return fmt.Errorf("container %s: %w", id, ErrNotExist)
	}
	if err == nil {
		err = c.decode(b)
	}
	if err == nil && c.ID != id {
		err = fmt.Errorf("%s is of container %q", stateFile, c.ID)
	}
	if err != nil {
		return fmt.Errorf("container %s: read its state: %w", id, err)
	}
	return nil
}

// decode reads state.json.
func (r *record) decode(b []byte) error {
	if err := json.Unmarshal(b, r); err != nil {
		return err
	}
	if r.Config == nil {
		return errors.New("it has no configuration")
	}
	return CheckID(r.ID)
}

// save replaces state.json.
func (c *container) save() error {
	b, err := json.Marshal(&c.record)
	if err != nil {
		return err
	}
	name := filepath.Join(c.dir, stateFile)
	if err := os.WriteFile(name+".new", b, 0o600); err != nil { //nolint:forbidigo // renamed below
		return fmt.Errorf("write the state of container %s: %w", c.ID, err)
	}
	return os.Rename(name+".new", name)
}

// status asks the system how the container is.
func (c *container) status() Status {
	switch {
	case c.Config == nil:
		return Creating
	case c.Init.Pid != 0 && !c.Init.alive():
		return Stopped
	case c.Init.Pid == 0 || c.Creating:
		return Creating
	case !c.Started:
		return Created
	case c.frozen():
		return Paused
	}
	return Running
}

// State is what "state" prints: that of the specification and what callers
// expect besides.
type State struct {
	specs.State
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	Owner   string    `json:"owner"`
}

// State returns the state of a container.
func (r *Runtime) State(id string) (*State, error) {
	c, err := r.open(id)
	if err != nil {
		return nil, err
	}
	return c.state(), nil
}

func (c *container) state() *State {
	s := &State{State: c.specState(c.status()), Rootfs: c.Rootfs, Created: c.Created}
	if u, err := user.LookupId(strconv.Itoa(c.Owner)); err == nil {
		s.Owner = u.Username
	}
	return s
}

// specState is the state that hooks and seccomp agents get.
func (c *container) specState(status Status) specs.State {
	s := specs.State{
		Version: specs.Version, ID: c.ID, Status: specs.ContainerState(status), Bundle: c.Bundle,
	}
	if c.Config != nil {
		s.Annotations = c.Config.Annotations
	}
	if status != Stopped {
		s.Pid = c.Init.Pid
	}
	return s
}

// List returns the states of all containers, in the order of their ids.
func (r *Runtime) List() ([]*State, error) {
	entries, err := os.ReadDir(r.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*State
	for _, e := range entries {
		if !e.IsDir() || CheckID(e.Name()) != nil {
			continue
		}
		s, err := r.State(e.Name())
		if errors.Is(err, ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			r.warn("%v", err)
			continue
		}
		list = append(list, s)
	}
	return list, nil
}

// readBounded reads a file of at most max bytes.
func readBounded(name string, max int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // of a FIFO: no waiting
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("%s is longer than %d bytes", name, max)
	}
	return b, err
}

// dir returns the directory of a container whose id was checked.
func (r *Runtime) dir(id string) string { return filepath.Join(r.Root, id) }
