package layout

import (
	"bytes"
	_ "crypto/sha256" // algorithms of digests that Validate accepts
	_ "crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds on documents that are read into memory, in bytes.
const (
	MaxManifest = 8 << 20  // a manifest or an index, index.json too
	MaxConfig   = 16 << 20 // an image configuration
)

const (
	tmpDir   = "tmp"
	filePerm = 0o444 // of blobs: they are never edited in place
)

// Dir is an OCI image layout directory. Its methods are safe for concurrent
// use, also by several processes.
type Dir struct {
	path string
	// owned layouts get rid of blobs that turn out to be corrupt.
	owned bool
}

// Open returns the existing layout at path. Nothing is written to it unless a
// writing method is called. A directory without an oci-layout file is an error
// that satisfies fs.ErrNotExist.
func Open(path string) (*Dir, error) {
	d := &Dir{path: path}
	if err := d.checkHeader(); err != nil {
		return nil, fmt.Errorf("open OCI layout %s: %w", path, err)
	}
	for _, sub := range []string{"", string(digest.SHA256), string(digest.SHA512)} {
		if err := checkRealDir(filepath.Join(path, ocispec.ImageBlobsDir, sub)); err != nil {
			return nil, fmt.Errorf("open OCI layout %s: %w", path, err)
		}
	}
	return d, nil
}

// Create returns the layout at path and makes an empty one there when there is
// none; directories that it makes have mode 0755 less the umask. The layout is
// ours: a blob in it that turns out to be corrupt is moved to tmp/, where it is
// swept with other leftovers. Other content of the directory is left alone.
func Create(path string) (*Dir, error) {
	d := &Dir{path: path, owned: true}
	err := d.checkHeader()
	if errors.Is(err, fs.ErrNotExist) {
		err = d.initialize()
	}
	if err != nil {
		return nil, fmt.Errorf("create OCI layout %s: %w", path, err)
	}
	return d, nil
}

// Path returns the layout's directory as it was given to Open or Create.
func (d *Dir) Path() string { return d.path }

// checkHeader reads oci-layout.
func (d *Dir) checkHeader() error {
	b, err := readRegular(filepath.Join(d.path, ocispec.ImageLayoutFile), 4096)
	if err != nil {
		return err
	}
	return CheckHeader(b)
}

// CheckHeader checks the content of an oci-layout file: the version must be 1.x.
func CheckHeader(b []byte) error {
	var header ocispec.ImageLayout
	if err := json.Unmarshal(b, &header); err != nil {
		return fmt.Errorf("parse %s: %w", ocispec.ImageLayoutFile, err)
	}
	if len(header.Version) < 2 || header.Version[:2] != "1." {
		return fmt.Errorf("%s: layout version %q is not supported, want %s",
			ocispec.ImageLayoutFile, header.Version, ocispec.ImageLayoutVersion)
	}
	return nil
}

// initialize makes the directories and files of an empty layout. oci-layout
// comes last: its presence says that the rest is there. Several processes may
// do this at the same time.
func (d *Dir) initialize() error {
	if err := os.MkdirAll(filepath.Join(d.path, ocispec.ImageBlobsDir, string(digest.SHA256)), 0o755); err != nil {
		return err
	}
	unlock, err := d.lockIndex()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(d.indexPath()); errors.Is(err, fs.ErrNotExist) {
		if err := d.writeIndex(emptyIndex()); err != nil {
			return err
		}
	}
	b, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	return d.replaceFile(ocispec.ImageLayoutFile, b)
}

// BlobPath returns where the blob with digest dg is or would be. The digest is
// validated: one that names no known algorithm, or whose hexadecimal part has
// not exactly the right length and lower case, is an error.
func (d *Dir) BlobPath(dg digest.Digest) (string, error) {
	if err := dg.Validate(); err != nil {
		return "", fmt.Errorf("blob %q: %w", string(dg), err)
	}
	return filepath.Join(d.path, ocispec.ImageBlobsDir, dg.Algorithm().String(), dg.Encoded()), nil
}

// Stat returns the size in bytes of a blob. A blob that is missing, that is
// not a regular file, or that is empty though its digest is not that of
// nothing (what a power cut leaves), is an error that satisfies
// fs.ErrNotExist.
func (d *Dir) Stat(dg digest.Digest) (int64, error) {
	path, err := d.BlobPath(dg)
	if err != nil {
		return 0, err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", dg, notExist(err))
	}
	if !fi.Mode().IsRegular() {
		return 0, &CorruptError{Digest: dg, Reason: "is not a regular file"}
	}
	if fi.Size() == 0 && dg != dg.Algorithm().FromBytes(nil) {
		return 0, &CorruptError{Digest: dg, Reason: "is an empty file"}
	}
	return fi.Size(), nil
}

// Has says whether a blob is there, as Stat sees it: its bytes are not read.
func (d *Dir) Has(dg digest.Digest) bool {
	_, err := d.Stat(dg)
	return err == nil
}

// HasDescriptor says whether a blob of the descriptor's digest and size is
// there. It notices most torn files that Has does not.
func (d *Dir) HasDescriptor(desc ocispec.Descriptor) bool {
	size, err := d.Stat(desc.Digest)
	return err == nil && size == desc.Size
}

// Remove deletes a blob; a missing one is no error. It does not look whether
// anything refers to the blob.
func (d *Dir) Remove(dg digest.Digest) error {
	path, err := d.BlobPath(dg)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove blob %s: %w", dg, err)
	}
	return nil
}

