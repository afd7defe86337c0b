package source

import (
	"context"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// tree makes files below a new directory. A value is the file's bytes; names
// that end in a slash are directories, a value "-> x" makes a symlink, "=> x" a
// hard link to a name that sorts before.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	addFiles(t, dir, files)
	settleDown()
	return dir
}

func addFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	var later []string
	for name, text := range files {
		p := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(p, 0o755))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		if link, ok := strings.CutPrefix(text, "-> "); ok {
			must(t, os.Symlink(link, p))
		} else if strings.HasPrefix(text, "=> ") {
			later = append(later, name)
		} else {
			must(t, os.WriteFile(p, []byte(text), 0o644))
		}
	}
	for _, name := range later {
		must(t, os.Link(filepath.Join(dir, files[name][3:]), filepath.Join(dir, name)))
	}
}

// settleDown waits until what was written before is old enough to be hashed
// without waiting.
func settleDown() { time.Sleep(2 * tick) }

func open(t testing.TB, dir string, opts LocalOptions) *Local {
	t.Helper()
	l, err := OpenLocal(dir, opts)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func scanned(t testing.TB, dir string, opts LocalOptions) *Local {
	t.Helper()
	l := open(t, dir, opts)
	must(t, l.Scan(context.Background(), "."))
	return l
}

// list returns everything visible, by path.
func list(t testing.TB, l *Local) map[string]*layer.Entry {
	t.Helper()
	all := map[string]*layer.Entry{}
	var walk func(dir string)
	walk = func(dir string) {
		names, err := l.ReadDir(dir)
		must(t, err)
		for _, n := range names {
			p := strings.TrimPrefix(dir+"/"+n, "./")
			e, err := l.Lstat(p)
			must(t, err)
			all[p] = e
			if e.Type == layer.Directory {
				walk(p)
			}
		}
	}
	walk(".")
	return all
}

func paths(t testing.TB, l *Local) []string {
	t.Helper()
	return sortedKeys(list(t, l))
}

// read returns a file's bytes.
func read(e *layer.Entry) (string, error) {
	if e.Content == nil {
		return "", nil
	}
	r, err := e.Content.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return string(b), err
}

func sumOf(text string) [32]byte { return sha256.Sum256([]byte(text)) }

// openFDs counts this process's descriptors.
func openFDs(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(names)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("makes files and processes of other users: needs root")
	}
}

func mknod(t testing.TB, path string, mode uint32, dev int) {
	t.Helper()
	must(t, unix.Mknod(path, mode, dev))
}
