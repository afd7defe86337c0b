package registry

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"
)

// kind is what a path asks for.
type kind int

const (
	kindPing      kind = iota // /v2/
	kindCatalog               // /v2/_catalog
	kindTags                  // /v2/NAME/tags/list
	kindReferrers             // /v2/NAME/referrers/DIGEST
	kindManifest              // /v2/NAME/manifests/TAG or DIGEST
	kindBlob                  // /v2/NAME/blobs/DIGEST
	kindUploads               // /v2/NAME/blobs/uploads/
	kindUpload                // /v2/NAME/blobs/uploads/ID
)

// methods are those that each kind has.
var methods = map[kind][]string{
	kindPing:      {http.MethodGet, http.MethodHead},
	kindCatalog:   {http.MethodGet, http.MethodHead},
	kindTags:      {http.MethodGet, http.MethodHead},
	kindReferrers: {http.MethodGet, http.MethodHead},
	kindManifest:  {http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete},
	kindBlob:      {http.MethodGet, http.MethodHead, http.MethodDelete},
	kindUploads:   {http.MethodPost},
	kindUpload:    {http.MethodGet, http.MethodPatch, http.MethodPut, http.MethodDelete},
}

// A route is a parsed path. All that is in it satisfies the grammar.
type route struct {
	kind   kind
	repo   string
	tag    string        // of a manifest that is named by a tag
	digest digest.Digest // else, and of blobs and referrers
	upload string        // the id of an upload
}

// The grammar of distribution-spec.
const (
	maxName   = 255
	component = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
)

var (
	nameGrammar      = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^` + component + `(?:/` + component + `)*$`) })
	tagGrammar       = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`) })
	uploadGrammar    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{32}$`) })
	mediaTypeGrammar = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$`)
	})
)

func validName(s string) bool { return len(s) <= maxName && nameGrammar().MatchString(s) }

// parseDigest accepts the algorithms that a layout holds.
func parseDigest(s string) (digest.Digest, *problem) {
	dg, err := digest.Parse(s)
	if err != nil || dg.Algorithm() != digest.SHA256 && dg.Algorithm() != digest.SHA512 {
		return "", problemf(http.StatusBadRequest, codeDigestInvalid, "the digest is not sha256:HEX or sha512:HEX")
	}
	return dg, nil
}

// parseRoute parses the path of a request.
func parseRoute(path string) (route, *problem) {
	rest, ok := strings.CutPrefix(path, "/v2")
	if !ok || rest != "" && rest[0] != '/' {
		return route{}, noEndpoint()
	}
	switch rest = strings.TrimPrefix(rest, "/"); rest {
	case "":
		return route{kind: kindPing}, nil
	case "_catalog":
		return route{kind: kindCatalog}, nil
	}
	parts := strings.Split(rest, "/")
	r, n, p := parseEnd(parts)
	if p != nil {
		return route{}, p
	}
	if r.repo = strings.Join(parts[:len(parts)-n], "/"); !validName(r.repo) {
		return route{}, problemf(http.StatusBadRequest, codeNameInvalid, "the repository's name does not satisfy the specification's grammar")
	}
	return r, nil
}

// parseEnd parses what follows the repository's name, and says how many parts
// of the path that is. A repository may be called "tags" or "blobs", so it is
// the end that tells.
func parseEnd(parts []string) (r route, n int, p *problem) {
	end := func(i int) string {
		if i > len(parts) {
			return ""
		}
		return parts[len(parts)-i]
	}
	last := end(1)
	switch {
	case end(3) == "blobs" && end(2) == "uploads" && last == "":
		return route{kind: kindUploads}, 3, nil
	case end(3) == "blobs" && end(2) == "uploads":
		if !uploadGrammar().MatchString(last) {
			return r, 0, noUpload()
		}
		return route{kind: kindUpload, upload: last}, 3, nil
	case end(2) == "blobs" && last == "uploads":
		return route{kind: kindUploads}, 2, nil
	case end(2) == "tags" && last == "list":
		return route{kind: kindTags}, 2, nil
	case end(2) == "manifests":
		r, p = parseReference(last)
		return r, 2, p
	case end(2) == "blobs":
		r.kind = kindBlob
	case end(2) == "referrers":
		r.kind = kindReferrers
	default:
		return r, 0, noEndpoint()
	}
	r.digest, p = parseDigest(last)
	return r, 2, p
}

// parseReference parses what names a manifest.
func parseReference(ref string) (r route, p *problem) {
	r.kind = kindManifest
	switch {
	case strings.Contains(ref, ":"):
		r.digest, p = parseDigest(ref)
	case tagGrammar().MatchString(ref):
		r.tag = ref
	default:
		p = problemf(http.StatusBadRequest, codeManifestInvalid, "the reference is neither a tag nor a digest")
	}
	return r, p
}

// allow refuses a method that a route does not have, or that a read-only
// registry does not.
func (r route) allow(w http.ResponseWriter, method string, readOnly bool) *problem {
	allowed := methods[r.kind]
	if readOnly {
		allowed = slices.DeleteFunc(slices.Clone(allowed), func(m string) bool {
			return m != http.MethodGet && m != http.MethodHead
		})
	}
	if slices.Contains(allowed, method) {
		return nil
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	if readOnly && slices.Contains(methods[r.kind], method) {
		return problemf(http.StatusMethodNotAllowed, codeUnsupported, "this registry is read-only")
	}
	return problemf(http.StatusMethodNotAllowed, codeUnsupported, "this endpoint does not have the method")
}

func noEndpoint() *problem {
	return problemf(http.StatusNotFound, codeUnsupported, "there is no such endpoint")
}

func noUpload() *problem {
	return problemf(http.StatusNotFound, codeUploadUnknown, "there is no such upload: it is complete, cancelled, or too old")
}
