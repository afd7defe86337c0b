package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/moby/buildkit/solver/pb"
	mode "github.com/tonistiigi/dchapes-mode"

	"bk.build/bk/layout/layer"
)

// Copy copies from src what the action selects. owner becomes the owner of all
// that is copied and of the directories made on the way; nil keeps the owners.
func (e *Editor) Copy(ctx context.Context, src FS, a *pb.FileActionCopy, owner *Owner) error {
	if err := e.checkDest(a); err != nil {
		return err
	}
	c, err := e.newCopier(ctx, a, owner)
	if err != nil {
		return err
	}
	picks, err := selectCopy(ctx, src, a)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.settle(); err != nil {
		return err
	}
	dest := cleanPath(a.Dest)
	for i := range picks {
		unpacked := false
		if picks[i].archive != nil {
			if unpacked, err = c.unpack(picks[i].archive, dest); err != nil {
				return err
			}
		}
		if unpacked {
			continue
		}
		if err := c.copyPick(&picks[i], dest); err != nil {
			return err
		}
	}
	return nil
}

// checkDest insists on the destination's parent where the action doesn't allow
// to make it.
func (e *Editor) checkDest(a *pb.FileActionCopy) error {
	if a.CreateDestPath {
		return nil
	}
	p, err := Resolve(e, a.Dest, AllowMissing)
	if err != nil || p == "." {
		return err
	}
	dir, _ := split(p)
	if _, err := e.Lstat(dir); err != nil {
		return fmt.Errorf("failed to stat %s: %w", a.Dest, err)
	}
	return nil
}

// copier applies one copy action.
type copier struct {
	e       *Editor
	ctx     context.Context
	owner   *Owner
	mode    *uint32   // nil: the source's
	modeSet *mode.Set // symbolic changes, before mode
	mtime   *time.Time
	a       *pb.FileActionCopy
	links   map[any]*file // source inode -> its copy, within one pick
}

func (e *Editor) newCopier(ctx context.Context, a *pb.FileActionCopy, owner *Owner) (*copier, error) {
	c := &copier{e: e, ctx: ctx, owner: owner, a: a}
	switch {
	case a.ModeStr != "":
		set, err := mode.ParseWithUmask(a.ModeStr, 0)
		if err != nil {
			return nil, err
		}
		c.modeSet = &set
	case a.Mode != -1:
		m := uint32(a.Mode) & perms
		c.mode = &m
	}
	if a.Timestamp != -1 {
		t := e.time(a.Timestamp)
		c.mtime = &t
	}
	return c, nil
}

// newDir returns the attributes of directories made on the way to the
// destination.
func (c *copier) newDir() *layer.Entry {
	m := uint32(0o755)
	if c.mode != nil {
		m = *c.mode & 0o777
	}
	return c.e.newEntry(layer.Directory, m, c.owner, c.a.Timestamp)
}

// copyPick copies one selected path to dest, which is cleaned but for a
// trailing slash or dot.
func (c *copier) copyPick(pk *pick, dest string) error {
	if err := c.e.settle(); err != nil {
		return err
	}
	parent := dest
	if dir, name := path.Split(dest); name != "" && name != "." {
		parent = dir
	}
	at, err := c.e.resolve(parent)
	if err != nil {
		return err
	}
	if err := c.e.mkdirAll(at, c.newDir(), c.owner != nil); err != nil {
		return err
	}
	if at, err = c.e.resolve(dest); err != nil {
		return err
	}
	if at, err = c.target(pk, at); err != nil {
		return err
	}
	c.links = map[any]*file{}
	return c.copyRoot(pk.root, at)
}

// target decides between copying as dest and copying into it, and makes the
// directory that takes the copy.
func (c *copier) target(pk *pick, dest string) (string, error) {
	srcDir := pk.root.ent.Type == layer.Directory
	there, ent, err := c.statFollow(dest)
	if err != nil {
		return "", err
	}
	contents := c.a.DirCopyContents && srcDir
	if srcDir && !contents && there || !srcDir && there && ent.Type == layer.Directory {
		dest = clean(path.Join(dest, path.Base(pk.src)))
	}
	dir := "."
	if dest != "." {
		dir, _ = split(dest)
	}
	if contents && !there {
		dir = dest
	}
	return dest, c.e.mkdirAll(dir, c.newDir(), c.owner != nil)
}

// statFollow returns the entry at p, which is resolved, if there is one.
func (c *copier) statFollow(p string) (bool, *layer.Entry, error) {
	ent, err := unlocked{c.e}.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		dir, _ := split(p)
		if up, err := (unlocked{c.e}).Lstat(dir); err == nil && up.Type != layer.Directory {
			return false, nil, fmt.Errorf("failed to lstat destination path: %w", notDir("stat", p))
		}
		return false, nil, nil
	}
	return err == nil, ent, err
}

// copyRoot copies what is picked itself to p. An existing directory keeps its
// attributes, except for the time.
func (c *copier) copyRoot(it *item, p string) error {
	if p == "." {
		n, err := c.e.pull(".")
		if err != nil {
			return err
		}
		return c.merge(it, n, p, false)
	}
	dir, err := c.e.parent("lstat", p)
	if err != nil {
		return err
	}
	return c.copy(it, dir, p, false)
}

