//go:build !linux || !(amd64 || arm64)

package trace

import (
	"context"
	"errors"
	"runtime"
)

// Run needs Linux on a processor that it knows.
func Run(context.Context, Options) (Status, error) {
	return Status{}, errors.New("steps without namespaces and chroot cannot be run on " + runtime.GOOS + "/" + runtime.GOARCH)
}
