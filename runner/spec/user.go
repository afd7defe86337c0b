package spec

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// User is the identity of a step.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary groups, in the order of /etc/group
	Home     string   // of the passwd entry; "/" without one
}

// MaxUserFile is the largest passwd or group file in bytes that is read.
const MaxUserFile = 10 << 20

// maxID leaves out 4294967295, which means "no id" to system calls.
const maxID = 1<<32 - 2

// ResolveUser resolves a USER string, "user[:group]", each a name or a number,
// with the contents of an image's /etc/passwd and /etc/group; nil stands for a
// missing file. Empty means root.
//
// A string of digits is always a number, whatever names the files hold. A
// number needs no entry; its group is the entry's, or 0. Supplementary groups
// are those that list the user, when no group is given. A name without an
// entry is an error that is fs.ErrNotExist. Lines that are not well-formed are
// skipped. Files longer than MaxUserFile are an error.
func ResolveUser(passwd, group io.Reader, user string) (User, error) {
	name, groupName, _ := strings.Cut(user, ":")
	if name == "" {
		name = "0"
	}
	u, account, err := resolveName(passwd, name)
	if err == nil && groupName != "" {
		u.GID, err = resolveGroup(group, groupName)
	} else if err == nil && account != "" {
		u.Groups, err = memberships(group, account)
	}
	if err != nil {
		return User{}, fmt.Errorf("user %q: %w", user, err)
	}
	return u, nil
}

// number parses an id; digits says whether the string consists of digits, so
// that it can't be a name.
func number(s string) (id uint32, digits bool, err error) {
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false, nil
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > maxID {
		return 0, true, fmt.Errorf("id %s is out of range 0 to %d", s, uint32(maxID))
	}
	return uint32(n), true, nil
}

// resolveName finds the user's entry; account is its name.
func resolveName(passwd io.Reader, name string) (u User, account string, err error) {
	uid, digits, err := number(name)
	if err != nil {
		return User{}, "", err
	}
	u = User{UID: uid, Home: "/"}
	found := false
	err = scan(passwd, "/etc/passwd", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		id, ok1 := field(f[2])
		gid, ok2 := field(f[3])
		if !ok1 || !ok2 || digits && id != uid || !digits && f[0] != name {
			return true
		}
		u.UID, u.GID, account, found = id, gid, f[0], true
		if len(f) > 5 && f[5] != "" {
			u.Home = f[5]
		}
		return false
	})
	if err == nil && !found && !digits {
		err = fmt.Errorf("no such name in /etc/passwd of the image: %w", fs.ErrNotExist)
	}
	return u, account, err
}

func resolveGroup(group io.Reader, name string) (uint32, error) {
	gid, digits, err := number(name)
	if err != nil || digits {
		return gid, err
	}
	found := false
	err = scan(group, "/etc/group", func(f []string) bool {
		if len(f) < 3 || f[0] != name {
			return true
		}
		gid, found = field(f[2])
		return !found
	})
	if err == nil && !found {
		err = fmt.Errorf("no such group in /etc/group of the image: %w", fs.ErrNotExist)
	}
	return gid, err
}

// maxGroups is the kernel's limit of supplementary groups.
const maxGroups = 65536

// memberships lists the groups that name the account.
func memberships(group io.Reader, account string) (list []uint32, err error) {
	err = scan(group, "/etc/group", func(f []string) bool {
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), account) {
			return true
		}
		if gid, ok := field(f[2]); ok && !slices.Contains(list, gid) {
			list = append(list, gid)
		}
		return len(list) < maxGroups
	})
	return list, err
}

func field(s string) (uint32, bool) {
	n, digits, err := number(s)
	return n, digits && err == nil && s != ""
}

// scan calls visit with the fields of each line until it returns false.
func scan(r io.Reader, name string, visit func(fields []string) bool) error {
	if r == nil {
		return nil
	}
	limited := &io.LimitedReader{R: r, N: MaxUserFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, MaxUserFile+1)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == '+' || line[0] == '-' {
			continue
		}
		if !visit(strings.Split(line, ":")) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s of the image: %w", name, err)
	}
	if limited.N <= 0 {
		return fmt.Errorf("%s of the image is longer than %d bytes", name, MaxUserFile)
	}
	return nil
}
