package runner

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/child"
	"bk.build/bk/runner/host"
)

// overlay checks a tree.
func (b *planner) overlay(t Tree) (child.Overlay, error) {
	o := child.Overlay{Lower: t.Lower, Upper: t.Upper, Work: t.Work, Classic: b.c.classicOverlay, UserXattr: !host.TrustedXattrs()}
	for _, dir := range t.Lower {
		if !path.IsAbs(dir) {
			return o, fmt.Errorf("layer %q: path is not absolute", dir)
		}
	}
	switch {
	case len(t.Lower) == 0 && t.Upper == "":
		return o, errors.New("tree has no layers")
	case len(t.Lower) == 0 && t.Work != "":
		o.Work = ""
	case len(t.Lower) > 0 && (t.Upper == "") != (t.Work == ""):
		return o, fmt.Errorf("tree has one of upper directory %q and work directory %q", t.Upper, t.Work)
	}
	return o, nil
}

// mounts plans the spec's mounts in their order.
func (b *planner) mounts() error {
	used := 0
	for _, sm := range b.c.Spec.Mounts {
		tree, ok := b.c.Trees[sm.Destination]
		var err error
		if f, isFile := b.c.Files[sm.Destination]; isFile {
			used++
			err = b.fileMount(sm, f)
		} else if ok {
			used++
			err = b.treeMount(sm, tree)
		} else {
			err = b.mount(sm)
		}
		if err != nil {
			return fmt.Errorf("mount on %s: %w", sm.Destination, err)
		}
	}
	if given := len(b.c.Trees) + len(b.c.Files); used < given {
		return fmt.Errorf("%d trees and files were given for %d of the mounts", given, used)
	}
	return nil
}

func (b *planner) treeMount(sm specs.Mount, tree Tree) error {
	o, err := b.overlay(tree)
	if err != nil {
		return err
	}
	m := child.Mount{Kind: child.MountTree, Dest: path.Clean("/" + sm.Destination), Tree: uint64(len(b.plan.Trees))}
	if s := path.Clean("/" + sm.Source); s != "/" {
		m.Source = s
	}
	if err := mountOptions(&m, sm.Options); err != nil {
		return err
	}
	if o.Upper == "" {
		m.Set, m.Clear = m.Set|unix.MOUNT_ATTR_RDONLY, m.Clear&^unix.MOUNT_ATTR_RDONLY
	}
	b.foreignDev = b.foreignDev || m.Dest == "/dev"
	b.plan.Trees = append(b.plan.Trees, o)
	b.plan.Mounts = append(b.plan.Mounts, m)
	return nil
}

// fileMount plans a mount of a file in memory.
func (b *planner) fileMount(sm specs.Mount, f File) error {
	m := child.Mount{
		Kind: child.MountFile, Dest: path.Clean("/" + sm.Destination),
		Content: string(f.Content), Mode: uint64(f.Mode & 0o7777), UID: uint64(f.UID), GID: uint64(f.GID),
	}
	if err := mountOptions(&m, sm.Options); err != nil {
		return err
	}
	b.plan.Mounts = append(b.plan.Mounts, m)
	return nil
}

// mount plans a mount of a host path or a new file system.
func (b *planner) mount(sm specs.Mount) error {
	m := child.Mount{Kind: child.MountFS, Type: sm.Type, Source: sm.Source, Dest: path.Clean("/" + sm.Destination)}
	options := sm.Options
	if isBind(sm) {
		m.Kind = child.MountBind
		if !path.IsAbs(sm.Source) {
			return fmt.Errorf("source %q is not an absolute path", sm.Source)
		}
	} else if !knownFS(sm.Type) && !b.detached {
		return fmt.Errorf("file system type %q is not supported", sm.Type)
	}
	if b.detached {
		var err error
		if options, err = b.runtimeOptions(&m, sm); err != nil {
			return err
		}
	}
	if err := mountOptions(&m, options); err != nil {
		return err
	}
	if m.Kind == child.MountFS && sm.Source != "" {
		m.Params = append([]string{"source=" + sm.Source}, m.Params...)
	}
	m.Plain = sm.Type == "proc" || sm.Type == "sysfs"
	if label := b.c.Spec.Linux.MountLabel; label != "" && m.Kind == child.MountFS && !m.Plain {
		m.Params = append(m.Params, "context="+label)
	}
	if err := b.nested(&m); err != nil {
		return err
	}
	if m.Dest == "/dev" {
		b.foreignDev = m.Kind != child.MountFS
		m.Late = m.Set&unix.MOUNT_ATTR_RDONLY != 0
	}
	if strings.HasPrefix(sm.Type, "cgroup") {
		return b.cgroupMount(m)
	}
	b.plan.Mounts = append(b.plan.Mounts, m)
	return nil
}

