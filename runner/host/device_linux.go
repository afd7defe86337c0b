package host

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Device returns the path of the machine's own node of a device, given by its
// kind, "b" for a block device, and its number; empty when there is none. A user
// namespace can show it, where it may not make another one.
func Device(kind string, major, minor uint32) string {
	class, mode := "char", uint32(unix.S_IFCHR)
	if kind == "b" {
		class, mode = "block", unix.S_IFBLK
	}
	text := readSmall(fmt.Sprintf("/sys/dev/%s/%d:%d/uevent", class, major, minor))
	for line := range strings.Lines(text) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME=")
		if !ok {
			continue
		}
		var st unix.Stat_t
		path := filepath.Join("/dev", filepath.Clean("/"+name))
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == mode && uint64(st.Rdev) == unix.Mkdev(major, minor) {
			return path
		}
	}
	return ""
}
