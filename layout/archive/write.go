package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// A Writer is a place for an image that is going to be an archive. It is a
// transfer.Writer, for whoever brings content in any order and with what refers
// to it: that goes to a layout in a temporary directory, and Commit writes the
// archive from there. An image that comes alone is better streamed, by
// [WriteOCI] or [WriteDocker].
type Writer struct {
	*transfer.Dir
	spool *layout.Dir
	write func(ctx context.Context, src transfer.Reader, index []ocispec.Descriptor) error
}

// newWriter returns a Writer whose Commit calls write once with the content and
// the entries of its index.json. Temporary files are in the directory dir; empty:
// $TMPDIR. The caller closes the Writer.
func newWriter(dir string, write func(context.Context, transfer.Reader, []ocispec.Descriptor) error) (*Writer, error) {
	tmp, err := os.MkdirTemp(dir, ".bk-archive-")
	if err != nil {
		return nil, fmt.Errorf("create archive: %w", err)
	}
	spool, err := layout.Create(tmp)
	if err != nil {
		os.RemoveAll(tmp)
		return nil, err
	}
	return &Writer{Dir: transfer.Layout(spool), spool: spool, write: write}, nil
}

// CreateOCI returns a Writer whose Commit writes the oci-archive at path, as
// [File] does.
func CreateOCI(path string) (*Writer, error) {
	return newWriter(filepath.Dir(path), func(ctx context.Context, src transfer.Reader, index []ocispec.Descriptor) error {
		return File(path, func(w io.Writer) error { return writeLayout(ctx, w, src, index) })
	})
}

// CreateDocker returns a Writer whose Commit writes the docker-archive at path.
// The format holds one image and nothing that refers to it.
func CreateDocker(path string) (*Writer, error) {
	return newWriter(filepath.Dir(path), func(ctx context.Context, src transfer.Reader, index []ocispec.Descriptor) error {
		return File(path, func(w io.Writer) error { return writeDockerIndex(ctx, w, src, index) })
	})
}

// writeDockerIndex writes the image that the entries name as a docker-archive.
func writeDockerIndex(ctx context.Context, w io.Writer, src transfer.Reader, index []ocispec.Descriptor) error {
	var names []string
	for _, e := range index {
		if e.Digest != index[0].Digest {
			return errors.New("write Docker archive: the format holds one image, and nothing that refers to it: write an OCI archive")
		}
		name := e.Annotations[layout.AnnotationImageName]
		if name == "" {
			name = e.Annotations[ocispec.AnnotationRefName]
		}
		if name != "" {
			names = append(names, name)
		}
	}
	return WriteDocker(ctx, w, src, index[0], slices.Compact(names), nil)
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
	return w.write(ctx, w.Dir, index.Manifests)
}

// Close drops the temporary files. Without a Commit nothing was written.
func (w *Writer) Close() error { return os.RemoveAll(w.spool.Path()) }
