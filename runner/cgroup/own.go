package cgroup

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Own makes groups for the containers of this process, in the group that the
// process is in or, in version 2, in the nearest one above it that may hold
// groups with limits: one without processes of its own, that this process may
// write to. A group that holds nothing but this process is made such a one by
// moving the process into a leaf of it.
//
// The groups are named after the process. Those whose process was killed are
// removed by the first Own of another process that makes groups in the same
// place. The zero value is ready; it may be used by many goroutines.
type Own struct {
	mu     sync.Mutex
	host   *Host
	prefix string            // of all names
	count  uint64            // starts anywhere: other Owns of this process count too
	swept  map[string]bool   // directories
	shared map[string]*Group // by device rules
	moved  *place            // where processes were moved out of the way
}

// Group makes a group with limits. Containers with no more than device rules
// share one: making, entering and removing a group for each would cost as much
// as all the rest of a short container. The caller hands it back by
// [Own.Release].
//
// When there are errors about limits only ([LimitErrors]), the group is
// returned too, with those limits that could be applied, or nil. It is nil also
// when there is nothing to limit.
func (o *Own) Group(r *specs.LinuxResources, devices []specs.LinuxDevice) (*Group, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.open(); err != nil {
		return nil, err
	}
	if r == nil {
		return nil, nil
	}
	needs := (&Group{host: o.host}).controllers(r)
	switch {
	case len((&Group{host: o.host}).settings(r)) > 0:
	case len(r.Devices) > 0:
		return o.share(r, devices)
	default:
		return nil, nil
	}
	in := o.host.with(needs)
	if len(r.Devices) > 0 && o.host.unified() == nil {
		in = o.host.with(append(needs, "devices"))
	}
	g, err := o.create(in, needs)
	if g == nil {
		return nil, err
	}
	errCreate := err
	err = g.Apply(r, devices...)
	if errCreate != nil {
		return nil, err // each limit says why there is no group for it
	}
	if _, only := LimitErrors(err); !only {
		return nil, errors.Join(err, g.Delete())
	}
	return g, err
}

