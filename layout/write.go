package layout

import (
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BlobWriter writes one blob to a temporary file and hashes it on the way. It
// is not safe for concurrent use.
type BlobWriter struct {
	dir  *Dir
	file *os.File  // nil when committed or closed
	hash hash.Hash // nil when the caller hashes
	size int64
	err  error
	// partial leaves the bytes for the next writer when they are not committed;
	// see ResumeBlob.
	partial bool
}

// NewBlob starts a blob. The caller ends with Commit, and closes in any case.
func (d *Dir) NewBlob() (*BlobWriter, error) {
	f, err := d.createTemp()
	if err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	return &BlobWriter{dir: d, file: f, hash: digest.SHA256.Hash()}, nil
}

// NewHashedBlob is NewBlob for a caller that hashes or verifies the bytes
// itself: Commit must be given their digest, and believes it.
func (d *Dir) NewHashedBlob() (*BlobWriter, error) {
	w, err := d.NewBlob()
	if err == nil {
		w.hash = nil
	}
	return w, err
}

// Write appends to the blob.
func (w *BlobWriter) Write(p []byte) (int, error) {
	if w.file == nil {
		return 0, fs.ErrClosed
	}
	n, err := w.file.Write(p)
	if w.hash != nil {
		w.hash.Write(p[:n])
	}
	w.size += int64(n)
	if err != nil && w.err == nil {
		w.err = err
	}
	return n, err
}

// Size returns how many bytes were written.
func (w *BlobWriter) Size() int64 { return w.size }

// Commit puts what was written into the layout. The expected digest (empty: any,
// the blob gets its SHA-256) and size (negative: any) must be those of the
// bytes. A nil error means that the content is there under the digest, not that
// this call brought it.
func (w *BlobWriter) Commit(expected digest.Digest, size int64) (digest.Digest, int64, error) {
	if w.file == nil {
		return "", 0, fmt.Errorf("commit blob: %w", fs.ErrClosed)
	}
	if w.err != nil {
		return "", 0, fmt.Errorf("commit blob after a failed write: %w", w.err)
	}
	if size >= 0 && size != w.size {
		return "", 0, fmt.Errorf("commit blob %s: got %d bytes, want %d", expected, w.size, size)
	}
	got, err := w.digest(expected)
	if err != nil {
		return "", 0, fmt.Errorf("commit blob: %w", err)
	}
	if expected != "" && got != expected {
		w.partial = false // of no use to anybody
		return "", 0, fmt.Errorf("commit blob %s: content has digest %s", expected, got)
	}
	if err := w.finish(got); err != nil {
		return "", 0, fmt.Errorf("commit blob %s: %w", got, err)
	}
	return got, w.size, nil
}

// digest returns the digest of what was written, in the expected one's
// algorithm.
func (w *BlobWriter) digest(expected digest.Digest) (digest.Digest, error) {
	if w.hash == nil {
		return expected, expected.Validate()
	}
	if expected == "" {
		return digest.NewDigest(digest.SHA256, w.hash), nil
	}
	if err := expected.Validate(); err != nil {
		return "", fmt.Errorf("%q: %w", string(expected), err)
	}
	if expected.Algorithm() == digest.SHA256 {
		return digest.NewDigest(digest.SHA256, w.hash), nil
	}
	got, _, err := hashFile(w.file.Name(), expected.Algorithm())
	return got, err
}

// finish closes the file and renames it to its final name, also over one that
// is there: that one may be torn.
func (w *BlobWriter) finish(dg digest.Digest) error {
	name := w.file.Name()
	early := w.partial && runtime.GOOS != "windows" // while the lock keeps others away
	err := w.file.Chmod(filePerm)
	if early && err == nil {
		err = w.dir.rename(name, dg)
	}
	err = errors.Join(err, w.file.Close())
	w.file = nil
	if !early && err == nil {
		err = w.dir.rename(name, dg)
	}
	if err != nil {
		os.Remove(name)
	}
	return err
}

// Close gives the blob up when it was not committed, or leaves it to the next
// ResumeBlob. It may be called twice.
func (w *BlobWriter) Close() error {
	if w.file == nil {
		return nil
	}
	var gone error
	if !w.partial || w.size < minPartial {
		gone = os.Remove(w.file.Name())
	}
	err := errors.Join(w.file.Close(), gone)
	w.file = nil
	return err
}

// rename moves a complete file of the layout's file system to a blob's place.
func (d *Dir) rename(from string, dg digest.Digest) error {
	to, err := d.BlobPath(dg)
	if err != nil {
		return err
	}
	err = os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		err = os.Rename(from, to)
	}
	return err
}

// PutBytes stores b as a blob and returns its descriptor.
func (d *Dir) PutBytes(mediaType string, b []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if old, err := d.ReadBlob(desc, desc.Size); err == nil && string(old) == string(b) {
		return desc, nil
	}
	w, err := d.NewBlob()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer w.Close()
	if _, err := w.Write(b); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	if _, _, err := w.Commit(desc.Digest, desc.Size); err != nil {
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}

// AdoptFile moves a complete regular file into the layout: by rename within a
// file system, else by copy. Its digest is computed and must be the expected
// one (empty: any). The file at path is gone afterwards.
func (d *Dir) AdoptFile(path string, expected digest.Digest) (digest.Digest, int64, error) {
	alg := digest.SHA256
	if expected != "" {
		if err := expected.Validate(); err != nil {
			return "", 0, fmt.Errorf("adopt %s as %q: %w", path, string(expected), err)
		}
		alg = expected.Algorithm()
	}
	got, size, err := hashFile(path, alg)
	if err != nil {
		return "", 0, fmt.Errorf("adopt %s: %w", path, err)
	}
	if expected != "" && got != expected {
		return "", 0, fmt.Errorf("adopt %s as %s: content has digest %s", path, expected, got)
	}
	if err := os.Chmod(path, filePerm); err != nil {
		return "", 0, fmt.Errorf("adopt %s: %w", path, err)
	}
	if d.rename(path, got) == nil {
		return got, size, nil
	}
	if err := d.copyFile(path, ocispec.Descriptor{Digest: got, Size: size}); err != nil {
		return "", 0, fmt.Errorf("adopt %s: %w", path, err)
	}
	return got, size, os.Remove(path)
}

// AdoptVerified is AdoptFile for a caller that has hashed the file and made it
// in the layout's file system: the digest is believed, and nothing is copied.
func (d *Dir) AdoptVerified(path string, dg digest.Digest) error {
	if err := os.Chmod(path, filePerm); err != nil {
		return fmt.Errorf("adopt %s as %s: %w", path, dg, err)
	}
	if err := d.rename(path, dg); err != nil {
		return fmt.Errorf("adopt %s as %s: %w", path, dg, err)
	}
	return nil
}
