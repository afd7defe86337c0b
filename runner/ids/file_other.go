//go:build !linux

package ids

import "errors"

// Set returns an error: only Linux has the attributes.
func Set(int, Inode) error { return errors.ErrUnsupported }

// SetPath returns an error.
func SetPath(string, Inode) error { return errors.ErrUnsupported }

// ReadRecord returns an error.
func ReadRecord(string) (Record, error) { return nil, errors.ErrUnsupported }
