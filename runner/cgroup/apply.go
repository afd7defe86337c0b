package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// LimitError reports a limit that could not be applied.
type LimitError struct {
	// Limit is the field of the runtime specification's linux.resources, such
	// as "memory.limit".
	Limit string
	Value string // as it would have been written
	Err   error  // why, and what would help
}

func (e *LimitError) Error() string {
	if e.Value == "" {
		return "limit " + e.Limit + ": " + e.Err.Error()
	}
	return "limit " + e.Limit + "=" + e.Value + ": " + e.Err.Error()
}

func (e *LimitError) Unwrap() error { return e.Err }

// LimitErrors returns the limits that err, of [Group.Apply], could not apply,
// and false when there is more to it than limits.
func LimitErrors(err error) (list []*LimitError, only bool) {
	if e, ok := err.(*LimitError); ok {
		return []*LimitError{e}, true
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil, err == nil
	}
	only = true
	for _, err := range joined.Unwrap() {
		more, ok := LimitErrors(err)
		list, only = append(list, more...), only && ok
	}
	return list, only
}

// setting is a value for a control file.
type setting struct {
	limit      string // see LimitError
	controller string
	file       string
	value      string
	// optional means that a kernel without the file does as asked.
	optional bool
	// instead is what to set when the file is not there.
	instead *setting
	// refuse says why the limit cannot be had in this version.
	refuse error
}

// Apply applies limits, to a new group or a living one. Each limit is tried;
// those that could not be applied are *LimitErrors, joined: see [LimitErrors].
// Device rules are those of r.Devices together with the devices that every
// container may use, and the given ones; without any rule all devices stay as
// they are for this process.
//
// Where a specification leaves room: a limit of -1 means none; a number of
// processes of 0 or less means none. What kernels gave up (kernel memory,
// hierarchical accounting) is not applied, as the specification allows.
func (g *Group) Apply(r *specs.LinuxResources, devices ...specs.LinuxDevice) error {
	if r == nil {
		return nil
	}
	var errs []error
	if err := g.checkMemory(r.Memory); err != nil {
		return err
	}
	for _, s := range g.settings(r) {
		if err := g.set(s); err != nil {
			errs = append(errs, &LimitError{Limit: s.limit, Value: s.value, Err: err})
		}
	}
	if len(r.Devices) > 0 {
		if err := g.applyDevices(r.Devices, devices); err != nil {
			errs = append(errs, &LimitError{Limit: "devices", Err: err})
		}
	}
	return errors.Join(errs...)
}

// settings turns resources into values, each for the version in which its
// controller is.
func (g *Group) settings(r *specs.LinuxResources) []setting {
	var list []setting
	for _, part := range []struct {
		controller string
		v1, v2     func(*Group, *specs.LinuxResources) []setting
	}{
		{"cpuset", cpusetV1, cpusetV2}, {"cpu", cpuV1, cpuV2}, {"memory", memoryV1, memoryV2}, {"pids", pids, pids},
		{blkio, blkioV1, ioV2}, {"hugetlb", hugetlbV1, hugetlbV2}, {"rdma", rdma, rdma},
		{"net_cls", netClass, netClassV2}, {"net_prio", netPriority, netPriorityV2},
	} {
		convert := part.v1
		if g.host.legacy(part.controller) == nil && g.host.unified() != nil {
			convert = part.v2
		}
		list = append(list, convert(g, r)...)
	}
	return append(list, unifiedSettings(r.Unified)...)
}

// blkio is the controller of version 1 that is called io in version 2.
const blkio = "blkio"

func (g *Group) set(s setting) error {
	if s.refuse != nil {
		return s.refuse
	}
	dir, _, err := g.dir(s.controller)
	if err != nil {
		if s.optional {
			return nil // the limit that it belongs to tells
		}
		return err
	}
	for line := range strings.SplitSeq(s.value, "\n") {
		if err = g.host.write(filepath.Join(dir, s.file), line); err != nil {
			break
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		switch {
		case s.instead != nil:
			return g.set(*s.instead)
		case s.optional:
			return nil
		}
		return fmt.Errorf("the kernel has no %s", s.file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w%s", filepath.Join(dir, s.file), cause(err), g.hint(s, dir))
	}
	return nil
}

// hint says what would have been accepted, where that can be read.
func (g *Group) hint(s setting, dir string) string {
	if s.controller != "cpuset" {
		return ""
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(s.file, "cpuset."), ".")
	for _, file := range []string{"cpuset.effective_" + name, s.file + ".effective"} {
		if have := words(filepath.Join(filepath.Dir(dir), file)); len(have) == 1 {
			return fmt.Sprintf(" (there are %s)", have[0])
		}
	}
	return ""
}

// read returns a control file's value, or "".
func (g *Group) read(controller, file string) string {
	dir, _, err := g.dir(controller)
	if err != nil {
		return ""
	}
	text, err := readFile(filepath.Join(dir, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// checkMemory refuses a limit below what is used, when that is asked for.
func (g *Group) checkMemory(m *specs.LinuxMemory) error {
	if m == nil || m.Limit == nil || *m.Limit <= 0 || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate {
		return nil
	}
	for _, file := range []string{"memory.usage_in_bytes", "memory.current"} {
		if used, ok := parseUint(g.read("memory", file)); ok && used > uint64(*m.Limit) {
			return &LimitError{"memory.limit", fmt.Sprint(*m.Limit), fmt.Errorf("%d bytes are in use", used)}
		}
	}
	return nil
}

// unifiedSettings checks what is to be written as it is.
func unifiedSettings(files map[string]string) []setting {
	var list []setting
	for _, file := range sorted(files) {
		s := setting{limit: "unified." + file, file: file, value: strings.TrimRight(files[file], "\n")}
		controller, _, ok := strings.Cut(file, ".")
		s.controller = controller
		switch {
		case strings.Contains(file, "/") || strings.Contains(file, "..") || !ok || controller == "" || checkUnified(file) != nil:
			s.refuse = errors.New("is not a file of a cgroup of version 2")
		case controller == "cgroup" && !strings.HasPrefix(file, "cgroup.max."):
			s.refuse = errors.New("is not for containers to set")
		}
		list = append(list, s)
	}
	return list
}

func checkUnified(file string) error {
	for _, c := range file {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == '-':
		default:
			return fmt.Errorf("character %q", c)
		}
	}
	return nil
}
