package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds on the entries of an archive that is read.
const (
	maxFiles = 100_000 // entries, directories too
	maxName  = 4096    // bytes of a name or a link's target
	maxNames = 32 << 20
	maxLinks = 8 // links that lead to links
)

// entry is where a member of a tar is in its file.
type entry struct {
	off, size int64
	kind      byte   // tar.TypeReg, or what else it is
	link      string // of a symbolic link: the target's name in the archive; empty when that is outside
}

// table has the members of a tar by their clean names. It does not have
// directories.
type table map[string]entry

// readTable lists a tar of the given size in bytes. It reads headers only. What
// two readers could take for different things, or what leads out of the archive,
// is refused: names that are absolute, have ".." or control characters, or are
// there twice.
func readTable(ctx context.Context, file io.ReaderAt, size int64) (table, error) {
	src := io.NewSectionReader(file, 0, size)
	tr := tar.NewReader(src)
	t, names := table{}, 0
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return nil, tarError(err, n)
		}
		if n == maxFiles {
			return nil, fmt.Errorf("it has more than %d entries", maxFiles)
		}
		if names += len(h.Name) + len(h.Linkname); names > maxNames {
			return nil, fmt.Errorf("the names in it have more than %d bytes", maxNames)
		}
		off, err := src.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := t.add(h, off, size); err != nil {
			return nil, err
		}
	}
}

// tarError says what is wrong with the tar after n entries.
func tarError(err error, n int) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("it is truncated: it ends within entry %d", n+1)
	case errors.Is(err, tar.ErrHeader) && n == 0:
		return errors.New("it is not a tar")
	case errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("entry %d has an invalid header", n+1)
	case errors.Is(err, tar.ErrFieldTooLong):
		return fmt.Errorf("entry %d has a name or extended header that is too long", n+1)
	}
	return err
}

// add notes one member whose data begins at off.
func (t table) add(h *tar.Header, off, size int64) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(h.Name)
	if err != nil || h.Typeflag == tar.TypeDir {
		return err
	}
	if _, ok := t[name]; ok {
		return fmt.Errorf("entry %q is there twice", name)
	}
	e := entry{off: off, size: h.Size, kind: h.Typeflag}
	switch h.Typeflag {
	case tar.TypeReg:
		if sparse(h) {
			return fmt.Errorf("entry %q is a sparse file", name)
		}
		if h.Size > size-off {
			return fmt.Errorf("it is truncated: entry %q has %d bytes, %d are left", name, h.Size, size-off)
		}
	case tar.TypeSymlink:
		e.link = linkTarget(name, h.Linkname)
	}
	t[strings.Clone(name)] = e // which may be a part of an extended header of a megabyte
	return nil
}

// sparse says whether a member's data in the tar is not its content. Such a
// member has type "S" (which is none of ours) or records of GNU tar.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// cleanName checks the name of a member and returns it without "./" before and
// "/" after it.
func cleanName(name string) (string, error) {
	clean := path.Clean(name)
	switch {
	case len(name) > maxName:
		return "", fmt.Errorf("entry %q… has a name of %d bytes, at most %d are read", name[:64], len(name), maxName)
	case name == "" || strings.HasPrefix(name, "/"):
		return "", fmt.Errorf("entry %q has an absolute name", name)
	case !plain(name):
		return "", fmt.Errorf("entry %q has a name with control characters", name)
	case clean == ".." || strings.HasPrefix(clean, "../") || strings.Contains(name, "/../"):
		return "", fmt.Errorf("entry %q has a name that leads out of the archive", name)
	}
	return clean, nil
}

// linkTarget is the name that a symbolic link in the archive leads to, or empty
// when that is not in the archive.
func linkTarget(name, target string) string {
	if target == "" || strings.HasPrefix(target, "/") || len(target) > maxName || !plain(target) {
		return ""
	}
	joined := path.Join(path.Dir(name), target)
	if joined == ".." || strings.HasPrefix(joined, "../") {
		return ""
	}
	return joined
}

// plain says whether s is text without control characters.
func plain(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// regular returns a regular file of the archive.
func (t table) regular(name string) (entry, error) {
	e, ok := t[name]
	if !ok {
		return entry{}, fmt.Errorf("%q is not in the archive: %w", name, fs.ErrNotExist)
	}
	if e.kind != tar.TypeReg {
		return entry{}, fmt.Errorf("%q is not a regular file of the archive (type %q)", name, e.kind)
	}
	return e, nil
}

// follow returns the regular file that a name leads to, by symbolic links of
// the archive too: docker save writes such for layers that images share.
func (t table) follow(name string) (entry, error) {
	at := path.Clean(name)
	for range maxLinks {
		e, ok := t[at]
		if !ok || e.kind != tar.TypeSymlink {
			return t.regular(at)
		}
		if e.link == "" {
			return entry{}, fmt.Errorf("%q is a link that leads out of the archive", at)
		}
		at = e.link
	}
	return entry{}, fmt.Errorf("%q leads to more than %d links", name, maxLinks)
}
