package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"bk.build/bk/layout/layer"
)

// localWriter copies a file tree into a directory, over what is there. Files
// belong to the user that runs bk. No symbolic link of the tree or of the
// directory is followed.
type localWriter struct {
	root *os.Root
	// dirs get their mode and time when all is written, the deepest first.
	dirs []*layer.Entry
}

// writeLocal writes entries into dir, which is made when it is missing.
func writeLocal(ctx context.Context, dir string, entries layer.Entries) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	w := &localWriter{root: root}
	for entry, err := range entries {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if err := w.add(entry); err != nil {
			return fmt.Errorf("%s: %w", path.Join(dir, entry.Path), err)
		}
	}
	return w.finish()
}

// add writes one entry; its parents are written already.
func (w *localWriter) add(entry *layer.Entry) error {
	if entry.Path == "." {
		return nil // the directory is the user's own
	}
	if err := w.clear(entry); err != nil {
		return err
	}
	switch entry.Type {
	case layer.Directory:
		w.dirs = append(w.dirs, entry)
		err := w.root.Mkdir(entry.Path, 0o700)
		if errors.Is(err, fs.ErrExist) {
			return w.root.Chmod(entry.Path, 0o700)
		}
		return err
	case layer.Regular:
		return w.addFile(entry)
	case layer.Symlink:
		return w.root.Symlink(entry.Link, entry.Path)
	case layer.Hardlink:
		return w.root.Link(entry.Link, entry.Path)
	case layer.Char, layer.Block, layer.Fifo:
		return w.addNode(entry)
	}
	return fmt.Errorf("unexpected entry of type %q", entry.Type)
}

// clear removes what is in the entry's place, unless both are directories, or
// both files: then the old one stays until the new one is complete.
func (w *localWriter) clear(entry *layer.Entry) error {
	info, err := w.root.Lstat(entry.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir() && entry.Type == layer.Directory, info.Mode().IsRegular() && entry.Type == layer.Regular:
		return nil
	case info.IsDir():
		return w.root.RemoveAll(entry.Path)
	}
	return w.root.Remove(entry.Path)
}

// addFile writes a file under a temporary name beside it and renames it.
func (w *localWriter) addFile(entry *layer.Entry) error {
	tmp := path.Join(path.Dir(entry.Path), ".bk-"+rand.Text()[:8]+".tmp")
	err := w.writeFile(tmp, entry)
	if err == nil {
		err = w.root.Rename(tmp, entry.Path)
	}
	if err != nil {
		_ = w.root.Remove(tmp)
	}
	return err
}

func (w *localWriter) writeFile(name string, entry *layer.Entry) error {
	content, err := openContent(entry)
	if err != nil {
		return err
	}
	defer content.Close()
	f, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	setXattrs(f, entry.Xattrs)
	if err := errors.Join(err, f.Chmod(fileMode(entry.Mode)), f.Close()); err != nil {
		return err
	}
	return w.root.Chtimes(name, time.Time{}, entry.ModTime)
}

func openContent(entry *layer.Entry) (io.ReadCloser, error) {
	if entry.Content == nil {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	return entry.Content.Open()
}

// finish sets what writing into a directory would change.
func (w *localWriter) finish() error {
	for i := len(w.dirs) - 1; i >= 0; i-- {
		d := w.dirs[i]
		if err := w.finishDir(d); err != nil {
			return fmt.Errorf("%s: %w", d.Path, err)
		}
	}
	return nil
}

func (w *localWriter) finishDir(d *layer.Entry) error {
	if len(d.Xattrs) > 0 {
		f, err := w.root.Open(d.Path)
		if err != nil {
			return err
		}
		setXattrs(f, d.Xattrs)
		if err := f.Close(); err != nil {
			return err
		}
	}
	return errors.Join(
		w.root.Chmod(d.Path, fileMode(d.Mode)),
		w.root.Chtimes(d.Path, time.Time{}, d.ModTime),
	)
}

// fileMode converts the bits of chmod(2).
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}

// ownXattr reports whether an attribute is kept in a local output: what is the
// user's, and what is the file's own.
func ownXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || name == "security.capability"
}
