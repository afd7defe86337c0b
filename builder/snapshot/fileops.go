package snapshot

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"bk.build/bk/layout/layer"
)

// Owner is a resolved user and group.
type Owner struct{ UID, GID int }

// Mkdir makes a directory; one that exists is left as it is. Without owner it
// belongs to root.
func (e *Editor) Mkdir(a *pb.FileActionMkDir, owner *Owner) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.settle(); err != nil {
		return err
	}
	p, err := e.resolve(a.Path)
	if err != nil {
		return err
	}
	made := e.newEntry(layer.Directory, uint32(a.Mode)&0o777, owner, a.Timestamp)
	if a.MakeParents {
		return e.mkdirAll(p, made, owner != nil)
	}
	if _, _, err := e.find(p); err == nil {
		return nil
	}
	return e.mkdir(p, made, owner != nil, true)
}

// Mkfile writes a file, following a symlink that is there. Without owner it
// belongs to root.
func (e *Editor) Mkfile(a *pb.FileActionMkFile, owner *Owner) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.settle(); err != nil {
		return err
	}
	p, err := e.resolve(a.Path)
	if err != nil {
		return err
	}
	if p == "." {
		return &fs.PathError{Op: "mkfile", Path: display(a.Path), Err: syscall.EISDIR}
	}
	dir, err := e.parent("open", p)
	if err != nil {
		return err
	}
	if n, ent, err := e.find(p); err == nil && (n != nil && n.isDir() || n == nil && ent.Type == layer.Directory) {
		return &fs.PathError{Op: "rename", Path: display(p), Err: syscall.EEXIST}
	}
	f := e.newEntry(layer.Regular, uint32(a.Mode)&0o777, owner, a.Timestamp)
	if len(a.Data) > 0 {
		f.Size, f.Content = int64(len(a.Data)), &memContent{data: a.Data, sum: sha256.Sum256(a.Data)}
	}
	inheritGroup(f, dir, owner != nil)
	return dir.put(p, f)
}

// Symlink makes a symlink that leads to a.Oldpath. Without owner it belongs to
// root.
func (e *Editor) Symlink(a *pb.FileActionSymlink, owner *Owner) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.settle(); err != nil {
		return err
	}
	p, err := e.resolve(a.Newpath)
	if err != nil {
		return err
	}
	fail := func(err error) error {
		return &os.LinkError{Op: "symlink", Old: a.Oldpath, New: display(p), Err: err}
	}
	if err := checkLink(a.Oldpath); err != nil {
		return fail(err)
	}
	if _, _, err := e.find(p); err == nil {
		return fail(syscall.EEXIST)
	}
	dir, err := e.parent("symlink", p)
	if err != nil {
		return err
	}
	l := e.newEntry(layer.Symlink, 0o777, owner, a.Timestamp)
	l.Link = a.Oldpath
	inheritGroup(l, dir, owner != nil)
	return dir.put(p, l)
}

// Rm removes a path, or what a pattern matches, with all below. A symlink that
// is the last element is removed itself.
func (e *Editor) Rm(a *pb.FileActionRm) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.settle(); err != nil {
		return err
	}
	if !a.AllowWildcard {
		return e.rmPath(a.Path, a.AllowNotFound)
	}
	matches, err := matchWildcards(unlocked{e}, cleanPath(a.Path), false)
	if err != nil {
		return err
	}
	for _, p := range matches {
		if err := e.rmPath(p, a.AllowNotFound); err != nil {
			return err
		}
	}
	return nil
}

func (e *Editor) rmPath(p string, allowNotFound bool) error {
	dir, name := path.Split(path.Join("/", p))
	if name == "" {
		return errors.New("remove /: the root of a tree can't be removed")
	}
	dir, err := e.resolve(dir)
	if err != nil {
		return err
	}
	at := join(dir, name)
	if !allowNotFound {
		// a symlink that leads nowhere counts as missing
		if _, err := Resolve(unlocked{e}, at, 0); errors.Is(err, fs.ErrNotExist) {
			return notExist("stat", at)
		}
	}
	switch _, _, err := e.find(at); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return e.remove(at)
}

// unlocked is the tree of an editor whose lock the caller holds.
type unlocked struct{ e *Editor }

func (u unlocked) Lstat(p string) (*layer.Entry, error) {
	n, ent, err := u.e.find(p)
	if n != nil {
		return n.entry(p), nil
	}
	return ent, err
}

func (u unlocked) ReadDir(p string) ([]string, error) {
	kids, err := u.children(p)
	names := make([]string, len(kids))
	for i := range kids {
		names[i] = kids[i].name
	}
	return names, err
}

func (u unlocked) children(p string) ([]child, error) {
	n, ent, err := u.e.find(p)
	switch {
	case err != nil:
		return nil, err
	case n == nil && ent.Type == layer.Directory:
		return children(u.e.base, p)
	case n == nil || !n.isDir():
		return nil, notDir("readdir", p)
	}
	return u.e.merged(n, p)
}

