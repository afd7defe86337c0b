//go:build linux

package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// makeDebian makes a real distribution's root: about ninety packages, a dpkg
// database, setuid programs, a dynamic linker.
func makeDebian(ctx context.Context, w *layoutWriter, arch, work string) (*image, error) {
	a, err := newApt(ctx, filepath.Join(work, "apt"), arch)
	if err != nil {
		return nil, err
	}
	tree, err := bootstrap(ctx, a, arch, work)
	if err != nil {
		return nil, err
	}
	l, err := w.addLayer("ADD root.tar /", func(tw *tar.Writer) error {
		dev := dir("dev", 0o755).Header // mmdebstrap leaves it out with its devices
		dev.ModTime, dev.Format = epoch, tar.FormatPAX
		if err := tw.WriteHeader(&dev); err != nil {
			return err
		}
		return copyTree(tw, tree)
	})
	return &image{arch: arch, env: []string{searchPath}, cmd: []string{"bash"}, layers: []layer{l}}, err
}

// bootstrap returns the path of a tar of the installed root.
func bootstrap(ctx context.Context, a *apt, arch, work string) (string, error) {
	suite, err := codename()
	if err != nil {
		return "", err
	}
	sources, err := a.sources(ctx)
	if err != nil {
		return "", err
	}
	list := filepath.Join(a.dir, "sources.list")
	if err := os.WriteFile(list, []byte(sources), 0o644); err != nil {
		return "", err
	}
	tree := filepath.Join(a.dir, "root.tar")
	args := []string{"--mode=root", "--variant=minbase", "--format=tar", "--quiet",
		"--skip=check/qemu,output/dev,output/mknod", "--architectures=" + arch,
		"--keyring=/usr/share/keyrings", suite, tree, list}
	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	if arch != runtime.GOARCH || os.Geteuid() != 0 {
		cmd = exec.CommandContext(ctx, "sh", append([]string{"-ec", inNamespace, "sh", arch, "mmdebstrap"}, args...)...)
		if err := inUserNamespace(cmd); err != nil {
			return "", err
		}
	}
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0", "LC_ALL=C.UTF-8", "TMPDIR="+a.dir)
	_, err = output(cmd)
	return tree, err
}

// inNamespace registers the emulator of a foreign architecture in the user
// namespace's own binfmt_misc, so the machine needs no handler, and then runs
// its arguments. The kernel keeps the registration while the file system is
// mounted.
const inNamespace = `
mount -t proc proc /proc
arch=$1; shift
if test "$arch" != "$(dpkg --print-architecture)"; then
	case $arch in
	arm64) cpu=aarch64 machine='\xb7\x00' ;;
	amd64) cpu=x86_64 machine='\x3e\x00' ;;
	*) echo "no emulator is known for $arch" >&2; exit 1 ;;
	esac
	qemu=$(command -v qemu-$cpu-static)
	mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
	printf '%s' ":qemu-$cpu:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00$machine:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:$qemu:FPOC" >/proc/sys/fs/binfmt_misc/register
fi
exec "$@"
`

// inUserNamespace lets cmd run as root of a user namespace: with the same ids
// when we are root, else with the subordinate ids of the user.
func inUserNamespace(cmd *exec.Cmd) error {
	if os.Geteuid() != 0 {
		unshare, err := exec.LookPath("unshare")
		if err != nil {
			return err
		}
		if _, err := exec.LookPath("newuidmap"); err != nil {
			return errors.New("neither root nor newuidmap (package uidmap)")
		}
		cmd.Args = append([]string{unshare, "--map-root-user", "--map-auto", "--mount", "--pid", "--fork", "--"}, cmd.Args...)
		cmd.Path = unshare
		return nil
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		UidMappings:                ids,
		GidMappings:                ids,
		GidMappingsEnableSetgroups: true,
		Pdeathsig:                  syscall.SIGKILL,
	}
	return nil
}

// copyTree copies a tar without what differs from one run to the next, and
// with all times zero.
func copyTree(tw *tar.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if isVolatile(h.Name) {
			continue
		}
		if err := copyEntry(tw, tr, h); err != nil {
			return fmt.Errorf("copy %s: %w", h.Name, err)
		}
	}
}

func copyEntry(tw *tar.Writer, tr *tar.Reader, h *tar.Header) error {
	name := path.Clean(h.Name)
	if h.Typeflag == tar.TypeDir {
		if name == "." {
			return nil
		}
		name += "/"
	}
	link := h.Linkname
	if h.Typeflag == tar.TypeLink {
		link = path.Clean(link)
	}
	out := tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: link, Size: h.Size, Mode: h.Mode,
		Uid: h.Uid, Gid: h.Gid, Devmajor: h.Devmajor, Devminor: h.Devminor, ModTime: epoch, Format: tar.FormatPAX}
	for k, v := range h.PAXRecords {
		if strings.HasPrefix(k, "SCHILY.xattr.") {
			if out.PAXRecords == nil {
				out.PAXRecords = map[string]string{}
			}
			out.PAXRecords[k] = v
		}
	}
	if err := tw.WriteHeader(&out); err != nil {
		return err
	}
	_, err := io.Copy(tw, tr)
	return err
}

// isVolatile says whether a path comes from the machine or from the run.
func isVolatile(name string) bool {
	name = path.Clean(name)
	switch name {
	case "dev", "etc/hostname", "etc/resolv.conf", "etc/machine-id", "var/cache/ldconfig/aux-cache", "var/cache/apt/pkgcache.bin",
		"var/cache/apt/srcpkgcache.bin":
		return true
	}
	for _, dir := range []string{"dev/", "var/log/", "var/lib/apt/lists/", "var/cache/apt/archives/", "tmp/"} {
		if strings.HasPrefix(name, dir) {
			return true
		}
	}
	return false
}

// codename is the name of the machine's release.
func codename() (string, error) {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"`), nil
		}
	}
	return "", errors.New("/etc/os-release has no VERSION_CODENAME: not a Debian-like machine")
}
