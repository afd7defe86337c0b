package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// Apply writes the entries as an unpacked layer into dir, which it makes; it
// must be empty otherwise, unless opts say that it is a whole tree. After an
// error what is there is incomplete; the caller removes it.
//
// The entries may come from a hostile tar. No name leads out of dir: a parent
// that is a symlink is followed as if dir were "/". A path that comes again
// replaces what it was, except that a directory stays and takes the new
// attributes. Whiteouts and opaque marks are about the layers below, wherever in
// the stream they come: a file of the same layer stays, and a directory becomes
// opaque. A hard link's target must be in the same layer. A character device
// 0/0 is an error in the overlay form, where it would mean a whiteout.
//
// Files get their content, owner, xattrs, mode and time in this order.
// Directories get theirs at the end, deepest first; until then they are 0700.
// Blocks of zeros become holes.
func Apply(ctx context.Context, entries Entries, dir string, opts ApplyOptions) (Applied, error) {
	a, err := newApplier(dir, opts)
	if err != nil {
		return Applied{}, fmt.Errorf("apply layer to %s: %w", dir, err)
	}
	defer a.close()
	for e, err := range entries {
		if err != nil {
			return Applied{}, err
		}
		if err := ctx.Err(); err != nil {
			return Applied{}, context.Cause(ctx)
		}
		if err := a.apply(e); err != nil {
			return Applied{}, fmt.Errorf("apply %q: %w", clip(e.Path), err)
		}
	}
	if err := a.finish(); err != nil {
		return Applied{}, err
	}
	return a.done, nil
}

type applier struct {
	opts   ApplyOptions
	chown  bool
	uid    int
	gid    int
	umask  uint32
	cursor cursor
	// dirs are the directories to be finished, by path without symlinks.
	dirs map[string]*dirState
	// written are the paths that this layer wrote into a merged tree.
	written map[string]struct{}
	buf     []byte
	done    Applied
}

// dirState is what a directory becomes at the end.
type dirState struct {
	entry   *Entry // nil: implied
	opaque  bool
	gone    []string // whiteouts in the form of attributes
	implied bool
	kept    bool   // it existed and is not named: it gets its old mode
	old     uint32 // mode
}

func newApplier(dir string, opts ApplyOptions) (*applier, error) {
	opts.Merged = opts.Merged || opts.Export
	opts.NoOwner = opts.NoOwner || opts.Remember != nil
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	root, err := openDir(unix.AT_FDCWD, dir, 0)
	if err != nil {
		return nil, err
	}
	a := &applier{
		opts: opts, chown: !opts.NoOwner && os.Geteuid() == 0,
		uid: os.Geteuid(), gid: os.Getegid(), umask: umask(),
		cursor: cursor{root: root}, dirs: make(map[string]*dirState), buf: make([]byte, 256<<10),
	}
	a.cursor.missing = a.imply
	if opts.Merged {
		a.written = make(map[string]struct{})
		return a, nil
	}
	a.dirs["."] = &dirState{implied: true}
	if err := a.prepare(root); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// prepare checks that a layer's directory is empty, and takes away what the
// directory around it passed on to it: a setgid bit and a default ACL.
func (a *applier) prepare(root int) error {
	names, err := readNames(root, make([]byte, 4096))
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return errors.New("the directory is not empty")
	}
	_ = unix.Fremovexattr(root, "system.posix_acl_default") // usually there is none
	return unix.Fchmod(root, 0o700)
}

func (a *applier) close() {
	a.cursor.close()
	unix.Close(a.cursor.root)
}

// imply makes a directory that the stream doesn't name.
func (a *applier) imply(fd int, name, p string) error {
	if err := unix.Mkdirat(fd, name, 0o700); err != nil {
		return fmt.Errorf("mkdir: %w", err)
	}
	a.dirs[p] = &dirState{implied: true}
	return nil
}

