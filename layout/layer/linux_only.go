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

// Index is of a file tree. It works on Linux only.
type Index struct{}

func NewIndex(context.Context, string) (*Index, error) { return nil, errLinuxOnly }
func (*Index) Changes(context.Context) Entries         { return Walk("") }
func (*Index) Mask(string) error                       { return errLinuxOnly }
func (*Index) Unmask()                                 {}
func (*Index) Touch(string) error                      { return errLinuxOnly }
func (*Index) Stub(string) error                       { return errLinuxOnly }
func (*Index) Exact() bool                             { return false }
func (*Index) IsStub(string) bool                      { return false }
func (*Index) Settle()                                 {}
