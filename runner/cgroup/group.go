package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Group is the control group of a container: a directory in each hierarchy.
// Its methods may be called by many goroutines.
type Group struct {
	host *Host
	dirs []groupDir
	// refused says why there is no directory in a hierarchy.
	refused map[*hierarchy]error
}

type groupDir struct {
	*hierarchy
	path string
}

// Create makes the group with the path of a runtime specification
// (linux.cgroupsPath), in all hierarchies: an absolute one below their mounts,
// a relative one below the group of this process. What is missing above it is
// made too. A group that is there already is taken as it is.
//
// A hierarchy in which this process may not make the group is left out; it is
// an error when that is so in all, and when a limit of such a hierarchy is
// applied.
func (h *Host) Create(group string) (*Group, error) {
	if err := CheckPath(group); err != nil {
		return nil, err
	}
	g, err := h.create(func(t *hierarchy) string {
		if filepath.IsAbs(group) {
			return filepath.Join(t.mount, group)
		}
		return filepath.Join(t.dir(t.own), group)
	}, h.hierarchies, nil)
	if err != nil {
		return nil, err
	}
	return g, nil
}

// create makes directories in some hierarchies. In version 2 the controllers
// are handed down to the group; nil: all that there are. When it's refused in
// all, a group is returned beside the error: it tells why for each controller.
func (h *Host) create(where func(*hierarchy) string, in []*hierarchy, controllers []string) (*Group, error) {
	g := &Group{host: h, refused: map[*hierarchy]error{}}
	if len(in) == 0 {
		return g, errors.New("create a cgroup: no hierarchy of control groups is mounted for it")
	}
	var errs []error
	for _, t := range in {
		dir := where(t)
		err := h.makeAll(t, dir, controllers)
		if err == nil {
			g.dirs = append(g.dirs, groupDir{t, dir})
			continue
		}
		err = fmt.Errorf("create cgroup %s: %w", dir, cause(err))
		g.refused[t] = err
		if errs = append(errs, err); !refused(err) {
			return nil, errors.Join(err, g.Delete())
		}
	}
	if len(g.dirs) == 0 {
		return g, errs[0]
	}
	return g, nil
}

// refused tells errors about what this process may not do from others.
func refused(err error) bool {
	return errors.Is(err, fs.ErrPermission) || isReadOnly(err)
}

// cause strips what a PathError adds to the message around it.
func cause(err error) error {
	if e := new(fs.PathError); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// makeAll makes a directory and what is missing above it, below the mount.
func (h *Host) makeAll(t *hierarchy, dir string, controllers []string) error {
	rel, err := filepath.Rel(t.mount, dir)
	if err != nil || !filepath.IsLocal(rel) {
		return fmt.Errorf("%s is not below %s", dir, t.mount)
	}
	at := t.mount
	for name := range strings.SplitSeq(rel, "/") {
		if t.v2 {
			h.handDown(at, controllers)
		}
		next := filepath.Join(at, name)
		err := h.mkdir(next)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err == nil && slices.Contains(t.controllers, "cpuset") {
			h.inheritCPUs(at, next)
		}
		at = next
	}
	return nil
}

// inheritCPUs fills the sets of processors and memory nodes of a new group of
// version 1, without which no process may enter it.
func (h *Host) inheritCPUs(from, to string) {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if v, err := readFile(filepath.Join(from, file)); err == nil {
			_ = h.write(filepath.Join(to, file), strings.TrimSpace(string(v))) // entering it will tell
		}
	}
}

// handDown enables controllers for the groups below dir, as far as it can:
// whether a limit's controller has arrived is asked when the limit is applied.
func (h *Host) handDown(dir string, controllers []string) {
	if h.crowded(dir) {
		return // some controllers could be, and then no process could enter the groups below
	}
	enabled := words(filepath.Join(dir, "cgroup.subtree_control"))
	for _, c := range words(filepath.Join(dir, "cgroup.controllers")) {
		if slices.Contains(enabled, c) || controllers != nil && !slices.Contains(controllers, c) {
			continue
		}
		_ = h.write(filepath.Join(dir, "cgroup.subtree_control"), "+"+c)
	}
}

// crowded reports whether a group of version 2 holds processes and so can hand
// down no controllers; the root of all groups can.
func (h *Host) crowded(dir string) bool {
	return exists(filepath.Join(dir, "cgroup.type")) && len(words(filepath.Join(dir, "cgroup.procs"))) > 0
}

// Paths returns the group's directories by controller; that of version 2 has
// the name "". [Host.Open] takes them.
func (g *Group) Paths() map[string]string {
	paths := map[string]string{}
	for _, d := range g.dirs {
		if d.v2 {
			paths[""] = d.path
		}
		for _, c := range d.controllers {
			paths[c] = d.path
		}
	}
	return paths
}

// Open returns a group that [Group.Paths] described. It need not exist any
// more.
func (h *Host) Open(paths map[string]string) (*Group, error) {
	g := &Group{host: h, refused: map[*hierarchy]error{}}
	for _, t := range h.hierarchies {
		key := ""
		if !t.v2 {
			key = t.controllers[0]
		}
		dir, ok := paths[key]
		if !ok {
			continue
		}
		if rel, err := filepath.Rel(t.mount, dir); err != nil || rel == "." || !filepath.IsLocal(rel) {
			return nil, fmt.Errorf("cgroup %s: not below %s", dir, t.mount)
		}
		g.dirs = append(g.dirs, groupDir{t, filepath.Clean(dir)})
	}
	return g, nil
}

