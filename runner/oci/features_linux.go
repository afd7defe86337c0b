package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"bk.build/bk/runner"
	"bk.build/bk/runner/seccomp"
	"bk.build/bk/runner/spec"
)

// Features describes this runtime as the specification's features document.
func Features() *features.Features {
	yes, no := true, false
	f := &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		MountOptions:  runner.MountOptions(),
		Linux: &features.Linux{
			Namespaces: []string{
				string(specs.CgroupNamespace), string(specs.IPCNamespace), string(specs.MountNamespace),
				string(specs.NetworkNamespace), string(specs.PIDNamespace), string(specs.TimeNamespace),
				string(specs.UserNamespace), string(specs.UTSNamespace),
			},
			Capabilities: spec.AllCapabilities(),
			Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &no, SystemdUser: &no, Rdma: &yes},
			Seccomp: &features.Seccomp{
				Enabled: &yes, Actions: texts(seccomp.Actions()), Operators: texts(seccomp.Operators()),
				Archs: texts(seccomp.Architectures()), KnownFlags: texts(seccomp.Flags()), SupportedFlags: texts(seccomp.Flags()),
			},
			Apparmor: &features.Apparmor{Enabled: &no},
			Selinux:  &features.Selinux{Enabled: &no},
		},
	}
	for _, p := range hookPoints(nil) {
		f.Hooks = append(f.Hooks, p.name)
	}
	return f
}

func texts[T ~string](list []T) []string {
	var s []string
	for _, v := range list {
		s = append(s, string(v))
	}
	return s
}