// CorruptError says that a blob is there but is not what its name or the
// descriptor promises. It satisfies errors.Is(err, fs.ErrNotExist), because
// such a blob counts as missing.
type CorruptError struct {
	Digest digest.Digest
	Reason string // "has 3 bytes, want 5"
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("blob %s is corrupt: it %s", e.Digest, e.Reason)
}

// Is reports true for fs.ErrNotExist.
func (e *CorruptError) Is(target error) bool { return target == fs.ErrNotExist }

// replaceFile writes a small file of the layout's top directory by way of a
// temporary one, synced, so that a reader sees the old or the new bytes and
// never a part.
func (d *Dir) replaceFile(name string, b []byte) error {
	f, err := d.createTemp()
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, bytes.NewReader(b))
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(f.Name(), filepath.Join(d.path, name))
}

// createTemp makes a file in tmp/, which is made when it is missing: another
// process may remove it while it is empty.
func (d *Dir) createTemp() (*os.File, error) {
	dir := filepath.Join(d.path, tmpDir)
	for try := 0; ; try++ {
		f, err := os.CreateTemp(dir, "blob-")
		if err == nil || !errors.Is(err, fs.ErrNotExist) || try == 100 {
			return f, err
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
}

// Tidy removes tmp/ when nothing is in it. An exported layout then holds only
// what the specification names.
func (d *Dir) Tidy() { _ = os.Remove(filepath.Join(d.path, tmpDir)) }

// checkRealDir refuses a path that exists and is not a directory itself (a
// symbolic link to one would lead out of the layout).
func checkRealDir(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return fmt.Errorf("%s is not a directory (%s)", path, fi.Mode().Type())
	}
	return nil
}

// openRegular opens a file for reading that must be regular: symbolic links
// are not followed and a FIFO does not block.
func openRegular(path string) (*os.File, fs.FileInfo, error) {
	if fi, err := os.Lstat(path); err == nil && !fi.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file (%s)", path, fi.Mode().Type())
	}
	f, err := os.OpenFile(path, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file (%s)", path, fi.Mode().Type())
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// readRegular reads a regular file of at most max bytes.
func readRegular(path string, max int64) ([]byte, error) {
	f, fi, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi.Size() > max {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", path, fi.Size(), max)
	}
	return io.ReadAll(io.LimitReader(f, max))
}

// notExist shortens the error of a missing file, whose path says nothing that
// the digest does not.
func notExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fs.ErrNotExist
	}
	return err
}
