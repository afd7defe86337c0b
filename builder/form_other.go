//go:build !linux

package builder

import "bk.build/bk/runner/host"

// form returns the name of the directories that hold unpacked layers.
func form(host.Isolation) (string, error) { return "fs", nil }
