package snapshot

import (
	"errors"
	"io/fs"
	"time"

	"bk.build/bk/layout/layer"
)

// Target is a mount point that a step needs.
type Target struct {
	Path string
	File bool // the mount is of a file, not of a directory
}

// Stubs returns the layer that adds to root the mount points that it doesn't
// have: directories of mode 0755 and empty files of mode 0644, owned by root,
// below their parents as these are. It is empty when nothing is missing.
// Symlinks in targets are followed in root.
func Stubs(root FS, targets []Target) layer.Entries {
	return func(yield func(*layer.Entry, error) bool) {
		e := NewEditor(root)
		e.Now = time.Unix(0, 0)
		for _, t := range targets {
			if err := e.stub(t); err != nil {
				yield(nil, err)
				return
			}
		}
		for ent, err := range e.Entries() {
			if !yield(ent, err) {
				return
			}
		}
	}
}

// stub makes one mount point where nothing is.
func (e *Editor) stub(t Target) error {
	p, err := e.resolve(t.Path)
	if err != nil {
		return err
	}
	if _, _, err := e.find(p); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := e.newEntry(layer.Directory, 0o755, nil, -1)
	if !t.File {
		return e.mkdirAll(p, dir, true)
	}
	up, _ := split(p)
	if err := e.mkdirAll(up, dir, true); err != nil {
		return err
	}
	n, err := e.pull(up)
	if err != nil {
		return err
	}
	return n.put(p, e.newEntry(layer.Regular, 0o644, nil, -1))
}
