package layout

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BlobReader reads one blob. Read verifies: instead of io.EOF it returns a
// [CorruptError] when the bytes were not those of the descriptor.
type BlobReader struct {
	dir  *Dir
	desc ocispec.Descriptor
	file *os.File
	hash hash.Hash // of the first hashed bytes
	off  int64     // of the next byte
	// hashed lags behind off after a seek forward, which gives verification up.
	hashed int64
	err    error // what Read returns from now on
}

// OpenBlob opens the blob that desc names. A missing blob, and one of another
// size, is an error that satisfies fs.ErrNotExist; a symbolic link or another
// special file is refused. The caller closes the reader.
func (d *Dir) OpenBlob(desc ocispec.Descriptor) (*BlobReader, error) {
	path, err := d.BlobPath(desc.Digest)
	if err != nil {
		return nil, err
	}
	f, fi, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", desc.Digest, notExist(err))
	}
	r := &BlobReader{dir: d, desc: desc, file: f, hash: desc.Digest.Algorithm().Hash()}
	if fi.Size() != desc.Size {
		f.Close()
		return nil, r.corrupt(fmt.Sprintf("has %d bytes, want %d", fi.Size(), desc.Size))
	}
	return r, nil
}

// Size returns the blob's size in bytes.
func (r *BlobReader) Size() int64 { return r.desc.Size }

// Read reads on, and verifies the whole blob when it comes to its end.
func (r *BlobReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.file.Read(p)
	end := r.off + int64(n)
	if r.off <= r.hashed && end > r.hashed {
		r.hash.Write(p[r.hashed-r.off : n])
		r.hashed = end
	}
	r.off = end
	if r.off > r.desc.Size {
		err = r.corrupt(fmt.Sprintf("has more than %d bytes", r.desc.Size))
	} else if err == io.EOF {
		err = r.end()
	}
	r.err = err
	return n, err
}

// end is the outcome of a read to the end of the file.
func (r *BlobReader) end() error {
	if r.off < r.desc.Size {
		return r.corrupt(fmt.Sprintf("has %d bytes, want %d", r.off, r.desc.Size))
	}
	if r.hashed < r.off {
		return io.EOF
	}
	if got := digest.NewDigest(r.desc.Digest.Algorithm(), r.hash); got != r.desc.Digest {
		return r.corrupt("has content of digest " + got.String())
	}
	return io.EOF
}

// corrupt returns the error for a blob that is not what it should be. In a
// layout of ours a file whose digest is wrong is also moved out of the way. A
// wrong size alone proves nothing: the descriptor may be what is wrong.
func (r *BlobReader) corrupt(reason string) error {
	if r.dir.owned {
		r.dir.quarantine(r.desc.Digest)
	}
	return &CorruptError{Digest: r.desc.Digest, Reason: reason}
}

// Seek goes to an offset from the start (io.SeekStart, no other). Bytes that were
// read before are not hashed twice; after a seek beyond them the end is checked
// by size only.
func (r *BlobReader) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekStart || off < 0 || off > r.desc.Size {
		return 0, fmt.Errorf("seek to %d (from %d) in blob %s of %d bytes", off, whence, r.desc.Digest, r.desc.Size)
	}
	if _, err := r.file.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	r.off = off
	if r.err == io.EOF {
		r.err = nil
	}
	return off, r.err
}

// ReadAt reads at any offset and does not verify.
func (r *BlobReader) ReadAt(p []byte, off int64) (int, error) { return r.file.ReadAt(p, off) }

// Close closes the file. It does not say whether the blob was read to its end.
func (r *BlobReader) Close() error { return r.file.Close() }

// ReadBlob returns the verified bytes of a blob of at most max bytes. It is for
// documents; layers are read with OpenBlob.
func (d *Dir) ReadBlob(desc ocispec.Descriptor, max int64) ([]byte, error) {
	if desc.Size < 0 || desc.Size > max {
		return nil, fmt.Errorf("read blob %s: it has %d bytes, at most %d are read", desc.Digest, desc.Size, max)
	}
	r, err := d.OpenBlob(desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, desc.Size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, errors.Join(err, r.err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		return nil, err
	}
	return b, nil
}

// quarantine hashes a suspicious blob once more and renames it into tmp/ when
// its digest is indeed wrong, so that the next writer makes it again.
func (d *Dir) quarantine(dg digest.Digest) {
	path, err := d.BlobPath(dg)
	if err != nil {
		return
	}
	if got, _, err := hashFile(path, dg.Algorithm()); err != nil || got == dg {
		return
	}
	f, err := d.createTemp()
	if err != nil {
		return
	}
	f.Close()
	if os.Rename(path, f.Name()) != nil {
		os.Remove(f.Name())
		return
	}
	_ = os.Rename(f.Name(), filepath.Join(d.path, tmpDir, "corrupt-"+dg.Encoded()))
}

// hashFile returns the digest and size of a regular file.
func hashFile(path string, alg digest.Algorithm) (digest.Digest, int64, error) {
	f, _, err := openRegular(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := alg.Hash()
	n, err := io.CopyBuffer(onlyWriter{h}, onlyReader{f}, make([]byte, 256<<10))
	if err != nil {
		return "", 0, err
	}
	return digest.NewDigest(alg, h), n, nil
}

// onlyWriter and onlyReader hide other methods, so that io.CopyBuffer uses the
// buffer that it is given.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }
