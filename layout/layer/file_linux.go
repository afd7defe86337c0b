package layer

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// regular writes a file with content.
func (a *applier) regular(e *Entry, t target) error {
	var fd int
	err := a.create(t, func() (err error) {
		fd, err = retry(func() (int, error) {
			return unix.Openat(t.fd, t.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, e.Mode&0o777|0o200)
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	err = a.writeOpen(fd, e, t.path)
	if cerr := unix.Close(fd); err == nil && cerr != nil {
		err = fmt.Errorf("close: %w", cerr)
	}
	return err
}

func (a *applier) writeOpen(fd int, e *Entry, p string) error {
	if e.Size > 0 {
		if err := a.content(fd, e); err != nil {
			return err
		}
	}
	if a.owns(e) {
		if err := unix.Fchown(fd, e.UID, e.GID); err != nil {
			return chownError(e, err)
		}
	}
	if a.opts.Remember != nil {
		if err := a.opts.Remember(fd, p, e); err != nil {
			return err
		}
	}
	created := (e.Mode&0o777 | 0o200) &^ a.umask
	return a.openAttributes(fd, e, created != e.Mode&0o7777)
}

// content copies the content of e to fd.
func (a *applier) content(fd int, e *Entry) error {
	r, err := e.Content.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if f, ok := r.(*openFile); ok && e.Size > int64(len(a.buf)) {
		if done, err := f.copyTo(fd, e.Size); done || err != nil {
			return err
		}
	}
	hole := false
	for left := e.Size; left > 0; {
		b := a.buf[:min(left, int64(len(a.buf)))]
		left -= int64(len(b))
		if err := readExactly(r, b, left == 0); err != nil {
			return fmt.Errorf("read content: %w", err)
		}
		if hole = zeros(b); hole {
			_, err = unix.Seek(fd, int64(len(b)), io.SeekCurrent)
		} else {
			err = writeAll(fd, b)
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	if hole {
		if err := unix.Ftruncate(fd, e.Size); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

// openAttributes sets the xattrs, the mode if asked to, and the time of the open
// file fd.
func (a *applier) openAttributes(fd int, e *Entry, mode bool) error {
	for name, value := range e.Xattrs {
		if a.opts.Remember != nil && name == a.opts.RememberAttr {
			continue
		}
		if err := a.xattr(e, name, unix.Fsetxattr(fd, name, []byte(value), 0)); err != nil {
			return err
		}
	}
	if mode {
		if err := unix.Fchmod(fd, e.Mode&0o7777); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	if err := futimens(fd, times(e.ModTime)); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// attributes sets those of a file that isn't open.
func (a *applier) attributes(e *Entry, t target) error {
	if a.owns(e) {
		if err := unix.Fchownat(t.fd, t.name, e.UID, e.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return chownError(e, err)
		}
	}
	if a.opts.Remember != nil {
		if err := a.opts.Remember(-1, t.path, e); err != nil {
			return err
		}
	}
	for name, value := range e.Xattrs {
		if err := a.xattr(e, name, unix.Lsetxattr(procPath(t.fd, t.name), name, []byte(value), 0)); err != nil {
			return err
		}
	}
	if e.Type != Symlink {
		if err := unix.Fchmodat(t.fd, t.name, e.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	ts := times(e.ModTime)
	if err := unix.UtimesNanoAt(t.fd, t.name, ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// owns reports whether a new file needs chown(2) to be e's owner's. In a tree of
// others a directory's setgid bit may have set the group.
func (a *applier) owns(e *Entry) bool {
	return a.chown && (e.UID != a.uid || e.GID != a.gid || a.opts.Merged)
}

func chownError(e *Entry, err error) error {
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w; the user namespace has no such id: add subordinate ids to /etc/subuid and /etc/subgid", err)
	}
	return fmt.Errorf("chown %d:%d: %w", e.UID, e.GID, err)
}

// xattr interprets the result of setting an extended attribute.
func (a *applier) xattr(e *Entry, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM):
		a.lost(e.Path, "xattr "+name, err)
		return nil
	}
	return fmt.Errorf("set xattr %s: %w", name, err)
}

func (a *applier) lost(p, what string, err error) {
	const limit = 1000 // it is for people to read
	if len(a.done.Lost) < limit {
		a.done.Lost = append(a.done.Lost, fmt.Sprintf("%s: %s: %v", p, what, err))
	}
}

func times(t time.Time) [2]unix.Timespec {
	if t.IsZero() {
		return [2]unix.Timespec{}
	}
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return [2]unix.Timespec{} // after what a 32-bit kernel knows
	}
	return [2]unix.Timespec{ts, ts}
}
