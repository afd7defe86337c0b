//go:build amd64 || arm64

package trace

import (
	"os"
	"strconv"
	"strings"
)

// status returns a line of /proc/PID/status.
func status(pid int, key string) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// umask returns the task's.
func (t *task) umask() uint32 {
	v, err := strconv.ParseUint(status(t.tid, "Umask"), 8, 32)
	if err != nil {
		return 0o022
	}
	return uint32(v)
}

// zombie reports whether a process has ended and is a child of one of the
// step's processes, or of this one, which reaps orphans.
func (t *task) zombie(pid int) bool {
	if !strings.HasPrefix(status(pid, "State"), "Z") {
		return false
	}
	above, err := strconv.Atoi(status(pid, "PPid"))
	return err == nil && (t.tasks[above] != nil || above == os.Getpid())
}
