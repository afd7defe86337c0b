package transfer

import (
	"context"
	"fmt"
	"io"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// ReadDocument returns the verified bytes of a small blob or document: at most
// max.
func ReadDocument(ctx context.Context, r Reader, desc ocispec.Descriptor, max int64) ([]byte, error) {
	if desc.Size < 0 || desc.Size > max {
		return nil, fmt.Errorf("read %s: it has %d bytes, at most %d are read", desc.Digest, desc.Size, max)
	}
	in, err := r.Open(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	b := make([]byte, desc.Size)
	if _, err := io.ReadFull(in, b); err != nil {
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	switch n, err := in.Read(make([]byte, 1)); {
	case n > 0:
		return nil, fmt.Errorf("read %s: it has more than %d bytes", desc.Digest, desc.Size)
	case err != io.EOF:
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	return b, nil
}

// Fetch is ReadDocument in the form that layout's functions take: Select,
// Images, Children, Closure.
func Fetch(ctx context.Context, r Reader) layout.Fetch {
	return func(desc ocispec.Descriptor, max int64) ([]byte, error) { return ReadDocument(ctx, r, desc, max) }
}

// Overlay is a Reader with documents beside those that another Reader has: the
// manifests and configurations of an image that is being changed.
type Overlay struct {
	Reader
	docs map[digest.Digest][]byte
}

// NewOverlay returns an Overlay over r. Documents are added before it is read
// from.
func NewOverlay(r Reader) *Overlay { return &Overlay{Reader: r, docs: map[digest.Digest][]byte{}} }

// Add adds a document and returns its descriptor.
func (o *Overlay) Add(mediaType string, b []byte) ocispec.Descriptor {
	dg := digest.FromBytes(b)
	o.docs[dg] = b
	return ocispec.Descriptor{MediaType: mediaType, Digest: dg, Size: int64(len(b))}
}

// Open implements Reader.
func (o *Overlay) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if b, ok := o.docs[desc.Digest]; ok {
		return newBytes(desc, b)
	}
	return o.Reader.Open(ctx, desc)
}

// Origins implements Located for a Reader that is so.
func (o *Overlay) Origins(desc ocispec.Descriptor) []string {
	if l, ok := o.Reader.(Located); ok && o.docs[desc.Digest] == nil {
		return l.Origins(desc)
	}
	return nil
}

// Referrers implements Lister for a Reader that is so.
func (o *Overlay) Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	if l, ok := o.Reader.(Lister); ok {
		return l.Referrers(ctx, subject)
	}
	return nil, nil
}

// Tags implements Lister for a Reader that is so.
func (o *Overlay) Tags(ctx context.Context) ([]string, error) {
	if l, ok := o.Reader.(Lister); ok {
		return l.Tags(ctx)
	}
	return nil, nil
}

// under returns the Reader that has the content of a descriptor.
func under(r Reader, desc ocispec.Descriptor) Reader {
	if o, ok := r.(*Overlay); ok && o.docs[desc.Digest] == nil {
		return under(o.Reader, desc)
	}
	return r
}

// newBytes reads content that is in memory and known to be of its digest.
func newBytes(desc ocispec.Descriptor, b []byte) (io.ReadCloser, error) {
	if int64(len(b)) != desc.Size {
		return nil, fmt.Errorf("content of %s has %d bytes, want %d", desc.Digest, len(b), desc.Size)
	}
	return &bytesReader{b: b}, nil
}

// bytesReader is a bytes.Reader that is closed and does not write itself.
type bytesReader struct {
	b   []byte
	off int
}

func (r *bytesReader) Read(p []byte) (int, error) {
	if r.off == len(r.b) {
		return 0, io.EOF
	}
	n := copy(p, r.b[r.off:])
	r.off += n
	return n, nil
}

func (r *bytesReader) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekStart || off < 0 || off > int64(len(r.b)) {
		return 0, fmt.Errorf("seek to %d (from %d) in %d bytes", off, whence, len(r.b))
	}
	r.off = int(off)
	return off, nil
}

func (r *bytesReader) Close() error { return nil }
