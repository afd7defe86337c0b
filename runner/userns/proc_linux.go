package userns

import (
	"strings"
	"syscall"
)

// ProcHidden reports whether something is mounted over parts of /proc, as
// container runtimes do. The kernel then refuses a new proc in a user namespace,
// which would show what is hidden.
func ProcHidden() bool {
	text, err := readFile("/proc/self/mountinfo")
	if err != nil {
		return true
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		// On an empty directory that is made for it nothing is hidden.
		if strings.HasPrefix(f[4], "/proc/") && f[4] != "/proc/sys/fs/binfmt_misc" {
			return true
		}
		if f[4] == "/proc" && strings.HasPrefix(f[5], "ro") {
			return true
		}
	}
	return false
}

// MountProc tries to mount a new proc in new user and process namespaces.
func MountProc() error {
	m := own()
	return NewTrial(syscall.CLONE_NEWUSER|syscall.CLONE_NEWNS|syscall.CLONE_NEWPID).Private().
		mount("proc", "/proc", "").Run(&m)
}

// mount adds a mount of a new file system.
func (t *Trial) mount(kind, dir, data string) *Trial {
	name := t.String(kind)
	return t.Call("mount "+kind, syscall.SYS_MOUNT, name, t.String(dir), name, syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, t.String(data))
}

// own maps the ids that the process has.
func own() Mapping { return Single(syscall.Geteuid(), syscall.Getegid()) }
