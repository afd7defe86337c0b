//go:build !linux

package runner

import (
	"context"
	"errors"
	"runtime"
)

// Run needs Linux.
func Run(context.Context, Container) (Status, error) {
	return Status{}, errors.New("containers cannot be run on " + runtime.GOOS + ": use a remote builder on Linux")
}

// Traced is about Linux.
func Traced() bool { return false }