// Path returns a fresh path below a parent for [Host.Create], with a name that
// tells other processes whose it is, as those of [Own.Group] have it.
func (o *Own) Path(parent string) (string, error) {
	if parent != "/" {
		if err := CheckPath(parent); err != nil {
			return "", err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.open(); err != nil {
		return "", err
	}
	for _, t := range o.host.hierarchies {
		if path.IsAbs(parent) {
			o.sweep(filepath.Join(t.mount, parent))
		} else {
			o.sweep(filepath.Join(t.dir(t.own), parent))
		}
	}
	return path.Join(parent, o.name()), nil
}

// Release kills what is left in a group that Group returned, and removes it
// unless others share it.
func (o *Own) Release(g *Group) error {
	if g == nil {
		return nil
	}
	o.mu.Lock()
	shared := false
	for _, s := range o.shared {
		shared = shared || s == g
	}
	o.mu.Unlock()
	if shared {
		return nil
	}
	return errors.Join(g.Kill(), g.Delete())
}

// Close removes the shared groups, and undoes what made room for others. No
// container may be running.
func (o *Own) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, g := range o.shared {
		errs = append(errs, g.Delete())
	}
	o.shared = nil
	if o.moved != nil {
		o.restore(o.moved)
		o.moved = nil
	}
	return errors.Join(errs...)
}

// restore moves processes back out of a leaf: for that their group must hand
// down no controllers any more. Where that is not possible, the leaf is for
// the next Own to remove.
func (o *Own) restore(p *place) {
	control := filepath.Join(p.dir, "cgroup.subtree_control")
	for _, c := range words(control) {
		if err := o.host.write(control, "-"+c); err != nil {
			return
		}
	}
	for _, pid := range p.move {
		if err := o.host.write(filepath.Join(p.dir, "cgroup.procs"), pid); err != nil {
			return
		}
	}
	_ = remove(filepath.Join(p.dir, o.prefix+leafName), sweepTime)
}

// open looks at the machine once.
func (o *Own) open() (err error) {
	if o.host == nil {
		if o.host, err = Detect(); err != nil {
			return err
		}
	}
	if o.prefix != "" {
		return nil
	}
	id, err := o.host.identify("self")
	if err != nil {
		return fmt.Errorf("name a cgroup: %w", err)
	}
	o.prefix, o.swept, o.count = id.prefix(), map[string]bool{}, rand.Uint64()>>24
	for _, t := range o.host.hierarchies {
		if owner, n, ok := parseName(path.Base(t.own)); ok && n == leafName && owner == id {
			t.own = path.Dir(t.own) // an earlier Own moved this process
		}
	}
	return nil
}

func (o *Own) name() string {
	o.count++
	return o.prefix + strconv.FormatUint(o.count, 10)
}

// share returns the group for device rules. In version 2 a process is born
// into it at no cost; that is why it's preferred over a list of version 1.
func (o *Own) share(r *specs.LinuxResources, devices []specs.LinuxDevice) (*Group, error) {
	p, err := newPolicy(r.Devices, devices)
	if err != nil {
		return nil, err
	}
	if p.allow && len(p.except) == 0 {
		return nil, nil
	}
	key := fmt.Sprint(p.allow, p.except)
	if g := o.shared[key]; g != nil {
		return g, nil
	}
	var errs []error
	for _, t := range []*hierarchy{o.host.unified(), o.host.legacy("devices")} {
		if t == nil {
			continue
		}
		g, err := o.create([]*hierarchy{t}, []string{})
		if err == nil {
			if t.v2 {
				err = o.host.attach(g.dirs[0].path, p.program())
			} else {
				err = o.host.writeDevices(g.dirs[0].path, p)
			}
			if err == nil {
				if o.shared == nil {
					o.shared = map[string]*Group{}
				}
				o.shared[key] = g
				return g, nil
			}
			err = errors.Join(err, g.Delete())
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("no hierarchy of control groups is mounted that could"))
	}
	return nil, &LimitError{Limit: "devices", Err: errors.Join(errs...)}
}

// create makes a group in some hierarchies.
func (o *Own) create(in []*hierarchy, needs []string) (*Group, error) {
	name := o.name()
	places := map[*hierarchy]string{}
	for _, t := range in {
		at := t.dir(t.own)
		if t.v2 {
			found, err := o.host.place(t, needs)
			if errors.Is(err, errNoPlace) { // for all of them
				found, err = o.host.place(t, slices.DeleteFunc(slices.Clone(needs), func(c string) bool {
					_, err := o.host.place(t, []string{c})
					return err != nil
				}))
			}
			if err == nil {
				at, err = found.dir, o.clear(found)
			}
			if err != nil && !refused(err) && !errors.Is(err, errNoPlace) {
				return nil, err
			}
		}
		o.sweep(at)
		places[t] = filepath.Join(at, name)
	}
	return o.host.create(func(t *hierarchy) string { return places[t] }, in, needs)
}

// with returns the hierarchies that hold controllers, and that of version 2,
// by which a group is killed at once.
func (h *Host) with(controllers []string) []*hierarchy {
	var in []*hierarchy
	for _, t := range h.hierarchies {
		if t.v2 || slices.ContainsFunc(t.controllers, func(c string) bool { return slices.Contains(controllers, c) }) {
			in = append(in, t)
		}
	}
	return in
}

// controllers lists those that resources need, in no order.
func (g *Group) controllers(r *specs.LinuxResources) []string {
	var list []string
	for _, s := range g.settings(r) {
		if s.refuse == nil && !slices.Contains(list, s.controller) {
			list = append(list, s.controller)
		}
	}
	return list
}

// place is a group in which groups with limits can be made.
type place struct {
	dir string
	// move are processes that are in the way and belong to this program.
	move []string
}

var errNoPlace = errors.New("no cgroup that this process may write to can hold groups with limits")

// place finds the nearest place in version 2 for groups with controllers. Below
// a group with processes and threaded controllers there can be no processes,
// whatever they need.
func (h *Host) place(t *hierarchy, needs []string) (place, error) {
	for at := t.dir(t.own); len(at) >= len(t.mount); at = filepath.Dir(at) {
		if !writable(filepath.Join(at, "cgroup.procs")) || !writable(filepath.Join(at, "cgroup.subtree_control")) {
			break
		}
		have := words(filepath.Join(at, "cgroup.controllers"))
		if slices.ContainsFunc(needs, func(c string) bool { return !slices.Contains(have, c) }) {
			continue
		}
		kind := words(filepath.Join(at, "cgroup.type"))
		if len(kind) == 0 {
			return place{dir: at}, nil // the root of all may hold processes too
		}
		if len(kind) > 1 || kind[0] != "domain" {
			continue
		}
		if len(needs) == 0 {
			return place{dir: at}, nil
		}
		procs := words(filepath.Join(at, "cgroup.procs"))
		if len(procs) == 0 || h.ours(procs) {
			return place{at, procs}, nil
		}
	}
	return place{}, errNoPlace
}

// ours reports whether processes are this one, and the same command that
// started it and waits for it: see package userns.
func (h *Host) ours(pids []string) bool {
	for _, pid := range pids {
		if pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		own, _ := readFile(filepath.Join(h.proc, "self/cmdline"))
		other, err := readFile(filepath.Join(h.proc, pid, "cmdline"))
		if pid != strconv.Itoa(os.Getppid()) || err != nil || string(own) != string(other) {
			return false
		}
	}
	return true
}

// leafName is the last part of the name of the group that processes are moved
// to when they are in the way.
const leafName = "self"

// clear moves processes into a leaf of the place.
func (o *Own) clear(p place) error {
	if len(p.move) == 0 {
		return nil
	}
	leaf := filepath.Join(p.dir, o.prefix+leafName)
	if err := o.host.mkdir(leaf); err != nil && !exists(leaf) {
		return err
	}
	for _, pid := range p.move {
		if err := o.host.write(filepath.Join(leaf, "cgroup.procs"), pid); err != nil {
			return fmt.Errorf("move process %s into cgroup %s: %w", pid, leaf, cause(err))
		}
	}
	o.moved = &p
	return nil
}

// Usable lists the controllers that groups of [Own] can have, sorted. The
// error says what is in the way of others, or of all; it is nil when all that
// the machine has are usable.
func (h *Host) Usable() (controllers []string, why error) {
	if h.Mode() == None {
		return nil, errors.New("no hierarchy of control groups is mounted")
	}
	var errs []error
	for _, t := range h.hierarchies {
		dir := t.dir(t.own)
		if !t.v2 {
			if !writable(filepath.Join(dir, "cgroup.procs")) {
				errs = append(errs, fmt.Errorf("%s is not this user's to write", dir))
				continue
			}
			controllers = append(controllers, t.controllers...)
			continue
		}
		for _, c := range words(filepath.Join(t.mount, "cgroup.controllers")) {
			if _, err := h.place(t, []string{c}); err != nil {
				errs = append(errs, h.whyNoPlace(t, dir, c))
			} else {
				controllers = append(controllers, c)
			}
		}
	}
	controllers = slices.DeleteFunc(controllers, func(c string) bool { return strings.HasPrefix(c, "name=") })
	slices.Sort(controllers)
	return controllers, errors.Join(errs...)
}

func (h *Host) whyNoPlace(t *hierarchy, dir, controller string) error {
	if !writable(filepath.Join(dir, "cgroup.procs")) {
		return fmt.Errorf("%s: %s is not delegated to this user: start this program by systemd-run --user --scope -p Delegate=yes, or run it as root", controller, dir)
	}
	if !slices.Contains(words(filepath.Join(dir, "cgroup.controllers")), controller) {
		return fmt.Errorf("%s: not delegated to %s: set Delegate=yes for user@.service", controller, dir)
	}
	return fmt.Errorf("%s: %s holds other processes: start this program in a cgroup of its own (systemd-run --scope -p Delegate=yes)", controller, dir)
}

// owner is the process that a group is named after.
type owner struct {
	space string // its namespace of processes
	pid   string
	start string // when it started, in the kernel's ticks
}

func (o owner) prefix() string { return "bk-" + o.space + "-" + o.pid + "-" + o.start + "-" }

// parseName takes the name of a group apart.
func parseName(name string) (o owner, n string, ok bool) {
	f := strings.Split(name, "-")
	if len(f) != 5 || f[0] != "bk" {
		return o, "", false
	}
	for _, number := range f[1:4] {
		if _, ok := parseUint(number); !ok {
			return o, "", false
		}
	}
	if _, ok := parseUint(f[4]); !ok && f[4] != leafName {
		return o, "", false
	}
	return owner{f[1], f[2], f[3]}, f[4], true
}

// identify describes a process, by its number or "self".
func (h *Host) identify(pid string) (owner, error) {
	stat, err := readFile(filepath.Join(h.proc, pid, "stat"))
	if err != nil {
		return owner{}, err
	}
	// The name of the program may hold anything, also ")".
	end := strings.LastIndexByte(string(stat), ')')
	f := strings.Fields(string(stat[end+1:]))
	start := strings.IndexByte(string(stat), ' ')
	if end < 0 || start < 0 || len(f) < 20 {
		return owner{}, fmt.Errorf("%s/%s/stat: unexpected content", h.proc, pid)
	}
	link, err := os.Readlink(filepath.Join(h.proc, "self/ns/pid"))
	if err != nil {
		return owner{}, err
	}
	return owner{strings.Trim(link, "pid:[]"), string(stat[:start]), f[19]}, nil
}

// sweepTime is how long the removal of one left group may take.
const sweepTime = 200 * time.Millisecond

// sweep removes the groups that killed processes left in a directory. What
// can't be removed is left to the next.
func (o *Own) sweep(dir string) {
	if o.swept[dir] {
		return
	}
	o.swept[dir] = true
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	self, err := o.host.identify("self")
	if err != nil {
		return
	}
	for _, e := range entries {
		of, _, ok := parseName(e.Name())
		if !ok || !e.IsDir() || of.space != self.space || of == self {
			continue
		}
		if now, err := o.host.identify(of.pid); err == nil && now == of || err != nil && !gone(err) {
			continue
		}
		left := filepath.Join(dir, e.Name())
		if pids, err := procsBelow(left); err == nil {
			for _, pid := range pids {
				_ = kill(pid)
			}
		}
		_ = remove(left, sweepTime)
	}
}
