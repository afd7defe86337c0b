package registry

import (
	"errors"
	"net/http"

	digest "github.com/opencontainers/go-digest"
)

// startUpload starts an upload, or finds that none is needed because the blob
// can be mounted, or takes all of the blob at once (parameter digest).
func (r *Registry) startUpload(w http.ResponseWriter, req *http.Request, rt route) error {
	query := req.URL.Query()
	if mount := query.Get("mount"); mount != "" {
		dg, p := parseDigest(mount)
		if p != nil {
			return p
		}
		// All repositories share their blobs, so from does not matter.
		if r.dir.Has(dg) {
			r.created(w, rt.repo, dg)
			return nil
		}
	}
	alg := digest.SHA256
	if s := query.Get("digest-algorithm"); s == string(digest.SHA512) {
		alg = digest.SHA512
	}
	var dg digest.Digest
	if s := query.Get("digest"); s != "" {
		var p *problem
		if dg, p = parseDigest(s); p != nil {
			return p
		}
		alg = dg.Algorithm()
	}
	if req.ContentLength > r.opts.MaxBlob {
		return tooLarge(r.opts.MaxBlob)
	}
	id, err := r.uploads.create(alg)
	if err != nil {
		return err
	}
	if dg == "" {
		accepted(w, rt.repo, id, 0, http.StatusAccepted)
		return nil
	}
	up, err := r.uploads.acquire(req.Context(), id)
	if err != nil {
		return err
	}
	defer up.release()
	err = r.finish(w, req, rt.repo, up, dg)
	if err != nil {
		up.remove() // the client has no use for its id
	}
	return err
}

// serveUpload is a request about an upload that was started.
func (r *Registry) serveUpload(w http.ResponseWriter, req *http.Request, rt route) error {
	if req.Method == http.MethodGet {
		size, err := r.uploads.size(rt.upload)
		if err != nil {
			return err
		}
		accepted(w, rt.repo, rt.upload, size, http.StatusNoContent)
		return nil
	}
	var dg digest.Digest
	if req.Method == http.MethodPut {
		var p *problem
		if dg, p = parseDigest(req.URL.Query().Get("digest")); p != nil {
			return p
		}
	}
	up, err := r.uploads.acquire(req.Context(), rt.upload)
	if err != nil {
		return err
	}
	defer up.release()
	switch req.Method {
	case http.MethodDelete:
		up.remove()
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodPut:
		if up.size == 0 {
			up.use(dg.Algorithm())
		}
		return r.finish(w, req, rt.repo, up, dg)
	}
	if err := r.receive(w, req, rt.repo, up); err != nil {
		return err
	}
	r.limits.answer(w, 0)
	accepted(w, rt.repo, up.id, up.size, http.StatusAccepted)
	return nil
}

// finish takes the last bytes of an upload and makes it a blob.
func (r *Registry) finish(w http.ResponseWriter, req *http.Request, repo string, up *upload, dg digest.Digest) error {
	if err := r.receive(w, req, repo, up); err != nil {
		return err
	}
	if err := up.commit(dg); err != nil {
		return err
	}
	r.created(w, repo, dg)
	return nil
}

// receive appends a request's body to an upload. A chunk that does not begin
// where the upload ends is refused, and the client told where that is.
func (r *Registry) receive(w http.ResponseWriter, req *http.Request, repo string, up *upload) error {
	if s := req.Header.Get("Content-Range"); s != "" {
		c, p := parseChunk(s)
		if p != nil {
			return p
		}
		if c.first != up.size {
			position(w, repo, up.id, up.size)
			return problemf(http.StatusRequestedRangeNotSatisfiable, codeUploadInvalid,
				"the chunk begins at %d, the upload goes on at %d", c.first, up.size)
		}
		if n := req.ContentLength; n >= 0 && n != c.last-c.first+1 {
			return problemf(http.StatusBadRequest, codeSizeInvalid,
				"the Content-Range is of %d bytes, the Content-Length %d", c.last-c.first+1, n)
		}
	}
	if req.ContentLength > r.opts.MaxBlob-up.size {
		return tooLarge(r.opts.MaxBlob)
	}
	err := up.append(r.limits.body(w, req))
	var p *problem
	var storage *storageError
	if err == nil || errors.As(err, &p) || errors.As(err, &storage) {
		return err
	}
	position(w, repo, up.id, up.size)
	return problemf(http.StatusBadRequest, codeUploadInvalid, "the chunk has not come as a whole; %d bytes are there", up.size)
}

// accepted says where an upload goes on, and how much of it is there.
func accepted(w http.ResponseWriter, repo, id string, size int64, status int) {
	position(w, repo, id, size)
	if status == http.StatusAccepted {
		w.Header().Set("Content-Length", "0")
	}
	w.WriteHeader(status)
}

func position(w http.ResponseWriter, repo, id string, size int64) {
	h := w.Header()
	h.Set("Location", "/v2/"+repo+"/blobs/uploads/"+id)
	h.Set("Range", received(size))
	h.Set("Docker-Upload-UUID", id)
}

// created says where a blob is.
func (r *Registry) created(w http.ResponseWriter, repo string, dg digest.Digest) {
	r.limits.answer(w, 0)
	h := w.Header()
	h.Set("Location", "/v2/"+repo+"/blobs/"+dg.String())
	h.Set("Docker-Content-Digest", dg.String())
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}
