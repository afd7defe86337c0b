package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// All kinds of files look as they do when BuildKit's client sends them, lazily
// and after a scan: owners are 0:0, special bits stay, a socket is an empty file.
func TestSpecialFiles(t *testing.T) {
	dir := tree(t, map[string]string{
		"plain": "text", "empty": "", "link": "-> ../../outside", "loop": "-> loop", "dangling": "-> none",
		"d/": "", "sub/hard1": "same", "sub/hard2": "=> sub/hard1", "zlink": "=> sub/hard1",
		"setuid": "x", "sticky/": "",
	})
	at := func(n string) string { return filepath.Join(dir, n) }
	must(t, os.Chmod(at("setuid"), 0o751|os.ModeSetuid|os.ModeSetgid))
	must(t, os.Chmod(at("sticky"), 0o777|os.ModeSticky))
	must(t, os.Chmod(at("plain"), 0o604))
	mknod(t, at("fifo"), unix.S_IFIFO|0o640, 0)
	mknod(t, at("socket"), unix.S_IFSOCK|0o600, 0)
	if os.Geteuid() == 0 {
		must(t, os.Lchown(at("plain"), 123, 456))
		must(t, os.Lchown(at("link"), 123, 456))
		mknod(t, at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
		mknod(t, at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000)))
	}
	want := sent(t, dir, LocalOptions{})
	if diff := cmp.Diff(want, seen(t, open(t, dir, LocalOptions{}))); diff != "" {
		t.Errorf("lazily: -sent +seen\n%s", diff)
	}
	l := scanned(t, dir, LocalOptions{})
	if diff := cmp.Diff(want, seen(t, l)); diff != "" {
		t.Errorf("after a scan: -sent +seen\n%s", diff)
	}
	e, err := l.Lstat("socket")
	must(t, err)
	if e.Type != layer.Regular || e.Size != 0 || e.Content != nil {
		t.Errorf("the socket is %+v", e)
	}
}

// The device numbers of the kernel's own encoding come out whole.
func TestLargeDevice(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	mknod(t, filepath.Join(dir, "b"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000)))
	e, err := open(t, dir, LocalOptions{}).Lstat("b")
	must(t, err)
	if e.DevMajor != 259 || e.DevMinor != 70000 {
		t.Errorf("got %d:%d", e.DevMajor, e.DevMinor)
	}
}

// The root is a directory that belongs to root, whatever it is outside, also
// when it is given by a symlink.
func TestRoot(t *testing.T) {
	dir := tree(t, map[string]string{"a": "x"})
	must(t, os.Chmod(dir, 0o700))
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(dir, link))
	l := scanned(t, link, LocalOptions{Exclude: []string{"*", "!a"}})
	must(t, os.Remove(link))
	e, err := l.Lstat(".")
	must(t, err)
	if e.Path != "." || e.Type != layer.Directory || e.Mode != 0o755 || e.UID != 0 || e.GID != 0 {
		t.Errorf("the root is %+v", e)
	}
	if got := paths(t, l); cmp.Diff([]string{"a"}, got) != "" {
		t.Errorf("got %q", got)
	}
	if _, err := OpenLocal(filepath.Join(dir, "a"), LocalOptions{}); err == nil {
		t.Error("a file is a context")
	}
	if _, err := OpenLocal(link, LocalOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// Paths that aren't there are fs.ErrNotExist, also below files and symlinks and
// when they aren't clean; symlinks lead nowhere.
func TestNotExist(t *testing.T) {
	dir := tree(t, map[string]string{"d/f": "x", "link": "-> d", "out": "-> /etc", "x/y": "z"})
	for _, scan := range []bool{false, true} {
		l := open(t, dir, LocalOptions{Exclude: []string{"x"}})
		if scan {
			must(t, l.Scan(context.Background(), "."))
		}
		for _, p := range []string{"none", "none/a", "d/none", "d/f/a", "link/f", "out/passwd", "x", "x/y", "", "/", "/d", "d/", "d//f", "./d", "d/../d", "..", "d\x00", "d/.", "d/./f", strings.Repeat("n", 256), strings.Repeat("n/", 4096) + "n"} {
			if e, err := l.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("scan %v: lstat %q: %v %v", scan, p, e, err)
			}
			if n, err := l.ReadDir(p); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("scan %v: read %q: %v %v", scan, p, n, err)
			}
			if err := l.Scan(context.Background(), p); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("scan %q: %v", p, err)
			}
		}
		for _, p := range []string{"d/f", "link", "out"} {
			if _, err := l.ReadDir(p); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("read directory %q: %v", p, err)
			}
		}
	}
}

// An entry says the same, however it is asked for, and the content of one from
// before a scan has what the scan found.
func TestSameEntry(t *testing.T) {
	l := open(t, tree(t, map[string]string{"d/e/f": "x", "d/g": "y"}), LocalOptions{})
	first, err := l.Lstat("d/e/f")
	must(t, err)
	_, err = l.ReadDir("d/e")
	must(t, err)
	must(t, l.Scan(context.Background(), "."))
	again, err := l.Lstat("d/e/f")
	must(t, err)
	if !reflect.DeepEqual(first, again) {
		t.Errorf("there are two entries of a file: %v, %v", first, again)
	}
	if sum, ok := first.Content.Digest(); !ok || sum != sumOf("x") {
		t.Error("the entry's content has no digest after a scan")
	}
}

