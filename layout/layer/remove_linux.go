package layer

import (
	"errors"
	"fmt"
	"strings"

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
	if err == unix.EPERM { // on overlayfs itself
		err = a.xattrWhiteout(t)
	}
	if err != unix.EEXIST {
		return explained("make whiteout", err)
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

func explained(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// xattrWhiteout makes a whiteout in overlayfs's other form: an empty file with
// an attribute, in a directory that says that it has such.
func (a *applier) xattrWhiteout(t target) error {
	fd, err := retry(func() (int, error) {
		return unix.Openat(t.fd, t.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fsetxattr(fd, OverlayPrefix()+"whiteout", nil, 0); err != nil {
		return err
	}
	up := "."
	if i := strings.LastIndexByte(t.path, '/'); i >= 0 {
		up = t.path[:i]
	}
	s := a.dirs[up]
	if s == nil {
		s = new(dirState)
		a.dirs[up] = s
	}
	s.gone = append(s.gone, t.name)
	return nil
}

// markGone says that the directory has whiteouts in the form of attributes, or
// removes them where all is hidden anyway.
func (s *dirState) markGone(fd int) error {
	if len(s.gone) == 0 {
		return nil
	}
	if !s.opaque {
		return explained("mark whiteouts", unix.Fsetxattr(fd, OverlayPrefix()+"opaque", []byte("x"), 0))
	}
	for _, name := range s.gone {
		if _, err := unix.Lgetxattr(procPath(fd, name), OverlayPrefix()+"whiteout", nil); err != nil {
			continue // something of the layer is there now
		}
		if err := unix.Unlinkat(fd, name, 0); err != nil {
			return explained("remove whiteout", err)
		}
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
