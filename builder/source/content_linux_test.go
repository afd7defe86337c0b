package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

var contentChanges = map[string]func(p string) error{
	"removed":   os.Remove,
	"truncated": func(p string) error { return os.Truncate(p, 3) },
	"emptied":   func(p string) error { return os.Truncate(p, 0) },
	"grown": func(p string) error {
		f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("more")
		return errors.Join(err, f.Close())
	},
	"rewritten": func(p string) error { return os.WriteFile(p, []byte("9876543210"), 0) },
	"rewritten, same mtime": func(p string) error {
		st, err := os.Stat(p)
		return errors.Join(err, os.WriteFile(p, []byte("9876543210"), 0), os.Chtimes(p, st.ModTime(), st.ModTime()))
	},
	"replaced": func(p string) error {
		return errors.Join(os.WriteFile(p+"x", []byte("0123456789"), 0o644), os.Rename(p+"x", p))
	},
	"a directory": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) },
	"a fifo":      func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o644)) },
	"a link":      func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) },
	"the parent is a link": func(p string) error {
		d := filepath.Dir(p)
		return errors.Join(os.Rename(d, d+"x"), os.Symlink(d+"x", d))
	},
	"a chmod": func(p string) error { return os.Chmod(p, 0o600) },
}

// A file that changes after it was looked at is an error, not other bytes:
// before it is hashed, after it, and when it is read by parts.
func TestContentChanges(t *testing.T) {
	for what, change := range contentChanges {
		for _, scan := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s scan %v", what, scan), func(t *testing.T) {
				dir := tree(t, map[string]string{"d/f": "0123456789"})
				l := open(t, dir, LocalOptions{})
				if scan {
					must(t, l.Scan(context.Background(), "."))
				}
				e, err := l.Lstat("d/f")
				must(t, err)
				if text, err := read(e); text != "0123456789" || err != nil {
					t.Fatalf("unchanged: %q %v", text, err)
				}
				must(t, change(filepath.Join(dir, "d/f")))
				if text, err := read(e); !errors.Is(err, layer.ErrChanged) || !strings.Contains(fmt.Sprint(err), "d/f") {
					t.Errorf("read %q: %v", text, err)
				}
				buf := make([]byte, 4)
				if n, err := e.Content.(io.ReaderAt).ReadAt(buf, 2); !errors.Is(err, layer.ErrChanged) {
					t.Errorf("read at 2: %d %v", n, err)
				}
				if !scan {
					if err := l.Scan(context.Background(), "."); err == nil {
						t.Error("the scan didn't notice")
					}
				}
			})
		}
	}
}

// A change while a file is read is an error at the end, if not before.
func TestChangeWhileRead(t *testing.T) {
	for _, what := range []string{"truncated", "grown", "rewritten", "a chmod"} {
		dir := tree(t, map[string]string{"f": "0123456789"})
		e, err := scanned(t, dir, LocalOptions{}).Lstat("f")
		must(t, err)
		r, err := e.Content.Open()
		must(t, err)
		buf := make([]byte, 4)
		_, err = io.ReadFull(r, buf)
		must(t, err)
		must(t, contentChanges[what](filepath.Join(dir, "f")))
		if _, err := io.ReadAll(r); !errors.Is(err, layer.ErrChanged) {
			t.Errorf("%s: %v", what, err)
		}
		must(t, r.Close())
		must(t, r.Close())
		if _, err := r.Read(buf); err == nil || err == io.EOF {
			t.Errorf("read of a closed file: %v", err)
		}
	}
}

// ReadAt has the contract of io.ReaderAt.
func TestReadAt(t *testing.T) {
	l := scanned(t, tree(t, map[string]string{"f": "0123456789"}), LocalOptions{})
	e, err := l.Lstat("f")
	must(t, err)
	for _, unsure := range []bool{false, true} {
		e.Content.(*file).unsure = unsure
		for _, tt := range []struct {
			off  int64
			n    int
			want string
			err  error
		}{
			{0, 10, "0123456789", nil}, {0, 4, "0123", nil}, {8, 2, "89", nil}, {8, 4, "89", io.EOF}, {10, 1, "", io.EOF}, {99, 1, "", io.EOF}, {3, 0, "", nil},
		} {
			buf := make([]byte, tt.n)
			n, err := e.Content.(io.ReaderAt).ReadAt(buf, tt.off)
			if string(buf[:n]) != tt.want || err != tt.err {
				t.Errorf("unsure %v: %d bytes at %d: %q %v", unsure, tt.n, tt.off, buf[:n], err)
			}
		}
		if _, err := e.Content.(io.ReaderAt).ReadAt(make([]byte, 1), -1); err == nil {
			t.Error("there are bytes before the start")
		}
	}
}

// On a file system whose timestamps are not ours, a fresh file's digest isn't
// kept, and is checked whenever the file is read.
func TestUnsure(t *testing.T) {
	dir, index := t.TempDir(), t.TempDir()
	addFiles(t, dir, map[string]string{"f": "0123456789"})
	l := open(t, dir, LocalOptions{Index: index})
	l.remote = true
	must(t, l.Scan(context.Background(), "."))
	must(t, l.Save())
	wantSums(t, "fresh", stored(t, dir, index), nil)
	e, err := l.Lstat("f")
	must(t, err)
	if text, err := read(e); text != "0123456789" || err != nil {
		t.Errorf("%q %v", text, err)
	}
	e.Content.(*file).sum[0] ^= 1 // as if it had changed since, unnoticed
	if text, err := read(e); !errors.Is(err, layer.ErrChanged) {
		t.Errorf("%q %v", text, err)
	}
	if _, err := e.Content.(io.ReaderAt).ReadAt(make([]byte, 2), 1); !errors.Is(err, layer.ErrChanged) {
		t.Errorf("read at: %v", err)
	}
}
