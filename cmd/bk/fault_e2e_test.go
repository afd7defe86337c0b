//go:build linux

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bk.build/bk/layout"
)

// copyBase copies a base image, to be damaged.
func copyBase(t *testing.T, dst string) *layout.Dir {
	t.Helper()
	if o := wait(t, command("cp", "-r", basePath(t, "busybox"), dst)); o.code != 0 {
		t.Fatal(o.stderr)
	}
	dir, err := layout.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// A base image whose bytes are not those that its digests promise is refused,
// wherever it comes from; nothing of it gets into the store.
func TestDamagedBase(t *testing.T) {
	needContainers(t)
	blob := func(t *testing.T, dir *layout.Dir, part string) string {
		image := theImageFor(t, dir, "amd64")
		desc := image.manifest.Layers[0]
		if part == "config" {
			desc = image.manifest.Config
		}
		path, err := dir.BlobPath(desc.Digest)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name, part string
		damage     func([]byte) []byte // nil: no file
		want       []string            // in the error
	}{
		{"byte", "layer", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, []string{"sha256:"}},
		{"short", "layer", func(b []byte) []byte { return b[:len(b)/2] }, []string{"sha256:"}},
		{"long", "layer", func(b []byte) []byte { return append(b, "more"...) }, []string{"sha256:"}},
		{"empty", "layer", func([]byte) []byte { return nil }, []string{"sha256:"}},
		{"config", "config", func(b []byte) []byte { return bytes.Replace(b, []byte("linux"), []byte("Linux"), 1) }, []string{"sha256:"}},
		{"missing", "layer", nil, []string{"sha256:"}},
	} {
		for _, from := range []string{"layout", "registry"} {
			t.Run(from+" "+tt.name, func(t *testing.T) {
				s := newSite(t, "-- Dockerfile --\nARG BASE=base\nFROM $BASE\nRUN true\n")
				dir := copyBase(t, s.path("base"))
				name := blob(t, dir, tt.part)
				b, err := os.ReadFile(name)
				if err == nil {
					err = os.Remove(name)
				}
				if err == nil && tt.damage != nil {
					err = os.WriteFile(name, tt.damage(b), 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
				flag := "--build-context=base=oci-layout://" + s.path("base")
				if from == "registry" {
					host, _ := registryOf(t, s.path("base"), 0)
					flag = "--build-arg=BASE=" + host + "/base:latest"
				}
				out := s.run("build", ".", flag, "-t", "app", "-o", "type=oci,dest=../out.tar")
				checkFailure(t, out, append(tt.want, "ERROR: ")...)
				if _, err := os.Lstat(s.path("out.tar")); !errors.Is(err, fs.ErrNotExist) {
					t.Error("an output is there")
				}
				s.verify()
				if left, _ := filepath.Glob(filepath.Join(s.root, "snapshots", "*", "fs", "bin", "busybox")); len(left) > 0 {
					t.Errorf("in the store: %q", left)
				}
			})
		}
	}
}

// theImageFor returns the image of an architecture, without checking it.
func theImageFor(t *testing.T, dir *layout.Dir, arch string) builtImage {
	t.Helper()
	for _, image := range imagesOf(t, dir.Path(), "") {
		if image.config.Architecture == arch {
			return image
		}
	}
	t.Fatalf("no image for %s", arch)
	return builtImage{}
}

// checkFailure wants one error with every part of want, and exit code 1.
func checkFailure(t *testing.T, o outcome, want ...string) {
	t.Helper()
	if o.code != 1 {
		t.Errorf("exit code %d, want 1; printed:\n%s", o.code, o.stderr)
	}
	if n := strings.Count(o.stderr, "ERROR: "); n != 1 {
		t.Errorf("%d errors, want 1:\n%s", n, o.stderr)
	}
	for _, w := range want {
		if !strings.Contains(o.stderr, w) {
			t.Errorf("%q is not in the error:\n%s", w, o.stderr)
		}
	}
	if strings.Contains(o.stderr, "goroutine ") {
		t.Errorf("a crash:\n%s", o.stderr)
	}
}

// onSmallDisk returns a command that runs bk with a directory that is a disk
// of a few megabytes, which is there for that process alone.
func (s *site) onSmallDisk(kind, dir, size string, args ...string) *exec.Cmd {
	s.t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	script := `mount -t tmpfs -o size=$2 tmpfs "$1" || exit 99`
	if kind == "ext4" {
		script = `truncate -s $2 "$1.img" && mkfs.ext4 -q "$1.img" && mount -o loop "$1.img" "$1" || exit 99`
	}
	script += `; dir=$1; shift 2; bk "$@"; code=$?; find "$dir" -name "out*" -o -name big | sed 's/^/left: /'; exit $code`
	c := s.command(args...)
	cmd := command("unshare", append([]string{"-m", "sh", "-c", script, "sh", dir, size}, args...)...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	return cmd
}

// When the disk is full, that is what the error says, whichever disk it is;
// no part of an output is in place.
func TestFullDisk(t *testing.T) {
	needContainers(t)
	need(t, "unshare", "mkfs.ext4")
	s := newSite(t, `
-- Dockerfile --
FROM busybox AS run
RUN dd if=/dev/urandom of=/big bs=1M count=40
FROM scratch AS copy
COPY big /
`)
	if err := os.WriteFile(filepath.Join(s.dir, "big"), randomBytes(40<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	flag := base(t, "busybox")
	for _, tt := range []struct {
		name, kind, disk string
		args             []string
		want             string
	}{
		{"store, packing", "ext4", s.path("small1"), []string{"--target=copy", "--root=" + s.path("small1") + "/store"}, "no space left on device"},
		{"store, a step", "ext4", s.path("small2"), []string{"--target=run", flag, "--root=" + s.path("small2") + "/store"}, "exit code: 1"},
		{"store, unpacking", "tmpfs", s.path("small3"), []string{"--target=run", flag, "--root=" + s.path("small3") + "/store"}, "no space left on device"},
		{"oci archive", "ext4", s.path("small4"), []string{"--target=copy", "-o", "type=oci,dest=" + s.path("small4/out.tar")}, "no space left on device"},
		{"docker archive", "tmpfs", s.path("small5"), []string{"--target=copy", "-o", "type=docker,dest=" + s.path("small5/out.tar")}, "no space left on device"},
		{"tar", "tmpfs", s.path("small6"), []string{"--target=copy", "-o", "type=tar,dest=" + s.path("small6/out.tar")}, "no space left on device"},
		{"local", "tmpfs", s.path("small7"), []string{"--target=copy", "-o", s.path("small7/dir")}, "no space left on device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := *s
			s.t = t
			size := "12M"
			if strings.Contains(tt.name, "unpacking") {
				size = "1M"
			}
			out := wait(t, s.onSmallDisk(tt.kind, tt.disk, size, append([]string{"build", "."}, tt.args...)...))
			checkFailure(t, out, tt.want)
			if strings.Contains(out.stdout, "left: ") {
				t.Errorf("left in place: %s", out.stdout)
			}
		})
	}
	s.verify()
}

// What may not be read or written is named, before it costs a build.
func TestPermissions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changes users")
	}
	need(t, "setpriv")
	top := t.TempDir()
	s := &site{t: t, dir: filepath.Join(top, "ctx"), root: filepath.Join(top, "store")}
	s.write("-- Dockerfile --\nFROM scratch\nCOPY . /\n-- secret --\nx\n-- closed/f --\nx\n")
	if err := os.Chmod(top, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(top), 0o755); err != nil {
		t.Fatal(err)
	}
	// A directory of somebody else's; of one's own the rights don't matter to a
	// build in a user namespace.
	if err := os.Mkdir(filepath.Join(top, "foreign"), 0o755); err != nil {
		t.Fatal(err)
	}
	// bk itself lies in a directory that others may not enter.
	bk, err := exec.LookPath("bk")
	if err == nil {
		err = os.Link(bk, filepath.Join(top, "bk"))
	}
	if err != nil {
		t.Skip(err)
	}
	run := func(args ...string) outcome {
		t.Helper()
		c := s.command(args...)
		cmd := command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", filepath.Join(top, "bk")}, args...)...)
		cmd.Dir, cmd.Env = c.Dir, append(c.Env, "HOME="+top)
		return wait(t, cmd)
	}
	if out := run("build", ".", "-t", "app", "-o", "../out"); out.code != 0 {
		t.Fatalf("without rights, and without RUN: %s", out.stderr)
	}
	for _, tt := range []struct {
		name, path string
		mode       os.FileMode
		args       []string
		want       []string
	}{
		{"a file", "ctx/secret", 0, nil, []string{"secret", "permission denied"}},
		{"a directory", "ctx/closed", 0, nil, []string{"closed", "permission denied"}},
		{"the Dockerfile", "ctx/Dockerfile", 0, nil, []string{"Dockerfile", "permission denied"}},
		{"the context", "ctx", 0o300, nil, []string{"permission denied"}},
		{"the output's directory", "ctx", 0o755, []string{"-o", "type=oci,dest=out.tar"}, []string{"output type=oci", "permission denied"}},
		{"the store", "foreign", 0o755, []string{"--root=../foreign/deeper"}, []string{"foreign", "permission denied"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := filepath.Join(top, tt.path)
			info, err := os.Stat(name)
			if err == nil {
				err = os.Chmod(name, tt.mode)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer os.Chmod(name, info.Mode().Perm())
			out := run(append([]string{"build", ".", "--no-cache", "-t", "app"}, tt.args...)...)
			checkFailure(t, out, tt.want...)
		})
	}
}

// Files that are no files, and files that change while they are read, do not
// hang a build or get into an image half.
func TestHostileContext(t *testing.T) {
	s := newSite(t, "-- Dockerfile --\nFROM scratch\nCOPY . /\n-- a --\na\n")
	if o := wait(t, command("mkfifo", filepath.Join(s.dir, "pipe"))); o.code != 0 {
		t.Fatal(o.stderr)
	}
	if err := os.Symlink("../../../../../../etc/passwd", filepath.Join(s.dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(s.dir, "loop")); err != nil {
		t.Fatal(err)
	}
	s.build("-o", "../out")
	if target, err := os.Readlink(s.path("out/link")); err != nil || target != "../../../../../../etc/passwd" {
		t.Errorf("the link became %q, %v", target, err)
	}
	s.write("-- Dockerfile --\nFROM scratch\nCOPY link/ /\n")
	checkFailure(t, s.run("build", "."), "not found")
}
