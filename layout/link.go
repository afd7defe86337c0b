package layout

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// LinkFrom puts the blob desc of src into d. From a layout of ours (see
// [Create]) it is a clone that shares the bytes where the file system has such
// (reflink), else a hard link, both checked by size only. From another's layout,
// whose files somebody may edit, and when neither works, it is a copy, checked
// by digest. A blob of that size that is there already is left alone.
func (d *Dir) LinkFrom(src *Dir, desc ocispec.Descriptor) error {
	if d.HasDescriptor(desc) {
		return nil
	}
	from, err := src.BlobPath(desc.Digest)
	if err != nil {
		return err
	}
	size, err := src.Stat(desc.Digest)
	if err != nil {
		return err
	}
	if size != desc.Size {
		return &CorruptError{Digest: desc.Digest, Reason: fmt.Sprintf("has %d bytes, want %d", size, desc.Size)}
	}
	if src.owned && (d.clone(from, desc) == nil || d.link(from, desc) == nil) {
		return nil
	}
	return d.copyBlob(src, desc)
}

// link makes a hard link in tmp/ and renames it: link(2) itself would not
// replace a torn blob.
func (d *Dir) link(from string, desc ocispec.Descriptor) error {
	to, err := d.BlobPath(desc.Digest)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	err = os.Link(from, to)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := d.createTemp()
	if err != nil {
		return err
	}
	f.Close()
	defer os.Remove(f.Name())
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	if err := os.Link(from, f.Name()); err != nil {
		return err
	}
	return d.rename(f.Name(), desc.Digest)
}

// clone makes a reflink of the file from, or fails.
func (d *Dir) clone(from string, desc ocispec.Descriptor) error {
	src, _, err := openRegular(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := d.createTemp()
	if err != nil {
		return err
	}
	defer os.Remove(dst.Name())
	if err := errors.Join(reflink(dst, src), dst.Chmod(filePerm), dst.Close()); err != nil {
		return err
	}
	return d.rename(dst.Name(), desc.Digest)
}

// copyBlob copies and verifies a blob of another layout.
func (d *Dir) copyBlob(src *Dir, desc ocispec.Descriptor) error {
	r, err := src.OpenBlob(desc)
	if err != nil {
		return err
	}
	defer r.Close()
	return d.copyFrom(r, desc)
}

// copyFile copies and verifies a regular file.
func (d *Dir) copyFile(path string, desc ocispec.Descriptor) error {
	f, _, err := openRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.copyFrom(f, desc)
}

// copyFrom stores what r gives, which must be what desc says.
func (d *Dir) copyFrom(r io.Reader, desc ocispec.Descriptor) error {
	w, err := d.NewBlob()
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := io.CopyBuffer(onlyWriter{w}, onlyReader{r}, make([]byte, 256<<10)); err != nil {
		return fmt.Errorf("copy blob %s: %w", desc.Digest, err)
	}
	_, _, err = w.Commit(desc.Digest, desc.Size)
	return err
}
