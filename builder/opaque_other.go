//go:build !linux

package builder

import "bk.build/bk/builder/snapshot"

// dropIdleMarks is about overlayfs.
func dropIdleMarks(string, snapshot.FS) error { return nil }
