//go:build !linux

package network

import (
	"context"
	"errors"
)

// Network makes namespaces, on Linux.
type Network struct{}

// Namespace is a network namespace.
type Namespace struct{}

// Path is empty.
func (*Namespace) Path() string { return "" }

// Close does nothing.
func (*Namespace) Close() error { return nil }

// Open fails.
func Open() (*Network, error) { return nil, errors.New("networks of steps need Linux") }

// Take fails.
func (*Network) Take(context.Context) (*Namespace, error) {
	return nil, errors.New("networks of steps need Linux")
}

// Close does nothing.
func (*Network) Close() error { return nil }
