//go:build linux

package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Kind is where the container runs.
type Kind string

const (
	// Default is a Kubernetes pod that says nothing but
	// seccompProfile: RuntimeDefault: root with containerd's capabilities.
	Default Kind = "default"
	// Unconfined is a pod that says nothing at all where the kubelet has no
	// default for the filter of system calls: there is none.
	Unconfined Kind = "unconfined"
	// Restricted is a pod of the restricted Pod Security Standard: user 1000,
	// no capabilities, no new privileges, RuntimeDefault.
	Restricted Kind = "restricted"
	// HostUsers is a pod with hostUsers: false: Default in a user namespace
	// that maps 65536 ids.
	HostUsers Kind = "hostusers"
	// Podman is a container of an unprivileged podman: podman's capabilities
	// and filter, which allows namespaces and mounts, in a user namespace.
	Podman Kind = "podman"
)

// Kinds lists all kinds.
func Kinds() []Kind { return []Kind{Default, Unconfined, Restricted, HostUsers, Podman} }

// The ids of a pod with a user namespace on the host.
const (
	FirstID = 300000
	IDs     = 65536
)

// UserID is the user and the group of the commands in a restricted pod.
const UserID = 1000

// Pod is one container with one command.
type Pod struct {
	Kind Kind
	// Root is the directory of the image's files, such as Image makes. The pod
	// sees it below an overlay and never writes to it.
	Root string
	// Volumes are directories of the host by mount point. They are given to
	// the pod's user, as an emptyDir is.
	Volumes map[string]string
	// ReadOnly are directories of the host by mount point; their files must be
	// readable by everybody.
	ReadOnly map[string]string
	Args     []string
	Env      []string // added to PATH and HOME
	Cwd      string   // empty: "/"
	// HostNetwork shares the host's network, for servers on its loopback
	// interface. Otherwise there is a loopback interface and nothing else.
	HostNetwork bool
}

// Needs returns why pods can't be made here; nil when they can.
func Needs(k Kind) error {
	if os.Geteuid() != 0 {
		return errors.New("making pods needs root")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return errors.New("runc is not installed")
	}
	if _, err := os.Stat(podmanProfile); k == Podman && err != nil {
		return errors.New("podman's seccomp profile is not installed")
	}
	return nil
}

// Command returns the command that runs the pod to its end, in a bundle that
// is written to dir, an empty directory. Its exit code is that of the pod's
// command. Killing it ends the pod.
func (p *Pod) Command(ctx context.Context, dir string) (*exec.Cmd, error) {
	if err := Needs(p.Kind); err != nil {
		return nil, err
	}
	lower, err := p.prepare(dir)
	if err != nil {
		return nil, fmt.Errorf("pod: %w", err)
	}
	spec, err := p.Spec()
	if err != nil {
		return nil, fmt.Errorf("pod: %w", err)
	}
	text, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o644); err != nil {
		return nil, err
	}
	// The shell's namespaces hold the root file system and all processes.
	cmd := exec.CommandContext(ctx, "sh", "-ec", `
		mount --make-rprivate /
		mount -t proc proc /proc
		mount -t overlay -o "lowerdir=$1,upperdir=$PWD/upper,workdir=$PWD/work" overlay rootfs
		exec runc --root "$PWD/state" run "$2"`,
		"pod", lower, podID(dir))
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// podID names the pod's container and cgroups; test names have more letters than
// runtimes take.
func podID(dir string) string {
	clean := func(r rune) rune {
		if strings.ContainsRune("=:,'\"#%", r) {
			return '-'
		}
		return r
	}
	return strings.Map(clean, "bk-pod-"+filepath.Base(filepath.Dir(dir))+"-"+filepath.Base(dir))
}

// prepare makes what the bundle consists of and returns the overlay's lower
// directory.
func (p *Pod) prepare(dir string) (lower string, err error) {
	for _, d := range []string{"rootfs", "upper", "work", "state"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return "", err
		}
	}
	uid := p.hostID(0)
	// The mapped root goes through the directories to the root file system.
	for d := dir; d != "/" && uid != 0; d = filepath.Dir(d) {
		if st, err := os.Stat(d); err == nil && st.Mode()&0o001 == 0 {
			if err := os.Chmod(d, st.Mode()|0o001); err != nil {
				return "", err
			}
		}
	}
	if err := os.Lchown(filepath.Join(dir, "upper"), uid, uid); err != nil {
		return "", err
	}
	for _, host := range p.Volumes {
		id := p.hostID(0)
		if p.Kind == Restricted {
			id = UserID // fsGroup, or the image's own directory
		}
		if err := os.Lchown(host, id, id); err != nil {
			return "", err
		}
	}
	if uid == 0 {
		return p.Root, nil
	}
	// What a runtime does by an id-mapped mount.
	lower = filepath.Join(dir, "lower")
	if out, err := exec.Command("cp", "-a", p.Root, lower).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy the image: %w: %s", err, out)
	}
	return lower, filepath.WalkDir(lower, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(name, &st); err != nil {
			return err
		}
		if err := os.Lchown(name, p.hostID(int(st.Uid)), p.hostID(int(st.Gid))); err != nil {
			return err
		}
		if st.Mode&syscall.S_IFMT == syscall.S_IFLNK {
			return nil
		}
		return syscall.Chmod(name, st.Mode&0o7777) // chown takes setuid bits away
	})
}

// hostID is what an id of the pod is on the host.
func (p *Pod) hostID(id int) int {
	if p.mapped() {
		return FirstID + id
	}
	return id
}

func (p *Pod) mapped() bool { return p.Kind == HostUsers || p.Kind == Podman }

// Image makes a directory that pods take as their image: busybox, the users
// root and build (1000), and the programs given, in /usr/local/bin. It needs
// Debian's package busybox-static.
func Image(root string, programs ...string) error {
	for _, d := range []string{"bin", "dev", "etc", "home", "proc", "run", "sys", "tmp", "usr/local/bin", "var/run"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nbuild:x:1000:1000:build:/home/build:/bin/sh\n",
		"etc/group":  "root:x:0:\nbuild:x:1000:\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	names, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return fmt.Errorf("static busybox (apt-get install busybox-static): %w", err)
	}
	for _, name := range fields(names) {
		if name == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			return fmt.Errorf("make an image: %w", err)
		}
	}
	if err := program(root, "/bin/busybox", "bin/busybox"); err != nil {
		return err
	}
	for name, own := range map[string]struct {
		mode os.FileMode
		id   int
	}{"root": {0o700, 0}, "home/build": {0o700, UserID}, "tmp": {0o777 | os.ModeSticky, 0}} {
		dir := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chown(dir, own.id, own.id), os.Chmod(dir, own.mode)); err != nil {
			return fmt.Errorf("make an image: %w", err)
		}
	}
	for _, p := range programs {
		if err := program(root, p, "usr/local/bin/"+filepath.Base(p)); err != nil {
			return err
		}
	}
	return nil
}

// program copies an executable of the host.
func program(root, from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, to), text, 0o755)
}
