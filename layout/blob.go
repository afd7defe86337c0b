package layout

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BlobReader reads one blob, as [VerifyReader] does. A blob of a layout of ours
// that turns out to be corrupt is moved out of the way.
type BlobReader struct {
	*VerifyReader
	dir  *Dir
	file *os.File
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
	r := &BlobReader{VerifyReader: verifyReader(f, desc), dir: d, file: f}
	if fi.Size() != desc.Size {
		f.Close()
		return nil, r.corrupt(fmt.Sprintf("has %d bytes, want %d", fi.Size(), desc.Size))
	}
	return r, nil
}

// OpenFile opens a blob's file for a reader that verifies it elsewhere, such as
// a client that the bytes are sent to. What Stat says about missing blobs holds
// here too. The caller closes the file.
func (d *Dir) OpenFile(dg digest.Digest) (*os.File, int64, error) {
	if _, err := d.Stat(dg); err != nil {
		return nil, 0, err
	}
	path, err := d.BlobPath(dg)
	if err != nil {
		return nil, 0, err
	}
	f, fi, err := openRegular(path)
	if err != nil {
		return nil, 0, fmt.Errorf("open blob %s: %w", dg, notExist(err))
	}
	return f, fi.Size(), nil
}

// Read reads on, and verifies the whole blob when it comes to its end.
func (r *BlobReader) Read(p []byte) (int, error) {
	n, err := r.VerifyReader.Read(p)
	if err != nil && err != io.EOF {
		r.quarantine(err)
	}
	return n, err
}

// corrupt returns the error for a blob that is not what it should be.
func (r *BlobReader) corrupt(reason string) error {
	err := r.VerifyReader.corrupt(reason)
	r.quarantine(err)
	return err
}

// quarantine moves a corrupt file out of the way, in a layout of ours and when
// its digest is wrong. A wrong size alone proves nothing: the descriptor may be
// what is wrong.
func (r *BlobReader) quarantine(err error) {
	var corrupt *CorruptError
	if r.dir.owned && errors.As(err, &corrupt) {
		r.dir.quarantine(r.desc.Digest)
	}
}

// ReadAt reads at any offset and does not verify.
func (r *BlobReader) ReadAt(p []byte, off int64) (int, error) { return r.file.ReadAt(p, off) }

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
