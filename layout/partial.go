package layout

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// minPartial is the size in bytes of an incomplete blob that is worth keeping.
const minPartial = 1 << 20

// ResumeBlob starts the blob desc, or goes on with what an earlier writer of it,
// also of another process, has left: Size says how many bytes are there. The
// caller writes those that follow and commits; or begins again with Restart. A
// writer that is closed without a commit leaves its bytes for the next one. When
// somebody is writing the same blob right now, this is a new one as of NewBlob.
func (d *Dir) ResumeBlob(desc ocispec.Descriptor) (*BlobWriter, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("resume blob %q: %w", string(desc.Digest), err)
	}
	w, err := d.resume(desc)
	if errors.Is(err, errBusy) {
		return d.NewBlob()
	}
	if err != nil {
		return nil, fmt.Errorf("resume blob %s: %w", desc.Digest, err)
	}
	return w, nil
}

// errBusy says that a file's lock is taken.
var errBusy = errors.New("another process has the lock")

func (d *Dir) resume(desc ocispec.Descriptor) (*BlobWriter, error) {
	dir := filepath.Join(d.path, tmpDir)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	path := filepath.Join(dir, "partial-"+desc.Digest.Algorithm().String()+"-"+desc.Digest.Encoded())
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|openFlags, 0o600)
	if err != nil {
		return nil, err
	}
	w := &BlobWriter{dir: d, file: f, hash: digest.SHA256.Hash(), partial: true}
	if err := w.load(path, desc.Size); err != nil {
		f.Close()
		return nil, err
	}
	return w, nil
}

// load locks the file and hashes what is in it. One that is longer than the blob
// is of no use.
func (w *BlobWriter) load(path string, limit int64) error {
	if err := tryLock(w.file); err != nil {
		return errBusy
	}
	if !sameFile(w.file, path) {
		return errBusy // it was committed or removed meanwhile
	}
	fi, err := w.file.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if fi.Size() > limit {
		return w.Restart()
	}
	w.size, err = io.CopyBuffer(onlyWriter{w.hash}, onlyReader{w.file}, make([]byte, 256<<10))
	return err
}

// Restart drops what was written, and what an earlier writer has left.
func (w *BlobWriter) Restart() error {
	if w.file == nil {
		return fs.ErrClosed
	}
	if err := w.file.Truncate(0); err != nil {
		return err
	}
	if _, err := w.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if w.hash != nil {
		w.hash.Reset()
	}
	w.size, w.err = 0, nil
	return nil
}

// Trust leaves hashing to the caller from here on, as NewHashedBlob does. It has
// no effect when bytes are there already: somebody else wrote them.
func (w *BlobWriter) Trust() {
	if w.size == 0 {
		w.hash = nil
	}
}
