package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// PutBlob uploads a blob (distribution-spec, "Pushing blobs"): one that is no
// larger than ChunkSize in one request, others in chunks. After a failure the
// registry is asked how much it has, and the upload goes on there; r is an
// io.Seeker for that, or nothing before is needed again. With [Client.State], a
// large upload that was cut off is continued by whoever uploads the blob next.
// The registry verifies the digest before the blob is there.
func (r *Repository) PutBlob(ctx context.Context, desc ocispec.Descriptor, rd io.Reader) error {
	e, err := r.home()
	if err == nil {
		err = layout.CheckDescriptor(desc)
	}
	if err == nil {
		err = acquire(ctx, e.host.writing)
	}
	if err == nil {
		u := &upload{repo: r, e: e, ctx: ctx, desc: desc, src: newSource(rd, desc.Size), chunk: r.client.chunkSize()}
		err = u.run()
		release(e.host.writing)
	}
	return fail("upload blob "+printable(desc.Digest.String(), 200)+" to", r.name, e, err)
}

// Mount makes a blob of another repository ("registry/repository") of the same
// registry a blob of this one. False: it could not.
func (r *Repository) Mount(ctx context.Context, desc ocispec.Descriptor, from string) (bool, error) {
	e, err := r.home()
	source, ok := strings.CutPrefix(from, shortHost(r.repo.RegistryStr())+"/")
	if err == nil && (!ok || from == r.name || !r.mountable(source)) {
		return false, nil
	}
	if err == nil {
		err = layout.CheckDescriptor(desc)
	}
	mounted := false
	if err == nil {
		mounted, err = r.mount(ctx, e, desc, source)
	}
	return mounted, fail("mount blob "+printable(desc.Digest.String(), 200)+" in", r.name, e, err)
}

// mountable says whether mounts from a repository have a chance, and notes it as
// one that tokens are to be for.
func (r *Repository) mountable(source string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed[source] || !validName(source) {
		return false
	}
	for _, s := range r.sources {
		if s == source {
			return true
		}
	}
	if len(r.sources) < 16 {
		r.sources = append(r.sources, source)
	}
	return true
}

// mountScopes are those of all mounts, so that one token does for them.
func (r *Repository) mountScopes(e *endpoint, source string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	scopes := append(e.writeScopes(), scope(source, "pull"))
	for _, s := range r.sources {
		scopes = append(scopes, scope(s, "pull"))
	}
	return mergeScopes(scopes)
}

func (r *Repository) mount(ctx context.Context, e *endpoint, desc ocispec.Descriptor, source string) (bool, error) {
	q := url.Values{"mount": {desc.Digest.String()}, "from": {source}}
	resp, err := e.do(ctx, call{method: http.MethodPost, path: "blobs/uploads/", query: q.Encode(),
		scopes: r.mountScopes(e, source), ok: []int{http.StatusCreated, http.StatusAccepted}})
	if code := status(err); code >= 400 && code < 500 && code != http.StatusTooManyRequests {
		// This repository cannot be mounted from: that it cannot be written to
		// either, its own uploads will say.
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.closed == nil {
			r.closed = map[string]bool{}
		}
		r.closed[source] = true
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer drain(resp)
	if resp.StatusCode == http.StatusCreated {
		return true, checkAnswer(resp, desc.Digest)
	}
	if to, err := follow(resp.Request.URL, resp.Header.Get("Location")); err == nil {
		r.keepUpload(desc.Digest, to)
	}
	return false, nil
}

// keepUpload keeps an upload that the registry has begun instead of a mount.
func (r *Repository) keepUpload(dg digest.Digest, to *url.URL) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opened == nil {
		r.opened = map[digest.Digest]*url.URL{}
	}
	if len(r.opened) < 1000 {
		r.opened[dg] = to
	}
}

// takeUpload returns one that was kept.
func (r *Repository) takeUpload(dg digest.Digest) *url.URL {
	r.mu.Lock()
	defer r.mu.Unlock()
	to := r.opened[dg]
	delete(r.opened, dg)
	return to
}

// upload is one blob on its way.
type upload struct {
	repo  *Repository
	e     *endpoint
	ctx   context.Context // of the caller of PutBlob, which returns when the upload ends
	desc  ocispec.Descriptor
	src   *source
	chunk int64
	saved *saved // what other processes are told; nil: nothing

	location *url.URL // of the upload at the registry; nil: none was begun
	off      int64    // bytes that the registry has
	whole    bool     // the registry takes no chunks
	patched  bool     // it has taken one
	resumed  bool     // some of its bytes are of an attempt that broke
	refused  int      // chunks that were out of range
	starts   int
	failures int
	mark     int64 // the highest off at a failure
	finished bool
}

