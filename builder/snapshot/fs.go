// Package snapshot holds file trees: what a step sees and what it leaves.
//
// A tree is read through [FS]. A [View] merges a stack of layers as overlayfs
// would, without mounting anything; a build context is an FS too. Changes are
// collected by an [Editor] as the entries of a new layer, on top of a tree that
// it only reads; nothing is copied until somebody asks for one of the layer's
// forms.
package snapshot

import "bk.build/bk/layout/layer"

// FS is a read-only file tree. Paths are as in layer.Entry: slash-separated,
// relative, clean, "." for the root. Methods never follow symlinks in any
// element of the path; [Resolve] does, inside the tree.
type FS interface {
	// Lstat returns the entry at path; an error that is fs.ErrNotExist when
	// there is none (also when a parent is not a directory). The entry is
	// shared: callers don't change it. It is never a Whiteout or a Hardlink.
	Lstat(path string) (*layer.Entry, error)
	// ReadDir returns the names in a directory in bytewise order.
	ReadDir(path string) ([]string, error)
}
