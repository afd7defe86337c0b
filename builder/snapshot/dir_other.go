//go:build !linux

package snapshot

import (
	"fmt"
	"runtime"

	"bk.build/bk/layout/layer"
	"bk.build/bk/runner/ids"
)

// DirLayer returns the layer that is unpacked in the directory at dir. Here
// it can't be read: overlayfs's form needs Linux.
func DirLayer(dir string) Layer { return Layer{dirLayer(dir)} }

// RememberedLayer returns the same.
func RememberedLayer(dir string, _ ids.Record) Layer { return DirLayer(dir) }

// Reveal returns the entries: there is no other system on which owners are
// remembered.
func Reveal(entries layer.Entries, _ ids.Record) layer.Entries { return entries }

type dirLayer string

func (l dirLayer) open(dir string) (dirReader, error) {
	return nil, fmt.Errorf("read layer %s: not supported on %s", string(l), runtime.GOOS)
}
