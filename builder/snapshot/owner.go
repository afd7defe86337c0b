package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
)

// maxUserFile bounds /etc/passwd and /etc/group.
const maxUserFile = 10 << 20

// LookupOwner resolves the owner that an action names; nil when it names none.
// Names are looked up in /etc/passwd of passwd and /etc/group of group, which
// may be nil when no name needs them. As in BuildKit a name that isn't there
// is root, a user given by number has the group of the same number, and a
// group, when given, goes before the user's own.
func LookupOwner(opt *pb.ChownOpt, passwd, group FS) (*Owner, error) {
	if opt == nil {
		return nil, nil
	}
	var o Owner
	switch u := opt.GetUser().GetUser().(type) {
	case *pb.UserOpt_ByName:
		users, err := lookup(passwd, "/etc/passwd", func(r io.Reader) ([]user.User, error) {
			return user.ParsePasswdFilter(r, func(e user.User) bool { return e.Name == u.ByName.GetName() })
		})
		if err != nil {
			return nil, err
		}
		if len(users) > 0 {
			o.UID, o.GID = users[0].Uid, users[0].Gid
		}
	case *pb.UserOpt_ByID:
		o.UID, o.GID = int(u.ByID), int(u.ByID)
	}
	switch g := opt.GetGroup().GetUser().(type) {
	case *pb.UserOpt_ByName:
		groups, err := lookup(group, "/etc/group", func(r io.Reader) ([]user.Group, error) {
			return user.ParseGroupFilter(r, func(e user.Group) bool { return e.Name == g.ByName.GetName() })
		})
		if err != nil {
			return nil, err
		}
		if len(groups) > 0 {
			o.GID = groups[0].Gid
		}
	case *pb.UserOpt_ByID:
		o.GID = int(g.ByID)
	}
	return &o, nil
}

// lookup parses a file of a tree; one that isn't there has nothing in it.
func lookup[T any](tree FS, p string, parse func(io.Reader) ([]T, error)) ([]T, error) {
	if tree == nil {
		return nil, fmt.Errorf("look up a name: the tree with %s is missing", p)
	}
	r, err := openFile(tree, p, maxUserFile)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	found, err := parse(io.LimitReader(r, maxUserFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	return found, nil
}
