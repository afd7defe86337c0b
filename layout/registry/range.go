package registry

import (
	"net/http"
	"strconv"
	"strings"
)

// A chunk is what a Content-Range header says: bytes first to last of a blob,
// both included.
type chunk struct{ first, last int64 }

// parseChunk parses the Content-Range of an upload, "FIRST-LAST". That is the
// specification's own form and not HTTP's.
func parseChunk(s string) (chunk, *problem) {
	a, b, ok := strings.Cut(s, "-")
	first, ok1 := parseOffset(a)
	last, ok2 := parseOffset(b)
	if !ok || !ok1 || !ok2 || last < first {
		return chunk{}, problemf(http.StatusBadRequest, codeUploadInvalid, "the Content-Range is not FIRST-LAST")
	}
	return chunk{first, last}, nil
}

// parseOffset parses decimal digits, and nothing else, up to 2^62.
func parseOffset(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 63)
	return n, err == nil
}

// received is the header Range of an upload of size bytes. There is no way to
// say that nothing came.
func received(size int64) string { return "0-" + strconv.FormatInt(max(size-1, 0), 10) }
