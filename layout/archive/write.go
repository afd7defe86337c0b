package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// A Writer is a place for an image that is going to be an oci-archive, with what
// refers to it: a transfer.Writer that takes content in any order. It goes to a
// layout in a temporary directory beside the archive, and Commit writes the
// archive from there. An image that comes alone is better streamed, by
// [WriteOCI].
type Writer struct {
	*transfer.Dir
	spool *layout.Dir
	path  string
}

// CreateOCI returns a Writer whose Commit writes the archive at path, as [File]
// does. The caller closes it.
func CreateOCI(path string) (*Writer, error) {
	tmp, err := os.MkdirTemp(filepath.Dir(path), ".bk-archive-")
	if err != nil {
		return nil, fmt.Errorf("create archive: %w", err)
	}
	spool, err := layout.Create(tmp)
	if err != nil {
		os.RemoveAll(tmp)
		return nil, err
	}
	return &Writer{Dir: transfer.Layout(spool), spool: spool, path: path}, nil
}

// Commit writes the archive of what was put into the Writer under a name, be it
// an empty one.
func (w *Writer) Commit(ctx context.Context) error {
	index, err := w.spool.Index()
	if err != nil {
		return err
	}
	if len(index.Manifests) == 0 {
		return errors.New("write archive: no image was put into it")
	}
	return File(w.path, func(out io.Writer) error { return writeLayout(ctx, out, w.Dir, index.Manifests) })
}

// Close drops the temporary files. Without a Commit nothing was written.
func (w *Writer) Close() error { return os.RemoveAll(w.spool.Path()) }
