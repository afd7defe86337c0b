package remote

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// resumeProgress is how many bytes a connection must bring for earlier failures
// to be forgotten.
const resumeProgress = 1 << 20

// Blob is [Repository.Open] of a blob in ref's repository.
func (c *Client) Blob(ctx context.Context, ref string, desc ocispec.Descriptor) (io.ReadCloser, error) {
	repo, _, err := c.Repository(ref)
	if err != nil {
		return nil, err
	}
	return repo.openBlob(ctx, desc)
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
	w, err := dst.NewHashedBlob() // the reader verifies
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
func (r *Repository) readBlob(ctx context.Context, desc ocispec.Descriptor, max int64) ([]byte, error) {
	if desc.Size > max {
		return nil, fmt.Errorf("blob %s has %d bytes, at most %d are read", desc.Digest, desc.Size, max)
	}
	br, err := r.newBlobReader(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	defer br.Close()
	b, err := io.ReadAll(br)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	return b, nil
}

// openBlob opens a blob whose errors say all there is to say.
func (r *Repository) openBlob(ctx context.Context, desc ocispec.Descriptor) (*blobReader, error) {
	op := "fetch blob " + printable(desc.Digest.String(), 200) + " of"
	if err := layout.CheckDescriptor(desc); err != nil {
		return nil, fail(op, r.name, nil, err)
	}
	br, err := r.newBlobReader(ctx, desc)
	if err != nil {
		return nil, fail(op, r.name, br.at(), err)
	}
	br.wrap = func(err error) error { return fail(op, r.name, br.at(), err) }
	return br, nil
}

// blobReader is the body of a blob over as many connections, and of as many
// places, as it takes. It is not safe for concurrent use.
type blobReader struct {
	client *Client
	ctx    context.Context // of the caller of Open; the reader is its only user
	name   string
	desc   ocispec.Descriptor
	wrap   func(error) error
	places []*endpoint   // the first is read from, the others are asked when it fails
	slot   chan struct{} // nil: left
	// entered: the reader was let in once
	entered bool

	body     io.ReadCloser // nil between connections
	pos      int64         // what Read returns next
	off      int64         // what the connection brings next, once skip is dropped
	skip     int64         // bytes to drop: the server began at the start again
	hash     hash.Hash
	hashed   int64 // bytes from the start that hash has seen
	failures int
	mark     int64 // off at the last failure
	err      error
}

// newBlobReader opens a connection; on errors, the result only says to whom.
func (r *Repository) newBlobReader(ctx context.Context, desc ocispec.Descriptor) (*blobReader, error) {
	br := &blobReader{client: r.client, ctx: ctx, name: r.name, desc: desc, hash: desc.Digest.Algorithm().Hash()}
	br.wrap = func(err error) error { return err }
	var err error
	if br.places, err = r.places(true); err != nil {
		return br, err
	}
	if err := br.connect(); err != nil {
		br.leave()
		return br, err
	}
	return br, nil
}

// at is the place that is read from.
func (r *blobReader) at() *endpoint {
	if len(r.places) == 0 {
		return nil
	}
	return r.places[0]
}

// enter waits for the registry's permission to read one more blob at a time.
// Once a reader had it, it does not wait again: whoever reads may hold what
// others wait for.
func (r *blobReader) enter() error {
	if r.entered {
		return nil
	}
	places := r.at().host.reading
	if err := acquire(r.ctx, places); err != nil {
		return err
	}
	r.slot, r.entered = places, true
	return nil
}

// leave lets others read.
func (r *blobReader) leave() {
	if r.slot != nil {
		release(r.slot)
		r.slot = nil
	}
}

// connect requests the blob from the current position on, of the first place
// that has it.
func (r *blobReader) connect() error {
	for {
		err := r.enter()
		if err == nil {
			err = r.connectTo(r.at())
		}
		if err == nil || len(r.places) == 1 || r.ctx.Err() != nil {
			return err
		}
		r.nextPlace(err)
	}
}

// nextPlace goes on with another place.
func (r *blobReader) nextPlace(err error) {
	r.at().noteBroken(r.name, err)
	r.places = r.places[1:]
	r.failures = 0
}

// connectTo requests the rest of the blob or, of a registry that has no parts of
// blobs, all of it.
func (r *blobReader) connectTo(e *endpoint) error {
	r.off = r.pos
	if r.off == 0 {
		return r.request(e, nil)
	}
	part := fmt.Sprintf("bytes=%d-%d", r.off, r.desc.Size-1)
	err := r.request(e, http.Header{"Range": {part}})
	if status(err) == http.StatusRequestedRangeNotSatisfiable {
		err = r.request(e, nil)
	}
	return err
}

// request opens a connection whose body continues the blob.
func (r *blobReader) request(e *endpoint, header http.Header) error {
	resp, err := e.do(r.ctx, call{method: http.MethodGet, path: "blobs/" + r.desc.Digest.String(), header: header,
		ok: []int{http.StatusOK, http.StatusPartialContent}})
	if err == nil {
		if err = r.accept(resp); err != nil {
			resp.Body.Close()
		}
	}
	if err != nil {
		return foreign(r.desc, err)
	}
	r.body = resp.Body
	return nil
}

// accept checks that a response continues the blob.
func (r *blobReader) accept(resp *http.Response) error {
	r.skip = r.off
	if resp.StatusCode == http.StatusPartialContent {
		want := fmt.Sprintf("bytes %d-%d/", r.off, r.desc.Size-1)
		if got := resp.Header.Get("Content-Range"); r.off == 0 || !strings.HasPrefix(got, want) {
			return fmt.Errorf("the registry answers with the range %q, want %q", printable(got, 100), want)
		}
		r.skip = 0
	}
	if n := resp.ContentLength; n >= 0 && n != r.desc.Size-r.off+r.skip {
		return fmt.Errorf("the registry announces %d bytes, want %d", n, r.desc.Size-r.off+r.skip)
	}
	return nil
}

// Seek sets where Read goes on. Nothing is asked of the registry before that.
func (r *blobReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.desc.Size
	}
	if offset < 0 || offset > r.desc.Size || errors.Is(r.err, errClosed) {
		return r.pos, fmt.Errorf("seek to %d of blob %s: %w", offset, r.desc.Digest, fs.ErrInvalid)
	}
	r.pos = offset
	r.err = nil
	return offset, nil
}

// Read reads on, over a new connection when the old one broke.
func (r *blobReader) Read(p []byte) (int, error) {
	for r.err == nil && len(p) > 0 {
		if r.pos != r.off {
			r.disconnect()
			r.off, r.mark, r.failures = r.pos, r.pos, 0
		}
		if r.pos == 0 && r.hashed > 0 && r.body == nil {
			r.hash.Reset()
			r.hashed = 0
		}
		if r.body == nil && r.pos == r.desc.Size && r.pos > 0 {
			r.err = r.verify()
			break
		}
		if r.body == nil {
			if err := r.connect(); err != nil {
				r.err = r.wrap(err)
				break
			}
		}
		n, err := r.body.Read(p)
		n = r.deliver(p, n)
		if err != nil {
			r.err = r.broken(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	if r.err != nil {
		r.disconnect()
		r.leave()
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
	end := r.off + int64(n)
	if r.off <= r.hashed && r.hashed < end {
		r.hash.Write(p[r.hashed-r.off : n])
		r.hashed = end
	}
	r.off, r.pos = end, end
	return n
}

// broken handles the end of a connection: nil to go on, else what Read returns.
func (r *blobReader) broken(err error) error {
	if r.err != nil {
		return r.err
	}
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
	err = fmt.Errorf("after %d of %d bytes: %w", r.off, r.desc.Size, err)
	if r.failures++; r.ctx.Err() != nil || !temporary(err) {
		return r.wrap(err)
	}
	if r.failures >= r.client.attempts() {
		if len(r.places) == 1 {
			return r.wrap(err)
		}
		r.nextPlace(err)
		return nil
	}
	delay := backoff(r.failures)
	r.client.again(fmt.Sprintf("read of blob %s at %s", r.desc.Digest, shortHost(r.at().host.name)), err, r.failures, delay)
	if err := r.client.sleep(r.ctx, delay); err != nil {
		return r.wrap(err)
	}
	return nil
}

// verify is the outcome of the whole blob.
func (r *blobReader) verify() error {
	if r.hashed < r.desc.Size {
		return io.EOF // a part of it was not read
	}
	if got := digest.NewDigest(r.desc.Digest.Algorithm(), r.hash); got != r.desc.Digest {
		return r.wrap(fmt.Errorf("the registry sent content of digest %s", got))
	}
	return io.EOF
}

func (r *blobReader) disconnect() {
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
}

var errClosed = errors.New("read of a closed blob")

// Close ends the download.
func (r *blobReader) Close() error {
	r.disconnect()
	r.leave()
	r.err = errClosed
	return nil
}

// foreign explains why a layer that registries may not hold is not there.
func foreign(desc ocispec.Descriptor, err error) error {
	if status(err) == http.StatusNotFound && (layout.IsForeign(desc.MediaType) || len(desc.URLs) > 0) {
		return fmt.Errorf("the layer is non-distributable: its bytes are at a URL that the image names, which is not followed: %w", err)
	}
	return err
}
