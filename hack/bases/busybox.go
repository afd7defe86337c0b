//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// searchPath is the environment that every base sets.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// makeBusybox makes the base of most tests: small, but with two layers, hard
// links, a sticky and a closed directory, and a user that is not root.
func makeBusybox(ctx context.Context, w *layoutWriter, arch, work string) (*image, error) {
	program, err := busyboxProgram(ctx, filepath.Join(work, arch), arch)
	if err != nil {
		return nil, err
	}
	// Tests of emulation want the program alone.
	if err := os.WriteFile(filepath.Join(w.dir, "busybox-"+arch), program, 0o755); err != nil {
		return nil, err
	}
	applets, err := busyboxApplets(ctx, arch, program, work)
	if err != nil {
		return nil, err
	}
	programs, err := w.addFiles("COPY busybox /bin", busyboxFiles(program, applets))
	if err != nil {
		return nil, err
	}
	etc, err := w.addFiles("COPY etc /etc", etcFiles())
	return &image{arch: arch, env: []string{searchPath}, cmd: []string{"sh"}, layers: []layer{programs, etc}}, err
}

// busyboxProgram returns the static busybox of an architecture.
func busyboxProgram(ctx context.Context, dir, arch string) ([]byte, error) {
	a, err := newApt(ctx, dir, arch)
	if err != nil {
		return nil, err
	}
	deb, err := a.download(ctx, "busybox-static")
	if err != nil {
		return nil, err
	}
	fsys, err := output(exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb))
	if err != nil {
		return nil, err
	}
	tr := tar.NewReader(strings.NewReader(fsys))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s has no busybox", filepath.Base(deb))
		}
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(h.Name, "/bin/busybox") {
			return io.ReadAll(tr)
		}
	}
}

// busyboxApplets asks the busybox of this machine's architecture for its
// applets: Debian configures busybox alike on all.
func busyboxApplets(ctx context.Context, arch string, program []byte, work string) ([]string, error) {
	if arch != runtime.GOARCH {
		native, err := busyboxProgram(ctx, filepath.Join(work, "native"), runtime.GOARCH)
		if err != nil {
			return nil, err
		}
		program = native
	}
	exe := filepath.Join(work, "busybox")
	if err := os.WriteFile(exe, program, 0o755); err != nil {
		return nil, err
	}
	list, err := output(exec.CommandContext(ctx, exe, "--list"))
	return strings.Fields(list), err
}

func busyboxFiles(program []byte, applets []string) []file {
	files := []file{
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, content: program},
		symlink("lib64", "lib"),
	}
	for _, d := range []string{"bin", "dev", "etc", "home", "lib", "mnt", "opt", "proc", "run", "sbin", "srv", "sys",
		"usr", "usr/bin", "usr/local", "usr/local/bin", "usr/sbin", "var", "var/cache", "var/lib", "var/log"} {
		files = append(files, dir(d, 0o755))
	}
	files = append(files, dir("root", 0o700), dir("tmp", 0o1777), dir("var/tmp", 0o1777), symlink("var/run", "/run"))
	for _, applet := range applets {
		if applet != "busybox" {
			files = append(files, file{Header: tar.Header{
				Typeflag: tar.TypeLink, Name: "bin/" + applet, Linkname: "bin/busybox", Mode: 0o755}})
		}
	}
	return linksAfterTarget(files)
}

// linksAfterTarget makes symbolic links of the hard links that would sort before
// their target, which a tar does not allow.
func linksAfterTarget(files []file) []file {
	for i, f := range files {
		if f.Typeflag == tar.TypeLink && f.Name < f.Linkname {
			files[i] = symlink(f.Name, "busybox")
		}
	}
	return files
}

func etcFiles() []file {
	text := func(name, content string, mode int64) file {
		return file{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, bytes.TrimLeft([]byte(content), "\n")}
	}
	return []file{
		dir("etc", 0o755),
		text("etc/group", `
root:x:0:
daemon:x:1:
mail:x:8:
users:x:100:app
app:x:1000:
nogroup:x:65534:
`, 0o644),
		text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644),
		text("etc/passwd", `
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
mail:x:8:8:mail:/var/mail:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
`, 0o644),
		text("etc/shadow", "root:*:::::::\n", 0o640),
		dir("home", 0o755),
		ownedDir("home/app", 0o755, 1000),
	}
}

func dir(name string, mode int64) file { return ownedDir(name, mode, 0) }

func ownedDir(name string, mode int64, id int) file {
	return file{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: id, Gid: id}}
}

func symlink(name, target string) file {
	return file{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}
