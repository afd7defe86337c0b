package builder

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// places are what is put into a workTree for the time of a step, as other
// isolations mount it. What was there goes aside and comes back. No part of it
// ever gets into a layer: its paths are masked, and directories that are made on
// the way are stubs of the tree's index.
type places struct {
	w    *workTree
	fd   int // of the root
	list []placed
	made []string // stubs, parents first
	up   map[string]bool
}

// placed is one thing that was put somewhere.
type placed struct {
	path  string
	aside string // what was there; empty: nothing
	back  string // where it returns to; empty: it goes
	ino   uint64 // of what is there now
}

// maxLinks is how many symlinks the kernel follows in one path, too.
const maxLinks = 40

// newPlaces returns the places of a tree. The caller restores them.
func newPlaces(w *workTree) (*places, error) {
	fd, err := unix.Open(w.root(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: w.root(), Err: err}
	}
	return &places{w: w, fd: fd, up: map[string]bool{}}, nil
}

// open opens a directory of the root without following any symlink: a step may
// have put one anywhere.
func (p *places) open(dir string) (int, error) {
	fd, err := unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil || dir == "." {
		return fd, err
	}
	for name := range strings.SplitSeq(dir, "/") {
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		fd = next
	}
	return fd, nil
}

// within calls f with the parent of a path, whose time of modification stays as
// it is.
func (p *places) within(name string, f func(dir int, base string) error) error {
	dir, err := p.open(path.Dir(name))
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	if err := f(dir, path.Base(name)); err != nil {
		return err
	}
	if up := path.Dir(name); !p.holds(up) && !p.inside(up) {
		p.up[up] = true
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, procFD(dir), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}, 0)
}

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// inside reports whether a path is in something that was put there.
func (p *places) inside(name string) bool {
	return slices.ContainsFunc(p.list, func(o placed) bool { return strings.HasPrefix(name, o.path+"/") })
}

