package builder

import (
	"fmt"
	"os"
	"strings"

	"bk.build/bk/runner/host"
)

// form returns the name of the directories that hold unpacked layers as this
// process writes and reads them. Owners on disk depend on the ids that the
// process has, overlayfs's marks on the attributes that it may set, and what
// cannot be written is remembered beside it: a directory that was made in one
// form would be misread in another, so that a store keeps them apart.
func form(isolation host.Isolation) (string, error) {
	if host.TrustedXattrs() {
		return "fs", nil
	}
	parts := []string{fmt.Sprint(os.Geteuid())}
	if isolation == host.SingleID || isolation == host.Chroot {
		parts = append(parts, string(isolation))
	}
	for _, name := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("find the ids of this process: %w", err)
		}
		parts = append(parts, strings.Join(strings.Fields(string(text)), " "))
	}
	return "fs-" + shortHash(parts...), nil
}
