//go:build !linux

package layout

import (
	"errors"
	"os"
)

// reflink is not used on this system.
func reflink(dst, src *os.File) error { return errors.ErrUnsupported }
