//go:build !linux

package seccomp

import (
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Default needs Linux.
func Default(*specs.Spec) (*specs.LinuxSeccomp, error) {
	return nil, errors.New("default seccomp profile: needs Linux")
}
