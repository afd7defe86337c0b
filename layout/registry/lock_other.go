//go:build !unix

package registry

import (
	"context"
	"os"
)

const (
	openFlags  = 0
	renameOpen = false
)

// lock does nothing: on this system one process serves a layout's uploads.
func lock(context.Context, *os.File) error { return nil }
