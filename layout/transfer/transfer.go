// Package transfer moves images and artifacts between places.
//
// A place is a [Reader], a [Writer] or both: a repository of a registry, an OCI
// layout, an archive. Data goes
//
//	Reader.Resolve    a reference -> the descriptor of a manifest or an index
//	layout.Closure    the descriptor -> all blobs and documents that it consists of
//	Copier            blobs side by side, each once: what the destination has, or
//	                  can mount or link, is not read at all
//	Writer.PutManifest  documents after what they refer to, names last
//
// So a reader of the destination never sees a name that leads to something
// incomplete, and a copy that was cut off goes on where it stopped.
//
// What a place can do beside that, it says by one more method: [Lister],
// [Mounter], [Linker], [Located].
package transfer

import (
	"context"
	"io"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Reader is a place that content is read from. It is safe for concurrent use.
type Reader interface {
	// Resolve returns what a reference in this place leads to now: the
	// descriptor of a manifest or an index. What is not there satisfies
	// errors.Is(err, fs.ErrNotExist).
	Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error)
	// Open streams the content of a descriptor, manifests and blobs alike. It
	// verifies: instead of io.EOF, Read returns an error when the bytes are not
	// those of the descriptor's digest and size. What is not there satisfies
	// errors.Is(err, fs.ErrNotExist). The result may be an io.Seeker, which goes
	// back or forward to an offset from the start; after a seek beyond what was
	// read before, the end is not verified any more.
	Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// Writer is a place that content is written to. It is safe for concurrent use.
// Content is complete and verified before it is there under its digest.
type Writer interface {
	// Has says whether the content of a descriptor is there; of a manifest or an
	// index, whether all that it consists of is there too, as far as the place
	// makes sure of that.
	Has(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	// PutBlob stores a blob. r gives all of it and verifies, as that of
	// Reader.Open does; when it is an io.Seeker, a writer may use it to begin
	// again or to go on with what an earlier attempt has left there.
	PutBlob(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error
	// PutManifest stores a manifest or an index, whose content must be there
	// already, and then makes the names lead to it. A name is what Resolve takes
	// as reference. An empty one enters the document as one that is not part of
	// another, for places that list such. Without names the document can be had
	// by its digest only.
	PutManifest(ctx context.Context, desc ocispec.Descriptor, b []byte, names ...string) error
}

// Lister is a Reader that knows what refers to an image.
type Lister interface {
	// Referrers returns the manifests whose subject is the given one, with
	// artifactType and annotations filled in. None is no error.
	Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error)
	// Tags returns the tags of the place, sorted.
	Tags(ctx context.Context) ([]string, error)
}

// Mounter is a Writer that can take a blob from a place beside it.
type Mounter interface {
	// Mount takes the blob from another place, which is named as Located names
	// it. False: it could not, and nothing is lost.
	Mount(ctx context.Context, desc ocispec.Descriptor, from string) (bool, error)
}

// Located is a Reader whose blobs may be had without reading them, by a Mounter
// of the same registry.
type Located interface {
	// Origins names repositories that have the blob, as "registry/repository".
	Origins(desc ocispec.Descriptor) []string
}

// Linker is a Writer that can take a blob from a Reader without streaming it.
type Linker interface {
	// Link takes the blob from src. False: src is of another kind.
	Link(ctx context.Context, desc ocispec.Descriptor, src Reader) (bool, error)
}
