package runner

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/child"
	"bk.build/bk/runner/host"
	"bk.build/bk/runner/userns"
)

// nested adapts a new file system to a user namespace, in which root may make
// only what belongs to it.
func (b *planner) nested(m *child.Mount) error {
	if host.TrustedXattrs() && b.flags&unix.CLONE_NEWUSER == 0 {
		return nil
	}
	switch m.Type {
	case "proc":
		// It shows the namespace of pids: as with sysfs.
		if b.flags&unix.CLONE_NEWPID == 0 && b.pids == nil {
			m.Kind, m.Source, m.Recursive, m.Params = child.MountBind, "/proc", true, nil
			m.RecSet, m.Set = m.RecSet|m.Set, 0
		}
	case "sysfs":
		// It shows the network namespace. That of the host is not ours, but what
		// is mounted there already may be shown again.
		if b.flags&unix.CLONE_NEWNET == 0 && !b.foreignNet() {
			m.Kind, m.Source, m.Recursive, m.Params = child.MountBind, "/sys", true, nil
			m.RecSet, m.Set = m.RecSet|m.Set, 0
		}
	case "devpts":
		if b.flags&unix.CLONE_NEWUSER != 0 {
			return nil // the specification's maps are its author's
		}
		text, err := os.ReadFile("/proc/self/gid_map")
		if err != nil {
			return err
		}
		gids, err := userns.ParseMap(string(text))
		if err != nil {
			return err
		}
		m.Params = slices.DeleteFunc(m.Params, func(p string) bool {
			gid, ok := strings.CutPrefix(p, "gid=")
			n, err := strconv.ParseUint(gid, 10, 32)
			return ok && err == nil && !holds(gids, uint32(n))
		})
	}
	return nil
}

// foreignNet reports whether the container enters a network namespace that
// somebody made for it.
func (b *planner) foreignNet() bool {
	for _, ns := range b.c.Spec.Linux.Namespaces {
		if ns.Type == "network" && ns.Path != "" {
			return true
		}
	}
	return false
}

// holds reports whether an id is mapped.
func holds(list []userns.Extent, id uint32) bool {
	return slices.ContainsFunc(list, func(e userns.Extent) bool { return id >= e.Inside && id-e.Inside < e.Count })
}