// resolve returns where p leads; what isn't there yet may be missing.
func (e *Editor) resolve(p string) (string, error) {
	return Resolve(unlocked{e}, p, AllowMissing)
}

// parent returns the node of the directory that holds p, which must be there.
func (e *Editor) parent(op, p string) (*node, error) {
	dir, _ := split(p)
	n, err := e.pull(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notExist(op, p)
	}
	if err == nil && !n.isDir() {
		return nil, notDir(op, p)
	}
	return n, err
}

// newEntry returns the attributes of something that an action makes.
func (e *Editor) newEntry(t layer.Type, mode uint32, owner *Owner, timestamp int64) *layer.Entry {
	ent := &layer.Entry{Type: t, Mode: mode, ModTime: e.time(timestamp)}
	if owner != nil {
		ent.UID, ent.GID = owner.UID, owner.GID
	}
	return ent
}

// time returns the time that an action's field (nanoseconds since 1970, -1 for
// none) asks for.
func (e *Editor) time(timestamp int64) time.Time {
	switch {
	case timestamp != -1:
		return time.Unix(timestamp/1e9, timestamp%1e9)
	case !e.Now.IsZero():
		return e.Now
	}
	return time.Now()
}

// mkdirAll makes the directory at p and those above it that are missing, all
// like made.
func (e *Editor) mkdirAll(p string, made *layer.Entry, owned bool) error {
	n, ent, err := e.find(p)
	switch {
	case err == nil && (n != nil && n.isDir() || n == nil && ent.Type == layer.Directory):
		return nil
	case err == nil:
		return notDir("mkdir", p)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	dir, _ := split(p)
	if err := e.mkdirAll(dir, made, owned); err != nil {
		return err
	}
	return e.mkdir(p, made, owned, false)
}

// mkdir makes one directory. keepSetgid is mkdir(2) without a later chmod(2).
func (e *Editor) mkdir(p string, made *layer.Entry, owned, keepSetgid bool) error {
	dir, err := e.parent("mkdir", p)
	if err != nil {
		return err
	}
	ent := *made
	inheritGroup(&ent, dir, owned)
	if keepSetgid {
		ent.Mode |= dir.ent.Mode & setgid
	}
	return dir.put(p, &ent)
}

const (
	setgid = 0o2000
	perms  = 0o7777
)

// inheritGroup gives what is made in a setgid directory the directory's group,
// as the kernel does, unless its owner was set.
func inheritGroup(ent *layer.Entry, dir *node, owned bool) {
	if dir.ent.Mode&setgid != 0 && !owned {
		ent.GID = dir.ent.GID
	}
}

// put makes ent what is at p, a name in the directory n.
func (n *node) put(p string, ent *layer.Entry) error {
	return n.putNode(p, &node{file: newFile(ent), own: true})
}

func (n *node) putNode(p string, k *node) error {
	_, name := split(p)
	if err := checkNew(name, p, len(p)); err != nil {
		return err
	}
	n.set(name, k)
	return nil
}

// checkNew refuses a name that can't be made, or whose path, which starts like
// p and has so many bytes, is too long.
func checkNew(name, p string, size int) error {
	if err := checkName(name); err != nil {
		return err
	}
	if size > maxPath {
		return &fs.PathError{Op: "create", Path: display(p[:maxPath/16]) + "...", Err: syscall.ENAMETOOLONG}
	}
	return nil
}

// maxPath is the longest path, and the longest target of a symlink, that the
// kernel takes (PATH_MAX without the zero byte).
const maxPath = 4095

// checkLink refuses what can't be the target of a symlink.
func checkLink(target string) error {
	switch {
	case target == "":
		return syscall.ENOENT
	case len(target) > maxPath:
		return syscall.ENAMETOOLONG
	}
	return nil
}

// checkName refuses what can't be the name of a file in a layer.
func checkName(name string) error {
	switch {
	case strings.HasPrefix(name, ".wh."):
		return fmt.Errorf("create %q: names that start with .wh. mark removed files in image layers; rename the file or exclude it", name)
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("create %q: not the name of a file", name)
	case len(name) > 255:
		return &fs.PathError{Op: "create", Path: name, Err: syscall.ENAMETOOLONG}
	}
	return nil
}

// memContent is bytes in memory.
type memContent struct {
	data []byte
	sum  [32]byte
}

// Open implements layer.Content.
func (c *memContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(c.data)), nil
}

// Digest implements layer.Content.
func (c *memContent) Digest() ([32]byte, bool) { return c.sum, true }

// ReadAt implements io.ReaderAt.
func (c *memContent) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(c.data).ReadAt(p, off)
}

// cleanPath makes a path absolute and clean but for a trailing "/" or "/.",
// which mean something to a copy.
func cleanPath(p string) string {
	c := path.Join("/", p)
	switch {
	case strings.HasSuffix(p, "/."):
		return strings.TrimSuffix(c, "/") + "/."
	case strings.HasSuffix(p, "/") && c != "/":
		return c + "/"
	}
	return c
}
