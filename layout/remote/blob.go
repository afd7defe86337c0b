package remote

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// resumeProgress is how many bytes a connection must bring for earlier failures
// to be forgotten.
const resumeProgress = 1 << 20

// Blob streams the blob desc of ref's repository. The reader verifies: instead
// of io.EOF it returns an error when size or digest are not those of desc. A
// connection that breaks or stalls is resumed where it stopped. URLs in desc
// are never followed. The caller closes the reader.
func (c *Client) Blob(ctx context.Context, ref string, desc ocispec.Descriptor) (io.ReadCloser, error) {
	parsed, full, err := c.reference(ref)
	if err != nil {
		return nil, err
	}
	op := "fetch blob " + desc.Digest.String() + " of"
	registry := parsed.Context().RegistryStr()
	if err := layout.CheckDescriptor(desc); err != nil {
		return nil, fail(op, full, registry, nil, err)
	}
	s, err := c.session(ctx, parsed.Context())
	var r *blobReader
	if err == nil {
		r, err = c.openBlob(ctx, s, desc)
	}
	if err != nil {
		return nil, fail(op, full, registry, s, err)
	}
	r.wrap = func(err error) error { return fail(op, full, registry, s, err) }
	return r, nil
}

// Fetch brings the blob desc of ref's repository into a layout, unless it is
// there.
func (c *Client) Fetch(ctx context.Context, ref string, desc ocispec.Descriptor, dst *layout.Dir) error {
	if dst.HasDescriptor(desc) {
		return nil
	}
	r, err := c.Blob(ctx, ref, desc)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := dst.NewBlob()
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 256<<10)); err != nil {
		return err
	}
	_, _, err = w.Commit(desc.Digest, desc.Size)
	return err
}

// readBlob returns the bytes of a small blob.
func (c *Client) readBlob(ctx context.Context, s *session, desc ocispec.Descriptor, max int64) ([]byte, error) {
	if desc.Size > max {
		return nil, fmt.Errorf("blob %s has %d bytes, at most %d are read", desc.Digest, desc.Size, max)
	}
	r, err := c.openBlob(ctx, s, desc)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	return b, nil
}

// blobReader is the body of a blob over as many connections as it takes.
type blobReader struct {
	client  *Client
	session *session
	ctx     context.Context // of the caller of Blob; the reader is its only user
	desc    ocispec.Descriptor
	wrap    func(error) error

	body     io.ReadCloser // nil between connections
	watch    *watch
	skip     int64 // bytes to drop: the server began at the start again
	off      int64 // bytes delivered
	hash     hash.Hash
	failures int
	mark     int64 // off at the last failure
	err      error
}

func (c *Client) openBlob(ctx context.Context, s *session, desc ocispec.Descriptor) (*blobReader, error) {
	r := &blobReader{client: c, session: s, ctx: ctx, desc: desc, hash: desc.Digest.Algorithm().Hash()}
	r.wrap = func(err error) error { return err }
	if err := r.connect(); err != nil {
		return nil, err
	}
	return r, nil
}

// connect requests the blob from the current offset on, or, of a registry that
// has no parts of blobs, from the start.
func (r *blobReader) connect() error {
	if r.off == 0 {
		return r.request(http.Header{})
	}
	part := fmt.Sprintf("bytes=%d-%d", r.off, r.desc.Size-1)
	err := r.request(http.Header{"Range": {part}})
	if status(err) == http.StatusRequestedRangeNotSatisfiable {
		err = r.request(http.Header{})
	}
	return err
}

// request opens a connection whose body continues the blob.
func (r *blobReader) request(header http.Header) error {
	ctx, w := newWatch(r.ctx, r.client.stallTimeout())
	resp, err := r.session.do(ctx, http.MethodGet, "blobs/"+r.desc.Digest.String(), header)
	if err == nil {
		if err = r.accept(resp); err != nil {
			resp.Body.Close()
		}
	}
	if err != nil {
		err = w.cause(err)
		w.stop()
		return foreign(r.desc, err)
	}
	r.body, r.watch = resp.Body, w
	return nil
}

// accept checks that a response continues the blob.
func (r *blobReader) accept(resp *http.Response) error {
	r.skip = r.off
	if resp.StatusCode == http.StatusPartialContent {
		want := fmt.Sprintf("bytes %d-%d/", r.off, r.desc.Size-1)
		if got := resp.Header.Get("Content-Range"); r.off == 0 || !strings.HasPrefix(got, want) {
			return fmt.Errorf("the registry answers with the range %q, want %q", got, want)
		}
		r.skip = 0
	}
	if n := resp.ContentLength; n >= 0 && n != r.desc.Size-r.off+r.skip {
		return fmt.Errorf("the registry announces %d bytes, want %d", n, r.desc.Size-r.off+r.skip)
	}
	return nil
}

// Read reads on, over a new connection when the old one broke.
func (r *blobReader) Read(p []byte) (int, error) {
	for r.err == nil && len(p) > 0 {
		if r.body == nil {
			if err := r.connect(); err != nil {
				r.err = r.wrap(err)
				break
			}
		}
		n, err := r.watch.read(r.body, p)
		n = r.deliver(p, n)
		if err != nil {
			r.err = r.broken(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.err
}

// deliver accounts for n new bytes in p and returns how many are the caller's.
func (r *blobReader) deliver(p []byte, n int) int {
	if r.skip > 0 {
		dropped := min(r.skip, int64(n))
		r.skip -= dropped
		n = copy(p, p[dropped:n])
	}
	if r.off+int64(n) > r.desc.Size {
		r.err = r.wrap(fmt.Errorf("the registry sends more than %d bytes", r.desc.Size))
		return 0
	}
	r.hash.Write(p[:n])
	r.off += int64(n)
	return n
}

// broken handles the end of a connection: nil to go on, else what Read returns.
func (r *blobReader) broken(err error) error {
	if r.err != nil {
		return r.err
	}
	err = r.watch.cause(err)
	r.disconnect()
	if r.off == r.desc.Size && r.ctx.Err() == nil {
		return r.verify() // whatever happened after the last byte
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if r.off-r.mark >= resumeProgress {
		r.failures = 0
	}
	r.mark = r.off
	if r.failures++; r.failures >= r.client.attempts() || r.ctx.Err() != nil || !temporary(err) {
		return r.wrap(fmt.Errorf("after %d of %d bytes: %w", r.off, r.desc.Size, err))
	}
	if err := r.client.sleep(r.ctx, backoff(r.failures)); err != nil {
		return r.wrap(err)
	}
	return nil
}

// verify is the outcome of the whole blob.
func (r *blobReader) verify() error {
	if got := digest.NewDigest(r.desc.Digest.Algorithm(), r.hash); got != r.desc.Digest {
		return r.wrap(fmt.Errorf("the registry sent content of digest %s", got))
	}
	return io.EOF
}

func (r *blobReader) disconnect() {
	if r.body != nil {
		r.watch.stop()
		r.body.Close()
		r.body = nil
	}
}

// Close ends the download.
func (r *blobReader) Close() error {
	r.disconnect()
	if r.err == nil {
		r.err = errors.New("read of a closed blob")
	}
	return nil
}

// foreign explains why a layer that registries may not hold is not there.
func foreign(desc ocispec.Descriptor, err error) error {
	if status(err) == http.StatusNotFound && (layout.IsForeign(desc.MediaType) || len(desc.URLs) > 0) {
		return fmt.Errorf("the layer is non-distributable: its bytes are at a URL that the image names, which is not followed: %w", err)
	}
	return err
}
