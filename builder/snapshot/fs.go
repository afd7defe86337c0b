// Package snapshot holds file trees: what a step sees and what it leaves.
//
// A tree is read through [FS]. A [View] merges a stack of layers as overlayfs
// would, without mounting anything; a build context is an FS too. Changes are
// collected by an [Editor] as the entries of a new layer, on top of a tree that
// it only reads; nothing is copied until somebody asks for one of the layer's
// forms. What a copy or a mount uses of a tree is named by a digest
// ([CopyDigest], [PathDigest]) before anything is done with it:
//
//	layers -> View -> Resolve, Walk, ReadFile
//	                  CopyDigest, PathDigest -> cache keys
//	                  Editor (Mkdir, Mkfile, Symlink, Rm, Copy) -> Entries
//	                  Diff, Stubs -> Entries
//
// All of it is user space: no privilege, no mount, no system call outside of
// the layers' own directories.
package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"bk.build/bk/layout/layer"
)

// FS is a read-only file tree. Paths are as in layer.Entry: slash-separated,
// relative, clean, "." for the root. Methods never follow symlinks in any
// element of the path; [Resolve] does, inside the tree. They are safe for
// concurrent use.
type FS interface {
	// Lstat returns the entry at path; an error that is fs.ErrNotExist when
	// there is none (also when a parent is not a directory). The entry is
	// shared: callers don't change it. It is never a Whiteout or a Hardlink,
	// and its Path is the path asked for.
	Lstat(path string) (*layer.Entry, error)
	// ReadDir returns the names in a directory in bytewise order.
	ReadDir(path string) ([]string, error)
}

// Linker is the optional ability of an FS to tell which of its names are one
// file. Without it every name is a file of its own.
type Linker interface {
	// Inode returns a comparable value that all names of the regular file at
	// path share, or nil when the file has one name only or isn't there.
	Inode(path string) any
}

// A child is a name in a directory with what it stands for.
type child struct {
	name string
	ent  *layer.Entry
	ino  any // as Linker.Inode
}

// lister is what the trees of this package do faster than ReadDir and Lstat.
type lister interface {
	children(dir string) ([]child, error)
}

// children returns what is in a directory, in bytewise order of the names.
func children(fsys FS, dir string) ([]child, error) {
	if l, ok := fsys.(lister); ok {
		return l.children(dir)
	}
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	linker, _ := fsys.(Linker)
	kids := make([]child, 0, len(names))
	for _, name := range names {
		p := join(dir, name)
		ent, err := fsys.Lstat(p)
		if err != nil {
			return nil, err
		}
		c := child{name: name, ent: ent}
		if linker != nil && ent.Type == layer.Regular {
			c.ino = linker.Inode(p)
		}
		kids = append(kids, c)
	}
	return kids, nil
}

// stat returns the entry at p with its inode.
func stat(fsys FS, p string) (child, error) {
	ent, err := fsys.Lstat(p)
	if err != nil {
		return child{}, err
	}
	c := child{name: path.Base(p), ent: ent}
	if l, ok := fsys.(Linker); ok && ent.Type == layer.Regular {
		c.ino = l.Inode(p)
	}
	return c, nil
}

// Walk returns the tree below root, which is in no element a symlink, as a
// stream of entries: parents first, children in bytewise order, root itself
// too. The second and later names of one file are Hardlink entries.
func Walk(fsys FS, root string) layer.Entries {
	return func(yield func(*layer.Entry, error) bool) {
		root = clean(root)
		c, err := stat(fsys, root)
		if err != nil {
			yield(nil, err)
			return
		}
		w := walker{fsys: fsys, yield: yield, first: map[any]string{}}
		w.walk(root, c)
	}
}

type walker struct {
	fsys  FS
	yield func(*layer.Entry, error) bool
	first map[any]string // inode -> its first path
}

// walk yields c, which is at p, and what is below; false ends the stream.
func (w *walker) walk(p string, c child) bool {
	ent := c.ent
	if c.ino != nil {
		if target, ok := w.first[c.ino]; ok {
			ent = hardlink(ent, target)
		} else {
			w.first[c.ino] = p
		}
	}
	if !w.yield(ent, nil) {
		return false
	}
	if ent.Type != layer.Directory {
		return true
	}
	kids, err := children(w.fsys, p)
	if err != nil {
		w.yield(nil, err)
		return false
	}
	for _, kid := range kids {
		if !w.walk(join(p, kid.name), kid) {
			return false
		}
	}
	return true
}

// hardlink returns ent as a further name of the file at target.
func hardlink(ent *layer.Entry, target string) *layer.Entry {
	e := *ent
	e.Type, e.Link, e.Size, e.Content = layer.Hardlink, target, 0, nil
	return &e
}

// ErrNotRegular is reported when a regular file was needed and something else
// is there.
var ErrNotRegular = errors.New("not a regular file")

// ReadFile returns the bytes of the regular file at p. Symlinks are followed
// inside the tree. Directories, devices, fifos are refused with
// [ErrNotRegular], files of more than max bytes with an error.
func ReadFile(fsys FS, p string, max int64) ([]byte, error) {
	r, err := openFile(fsys, p, max)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", display(p), err)
	}
	if int64(len(data)) > max {
		return nil, tooBig(p, max)
	}
	return data, nil
}

// openFile opens the regular file of at most max bytes at p, following links.
func openFile(fsys FS, p string, max int64) (io.ReadCloser, error) {
	real, err := Resolve(fsys, p, 0)
	if err != nil {
		return nil, err
	}
	ent, err := fsys.Lstat(real)
	if err != nil {
		return nil, err
	}
	if ent.Type != layer.Regular {
		return nil, &fs.PathError{Op: "open", Path: display(p), Err: ErrNotRegular}
	}
	if ent.Size > max {
		return nil, tooBig(p, max)
	}
	return openContent(ent)
}

func tooBig(p string, max int64) error {
	return fmt.Errorf("%q exceeds %d bytes", display(p), max)
}

// openContent opens the bytes of a regular file, which may have none.
func openContent(ent *layer.Entry) (io.ReadCloser, error) {
	if ent.Content == nil {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return ent.Content.Open()
}

// clean brings any spelling of a path inside of a tree into the form of
// layer.Entry.Path; ".." ends at the root.
func clean(p string) string {
	if p == "." || p == "" {
		return "."
	}
	if p = path.Join("/", p)[1:]; p == "" {
		return "."
	}
	return p
}

// display spells a path as messages do: from the root of the tree.
func display(p string) string { return path.Join("/", p) }

// join returns the path of a name in a directory.
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// split cuts a clean path that isn't the root into its parent and last name.
func split(p string) (dir, name string) {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return ".", p
}

// notExist is the error of a path that isn't there.
func notExist(op, p string) error {
	return &fs.PathError{Op: op, Path: display(p), Err: syscall.ENOENT}
}

// notDir is the error of something that would have to be a directory.
func notDir(op, p string) error {
	return &fs.PathError{Op: op, Path: display(p), Err: syscall.ENOTDIR}
}

// emptyRoot is the root directory of a tree in which nothing says otherwise.
func emptyRoot() *layer.Entry {
	return &layer.Entry{Path: ".", Type: layer.Directory, Mode: 0o755, ModTime: time.Unix(0, 0)}
}

// Empty returns the tree that has nothing but its root.
func Empty() FS { return NewView() }
