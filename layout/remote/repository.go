package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// Repository is a repository of a registry, to read from and to write to. It is
// safe for concurrent use. Errors are of type [*Error].
type Repository struct {
	client *Client
	repo   name.Repository
	name   string

	docs     documents
	subjects sync.Mutex // held while an index of referrers is rewritten

	mu      sync.Mutex
	sources []string                   // repositories that blobs are mounted from
	closed  map[string]bool            // those that they cannot be mounted from
	opened  map[digest.Digest]*url.URL // uploads that a mount has begun instead
}

func newRepository(c *Client, repo name.Repository) *Repository {
	return &Repository{client: c, repo: repo, name: shortHost(repo.RegistryStr()) + "/" + repo.RepositoryStr()}
}

// Name returns the repository's canonical name: "docker.io/library/app".
func (r *Repository) Name() string { return r.name }

// Origins names the repository itself: a blob that was found here can be mounted
// from here.
func (r *Repository) Origins(ocispec.Descriptor) []string { return []string{r.name} }

// places returns where a tag or a digest is to be had, in order; there is at
// least one, and the last is the repository itself.
func (r *Repository) places(byDigest bool) ([]*endpoint, error) {
	where, err := r.client.Hosts.Endpoints(r.name, byDigest)
	if err != nil {
		return nil, err
	}
	var list []*endpoint
	for _, w := range where {
		e, err := r.client.endpoint(w)
		if err != nil {
			return nil, err
		}
		if !e.mirror || !e.broken.Load() {
			list = append(list, e)
		}
	}
	return list, nil
}

// origin returns the place where all is known about the repository.
func (r *Repository) origin() (*endpoint, error) {
	places, err := r.places(false)
	if err != nil {
		return nil, err
	}
	return places[len(places)-1], nil
}

// home returns the place that is written to.
func (r *Repository) home() (*endpoint, error) {
	where, err := r.client.Hosts.Destination(r.name)
	if err != nil {
		return nil, err
	}
	return r.client.endpoint(where)
}

// read calls get with one place after the other until one has what is asked
// for, and returns that place, or the last one.
func (r *Repository) read(ctx context.Context, byDigest bool, get func(*endpoint) error) (*endpoint, error) {
	places, err := r.places(byDigest)
	if err != nil {
		return nil, err
	}
	for i, e := range places {
		err := get(e)
		if err == nil || ctx.Err() != nil || i == len(places)-1 {
			return e, err
		}
		e.noteBroken(r.name, err)
	}
	return nil, nil // not reached: there is a last place
}

// ref is the reference with a tag or digest of this repository.
func (r *Repository) ref(id string) string {
	if _, err := digest.Parse(id); err == nil {
		return r.name + "@" + id
	}
	return r.name + ":" + id
}

// checkID checks a tag or digest before it becomes a part of a URL.
func checkID(id string) error {
	if validTag(id) {
		return nil
	}
	if _, err := digest.Parse(id); err != nil {
		return fmt.Errorf("%q is neither a tag nor a digest", printable(id, 200))
	}
	return nil
}

// validTag says whether s is a tag (distribution-spec, "Pulling manifests").
func validTag(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case i > 0 && (c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// Resolve returns the descriptor of what a tag or digest leads to now. The
// document is read and verified; opening it afterwards costs nothing.
func (r *Repository) Resolve(ctx context.Context, id string) (ocispec.Descriptor, error) {
	desc, _, err := r.resolve(ctx, id)
	return desc, err
}

func (r *Repository) resolve(ctx context.Context, id string) (ocispec.Descriptor, []byte, error) {
	desc, b, e, err := r.document(ctx, id, "")
	return desc, b, fail("resolve", r.ref(id), e, err)
}

// Head asks for the descriptor of a tag or digest without its content, which
// registries don't count as a pull. The digest is what the registry says:
// nothing verifies it before the content is read.
func (r *Repository) Head(ctx context.Context, id string) (desc ocispec.Descriptor, err error) {
	_, parseErr := digest.Parse(id)
	e, err := r.read(ctx, parseErr == nil, func(e *endpoint) error {
		desc, err = e.head(ctx, id)
		return err
	})
	return desc, fail("look up", r.ref(id), e, err)
}

func (e *endpoint) head(ctx context.Context, id string) (desc ocispec.Descriptor, err error) {
	if err := checkID(id); err != nil {
		return desc, err
	}
	resp, err := e.do(ctx, call{method: http.MethodHead, path: "manifests/" + id, header: http.Header{"Accept": {accept}}, ok: ok200})
	if err != nil {
		return desc, err
	}
	resp.Body.Close()
	desc = ocispec.Descriptor{
		MediaType: mediaType(resp.Header),
		Digest:    digest.Digest(resp.Header.Get("Docker-Content-Digest")),
		Size:      resp.ContentLength,
	}
	if dg, err := digest.Parse(id); err == nil && desc.Digest == "" {
		desc.Digest = dg
	}
	if desc.Digest == "" || desc.Size < 0 || !isDocument(desc) { // the header does not say
		desc, _, err = e.manifest(ctx, id, "")
		return desc, err
	}
	return desc, layout.CheckDescriptor(desc)
}

var ok200 = []int{http.StatusOK}

// Open streams the content of a descriptor, and verifies it: instead of io.EOF,
// Read returns an error when the bytes are not those of its digest and size. A
// connection that breaks or stalls is resumed where it stopped. The reader is
// an io.Seeker; after a seek beyond what was read before, the end is not
// verified. URLs in desc are never followed. The caller closes the reader.
func (r *Repository) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if !isDocument(desc) {
		return r.openBlob(ctx, desc)
	}
	b, err := r.open(ctx, desc)
	if err != nil {
		return nil, err
	}
	return documentReader{bytes.NewReader(b)}, nil
}

func (r *Repository) open(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if err := layout.CheckDescriptor(desc); err != nil {
		return nil, fail("read manifest of", r.name, nil, err)
	}
	b, e, err := r.fetch(ctx, desc)
	return b, fail("read manifest of", r.ref(desc.Digest.String()), e, err)
}

// documentReader reads a document that is in memory.
type documentReader struct{ *bytes.Reader }

func (documentReader) Close() error { return nil }

func isDocument(desc ocispec.Descriptor) bool {
	return layout.IsIndex(desc.MediaType) || layout.IsManifest(desc.MediaType)
}

// Has says whether the content of a descriptor is in the repository.
func (r *Repository) Has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	e, err := r.home()
	has := false
	if err == nil {
		has, err = e.has(ctx, desc)
	}
	return has, fail("look for "+desc.Digest.String()+" in", r.name, e, err)
}

