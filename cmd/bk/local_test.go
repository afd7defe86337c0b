package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bk.build/bk/layout/layer"
)

// text is a file's content.
type text string

func (t text) Open() (io.ReadCloser, error)    { return io.NopCloser(strings.NewReader(string(t))), nil }
func (t text) Digest() (sum [32]byte, ok bool) { return sum, false }

func dirEntry(path string, mode uint32) *layer.Entry {
	return &layer.Entry{Path: path, Type: layer.Directory, Mode: mode, ModTime: time.Unix(100, 0)}
}

func fileEntry(path, content string, mode uint32) *layer.Entry {
	e := &layer.Entry{Path: path, Type: layer.Regular, Mode: mode, ModTime: time.Unix(200, 0), Size: int64(len(content))}
	if content != "" {
		e.Content = text(content)
	}
	return e
}

func linkEntry(typ layer.Type, path, target string) *layer.Entry {
	return &layer.Entry{Path: path, Type: typ, Link: target, Mode: 0o777}
}

func entriesOf(list ...*layer.Entry) layer.Entries {
	return func(yield func(*layer.Entry, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// A local output is a copy: kinds, modes and times, read-only directories too,
// laid over what is in the directory.
func TestWriteLocal(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"kept": "old", "f": "longer than the new one", "was-dir/x/y": "", "s": "old"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree := entriesOf(
		dirEntry(".", 0o700),
		dirEntry("d", 0o555),
		fileEntry("d/empty", "", 0o444),
		dirEntry("d/sub", 0o1777),
		fileEntry("d/sub/x", "x", 0o4755),
		fileEntry("f", "new", 0o640),
		linkEntry(layer.Hardlink, "h", "f"),
		linkEntry(layer.Symlink, "s", "/absolute/none"),
		fileEntry("was-dir", "now a file", 0o644),
	)
	for range 2 { // the second time, everything is there already
		if err := writeLocal(t.Context(), dir, tree); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"d dr-xr-xr-x 100", "d/empty -r--r--r-- 200", "d/sub dtrwxrwxrwx 100", "d/sub/x urwxr-xr-x 200 x",
		"f -rw-r----- 200 new", "h -rw-r----- 200 new", "kept -rw------- old", "s -> /absolute/none", "was-dir -rw-r--r-- 200 now a file",
	}
	if diff := cmp.Diff(want, describeTree(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := os.Chmod(filepath.Join(dir, "d"), 0o755); err != nil { // for the clean-up
		t.Fatal(err)
	}
}

// describeTree lists a directory's files; times only of 1970.
func describeTree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		words := []string{name, info.Mode().String()}
		switch at := info.ModTime(); {
		case info.Mode().Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			list = append(list, name+" -> "+target)
			return err
		case at.Unix() < 1000:
			words = append(words, strconv.FormatInt(at.Unix(), 10))
		}
		if info.Mode().IsRegular() && info.Size() > 0 {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			words = append(words, string(b))
		}
		list = append(list, strings.Join(words, " "))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Nothing is written outside of the directory: not through a link that was
// there before, not through one that the tree brings.
func TestWriteLocalStaysInside(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tree := range map[string]layer.Entries{
		"link in the directory": entriesOf(dirEntry("d", 0o755), fileEntry("d/secret", "evil", 0o644)),
		"link to the file":      entriesOf(fileEntry("l", "evil", 0o644)),
		"link in the tree":      entriesOf(linkEntry(layer.Symlink, "n", outside), fileEntry("n/secret", "evil", 0o644)),
		"parent":                entriesOf(fileEntry("../secret", "evil", 0o644)),
		"hard link":             entriesOf(linkEntry(layer.Hardlink, "x", "d/secret"), fileEntry("x", "evil", 0o644)),
	} {
		dir := t.TempDir()
		for link, target := range map[string]string{"d": outside, "l": secret} {
			if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
		}
		_ = writeLocal(t.Context(), dir, tree) // it may fail, as long as it does no harm
		if b, err := os.ReadFile(secret); err != nil || string(b) != "untouched" {
			t.Errorf("%s: the file outside is %q, %v", name, b, err)
		}
		if list, err := os.ReadDir(outside); err != nil || len(list) != 1 {
			t.Errorf("%s: outside has %v, %v", name, list, err)
		}
	}
}

// An error of the stream, and the end of the context, end the copy.
func TestWriteLocalStops(t *testing.T) {
	broken := errors.New("broken")
	err := writeLocal(t.Context(), t.TempDir(), func(yield func(*layer.Entry, error) bool) { yield(nil, broken) })
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := writeLocal(ctx, t.TempDir(), entriesOf(dirEntry("d", 0o755))); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

// Entries of a platform move below its directory, hard links with them, and
// times are bounded without changing the entry that others share.
func TestWalk(t *testing.T) {
	epoch := time.Unix(150, 0)
	shared := fileEntry("f", "x", 0o644)
	var got []string
	walk(entriesOf(dirEntry(".", 0o755), shared, linkEntry(layer.Hardlink, "h", "f"), linkEntry(layer.Symlink, "s", "f")),
		"linux_arm64", &epoch, func(e *layer.Entry, err error) bool {
			line := e.Path
			if e.Link != "" {
				line += " -> " + e.Link
			}
			got = append(got, line)
			if e.ModTime.After(epoch) {
				t.Errorf("%s: time %v", e.Path, e.ModTime)
			}
			return err == nil
		})
	want := []string{"linux_arm64", "linux_arm64/f", "linux_arm64/h -> linux_arm64/f", "linux_arm64/s -> f"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if shared.Path != "f" || shared.ModTime.Unix() != 200 {
		t.Errorf("the entry itself changed: %+v", shared)
	}
}
