package runner

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mappedMount makes a bind mount that shows its owners mapped, and returns the
// child's number of it. It is made here, as a container in a user namespace has
// no right to map what isn't its own.
func (b *planner) mappedMount(sm specs.Mount, all bool) (uint64, error) {
	uids, gids := sm.UIDMappings, sm.GIDMappings
	if len(uids)+len(gids) == 0 {
		uids, gids = b.c.Spec.Linux.UIDMappings, b.c.Spec.Linux.GIDMappings
	}
	users, err := mapNamespace(uids, gids)
	if err != nil {
		return 0, err
	}
	defer users.Close()
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if all || slices.Contains(sm.Options, "rbind") {
		flags |= unix.AT_RECURSIVE
	}
	n, err := unix.OpenTree(unix.AT_FDCWD, sm.Source, flags)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", sm.Source, err)
	}
	f := os.NewFile(uintptr(n), sm.Source)
	b.opened = append(b.opened, f)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())}
	at := uint(unix.AT_EMPTY_PATH)
	if all {
		at |= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(n, "", at, &attr); err != nil {
		return 0, fmt.Errorf("map the owners of %s: %w", sm.Source, err)
	}
	return b.pass(f), nil
}

// mapNamespace makes a user namespace with the given maps, which lives as long
// as the file is open.
func mapNamespace(uids, gids []specs.LinuxIDMapping) (*os.File, error) {
	if len(uids) == 0 || len(gids) == 0 {
		return nil, errors.New("the mapping of users or groups is empty")
	}
	pair, err := unixSocket()
	if err != nil {
		return nil, err
	}
	defer pair[0].Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = childEnvironment() // it waits for a plan that never comes
	cmd.ExtraFiles = []*os.File{pair[1]}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, Pdeathsig: syscall.SIGKILL, UidMappings: idMaps(uids), GidMappings: idMaps(gids),
	}
	err = cmd.Start()
	pair[1].Close()
	if err != nil {
		return nil, fmt.Errorf("make a user namespace for the mapping: %w", cause(err))
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	if err != nil {
		return nil, fmt.Errorf("open the user namespace of the mapping: %w", err)
	}
	return f, nil
}
