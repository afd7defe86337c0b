package builder

import (
	"bytes"
	"errors"
	"io/fs"
	"strconv"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/builder/snapshot"
)

type specOptions struct {
	Args, Env    []string
	Cwd          string
	User         specs.User
	Hostname     string
	ReadonlyRoot bool
	NoNetwork    bool
	Insecure     bool
}

func runSpec(o specOptions) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: o.Hostname,
		Root:     &specs.Root{Readonly: o.ReadonlyRoot},
		Process: &specs.Process{
			Args: o.Args, Env: o.Env, Cwd: o.Cwd, User: o.User,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace}},
		},
	}
	if o.NoNetwork {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	return s
}

func (s *step) noNetwork() bool {
	switch s.op.Network {
	case pb.NetMode_NONE:
		return true
	case pb.NetMode_HOST:
		return false
	}
	return s.n.b.opts.Network == "none"
}

// user resolves USER in the image's files.
func (s *step) user(name string) (specs.User, error) {
	var u specs.User
	if name == "" {
		name = "0"
	}
	passwd, err := s.readOptional("etc/passwd")
	if err != nil {
		return u, err
	}
	group, err := s.readOptional("etc/group")
	if err != nil {
		return u, err
	}
	x, err := user.GetExecUser(name, &user.ExecUser{}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		if _, aerr := strconv.Atoi(name); aerr != nil {
			return u, err
		}
		return u, err
	}
	u.UID, u.GID = uint32(x.Uid), uint32(x.Gid)
	for _, g := range x.Sgids {
		u.AdditionalGids = append(u.AdditionalGids, uint32(g))
	}
	return u, nil
}

const maxUserFile = 10 << 20

func (s *step) readOptional(name string) ([]byte, error) {
	b, err := snapshot.ReadFile(s.root, name, maxUserFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}
