//go:build linux

package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func bind(source, dest string, options ...string) specs.Mount {
	return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: append([]string{"rbind"}, options...)}
}

// More layers than a page of mount options holds, with paths longer than what
// the kernel takes as a parameter, in the right order.
func TestManyLayers(t *testing.T) {
	needRoot(t)
	long := filepath.Join(t.TempDir(), strings.Repeat("a", 120), strings.Repeat("b", 120))
	var layers []string
	for i := range 200 {
		dir := filepath.Join(long, fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(dir, "top"), []byte(fmt.Sprint(i)), 0o644)
		os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), nil, 0o644)
		layers = append(layers, dir)
	}
	want(t, container(t, shell("cat /top; ls / | grep -c ^f"), layers...), "0200")
}

// The same by mount(2), for kernels that know no lowerdir+.
func TestClassicOverlay(t *testing.T) {
	c := container(t, shell("cat /a /b; echo new > /a"), layer(t, map[string]string{"a": "a"}), layer(t, map[string]string{"a": "hidden", "b": "b"}))
	var layers []string
	for range 100 {
		layers = append(layers, layer(t, map[string]string{"x": "x"}))
	}
	c.Root.Lower = append(c.Root.Lower[:2:2], append(layers, shared.root)...)
	c.classicOverlay = true
	want(t, c, "ab")
	if data, err := os.ReadFile(c.Root.Upper + "/a"); err != nil || string(data) != "new\n" {
		t.Errorf("upper directory: %q, %v", data, err)
	}
}

