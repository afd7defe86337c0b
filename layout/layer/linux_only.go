//go:build !linux

package layer

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

var errLinuxOnly = fmt.Errorf("unpacked layers on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// Walk streams an unpacked layer. It works on Linux only.
func Walk(string) Entries {
	return func(yield func(*Entry, error) bool) { yield(nil, errLinuxOnly) }
}

// Apply writes an unpacked layer. It works on Linux only.
func Apply(context.Context, Entries, string, ApplyOptions) (Applied, error) {
	return Applied{}, errLinuxOnly
}