// dir returns the group's directory for a controller and whether it is of
// version 2. The error says why there is none.
func (g *Group) dir(controller string) (dir string, v2 bool, err error) {
	if t := g.host.legacy(controller); t != nil {
		for _, d := range g.dirs {
			if d.hierarchy == t {
				return d.path, false, nil
			}
		}
		return "", false, g.missing(t)
	}
	t := g.host.unified()
	if t == nil {
		return "", false, fmt.Errorf("the controller %s is not there: the kernel lacks it, or its hierarchy is not mounted", controller)
	}
	dir = g.v2()
	if dir == "" {
		return "", true, g.missing(t)
	}
	if slices.Contains(words(filepath.Join(dir, "cgroup.controllers")), controller) {
		return dir, true, nil
	}
	return "", true, g.host.whyNot(t, dir, controller)
}

func (g *Group) missing(t *hierarchy) error {
	if err := g.refused[t]; err != nil {
		return fmt.Errorf("%w: run as root, or in a cgroup that is delegated to this user", err)
	}
	return fmt.Errorf("there is no group in hierarchy %s", t.name())
}

// whyNot explains why a controller of version 2 did not arrive in a group.
func (h *Host) whyNot(t *hierarchy, dir, controller string) error {
	if !slices.Contains(words(filepath.Join(t.mount, "cgroup.controllers")), controller) {
		return fmt.Errorf("the controller %s is not there: the kernel lacks it, or whoever made %s did not hand it down", controller, t.mount)
	}
	for at := filepath.Dir(dir); len(at) >= len(t.mount); at = filepath.Dir(at) {
		if !slices.Contains(words(filepath.Join(at, "cgroup.controllers")), controller) {
			continue
		}
		if h.crowded(at) {
			return fmt.Errorf("the controller %s cannot be handed down from %s, which holds processes itself (%s): start this program in a cgroup of its own (systemd-run --scope -p Delegate=yes ...)",
				controller, at, strings.Join(first(words(filepath.Join(at, "cgroup.procs")), 3), ", "))
		}
		if err := cause(h.write(filepath.Join(at, "cgroup.subtree_control"), "+"+controller)); err != nil {
			return fmt.Errorf("the controller %s is not delegated: enable it in %s/cgroup.subtree_control: %w (systemd: set Delegate=yes for the unit, or for user@.service)",
				controller, at, err)
		}
	}
	return fmt.Errorf("the controller %s did not arrive in %s", controller, dir)
}

func first(list []string, n int) []string { return list[:min(n, len(list))] }

// v2 returns the group's directory of version 2, or "".
func (g *Group) v2() string {
	for _, d := range g.dirs {
		if d.v2 {
			return d.path
		}
	}
	return ""
}

// FD opens the group's directory of version 2, for CLONE_INTO_CGROUP; nil when
// there is none. The caller closes it. A process cloned into it still needs
// [Group.AddProcess] for the hierarchies of version 1.
func (g *Group) FD() (*os.File, error) {
	dir := g.v2()
	if dir == "" {
		return nil, nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the cgroup: %w", err)
	}
	return f, nil
}

// AddProcess moves a process with all its threads into the group.
func (g *Group) AddProcess(pid int) error {
	for _, d := range g.dirs {
		if err := g.host.write(filepath.Join(d.path, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("move process %d into cgroup %s: %w", pid, d.path, cause(err))
		}
	}
	return nil
}

// AddCloned moves a process that was born in the group of version 2, by
// [Group.FD], into the hierarchies of version 1.
func (g *Group) AddCloned(pid int) error {
	legacy := &Group{host: g.host, dirs: slices.DeleteFunc(slices.Clone(g.dirs), func(d groupDir) bool { return d.v2 })}
	return legacy.AddProcess(pid)
}

// Procs lists the processes of the group and of the groups below it.
func (g *Group) Procs() ([]int, error) {
	if len(g.dirs) == 0 {
		return nil, nil
	}
	// All hierarchies hold the same processes; in version 2 they can't have
	// been moved away from inside of a container.
	dir := g.v2()
	if dir == "" {
		dir = g.dirs[0].path
	}
	return procsBelow(dir)
}

func procsBelow(dir string) ([]int, error) {
	var pids []int
	err := walk(dir, func(at string) error {
		text, err := readFile(filepath.Join(at, "cgroup.procs"))
		if gone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list the processes of a cgroup: %w", err)
		}
		for line := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(line); err == nil && pid > 0 { // 0: of another namespace
				pids = append(pids, pid)
			}
		}
		return nil
	})
	slices.Sort(pids)
	return slices.Compact(pids), err
}

// walk calls f for the directories below dir, and then for dir.
func walk(dir string, f func(string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !gone(err) {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := walk(filepath.Join(dir, e.Name()), f); err != nil {
				return err
			}
		}
	}
	return f(dir)
}

// deleteTime is how long the kernel may take until a group without living
// processes can be removed.
const deleteTime = 2 * time.Second

// Delete removes the group and the groups below it. Processes must have ended:
// see [Group.Kill]. A group that is gone is no error.
func (g *Group) Delete() error {
	var errs []error
	for _, d := range g.dirs {
		if err := remove(d.path, deleteTime); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", d.path, cause(err)))
		}
	}
	return errors.Join(errs...)
}

// remove removes directories bottom up; those whose last process is just
// dying are busy for a while.
func remove(dir string, patience time.Duration) error {
	for wait, end := time.Millisecond, time.Now().Add(patience); ; wait *= 2 {
		err := walk(dir, func(at string) error {
			if err := removeDir(at); !gone(err) {
				return err
			}
			return nil
		})
		if err == nil || !isBusy(cause(err)) || time.Now().After(end) {
			return err
		}
		time.Sleep(min(wait, 100*time.Millisecond))
	}
}
