package layout

import (
	"fmt"
	"hash"
	"io"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// VerifyReader reads content that can be sought in, and holds it to its
// descriptor: instead of io.EOF, Read returns a [CorruptError] when the bytes
// were not those of the digest and size.
type VerifyReader struct {
	desc   ocispec.Descriptor
	src    io.ReadSeekCloser
	hash   hash.Hash
	hashed int64 // bytes from the start on that are in hash
	off    int64
	err    error // what Read returns until the next Seek
}

// NewVerifyReader reads src, which is at its start, as the content of desc.
// The reader closes src.
func NewVerifyReader(src io.ReadSeekCloser, desc ocispec.Descriptor) (*VerifyReader, error) {
	if err := CheckDescriptor(desc); err != nil {
		return nil, err
	}
	return verifyReader(src, desc), nil
}

func verifyReader(src io.ReadSeekCloser, desc ocispec.Descriptor) *VerifyReader {
	return &VerifyReader{desc: desc, src: src, hash: desc.Digest.Algorithm().Hash()}
}

// Size returns the content's size in bytes.
func (r *VerifyReader) Size() int64 { return r.desc.Size }

// Read reads on. At the end it verifies everything, unless a seek has left a
// part out that no earlier read had seen.
func (r *VerifyReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.src.Read(p)
	r.note(p[:n])
	switch {
	case r.off > r.desc.Size:
		err = r.corrupt(fmt.Sprintf("has more than %d bytes", r.desc.Size))
	case err == io.EOF:
		err = r.end()
	}
	r.err = err
	return n, err
}

// note accounts for bytes that were read at the current offset.
func (r *VerifyReader) note(p []byte) {
	start, end := r.off, r.off+int64(len(p))
	if start <= r.hashed && end > r.hashed {
		r.hash.Write(p[r.hashed-start:])
		r.hashed = end
	}
	r.off = end
}

// end is the outcome of a read at the end of the source.
func (r *VerifyReader) end() error {
	if r.off < r.desc.Size {
		return r.corrupt(fmt.Sprintf("has %d bytes, want %d", r.off, r.desc.Size))
	}
	if r.hashed < r.desc.Size {
		return io.EOF
	}
	if got := digest.NewDigest(r.desc.Digest.Algorithm(), r.hash); got != r.desc.Digest {
		return r.corrupt("has content of digest " + got.String())
	}
	return io.EOF
}

func (r *VerifyReader) corrupt(reason string) error {
	return &CorruptError{Digest: r.desc.Digest, Reason: reason}
}

// Seek goes to an offset from the start (io.SeekStart, no other). Bytes that were
// read before are not hashed twice; after a seek beyond them the end is checked
// by size only, unless they are read later.
func (r *VerifyReader) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekStart || off < 0 || off > r.desc.Size {
		return 0, fmt.Errorf("seek to %d (from %d) in blob %s of %d bytes", off, whence, r.desc.Digest, r.desc.Size)
	}
	if _, err := r.src.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	r.off = off
	if r.err == io.EOF {
		r.err = nil
	}
	return off, r.err
}

// Close closes the source. It does not say whether it was read to its end.
func (r *VerifyReader) Close() error { return r.src.Close() }
