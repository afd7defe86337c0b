package main

import (
	"os"
	"strings"

	"bk.build/bk/layout"
)

// location is a layout and a reference in it, as the command line names them:
// NAME[:TAG] or a digest in the store, or oci:DIR[:REF].
type location struct {
	dir *layout.Dir
	ref string // empty: the only image
}

// locate opens the layout that arg is about.
func (e *env) locate(arg string) (location, error) {
	if path, ok := strings.CutPrefix(arg, "oci:"); ok {
		return openLayout(path)
	}
	root, err := e.store()
	if err != nil {
		return location{}, err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return location{}, err
	}
	dir, err := layout.Create(root)
	return location{dir: dir, ref: arg}, err
}

// openLayout opens DIR[:REF]. A directory may have colons of its own: what
// exists as a whole has no REF.
func openLayout(path string) (location, error) {
	dir, err := layout.Open(path)
	if err == nil {
		return location{dir: dir}, nil
	}
	for i := range len(path) {
		if path[i] != ':' || i == 0 {
			continue
		}
		if dir, err := layout.Open(path[:i]); err == nil {
			return location{dir: dir, ref: path[i+1:]}, nil
		}
	}
	return location{}, err
}
