//go:build !linux

package cgroup

import "errors"

func attachDevices(string, []instruction) error {
	return errors.New("device programs need Linux")
}
