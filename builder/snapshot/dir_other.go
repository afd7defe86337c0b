//go:build !linux

package snapshot

import (
	"fmt"
	"runtime"
)

// DirLayer returns the layer that is unpacked in the directory at dir. Here
// it can't be read: overlayfs's form needs Linux.
func DirLayer(dir string) Layer { return Layer{dirLayer(dir)} }

type dirLayer string

func (l dirLayer) open(dir string) (dirReader, error) {
	return nil, fmt.Errorf("read layer %s: not supported on %s", string(l), runtime.GOOS)
}