// runtimeOptions takes those options that only a container of an OCI runtime can
// have, and returns the others. A parameter of a file system ("mode=755") has no
// effect on a bind mount, whose file system is there already; engines and the
// specification's own tests give some.
func (b *planner) runtimeOptions(m *child.Mount, sm specs.Mount) (rest []string, err error) {
	mapped, all := len(sm.UIDMappings)+len(sm.GIDMappings) > 0, false
	for _, o := range sm.Options {
		switch o {
		case "remount":
			m.Kind = child.MountSame
		case "tmpcopyup":
			m.CopyUp = true
		case "idmap", "ridmap":
			mapped, all = true, o == "ridmap"
		default:
			if m.Kind == child.MountBind && strings.Contains(o, "=") {
				continue
			}
			rest = append(rest, o)
		}
	}
	if m.CopyUp && sm.Type != "tmpfs" {
		return nil, errors.New("mount option tmpcopyup is for tmpfs only")
	}
	if !mapped {
		return rest, nil
	}
	if m.Kind != child.MountBind {
		return nil, errors.New("the owners of a mount are mapped for bind mounts only")
	}
	m.Kind = child.MountOpen
	m.FD, err = b.mappedMount(sm, all)
	return rest, err
}

func isBind(sm specs.Mount) bool {
	if sm.Type == "bind" {
		return true
	}
	for _, o := range sm.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

// knownFS lists the file systems that a container can have anew: those that
// carry nothing of the host.
func knownFS(kind string) bool {
	switch kind {
	case "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2":
		return true
	}
	return false
}

// maxCgroups bounds /proc/self/cgroup.
const maxCgroups = 64 << 10

// cgroupMount plans what the spec calls "cgroup": the unified hierarchy, or
// one mount per hierarchy of version 1 on a tmpfs.
func (b *planner) cgroupMount(m child.Mount) error {
	m.Params = nil // the source, and nothing else makes sense
	m.Type = "cgroup2"
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return fmt.Errorf("statfs /sys/fs/cgroup: %w", err)
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		if b.sharesCgroups() {
			m.Kind, m.Source = child.MountBind, b.cgroups[""]
		}
		b.plan.Mounts = append(b.plan.Mounts, m)
		return nil
	}
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return err
	}
	defer f.Close()
	top := m
	top.Type, top.Late = "tmpfs", true
	top.Params = []string{"source=cgroup", "mode=755", "size=64k"}
	b.plan.Mounts = append(b.plan.Mounts, top)
	lines := bufio.NewScanner(io.LimitReader(f, maxCgroups))
	for lines.Scan() {
		b.hierarchy(m, lines.Text())
	}
	return lines.Err()
}

// sharesCgroups reports whether a mount of a cgroup file system would show the
// groups of the host: then it is the container's own group that is bound there.
func (b *planner) sharesCgroups() bool {
	if len(b.cgroups) == 0 {
		return false
	}
	for _, ns := range b.c.Spec.Linux.Namespaces {
		if ns.Type == specs.CgroupNamespace {
			return false
		}
	}
	return true
}

// hierarchy plans the mount of one line of /proc/self/cgroup,
// "number:controllers:path".
func (b *planner) hierarchy(m child.Mount, line string) {
	parts := strings.SplitN(line, ":", 3)
	if len(parts) != 3 || parts[1] == "" {
		return
	}
	name, isNamed := strings.CutPrefix(parts[1], "name=")
	m.Type, m.Dest = "cgroup", m.Dest+"/"+name
	m.Params = []string{"source=cgroup"}
	if isNamed {
		m.Params = append(m.Params, "none", "name="+name)
	} else {
		m.Params = append(m.Params, strings.Split(name, ",")...)
	}
	if b.sharesCgroups() {
		first, _, _ := strings.Cut(name, ",")
		dir := b.cgroups[first]
		if dir == "" {
			return // there is nothing of the container's
		}
		m.Kind, m.Source, m.Params = child.MountBind, dir, nil
	}
	b.plan.Mounts = append(b.plan.Mounts, m)
}
