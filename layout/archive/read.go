package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// Archive is an archive file that images are read from. It is a
// transfer.Reader and a transfer.Lister. Its methods are safe for concurrent
// use.
type Archive struct {
	name  string // for messages
	file  *os.File
	temp  bool // file is ours, and temporary
	table table
	index []ocispec.Descriptor // the images, as in index.json

	// Of a docker-archive: documents that are not in it, and the files that
	// are its blobs.
	docs  map[digest.Digest][]byte
	blobs map[digest.Digest]entry
}

// Open opens the archive at path; "-" is the standard input. Whether it is an
// oci-archive or a docker-archive is seen from its content. One that is
// compressed with gzip or zstd, and what comes from a pipe, is spooled to a
// temporary file below $TMPDIR, which is gone after Close. Only headers and
// documents are read, and layers that are compressed in a docker-archive, which
// names them by what they hold.
func Open(ctx context.Context, path string) (*Archive, error) {
	if path == "-" {
		return openFile(ctx, "standard input", os.Stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	a, err := openFile(ctx, path, f)
	if err != nil || a.file != f {
		f.Close()
	}
	return a, err
}

// Read is Open for what r gives; name is for messages.
func Read(ctx context.Context, name string, r io.Reader) (*Archive, error) {
	f, err := spool(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("read archive %s: %w", name, err)
	}
	a, err := newArchive(ctx, name, f)
	if err != nil {
		closeTemp(f)
		return nil, err
	}
	a.temp = true
	return a, nil
}

func openFile(ctx context.Context, name string, f *os.File) (*Archive, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	if fi.IsDir() {
		return nil, fmt.Errorf("open archive %s: it is a directory: an OCI layout is named oci:%s, skopeo's kind dir:%s", name, name, name)
	}
	if !fi.Mode().IsRegular() {
		return Read(ctx, name, f)
	}
	magic := make([]byte, magicLen)
	n, err := f.ReadAt(magic, 0)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	if compressionOf(magic[:n]) != "" {
		return Read(ctx, name, f)
	}
	return newArchive(ctx, name, f)
}

// newArchive reads what an uncompressed archive has.
func newArchive(ctx context.Context, name string, f *os.File) (*Archive, error) {
	a := &Archive{name: name, file: f, docs: map[digest.Digest][]byte{}, blobs: map[digest.Digest]entry{}}
	if err := a.load(ctx); err != nil {
		return nil, fmt.Errorf("read archive %s: %w", name, err)
	}
	return a, nil
}

func (a *Archive) load(ctx context.Context) error {
	fi, err := a.file.Stat()
	if err != nil {
		return err
	}
	if a.table, err = readTable(ctx, a.file, fi.Size()); err != nil {
		return err
	}
	_, layoutErr := a.table.regular(ocispec.ImageLayoutFile)
	_, dockerErr := a.table.regular(dockerManifestFile)
	switch {
	case layoutErr == nil:
		return a.loadLayout()
	case dockerErr == nil:
		return a.loadDocker(ctx)
	}
	return fmt.Errorf("it is no image archive: it has neither %s nor %s at its top", ocispec.ImageLayoutFile, dockerManifestFile)
}

// loadLayout reads the index of an OCI layout.
func (a *Archive) loadLayout() error {
	b, err := a.document(ocispec.ImageLayoutFile, 4096)
	if err != nil {
		return err
	}
	if err := layout.CheckHeader(b); err != nil {
		return err
	}
	if b, err = a.document(ocispec.ImageIndexFile, layout.MaxManifest); err != nil {
		return err
	}
	index, err := layout.ParseIndex("", b)
	if err != nil {
		return fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	a.index = index.Manifests
	return nil
}

// document reads a small file of the archive.
func (a *Archive) document(name string, max int64) ([]byte, error) {
	e, err := a.table.follow(name)
	if err != nil {
		return nil, err
	}
	if e.size > max {
		return nil, fmt.Errorf("%q has %d bytes, at most %d are read", name, e.size, max)
	}
	b := make([]byte, e.size)
	if _, err := io.ReadFull(io.NewSectionReader(a.file, e.off, e.size), b); err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	return b, nil
}

// Close closes the archive. Readers of its blobs end with an error then.
func (a *Archive) Close() error {
	if a.temp {
		closeTemp(a.file)
		return nil
	}
	return a.file.Close()
}

// Resolve returns what ref means in the archive: a full name, a tag, a digest,
// or, when it is empty, the only image.
func (a *Archive) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	desc, err := layout.Find(a.index, ref)
	if dg, ok := layout.RefDigest(ref); ok && errors.Is(err, fs.ErrNotExist) {
		desc, err = a.describe(dg)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve %q in archive %s: %w", ref, a.name, err)
	}
	return desc, nil
}

// describe makes the descriptor of a document that index.json does not name.
func (a *Archive) describe(dg digest.Digest) (ocispec.Descriptor, error) {
	e, err := a.locate(dg)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dg, Size: e.size}
	b, err := a.readDocument(desc, layout.MaxManifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc.MediaType, err = layout.DetectMediaType(b)
	return desc, err
}

// locate returns where a blob is.
func (a *Archive) locate(dg digest.Digest) (entry, error) {
	if err := dg.Validate(); err != nil {
		return entry{}, fmt.Errorf("blob %q: %w", string(dg), err)
	}
	if e, ok := a.blobs[dg]; ok {
		return e, nil
	}
	e, err := a.table.regular(blobName(ocispec.Descriptor{Digest: dg}))
	if err != nil {
		return entry{}, fmt.Errorf("blob %s: %w", dg, err)
	}
	return e, nil
}

// Open reads a blob or a document; see transfer.Reader. The result is an
// io.Seeker.
func (a *Archive) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := a.open(desc)
	if err != nil {
		return nil, fmt.Errorf("read archive %s: %w", a.name, err)
	}
	return r, nil
}

func (a *Archive) open(desc ocispec.Descriptor) (io.ReadCloser, error) {
	if b, ok := a.docs[desc.Digest]; ok {
		return layout.NewVerifyReader(content{bytes.NewReader(b)}, desc)
	}
	e, err := a.locate(desc.Digest)
	if err != nil {
		return nil, err
	}
	if e.size != desc.Size {
		return nil, &layout.CorruptError{Digest: desc.Digest, Reason: fmt.Sprintf("has %d bytes, want %d", e.size, desc.Size)}
	}
	return layout.NewVerifyReader(content{io.NewSectionReader(a.file, e.off, e.size)}, desc)
}

// content is a part of the archive's file, which stays open.
type content struct{ io.ReadSeeker }

func (content) Close() error { return nil }

// readDocument is a layout.Fetch.
func (a *Archive) readDocument(desc ocispec.Descriptor, max int64) ([]byte, error) {
	return transfer.ReadDocument(context.Background(), a, desc, max)
}

// Tags returns the names that the archive's images have, sorted.
func (a *Archive) Tags(context.Context) ([]string, error) {
	return transfer.IndexNames(a.index), nil
}

// Referrers returns the manifests of index.json whose subject is the given one.
func (a *Archive) Referrers(_ context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	return transfer.IndexReferrers(a.index, a.readDocument, subject), nil
}
