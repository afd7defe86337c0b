// Package cgroup puts containers into control groups of their own.
//
// [Detect] reads how the machine's control groups are laid out: one unified
// hierarchy (version 2), one hierarchy per controller (version 1), or both side
// by side (hybrid, where each controller is in one of them). [Host.Create] makes
// the group that a runtime specification names, [Own.Group] one below the group
// of this process, for a process that only wants its containers limited and
// nobody else to know of them. A [Group] takes limits ([Group.Apply]), processes
// ([Group.AddProcess], or [Group.FD] for clone3), and is read, frozen, killed
// and deleted.
//
// A limit that cannot be applied is a [LimitError]; nothing is left out in
// silence. Groups are directories: what this package makes is found again by
// another process with [Host.Open]. The package talks to the kernel only, not
// to systemd: see [ErrSystemd].
package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Mode is the layout of a machine's control groups.
type Mode string

const (
	Unified Mode = "v2"     // one hierarchy with all controllers
	Legacy  Mode = "v1"     // a hierarchy for each controller
	Hybrid  Mode = "hybrid" // version 1, and a hierarchy of version 2 beside it
	None    Mode = "none"   // no hierarchy is mounted
)

// hierarchy is one tree of control groups.
type hierarchy struct {
	v2 bool
	// controllers are those of version 1; "name=systemd" is one without any.
	controllers []string
	mount       string // where it's mounted
	root        string // which group of it is mounted there
	own         string // the group of this process
}

// dir returns the directory of a group; its path is absolute, as in
// /proc/self/cgroup, and what lies outside of the mount is taken as its top.
func (h *hierarchy) dir(group string) string {
	if rest, ok := strings.CutPrefix(group, strings.TrimSuffix(h.root, "/")); ok && (rest == "" || rest[0] == '/') {
		return filepath.Join(h.mount, rest)
	}
	return h.mount
}

// name identifies the hierarchy in messages.
func (h *hierarchy) name() string {
	if h.v2 {
		return "unified"
	}
	return strings.Join(h.controllers, ",")
}

// Host is the machine's control groups as this process sees them. It does not
// change and may be used by many goroutines.
type Host struct {
	hierarchies []*hierarchy
	proc        string // directory of processes, /proc

	// Tests put a kernel of their own in place of these.
	mkdir  func(dir string) error
	write  func(file, value string) error
	attach func(dir string, prog []instruction) error
}

// maxProc bounds what is read of a file in /proc or of a control file.
const maxProc = 8 << 20

// Detect reads /proc/self/mountinfo and /proc/self/cgroup.
func Detect() (*Host, error) { return detect("/proc") }

func detect(proc string) (*Host, error) {
	mounts, err := readFile(filepath.Join(proc, "self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	groups, err := readFile(filepath.Join(proc, "self/cgroup"))
	if errors.Is(err, os.ErrNotExist) {
		groups, err = nil, nil // a kernel without control groups
	}
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	own, err := parseGroups(groups)
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	return &Host{
		hierarchies: parseMounts(mounts, own), proc: proc,
		mkdir: makeDir, write: writeFile, attach: attachDevices,
	}, nil
}

// parseGroups reads /proc/self/cgroup, lines of "number:controllers:path", into
// paths by controller; that of version 2 has the name "".
func parseGroups(text []byte) (map[string]string, error) {
	own := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		f := strings.SplitN(lines.Text(), ":", 3)
		if len(f) != 3 || !path.IsAbs(f[2]) {
			return nil, fmt.Errorf("/proc/self/cgroup: unexpected line %q", lines.Text())
		}
		for c := range strings.SplitSeq(f[1], ",") {
			own[c] = path.Clean(f[2])
		}
	}
	return own, lines.Err()
}

// parseMounts reads /proc/self/mountinfo (proc(5)). Of several mounts of one
// hierarchy that one counts which shows most of it.
func parseMounts(text []byte, own map[string]string) []*hierarchy {
	var list []*hierarchy
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(strings.TrimRight(line, "\n"), " - ")
		f, fs := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(fs) < 3 {
			continue
		}
		h := &hierarchy{v2: fs[0] == "cgroup2", root: path.Clean(unescape(f[3])), mount: filepath.Clean(unescape(f[4]))}
		switch {
		case !filepath.IsAbs(h.mount) || fs[0] != "cgroup" && fs[0] != "cgroup2":
			continue
		case h.v2:
			h.own = own[""]
		default:
			h.controllers = controllersOf(fs[2], own)
			if len(h.controllers) == 0 {
				continue
			}
			h.own = own[h.controllers[0]]
		}
		if h.own == "" {
			continue // mounted, but not of this namespace
		}
		same := func(o *hierarchy) bool { return o.name() == h.name() }
		if i := slices.IndexFunc(list, same); i < 0 {
			list = append(list, h)
		} else if len(h.root) < len(list[i].root) {
			list[i] = h
		}
	}
	return list
}

// controllersOf finds the controllers among the options of a file system.
func controllersOf(options string, own map[string]string) []string {
	var list []string
	for o := range strings.SplitSeq(options, ",") {
		if _, ok := own[o]; ok && o != "" {
			list = append(list, o)
		}
	}
	return list
}

// unescape decodes the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | s[i+3] - '0')
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(s string) bool {
	return strings.Trim(s, "01234567") == "" && s[0] < '4'
}

// Mode returns the machine's layout.
func (h *Host) Mode() Mode {
	v1, v2 := false, false
	for _, t := range h.hierarchies {
		v2 = v2 || t.v2
		v1 = v1 || !t.v2 && !strings.HasPrefix(t.controllers[0], "name=")
	}
	switch {
	case v1 && v2:
		return Hybrid
	case v1:
		return Legacy
	case v2:
		return Unified
	}
	return None
}

// unified returns the hierarchy of version 2, or nil.
func (h *Host) unified() *hierarchy {
	for _, t := range h.hierarchies {
		if t.v2 {
			return t
		}
	}
	return nil
}

// legacy returns the hierarchy of version 1 that has a controller, or nil.
func (h *Host) legacy(controller string) *hierarchy {
	for _, t := range h.hierarchies {
		if !t.v2 && slices.Contains(t.controllers, controller) {
			return t
		}
	}
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxProc))
}

// writeFile writes to a control file, which is there already, by one system
// call.
func writeFile(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write([]byte(value))
	return err
}

func makeDir(dir string) error { return os.Mkdir(dir, 0o755) }

// words returns the words of a control file, none when it can't be read.
func words(name string) []string {
	text, err := readFile(name)
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}