// After a scan nothing but file contents is read from the directory.
func TestScanned(t *testing.T) {
	files := map[string]string{"a": "1", "b/": "", "d/e/f": "2", "d/link": "-> e", "x/keep": "3", "x/y": "4"}
	dir := tree(t, files)
	opts := LocalOptions{Exclude: []string{"x", "!x/keep"}}
	want := seen(t, open(t, dir, opts))
	l := scanned(t, dir, opts)
	must(t, os.RemoveAll(dir))
	if diff := cmp.Diff(want, seen(t, l)); diff != "" {
		t.Errorf("-before +after\n%s", diff)
	}
}

// Descriptors are closed, whatever a scan comes to.
func TestDescriptors(t *testing.T) {
	files := map[string]string{}
	for _, d := range "abcdefgh" {
		for _, f := range "0123456789" {
			files[string(d)+"/"+string(f)] = string(f)
			files[string(d)+"/x/"+string(f)] = string(f)
		}
	}
	dir := tree(t, files)
	before := openFDs(t)
	for range 5 {
		l, err := OpenLocal(dir, LocalOptions{Jobs: 4})
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := l.Scan(ctx, "."); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled scan: %v", err)
		}
		must(t, l.Scan(context.Background(), "a"))
		must(t, l.Scan(context.Background(), "."))
		for _, e := range list(t, l) {
			_, err := read(e)
			if e.Type == layer.Regular {
				must(t, err)
			}
		}
		must(t, l.Close())
		must(t, l.Close())
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

const unprivileged = "BK_TEST_UNPRIVILEGED"

// asNobody runs the calling test again, in a process without privileges, with
// dir; it returns dir there, and "" here.
func asNobody(t *testing.T, dir func() string) string {
	t.Helper()
	if d := os.Getenv(unprivileged); d != "" {
		must(t, syscall.Setgroups(nil))
		must(t, syscall.Setgid(65534))
		must(t, syscall.Setuid(65534))
		return d
	}
	needRoot(t)
	d := dir()
	must(t, os.Chmod(filepath.Dir(d), 0o755))
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), unprivileged+"="+d)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	must(t, err)
	return ""
}

// Directories in which nothing can be visible are never read.
func TestPruned(t *testing.T) {
	dir := asNobody(t, func() string {
		d := tree(t, map[string]string{
			"a": "1", "node_modules/x": "", "d/secret/x": "", "d/keep": "2", "e/deep/f/x": "", "e/keep": "3", "e/f/keep": "",
		})
		for _, p := range []string{"node_modules", "d/secret", "e/deep", "e/f"} {
			must(t, os.Chmod(filepath.Join(d, p), 0))
		}
		return d
	})
	if dir == "" {
		return
	}
	for _, exclude := range [][]string{
		{"node_modules", "d/secret", "e/deep", "e/f"},
		{"**", "!a", "!d/keep", "!e/keep"},
		{"*", "!a", "!d", "d/secret", "!e/keep*"},
		{"*", "!a", "!*/keep"},
	} {
		l := open(t, dir, LocalOptions{Exclude: exclude})
		if err := l.Scan(context.Background(), "."); err != nil {
			t.Errorf("%q: %v", exclude, err)
		}
		want := []string{"a", "d", "d/keep", "e", "e/keep"}
		if diff := cmp.Diff(want, paths(t, l)); diff != "" {
			t.Errorf("%q: %s", exclude, diff)
		}
	}
}

// What cannot be read is an error that says what to do, when it is asked for
// and not before; a directory that is excluded itself may be unreadable.
func TestUnreadable(t *testing.T) {
	dir := asNobody(t, func() string {
		d := tree(t, map[string]string{"a": "1", "f": "secret", "empty": "", "d/x": "", "e/x": "", "keep": "2"})
		for _, p := range []string{"f", "d", "empty"} {
			must(t, os.Chmod(filepath.Join(d, p), 0))
		}
		must(t, os.Chmod(filepath.Join(d, "e"), 0o711)) // search only
		return d
	})
	if dir == "" {
		return
	}
	l := open(t, dir, LocalOptions{})
	must(t, l.Scan(context.Background(), "a"))
	must(t, l.Scan(context.Background(), "empty"))
	for _, p := range []string{"a", "f", "d", "e/x"} {
		if _, err := l.Lstat(p); err != nil {
			t.Error(err)
		}
	}
	e, err := l.Lstat("f")
	must(t, err)
	_, open1 := read(e)
	_, names := l.ReadDir("d")
	for what, err := range map[string]error{
		"open f": open1, "read d": names,
		"scan f": l.Scan(context.Background(), "f"), "scan d": l.Scan(context.Background(), "d"),
	} {
		p := what[len(what)-1:]
		want := "read " + p + " in the build context: permission denied; add it to .dockerignore or fix its mode"
		if err == nil || err.Error() != want || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := l.Scan(context.Background(), "."); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("scan all: %v", err)
	}
	hidden := open(t, dir, LocalOptions{Exclude: []string{"f", "d", "e", "!**/keep"}})
	must(t, hidden.Scan(context.Background(), "."))
	if diff := cmp.Diff([]string{"a", "empty", "keep"}, paths(t, hidden)); diff != "" {
		t.Error(diff)
	}
}
