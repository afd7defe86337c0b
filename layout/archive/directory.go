package archive

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// The files of a directory that skopeo calls dir:, beside blobs by the hex part
// of their digests and signature-N, which is passed over.
const (
	versionFile    = "version"
	versionPrefix  = "Directory Transport Version: "
	versionText    = versionPrefix + "1.1\n"
	topFile        = "manifest.json"  // the image or index
	manifestSuffix = ".manifest.json" // after the hex digest: other documents
)

// maxDocuments bounds the documents that are read to find referrers.
const maxDocuments = 10_000

// Directory is a directory with one image or index in it, flat, as skopeo's dir:
// transport has it: a transfer.Reader, Writer and Lister. Its methods are safe
// for concurrent use.
type Directory struct {
	root *os.Root
	path string
}

// OpenDirectory opens an existing dir: directory. The caller closes it.
func OpenDirectory(path string) (*Directory, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	d := &Directory{root: root, path: path}
	if err := d.checkVersion(); err != nil {
		root.Close()
		return nil, fmt.Errorf("open directory %s: %w", path, err)
	}
	return d, nil
}

// CreateDirectory opens the dir: directory at path to write an image into it,
// and makes it when there is none. A directory that has other things in it is
// refused. Blobs that are there already are kept and used; the image that was
// there stays until the new one is complete.
func CreateDirectory(path string) (*Directory, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("create directory: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("create directory: %w", err)
	}
	d := &Directory{root: root, path: path}
	if err := d.initialize(); err != nil {
		root.Close()
		return nil, fmt.Errorf("create directory %s: %w", path, err)
	}
	return d, nil
}

// Close ends the use of the directory.
func (d *Directory) Close() error { return d.root.Close() }

func (d *Directory) checkVersion() error {
	f, fi, err := d.regular(versionFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("it is no directory of an image: it has no file %q: %w", versionFile, err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, min(fi.Size(), 64))
	if _, err := io.ReadFull(f, b); err != nil {
		return err
	}
	if !strings.HasPrefix(string(b), versionPrefix+"1.") {
		return fmt.Errorf("file %q says %q, want %q", versionFile, b, versionText)
	}
	return nil
}

// initialize makes an empty directory a dir: one.
func (d *Directory) initialize() error {
	err := d.checkVersion()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if names, err := f.Readdirnames(1); err != io.EOF {
		if err != nil {
			return err
		}
		return fmt.Errorf("it is not empty and no directory of an image: %q is in it", names[0])
	}
	return d.write(versionFile, strings.NewReader(versionText))
}

// regular opens a regular file of the directory. Links are not followed.
func (d *Directory) regular(name string) (*os.File, fs.FileInfo, error) {
	fi, err := d.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file (%s)", name, fi.Mode().Type())
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, nil, err
	}
	if now, err := f.Stat(); err != nil || !os.SameFile(fi, now) {
		f.Close()
		return nil, nil, errors.Join(fmt.Errorf("%s was replaced while it was opened", name), err)
	}
	return f, fi, nil
}

// document reads a small file.
func (d *Directory) document(name string) ([]byte, error) {
	f, fi, err := d.regular(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi.Size() > layout.MaxManifest {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", name, fi.Size(), layout.MaxManifest)
	}
	return io.ReadAll(io.LimitReader(f, layout.MaxManifest))
}

// write writes a file under a temporary name and renames it.
func (d *Directory) write(name string, r io.Reader) error {
	tmp := "." + rand.Text()[:8] + ".tmp"
	f, err := d.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = d.root.Remove(tmp) }() // it is not there after the rename
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return d.root.Rename(tmp, name)
}

// top is the descriptor of the image.
func (d *Directory) top() (ocispec.Descriptor, []byte, error) {
	b, err := d.document(topFile)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("%s: %w", topFile, err)
	}
	desc, err := describe(b)
	return desc, b, err
}

// describe makes the descriptor of a document.
func describe(b []byte) (ocispec.Descriptor, error) {
	mediaType, err := layout.DetectMediaType(b)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}, nil
}

// Resolve returns the image, for an empty ref, or the document of a digest. The
// directory knows no names.
func (d *Directory) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	desc, err := d.resolve(ref)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve %q in directory %s: %w", ref, d.path, err)
	}
	return desc, nil
}

func (d *Directory) resolve(ref string) (ocispec.Descriptor, error) {
	desc, _, err := d.top()
	if ref == "" {
		return desc, err
	}
	dg, ok := layout.RefDigest(ref)
	switch {
	case !ok:
		return desc, fmt.Errorf("a directory of an image knows no names, only digests: %w", fs.ErrNotExist)
	case err == nil && desc.Digest == dg:
		return desc, nil
	}
	b, err := d.document(dg.Encoded() + manifestSuffix)
	if err != nil {
		return desc, err
	}
	if desc, err = describe(b); err != nil {
		return desc, err
	}
	if got := dg.Algorithm().FromBytes(b); got != dg {
		return desc, &layout.CorruptError{Digest: dg, Reason: "has content of digest " + got.String()}
	}
	desc.Digest = dg
	return desc, nil
}

