package layer

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Changes streams what was done to the tree since the index was made or Changes
// ran last, as a layer on top of what it was then: the same layer that overlayfs
// makes of the same changes. When the stream has ended without an error the
// index is of the tree as it is now.
//
// Directories above a change are in the stream too. A file is in it whole when
// anything about it changed. A directory that was replaced by another one is
// opaque. What is masked is left out, and so are sockets and character devices
// 0/0, as by Walk and Apply.
//
// What differs from overlayfs: a file that was opened for writing and not
// written to is not in the stream, and all names of a file that was written to
// are, as they still have one content.
func (x *Index) Changes(ctx context.Context) Entries {
	return func(yield func(*Entry, error) bool) {
		d := differ{x: x, ctx: ctx, w: walker{dir: x.dir, yield: yield, links: make(map[inode]string)}}
		var now node
		err := x.scan(ctx, &now)
		if err == nil {
			err = d.root(&now)
		}
		switch {
		case err == nil:
			x.root = now
		case !errors.Is(err, errStopped):
			yield(nil, fmt.Errorf("compare %s: %w", x.dir, err))
		}
	}
}

// differ compares two states of a tree and yields the difference.
type differ struct {
	x   *Index
	ctx context.Context
	w   walker
	now *node
	// above are the directories down to the one being compared.
	above []frame
	// gained are the files that were there and have got a new name; nil: not
	// looked for yet. The value tells that an old name was yielded.
	gained map[nodeID]bool
}

// frame is a directory on the way to the one being compared.
type frame struct {
	path string
	node *node
	fd   int // -1: not yielded yet, nor open
}

func (d *differ) root(now *node) error {
	d.now = now
	d.above = []frame{{".", now, -1}}
	defer d.pop(0)
	if _, err := d.open(); err != nil { // the root is part of every layer
		return err
	}
	return d.compare(&d.x.root, now, ".")
}

// pop leaves the directories below the first n.
func (d *differ) pop(n int) {
	for _, f := range d.above[n:] {
		if f.fd >= 0 {
			unix.Close(f.fd)
		}
	}
	d.above = d.above[:n]
}

// open yields the directories above that were not, and returns the last one.
func (d *differ) open() (int, error) {
	at := unix.AT_FDCWD
	for i := range d.above {
		f := &d.above[i]
		if f.fd < 0 {
			name := f.node.name
			if i == 0 {
				name = d.x.dir
			}
			fd, err := openDir(at, name, unix.O_NOFOLLOW)
			if err != nil {
				return -1, err
			}
			f.fd = fd
			if err := d.directory(fd, f.path, f.node, false); err != nil {
				return -1, err
			}
		}
		at = f.fd
	}
	return at, nil
}

// directory yields an open directory itself.
func (d *differ) directory(fd int, p string, n *node, opaque bool) error {
	if err := context.Cause(d.ctx); err != nil {
		return err
	}
	x, err := d.w.xattrs.ofDir(fd)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%s: stat: %w", p, err)
	}
	e := newEntry(p, Directory, &st)
	e.Xattrs, e.Opaque = x.kept, opaque
	n.stub = false
	return d.yield(e)
}

func (d *differ) yield(e *Entry) error {
	if !d.w.yield(e, nil) {
		return errStopped
	}
	return nil
}

// compare goes through the names that the directory p had and has.
func (d *differ) compare(was, now *node, p string) error {
	old, cur := was.kids, now.kids
	var keep []node // masked ones: what is known of them stays
	var drop []string
	for len(old) > 0 || len(cur) > 0 {
		var a, b *node
		if len(cur) == 0 || len(old) > 0 && old[0].name <= cur[0].name {
			a = &old[0]
		}
		if len(old) == 0 || len(cur) > 0 && cur[0].name <= old[0].name {
			b = &cur[0]
		}
		name := ""
		if b != nil {
			name, cur = b.name, cur[1:]
		}
		if a != nil {
			name, old = a.name, old[1:]
		}
		child := join(p, name)
		if d.x.masked[child] {
			if a != nil {
				keep = append(keep, *a)
			} else {
				drop = append(drop, name)
			}
			continue
		}
		if b != nil && d.foreign(b) {
			drop = append(drop, name)
			b = nil
		}
		if err := d.pair(a, b, child); err != nil {
			return err
		}
	}
	for _, n := range keep {
		now.put(n)
	}
	for _, name := range drop {
		now.remove(name)
	}
	return nil
}

