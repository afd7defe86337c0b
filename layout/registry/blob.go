package registry

import (
	"errors"
	"io/fs"
	"net/http"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// getBlob sends a blob, or the parts of it that are asked for, straight from
// its file. The client verifies it.
func (r *Registry) getBlob(w http.ResponseWriter, req *http.Request, rt route) error {
	f, size, err := r.dir.OpenFile(rt.digest)
	if errors.Is(err, fs.ErrNotExist) {
		return noBlob()
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", rt.digest.String())
	h.Set("ETag", `"`+rt.digest.String()+`"`)
	r.limits.answer(w, size)
	http.ServeContent(w, req, "", time.Time{}, f)
	return nil
}

// deleteBlob removes a blob, whatever refers to it. A manifest with an entry is
// not one.
func (r *Registry) deleteBlob(w http.ResponseWriter, rt route) error {
	v, err := r.current()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(v.entries, func(e ocispec.Descriptor) bool { return e.Digest == rt.digest }) {
		return problemf(http.StatusForbidden, codeDenied, "it is a manifest: delete it as one")
	}
	if _, err := r.dir.Stat(rt.digest); errors.Is(err, fs.ErrNotExist) {
		return noBlob()
	}
	if err := r.dir.Remove(rt.digest); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func noBlob() *problem {
	return problemf(http.StatusNotFound, codeBlobUnknown, "there is no such blob in the layout")
}