// locate returns the path of a mount point without symlinks, and whether there
// is something. Directories that are missing above it are made.
func (p *places) locate(target string) (name string, there bool, err error) {
	done, rest := ".", target
	for links := 0; ; {
		var next string
		next, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		last := strings.Trim(rest, "/") == ""
		switch next {
		case "", ".":
			if last {
				return done, true, nil
			}
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		at := path.Join(done, next)
		kind, link, err := p.lookup(at)
		switch {
		case errors.Is(err, unix.ENOENT) && last:
			return at, false, nil
		case errors.Is(err, unix.ENOENT):
			if err := p.stub(at, false); err != nil {
				return "", false, err
			}
		case err != nil:
			return "", false, err
		case kind == unix.S_IFLNK:
			if links++; links > maxLinks {
				return "", false, &os.PathError{Op: "resolve", Path: target, Err: unix.ELOOP}
			}
			if strings.HasPrefix(link, "/") {
				done = "."
			}
			rest = link + "/" + rest
			continue
		case last:
			return at, true, nil
		}
		done = at
	}
}

// lookup returns the type of a file, and where a symlink leads.
func (p *places) lookup(name string) (kind uint32, link string, err error) {
	dir, err := p.open(path.Dir(name))
	if err != nil {
		return 0, "", err
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, "", err
	}
	kind = st.Mode & unix.S_IFMT
	if kind != unix.S_IFLNK {
		return kind, "", nil
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, path.Base(name), buf)
	if err != nil {
		return 0, "", err
	}
	return kind, string(buf[:n]), nil
}

// stub makes a directory or an empty file that isn't there.
func (p *places) stub(name string, file bool) error {
	err := p.within(name, func(dir int, base string) error {
		var err error
		if file {
			err = unix.Mknodat(dir, base, unix.S_IFREG|0o644, 0)
		} else {
			err = unix.Mkdirat(dir, base, 0o755)
		}
		if err != nil {
			return err
		}
		if err := unix.Fchmodat(dir, base, map[bool]uint32{true: 0o644, false: 0o755}[file], 0); err != nil {
			return err
		}
		return unix.UtimesNanoAt(dir, base, make([]unix.Timespec, 2), unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return &os.PathError{Op: "create mount point", Path: name, Err: err}
	}
	if p.inside(name) {
		return nil
	}
	p.made = append(p.made, name)
	return p.w.index.Stub(name)
}

// point makes sure that something is at a mount point, for a mount to cover it.
func (p *places) point(target string, file bool) error {
	name, there, err := p.locate(target)
	if err != nil || there {
		return err
	}
	return p.stub(name, file)
}

// put moves a file or a directory of the same file system to target; with back
// it returns to where it was.
func (p *places) put(target, from string, back bool) error {
	name, there, err := p.locate(target)
	if err != nil {
		return err
	}
	if name == "." {
		return fmt.Errorf("mount on %s: it is the root", target)
	}
	o := placed{path: name}
	if there {
		o.aside = filepath.Join(p.w.aside(), randomID())
		if err := p.move(name, o.aside); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	err = unix.Lstat(from, &st)
	if err == nil {
		err = p.within(name, func(dir int, base string) error { return unix.Renameat(unix.AT_FDCWD, from, dir, base) })
	}
	if o.ino = st.Ino; back && err == nil {
		o.back = from
	}
	inside := p.inside(name)
	p.list = append(p.list, o)
	if err != nil {
		return &os.LinkError{Op: "move", Old: from, New: name, Err: err}
	}
	if inside {
		return nil
	}
	return p.w.index.Mask(name)
}

// move takes a file out of the root.
func (p *places) move(name, to string) error {
	return p.within(name, func(dir int, base string) error { return unix.Renameat(dir, base, unix.AT_FDCWD, to) })
}

// settle tells the index what was done to directories, so that only what comes
// later is a change.
func (p *places) settle() error {
	var errs []error
	for name := range p.up {
		errs = append(errs, p.w.index.Touch(name))
	}
	clear(p.up)
	return errors.Join(errs...)
}

// holds reports whether something was put at the path.
func (p *places) holds(name string) bool {
	return slices.ContainsFunc(p.list, func(o placed) bool { return o.path == name })
}

// restore brings everything back to where it was. After an error the tree is not
// what its layers make of it.
func (p *places) restore() error {
	defer unix.Close(p.fd)
	var errs []error
	for _, o := range slices.Backward(p.list) {
		errs = append(errs, p.takeBack(o))
	}
	p.w.index.Unmask()
	for _, o := range p.list {
		if !p.inside(o.path) {
			errs = append(errs, p.w.index.Touch(o.path))
		}
	}
	p.list = nil
	for _, name := range slices.Backward(p.made) {
		if !p.w.index.IsStub(name) {
			continue // it is part of a layer now
		}
		errs = append(errs, p.within(name, func(dir int, base string) error {
			err := unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
			if err == unix.ENOTDIR {
				err = unix.Unlinkat(dir, base, 0)
			}
			return err
		}), p.w.index.Touch(name))
	}
	return errors.Join(append(errs, p.settle())...)
}

// takeBack undoes one put. What the step put in the place of what was there
// doesn't return in its stead.
func (p *places) takeBack(o placed) error {
	trash := filepath.Join(p.w.aside(), randomID())
	defer os.RemoveAll(trash)
	err := p.within(o.path, func(dir int, base string) error {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		to := trash
		if o.back != "" && st.Ino == o.ino {
			to = o.back
		}
		return errors.Join(unix.Renameat(dir, base, unix.AT_FDCWD, to), lost(o, st.Ino))
	})
	if o.aside == "" {
		return err
	}
	return errors.Join(err, p.within(o.path, func(dir int, base string) error {
		return unix.Renameat(unix.AT_FDCWD, o.aside, dir, base)
	}))
}

// lost reports that what should return was replaced.
func lost(o placed, ino uint64) error {
	if o.back == "" || ino == o.ino {
		return nil
	}
	return fmt.Errorf("%s was replaced by the step", o.path)
}