// fileOf is the file that has the content of desc.
func (d *Directory) fileOf(desc ocispec.Descriptor) (string, error) {
	if err := desc.Digest.Validate(); err != nil {
		return "", fmt.Errorf("blob %q: %w", string(desc.Digest), err)
	}
	name := desc.Digest.Encoded()
	if !layout.IsManifest(desc.MediaType) && !layout.IsIndex(desc.MediaType) {
		return name, nil
	}
	if top, _, err := d.top(); err == nil && top.Digest == desc.Digest {
		return topFile, nil
	}
	return name + manifestSuffix, nil
}

// Open reads a blob or a document; see transfer.Reader. The result is an
// io.Seeker.
func (d *Directory) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	name, err := d.fileOf(desc)
	if err != nil {
		return nil, err
	}
	f, fi, err := d.regular(name)
	if err != nil {
		return nil, fmt.Errorf("blob %s in directory %s: %w", desc.Digest, d.path, err)
	}
	if fi.Size() != desc.Size {
		f.Close()
		return nil, &layout.CorruptError{Digest: desc.Digest, Reason: fmt.Sprintf("has %d bytes, want %d", fi.Size(), desc.Size)}
	}
	return layout.NewVerifyReader(f, desc)
}

// Has says whether a file of the descriptor's size is there; see
// transfer.Writer.
func (d *Directory) Has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if !d.hasFile(desc) {
		return false, nil
	}
	blobs, err := layout.Closure(desc, transfer.Fetch(ctx, d))
	if err != nil {
		return false, nil // it is copied again, and the error comes where it belongs
	}
	for _, b := range blobs {
		if !d.hasFile(b) {
			return false, nil
		}
	}
	return true, nil
}

func (d *Directory) hasFile(desc ocispec.Descriptor) bool {
	name, err := d.fileOf(desc)
	if err != nil {
		return false
	}
	fi, err := d.root.Lstat(name)
	return err == nil && fi.Mode().IsRegular() && fi.Size() == desc.Size
}

// PutBlob stores a blob.
func (d *Directory) PutBlob(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	name, err := d.fileOf(desc)
	if err == nil {
		err = d.write(name, &counter{ctx: ctx, r: r})
	}
	if err != nil {
		return fmt.Errorf("write blob %s to directory %s: %w", desc.Digest, d.path, err)
	}
	return nil
}

// PutManifest stores a document. One that is named, be it by an empty name, and
// has no subject becomes the directory's image.
func (d *Directory) PutManifest(_ context.Context, desc ocispec.Descriptor, b []byte, names ...string) error {
	err := desc.Digest.Validate()
	if err == nil && desc.Digest.Algorithm().FromBytes(b) != desc.Digest {
		err = errors.New("its content has another digest")
	}
	if err == nil {
		err = d.putDocument(desc.Digest.Encoded()+manifestSuffix, b, len(names) > 0 && !isReferrer(b))
	}
	if err != nil {
		return fmt.Errorf("write manifest %s to directory %s: %w", desc.Digest, d.path, err)
	}
	return nil
}

// putDocument writes a document; the image itself is in a file of another name.
func (d *Directory) putDocument(name string, b []byte, top bool) error {
	if !top {
		return d.write(name, bytes.NewReader(b))
	}
	if err := d.write(topFile, bytes.NewReader(b)); err != nil {
		return err
	}
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// isReferrer says whether a document is about another.
func isReferrer(b []byte) bool {
	var doc struct {
		Subject *ocispec.Descriptor `json:"subject"`
	}
	return json.Unmarshal(b, &doc) == nil && doc.Subject != nil
}

// Tags returns none: the directory has no names.
func (d *Directory) Tags(context.Context) ([]string, error) { return nil, nil }

// Referrers returns the documents in the directory whose subject is the given
// one.
func (d *Directory) Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var docs []ocispec.Descriptor
	for _, name := range names {
		hex, ok := strings.CutSuffix(name, manifestSuffix)
		if !ok {
			continue
		}
		if len(docs) == maxDocuments {
			return nil, fmt.Errorf("referrers in directory %s: it has more than %d documents", d.path, maxDocuments)
		}
		desc, err := d.resolve(digest.NewDigestFromEncoded(digest.SHA256, hex).String())
		if err == nil {
			docs = append(docs, desc)
		}
	}
	return transfer.IndexReferrers(docs, transfer.Fetch(ctx, d), subject), nil
}
