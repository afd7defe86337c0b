package cgroup

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// ErrSystemd reports a group named as the systemd driver of other runtimes
// does, "slice:prefix:name". This package makes directories itself.
var ErrSystemd = errors.New("groups are not made through systemd here: give a path, such as /machine.slice/build (podman: --cgroup-manager=cgroupfs; containerd: SystemdCgroup = false)")

const (
	maxName = 255
	maxPath = 4095
)

// CheckPath checks the path of a group, absolute or relative. Its elements are
// of letters, digits and "_.:@=,+-\", don't start with a dot, and are no names of
// the kernel's own files.
func CheckPath(p string) error {
	if err := checkPath(p); err != nil {
		return fmt.Errorf("cgroup path %q: %w", p, err)
	}
	return nil
}

func checkPath(p string) error {
	switch {
	case p == "" || path.Clean(p) == "/":
		return errors.New("names no group")
	case len(p) > maxPath:
		return fmt.Errorf("is longer than %d bytes", maxPath)
	case !strings.Contains(p, "/") && strings.Count(p, ":") == 2:
		return ErrSystemd
	}
	for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if name == "" {
			continue
		}
		if err := checkName(name); err != nil {
			return err
		}
	}
	return nil
}

// checkName checks one element.
func checkName(name string) error {
	switch {
	case len(name) > maxName:
		return fmt.Errorf("element of more than %d bytes", maxName)
	case name[0] == '.':
		return fmt.Errorf("element %q starts with a dot", name)
	case strings.HasPrefix(name, "cgroup."), name == "tasks", name == "release_agent", name == "notify_on_release":
		return fmt.Errorf("element %q is a name of the kernel's", name)
	}
	for _, c := range name {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.ContainsRune(`_.:@=,+-\`, c):
		default:
			return fmt.Errorf("element %q has the character %q", name, c)
		}
	}
	return nil
}