// apply writes one entry.
func (a *applier) apply(e *Entry) error {
	if err := checkEntry(e); err != nil {
		return invalid("%w", err)
	}
	if e.Path == "." || e.Type == Whiteout && e.Opaque {
		return a.root(e)
	}
	fd, dir, err := a.cursor.open(path.Dir(e.Path))
	if err != nil {
		return err
	}
	if err := a.unlock(fd, dir); err != nil {
		return err
	}
	t := target{fd: fd, name: path.Base(e.Path)}
	t.path = join(dir, t.name)
	if e.Type == Whiteout {
		return a.whiteout(t)
	}
	if err := a.write(e, t); err != nil {
		return err
	}
	if a.written != nil {
		a.written[t.path] = struct{}{}
	}
	return nil
}

// target is where an entry goes: a name in an open directory, and the path
// without symlinks.
type target struct {
	fd   int
	name string
	path string
}

// root takes what is known of the root directory, or an opaque mark.
func (a *applier) root(e *Entry) error {
	_, dir, err := a.cursor.open(e.Path)
	if err != nil {
		return err
	}
	if e.Type == Directory && !a.opts.Export {
		a.named(dir, e)
	}
	if !e.Opaque {
		return nil
	}
	return a.hideBelow(dir)
}

// named notes that the directory p has an entry.
func (a *applier) named(p string, e *Entry) {
	s := a.dirs[p]
	if s == nil {
		s = new(dirState)
		a.dirs[p] = s
	}
	s.entry, s.implied, s.kept = e, false, false
}

// unlock lets the owner write to an existing directory until the end, for a
// user whom permissions bind.
func (a *applier) unlock(fd int, p string) error {
	if !a.opts.Merged || a.uid == 0 || a.dirs[p] != nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	a.dirs[p] = &dirState{old: st.Mode & 0o7777, kept: true}
	if st.Mode&0o700 == 0o700 {
		return nil
	}
	return unix.Fchmod(fd, st.Mode&0o7777|0o700)
}

// write makes the file of e.
func (a *applier) write(e *Entry, t target) error {
	switch e.Type {
	case Directory:
		return a.directory(e, t)
	case Regular:
		return a.regular(e, t)
	case Hardlink:
		return a.hardlink(e, t)
	case Symlink:
		if err := a.create(t, func() error { return unix.Symlinkat(e.Link, t.fd, t.name) }); err != nil {
			return fmt.Errorf("symlink: %w", err)
		}
		return a.attributes(e, t)
	}
	return a.node(e, t)
}

// create calls mk, and again after removing what was in its way.
func (a *applier) create(t target, mk func() error) error {
	err := mk()
	if err != unix.EEXIST {
		return err
	}
	if err := a.remove(t); err != nil {
		return err
	}
	return mk()
}

func (a *applier) directory(e *Entry, t target) error {
	err := unix.Mkdirat(t.fd, t.name, 0o700)
	if err == unix.EEXIST {
		err = a.existing(t)
	}
	if err != nil {
		return fmt.Errorf("mkdir: %w", err)
	}
	a.named(t.path, e)
	if e.Opaque {
		return a.hideBelow(t.path)
	}
	return nil
}

// existing keeps a directory and replaces anything else by one.
func (a *applier) existing(t target) error {
	var st unix.Stat_t
	if err := unix.Fstatat(t.fd, t.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if a.opts.Merged && a.uid != 0 {
			return unix.Fchmodat(t.fd, t.name, 0o700, 0)
		}
		return nil
	}
	if err := unix.Unlinkat(t.fd, t.name, 0); err != nil {
		return err
	}
	// What it replaces, a whiteout or a file, hid what is below.
	a.dirs[t.path] = &dirState{opaque: true}
	return unix.Mkdirat(t.fd, t.name, 0o700)
}

func (a *applier) hardlink(e *Entry, t target) error {
	dir := path.Dir(e.Link)
	missing := a.cursor.missing
	a.cursor.missing = nil
	from, real, err := a.cursor.open(dir)
	a.cursor.missing = missing
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", e.Link, err)
	}
	source := target{name: path.Base(e.Link)}
	source.path = join(real, source.name)
	if source.path == t.path {
		return nil
	}
	// The cursor may close either directory when it opens the other.
	if source.fd, err = unix.FcntlInt(uintptr(from), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return fmt.Errorf("hard link to %q: %w", e.Link, err)
	}
	defer unix.Close(source.fd)
	if t.fd, _, err = a.cursor.open(path.Dir(t.path)); err != nil {
		return err
	}
	if err := a.link(source, t); err != nil {
		return fmt.Errorf("hard link to %q: %w", e.Link, err)
	}
	return nil
}

