//go:build !linux

package source

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"bk.build/bk/layout/layer"
)

// Local is a directory as a build sees it. It needs Linux.
type Local struct{}

var errPlatform = fmt.Errorf("read a build context on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// OpenLocal always fails here.
func OpenLocal(dir string, opts LocalOptions) (*Local, error) { return nil, errPlatform }

// Lstat always fails here.
func (l *Local) Lstat(path string) (*layer.Entry, error) { return nil, errPlatform }

// ReadDir always fails here.
func (l *Local) ReadDir(path string) ([]string, error) { return nil, errPlatform }

// Scan always fails here.
func (l *Local) Scan(ctx context.Context, path string) error { return errPlatform }

// Save does nothing.
func (l *Local) Save() error { return nil }

// Close does nothing.
func (l *Local) Close() error { return nil }
