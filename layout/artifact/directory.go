package artifact

import (
	"bufio"
	"cmp"
	"context"
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

// directory packs a directory into a temporary file.
func (f *files) directory(ctx context.Context, file File, epoch *time.Time, annotations map[string]string) (l layerFile, err error) {
	out, err := os.CreateTemp(f.tmp, "bk-artifact-*.tar.gz")
	if err != nil {
		return l, err
	}
	l.path, l.temp = out.Name(), true
	prefix := "."
	if !file.Flat {
		prefix = cmp.Or(file.Title, ".")
	}
	packed, err := packDirectory(ctx, out, file.Path, prefix, epoch)
	if err = errors.Join(err, out.Close()); err != nil {
		return l, fmt.Errorf("pack directory %s: %w", file.Path, err)
	}
	l.desc.MediaType = cmp.Or(file.MediaType, defaultDirType)
	l.desc.Digest, l.desc.Size, l.diffID = packed.Digest, packed.Size, packed.DiffID
	if !file.Flat {
		annotations[annotationUnpack] = "true"
		annotations[annotationDigest] = packed.DiffID.String()
	}
	return l, nil
}

// packDirectory writes the tar, packed with gzip, of a directory, whose own name
// in it is prefix. Of files it has type, permissions and content.
func packDirectory(ctx context.Context, w io.Writer, dir, prefix string, epoch *time.Time) (layer.Packed, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return layer.Packed{}, err
	}
	defer root.Close()
	buf := bufio.NewWriterSize(w, 256<<10)
	packed, err := layer.Pack(ctx, buf, entries(ctx, root, prefix, epoch), layer.PackOptions{Root: true})
	if err != nil {
		return packed, err
	}
	return packed, buf.Flush()
}

// entries streams a directory as a layer.
func entries(ctx context.Context, root *os.Root, prefix string, epoch *time.Time) layer.Entries {
	modified := time.Unix(0, 0)
	if epoch != nil {
		modified = *epoch
	}
	return func(yield func(*layer.Entry, error) bool) {
		err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			var e *layer.Entry
			if err == nil {
				e, err = entry(root, name, d)
			}
			if err != nil {
				return err
			}
			e.Path, e.ModTime = path.Join(prefix, name), modified
			if !yield(e, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// entry describes one file of a directory.
func entry(root *os.Root, name string, d fs.DirEntry) (*layer.Entry, error) {
	if strings.HasPrefix(path.Base(name), ".wh.") {
		return nil, fmt.Errorf("%s: names that begin with \".wh.\" mean a removed file in a layer", name)
	}
	fi, err := d.Info()
	if err != nil {
		return nil, err
	}
	e := &layer.Entry{Mode: uint32(fi.Mode().Perm())}
	switch fi.Mode().Type() {
	case fs.ModeDir:
		e.Type = layer.Directory
	case 0:
		e.Type, e.Size = layer.Regular, fi.Size()
		if e.Size > 0 {
			e.Content = content{root, name}
		}
	case fs.ModeSymlink:
		e.Type, e.Mode = layer.Symlink, 0o777
		if e.Link, err = root.Readlink(name); err == nil {
			err = checkLink(name, e.Link)
		}
	default:
		err = fmt.Errorf("%s: it is neither a file, a directory nor a symbolic link", name)
	}
	return e, err
}

// content is the bytes of a file of a directory.
type content struct {
	root *os.Root
	name string
}

func (c content) Open() (io.ReadCloser, error) { return c.root.Open(c.name) }

func (c content) Digest() (sum [32]byte, ok bool) { return sum, false }
