package snapshot

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"bk.build/bk/layout/layer"
)

// ResolveFlags changes what [Resolve] does.
type ResolveFlags uint8

const (
	// NoFollow leaves a symlink that is the last element as it is.
	NoFollow ResolveFlags = 1 << iota
	// AllowMissing accepts that the path, from some element on, isn't there.
	AllowMissing
)

// maxLinks is how many symlinks one resolution follows, as in the kernel.
const maxLinks = 40

// Resolve returns the path in the tree that p, of any spelling, leads to once
// its symlinks are followed. The tree is the whole world: absolute targets
// start at its root and ".." ends there. Errors are *fs.PathError with ELOOP
// after 40 links, ENOTDIR when something else than a directory has to be
// entered, fs.ErrNotExist when an element isn't there and isn't allowed to be
// missing.
func Resolve(fsys FS, p string, flags ResolveFlags) (string, error) {
	return resolveBelow(fsys, ".", p, flags)
}

// resolveBelow is Resolve in the tree that starts at top: the result is below
// top, as after chroot(2).
func resolveBelow(fsys FS, top, p string, flags ResolveFlags) (string, error) {
	r := resolver{fsys: fsys, top: top, at: top, todo: p, flags: flags}
	for r.todo != "" {
		var name string
		name, r.todo, _ = strings.Cut(r.todo, "/")
		if errno := r.step(name); errno != nil {
			return "", &fs.PathError{Op: "lstat", Path: display(p), Err: errno}
		}
	}
	return r.at, nil
}

type resolver struct {
	fsys    FS
	top     string
	at      string // resolved so far
	missing int    // how many elements of at aren't there
	todo    string
	links   int
	flags   ResolveFlags
}

// step goes one element further.
func (r *resolver) step(name string) error {
	switch name {
	case "", ".":
		return nil
	case "..":
		r.up()
		return nil
	}
	next := join(r.at, name)
	if r.missing > 0 {
		r.at, r.missing = next, r.missing+1
		return nil
	}
	ent, err := r.fsys.Lstat(next)
	if errors.Is(err, fs.ErrNotExist) {
		if r.flags&AllowMissing == 0 {
			return syscall.ENOENT
		}
		r.at, r.missing = next, 1
		return nil
	}
	if err != nil {
		return err
	}
	return r.enter(next, ent)
}

// enter makes next, which is there, the current path, or follows it.
func (r *resolver) enter(next string, ent *layer.Entry) error {
	last := strings.Trim(r.todo, "/") == ""
	switch {
	case ent.Type == layer.Symlink && !(last && r.flags&NoFollow != 0):
		return r.follow(ent.Link)
	case ent.Type != layer.Directory && !last:
		return syscall.ENOTDIR
	}
	r.at = next
	return nil
}

func (r *resolver) follow(target string) error {
	if r.links++; r.links > maxLinks {
		return syscall.ELOOP
	}
	if strings.HasPrefix(target, "/") {
		r.at = r.top
	}
	if r.todo == "" {
		r.todo = target
	} else {
		r.todo = target + "/" + r.todo
	}
	return nil
}

func (r *resolver) up() {
	if r.at != r.top {
		r.at, _ = split(r.at)
	}
	r.missing = max(r.missing-1, 0)
}
