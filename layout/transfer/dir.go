package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// resumeSize is how many bytes a blob has that is worth resuming after a process
// was killed.
const resumeSize = 8 << 20

// copyBuffer is the size in bytes of the pieces that content moves in.
const copyBuffer = 512 << 10

// Dir is an OCI layout as a place.
type Dir struct{ layout *layout.Dir }

// Layout returns a layout as a place. Its references are the names of index.json
// and digests; see [layout.Dir.Resolve].
func Layout(d *layout.Dir) *Dir { return &Dir{d} }

// Resolve implements Reader.
func (d *Dir) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	return d.layout.Resolve(ref)
}

// Open implements Reader.
func (d *Dir) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := d.layout.OpenBlob(desc)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Has implements Writer. A manifest is there when everything below it is.
func (d *Dir) Has(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	if !d.layout.HasDescriptor(desc) {
		return false, nil
	}
	if !layout.IsIndex(desc.MediaType) && !layout.IsManifest(desc.MediaType) {
		return true, nil
	}
	blobs, err := d.layout.Closure(desc)
	if err != nil {
		return false, nil // it is copied again, and the error comes where it belongs
	}
	return !slices.ContainsFunc(blobs, func(b ocispec.Descriptor) bool { return !d.layout.HasDescriptor(b) }), nil
}

// PutBlob implements Writer. What a broken copy of a large blob has left is used
// by the next one.
func (d *Dir) PutBlob(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	w, err := d.newBlob(desc)
	if err != nil {
		return err
	}
	defer w.Close()
	resumed := w.Size() > 0
	if err := fill(ctx, w, r); err != nil {
		return err
	}
	_, _, err = w.Commit(desc.Digest, desc.Size)
	if s, ok := r.(io.Seeker); ok && err != nil && resumed {
		// What was left there may have been torn: once more, from the start.
		if _, again := s.Seek(0, io.SeekStart); again != nil {
			return errors.Join(err, again)
		}
		if err := w.Restart(); err != nil {
			return err
		}
		if err := fill(ctx, w, r); err != nil {
			return err
		}
		_, _, err = w.Commit(desc.Digest, desc.Size)
	}
	return err
}

func (d *Dir) newBlob(desc ocispec.Descriptor) (*layout.BlobWriter, error) {
	if desc.Size < resumeSize {
		return d.layout.NewHashedBlob() // the reader verifies
	}
	w, err := d.layout.ResumeBlob(desc)
	if err != nil {
		return nil, err
	}
	w.Trust()
	return w, nil
}

// fill writes what w lacks of the content that r gives.
func fill(ctx context.Context, w *layout.BlobWriter, r io.Reader) error {
	if off := w.Size(); off > 0 {
		s, ok := r.(io.Seeker)
		if !ok {
			if err := w.Restart(); err != nil {
				return err
			}
		} else if _, err := s.Seek(off, io.SeekStart); err != nil {
			return err
		}
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, &contextReader{ctx, r}, make([]byte, copyBuffer))
	return err
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// PutManifest implements Writer.
func (d *Dir) PutManifest(_ context.Context, desc ocispec.Descriptor, b []byte, names ...string) error {
	got, err := d.layout.PutBytes(desc.MediaType, b)
	if err != nil {
		return err
	}
	if got.Size != desc.Size || desc.Digest.Algorithm() == got.Digest.Algorithm() && got.Digest != desc.Digest {
		return fmt.Errorf("put manifest %s: content has digest %s and %d bytes", desc.Digest, got.Digest, got.Size)
	}
	if desc.Digest != got.Digest {
		if err := d.putOther(desc, b); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return nil
	}
	return d.layout.SetRefs(names, desc)
}

// putOther stores a document whose digest is not of SHA-256.
func (d *Dir) putOther(desc ocispec.Descriptor, b []byte) error {
	w, err := d.layout.NewBlob()
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.Write(b); err != nil {
		return err
	}
	_, _, err = w.Commit(desc.Digest, desc.Size)
	return err
}

// Link implements Linker for other layouts, and for a Reader whose method Holder
// says that a layout has the blob.
func (d *Dir) Link(_ context.Context, desc ocispec.Descriptor, src Reader) (bool, error) {
	if h, ok := src.(interface {
		Holder(desc ocispec.Descriptor) Reader
	}); ok {
		src = h.Holder(desc)
	}
	from, ok := src.(*Dir)
	if !ok {
		return false, nil
	}
	return true, d.layout.LinkFrom(from.layout, desc)
}

// Entries returns the entries of index.json.
func (d *Dir) Entries() ([]ocispec.Descriptor, error) {
	index, err := d.layout.Index()
	return index.Manifests, err
}

// Tags implements Lister: the names in index.json, tags or in full.
func (d *Dir) Tags(context.Context) ([]string, error) {
	index, err := d.layout.Index()
	if err != nil {
		return nil, err
	}
	return IndexNames(index.Manifests), nil
}

// Referrers implements Lister; see [IndexReferrers].
func (d *Dir) Referrers(_ context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	index, err := d.layout.Index()
	if err != nil {
		return nil, err
	}
	return IndexReferrers(index.Manifests, d.layout.ReadBlob, subject), nil
}
