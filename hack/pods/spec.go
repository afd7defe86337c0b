//go:build linux

package pods

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	profiles "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// podmanProfile is where Debian's package golang-github-containers-common has
// the filter of podman's containers.
const podmanProfile = "/usr/share/containers/seccomp.json"

// mark is the variable by which programs tell where they are.
func (p *Pod) mark() string {
	if p.Kind == Podman {
		return "container=podman"
	}
	return "KUBERNETES_SERVICE_HOST=127.0.0.1"
}

// Spec returns the pod as its runtime is told about it; the root file system is
// "rootfs".
func (p *Pod) Spec() (*specs.Spec, error) {
	user, home := specs.User{AdditionalGids: []uint32{0}}, "/root"
	if p.Kind == Restricted {
		user, home = specs.User{UID: UserID, GID: UserID}, "/home/build"
	}
	cwd := p.Cwd
	if cwd == "" {
		cwd = "/"
	}
	s := &specs.Spec{
		Version:  "1.0.2",
		Root:     &specs.Root{Path: "rootfs"},
		Hostname: "pod",
		Process: &specs.Process{
			Args: p.Args, Cwd: cwd, User: user,
			Env:             append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, p.mark()}, p.Env...),
			Capabilities:    p.capabilities(),
			NoNewPrivileges: p.Kind == Restricted,
		},
		Mounts: p.mounts(),
		Linux: &specs.Linux{
			MaskedPaths: []string{
				"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
		},
	}
	if !p.HostNetwork {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	if p.mapped() {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: FirstID, Size: IDs}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	}
	return s, p.filter(s)
}

// filter adds the seccomp profile.
func (p *Pod) filter(s *specs.Spec) (err error) {
	switch p.Kind {
	case Unconfined:
	case Podman:
		var text []byte
		if text, err = os.ReadFile(podmanProfile); err == nil {
			s.Linux.Seccomp, err = profiles.LoadProfile(string(text), s)
		}
	default:
		s.Linux.Seccomp, err = profiles.GetDefaultProfile(s)
	}
	if err != nil {
		return fmt.Errorf("seccomp profile: %w", err)
	}
	return nil
}

// capabilities are containerd's for a pod, and podman's.
func (p *Pod) capabilities() *specs.LinuxCapabilities {
	list := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
	switch p.Kind {
	case Restricted:
		list = []string{}
	case Podman:
		list = slices.DeleteFunc(list, func(c string) bool {
			return c == "CAP_MKNOD" || c == "CAP_NET_RAW" || c == "CAP_AUDIT_WRITE"
		})
	}
	return &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list}
}

// mounts are those of containerd for a pod, and the volumes.
func (p *Pod) mounts() []specs.Mount {
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		p.sys(),
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		{Destination: "/etc/resolv.conf", Type: "bind", Source: "/etc/resolv.conf", Options: []string{"rbind", "rprivate", "rw"}},
		{Destination: "/etc/hosts", Type: "bind", Source: "/etc/hosts", Options: []string{"rbind", "rprivate", "rw"}},
	}
	for at, host := range p.Volumes {
		list = append(list, specs.Mount{Destination: at, Type: "bind", Source: host, Options: []string{"rbind", "rprivate", "rw"}})
	}
	for at, host := range p.ReadOnly {
		list = append(list, specs.Mount{Destination: at, Type: "bind", Source: host, Options: []string{"rbind", "rprivate", "ro"}})
	}
	slices.SortStableFunc(list[len(list)-len(p.Volumes)-len(p.ReadOnly):], func(a, b specs.Mount) int {
		return strings.Compare(a.Destination, b.Destination)
	})
	return list
}

// sys is a sysfs; one of the host's network can't be mounted in a user
// namespace, and is then bound.
func (p *Pod) sys() specs.Mount {
	if p.mapped() && p.HostNetwork {
		return specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
	}
	return specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}}
}

func fields(text []byte) []string {
	var list []string
	for _, f := range bytes.Fields(text) {
		list = append(list, string(f))
	}
	return list
}