// What the step writes is in the upper directory in overlay's form, which the
// packer understands: whiteouts, opaque directories, no redirects.
func TestUpper(t *testing.T) {
	c := container(t, shell("rm /file; rm -r /dir; mkdir /dir; mv /other /moved && echo new > /moved/n; chmod 700 /kept"),
		layer(t, map[string]string{"file": "x", "dir/x": "x", "other/y": "y", "kept/z": ""}))
	output(t, c)
	var st syscall.Stat_t
	if err := syscall.Lstat(c.Root.Upper+"/file", &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFCHR || st.Rdev != 0 {
		t.Errorf("no whiteout: %v %o", err, st.Mode)
	}
	b := make([]byte, 10)
	if n, err := unix.Getxattr(c.Root.Upper+"/dir", "trusted.overlay.opaque", b); err != nil || string(b[:n]) != "y" {
		t.Errorf("not opaque: %v", err)
	}
	for _, dir := range []string{"", "/moved"} {
		for _, x := range []string{"redirect", "uuid", "metacopy"} {
			if _, err := unix.Getxattr(c.Root.Upper+dir, "trusted.overlay."+x, b); err == nil {
				t.Errorf("%s has the attribute %s", dir, x)
			}
		}
	}
	if _, err := os.Stat(c.Root.Upper + "/moved/y"); err != nil {
		t.Error(err)
	}
	for _, d := range []string{"proc", "dev", "sys"} {
		if _, err := os.Lstat(filepath.Join(c.Root.Upper, d)); err == nil {
			t.Errorf("%s was touched", d)
		}
	}
}

// Bind mounts: files, directories, read-only, and what is below.
func TestBind(t *testing.T) {
	host := layer(t, map[string]string{"file": "host", "dir/a": "a"})
	points := layer(t, map[string]string{"f": "", "d/": "", "ro/": ""})
	c := container(t, shell("cat /f; ls /d /ro; echo x > /d/w; echo x > /ro/w; true"), points)
	c.Spec.Mounts = append(c.Spec.Mounts, bind(host+"/file", "/f"), bind(host+"/dir", "/d", "rw"), bind(host+"/dir", "/ro", "ro", "nosuid"))
	want(t, c, "host/d:\na\n\n/ro:\na\nsh: can't create /ro/w: Read-only file system")
	if _, err := os.Stat(host + "/dir/w"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Root.Upper + "/d"); err == nil {
		t.Error("the mount point was copied up")
	}
}

// Missing mount points are made, through dangling links too, and always
// inside of the root.
func TestMissingMountPoints(t *testing.T) {
	outside := t.TempDir()
	host := layer(t, map[string]string{"file": "host\n", "dir/a": ""})
	links := layer(t, map[string]string{
		"etc/resolv.conf": "->../run/stub/resolv.conf",
		"abs":             "->" + outside + "/made",
		"up":              "->../../../../../../../.." + outside + "/up",
		"a":               "->b", "b": "->a",
	})
	c := container(t, shell("cat /new/deep/f /etc/resolv.conf /abs; ls /up /new/d"), links)
	c.Spec.Mounts = append(c.Spec.Mounts, bind(host+"/file", "/new/deep/f"), bind(host+"/file", "/etc/resolv.conf"),
		bind(host+"/file", "/abs"), bind(host+"/dir", "/up"), bind(host+"/dir", "/new/d"))
	want(t, c, "host\nhost\nhost\n/new/d:\na\n\n/up:\na")
	if files, _ := os.ReadDir(outside); len(files) > 0 {
		t.Errorf("%v were made outside of the container", files)
	}
	if _, err := os.Stat(c.Root.Upper + "/run/stub/resolv.conf"); err != nil {
		t.Error(err)
	}
	c = container(t, step("true"), links)
	c.Spec.Mounts = append(c.Spec.Mounts, bind(host+"/dir", "/a/x"))
	if _, _, err := try(t, c); err == nil || !strings.Contains(err.Error(), "/a/x") {
		t.Errorf("a loop of links: %v", err)
	}
}

// In a read-only tree a missing mount point is an error that says so.
func TestMissingMountPointReadonly(t *testing.T) {
	c := container(t, step("true"))
	c.Root.Upper, c.Root.Work = "", ""
	c.Spec.Mounts = append(c.Spec.Mounts, bind("/", "/missing"))
	_, _, err := try(t, c)
	if err == nil || !strings.HasSuffix(err.Error(), "mount / on /missing: create its mount point: read-only file system") {
		t.Errorf("error %v", err)
	}
}

// A root of one layer without an upper directory is read-only, and whiteouts
// in it are not shown.
func TestSingleLayer(t *testing.T) {
	c := container(t, shell("touch /x 2>&1; ls -A /tree; touch /tree/y 2>&1; true"), layer(t, map[string]string{"tree/": ""}))
	tree := layer(t, map[string]string{"kept": ""})
	if err := syscall.Mknod(tree+"/gone", syscall.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	c.Root.Upper, c.Root.Work = "", ""
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/tree"})
	c.Trees = map[string]Tree{"/tree": {Lower: []string{tree}}}
	want(t, c, "touch: /x: Read-only file system\nkept\ntouch: /tree/y: Read-only file system")
}

// Trees are mounted by sub path, read-only and writable, several of the same
// layers, also a plain directory.
func TestTrees(t *testing.T) {
	a := layer(t, map[string]string{"top": "a", "sub/dir/f": "from a\n", "file": "a file\n"})
	b := layer(t, map[string]string{"top": "b", "sub/dir/g": ""})
	plain := layer(t, map[string]string{"cache/x": "x"})
	points := layer(t, map[string]string{"all/": "", "sub/": "", "file": "", "rw/": "", "rosub/": "", "plain/": "", "ro/": ""})
	c := container(t, shell(`cat /all/top; ls /all /sub; cat /sub/f /file; touch /sub/x 2>&1; echo w > /rw/new; touch /rosub/x 2>&1
		echo y > /plain/y; ls /plain; touch /ro/z 2>&1; true`), points)
	rw := over(t, a, b)
	readonly := over(t, b, a)
	for dest, source := range map[string]string{"/all": "", "/sub": "/sub/dir", "/file": "file", "/rw": "/sub", "/plain": "/cache"} {
		c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: dest, Source: source})
	}
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/rosub", Source: "/sub", Options: []string{"ro"}},
		specs.Mount{Destination: "/ro", Source: "/", Options: []string{"ro"}})
	c.Trees = map[string]Tree{
		"/all": {Lower: []string{a, b}}, "/sub": {Lower: []string{a, b}}, "/file": {Lower: []string{a}},
		"/rw": rw, "/rosub": readonly, "/plain": {Upper: plain}, "/ro": {Upper: plain},
	}
	want(t, c, `a/all:
file
sub
top

/sub:
f
g
from a
a file
touch: /sub/x: Read-only file system
touch: /rosub/x: Read-only file system
x
y
touch: /ro/z: Read-only file system`)
	if _, err := os.Stat(rw.Upper + "/sub/new"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(plain + "/cache/y"); err != nil {
		t.Error(err)
	}
}

