package host

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/userns"
)

// place is where the process runs, which decides how things are allowed.
type place struct {
	container string // "docker", "podman", "kubernetes", "gvisor", "lxc", "container"; empty: none
	uid       int
	admin     bool // CAP_SYS_ADMIN
	mapped    bool // in a user namespace that somebody made
	noNewPriv bool
	filtered  bool // by seccomp
}

func findPlace() place {
	p := place{uid: os.Geteuid(), admin: capable(unix.CAP_SYS_ADMIN), container: container(os.Getenv)}
	p.mapped = userns.Inside()
	status := readSmall("/proc/self/status")
	p.noNewPriv = field(status, "NoNewPrivs") == "1"
	p.filtered = field(status, "Seccomp") == "2"
	return p
}

// field returns a value of /proc/PID/status.
func field(status, name string) string {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// container names what this process is contained in, by the marks that each
// leaves.
func container(getenv func(string) string) string {
	exists := func(name string) bool { _, err := os.Lstat(name); return err == nil }
	switch {
	case strings.Contains(readSmall("/proc/version"), "gVisor"), exists("/proc/sentry-meminfo"):
		return "gvisor"
	case getenv("KUBERNETES_SERVICE_HOST") != "":
		return "kubernetes"
	case exists("/.dockerenv"):
		return "docker"
	case exists("/run/.containerenv"), getenv("container") == "podman":
		return "podman"
	case getenv("container") == "lxc":
		return "lxc"
	case exists("/var/run/secrets/kubernetes.io"):
		return "kubernetes"
	case getenv("container") != "":
		return "container"
	}
	if groups := readSmall("/proc/1/cgroup"); strings.Contains(groups, "kubepods") {
		return "kubernetes"
	} else if strings.Contains(groups, "/docker") {
		return "docker"
	}
	return ""
}

// readSmall reads the start of a file; nothing when it can't be read.
func readSmall(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	n, _ := f.Read(b) // files of the kernel come at once
	return string(bytes.TrimRight(b[:max(n, 0)], "\x00"))
}

// number reads a file that holds one; -1 when there is none.
func number(name string) int {
	n, err := strconv.Atoi(strings.TrimSpace(readSmall(name)))
	if err != nil {
		return -1
	}
	return n
}

func (p place) String() string {
	var parts []string
	if p.uid == 0 {
		parts = append(parts, "root")
	} else {
		parts = append(parts, fmt.Sprintf("user %d", p.uid))
	}
	if p.container != "" {
		parts = append(parts, "in "+map[string]string{"kubernetes": "a Kubernetes pod", "gvisor": "gVisor", "container": "a container"}[p.container])
		if last := len(parts) - 1; parts[last] == "in " {
			parts[last] = "in a " + p.container + " container"
		}
	}
	if p.mapped {
		parts = append(parts, "in a user namespace")
	}
	if p.admin {
		parts = append(parts, "with CAP_SYS_ADMIN")
	}
	if p.noNewPriv {
		parts = append(parts, "no_new_privs")
	}
	if p.filtered {
		parts = append(parts, "filtered system calls")
	}
	return strings.Join(parts, ", ")
}
