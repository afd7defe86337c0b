// Package userns moves a program into a user namespace.
//
// [Enter] starts the running program again, whole, as root of a new user
// namespace with a mount namespace of its own, and stands in for it until it
// ends:
//
//	outer process                        inner process
//	-------------                        -------------
//	fork into new namespaces        -->  wait
//	map ids: newuidmap, newgidmap   -->  become id 0, ask to die with the outer
//	pass signals on                      one, execve(/proc/self/exe)
//	exit with its code              <--  exit
//
// A [Mapping] says which ids the namespace has. [Subordinate] is what an
// administrator gave the user in /etc/subuid and /etc/subgid, [Single] the
// user's own id alone, [Whole] all ids of a process that may map them.
//
// [Trial] is the part below: a forked process that makes prepared system calls
// in new namespaces and tells which of them failed. It finds out what a machine
// allows by trying.
//
// The package is made to run before nearly all others are initialised: it
// imports only what [os] needs anyway.
package userns

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
)

// Extent is a range of ids: Count of them from Inside on are those of the
// parent namespace from Outside on.
type Extent struct{ Inside, Outside, Count uint32 }

// Mapping is the ids that a user namespace has.
type Mapping struct {
	UIDs, GIDs []Extent
	// Helpers lets newuidmap and newgidmap write the mapping, which the process
	// itself may not.
	Helpers bool
	// KeepGroups leaves setgroups(2) allowed in the namespace; with Helpers it
	// is up to them.
	KeepGroups bool
}

// Single maps root to one user and one group, which needs no rights.
func Single(uid, gid int) Mapping {
	return Mapping{UIDs: []Extent{{0, uint32(uid), 1}}, GIDs: []Extent{{0, uint32(gid), 1}}}
}

// Whole maps all ids of the current namespace to themselves. It needs
// CAP_SETUID, CAP_SETGID and CAP_SETFCAP.
func Whole() (Mapping, error) {
	m := Mapping{KeepGroups: true}
	var err error
	if m.UIDs, err = identity("/proc/self/uid_map"); err != nil {
		return m, err
	}
	m.GIDs, err = identity("/proc/self/gid_map")
	return m, err
}

// identity maps what a map file lists to itself.
func identity(file string) ([]Extent, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	list, err := ParseMap(text)
	for i := range list {
		list[i].Outside = list[i].Inside
	}
	return list, err
}

// ParseMap reads the text of /proc/PID/uid_map or gid_map.
func ParseMap(text string) ([]Extent, error) {
	var list []Extent
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, errors.New("map of ids: line of " + strconv.Itoa(len(f)) + " fields")
		}
		var v [3]uint32
		for i := range f {
			n, err := strconv.ParseUint(f[i], 10, 32)
			if err != nil {
				return nil, errors.New("map of ids: " + strconv.Quote(f[i]) + " is no id")
			}
			v[i] = uint32(n)
		}
		list = append(list, Extent{v[0], v[1], v[2]})
	}
	return list, nil
}

// Files are where the subordinate ids of users are listed.
type Files struct{ UID, GID, Passwd string }

// SystemFiles are those of the system.
func SystemFiles() Files { return Files{"/etc/subuid", "/etc/subgid", "/etc/passwd"} }

// NoSubordinateError reports that a user has no subordinate ids.
type NoSubordinateError struct {
	File string
	User string // name, or number of a user without one
}

func (e *NoSubordinateError) Error() string { return e.File + ": no range for user " + e.User }

// Subordinate maps root to the user and group, and the ids from 1 on to their
// subordinate ids, in the order of the files. The error is a
// *NoSubordinateError when there are none.
func Subordinate(uid, gid int, files Files) (Mapping, error) {
	m := Single(uid, gid)
	m.Helpers = true
	name := userName(uid, files.Passwd)
	var err error
	if m.UIDs, err = subordinate(m.UIDs, files.UID, name, uid); err != nil {
		return m, err
	}
	m.GIDs, err = subordinate(m.GIDs, files.GID, name, uid)
	return m, err
}

// maxExtents is how many lines the kernel takes.
const maxExtents = 340

// subordinate appends a user's ranges to those that are mapped already.
func subordinate(list []Extent, file, name string, uid int) ([]Extent, error) {
	text, err := readFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	number := strconv.Itoa(uid)
	next, found := list[len(list)-1].Inside+list[len(list)-1].Count, false
	for line := range strings.Lines(text) {
		owner, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		if owner != name && owner != number {
			continue
		}
		first, size, _ := strings.Cut(rest, ":")
		start, err1 := strconv.ParseUint(first, 10, 32)
		count, err2 := strconv.ParseUint(size, 10, 32)
		if err1 != nil || err2 != nil || count == 0 || len(list) == maxExtents {
			continue
		}
		// What doesn't fit into 32 bits is cut off; the last id is no id.
		count = min(count, uint64(^uint32(0)-next))
		list = append(list, Extent{next, uint32(start), uint32(count)})
		next, found = next+uint32(count), true
	}
	if !found {
		return nil, &NoSubordinateError{file, name}
	}
	return list, nil
}

// userName finds the user's name as newuidmap does; without one it is the
// number.
func userName(uid int, passwd string) string {
	text, _ := readFile(passwd) // an unknown user has a number
	number := strconv.Itoa(uid)
	for line := range strings.Lines(text) {
		f := strings.SplitN(line, ":", 4)
		if len(f) == 4 && f[2] == number {
			return f[0]
		}
	}
	if name := os.Getenv("USER"); name != "" { // of a directory service
		return name
	}
	return number
}

// maxFile bounds what is read of the files above, in bytes.
const maxFile = 4 << 20

func readFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	return string(b), err
}

// lines spells extents as the kernel takes them.
func lines(list []Extent) string {
	var b strings.Builder
	for _, e := range list {
		for _, n := range []uint32{e.Inside, e.Outside, e.Count} {
			b.WriteString(strconv.FormatUint(uint64(n), 10) + " ")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Size returns how many ids extents hold.
func Size(list []Extent) (n uint64) {
	for _, e := range list {
		n += uint64(e.Count)
	}
	return n
}

// Helper returns the path of newuidmap or newgidmap, searched in the
// environment's PATH and where systems have it; empty: it is not installed.
func Helper(name string) string {
	dirs := os.Getenv("PATH") + ":/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin"
	for dir := range strings.SplitSeq(dirs, ":") {
		if !strings.HasPrefix(dir, "/") {
			continue
		}
		path := dir + "/" + name
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
