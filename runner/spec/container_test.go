package spec

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What is not valid, or what no container of the runtime has, is refused, and
// what only a step can't have is taken.
func TestCheckContainer(t *testing.T) {
	join := func(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	ids := []specs.LinuxIDMapping{{HostID: 1000, Size: 1}}
	for name, test := range map[string]struct {
		change func(*specs.Spec)
		valid  bool
	}{
		"as it is":           {func(*specs.Spec) {}, true},
		"hooks":              {func(s *specs.Spec) { s.Hooks = &specs.Hooks{} }, true},
		"terminal":           {func(s *specs.Spec) { s.Process.Terminal = true }, true},
		"relative mount":     {func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "x"}} }, true},
		"no pid namespace":   {func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, true},
		"joined namespace":   {join("network", "/run/netns/x"), true},
		"relative namespace": {join("network", "netns"), false},
		"unknown namespace":  {join("moon", ""), false},
		"user namespace": {func(s *specs.Spec) {
			join("user", "")(s)
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
		}, true},
		"no maps":         {join("user", ""), false},
		"maps of nothing": {func(s *specs.Spec) { s.Linux.UIDMappings = ids }, false},
		"time offsets":    {func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} }, false},
		"host name":       {func(s *specs.Spec) { s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}} }, false},
		"mount on root":   {func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "x/.."}} }, false},
		"net devices":     {func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {}} }, false},
		"other system":    {func(s *specs.Spec) { s.Windows = new(specs.Windows) }, false},
		"limits twice": {func(s *specs.Spec) {
			r := specs.POSIXRlimit{Type: "RLIMIT_CPU", Soft: 1, Hard: 1}
			s.Process.Rlimits = []specs.POSIXRlimit{r, r}
		}, false},
	} {
		s, err := Default(Options{Args: []string{"true"}, Network: NetworkHost})
		if err != nil {
			t.Skip(err)
		}
		test.change(s)
		if err := CheckContainer(s); (err == nil) != test.valid {
			t.Errorf("%s: CheckContainer = %v, valid: %t", name, err, test.valid)
		}
	}
}
