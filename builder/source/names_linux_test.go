package source

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// oddNames are names that a file system takes and text handling may not.
var oddNames = []string{
	"latin\xe9", "\xff\xfe", "half\xe2\x82", "new\nline", "\n", "tab\t", " ", "...", "..a", "-dash", `back\slash`, `quo"te`, "\x01\x7f",
	"\uFEFFmark", "\uFFFD", strings.Repeat("x", 255), strings.Repeat("\xe9", 255), strings.Repeat("é", 127),
}

// oddTree has a file of every odd name in the root and in a directory of such a
// name.
func oddTree(t *testing.T) (dir string, want map[string][32]byte) {
	files, want := map[string]string{}, map[string][32]byte{}
	for _, n := range oddNames {
		for _, p := range []string{n, "d\xe9/" + n, "o" + n[:min(len(n), 254)] + "/" + n} {
			files[p], want[p] = "in "+p, sumOf("in "+p)
		}
	}
	return tree(t, files), want
}

// A file's name is any bytes but "/" and NUL: files of such names are listed,
// looked up, hashed, found in the index and read, whoever comes first.
func TestOddNames(t *testing.T) {
	dir, want := oddTree(t)
	index := t.TempDir()
	for _, p := range sortedKeys(want) {
		e, err := open(t, dir, LocalOptions{}).Lstat(p)
		must(t, err)
		if text, err := read(e); e.Path != p || text != "in "+p || err != nil {
			t.Errorf("%q alone: %q %q %v", p, e.Path, text, err)
		}
	}
	wantSums(t, "lazily", readAll(t, open(t, dir, LocalOptions{})), want)
	wantSums(t, "hashed", saved(t, dir, index, LocalOptions{}), want)
	wantSums(t, "stored", stored(t, dir, index), want)
	l := open(t, dir, LocalOptions{})
	for p := range want {
		must(t, l.Scan(context.Background(), p))
	}
	wantSums(t, "one by one", readAll(t, l), want)
	for _, n := range oddNames {
		names, err := l.ReadDir("o" + n[:min(len(n), 254)])
		if err != nil || !slices.Equal(names, []string{n}) {
			t.Errorf("in the directory of %q: %q %v", n, names, err)
		}
	}
}

// Patterns mean to odd names what they mean to BuildKit's client.
func TestOddNamesIgnored(t *testing.T) {
	dir, _ := oddTree(t)
	for _, opts := range []LocalOptions{
		{}, {Exclude: []string{"*"}}, {Exclude: []string{"**/??*"}}, {Exclude: []string{"latin?", "new*"}}, {Exclude: []string{"**", "!**/*line"}},
		{Include: []string{"d?"}}, {Exclude: []string{"d\xe9", "!d\xe9/latin\xe9"}}, {FollowPaths: []string{"d\xe9/latin\xe9", "d\xe9/*line"}},
	} {
		if diff := cmp.Diff(sent(t, dir, opts), seen(t, scanned(t, dir, opts))); diff != "" {
			t.Errorf("%+v: -sent +seen\n%s", opts, diff)
		}
	}
}

// A file is there however deep it is, also where its path is longer than what
// the kernel takes at once.
func TestDeepPath(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_PATH, 0)
	must(t, err)
	elem := strings.Repeat("d", 255)
	path := strings.Repeat(elem+"/", 17) + "f"
	for range 17 {
		must(t, unix.Mkdirat(fd, elem, 0o755))
		next, err := unix.Openat(fd, elem, unix.O_PATH, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	f, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY, 0o644)
	must(t, err)
	unix.Write(f, []byte("deep"))
	unix.Close(f)
	must(t, unix.Symlinkat("/", fd, "link"))
	unix.Close(fd)
	settleDown()
	for _, scan := range []bool{false, true} {
		l := open(t, dir, LocalOptions{})
		if scan {
			must(t, l.Scan(context.Background(), "."))
		}
		e, err := l.Lstat(path)
		must(t, err)
		if text, err := read(e); text != "deep" || err != nil {
			t.Errorf("scan %v: read %q %v", scan, text, err)
		}
		if _, err := l.Lstat(filepath.Dir(path) + "/link/etc"); err == nil {
			t.Errorf("scan %v: a symlink leads out of the context", scan)
		}
		if got := paths(t, l); len(got) != 17+2 {
			t.Errorf("scan %v: %d paths", scan, len(got))
		}
	}
}

// A context's files have no extended attributes, as with BuildKit; what a
// machine has attached to a checkout is no input of the build. Neither the
// entries nor the digests show them, lazily, hashed or from the index.
func TestNoXattrs(t *testing.T) {
	dir, index := tree(t, map[string]string{"a": "1", "empty": "", "link": "-> a", "d/": "", "d/b": "2"}), t.TempDir()
	mknod(t, filepath.Join(dir, "fifo"), unix.S_IFIFO|0o640, 0)
	mknod(t, filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0)
	settleDown()
	before := seen(t, scanned(t, dir, LocalOptions{}))
	attach(t, dir)
	settleDown()
	for _, l := range []*Local{
		open(t, dir, LocalOptions{}), scanned(t, dir, LocalOptions{Index: index}), scanned(t, dir, LocalOptions{Index: index}),
	} {
		for p, e := range list(t, l) {
			if e.Xattrs != nil {
				t.Errorf("%s has %q", p, e.Xattrs)
			}
		}
		if diff := cmp.Diff(before, seen(t, l)); diff != "" {
			t.Errorf("-without +with\n%s", diff)
		}
		must(t, l.Save())
	}
	wantSums(t, "with attributes", stored(t, dir, index), map[string][32]byte{"a": sumOf("1"), "d/b": sumOf("2"), "empty": sumOf(""), "socket": sumOf("")})
}

// attach gives files all kinds of extended attributes that can be given here.
func attach(t *testing.T, dir string) {
	t.Helper()
	at := func(n string) string { return filepath.Join(dir, n) }
	for _, n := range []string{"a", "empty", "d", "d/b"} {
		if err := unix.Setxattr(at(n), "user.test", []byte("v"), 0); err != nil {
			t.Skip("no extended attributes here:", err)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	netRaw := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	must(t, unix.Setxattr(at("a"), "security.capability", []byte(netRaw), 0))
	for _, n := range []string{"a", "link", "d", "fifo", "socket"} {
		must(t, unix.Lsetxattr(at(n), "trusted.test", []byte("v"), 0))
	}
}

// readAll reads all regular files and returns the digests of what was read, which
// are those that are known.
func readAll(t *testing.T, l *Local) map[string][32]byte {
	t.Helper()
	got := map[string][32]byte{}
	for p, e := range list(t, l) {
		if e.Type == layer.Regular {
			text, err := read(e)
			must(t, err)
			got[p] = sumOf(text)
			if sum, ok := e.Content.Digest(); ok && sum != got[p] {
				t.Errorf("%q: the digest is %x", p, sum)
			}
		}
	}
	return got
}
