package layout

import (
	"fmt"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxClosure bounds how many blobs an image may consist of.
const maxClosure = 200_000

// Closure returns the descriptors of all blobs that desc consists of, each
// digest once: layers and configs before their manifest, manifests before their
// index, desc last. Documents are read and verified, layers need not be there.
func (d *Dir) Closure(desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	return Closure(desc, d.ReadBlob)
}

// Closure is [Dir.Closure] over any source of documents.
func Closure(desc ocispec.Descriptor, fetch Fetch) ([]ocispec.Descriptor, error) {
	c := closure{fetch: fetch, seen: map[digest.Digest]ocispec.Descriptor{}}
	if err := c.add(desc, 0); err != nil {
		return nil, err
	}
	return c.list, nil
}

type closure struct {
	fetch Fetch
	seen  map[digest.Digest]ocispec.Descriptor
	list  []ocispec.Descriptor
}

// add appends desc after what it refers to.
func (c *closure) add(desc ocispec.Descriptor, depth int) error {
	if old, ok := c.seen[desc.Digest]; ok {
		return SameBlob(old, desc)
	}
	if depth > maxNesting || len(c.seen) > maxClosure {
		return fmt.Errorf("%s: more than %d nested or %d documents", desc.Digest, maxNesting, maxClosure)
	}
	c.seen[desc.Digest] = desc
	children, err := Children(desc, c.fetch)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := c.add(child, depth+1); err != nil {
			return err
		}
	}
	c.list = append(c.list, desc)
	return nil
}

// SameBlob refuses two descriptors of one digest that say different things: a
// size that is wrong, or one document as manifest and as index.
func SameBlob(a, b ocispec.Descriptor) error {
	document := func(d ocispec.Descriptor) bool { return IsIndex(d.MediaType) || IsManifest(d.MediaType) }
	if a.Size != b.Size || (document(a) || document(b)) && a.MediaType != b.MediaType {
		return fmt.Errorf("%w: blob %s is %q of %d bytes and %q of %d bytes",
			errConfusion, a.Digest, a.MediaType, a.Size, b.MediaType, b.Size)
	}
	return nil
}

// Children returns the descriptors that a manifest (its config, then its
// layers) or an index names, in their order; none for other blobs. A subject is
// not among them.
func Children(desc ocispec.Descriptor, fetch Fetch) ([]ocispec.Descriptor, error) {
	switch {
	case IsIndex(desc.MediaType):
		b, err := fetch(desc, MaxManifest)
		if err != nil {
			return nil, err
		}
		index, err := parseIndex(desc.MediaType, b)
		if err != nil {
			return nil, fmt.Errorf("index %s: %w", desc.Digest, err)
		}
		return index.Manifests, nil
	case IsManifest(desc.MediaType):
		b, err := fetch(desc, MaxManifest)
		if err != nil {
			return nil, err
		}
		m, err := parseManifest(desc.MediaType, b)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
		}
		return append([]ocispec.Descriptor{m.Config}, m.Layers...), nil
	}
	return nil, nil
}
