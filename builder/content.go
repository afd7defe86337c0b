package builder

import (
	"context"
	"io"
	"strings"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Content reads what a build's result consists of: from the store, or, for a
// base image's layers that were not fetched, from where the base is. It is a
// transfer.Reader, and says which repositories have a base's layers.
type Content struct{ b *build }

// Content returns the reader of the result's blobs and documents. It is valid
// until Close.
func (r *Result) Content() *Content { return &Content{r.b} }

// Resolve finds a name or a digest in the store.
func (c *Content) Resolve(_ context.Context, ref string) (ocispecs.Descriptor, error) {
	return c.b.store.Resolve(ref)
}

// Open streams a blob or a document, verified.
func (c *Content) Open(ctx context.Context, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	r, err := c.b.store.OpenBlob(desc)
	if err == nil {
		return r, nil
	}
	if o := c.b.layers.origin(desc); o != nil {
		return o.open(ctx)
	}
	return nil, err
}

// Origins names the repository that a base's layer is in, as
// "registry/repository".
func (c *Content) Origins(desc ocispecs.Descriptor) []string {
	if o := c.b.layers.origin(desc); o != nil && o.repository != "" {
		return []string{o.repository}
	}
	return nil
}

// origin finds where an image's layer is by its blob.
func (s *layers) origin(desc ocispecs.Descriptor) *origin {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.byID {
		if l.origin != nil && l.origin.blob.Descriptor.Digest == desc.Digest {
			return l.origin
		}
	}
	return nil
}

// ready tells the caller of Build about a layer that can be read in the i-th
// form.
func (b *build) ready(i int, desc ocispecs.Descriptor) {
	if b.opts.Packed != nil && b.ctx.Err() == nil {
		b.opts.Packed(&Content{b}, i, desc)
	}
}

// repositoryOf returns a reference without tag and digest.
func repositoryOf(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		ref = ref[:i]
	}
	return ref
}
