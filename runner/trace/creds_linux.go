//go:build amd64 || arm64

package trace

import (
	"encoding/binary"
	"slices"
	"syscall"
)

// ids are those of one kind, users or groups.
type ids struct{ real, effective, saved, fs uint32 }

// creds are what a task believes to be. They are shared by tasks and never
// changed.
type creds struct {
	user, group ids
	groups      []uint32
}

func newCreds(uid, gid uint32, groups []uint32) *creds {
	return &creds{ids{uid, uid, uid, uid}, ids{gid, gid, gid, gid}, groups}
}

// root reports whether the task believes to have root's capabilities.
func (c *creds) root() bool { return c.user.effective == 0 }

func (c *creds) inGroup(gid uint32) bool {
	return c.group.fs == gid || slices.Contains(c.groups, gid)
}

// keep is the argument that leaves an id as it is.
const keep = ^uint32(0)

// has reports whether an unprivileged process may take an id.
func (i ids) has(id uint32) bool { return id == i.real || id == i.effective || id == i.saved }

// set is setuid(2).
func (i ids) set(id uint32, root bool) (ids, syscall.Errno) {
	switch {
	case id == keep:
		return i, syscall.EINVAL
	case root:
		return ids{id, id, id, id}, 0
	case id == i.real || id == i.saved:
		i.effective, i.fs = id, id
		return i, 0
	}
	return i, syscall.EPERM
}

// setBoth is setreuid(2).
func (i ids) setBoth(real, effective uint32, root bool) (ids, syscall.Errno) {
	n := i
	if real != keep {
		if !root && real != i.real && real != i.effective {
			return i, syscall.EPERM
		}
		n.real = real
	}
	if effective != keep {
		if !root && !i.has(effective) {
			return i, syscall.EPERM
		}
		n.effective = effective
	}
	if real != keep || effective != keep && effective != i.real {
		n.saved = n.effective
	}
	n.fs = n.effective
	return n, 0
}

// setAll is setresuid(2).
func (i ids) setAll(real, effective, saved uint32, root bool) (ids, syscall.Errno) {
	n := i
	for _, s := range []struct {
		to   *uint32
		want uint32
	}{{&n.real, real}, {&n.effective, effective}, {&n.saved, saved}} {
		if s.want == keep {
			continue
		}
		if !root && !i.has(s.want) {
			return i, syscall.EPERM
		}
		*s.to = s.want
	}
	n.fs = n.effective
	return n, 0
}

// setFS is setfsuid(2), which returns the former one.
func (i ids) setFS(id uint32, root bool) ids {
	if id != keep && (root || i.has(id) || id == i.fs) {
		i.fs = id
	}
	return i
}

// user and group are which of a task's ids a call is about.
func user(c *creds) *ids  { return &c.user }
func group(c *creds) *ids { return &c.group }

// getID answers getuid(2) and its like.
func getID(get func(*creds) uint32) handler {
	return func(t *task, _ *regs) verdict { return result(int(get(t.creds))) }
}

// setID answers the calls that change ids.
func setID(which func(*creds) *ids, change func(i ids, r *regs, root bool) (ids, syscall.Errno)) handler {
	return func(t *task, r *regs) verdict {
		c := *t.creds
		n, errno := change(*which(&c), r, c.root())
		if errno != 0 {
			return fail(errno)
		}
		*which(&c) = n
		t.creds = &c
		return result(0)
	}
}

func setFS(which func(*creds) *ids) handler {
	return func(t *task, r *regs) verdict {
		c := *t.creds
		i := which(&c)
		before := i.fs
		*i = i.setFS(uint32(r.arg(0)), c.root())
		t.creds = &c
		return result(int(before))
	}
}

// getAll answers getresuid(2).
func getAll(which func(*creds) *ids) handler {
	return func(t *task, r *regs) verdict {
		i := which(t.creds)
		for n, v := range []uint32{i.real, i.effective, i.saved} {
			if errno := t.write(r.arg(n), binary.NativeEndian.AppendUint32(nil, v)); errno != 0 {
				return fail(errno)
			}
		}
		return result(0)
	}
}

// maxGroups is the kernel's limit.
const maxGroups = 65536

func getGroups(t *task, r *regs) verdict {
	size := int(int32(r.arg(0)))
	groups := t.creds.groups
	switch {
	case size < 0 || size > 0 && size < len(groups):
		return fail(syscall.EINVAL)
	case size == 0:
		return result(len(groups))
	}
	var b []byte
	for _, g := range groups {
		b = binary.NativeEndian.AppendUint32(b, g)
	}
	if errno := t.write(r.arg(1), b); errno != 0 {
		return fail(errno)
	}
	return result(len(groups))
}

func setGroups(t *task, r *regs) verdict {
	n := r.arg(0)
	if !t.creds.root() {
		return fail(syscall.EPERM)
	}
	if n > maxGroups {
		return fail(syscall.EINVAL)
	}
	b := make([]byte, 4*n)
	if errno := t.read(r.arg(1), b); errno != 0 {
		return fail(errno)
	}
	c := *t.creds
	c.groups = nil
	for i := range n {
		c.groups = append(c.groups, binary.NativeEndian.Uint32(b[4*i:]))
	}
	slices.Sort(c.groups)
	t.creds = &c
	return result(0)
}

// credCalls are the calls about ids.
func credCalls() map[int]handler {
	calls := map[int]handler{
		syscall.SYS_GETUID:    getID(func(c *creds) uint32 { return c.user.real }),
		syscall.SYS_GETEUID:   getID(func(c *creds) uint32 { return c.user.effective }),
		syscall.SYS_GETGID:    getID(func(c *creds) uint32 { return c.group.real }),
		syscall.SYS_GETEGID:   getID(func(c *creds) uint32 { return c.group.effective }),
		syscall.SYS_GETRESUID: getAll(user),
		syscall.SYS_GETRESGID: getAll(group),
		syscall.SYS_GETGROUPS: getGroups,
		syscall.SYS_SETGROUPS: setGroups,
		syscall.SYS_SETFSUID:  setFS(user),
		syscall.SYS_SETFSGID:  setFS(group),
	}
	one := func(i ids, r *regs, root bool) (ids, syscall.Errno) { return i.set(uint32(r.arg(0)), root) }
	two := func(i ids, r *regs, root bool) (ids, syscall.Errno) {
		return i.setBoth(uint32(r.arg(0)), uint32(r.arg(1)), root)
	}
	three := func(i ids, r *regs, root bool) (ids, syscall.Errno) {
		return i.setAll(uint32(r.arg(0)), uint32(r.arg(1)), uint32(r.arg(2)), root)
	}
	calls[syscall.SYS_SETUID], calls[syscall.SYS_SETGID] = setID(user, one), setID(group, one)
	calls[syscall.SYS_SETREUID], calls[syscall.SYS_SETREGID] = setID(user, two), setID(group, two)
	calls[syscall.SYS_SETRESUID], calls[syscall.SYS_SETRESGID] = setID(user, three), setID(group, three)
	return calls
}