// copy copies it to p, a name in the directory n. overwrite gives existing
// directories the attributes of those copied onto them.
func (c *copier) copy(it *item, n *node, p string, overwrite bool) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	_, name := split(p)
	old, err := c.existing(n, p, name)
	if err != nil {
		return err
	}
	srcDir := it.ent.Type == layer.Directory
	if old != nil && it.include && c.a.AlwaysReplaceExistingDestPaths && !(srcDir && old.isDir()) {
		n.remove(name)
		old = nil
	}
	switch {
	case !srcDir && old != nil && old.isDir():
		return fmt.Errorf("cannot replace to directory %s with file", display(p))
	case !srcDir:
		return c.copyFile(it, n, p)
	case old == nil:
		return c.copyDir(it, n, p)
	case !old.isDir():
		return fmt.Errorf("cannot copy to non-directory: %s", display(p))
	}
	return c.merge(it, old, p, overwrite)
}

// existing returns the node of what is at p; nil when nothing is.
func (c *copier) existing(n *node, p, name string) (*node, error) {
	if k, changed := n.kids[name]; changed || !n.merge {
		return k, nil
	}
	return c.e.kid(n, p, name)
}

// copyFile makes a file at p, in place of what is there.
func (c *copier) copyFile(it *item, n *node, p string) error {
	var f *file
	if it.ino != nil {
		f = c.links[it.ino]
	}
	if f != nil {
		f.names++
	} else {
		f = newFile(it.ent)
		if it.ino != nil {
			c.links[it.ino] = f
		}
	}
	c.setInfo(f, it.ent)
	return n.putNode(p, &node{file: f, own: true})
}

// copyDir makes a directory at p where nothing is.
func (c *copier) copyDir(it *item, n *node, p string) error {
	k := &node{file: newFile(it.ent), own: true}
	c.setInfo(k.file, it.ent)
	if err := n.putNode(p, k); err != nil {
		return err
	}
	return c.copyKids(it, k, p)
}

// merge copies a directory into the existing one n.
func (c *copier) merge(it *item, n *node, p string, overwrite bool) error {
	if it.ent.Type != layer.Directory {
		return fmt.Errorf("cannot replace to directory %s with file", display(p))
	}
	if err := c.copyKids(it, n, p); err != nil {
		return err
	}
	n.own = true
	switch {
	case !overwrite:
		n.ent.ModTime = c.time(it.ent)
	case it.include:
		n.ent.Xattrs = union(n.ent.Xattrs, ownXattrs(it.ent.Xattrs))
		c.setInfo(n.file, it.ent)
	default:
		n.ent.Mode = it.ent.Mode
	}
	return nil
}

func (c *copier) copyKids(it *item, n *node, p string) error {
	if it.whole != nil && len(n.kids) == 0 && !n.merge {
		return c.graft(it, n, p)
	}
	if err := it.expand(); err != nil {
		return err
	}
	if len(it.kids) > 0 && n.kids == nil {
		n.kids = make(map[string]*node, len(it.kids))
	}
	for _, k := range it.kids {
		if err := c.copy(k, n, join(p, k.name), true); err != nil {
			return err
		}
	}
	return nil
}

// setInfo gives f the attributes of src as the action changes them.
func (c *copier) setInfo(f *file, src *layer.Entry) {
	f.ent.UID, f.ent.GID = src.UID, src.GID
	if c.owner != nil {
		f.ent.UID, f.ent.GID = c.owner.UID, c.owner.GID
	}
	f.ent.Mode = c.fileMode(src)
	f.ent.ModTime = c.time(src)
}

func (c *copier) time(src *layer.Entry) time.Time {
	if c.mtime != nil {
		return *c.mtime
	}
	return src.ModTime
}

func (c *copier) fileMode(src *layer.Entry) uint32 {
	switch {
	case src.Type == layer.Symlink:
		return 0o777
	case c.modeSet != nil:
		return fromFileMode(c.modeSet.Apply(toFileMode(src)))
	case c.mode != nil:
		return *c.mode
	}
	return src.Mode
}

// toFileMode returns the mode of a file or directory as package os spells it.
func toFileMode(ent *layer.Entry) os.FileMode {
	m := os.FileMode(ent.Mode & 0o777)
	for _, b := range specialBits {
		if ent.Mode&b.unix != 0 {
			m |= b.os
		}
	}
	if ent.Type == layer.Directory {
		m |= os.ModeDir
	}
	return m
}

func fromFileMode(m os.FileMode) uint32 {
	mode := uint32(m.Perm())
	for _, b := range specialBits {
		if m&b.os != 0 {
			mode |= b.unix
		}
	}
	return mode
}

var specialBits = [...]struct {
	unix uint32
	os   os.FileMode
}{
	{syscall.S_ISUID, os.ModeSetuid},
	{syscall.S_ISGID, os.ModeSetgid},
	{syscall.S_ISVTX, os.ModeSticky},
}

// union returns a with b's attributes set.
func union(a, b map[string]string) map[string]string {
	if len(b) == 0 {
		return a
	}
	if len(a) == 0 {
		return b
	}
	u := maps.Clone(a)
	maps.Copy(u, b)
	return u
}
