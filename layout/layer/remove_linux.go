package layer

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// whiteout takes note that t doesn't exist in the layers below.
func (a *applier) whiteout(t target) error {
	if a.opts.Export {
		return nil
	}
	if a.opts.Merged {
		return a.removeLower(t)
	}
	err := unix.Mknodat(t.fd, t.name, unix.S_IFCHR, 0)
	if err == nil {
		return nil
	}
	if err != unix.EEXIST {
		return fmt.Errorf("make whiteout: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(t.fd, t.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return a.hideBelow(t.path)
	}
	return nil
}

// hideBelow makes the directory p of this layer opaque.
func (a *applier) hideBelow(p string) error {
	if a.opts.Export {
		return nil
	}
	if a.opts.Merged {
		return a.emptyLower(p)
	}
	s := a.dirs[p]
	if s == nil {
		s = new(dirState)
		a.dirs[p] = s
	}
	s.opaque = true
	return nil
}

// removeLower removes t from a merged tree, but not what this layer wrote.
func (a *applier) removeLower(t target) error {
	if _, ours := a.written[t.path]; !ours {
		if s := a.dirs[t.path]; s == nil || !s.implied {
			return a.remove(t)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstatat(t.fd, t.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return a.emptyLower(t.path)
	}
	return nil
}

// emptyLower removes from the directory p of a merged tree all that this layer
// didn't write.
func (a *applier) emptyLower(p string) error {
	fd, p, err := a.cursor.open(p)
	if err != nil {
		return err
	}
	names, err := readNames(fd, make([]byte, 32<<10))
	if err != nil {
		return fmt.Errorf("read directory: %w", err)
	}
	for _, name := range names {
		// A name's own removal may have moved the cursor.
		if fd, _, err = a.cursor.open(p); err != nil {
			return err
		}
		if err := a.removeLower(target{fd, name, join(p, name)}); err != nil {
			return err
		}
	}
	return nil
}

// remove removes t and all below it; it may not exist.
func (a *applier) remove(t target) error {
	err := unix.Unlinkat(t.fd, t.name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return fmt.Errorf("remove: %w", err)
	}
	if err := a.removeTree(t); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// removeTree removes the directory t and what is noted of it. It follows no
// symlink.
func (a *applier) removeTree(t target) error {
	a.cursor.forget(t.path)
	sub, err := openDir(t.fd, t.name, unix.O_NOFOLLOW)
	if errors.Is(err, unix.EACCES) {
		if err = unix.Fchmodat(t.fd, t.name, 0o700, 0); err == nil {
			sub, err = openDir(t.fd, t.name, unix.O_NOFOLLOW)
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(sub)
	names, err := readNames(sub, make([]byte, 4<<10))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := a.removeChild(target{sub, name, join(t.path, name)}); err != nil {
			return err
		}
	}
	delete(a.dirs, t.path)
	delete(a.written, t.path)
	return unix.Unlinkat(t.fd, t.name, unix.AT_REMOVEDIR)
}

func (a *applier) removeChild(t target) error {
	err := unix.Unlinkat(t.fd, t.name, 0)
	switch err {
	case nil, unix.ENOENT:
		delete(a.written, t.path)
		return nil
	case unix.EISDIR, unix.EPERM:
		return a.removeTree(t)
	}
	return err
}