// pair compares what was and what is now at one path; one of them may be nil.
func (d *differ) pair(a, b *node, p string) error {
	switch {
	case b == nil:
		if a == nil || a.stub {
			return nil
		}
		if _, err := d.open(); err != nil {
			return err
		}
		return d.yield(&Entry{Path: p, Type: Whiteout})
	case a == nil:
		return d.added(b, p, false)
	case !b.isDir():
		if a.id == b.id {
			b.stub = a.stub
		}
		if !d.changed(a, b) {
			return nil
		}
		return d.added(b, p, false)
	case !a.isDir() || a.id != b.id:
		return d.added(b, p, a.isDir() && !a.stub)
	}
	b.stub = a.stub
	d.above = append(d.above, frame{p, b, -1})
	defer d.pop(len(d.above) - 1)
	if a.kept() != b.kept() || a.ctime != b.ctime {
		if _, err := d.open(); err != nil {
			return err
		}
	}
	return d.compare(a, b, p)
}

// foreign reports whether a file is in the tree and can't be in a layer: what
// was masked and moved, and what would remove its name.
func (d *differ) foreign(n *node) bool {
	is := d.x.hidden[n.id] || n.kind() == unix.S_IFCHR && n.rdev == 0
	d.x.strange = d.x.strange || is
	return is
}

// kept are the attributes that layers keep.
type kept struct {
	mode, uid, gid uint32
	mtime, size    int64
	rdev           uint64
}

// kept returns a file's; a directory's size means nothing.
func (n *node) kept() kept {
	k := kept{mode: n.mode, uid: n.uid, gid: n.gid, mtime: n.mtime}
	if !n.isDir() {
		k.size, k.rdev = n.size, n.rdev
	}
	return k
}

// added yields a file that is new at its path, and all that is in it.
func (d *differ) added(n *node, p string, opaque bool) error {
	n.stub = false
	at, err := d.open()
	if err != nil {
		return err
	}
	if !n.isDir() {
		return d.file(at, n, p)
	}
	fd, err := openDir(at, n.name, unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	d.above = append(d.above, frame{p, n, fd})
	defer d.pop(len(d.above) - 1)
	if err := d.directory(fd, p, n, opaque); err != nil {
		return err
	}
	kids := n.kids
	n.kids = nil
	for i := range kids {
		child := join(p, kids[i].name)
		if d.x.masked[child] || d.foreign(&kids[i]) {
			d.x.strange = true
			continue
		}
		if err := d.added(&kids[i], child, false); err != nil {
			return err
		}
		n.kids = append(n.kids, kids[i])
	}
	return nil
}

// file yields what is no directory.
func (d *differ) file(at int, n *node, p string) error {
	if n.kind() == unix.S_IFSOCK {
		d.x.strange = true
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at, n.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%s: stat: %w", p, err)
	}
	if st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino}
		if first, ok := d.w.links[id]; ok {
			e := newEntry(p, Hardlink, &st)
			e.Link = first
			return d.yield(e)
		}
		d.w.links[id] = p
	}
	x, err := d.w.xattrs.of(at, n.name)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	e, err := d.w.inode(at, n.name, p, &st)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	e.Xattrs = x.kept
	return d.yield(e)
}

// changed reports whether a file at the path where it was belongs to the layer.
func (d *differ) changed(a, b *node) bool {
	switch {
	case a.id != b.id || a.kept() != b.kept():
		return true
	case a.ctime == b.ctime:
		return false
	case a.nlink == b.nlink: // extended attributes, or attributes set to what they were
		return true
	}
	// Only its number of names is known to have changed. Overlayfs copies a
	// file to give it another name, and does not to take one away.
	if d.gained == nil {
		d.gained = map[nodeID]bool{}
		d.gain(&d.x.root, d.now)
	}
	yielded, ok := d.gained[b.id]
	if !ok || yielded {
		return false
	}
	d.gained[b.id] = true
	return true
}

// gain notes the files with several names that are new at a path.
func (d *differ) gain(was, now *node) {
	for i := range now.kids {
		n := &now.kids[i]
		var old *node
		if was != nil {
			old = was.kid(n.name)
		}
		if n.isDir() {
			d.gain(old, n)
		} else if n.nlink > 1 && (old == nil || old.id != n.id) {
			d.gained[n.id] = false
		}
	}
}
