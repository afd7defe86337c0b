//go:build !linux

// Package early does nothing here: the OCI runtime is for Linux.
package early