// link makes t another name of source.
func (a *applier) link(source, t target) error {
	var st, old unix.Stat_t
	if err := unix.Fstatat(source.fd, source.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if typ := st.Mode & unix.S_IFMT; typ == unix.S_IFDIR || typ == unix.S_IFCHR && st.Rdev == 0 {
		return invalid("the target is a directory or a removed file")
	}
	if unix.Fstatat(t.fd, t.name, &old, unix.AT_SYMLINK_NOFOLLOW) == nil && old.Ino == st.Ino && old.Dev == st.Dev {
		return nil
	}
	return a.create(t, func() error { return unix.Linkat(source.fd, source.name, t.fd, t.name, 0) })
}

// node makes a device or a fifo.
func (a *applier) node(e *Entry, t target) error {
	var typ uint32
	switch e.Type {
	case Fifo:
		typ = unix.S_IFIFO
	case Char:
		typ = unix.S_IFCHR
	case Block:
		typ = unix.S_IFBLK
	}
	if e.Type == Char && e.DevMajor == 0 && e.DevMinor == 0 && !a.opts.Merged {
		return invalid("a character device 0/0 would be taken for a removed file")
	}
	if a.opts.Remember != nil && e.Type != Fifo {
		r := *e
		r.Size, r.Content = 0, nil
		return a.regular(&r, t) // its type is what is remembered
	}
	dev := unix.Mkdev(e.DevMajor, e.DevMinor)
	err := a.create(t, func() error { return unix.Mknodat(t.fd, t.name, typ|0o600, int(dev)) })
	if err == unix.EPERM && e.Type != Fifo {
		a.lost(e.Path, "device", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("mknod: %w", err)
	}
	return a.attributes(e, t)
}

// finish sets the directories' attributes, deepest first.
func (a *applier) finish() error {
	a.cursor.missing = nil
	paths := slices.Sorted(maps.Keys(a.dirs))
	for _, p := range paths {
		if a.dirs[p].implied {
			a.done.Implied = append(a.done.Implied, p)
		}
	}
	for _, p := range slices.Backward(paths) {
		if p != "." {
			if err := a.finishDir(p, a.dirs[p]); err != nil {
				return fmt.Errorf("apply %q: %w", p, err)
			}
		}
	}
	if s := a.dirs["."]; s != nil {
		a.done.OpaqueRoot = s.opaque && !a.opts.Merged
		if err := a.finishDir(".", s); err != nil {
			return fmt.Errorf("apply %q: %w", ".", err)
		}
	}
	return nil
}

func (a *applier) finishDir(p string, s *dirState) error {
	fd, _, err := a.cursor.open(p)
	if err != nil {
		return err
	}
	if err := s.markGone(fd); err != nil {
		return err
	}
	if s.opaque && !a.opts.Merged {
		if err := setOpaque(fd); err != nil {
			return err
		}
	}
	if s.kept {
		return unix.Fchmod(fd, s.old)
	}
	e := s.entry
	if e == nil {
		e = &Entry{Path: p, Mode: 0o755}
	}
	if a.chown {
		if err := unix.Fchown(fd, e.UID, e.GID); err != nil {
			return chownError(e, err)
		}
	}
	if a.opts.Remember != nil {
		if err := a.opts.Remember(fd, p, e); err != nil {
			return err
		}
	}
	return a.openAttributes(fd, e, true)
}

// setOpaque marks the open directory fd, as overlayfs expects it of this process.
func setOpaque(fd int) error {
	if err := unix.Fsetxattr(fd, OverlayPrefix()+"opaque", []byte("y"), 0); err != nil {
		return fmt.Errorf("mark as opaque: %w", err)
	}
	return nil
}