// run uploads the blob: one step after the other, until it is there or a failure
// is final.
func (u *upload) run() error {
	if u.location = u.repo.takeUpload(u.desc.Digest); u.location != nil {
		u.starts = 1
	}
	if u.location == nil {
		u.adopt()
	}
	defer func() { u.saved.close(u.finished) }()
	for !u.finished {
		err := u.step()
		if err != nil {
			err = u.recover(err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// step brings the upload forward by one request.
func (u *upload) step() error {
	switch {
	case u.location == nil:
		return u.begin()
	case u.off == 0 && (u.whole || u.desc.Size <= u.chunk):
		return u.commit(u.desc.Size)
	case u.off < u.desc.Size:
		return u.patch()
	}
	return u.commit(0)
}

// begin opens an upload.
func (u *upload) begin() error {
	u.starts++
	u.off, u.resumed, u.patched = 0, false, false
	resp, err := u.e.do(u.ctx, call{method: http.MethodPost, path: "blobs/uploads/", scopes: u.e.writeScopes(),
		ok: []int{http.StatusAccepted}})
	if err != nil {
		return final(err)
	}
	defer drain(resp)
	if n, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil {
		u.chunk = max(u.chunk, n)
	}
	return u.moved(resp)
}

// moved takes note of where the upload goes on.
func (u *upload) moved(resp *http.Response) error {
	if resp.Header.Get("Location") == "" && u.location != nil {
		return nil
	}
	to, err := follow(resp.Request.URL, resp.Header.Get("Location"))
	if err != nil {
		return final(err)
	}
	u.location = to
	u.saved.write(to)
	return nil
}

// patch sends the next chunk.
func (u *upload) patch() error {
	n := min(u.chunk, u.desc.Size-u.off)
	body, err := u.src.part(u.off, n)
	if err != nil {
		return final(err)
	}
	header := http.Header{
		"Content-Type":  {"application/octet-stream"},
		"Content-Range": {fmt.Sprintf("%d-%d", u.off, u.off+n-1)},
	}
	if u.src.seek == nil && !u.patched {
		header.Set("Expect", "100-continue") // a refusal is to come before the bytes are gone
	}
	resp, err := u.e.do(u.ctx, call{method: http.MethodPatch, url: u.location, header: header, body: body, size: n,
		scopes: u.e.writeScopes(), ok: []int{http.StatusAccepted, http.StatusNoContent, http.StatusCreated}})
	body.Close()
	if err != nil {
		return err
	}
	defer drain(resp)
	u.off += n
	if end, ok := parseRange(resp.Header.Get("Range")); ok {
		if end > u.off {
			return fmt.Errorf("%w: the registry says that it has %d bytes after %d", errRefused, end, u.off)
		}
		u.resumed = u.resumed || end < u.off
		u.off = end
	}
	u.patched = true
	return u.moved(resp)
}

// commit ends the upload, with n bytes: all, or none when the registry has all.
func (u *upload) commit(n int64) error {
	to := *u.location
	if to.RawQuery != "" {
		to.RawQuery += "&"
	}
	to.RawQuery += "digest=" + url.QueryEscape(u.desc.Digest.String())
	c := call{method: http.MethodPut, url: &to, header: http.Header{"Content-Type": {"application/octet-stream"}},
		scopes: u.e.writeScopes(), ok: []int{http.StatusCreated, http.StatusOK, http.StatusNoContent, http.StatusAccepted}, slow: true}
	if n > 0 {
		body, err := u.src.part(0, n)
		if err != nil {
			return final(err)
		}
		defer body.Close()
		c.body, c.size = body, n
	} else if err := u.src.finish(); err != nil {
		return final(err)
	}
	resp, err := u.e.do(u.ctx, c)
	if err != nil {
		return err
	}
	defer drain(resp)
	if err := checkAnswer(resp, u.desc.Digest); err != nil {
		return final(err)
	}
	u.finished = true
	return nil
}

// recover handles a failed step: nil to go on, else the error that ends the
// upload.
func (u *upload) recover(err error) error {
	var last *finalError
	switch code := status(err); {
	case u.ctx.Err() != nil:
		return context.Cause(u.ctx)
	case u.src.failure() != nil:
		return fmt.Errorf("read what is to be uploaded: %w", u.src.failure())
	case errors.As(err, &last):
		return last.err
	case code == http.StatusNotFound || code == http.StatusGone:
		return u.lost(err)
	case code == http.StatusRequestedRangeNotSatisfiable && (u.patched || u.resumed):
		return u.outOfRange(err)
	case code == http.StatusUnauthorized, temporaryStatus(code), code == 0 && temporary(err):
		return u.resume(err)
	case code >= 400 && u.off < u.desc.Size && !u.whole && !u.patched && !u.resumed && code != http.StatusForbidden && u.desc.Size > u.chunk:
		u.sendWhole(err)
		return nil
	case code >= 400 && u.resumed:
		// The registry may have got bytes twice: of a request that it thought to be
		// over, and of its successor.
		return u.again(err)
	}
	return err
}

// sendWhole begins again, without chunks.
func (u *upload) sendWhole(err error) {
	u.repo.client.notify("upload of blob %s to %s: the registry takes no chunks (%v); sending it whole", u.desc.Digest, u.repo.name, err)
	u.whole, u.location = true, nil
}

// outOfRange handles a chunk that the registry did not expect: it may have more
// or less than was thought, or take no more than one.
func (u *upload) outOfRange(err error) error {
	before := u.off
	if u.refused++; u.refused < 3 {
		if err := u.resume(err); err != nil {
			return err
		}
	}
	if u.refused == 3 || !u.finished && u.location != nil && u.off == before {
		u.sendWhole(err)
	}
	return nil
}

// lost begins again after the registry has forgotten the upload, unless that is
// because the blob is there.
func (u *upload) lost(err error) error {
	if has, _ := u.e.has(u.ctx, u.desc); has {
		u.finished = true
		return nil
	}
	return u.again(err)
}

// again begins from nothing.
func (u *upload) again(err error) error {
	client := u.repo.client
	if u.starts >= client.attempts() {
		return fmt.Errorf("the upload was lost %d times: %w", u.starts, err)
	}
	u.location = nil
	client.again(fmt.Sprintf("upload of blob %s to %s, from the start", u.desc.Digest, u.repo.name), err, u.starts, backoff(u.starts))
	return client.sleep(u.ctx, backoff(u.starts))
}

// resume waits, and asks how much of the blob has arrived.
func (u *upload) resume(err error) error {
	if u.off-u.mark >= resumeProgress {
		u.failures = 0
	}
	u.mark = max(u.mark, u.off)
	u.failures++
	delay, patient := waitAfter(err, u.failures)
	if u.failures >= u.repo.client.attempts() || !patient {
		return fmt.Errorf("after %d of %d bytes: %w", u.off, u.desc.Size, err)
	}
	u.repo.client.again(fmt.Sprintf("upload of blob %s to %s", u.desc.Digest, u.repo.name), err, u.failures, delay)
	if err := u.repo.client.sleep(u.ctx, delay); err != nil {
		return err
	}
	return u.ask()
}

// ask asks the registry how much it has.
func (u *upload) ask() error {
	resp, err := u.e.do(u.ctx, call{method: http.MethodGet, url: u.location, scopes: u.e.writeScopes(),
		ok: []int{http.StatusNoContent, http.StatusOK, http.StatusAccepted}})
	switch code := status(err); {
	case code == http.StatusNotFound || code == http.StatusGone:
		return u.lost(err)
	case code >= 400 && code < 500 && code != http.StatusTooManyRequests && code != http.StatusUnauthorized:
		return u.again(err) // a registry that does not say
	case err != nil:
		return err
	}
	defer drain(resp)
	end, ok := parseRange(resp.Header.Get("Range"))
	if !ok || end > u.desc.Size || end > 0 && u.whole {
		return u.again(errors.New("the registry does not say how much it has"))
	}
	u.off, u.resumed = end, true
	return u.moved(resp)
}

// parseRange returns how many bytes a registry has that says "0-LAST". That it
// has one, as "0-0" says, is taken for none: many say so of an empty upload.
func parseRange(s string) (int64, bool) {
	s = strings.TrimPrefix(s, "bytes=")
	last, ok := strings.CutPrefix(s, "0-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n < 0 || n == math.MaxInt64 {
		return 0, false
	}
	if n == 0 {
		return 0, true
	}
	return n + 1, true
}

// finalError marks a failure that no further attempt changes.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

func final(err error) error { return &finalError{err} }
