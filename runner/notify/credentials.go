package notify

import (
	"encoding/binary"
	"slices"
)

// Credentials are the ids of a process.
type Credentials struct {
	UIDs, GIDs IDs
	Groups     []uint32 // supplementary ones
}

// IDs are a process's ids of one kind.
type IDs struct{ Real, Effective, Saved, FS uint32 }

// keep is the argument that leaves an id as it is.
const keep = ^uint32(0)

// User returns the credentials of a process that starts as a user.
func User(uid, gid uint32, groups []uint32) Credentials {
	return Credentials{UIDs: IDs{uid, uid, uid, uid}, GIDs: IDs{gid, gid, gid, gid}, Groups: groups}
}

// root reports whether the process may do everything.
func (c *Credentials) root() bool { return c.UIDs.Effective == 0 }

// member reports whether a file of the group is one of the process's groups'.
func (c *Credentials) member(gid uint32) bool {
	return gid == c.GIDs.FS || slices.Contains(c.Groups, gid)
}

// set is setuid(2) and setgid(2).
func (i *IDs) set(id uint32, root bool) bool {
	switch {
	case id == keep:
		return false
	case root:
		*i = IDs{id, id, id, id}
	case id == i.Real || id == i.Saved:
		i.Effective, i.FS = id, id
	default:
		return false
	}
	return true
}

// setRE is setreuid(2) and setregid(2).
func (i *IDs) setRE(re, eff uint32, root bool) bool {
	old := *i
	if re != keep {
		if !root && re != old.Real && re != old.Effective {
			return false
		}
		i.Real = re
	}
	if eff != keep {
		if !root && eff != old.Real && eff != old.Effective && eff != old.Saved {
			*i = old
			return false
		}
		i.Effective = eff
	}
	if re != keep || eff != keep && eff != old.Real {
		i.Saved = i.Effective
	}
	i.FS = i.Effective
	return true
}

// setRES is setresuid(2) and setresgid(2).
func (i *IDs) setRES(re, eff, saved uint32, root bool) bool {
	old := *i
	for _, id := range []uint32{re, eff, saved} {
		if !root && id != keep && id != old.Real && id != old.Effective && id != old.Saved {
			return false
		}
	}
	for k, p := range []*uint32{&i.Real, &i.Effective, &i.Saved} {
		if id := []uint32{re, eff, saved}[k]; id != keep {
			*p = id
		}
	}
	i.FS = i.Effective
	return true
}

// setFS is setfsuid(2) and setfsgid(2), which return what was before.
func (i *IDs) setFS(id uint32, root bool) uint32 {
	old := i.FS
	if id != keep && (root || id == i.Real || id == i.Effective || id == i.Saved || id == i.FS) {
		i.FS = id
	}
	return old
}

// maxCredentials bounds what a step can make the table hold.
const maxCredentials = 1 << 16

// credentials gives each different Credentials a number; 0 isn't one, as a limit
// of 0 is what a careless program sets.
type credentials struct {
	list  []Credentials
	known map[string]uint64
}

// number returns the number of c, and whether there was room for it.
func (t *credentials) number(c Credentials) (uint64, bool) {
	b := make([]byte, 0, 64)
	for _, id := range append([]uint32{c.UIDs.Real, c.UIDs.Effective, c.UIDs.Saved, c.UIDs.FS,
		c.GIDs.Real, c.GIDs.Effective, c.GIDs.Saved, c.GIDs.FS}, c.Groups...) {
		b = binary.NativeEndian.AppendUint32(b, id)
	}
	if n, ok := t.known[string(b)]; ok {
		return n, true
	}
	if len(t.list) >= maxCredentials {
		return 0, false
	}
	if t.known == nil {
		t.known = map[string]uint64{}
	}
	t.list = append(t.list, c)
	n := uint64(len(t.list))
	t.known[string(b)] = n
	return n, true
}

// of returns the credentials of a number; those of root for any other.
func (t *credentials) of(n uint64) Credentials {
	if n == 0 || n > uint64(len(t.list)) {
		return Credentials{}
	}
	c := t.list[n-1]
	c.Groups = slices.Clone(c.Groups)
	return c
}
