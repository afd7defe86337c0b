package seccomp

import (
	"errors"

	profiles "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Default returns the profile that docker and BuildKit use, for the
// capabilities in the spec's bounding set and for this machine.
func Default(s *specs.Spec) (*specs.LinuxSeccomp, error) {
	if s.Process == nil || s.Process.Capabilities == nil {
		return nil, errors.New("default seccomp profile: the spec has no capabilities")
	}
	return profiles.GetDefaultProfile(s)
}
