package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"bk.build/bk/layout"
)

// Codes of errors (distribution-spec, "Error Codes"). The last one is
// distribution's, for which the specification has none.
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeUploadInvalid       = "BLOB_UPLOAD_INVALID"
	codeUploadUnknown       = "BLOB_UPLOAD_UNKNOWN"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codeSizeInvalid         = "SIZE_INVALID"
	codeUnauthorized        = "UNAUTHORIZED"
	codeDenied              = "DENIED"
	codeUnsupported         = "UNSUPPORTED"
	codeTooManyRequests     = "TOOMANYREQUESTS"
	codeUnknown             = "UNKNOWN"
)

// A problem is a failure as the client is told it.
type problem struct {
	status  int
	code    string
	message string
}

func (p *problem) Error() string { return fmt.Sprintf("%d %s: %s", p.status, p.code, p.message) }

// problemf returns a problem whose message is made of a format.
func problemf(status int, code, format string, args ...any) *problem {
	return &problem{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// asProblem says what a client is told of err. What went wrong on our side is
// for the log and not for the client, unless it can help.
func asProblem(err error) *problem {
	var p *problem
	var corrupt *layout.CorruptError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &corrupt):
		return problemf(http.StatusInternalServerError, codeUnknown, "%s", corrupt)
	case errors.Is(err, layout.ErrIndexFull):
		return problemf(http.StatusInsufficientStorage, codeDenied, "the layout has too many entries: delete tags or manifests that nobody needs")
	case errors.Is(err, fs.ErrPermission):
		return problemf(http.StatusInternalServerError, codeUnknown, "the server may not do this to its files")
	}
	return problemf(http.StatusInternalServerError, codeUnknown, "the server has failed; its log says more")
}

// write sends the problem in the specification's format.
func (p *problem) write(w http.ResponseWriter) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	b, err := json.Marshal(struct {
		Errors []entry `json:"errors"`
	}{[]entry{{p.code, p.message}}})
	if err != nil { // cannot be: two strings
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Del("Docker-Content-Digest")
	w.Header().Del("ETag")
	sendJSON(w, p.status, "application/json", b)
}

// sendJSON sends a complete document.
func sendJSON(w http.ResponseWriter, status int, mediaType string, b []byte) {
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", fmt.Sprint(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client is gone: nobody to tell
}
