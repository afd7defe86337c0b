//go:build !linux

package registry

import "os/exec"

// dieWithParent does nothing here: only Linux has a signal for it.
func dieWithParent(*exec.Cmd) {}
