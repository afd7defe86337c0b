// Package source reads a build's inputs.
//
// A build context is a [Local]: a directory seen through its exclude and
// include patterns. Data goes through it like this:
//
//	directory -> filter -> Lstat, ReadDir    lazily, one system call deep
//	          -> Scan                        walk and hash in parallel
//	index     -> digest of an unchanged file, without reading it
//	Save      -> index, for the next build
//
// A file's digest is taken from the index when device, inode, size, mtime and
// ctime are what they were when it was hashed. No file is hashed in the clock
// tick of its last change, so a later change always shows in its ctime.
//
// What the tree looks like is what BuildKit's client would have sent: all
// owners are 0:0; permission, setuid, setgid and sticky bits are kept; symlinks
// are kept as they are; a socket is an empty file; devices and fifos are kept;
// a directory that is excluded itself, but has a visible file below, is there;
// directories in which nothing can be visible are never read. A context's files
// have no extended attributes, as with BuildKit: what a machine has attached to a
// checkout is no input of the build. Names are bytes, of any encoding.
//
// Everything is opened relative to the context's own descriptor without
// following symlinks: a context that changes under the build cannot lead it to
// files elsewhere.
package source

import (
	"errors"
	"fmt"
	"io/fs"

	"bk.build/bk/layout/layer"
)

// LocalOptions say how a directory is seen. The zero value shows all of it,
// keeps no index, and scans with one worker per CPU, two at least.
type LocalOptions struct {
	// Include, when not empty, are the patterns of which a path or a parent of
	// it must match one. Exclude are patterns of a .dockerignore file. Both are
	// in the language of github.com/moby/patternmatcher, "!" included.
	Include, Exclude []string
	// FollowPaths are more such patterns, but without "!". A symlink on their
	// way is followed inside the directory: both the link and what it leads to
	// are visible.
	FollowPaths []string
	// Index is the directory of the digest indexes; empty: none is kept. It is
	// created when the first index is written.
	Index string
	// Jobs is the number of workers of a scan.
	Jobs int
}

// changed is the error about a file that is no longer what it was when this
// build looked at it first.
func changed(path string) error {
	return fmt.Errorf("%s in the build context: %w", path, layer.ErrChanged)
}

// readable adds to a permission error what can be done about it.
func readable(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("read %s in the build context: %w; add it to .dockerignore or fix its mode", path, err)
	}
	return fmt.Errorf("read %s in the build context: %w", path, err)
}