func (e *endpoint) has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if err := desc.Digest.Validate(); err != nil {
		return false, fmt.Errorf("digest %q: %w", printable(string(desc.Digest), 200), err)
	}
	c := call{method: http.MethodHead, path: "blobs/" + desc.Digest.String(), scopes: e.writeScopes(), ok: ok200}
	if isDocument(desc) {
		c.path = "manifests/" + desc.Digest.String()
		c.header = http.Header{"Accept": {desc.MediaType}}
	}
	resp, err := e.do(ctx, c)
	if status(err) == http.StatusNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	return resp.ContentLength < 0 || resp.ContentLength == desc.Size, nil
}

// writeScopes are asked for by all that belongs to a push, so that one token
// does for it.
func (e *endpoint) writeScopes() []string { return []string{e.scope("pull", "push")} }

// Delete removes a manifest by its digest, with all tags that lead to it, or a
// tag alone, which not every registry can. What the manifest refers to is left
// to the registry's own collector.
func (r *Repository) Delete(ctx context.Context, id string) error {
	e, err := r.home()
	if err == nil {
		err = checkID(id)
	}
	var ae *AnswerError
	if err == nil {
		err = r.delete(ctx, e, id)
	}
	if errors.As(err, &ae) && validTag(id) && (ae.Status == http.StatusMethodNotAllowed || ae.Status == http.StatusBadRequest) {
		err = fmt.Errorf("the registry cannot delete a tag alone; deleting by digest removes the image and all its tags: %w", err)
	}
	return fail("delete", r.ref(id), e, err)
}

func (r *Repository) delete(ctx context.Context, e *endpoint, id string) error {
	var subject *ocispec.Descriptor
	dg, byTag := digest.Parse(id)
	if byTag == nil {
		_, b, err := e.manifest(ctx, id, "")
		if status(err) == http.StatusNotFound {
			return err
		}
		if err == nil { // what cannot be read is deleted all the same
			subject, _ = subjectOf(b)
		}
	}
	if err := e.remove(ctx, "manifests/"+id); err != nil {
		return err
	}
	r.docs.forget(dg)
	if subject == nil {
		return nil
	}
	return r.forgetReferrer(ctx, e, subject.Digest, dg)
}

func (e *endpoint) remove(ctx context.Context, path string) error {
	resp, err := e.do(ctx, call{method: http.MethodDelete, path: path, scopes: []string{e.scope("pull", "push", "delete")},
		ok: []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent}})
	if err != nil {
		return err
	}
	drain(resp)
	return nil
}

// maxDocuments bounds the documents that are kept of a repository, in bytes.
const maxDocuments = 16 << 20

// documents are manifests and indexes that were read, by digest.
type documents struct {
	mu   sync.Mutex
	size int
	by   map[digest.Digest]keptDocument
}

type keptDocument struct {
	mediaType string
	b         []byte
}

func (d *documents) keep(desc ocispec.Descriptor, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.by[desc.Digest]; ok || len(b) > maxDocuments/4 {
		return
	}
	if d.by == nil || d.size+len(b) > maxDocuments {
		d.by, d.size = map[digest.Digest]keptDocument{}, 0
	}
	d.by[desc.Digest] = keptDocument{desc.MediaType, b}
	d.size += len(b)
}

func (d *documents) get(dg digest.Digest) (keptDocument, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	doc, ok := d.by[dg]
	return doc, ok
}

func (d *documents) forget(dg digest.Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if doc, ok := d.by[dg]; ok {
		d.size -= len(doc.b)
		delete(d.by, dg)
	}
}