// Links in a tree don't lead out of it, wherever they point (CVE-2024-1753).
func TestTreeEscape(t *testing.T) {
	outside := layer(t, map[string]string{"secret": "s"})
	tree := layer(t, map[string]string{"abs": "->" + outside, "up": "->../../../../../../.." + outside, "root": "->/", "inside": ""})
	for _, source := range []string{"/abs", "/up", "/../../.." + outside, "/root/abs"} {
		for _, tr := range []Tree{{Lower: []string{tree}}, {Upper: tree}} {
			c := container(t, shell("ls /m"), layer(t, map[string]string{"m/": ""}))
			c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/m", Source: source})
			c.Trees = map[string]Tree{"/m": tr}
			if out, _, err := try(t, c); err == nil || !strings.Contains(err.Error(), "no such file") {
				t.Errorf("%s: %v %q; want an error", source, err, out)
			}
		}
	}
	c := container(t, shell("ls /m"), layer(t, map[string]string{"m/": ""}))
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/m", Source: "/root"})
	c.Trees = map[string]Tree{"/m": {Lower: []string{tree}}}
	want(t, c, "abs\ninside\nroot\nup")
}

// A mount point behind a link of the image is inside of the image.
func TestMountPointEscape(t *testing.T) {
	outside := layer(t, map[string]string{"keep": ""})
	c := container(t, shell("ls /out"+outside+" /"+outside), layer(t, map[string]string{
		"out": "->../../../..", "esc": "->" + outside, outside[1:] + "/inside": "",
	}))
	host := layer(t, map[string]string{"mounted": ""})
	c.Spec.Mounts = append(c.Spec.Mounts, bind(host, "/out/esc"))
	got := output(t, c)
	if !strings.Contains(got, "mounted") || strings.Contains(got, "keep") {
		t.Errorf("got %q", got)
	}
}

// Files in memory have their content, owner and mode, are read-only when
// asked, and leave no trace on a disk but the mount point.
func TestFiles(t *testing.T) {
	o := shell("cat /run/secrets/a /b; stat -c '%a %u:%g %s' /run/secrets/a /b; echo x > /b; echo x >> /run/secrets/a; cat /b; awk '$2 == \"/b\" {print $3}' /proc/mounts")
	c := container(t, o)
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/run/secrets/a", Options: []string{"ro", "nosuid"}}, specs.Mount{Destination: "/b"})
	c.Files = map[string]File{
		"/run/secrets/a": {Content: []byte("secret\n"), Mode: 0o400, UID: 5, GID: 6},
		"/b":             {Content: []byte(strings.Repeat("b", 70_000) + "\n"), Mode: 0o666},
	}
	got := strings.Replace(output(t, c), strings.Repeat("b", 70_000), "bb", 1)
	if got != "secret\nbb\n400 5:6 7\n666 0:0 70001\nsh: can't create /run/secrets/a: Read-only file system\nx\ntmpfs" {
		t.Errorf("got %q", got)
	}
	for _, f := range []string{"/run/secrets/a", "/b"} {
		if data, err := os.ReadFile(c.Root.Upper + f); err != nil || len(data) > 0 {
			t.Errorf("%s on disk: %q, %v", f, data, err)
		}
	}
}
